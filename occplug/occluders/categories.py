"""The table of occluder categories: where each stands before a person, and how much it hides."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from occplug.errors import ConfigError
from occplug.utils.files import user_path
from occplug.utils.texts import parse_yaml_text, read_text

__all__ = ["ANCHORS", "CORNERS", "EMBEDDED_CATEGORIES", "Category", "read_categories"]

EMBEDDED_CATEGORIES = Path(__file__).parents[1] / "assets" / "occluder_categories.yaml"
ANCHORS = ("side", "bottom", "stand", "top", "middle", "any")
CORNERS = ("bottom-left", "bottom-right", "top-left", "middle-left", "middle-right")
_KEYS = {"anchor", "cover", "weight", "min_alpha", "oia"}


@dataclass(frozen=True)
class Category:
    """One row of the table.

    Args:
        name: the COCO name where COCO has the category.
        index: its place in the table.
        anchor: one of ANCHORS.
        cover: (least, most) wanted share of the image.
        weight: how often it is drawn, relative to the others.
        min_alpha: least mean alpha of a cut-out taken from annotations.
        oia_area: share of the image that its box covers in OIA; None: not an OIA class.
        oia_corner: one of CORNERS; None with `oia_area`.
    """

    name: str
    index: int
    anchor: str
    cover: tuple[float, float]
    weight: float
    min_alpha: float = 0.25
    oia_area: float | None = None
    oia_corner: str | None = None


@functools.lru_cache(maxsize=8)
def read_categories(file: str = "") -> Mapping[str, Category]:
    """Name -> row, in the order of the yaml `file`; empty: the table that comes with the package.

    Raises:
        ConfigError: the file is missing, is not yaml, or a row cannot be; names the file, the row and the cure.
    """
    path = user_path(file) if file else EMBEDDED_CATEGORIES
    try:
        table = parse_yaml_text(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: the category table cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: the category table is not yaml ({error})") from error
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{path}: the category table must have rows `name: {{anchor: ..., cover: ..., weight: ...}}`")
    return {str(name): _row(path, str(name), index, row) for index, (name, row) in enumerate(table.items())}


def _row(path: Path, name: str, index: int, row) -> Category:
    where = f"{path}: category {name!r}"
    if not isinstance(row, dict) or not {"anchor", "cover", "weight"} <= set(row) <= _KEYS:
        raise ConfigError(f"{where} must have anchor, cover and weight, and may have min_alpha and oia; it has {row!r}")
    cover, oia = row["cover"], row.get("oia") or {}
    if row["anchor"] not in ANCHORS:
        raise ConfigError(f"{where}: anchor is {row['anchor']!r}; there are: {', '.join(ANCHORS)}")
    if not (isinstance(cover, list) and len(cover) == 2 and _numbers(*cover) and 0 < cover[0] <= cover[1] < 1):
        raise ConfigError(f"{where}: cover is {cover!r}; it must be two shares of the image, the smaller one first")
    if not _numbers(row["weight"], row.get("min_alpha", 0)) or row["weight"] < 0:
        raise ConfigError(f"{where}: weight and min_alpha must be numbers, at least 0")
    if oia and not (_numbers(oia.get("area")) and 0 < oia["area"] <= 1 and oia.get("corner") in CORNERS):
        raise ConfigError(f"{where}: oia must have area, a share of the image, and corner, one of {', '.join(CORNERS)}")
    return Category(
        name,
        index,
        row["anchor"],
        (float(cover[0]), float(cover[1])),
        float(row["weight"]),
        float(row.get("min_alpha", 0.25)),
        oia.get("area"),
        oia.get("corner"),
    )


def _numbers(*values) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
