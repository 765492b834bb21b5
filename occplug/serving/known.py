"""Which people a model has met, in training or in the test of its config: whose images tell nothing of strangers.

Weights keep marks of their images (:mod:`occplug.data.recognition`). Files of earlier versions do not: then the data
sets that their config names are read, where they still lie. People of SynthOcc are also known by the seed of the world
in its manifest, as it is rendered anew elsewhere, with other bytes.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from occplug.data.manager import DataManager
from occplug.data.recognition import ImageMarks, mark_of
from occplug.datasets.by_path import is_ours
from occplug.datasets.common import MARKET_NAME
from occplug.datasets.synthocc import SIZES
from occplug.errors import OccplugError
from occplug.runs.candidates import config_of
from occplug.torchreid_host import stock_dataset
from occplug.utils.texts import read_json
from occplug.zoo.weights import TestWeights

__all__ = ["Known", "known_of", "world_is_there"]

_log = logging.getLogger(__name__)
WORLD = "synthocc"
_TEST_FOLDERS = ("query", "query_holistic", "bounding_box_test")


@dataclass(frozen=True)
class World:
    """The SynthOcc world that a run took its people from."""

    seed: int
    trained: frozenset[int]  # person numbers
    is_tested: bool  # on it


@dataclass(frozen=True)
class Known:
    """What is known of a model's images.

    Args:
        marks: of the images; None: not known.
        is_whole: of all its training images, or they are of a world.
        world: of its people; None: they are of none, or it is not known of which.
    """

    marks: ImageMarks | None
    is_whole: bool
    world: World | None

    def side_of(self, path: str) -> str:
        """ "train" or "test" for an image of the model's, or of a person of its world; else ""."""
        mark = None if self.marks is None else mark_of(path)
        if self.marks is not None and mark in self.marks.train:
            return "train"
        if self.world is not None and (side := self._side_in_world(self.world, Path(path))):
            return side
        return "test" if self.marks is not None and mark in self.marks.test else ""

    def _side_in_world(self, world: World, path: Path) -> str:
        person = re.match(MARKET_NAME, path.name)
        if person is None or world_of(path.parent) != world.seed:
            return ""
        if int(person["pid"]) in world.trained:
            return "train"
        return "test" if world.is_tested and path.parent.name in _TEST_FOLDERS else ""

    def tells_of(self, paths: Iterable[str]) -> bool:
        """Whether an image of `paths` that has no side is known to be of a stranger."""
        if self.is_whole:
            return True
        return self.world is not None and all(world_of(Path(path).parent) is not None for path in paths)

    def has_all_of(self, size: str, seed: int) -> bool:
        """Whether all training people of the SynthOcc of `size` and `seed` are the model's."""
        world = self.world
        return world is not None and world.seed == seed and world.trained >= set(range(1, SIZES[size].train_ids + 1))


@functools.lru_cache(maxsize=64)
def world_of(folder: Path) -> int | None:
    """The seed of the SynthOcc whose images lie in `folder`; None if they are of none."""
    try:
        return int(read_json(folder.parent / "manifest.json")["settings"]["seed"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def world_is_there(root: str, size: str) -> bool:
    """Whether the SynthOcc of `size` is rendered below `root`."""
    return Path(root, WORLD, size).is_dir()


def known_of(weights: TestWeights | None, root: str) -> Known:
    """What `weights` tell of the images they were made from.

    Args:
        root: folder of the data sets, where weights of earlier versions have their images looked for.
    """
    if weights is None:
        return Known(None, False, None)
    cfg = config_of(weights.config) if weights.config else None
    world = _world(weights, cfg)
    if weights.images is not None:
        return Known(ImageMarks.of_dict(weights.images), True, world)
    if cfg is None or weights.pids is None:
        return Known(None, False, world)
    return _read_again(cfg, frozenset(weights.pids), root, world)


def _world(weights: TestWeights, cfg) -> World | None:
    if cfg is None or weights.pids is None or WORLD not in [*cfg.data.sources, *cfg.data.targets]:
        return None
    trained = frozenset(weights.pids) if WORLD in cfg.data.sources else frozenset()
    return World(cfg.synthocc.seed, trained, WORLD in cfg.data.targets)


def _read_again(cfg, pids: frozenset, root: str, world: World | None) -> Known:
    """Marks of the images that the data sets of `cfg` have now; what is not there stays unknown."""
    parts, is_whole = [], True
    for side in ("sources", "targets"):
        for name in getattr(cfg.data, side):
            marks = _marks_of_set(cfg, root, name, side, pids)
            is_whole &= marks is not None or side == "targets"
            parts += [] if marks is None else [marks]
    train, test = (frozenset().union(*(getattr(part, side) for part in parts)) for side in ("train", "test"))
    return Known(ImageMarks(train, test) if parts else None, is_whole, world)


def _is_there(cfg, root: str, name: str) -> bool:
    """Whether the data set `name` can be there: SynthOcc would be rendered, and torchreid's own sets downloaded."""
    if name == WORLD:
        return world_is_there(root, cfg.synthocc.size)
    return is_ours(name) or Path(root, getattr(stock_dataset(name), "dataset_dir", None) or name).is_dir()


def _marks_of_set(cfg, root: str, name: str, side: str, pids: frozenset) -> ImageMarks | None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.data.root, cfg.data.cache = root, "none"
    cfg.data.targets = [name] if side == "targets" else []
    cfg.data.sources = cfg.data.sources if side == "targets" else [name]  # which of them a target is, parts it
    try:
        if not _is_there(cfg, root, name):
            return None
        data = DataManager(cfg, trains=False, sources=side == "sources")
    except (OccplugError, RuntimeError, OSError) as error:
        _log.debug("%s of the weights' config cannot be read: %s", name, error)
        return None
    data.train_items = [row for row in data.train_items if data.pids[row[1]] in pids]
    return ImageMarks.of(data)
