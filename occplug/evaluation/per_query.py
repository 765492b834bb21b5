"""One file of figures per query, to break a run down or compare it with another without its model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from occplug.errors import DataError
from occplug.evaluation.ranking import RankResult
from occplug.utils.files import plain_name
from occplug.utils.integrity import check_lengths, read_arrays

__all__ = ["PerQuery", "per_query_file", "read_per_query"]


@dataclass(frozen=True)
class PerQuery:
    """Q queries of one target, in the data set's order.

    Args:
        image: [Q] file names, without folder.
        pid, camid: [Q] int64.
        ap: [Q] float64 average precision in [0, 1]; nan without a match.
        first_hit: [Q] int64 rank of the first match, from 1; 0 without a match.
    """

    image: np.ndarray
    pid: np.ndarray
    camid: np.ndarray
    ap: np.ndarray
    first_hit: np.ndarray

    @classmethod
    def of(cls, result: RankResult, paths: list[str]) -> PerQuery:
        """The figures of `result`, whose queries are the files `paths`."""
        names = np.array([Path(path).name for path in paths])
        return cls(names, result.pids, result.camids, result.ap, result.first_hit)

    @property
    def rank1(self) -> np.ndarray:
        """[Q] 1 where a match is ranked first, else 0; nan without a match."""
        return np.where(self.first_hit > 0, self.first_hit == 1, np.nan)

    def write(self, file: Path) -> None:
        """Write numpy's compressed archive, one array a field, to exactly `file`."""
        with Path(file).open("wb") as stream:  # given a path, numpy would append .npz to a temporary name
            np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})


def per_query_file(run: Path, target: str) -> Path:
    """Where the run in folder `run` keeps the figures of `target`."""
    return Path(run) / "per_query" / f"{plain_name(target)}.npz"


def read_per_query(file: Path) -> PerQuery:
    """Read what :meth:`PerQuery.write` wrote. Raises DataError if the file is missing, damaged or of another kind."""
    cure = "evaluate the run again with occplug test, or delete the run and train it again"
    try:
        found = read_arrays(Path(file), [field.name for field in fields(PerQuery)])
        check_lengths(found, list(found), "query")
        return PerQuery(**found)
    except FileNotFoundError:
        raise DataError(f"{file}: the figures per query are missing; {cure}") from None
    except ValueError as error:
        raise DataError(f"{file}: not a complete file of figures per query ({error}); {cure}") from error
