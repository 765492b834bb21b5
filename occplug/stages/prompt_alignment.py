"""CLIP-ReID's first stage: learn identity prompts against image features that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from occplug.losses import SupCon
from occplug.method import Group, Stage
from occplug.stages.clip_tuning import Further
from occplug.stages.optimisers import optimiser
from occplug.stages.schedules import warmup_cosine

__all__ = ["FeatureCache", "prompt_alignment"]


class FeatureCache:
    """Features of every training image, computed once without augmentation, and random batches of them.

    The batches of an epoch are consecutive chunks of one random permutation, the remainder included (CLIP-ReID's
    official code; there is no identity sampling here). The permutation comes from torch's global generator, on the
    CPU whatever the device, so that a resumed run draws the same one.

    Args:
        encode: images [B, 3, H, W] -> features [B, E].
        batch_size: features per batch.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], batch_size: int):
        self.encode = encode
        self.batch_size = batch_size
        self.features = self.labels = torch.empty(0)

    @torch.no_grad()
    def fill(self, data, device: torch.device) -> None:
        """Encode the training images of the data manager `data` on `device`; kept there in float32."""
        features, labels = [], []
        for batch in data.cache_loader(self.batch_size):
            features.append(self.encode(batch["img"].to(device, non_blocking=True)).float())
            labels.append(batch["pid"])
        self.features = torch.cat(features)
        self.labels = torch.cat(labels).to(device)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.labels)).to(self.labels.device)
        for chosen in order.split(self.batch_size):
            yield {"feature": self.features[chosen], "pid": self.labels[chosen]}


def prompt_alignment(
    encode_images: Callable[[Tensor], Tensor],
    encode_prompts: Callable[[Tensor], Tensor],
    pattern: str,
    options,
    name: str = "stage1",
    further: Further | None = None,
) -> Stage:
    """The stage that trains the parameters matching `pattern` so that text and image features of an identity agree.

    CLIP-ReID (arXiv 2211.13977), eq. 3-5: loss_i2t = SupCon(I, T, y, y), loss_t2i = SupCon(T, I, y, y) with the image
    features I of the batch and the text features T of the same rows' labels (an identity that occurs twice gives two
    equal columns).

    Args:
        encode_images: images [B, 3, H, W] -> [B, E], the frozen image tower.
        encode_prompts: labels [B] -> [B, E], gradients reach the prompts.
        options: config node with epochs, batch_size, lr, weight_decay, warmup_epochs, warmup_lr, min_lr, weights.
        further: more losses, on the cached image features.
    """
    further = dict(further or {})
    cache = FeatureCache(encode_images, options.batch_size)
    contrast = SupCon()

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, label = batch["feature"], batch["pid"]
        text = encode_prompts(label)
        aligned = {"loss_i2t": contrast(image, text, label, label), "loss_t2i": contrast(text, image, label, label)}
        return aligned | {each: loss(image, label) for each, loss in further.items()}

    return Stage(
        name=name,
        epochs=options.epochs,
        groups=[Group(pattern, options.lr, options.weight_decay)],
        losses=losses,
        weights={each: options.weights[each] for each in ("loss_i2t", "loss_t2i", *further)},
        schedule=warmup_cosine(options.lr, options.epochs, options.warmup_epochs, options.warmup_lr, options.min_lr),
        optimizer=optimiser("adam"),
        loader=lambda data: cache,
        prepare=cache.fill,
    )
