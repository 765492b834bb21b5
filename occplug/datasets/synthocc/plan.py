"""Which images a benchmark holds: identities, cameras and occlusion of every split, drawn once from the world seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occplug.datasets.synthocc.knobs import Knobs
from occplug.datasets.synthocc.randomness import PLAN, rng
from occplug.errors import DataError

__all__ = ["GALLERY", "QUERY", "SIZES", "TRAIN", "TWINS", "Shot", "Size", "plan"]

# A split is named by its folder.
TRAIN, QUERY, GALLERY, TWINS = "bounding_box_train", "query", "bounding_box_test", "query_holistic"
_QUERY_K = 100  # image index of queries and twins; train and gallery count from 0


@dataclass(frozen=True)
class Size:
    """Counts of one benchmark size; images are spread over the identities, the first ones get the remainder."""

    cameras: int
    image: tuple[int, int]  # height, width
    train_ids: int
    train: int
    test_ids: int
    queries: int  # as many twins
    gallery: int  # images of the test identities
    distractor_ids: int
    distractors: int  # gallery images of identities without a query


SIZES: dict[str, Size] = {
    "tiny": Size(4, (128, 64), 16, 128, 12, 24, 72, 6, 24),
    "small": Size(6, (128, 64), 150, 1_800, 150, 600, 1_200, 100, 400),
    # to choose a recipe by: trains on 100 of small's training identities and is tested on the 50 others
    "tune": Size(6, (128, 64), 100, 1_200, 50, 200, 400, 0, 0),
    "medium": Size(8, (256, 128), 702, 15_618, 519, 2_210, 8_304, 591, 9_357),
}


@dataclass(frozen=True)
class Shot:
    """One image to render."""

    split: str
    frame: int  # unique in the data set, from 1
    pid: int  # persona, from 0; files and annotations count from 1
    camid: int  # from 0
    k: int
    is_occluded: bool

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.pid + 1:04d}_c{self.camid + 1}_f{self.frame:07d}"

    @property
    def file(self) -> str:
        """Path inside the data set."""
        return f"{self.split}/{self.stem}.jpg"


def _shares(total: int, ids: int) -> list[int]:
    return [total // ids + (i < total % ids) for i in range(ids)]


def _visits(draw: np.random.Generator, cameras: int) -> list[int]:
    """The cameras an identity visits, in random order: all but at most two, and at least two."""
    count = int(draw.integers(max(2, cameras - 2), cameras + 1))
    return draw.permutation(cameras)[:count].tolist()


def _occluded(draw: np.random.Generator, total: int, share: float) -> np.ndarray:
    chosen = np.zeros(total, bool)
    chosen[draw.permutation(total)[: round(share * total)]] = True
    return chosen


def plan(size: Size, knobs: Knobs) -> list[Shot]:
    """All images of a benchmark in the order of their frame numbers; pids: train, test, distractors.

    Raises:
        DataError: too few cameras for the queries of an identity.
    """
    most = -(-size.queries // size.test_ids)
    # an identity visits all cameras but two, and at least two; its queries need as many
    fewest = 2 if most <= 2 else most + 2
    if knobs.num_cameras < fewest:
        raise DataError(f"synthocc: num_cameras must be at least {fewest} for this size, not {knobs.num_cameras}")
    draw = rng(knobs.seed, PLAN)
    first_test, first_distractor = size.train_ids, size.train_ids + size.test_ids
    visits = [_visits(draw, knobs.num_cameras) for _ in range(first_distractor + size.distractor_ids)]
    train = _spread(range(first_test), _shares(size.train, size.train_ids), visits)
    gallery = _spread(range(first_test, first_distractor), _shares(size.gallery, size.test_ids), visits)
    others = range(first_distractor, first_distractor + size.distractor_ids)
    gallery += _spread(others, _shares(size.distractors, size.distractor_ids), visits)
    queries = [
        (pid, camid, _QUERY_K)
        for pid, count in zip(range(first_test, first_distractor), _shares(size.queries, size.test_ids))
        for camid in sorted(draw.permutation(visits[pid])[:count].tolist())
    ]
    _assert_matches(queries, gallery)
    splits = (
        (TRAIN, train, _occluded(draw, len(train), knobs.occ_train)),
        (QUERY, queries, np.ones(len(queries), bool)),
        (GALLERY, gallery, _occluded(draw, len(gallery), knobs.occ_gallery)),
        (TWINS, queries, np.zeros(len(queries), bool)),
    )
    listed = [(split, *key, bool(flag)) for split, keys, flags in splits for key, flag in zip(keys, flags)]
    return [Shot(split, frame, *rest) for frame, (split, *rest) in enumerate(listed, start=1)]


def _spread(pids, counts: list[int], visits: list[list[int]]) -> list[tuple[int, int, int]]:
    """(pid, camid, k) of `counts` images per identity, evenly over the cameras it visits."""
    keys = []
    for pid, count in zip(pids, counts):
        cameras = visits[pid]
        keys += sorted((pid, cameras[i % len(cameras)], i // len(cameras)) for i in range(count))
    return keys


def _assert_matches(queries, gallery) -> None:
    cameras: dict[int, set[int]] = {}
    for pid, camid, _ in gallery:
        cameras.setdefault(pid, set()).add(camid)
    assert all(cameras[pid] - {camid} for pid, camid, _ in queries), "a query without a match in another camera"
