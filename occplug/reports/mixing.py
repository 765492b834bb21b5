"""What patch transfer and prototype masks make of a training batch, as a sheet of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from occplug.data.manager import DataManager
from occplug.engine import seed_everything
from occplug.errors import ConfigError
from occplug.evaluation import mask_statistics
from occplug.method import Method, build_method
from occplug.registry import model_class
from occplug.reports.sheets import draw_sheet, heat, overlaid, pixels, resized
from occplug.runs.candidates import load_trained
from occplug.runs.session import start_logging
from occplug.utils.files import write_atomically

__all__ = ["check_masks", "mixing_sheet"]


def mixing_sheet(cfg, output: Path, weights: str = "", count: int = 8) -> list[str]:
    """Write the PNG `output` of images of a training batch; returns a summary and the masks' statistics, line by line.

    Its columns: the image, its saliency, the candidate whose surroundings it is put into, the mix as pixels, and the
    image's prototype mask, whose d values stand in rows, on one scale for all images.

    Args:
        weights: their address, as `occplug.load` takes it; "" for an untrained method.
        count: of images, mixed ones first.

    Raises:
        ConfigError: no image, or a method with neither prototype masks nor patch transfer.
        CheckpointError: weights that do not fit the config.
        OutputError: the file cannot be written.
    """
    if count < 1:
        raise ConfigError(f"--images is {count}; it must be at least 1")
    check_masks(cfg)
    start_logging()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.method.transfer.p_mix = 1.0  # to see the mix of every image that has a candidate
    cfg.freeze()
    seed_everything(cfg.train.seed)
    data = DataManager(cfg)
    if weights:
        method = load_trained(cfg, weights, whole=cfg.method.spt)
    else:
        method = build_method(cfg, data.num_train_pids, data.num_train_cams).eval()
    batch = next(iter(data.train_loader))
    data.close()
    titles, cells, lines = _drawn(method, cfg, batch["img"], batch["camid"], count)
    write_atomically(output, lambda temporary: draw_sheet(cells, titles, temporary))
    return [*lines, f"{output}: {len(cells)} images, {', '.join(titles)}"]


def check_masks(cfg) -> None:
    """Raise ConfigError for a method that neither masks prototypes nor transfers patches."""
    known = "transfer" in model_class(cfg.model.name).defaults
    if not known or not (cfg.method.spt or cfg.method.get("mask", "none") != "none"):
        raise ConfigError(
            f"model.name: {cfg.model.name} has neither prototype masks nor patch transfer here; dpm and dpmpp have, "
            "with method.mask other than none; patch transfer is method.spt True, also of other methods"
        )


@torch.no_grad()
def _drawn(method: Method, cfg, images: Tensor, camids: Tensor, count: int) -> tuple[list[str], Tensor, list[str]]:
    """Titles of the columns, cells [N, K, H, W, 3] of the rows, and lines to print."""
    size, lines = (images.shape[2], images.shape[3]), []
    pictures = pixels(images, cfg.data.norm_mean, cfg.data.norm_std)
    columns, mixed = {"image": pictures}, torch.zeros(len(images), dtype=torch.bool)
    if cfg.method.spt:
        drawn, mixed, line = _mixing(method, cfg, images, pictures)
        columns |= drawn
        lines.append(line)
    masks = method.embed(images, camids).mask
    if masks is not None:
        drawn, line = _prototype_masks(masks.cpu(), size)
        columns |= drawn
        lines.append(line)
    shown = _spread(mixed, count)
    return list(columns), torch.stack([column[shown] for column in columns.values()], dim=1), lines


def _spread(mixed: Tensor, count: int) -> Tensor:
    """Numbers of at most `count` images, those `mixed` [B] evenly; others only if there are fewer mixed ones."""
    chosen, others = mixed.nonzero()[:, 0], (~mixed).nonzero()[:, 0]
    if len(chosen) < count:
        return torch.cat([chosen, others])[:count]
    return chosen[torch.linspace(0, len(chosen) - 1, count).round().long()]


def _mixing(method: Method, cfg, images: Tensor, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor, str]:
    """Columns of the patch transfer, which images are mixed [B], and a line about the batch."""
    size: tuple[int, int] = (images.shape[2], images.shape[3])
    transfer: Any = method.transfer
    saliency = transfer.saliency(images).unflatten(1, transfer.grid)  # [B, h, w]
    salient = resized(transfer.masks(images)[:, None], size, "nearest")
    plan = transfer.plan(images)
    source = torch.arange(len(images)) if plan is None else plan.source
    mixed = torch.zeros(len(images), dtype=torch.bool) if plan is None else plan.mixed
    result = images if plan is None else plan.pixels(images)
    columns = {
        "saliency": overlaid(pictures, resized(saliency[:, None], size))[:, 0],
        "salient patches": pictures * (0.2 + 0.8 * salient[:, 0, :, :, None]),
        "candidate": pictures[source],
        "mix": pixels(result, cfg.data.norm_mean, cfg.data.norm_std),
    }
    line = (
        f"patch transfer: {int(mixed.sum())} of {len(images)} images have a candidate; saliency from "
        f"{float(saliency.min()):.3f} to {float(saliency.max()):.3f}, {100 * float(salient.mean()):.1f} % salient"
    )
    return columns, mixed, line


def _prototype_masks(masks: Tensor, size: tuple[int, int]) -> tuple[dict[str, Tensor], str]:
    """A column of the masks [B, d], and a line with their statistics."""
    statistics = mask_statistics(masks.numpy())
    low, high = statistics["min"], statistics["max"]
    rows = _folded(masks, size)
    stretched = (rows - low) / (high - low) if high > low else torch.full_like(rows, 0.5)
    column = heat(resized(stretched[:, None], size, "nearest")[:, 0])
    figures = ", ".join(f"{key} {statistics[key]:.4f}" for key in ("min", "mean", "max"))
    line = f"prototype masks of {len(masks)} images: {figures}, {100 * statistics['share_under_half']:.1f} % under 0.5"
    return {f"mask {low:.2f}-{high:.2f}": column}, line


def _folded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [B, d] in rows of about the shape of an image, [B, rows, columns]; the last row is filled with the mean."""
    d = masks.shape[1]
    columns = max(round((d * size[1] / size[0]) ** 0.5), 1)
    rows = -(-d // columns)
    filling = masks.mean(dim=1, keepdim=True).expand(-1, rows * columns - d)
    return torch.cat([masks, filling], dim=1).unflatten(1, (rows, columns))
