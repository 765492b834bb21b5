"""`occplug show-attention`: where a trained method's parts look, as a sheet of pictures."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.cli.arguments import config_parser, parse_config
from occplug.datamanager import DataManager
from occplug.engine import load_checkpoint, load_weights, write_atomically
from occplug.errors import ConfigError
from occplug.method import build_method
from occplug.registry import METHODS, get, names

__all__ = ["draw_sheet", "main", "to_unit_range"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the sheet."""
    parser = config_parser("show-attention", "Draw the attention maps of the parts over the first target's queries.")
    parser.add_argument("--weights", required=True, metavar="PATH", help="a checkpoint written by occplug train")
    parser.add_argument("--output", required=True, metavar="PNG", type=Path, help="the picture to write")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many queries, spread evenly (8)")
    args, cfg = parse_config(parser, argv)
    if args.images < 1:
        raise ConfigError(f"--images is {args.images}; it must be at least 1")
    if cfg.model.name not in names(METHODS) or not hasattr(get(METHODS, cfg.model.name), "attention_maps"):
        raise ConfigError(f"{args.config_file}: {cfg.model.name} has no attention maps of parts; profd has")
    state = load_checkpoint(args.weights)
    method = build_method(cfg, len(state["pids"]), len(state["cameras"]), pretrained=False)
    load_weights(method, state["state_dict"], args.weights)
    images, camids = _queries(DataManager(cfg), args.images)
    titles, maps = method.eval().attention_maps(images, camids)
    pictures = _pixels(images, cfg.data.norm_mean, cfg.data.norm_std)
    write_atomically(args.output, lambda temporary: draw_sheet(pictures, titles, maps, temporary))
    print(f"{args.output}: {len(images)} images, {len(titles)} maps each")


def _queries(data: DataManager, count: int) -> tuple[Tensor, Tensor]:
    """Every so manieth query of the first target: [N, 3, H, W] normalised, camids [N]."""
    dataset = data.test_loader[data.targets[0]]["query"].dataset
    step = max(len(dataset) // count, 1)
    rows = [dataset[index] for index in range(0, len(dataset), step)][:count]
    batch = dataset.collate(rows)
    return batch["img"], batch["camid"]


def _pixels(images: Tensor, mean, std) -> Tensor:
    """[N, H, W, 3] in [0, 1] of normalised images [N, 3, H, W]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1)


def to_unit_range(maps: Tensor) -> Tensor:
    """Each map of [..., h, w] stretched to [0, 1]; a map that is the same everywhere becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def draw_sheet(pictures: Tensor, titles: list[str], maps: Tensor, file: Path) -> None:
    """Write a PNG with a row for each image: the image, then each map over it.

    Args:
        pictures: [N, H, W, 3] in [0, 1].
        titles: of the R maps.
        maps: [N, R, h, w].
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    count, height, width = pictures.shape[:3]
    heat = F.interpolate(to_unit_range(maps.float()), (height, width), mode="bilinear", align_corners=False)
    heat = torch.from_numpy(colormaps["jet"](heat.numpy())[..., :3]).float()  # [N, R, H, W, 3]
    cells = torch.cat([pictures[:, None], 0.5 * pictures[:, None] + 0.5 * heat], dim=1)
    columns = cells.shape[1]
    figure = Figure(figsize=(1.1 * columns, 1.1 * count * height / width + 0.4), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for row, line in zip(axes, cells):
        for axis, cell in zip(row, line):
            axis.imshow(cell.numpy())
            axis.set_axis_off()
    for axis, title in zip(axes[0], ["image", *titles]):
        axis.set_title(title.replace(" ", "\n"), fontsize=7)
    figure.savefig(file, format="png", dpi=150)
