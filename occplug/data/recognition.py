"""What images a model was trained and tested with: a few bytes of each, which weights keep.

They are of a file's content, so an image is recognised in another folder, in a list and under another name, and is not
once it was compressed again.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

__all__ = ["ImageMarks", "are_marks", "mark_of"]

MOST = 100_000  # marks of a side, unless it has more identities: then one of each
BYTES = 6  # of a mark: of 10^5 strange images beside 10^5 known ones one in 30,000 is taken for known


@dataclass(frozen=True)
class ImageMarks:
    """Marks of the images that a model was trained on, and of the queries and galleries it was tested on."""

    train: frozenset[bytes]
    test: frozenset[bytes]

    @classmethod
    def of(cls, data) -> ImageMarks:
        """Of the training images and the targets of `data`, a :class:`occplug.data.manager.DataManager`."""
        train = [(path, label) for path, label, *_ in data.train_items]
        test: list[tuple[str, Hashable]] = []
        for name, sides in data.test_dataset.items():
            nobody = getattr(data.sets[name], "_junk_pids", ())
            rows = [*sides["query"], *sides["gallery"]]
            test += [(path, (name, pid)) for path, pid, *_ in rows if pid not in nobody]
        return cls(_marks(train), _marks(test))

    @classmethod
    def of_dict(cls, texts: dict[str, str]) -> ImageMarks:
        """What `as_dict` gave; `are_marks` says whether it can have."""
        return cls(_parsed(texts["train"]), _parsed(texts["test"]))

    def as_dict(self) -> dict[str, str]:
        """Texts, for files: 8 characters a mark, sorted."""
        return {side: base64.b64encode(b"".join(sorted(getattr(self, side)))).decode() for side in ("train", "test")}


def mark_of(path: str) -> bytes | None:
    """The mark of the file `path`; None if it cannot be read, which is for others to tell."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=BYTES).digest()
    return None


def are_marks(value) -> bool:
    """Whether `value` is what `ImageMarks.as_dict` gives."""
    try:
        return isinstance(value, dict) and value.keys() == {"train", "test"} and bool(ImageMarks.of_dict(value))
    except (TypeError, ValueError):
        return False


def _marks(rows: Iterable[tuple[str, Hashable]]) -> frozenset[bytes]:
    """Marks of (path, identity): of each identity equally many at most, always the same ones."""
    marks: dict[Hashable, set[bytes]] = defaultdict(set)
    for path, identity in rows:
        mark = mark_of(str(path))
        if mark is not None:
            marks[identity].add(mark)
    each = max(1, MOST // max(len(marks), 1))
    return frozenset(mark for of_one in marks.values() for mark in sorted(of_one)[:each])


def _parsed(text: str) -> frozenset[bytes]:
    content = base64.b64decode(text, validate=True)
    if len(content) % BYTES:
        raise binascii.Error(f"{len(content)} bytes are no marks of {BYTES}")
    return frozenset(content[start : start + BYTES] for start in range(0, len(content), BYTES))
