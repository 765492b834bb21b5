"""Where trained models look, as a sheet: queries with their maps, and beside them those of the nearest images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from occplug.data.cameras import camera_input
from occplug.data.manager import DataManager
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.registry import model_class
from occplug.reports.figures import RIGHT, WRONG, draw_picture, save_sheet
from occplug.reports.heatmaps import KINDS, best_kind, grad_cam, part_maps, rollout
from occplug.reports.rankings import Ranking, check_same_images, check_target, choose_queries, ranking_of
from occplug.reports.sheets import overlaid, pixels, resized, to_unit_range
from occplug.runs.candidates import Candidate, engine_of
from occplug.utils.plotting import check_ending

__all__ = ["attention_sheet"]

CELL = (256, 128)  # height and width that maps are drawn at
BATCH = 32  # images that maps are made of at a time


@dataclass(frozen=True)
class _Looked:
    """A model that is looked into.

    Args:
        method: in eval mode, on the CPU.   kind: of its maps, of KINDS.
        rows: cameras [B] of the target -> what the method is given for them.
        sides: query and gallery, data sets of images.
        ranking: of the target, where it is needed.
    """

    title: str
    cfg: Any
    method: Any
    kind: str
    rows: Callable[[Tensor], Tensor]
    sides: dict[str, Any]
    ranking: Ranking | None

    def batch(self, side: str, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and what the method is given for their cameras [B]."""
        images = self.sides[side]
        batch = images.collate([images[place] for place in places])
        return batch["img"], self.rows(batch["camid"])

    def pictures(self, side: str, places: Sequence[int]) -> Tensor:
        """[B, *CELL, 3] in [0, 1]."""
        found = pixels(self.batch(side, places)[0], self.cfg.data.norm_mean, self.cfg.data.norm_std)
        return resized(found.permute(0, 3, 1, 2), CELL).permute(0, 2, 3, 1)

    def maps(self, side: str, places: Sequence[int], others: Sequence[int]) -> tuple[list[str], Tensor]:
        """Names of the maps, and heat over the pictures, [B, R, *CELL, 3].

        Args:
            others: image of the other side that each is compared with, for Grad-CAM.
        """
        titles, found = [""], []
        for start in range(0, len(places), BATCH):
            images, camids = self.batch(side, places[start : start + BATCH])
            if self.kind == "parts":
                titles, maps = part_maps(self.method, images, camids)
            elif self.kind == "rollout":
                maps = rollout(self.method, images, camids)[:, None]
            else:
                vectors = self._vectors("gallery" if side == "query" else "query", others[start : start + BATCH])
                maps = grad_cam(self.method, images, camids, vectors)[:, None]
            found.append(resized(to_unit_range(maps.float()), CELL))
        return titles, overlaid(self.pictures(side, places), torch.cat(found))

    def _vectors(self, side: str, places: Sequence[int]) -> Tensor:
        return self.method.embed(*self.batch(side, places)).vector

    def nearest(self, query: int) -> list[int]:
        """Gallery images nearest to `query`, nearest first."""
        assert self.ranking is not None
        return [int(image) for image in self.ranking.nearest[query] if image >= 0]


def attention_sheet(
    candidates: Sequence[Candidate],
    titles: Sequence[str],
    output: Path,
    kind: str = "",
    target: str = "",
    words: Sequence[str] = (),
    count: int = 8,
    top: int = 0,
    width: float = 7.0,
) -> str:
    """Draw the maps of all models over the same queries into the figure `output`; returns a summary.

    Without `top` a query has one row: the picture, then the maps of each model. With it, it has a row for each model:
    the picture, its map, and the maps of the nearest gallery images, framed as in a figure of ranked galleries.

    Args:
        titles: one a model.
        kind: one of KINDS; "": the parts of a single model that has them, else the best of each tower.
        target: data set; by default the first target of the first model's config.
        words: queries, as `choose_queries` takes them; none: `count` queries, spread evenly.
        top: nearest gallery images beside each query.
        width: of the figure, in inches.

    Raises:
        ConfigError: numbers below their least, another ending or target, a kind that a model does not have, or parts
            beside nearest images.
        CheckpointError: weights that do not fit the config, or that cannot be looked into.
        DataError: models with other images, or a query that has no gallery to compare with.
        OutputError: the file cannot be written.
    """
    _check_numbers(count, top, width)
    check_ending(output)
    target = target or candidates[0].cfg.data.targets[0]
    ranks = bool(top or words)
    kind = kind or _kind_of_one(candidates)
    looked = [_looked(each, title, target, kind, ranks, max(top, 1)) for each, title in zip(candidates, titles)]
    if top and any(each.kind == "parts" for each in looked):
        raise ConfigError("--top: parts have several maps an image, and there is room for one; add --map rollout")
    ranked = [each.ranking for each in looked if each.ranking is not None]
    check_same_images(ranked, target)
    queries = choose_queries(list(words), ranked) if words else _spread(len(looked[0].sides["query"]), count, ranked)
    _check_neighbours(queries, ranked)
    figure = _matches(looked, queries, top, width) if top else _overview(looked, queries, width)
    kinds = ", ".join(dict.fromkeys(KINDS[each.kind] for each in looked))
    return f"{save_sheet(figure, output)}: {len(queries)} queries of {target}, {kinds}"


def _check_numbers(count: int, top: int, width: float) -> None:
    if count < 1:
        raise ConfigError(f"--images is {count}; it must be at least 1")
    if top < 0 or width <= 0:
        raise ConfigError("--top is at least 0, and --width above 0")


def _kind_of_one(candidates: Sequence[Candidate]) -> str:
    known = len(candidates) == 1 and hasattr(model_class(candidates[0].cfg.model.name), "attention_maps")
    return "parts" if known else ""


def _spread(number: int, count: int, ranked: Sequence[Ranking]) -> list[int]:
    """`count` queries of `number`, evenly; where they are ranked, of those that have a gallery."""
    places = [query for query in range(number) if not ranked or ranked[0].nearest[query, 0] >= 0]
    return [places[i] for i in torch.linspace(0, len(places) - 1, min(count, len(places))).round().long().tolist()]


def _check_neighbours(queries: Sequence[int], ranked: Sequence[Ranking]) -> None:
    for query in queries:
        if ranked and ranked[0].nearest[query, 0] < 0:
            raise DataError(
                f"{ranked[0].query_paths[query]} has no gallery to compare with: all of it is of its own person and "
                "camera; leave it out of --queries"
            )
    if not queries:
        raise DataError("no query has a gallery to compare with: all of it is of the query's own person and camera")


def _looked(candidate: Candidate, title: str, target: str, kind: str, ranks: bool, top: int) -> _Looked:
    cfg = candidate.cfg
    if candidate.weights.module is not None:
        raise CheckpointError(
            f"{candidate.weights.where}: an exported file gives embeddings and cannot be looked into; give a "
            "checkpoint of occplug train (SAVE_DIR/checkpoints/STAGE.pth)"
        )
    check_target(cfg, title, target)
    data = DataManager(cfg, trains=False)
    device = torch.device("cuda" if cfg.use_gpu and torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(candidate, data, Path(folder), device)
        kind = kind or best_kind(engine.method)
        needed = ranks or kind == "gradcam"
        ranking = ranking_of(engine, data, title, target, top) if needed else None
    sides = {side: loader.dataset for side, loader in data.test_loader[target].items()}
    data.close()
    rows = camera_input(cfg, target, engine.camera_rows)
    return _Looked(title, cfg, engine.method.cpu().eval(), kind, rows, sides, ranking)


# ---------------------------------------------------------------------- figures


def _overview(looked: list[_Looked], queries: list[int], width: float) -> Figure:
    """A row a query: its picture, then the maps of each model."""
    columns = [looked[0].pictures("query", queries)[:, None]]
    heads = ["query"]
    has_several = len({each.kind for each in looked}) > 1
    for each in looked:
        others = [each.nearest(query)[0] for query in queries] if each.kind == "gradcam" else []
        titles, cells = each.maps("query", queries, others)
        columns.append(cells)
        name = f"{each.title}\n{KINDS[each.kind]}" if has_several else each.title
        heads += [f"{name}\n{title}".strip() if len(looked) > 1 or not title else title for title in titles]
    cells = torch.cat(columns, dim=1)
    figure, grid = _grid(len(queries), cells.shape[1], width, has_text=False)
    for row, line in zip(grid, cells):
        for axis, cell in zip(row, line):
            draw_picture(axis, cell.numpy(), "")
    for axis, head in zip(grid[0], heads):
        axis.set_title(head, fontsize=6, pad=3)
    return figure


def _matches(looked: list[_Looked], queries: list[int], top: int, width: float) -> Figure:
    """For each query a row a model: its picture, its map, the maps of its nearest gallery images."""
    figure, grid = _grid(len(queries) * len(looked), top + 2, width, has_text=True)
    for number, each in enumerate(looked):
        near = [each.nearest(query)[:top] for query in queries]
        _, own = each.maps("query", queries, [images[0] for images in near])
        pairs = [(query, image) for query, images in zip(queries, near) for image in images]
        _, others = each.maps("gallery", [image for _, image in pairs], [query for query, _ in pairs])
        pictures, start = each.pictures("query", queries), 0
        for place, (query, images) in enumerate(zip(queries, near)):
            row = grid[place * len(looked) + number]
            draw_picture(row[0], pictures[place].numpy(), "query")
            draw_picture(row[1], own[place, 0].numpy(), KINDS[each.kind])
            _neighbours(row[2:], each, query, images, others[start : start + len(images), 0])
            start += len(images)
    return figure


def _neighbours(axes, each: _Looked, query: int, images: list[int], cells: Tensor) -> None:
    """The nearest `images` of `query` with their frames, and the row's name."""
    ranking = each.ranking
    assert ranking is not None
    for axis, image, cell, distance in zip(axes, images, cells, ranking.distances[query]):
        is_right = ranking.g_pids[image] == ranking.q_pids[query]
        draw_picture(axis, cell.numpy(), f"{distance:.2f}", RIGHT if is_right else WRONG)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    first = axes[0].figure.axes[axes[0].get_subplotspec().num1 - 2]
    first.set_ylabel(f"{each.title}\nAP {100 * ranking.result.ap[query]:.0f} %", fontsize=7)


def _grid(rows: int, columns: int, width: float, has_text: bool) -> tuple[Figure, Any]:
    """Places for pictures of the proportions of CELL, with room for a line of text above each row if there is any."""
    gap = 0.12 if has_text else 0.03
    cell = width / (columns + 0.06 * (columns - 1))
    figure = Figure(figsize=(width, cell * CELL[0] / CELL[1] * (rows + gap * (rows - 1))))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.06, hspace=gap)
    return figure, figure.subplots(rows, columns, squeeze=False)
