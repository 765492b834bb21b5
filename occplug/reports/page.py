"""One self-contained page about one run or several: figures, curves, a map of vectors, and every query's ranking."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

import occplug
from occplug.errors import DataError
from occplug.evaluation import PairedDifference, PerQuery, paired_bootstrap
from occplug.reports.charts import cmc_chart, curve_charts, occlusion_chart
from occplug.reports.sprite import COLUMNS, Sprite
from occplug.reports.views import View, view_of_folder
from occplug.utils.files import write_atomically
from occplug.utils.plotting import COLORS

__all__ = ["leave_comparison", "leave_page", "write_page"]

log = logging.getLogger(__name__)

FIGURES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "rank20": "Rank-20"}
PERPLEXITY = 30  # of t-SNE
IN_A_RUN: dict = {"limit": 2000, "seconds": 20.0}  # a page that a training leaves behind has to be quick
NO_MATCH = -1.0  # average precision of a query that no gallery image matches, in the page's data


def leave_page(folder: Path, cfg) -> None:
    """Write `report.html` about the run or test in `folder` into it, unless `run.page` is off.

    A page that fails is a warning, never an error. Of several processes the first writes.
    """
    if cfg.run.page and os.environ.get("RANK", "0") == "0":
        _written(lambda: write_page([view_of_folder(folder)], folder / "report.html", **IN_A_RUN))


def leave_comparison(folders: dict[str, Path], file: Path) -> None:
    """Write the page about the runs in `folders`, title -> folder, to `file`; a failure is a warning.

    Without folders, as where all runs come from a file that keeps figures alone, there is no page.
    """
    if not folders:
        return
    _written(lambda: write_page([view_of_folder(each, title) for title, each in folders.items()], file))


def _written(write: Callable[[], Path]) -> None:
    try:
        log.info("page: %s", write())
    except Exception as error:  # whatever it is, the runs and their figures are complete
        log.warning("the page about the run could not be made (%s: %s)", type(error).__name__, error)


def write_page(views: Sequence[View], file: Path, root: str = "", **bounds) -> Path:
    """Write the page about `views`, in the order given, to `file`.

    Args:
        root: folder of the data sets, if it is another now than when the runs were tested.
        bounds: `limit` and `seconds` of the :class:`Sprite`.

    Raises:
        DataError: runs without a common target, or tested on other queries.
        OutputError: the file cannot be written.
    """
    targets = [t for t in views[0].metrics["targets"] if all(t in view.metrics["targets"] for view in views)]
    if not targets:
        raise DataError("these runs have no test set in common, so there is nothing to put side by side")
    sprite = Sprite(root, next((view.root for view in views if view.root), ""), **bounds)
    for target in targets:
        _check_same_queries(views, target)
        _wish(sprite, views, target)
    jpeg = sprite.drawn()
    sets = [_target(views, target, sprite) for target in targets]
    width, height = sprite.cell
    data = {"sets": sets, "titles": [v.title for v in views], "colors": list(COLORS), "columns": COLUMNS}
    template = Environment(loader=PackageLoader("occplug", "assets"), autoescape=True).get_template("report.html")
    html = template.render(
        views=views,
        targets=targets,
        figures=FIGURES,
        curves=[curve_charts(view.curves) for view in views],
        charts=[_charts(views, target) for target in targets],
        compared=[_compared(views, target) for target in targets],
        sprite=jpeg,
        missing=sprite.missing,
        data=_embedded({**data, "cell": [width, height], "has_sprite": bool(jpeg)}),
        version=occplug.__version__,
    )
    # names of data sets and runs need not be text
    write_atomically(file, lambda temporary: temporary.write_bytes(html.encode("utf-8", "backslashreplace")))
    return file


def _embedded(data: dict) -> Markup:
    """JSON that may stand in a script element, whatever its texts hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _check_same_queries(views: Sequence[View], target: str) -> None:
    known = [view for view in views if target in view.queries]
    for view in known[1:]:
        if not np.array_equal(view.queries[target].image, known[0].queries[target].image):
            raise DataError(f"{view.title} and {known[0].title} were tested on other queries of {target}")


def _wish(sprite: Sprite, views: Sequence[View], target: str) -> None:
    """Queries from the lowest average precision on, each with its lists, then what the map shows."""
    listing = [(view.lists[target], view.queries[target]) for view in views if target in view.lists]
    if not listing:
        return
    worst = np.nan_to_num(np.min([queries.ap for _, queries in listing], axis=0), nan=2.0)
    share = sprite.limit * 2 // 3
    for query in np.argsort(worst, kind="stable").tolist():
        if len(sprite) > share:
            break
        for lists, _ in listing:
            near = lists.nearest[query]
            sprite.wish([lists.query_path[query], *lists.path[near[near >= 0]]])
    sprite.wish(listing[0][0].query_path)
    sprite.wish(listing[0][0].map_path)


def _target(views: Sequence[View], target: str, sprite: Sprite) -> dict:
    """The page's data about one target: queries, listed gallery images, and per model figures, lists and map."""
    first = next((view for view in views if target in view.queries), None)
    if first is None:
        return {"name": target, "queries": None, "models": []}
    queries, known = first.queries[target], [view.lists[target] for view in views if target in view.lists]
    paths = known[0].query_path if known else [""] * len(queries.image)
    occlusion = known[0].occlusion if known else np.full(len(queries.image), np.nan)
    images: dict[str, int] = {}
    gallery: dict[str, list] = {"name": [], "pid": [], "cam": [], "thumb": []}
    for lists in known:
        for path, pid, camid in zip(lists.path.tolist(), lists.pid.tolist(), lists.camid.tolist()):
            if path not in images:
                images[path] = len(images)
                row = (Path(path).name, pid, camid, sprite.place(path))
                for column, value in zip(gallery.values(), row):
                    column.append(value)
    return {
        "name": target,
        "queries": {
            "name": queries.image.tolist(),
            "pid": queries.pid.tolist(),
            "cam": queries.camid.tolist(),
            "thumb": [sprite.place(path) for path in paths],
            "occlusion": None if np.isnan(occlusion).all() else _rounded(np.nan_to_num(occlusion, nan=-1), 3),
        },
        "gallery": gallery,
        "models": [_model(view, target, images, sprite) for view in views],
    }


def _model(view: View, target: str, images: dict[str, int], sprite: Sprite) -> dict | None:
    queries, lists = view.queries.get(target), view.lists.get(target)
    if queries is None:
        return None
    found = {"ap": _rounded(np.nan_to_num(queries.ap, nan=NO_MATCH), 4), "hit": queries.first_hit.tolist()}
    if lists is None:
        return found
    place = np.array([images[path] for path in lists.path.tolist()] + [-1])
    found["lists"] = place[lists.nearest].tolist()
    found["distance"] = _rounded(np.where(np.isinf(lists.distance), -1, lists.distance), 3)
    if lists.part.size:
        found |= {"parts": lists.part.tolist(), "deciding": lists.deciding.tolist()}
    if not np.isnan(lists.mask_effect).all():
        found["mask"] = _rounded(np.nan_to_num(lists.mask_effect), 3)
    found["map"] = _map(lists, sprite)
    return found


def _map(lists, sprite: Sprite) -> list[list]:
    """Points [x, y, pid, camera, is a query, picture, name], x and y in [0, 1], by t-SNE."""
    from sklearn.manifold import TSNE

    vectors = lists.map_vector.astype(np.float32)
    if len(vectors) < 5:
        return []
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(vectors)
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
    rows = zip(points, lists.map_pid, lists.map_camid, lists.map_is_query, lists.map_path.tolist())
    return [
        [*_rounded(point, 4), int(pid), int(camid), int(is_query), sprite.place(path), Path(path).name]
        for point, pid, camid, is_query, path in rows
    ]


def _rounded(values, digits: int) -> list:
    return np.round(np.asarray(values, float), digits).tolist()


def _charts(views: Sequence[View], target: str) -> list[tuple[str, str]]:
    """Title and SVG of the target's charts."""
    queries = {view.title: view.queries[target] for view in views if target in view.queries}
    if not queries:
        return []
    occlusion = next((view.lists[target].occlusion for view in views if target in view.lists), np.array([np.nan]))
    made = {"CMC": cmc_chart(queries), "Average precision by occlusion": occlusion_chart(queries, occlusion)}
    return [(title, chart) for title, chart in made.items() if chart]


def _compared(views: Sequence[View], target: str) -> list[tuple[str, PairedDifference, PairedDifference]]:
    """The first model against each other: title, difference in mAP and in Rank-1."""
    if target not in views[0].queries:
        return []
    ours: PerQuery = views[0].queries[target]
    others = [(view.title, view.queries[target]) for view in views[1:] if target in view.queries]
    return [
        (title, paired_bootstrap(ours.ap, base.ap, ours.pid), paired_bootstrap(ours.rank1, base.rank1, ours.pid))
        for title, base in others
    ]
