"""CLIP-ReID's first stage: learn identity prompts against image features that are computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from occplug.distributed import Pairs, each_batch
from occplug.losses import SupCon
from occplug.method import Group, Stage
from occplug.stages.optimisers import optimiser
from occplug.stages.schedules import warmup_cosine

__all__ = ["CLEAN", "OCCLUDED", "FeatureCache", "OccludedViews", "Pair", "prompt_alignment"]

log = logging.getLogger(__name__)

CLEAN, OCCLUDED = "feature", "feature_occ"  # batch entries: features of the plain and of the occluded images
ROWS = {True: "occluded_rows", False: "plain_rows"}  # batch entries: where in the batch the flag `occluded` is this


@dataclass(frozen=True)
class OccludedViews:
    """Occluded copies of the training images to cache beside the plain ones.

    Args:
        transform: name of the augmentation that occludes, with its options in the config.
        prob: share of the images it is tried on.
        draws: how many copies of each image are cached; epoch e uses copy e mod `draws`.
    """

    transform: str
    prob: float
    draws: int = 1


class FeatureCache:
    """Features of every training image, computed once without augmentation, and random batches of them.

    The batches of an epoch are consecutive chunks of one random permutation, the remainder included (CLIP-ReID's
    official code; there is no identity sampling here). The permutation comes from torch's global generator, on the
    CPU whatever the device, so that a resumed run draws the same one.

    A batch has `pid` and `feature` [B, E]; with occluded views also `feature_occ` [B, E] and `occluded` [B], whether
    the copy differs from the plain image, with the positions of those rows and of the others, `occluded_rows` and
    `plain_rows`, which are counted on the CPU: to count them on a GPU would wait for it.

    Args:
        encode: images [B, 3, H, W] -> features [B, E].
        batch_size: features per batch.
        views: occluded copies, or None for the plain images alone.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], batch_size: int, views: OccludedViews | None = None):
        self.encode = encode
        self.batch_size = batch_size
        self.views = views
        self.data: Any = None  # the data manager, once filled
        self.draws: list[dict[str, Tensor]] = []
        self._flags: list[Tensor] = []  # `occluded` of the draws, on the CPU
        self.features = self.labels = torch.empty(0)

    @torch.no_grad()
    def fill(self, data, device: torch.device) -> None:
        """Encode the training images of the data manager `data` on `device`; kept there in float32."""
        self.data = data
        copies = self._copies()  # before the long pass, since an augmentation may refuse its options
        encoded = each_batch(
            data.cache_loader(self.batch_size), lambda batch: (self._encode(batch["img"], device), batch["pid"])
        )
        features, labels = zip(*encoded)
        self.features, self.labels = torch.cat(features).to(device), torch.cat(labels).to(device)
        self.draws = [self._occluded(loader, device) for loader in copies]
        self._flags = [draw["occluded"].cpu() for draw in self.draws]

    def _copies(self) -> list:
        v = self.views
        if v is None:
            return []
        draws = range(v.draws)
        return [self.data.cache_loader(self.batch_size, [v.transform], draw, prob=v.prob) for draw in draws]

    def _encode(self, images: Tensor, device: torch.device) -> Tensor:
        return self.encode(images.to(device, non_blocking=True)).float()

    def _occluded(self, loader, device: torch.device) -> dict[str, Tensor]:
        """Features of the copies in `loader`; images the transform left alone keep the feature they have."""
        features, changed = self.features.clone(), []

        def encode(pair: tuple[dict, dict]) -> tuple[Tensor, Tensor, Tensor | None]:
            batch, plain = pair
            differs = (batch["img"] != plain["img"]).flatten(1).any(dim=1)
            return (
                differs,
                batch["index"][differs],
                self._encode(batch["img"][differs], device) if differs.any() else None,
            )

        for differs, rows, encoded in each_batch(Pairs(loader, self.data.cache_loader(self.batch_size)), encode):
            changed.append(differs)
            if encoded is not None:
                features[rows.to(device)] = encoded.to(device)
        occluded = torch.cat(changed).to(device)
        name = self.views.transform if self.views else "nothing"
        log.info("%d of %d training images occluded by %s", occluded.sum(), len(occluded), name)
        return {OCCLUDED: features, "occluded": occluded}

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        entries = {CLEAN: self.features, "pid": self.labels}
        flags = None
        if self.draws:
            number = self.data.epoch % len(self.draws)
            entries |= self.draws[number]
            flags = self._flags[number]
        order = torch.randperm(len(self.labels))
        on_device = order.to(self.labels.device)
        for here, chosen in zip(order.split(self.batch_size), on_device.split(self.batch_size)):
            rows = {} if flags is None else {name: _where(flags[here] == which) for which, name in ROWS.items()}
            yield {name: values[chosen] for name, values in entries.items()} | rows


def _where(flags: Tensor) -> Tensor:
    """Positions of True in `flags` [B]."""
    return flags.nonzero()[:, 0]


@dataclass(frozen=True)
class Pair:
    """Texts, and the images they are aligned with.

    Args:
        encode_prompts: labels [B] -> text features [B, E]; gradients reach the prompts.
        suffix: of the names of the pair's two losses, `loss_i2t` and `loss_t2i`.
        images: entry of the batch with the image features.
        only: of the batch, the rows that were occluded (True) or were not (False); None: all.
    """

    encode_prompts: Callable[[Tensor], Tensor]
    suffix: str = ""
    images: str = CLEAN
    only: bool | None = None

    def losses(self, batch: dict[str, Tensor], contrast: SupCon) -> dict[str, Tensor]:
        """SupCon of the chosen rows both ways; zero where there are none."""
        image, label = batch[self.images], batch["pid"]
        if self.only is not None:
            rows = batch.get(ROWS[self.only])
            rows = _where(batch["occluded"] == self.only) if rows is None else rows  # of a batch that has flags alone
            if not len(rows):
                nothing = 0 * self.encode_prompts(label[:1]).sum()  # keeps the prompts in the graph
                return dict.fromkeys(self.names, nothing)
            image, label = image[rows], label[rows]
        text = self.encode_prompts(label)
        return dict(zip(self.names, (contrast(image, text, label, label), contrast(text, image, label, label))))

    @property
    def names(self) -> tuple[str, str]:
        """Of the two losses."""
        return f"loss_i2t{self.suffix}", f"loss_t2i{self.suffix}"


def prompt_alignment(
    encode_images: Callable[[Tensor], Tensor],
    pairs: list[Pair],
    pattern: str,
    options,
    views: OccludedViews | None = None,
    further: Mapping[str, Callable[[dict[str, Tensor]], Tensor]] | None = None,
    name: str = "stage1",
) -> Stage:
    """The stage that trains the parameters matching `pattern` so that text and image features of an identity agree.

    CLIP-ReID (arXiv 2211.13977), eq. 3-5: loss_i2t = SupCon(I, T, y, y), loss_t2i = SupCon(T, I, y, y) with the image
    features I of the batch and the text features T of the same rows' labels (an identity that occurs twice gives two
    equal columns).

    Args:
        encode_images: images [B, 3, H, W] -> [B, E], the frozen image tower.
        pairs: texts and their images; each adds its two losses.
        options: config node with epochs, batch_size, lr, weight_decay, warmup_epochs, warmup_lr, min_lr, weights.
        views: occluded copies of the images, if a pair needs them.
        further: name -> loss of a batch, beside those of the pairs.
        name: of the stage.
    """
    further = dict(further or {})
    cache = FeatureCache(encode_images, options.batch_size, views)
    contrast = SupCon()

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        aligned = {name: value for pair in pairs for name, value in pair.losses(batch, contrast).items()}
        return aligned | {name: loss(batch) for name, loss in further.items()}

    names = [*(name for pair in pairs for name in pair.names), *further]
    return Stage(
        name=name,
        epochs=options.epochs,
        groups=[Group(pattern, options.lr, options.weight_decay)],
        losses=losses,
        weights={name: options.weights[name] for name in names},
        schedule=warmup_cosine(options.lr, options.epochs, options.warmup_epochs, options.warmup_lr, options.min_lr),
        optimizer=optimiser("adam"),
        loader=lambda data: cache,
        prepare=cache.fill,
    )
