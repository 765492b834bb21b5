"""Prototype masks and saliency against what SynthOcc knows to be visible."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.evaluation import (
    channel_correlations,
    correlation,
    intersection_over_union,
    mask_statistics,
    rank_correlation,
)
from occplug.reports.mixing import check_masks
from occplug.reports.sheets import resized
from occplug.runs.candidates import load_trained_for
from occplug.runs.session import start_logging
from occplug.stages.patch_transfer import PatchTransfer, foreign_share
from occplug.utils.files import write_atomically
from occplug.utils.imagefile import open_picture

__all__ = ["mask_figures", "mask_report", "saliency_figures", "transfer_figures", "twin_figures"]

SEED = 1  # of the order that shows what chance gives, and of the training images that are mixed
MIXED = 512  # training images that are looked at
LARGE = 0.2  # of a body; SynthOcc's queries have at least this share of it hidden


def mask_report(cfg, weights: str, output: Path, config_file: str = "") -> dict[str, Any]:
    """Write the figures of SynthOcc's query sets into the JSON file `output`; returns them.

    Args:
        weights: their address, as `occplug.load` takes it.
        config_file: where `cfg` is from, as the report says it.

    Raises:
        ConfigError: a method with neither prototype masks nor patch transfer, or a target other than synthocc.
        CheckpointError: weights that do not fit the config.
        OutputError: the file cannot be written.
    """
    check_masks(cfg)
    others = [name for name in cfg.data.targets if name != "synthocc"]
    if others:
        raise ConfigError(f"data.targets has {', '.join(others)}; true masks are known of synthocc alone (-t synthocc)")
    start_logging()
    method, rows = load_trained_for(cfg, weights, "synthocc", whole=cfg.method.spt)  # saliency serves training alone
    data = DataManager(cfg)
    dataset = data.sets["synthocc"]
    sets = {name: _Measured(method, cfg, data, getattr(dataset, name), rows) for name in ("query", "query_holistic")}
    transfer = _transfer_figures(method, cfg, data) if cfg.method.spt else None
    data.close()
    report: dict[str, Any] = {"config_file": config_file, "weights": str(weights), "sets": {}}
    for name, measured in sets.items():
        report["sets"][name] = measured.figures()
    occluded, whole = sets["query"], sets["query_holistic"]
    if occluded.masks is not None:
        report["twins"] = twin_figures(occluded.masks, whole.masks, occluded.visible)
    if transfer is not None:
        report["patch_transfer"] = transfer
    write_atomically(output, lambda temporary: temporary.write_text(json.dumps(report, indent=2) + "\n"))
    return report


class _Measured:
    """What a method says of a query set's images, and what is true of them.

    Attributes:
        masks: prototype masks [N, d], or None.
        saliency: [N, H, W], or None.
        salient: [N, H, W] bool, or None.
        visible: visible share of each person [N].   parts: name -> visible share of that part [N].
        person, occluder: [N, H, W] bool, what of the person is visible, and what hides the rest.
    """

    def __init__(self, method, cfg, data: DataManager, items: list, rows: Callable[[Tensor], Tensor]):
        size = (cfg.data.height, cfg.data.width)
        masks, saliency = [], []
        for batch in data.loader_of(items):
            mask = method.embed(batch["img"], rows(batch["camid"])).mask
            masks += [] if mask is None else [mask]
            saliency += [_saliency(method, batch["img"])] if cfg.method.spt else []
        self.masks: Any = torch.cat(masks).numpy() if masks else None
        self.saliency: Any = torch.cat(saliency).numpy() if saliency else None
        self.salient = self.saliency >= cfg.method.transfer.threshold if saliency else None
        dataset, paths = data.sets["synthocc"], [item[0] for item in items]
        annotations = [dataset.annotation(path) for path in paths]
        self.visible = np.array([1 - line["occlusion_ratio"] for line in annotations])
        self.parts = {
            name: np.array([line["part_visibility"][name] for line in annotations])
            for name in annotations[0]["part_visibility"]
        }
        self.person = np.stack([_picture(dataset.part_mask_path(path), size) for path in paths])
        self.occluder = np.stack([_picture(dataset.occluder_mask_path(path), size) for path in paths])

    def figures(self) -> dict:
        """All figures of the set."""
        result: dict[str, Any] = {"images": len(self.visible)}
        if self.masks is not None:
            result["prototype_mask"] = mask_figures(self.masks, self.visible, self.parts)
        if self.salient is not None:
            result["saliency"] = saliency_figures(self.saliency, self.salient, self.person, self.occluder)
        return result


@torch.no_grad()
def _saliency(method, images: Tensor) -> Tensor:
    """Saliency [B, H, W] in pixels: every pixel has that of its patch."""
    maps = method.transfer.saliency(images).unflatten(1, method.transfer.grid)
    return resized(maps[:, None], (images.shape[2], images.shape[3]), "nearest")[:, 0]


def _picture(file: str | None, size: tuple[int, int]) -> np.ndarray:
    """[H, W] bool, where the mask in `file` is not 0; nowhere if there is no file."""
    if file is None:
        return np.zeros(size, bool)
    return np.asarray(open_picture(file, "L").resize((size[1], size[0]), Image.Resampling.NEAREST)) > 0


def mask_figures(masks: np.ndarray, visible: np.ndarray, parts: dict[str, np.ndarray]) -> dict:
    """How prototype masks follow what is visible.

    Single dimensions may follow single parts, so the strongest of the d correlations is given for each part; with many
    dimensions it is large by chance too, and `chance` is the same figure with the images in random order.

    Args:
        masks: [N, d].   visible: visible share of the person [N].   parts: name -> visible share of the part [N].
    """
    means = masks.mean(axis=1)
    order = np.random.default_rng(SEED).permutation(len(masks))
    return {
        **mask_statistics(masks),
        "mean_with_visibility": {"pearson": correlation(means, visible), "spearman": rank_correlation(means, visible)},
        "strongest_dimension": {
            name: {"abs_pearson": _strongest(masks, values), "chance": _strongest(masks[order], values)}
            for name, values in {"person": visible, **parts}.items()
        },
    }


def _strongest(masks: np.ndarray, values: np.ndarray) -> float | None:
    strengths = np.abs(channel_correlations(masks, values))
    return None if np.isnan(strengths).all() else float(np.nanmax(strengths))


def saliency_figures(saliency: np.ndarray, salient: np.ndarray, person: np.ndarray, occluder: np.ndarray) -> dict:
    """How saliency separates the visible person from the occluder and the background.

    Args:
        saliency: [N, H, W].   salient, person, occluder: [N, H, W] bool.

    Returns: means over the images; `iou_person_of_all` is the intersection over union of the whole picture with the
        person, which a salient map that knows nothing reaches; mean saliency is that of each region's pixels.
    """
    regions = {"person": person, "occluder": occluder, "background": ~person & ~occluder}
    has_occluder = occluder.any((1, 2))
    return {
        "salient_share": float(salient.mean()),
        "iou_person": _mean(intersection_over_union(salient, person)),
        "iou_person_of_all": _mean(intersection_over_union(np.ones_like(person), person)),
        "iou_occluder": _mean(intersection_over_union(salient, occluder)[has_occluder]),
        "iou_occluder_of_all": _mean(intersection_over_union(np.ones_like(person), occluder)[has_occluder]),
        "mean_saliency": {name: _mean(saliency[region]) for name, region in regions.items()},
    }


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean(dtype=np.float64)) if values.size else None


def twin_figures(masks: np.ndarray, twins: np.ndarray, visible: np.ndarray) -> dict:
    """What the occluder alone does to the masks: images and their twins without it differ in nothing else.

    Args:
        masks, twins: [N, d] of occluded images and of the same images without occluders.
        visible: visible share of the person in the occluded images [N].
    """
    change = np.abs(masks - twins).mean(axis=1)
    return {
        "mean_change": float(change.mean()),
        "change_with_occluded_share": {
            "pearson": correlation(change, 1 - visible),
            "spearman": rank_correlation(change, 1 - visible),
        },
    }


def _transfer_figures(method, cfg, data: DataManager) -> dict:
    """`transfer_figures` of some training images, each mixed once, in batches as in training but unaugmented."""
    dataset, size = data.sets["synthocc"], (cfg.data.height, cfg.data.width)
    order = np.random.default_rng(SEED).permutation(len(dataset.train))[:MIXED]
    items = [dataset.train[i] for i in order]
    images = torch.cat([batch["img"] for batch in data.loader_of(items)]).split(cfg.train.batch_size)
    body = np.stack([_picture(dataset.part_mask_path(path), size) for path, *_ in items])
    occluded = [dataset.annotation(path)["occluder"] is not None for path, *_ in items]
    bodies, flags = (torch.from_numpy(np.asarray(x)).split(cfg.train.batch_size) for x in (body, occluded))
    options = cfg.method.transfer.clone()
    options.defrost()
    options.p_mix = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return transfer_figures(
            PatchTransfer(method.transfer.saliency, method.transfer.grid, options), images, bodies, flags
        )


def transfer_figures(
    transfer: PatchTransfer, images: Sequence[Tensor], bodies: Sequence[Tensor], occluded: Sequence[Tensor]
) -> dict:
    """What patch transfer makes of batches of training images whose visible persons are known.

    Args:
        transfer: mixes every image that has a candidate.
        images: [B, 3, H, W] each.   bodies: [B, H, W] bool, the visible person.   occluded: [B] bool.

    Returns: of the mixed images the number, the mean share of the candidate's body that stays in one under the
        target's label (`foreign_share`), the mean share of the target's own body that goes (`hidden_share`) and how
        often that is at least 20 %, and how often the candidate has an occluder to give; shares are None without one.
    """
    foreign, hidden, given = [], [], []
    for pictures, body, flags in zip(images, bodies, occluded):
        mix = transfer.plan(pictures, torch.stack([~body, body], dim=1).float())
        if mix is None:
            continue
        where, source = mix.mixed, mix.source[mix.mixed]
        foreign.append(foreign_share(body[source], mix.mask[where]))
        hidden.append(foreign_share(body[where], mix.mask[where]))
        given.append(flags[source].float())
    if not foreign:
        return {
            "mixed": 0,
            "foreign_share": None,
            "hidden_share": None,
            "hidden_much": None,
            "occluded_candidates": None,
        }
    stays, goes, occluders = torch.cat(foreign), torch.cat(hidden), torch.cat(given)
    return {
        "mixed": len(stays),
        "foreign_share": float(stays.nanmean()),
        "hidden_share": float(goes.nanmean()),
        "hidden_much": float((goes >= LARGE).float().mean()),
        "occluded_candidates": float(occluders.mean()),
    }
