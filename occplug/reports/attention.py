"""Where a trained method's parts look, as a sheet of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.registry import model_class
from occplug.reports.sheets import draw_sheet, overlaid, pixels, resized, to_unit_range
from occplug.runs.candidates import load_trained_for
from occplug.utils.files import write_atomically

__all__ = ["attention_sheet"]


def attention_sheet(cfg, weights: str, output: Path, count: int = 8) -> str:
    """Write the PNG `output`: attention maps of the parts over `count` queries of the first target; returns a summary.

    Args:
        weights: their address, as `occplug.load` takes it.
        count: of queries, spread evenly.

    Raises:
        ConfigError: no image, or a method without such maps.
        CheckpointError: weights that do not fit the config.
        OutputError: the file cannot be written.
    """
    if count < 1:
        raise ConfigError(f"--images is {count}; it must be at least 1")
    if not hasattr(model_class(cfg.model.name), "attention_maps"):
        raise ConfigError(f"model.name: {cfg.model.name} has no attention maps of parts; profd has")
    data = DataManager(cfg, trains=False)
    method, rows = load_trained_for(cfg, weights, data.targets[0], whole=False)
    images, camids = _queries(data, count)
    model: Any = method.eval()  # one of the classes with such maps, as asked above
    titles, maps = model.attention_maps(images, rows(camids))
    pictures = pixels(images, cfg.data.norm_mean, cfg.data.norm_std)
    maps = resized(to_unit_range(maps.float()), (pictures.shape[1], pictures.shape[2]))
    cells = torch.cat([pictures[:, None], overlaid(pictures, maps)], dim=1)
    write_atomically(output, lambda temporary: draw_sheet(cells, ["image", *titles], temporary))
    return f"{output}: {len(images)} images, {len(titles)} maps each"


def _queries(data: DataManager, count: int) -> tuple[Tensor, Tensor]:
    """Queries of the first target, evenly spaced: [N, 3, H, W] normalised, camids [N]."""
    dataset = data.test_loader[data.targets[0]]["query"].dataset
    places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long()
    rows = [dataset[index] for index in places.tolist()]
    batch = dataset.collate(rows)
    return batch["img"], batch["camid"]
