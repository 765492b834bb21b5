"""Saliency-guided patch transfer (SPT): occluded samples from the images of one batch, on embedded patches.

SPT (AAAI 2024) and DPM++ (arXiv 2605.06637), eq. 5-7. The target's person is put into a candidate's surroundings: where
the candidate shows its person the target's patches stay, and everything else is the candidate's background and
occluders. Any method whose backbone gives embedded patches can switch it on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.backbones.resampling import nearest
from occplug.config.ranges import AT_LEAST_0, SHARE
from occplug.distributed import SplitImages

__all__ = [
    "CHOICES",
    "DEFAULTS",
    "NULLABLE",
    "RANGES",
    "PatchTransfer",
    "Transfer",
    "body_of",
    "choose_candidates",
    "foreign_share",
    "grown",
    "rolled_overlap",
    "transfer_extras",
    "transfer_once",
]

log = logging.getLogger(__name__)

# The keys of a method that switches it on
DEFAULTS = {
    "p_mix": 0.5,  # probability of a sample to be mixed; the released default of 0 never mixes
    "select": "oiou",  # candidate by overlap of the masks, or random
    "roll": True,  # rank by the overlap with the target's mask rolled horizontally
    "rank": "flat",  # list over shifts and candidates (official code), or per_candidate (best shift of each)
    "alpha1": 0.7,  # least overlap of the unrolled masks
    "alpha2": 0.1,  # share of the batch whose ranks are candidates
    "alpha2_abs": None,  # least overlap of the rolled masks; null: none
    "threshold": 0.5,  # saliency from which a patch shows the person
    "person": "saliency",  # what of the candidate is its person: salient patches (the papers), or masks, where known
    "grow": 0,  # patches by which the candidate's person is widened on all sides before its surroundings are taken
    "ignore": True,  # the candidate's identity is neither a class nor a negative for the mixed sample
    "ignore_pairs": "anchor",  # triplets: mixed sample as anchor (official matrix), or symmetric
}
NULLABLE = ("alpha2_abs",)
RANGES = {**dict.fromkeys(("p_mix", "alpha1", "alpha2", "alpha2_abs", "threshold"), SHARE), "grow": AT_LEAST_0}
CHOICES = {
    "select": ("oiou", "random"),
    "rank": ("flat", "per_candidate"),
    "person": ("saliency", "masks"),
    "ignore_pairs": ("anchor", "symmetric"),
}
COUNTED = ("seen", "drawn", "no_candidate")
PERSON = 0.5  # of a cell's part labels, from which it shows the person


def transfer_extras(cfg) -> tuple[str, ...]:
    """The batch entries that patch transfer asks for (`Method.extras`): part masks where it follows them
    (`method.transfer.person: masks`), or where they are rendered with the images and tell the foreign share.
    """
    wants = cfg.method.transfer.person == "masks" or cfg.masks.source == "synthocc"
    return ("masks",) if cfg.method.spt and wants else ()


# ---------------------------------------------------------------------- selection


def rolled_overlap(masks: Tensor) -> Tensor:
    """O[r, i, j] = |roll_r(M_i) and M_j| / |M_j| (OIoU, eq. 6) for all horizontal shifts r, with wrap-around.

    Args:
        masks: [B, H, W] bool.

    Returns: [W, B, B] float32, 0 where M_j is empty; shift 0 is eq. 6 itself.
    """
    flat = masks.flatten(1).float()  # [B, N]
    shifts = range(masks.shape[2])
    rolled = torch.stack([masks.roll(shift, dims=2).flatten(1).float() for shift in shifts])  # [W, B, N]
    with torch.autocast(masks.device.type, enabled=False):  # counts beyond 256 are not bfloat16 numbers
        return (rolled @ flat.T) / flat.sum(dim=1).clamp(min=1)


def choose_candidates(masks: Tensor, options) -> Tensor:
    """A candidate j for each target i, or -1 where none qualifies.

    "flat", as the official code: the entries O[r, i, j] of a target are ranked over shifts and candidates together;
    among ranks 1 to k - 1, k = int(alpha2 B) but at least 2, one with j != i and O[0, i, j] > alpha1 is drawn, all
    alike. (The official code draws ranks until one qualifies, at most 100 times.) "per_candidate", as the paper's
    words: the candidates are ranked by their best shift, and the first ceil(alpha2 (B - 1)) that qualify are drawn
    from. Images whose mask is empty or full are no candidates. Draws come from torch's CPU generator.

    Args:
        masks: [B, H, W] bool.
        options: node with the keys of DEFAULTS.

    Returns: [B] int64.
    """
    count = len(masks)
    others = ~torch.eye(count, dtype=torch.bool, device=masks.device)
    share = masks.flatten(1).float().mean(dim=1)
    usable = (share > 0) & (share < 1)  # [B]
    if options.select == "random":
        return _draw(others & usable, torch.arange(count, device=masks.device).expand(count, -1))
    overlap = rolled_overlap(masks) if options.roll else rolled_overlap(masks)[:1]  # [R, B, B]
    unrolled = overlap[0]
    allowed = others & usable & (unrolled > options.alpha1)  # [B, B]
    if options.rank == "per_candidate":
        best = overlap.amax(dim=0).masked_fill(~allowed, -1.0)
        ranks = max(math.ceil(options.alpha2 * (count - 1) - 1e-9), 1)
        scores, order = best.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, :ranks], order[:, :ranks]
    else:
        listed = overlap.masked_fill(~usable, -1.0).transpose(0, 1).flatten(1)  # [B, R * B], index r * B + j
        scores, order = listed.sort(dim=1, descending=True, stable=True)
        ranks = max(int(options.alpha2 * count), 2)
        scores, order = scores[:, 1:ranks], order[:, 1:ranks] % count
    qualified = allowed.gather(1, order) & (scores >= 0)
    if options.alpha2_abs is not None:
        qualified &= scores > options.alpha2_abs
    return _draw(qualified, order)


def _draw(qualified: Tensor, values: Tensor) -> Tensor:
    """One of `values` [B, K] per row, all `qualified` ones alike; -1 where none is."""
    if not qualified.shape[1]:
        return torch.full((len(qualified),), -1, device=qualified.device)
    keys = torch.rand(qualified.shape).to(qualified.device, non_blocking=True).masked_fill(~qualified, -1.0)
    best, place = keys.max(dim=1)
    return torch.where(best >= 0, values.gather(1, place[:, None])[:, 0], -1)


# ---------------------------------------------------------------------- what of a candidate is its person


def grown(masks: Tensor, patches: int) -> Tensor:
    """`masks` [B, H, W] bool, widened by `patches` on all sides (a square neighbourhood), without wrap-around."""
    if not patches:
        return masks
    return F.max_pool2d(masks[:, None].float(), 2 * patches + 1, stride=1, padding=patches)[:, 0] > 0


def body_of(labels: Tensor) -> Tensor:
    """[B, h, w] bool: where part labels [B, K + 1, h, w], background first, show a person."""
    return labels[:, 0] < PERSON


def foreign_share(body: Tensor, mask: Tensor) -> Tensor:
    """Share of a candidate's body that stays in the mixed image, under the target's label: [B], nan without a body.

    Args:
        body: [B, h, w] bool, the true body of each candidate.
        mask: [B, H, W] bool, the candidate's mask on the patch grid: the target's patches stay where it is True.
    """
    stays = ~F.interpolate(mask[:, None].float(), body.shape[1:], mode="nearest")[:, 0].bool()
    return (body & stays).flatten(1).sum(1) / body.flatten(1).sum(1)


# ---------------------------------------------------------------------- mixing


@dataclass
class Transfer:
    """What is mixed into each of B samples.

    Args:
        source: [B] index of the candidate, the sample's own where it stays as it is.
        mask: [B, H, W] bool, the *candidate's* person mask; all True where the sample stays as it is.
        options: node with the keys of DEFAULTS.
    """

    source: Tensor
    mask: Tensor
    options: Any

    @property
    def mixed(self) -> Tensor:
        """[B] bool."""
        return self.source != torch.arange(len(self.source), device=self.source.device)

    def on_grid(self, grid: tuple[int, int]) -> Tensor:
        """`mask` on another grid of patches, [B, h * w] bool: nearest, source index floor(dst n_src / n_dst)."""
        return nearest(self.mask, grid).flatten(1)

    def change(self, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """A function of embedded patches [B, N, C] of `grid`: M_j E(x_i) + (1 - M_j) E(x_j), eq. 7.

        Both terms are the unmixed patches: mixing is not cumulative.
        """
        return _Mix(self.on_grid(grid)[:, :, None], self.source)

    def pixels(self, images: Tensor) -> Tensor:
        """The mix in pixel space, to look at: images [B, 3, h, w] with each cell of `mask` from one of the two.

        Where patches do not overlap and the grids are the same, its patches are those of :meth:`change`.
        """
        height, width = images.shape[2:]
        stays = self.on_grid((height, width)).unflatten(1, images.shape[2:])
        return torch.where(stays[:, None], images, images[self.source])

    def ignored(self, labels: Tensor) -> Tensor:
        """[B] class that sample i must not be compared with, the candidate's; -1 where there is none."""
        other = labels[self.source]
        return torch.where(other != labels, other, -1) if self.options.ignore else torch.full_like(labels, -1)

    def ineligible(self, labels: Tensor) -> Tensor:
        """[B, B] bool: image j may not be a negative of anchor i, because it shows the person mixed into i.

        With `ignore_pairs: symmetric` a mixed image is no negative of that person's images either.
        """
        pairs = labels[None, :] == self.ignored(labels)[:, None]
        return pairs | pairs.T if self.options.ignore_pairs == "symmetric" else pairs


@dataclass(frozen=True)
class _Mix:
    """The change of :meth:`Transfer.change`.

    Args:
        own: [B, N, 1] bool, patches that stay.
        source: [B] whose patches the others are.
    """

    own: Tensor
    source: Tensor

    def __call__(self, patches: Tensor) -> Tensor:
        return torch.where(self.own, patches, patches[self.source])

    def shard(self, images: SplitImages, tower) -> _PartMix:
        """The change for this rank's images; the candidates' images come from the ranks that have them."""
        rows = images.plan.own
        return _PartMix(self.own[rows], images.whole()[self.source[rows]], tower)


@dataclass(frozen=True)
class _PartMix:
    """The same where the candidates are other images than those at hand.

    Args:
        own: [n, N, 1] bool, patches that stay.
        candidates: [n, 3, H, W], their images.
        tower: embeds them.
    """

    own: Tensor
    candidates: Tensor
    tower: Any

    def __call__(self, patches: Tensor) -> Tensor:
        return torch.where(self.own, patches, self.tower.embed_patches(self.candidates))

    def shard(self, images: SplitImages, tower) -> _PartMix:
        """Itself: it is this rank's part."""
        return self

    def take(self, rows: slice) -> _PartMix:
        """The change for some of the images."""
        return _PartMix(self.own[rows], self.candidates[rows], self.tower)


class PatchTransfer:
    """Decides for each batch which samples are mixed with what, and counts.

    Args:
        saliency: images [B, 3, H, W] -> saliency [B, h * w], called without gradient.
        grid: (h, w) of the saliency.
        options: node with the keys of DEFAULTS.

    Attributes:
        counts: samples so far, drawn for mixing, and left unmixed because no candidate qualified, in this epoch.
        foreign: of each image of this epoch whose part masks are known, the share of the candidate's body that stays
            in it; nan where nothing was mixed in.
    """

    def __init__(self, saliency: Callable[[Tensor], Tensor], grid: tuple[int, int], options):
        self.saliency, self.grid, self.options = saliency, grid, options
        self.counts = dict.fromkeys(COUNTED, 0)
        self.foreign: list[Tensor] = []
        self._warned = False

    def close_epoch(self) -> None:
        """Log this epoch's counts and reset them (`Stage.after_epoch`)."""
        log.info(
            "patch transfer: of %(seen)d samples %(drawn)d drawn, %(no_candidate)d of them without a candidate",
            self.counts,
        )
        self.counts = dict.fromkeys(COUNTED, 0)
        if self.foreign:
            share = torch.cat(self.foreign).nanmean()
            log.info("patch transfer: %.0f %% of a candidate's body stays in a mixed image on average", 100 * share)
            self.foreign = []

    @torch.no_grad()
    def plan(self, images: Tensor, labels: Tensor | None = None) -> Transfer | None:
        """What to mix into the batch; None if nothing is mixed. Draws come from torch's CPU generator.

        Args:
            images: [B, 3, H, W].
            labels: part labels [B, K + 1, h, w], background first, where they are known. `person: masks` needs them.
        """
        count = len(images)
        drawn = torch.rand(count) < self.options.p_mix
        self.counts["seen"] += count
        self.counts["drawn"] += int(drawn.sum())
        if not drawn.any():
            return None
        masks = self.masks(images)
        body = None if labels is None else body_of(labels)
        person = masks
        if self.options.person == "masks":
            if body is None:
                raise ValueError("method.transfer.person masks needs part labels with each batch")
            person = self._on_patches(body)
        candidates = choose_candidates(masks, self.options)
        return self._mixed(grown(person, self.options.grow), drawn, candidates, body)

    def _on_patches(self, body: Tensor) -> Tensor:
        """[B, h, w] bool: the patches that show some of `body`."""
        return F.adaptive_max_pool2d(body[:, None].float(), self.grid)[:, 0] > 0

    def masks(self, images: Tensor) -> Tensor:
        """[B, h, w] bool, True where a patch shows the person."""
        return (self.saliency(images) >= self.options.threshold).unflatten(1, self.grid)

    def _mixed(self, masks: Tensor, drawn: Tensor, candidates: Tensor, body: Tensor | None) -> Transfer | None:
        """`drawn` is on the CPU, where the images are drawn."""
        shows = masks.flatten(1).any(dim=1)[candidates.clamp_min(0)]  # a candidate without a person would take it all
        candidates = torch.where(shows, candidates, -1)
        use = drawn.to(masks.device, non_blocking=True) & (candidates >= 0)
        wanted = int(drawn.sum())
        without = wanted - int(use.sum())  # the one wait for the device
        self.counts["no_candidate"] += without
        if without == wanted:
            self._warn(without, len(masks))
            return None
        itself = torch.arange(len(masks), device=masks.device)
        source = torch.where(use, candidates, itself)
        if body is not None:
            self.foreign.append(foreign_share(body[source], masks[source]).masked_fill(~use, float("nan")))
        return Transfer(source, masks[source] | ~use[:, None, None], self.options)

    def _warn(self, count: int, size: int) -> None:
        """Log, once, that none of the `count` samples drawn in a batch of `size` has a candidate."""
        if not self._warned:
            self._warned = True
            log.warning(
                "patch transfer: none of the %d samples drawn in a batch of %d has a candidate, so they train unmixed; "
                "a larger train.batch_size or lower alpha1 gives more (logged once, and counted)",
                count,
                size,
            )


def transfer_once(batch: dict, plan: Callable[[Tensor, Tensor | None], Transfer | None] | None) -> Transfer | None:
    """The batch's transfer, planned at its first pass: an alternating second pass sees the same images."""
    if "transfer" not in batch:
        batch["transfer"] = plan(batch["img"], batch.get("masks")) if plan is not None else None
    return batch["transfer"]
