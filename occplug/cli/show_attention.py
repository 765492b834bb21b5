"""`occplug show-attention`: where a trained method's parts look, as a sheet of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occplug.cli.arguments import config_parser, parse_config
from occplug.cli.sheets import draw_sheet, overlaid, pixels, resized, to_unit_range
from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.registry import model_class
from occplug.runs.session import load_trained_for
from occplug.utils.files import user_path, write_atomically

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the sheet."""
    parser = config_parser("show-attention", "Draw the attention maps of the parts over the first target's queries.")
    parser.add_argument("--weights", required=True, metavar="PATH", help="a checkpoint written by occplug train")
    parser.add_argument("--output", required=True, metavar="PNG", type=user_path, help="the picture to write")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many queries, spread evenly (8)")
    args, cfg = parse_config(parser, argv)
    if args.images < 1:
        raise ConfigError(f"--images is {args.images}; it must be at least 1")
    if not hasattr(model_class(cfg.model.name), "attention_maps"):
        raise ConfigError(f"{args.config_file}: {cfg.model.name} has no attention maps of parts; profd has")
    data = DataManager(cfg, trains=False)
    method, rows = load_trained_for(cfg, args.weights, data.targets[0])
    images, camids = _queries(data, args.images)
    model: Any = method.eval()  # one of the classes with such maps, as asked above
    titles, maps = model.attention_maps(images, rows(camids))
    pictures = pixels(images, cfg.data.norm_mean, cfg.data.norm_std)
    maps = resized(to_unit_range(maps.float()), (pictures.shape[1], pictures.shape[2]))
    cells = torch.cat([pictures[:, None], overlaid(pictures, maps)], dim=1)
    write_atomically(args.output, lambda temporary: draw_sheet(cells, ["image", *titles], temporary))
    print(f"{args.output}: {len(images)} images, {len(titles)} maps each")


def _queries(data: DataManager, count: int) -> tuple[Tensor, Tensor]:
    """Queries of the first target, evenly spaced: [N, 3, H, W] normalised, camids [N]."""
    dataset = data.test_loader[data.targets[0]]["query"].dataset
    places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long()
    rows = [dataset[index] for index in places.tolist()]
    batch = dataset.collate(rows)
    return batch["img"], batch["camid"]
