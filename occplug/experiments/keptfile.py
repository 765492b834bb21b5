"""Kept runs in one file, one line of JSON a run: appended to by runs at the same time, merged by git line by line.

A line is `{"run": NAME, "config": text, "kept": {...}, "metrics": {...}, "queries": {TARGET: {field: array}}}`; NAME is
the run's folder in a folder of kept runs (:mod:`occplug.experiments.kept`), and both forms hold the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path, PurePosixPath

import numpy as np

from occplug.errors import DataError
from occplug.evaluation import PerQuery, per_query_file, read_per_query
from occplug.evaluation.ranking import RANKS
from occplug.utils.files import write_atomically
from occplug.utils.processes import held
from occplug.utils.texts import parse_json, read_json

__all__ = ["SUFFIX", "add_runs", "as_folder", "is_file_of_runs", "read_runs", "say_embedded"]

SUFFIX = ".jsonl"
TOLERANCE = 1e-6  # between a figure and the mean of its queries; torchreid's are of float32
MOST = 64 << 20  # bytes of one field of a target's queries, unpacked
CONFIG, KEPT, METRICS = "config.yaml", "kept.json", "metrics.json"


def is_file_of_runs(place: Path) -> bool:
    """Whether `place` names a file of kept runs, not a folder of them."""
    return place.suffix == SUFFIX and not place.is_dir()


def read_runs(file: Path) -> dict[str, dict]:
    """Name -> line of every run in `file`; nothing if there is no such file.

    Raises:
        DataError: a line is damaged; names file and line. The same run twice is no fault: the first counts.
    """
    runs: dict[str, dict] = {}
    if not file.exists():
        return runs
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            content = parse_json(line)
            name, _ = content["run"], [content[key] for key in ("config", "kept", "metrics", "queries")]
            _check_name(name)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number} is damaged ({error!r}); delete the line, and its run is kept again"
            ) from error
        runs.setdefault(name, content)
    return runs


def add_runs(file: Path, folder: Path) -> list[str]:
    """Append the kept runs in `folder` that `file` does not have; returns their names.

    Processes that add to one file wait for each other.

    Raises:
        DataError: a run in `folder`, or a line of `file`, is damaged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with held(file.with_name(f".{file.name}.lock"), f"the file {file}", wait=True):
        known = read_runs(file)
        paths = {path.parent.relative_to(folder).as_posix(): path.parent for path in folder.rglob(f"seed*/{METRICS}")}
        added = sorted(set(paths) - set(known))
        lines = [json.dumps(_packed(name, paths[name]), ensure_ascii=False) + "\n" for name in added]
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if lines:
            text = "".join([before, "" if before.endswith("\n") or not before else "\n", *lines])
            write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return added


def say_embedded(file: Path, files: Callable[[str], dict[str, str] | None]) -> int:
    """Write into the runs of `file` that do not say it with which files of the package they were made.

    Args:
        files: text of a config -> name and hash of each file, as `record.embedded` of `metrics.json` has them; None
            leaves the run as it is.

    Returns:
        How many runs were changed. The text of the other lines stays; of a run that is there twice, as a merge leaves
        it, the line that says it stays.
    """
    with held(file.with_name(f".{file.name}.lock"), f"the file {file}", wait=True):
        read_runs(file)  # names a damaged line
        before, changed, lines = file.read_text(encoding="utf-8"), 0, dict[str, str]()
        pairs = [(json.loads(line), line) for line in before.splitlines()]
        # a stable order: of two lines of one run the first that says it, else the first
        for content, line in sorted(pairs, key=lambda pair: "embedded" not in pair[0]["metrics"].get("record", {})):
            lines.setdefault(content["run"], line)
        for name in (content["run"] for content, _ in pairs):
            content = json.loads(lines[name])
            record = content["metrics"].setdefault("record", {})
            says = "embedded" in record or content["kept"]["tests"] is not None
            if not says and (match := files(content["config"])) is not None:
                record["embedded"] = match
                lines[name] = json.dumps(content, ensure_ascii=False)
                changed += 1
        names = dict.fromkeys(content["run"] for content, _ in pairs)
        text = "".join(f"{lines[name]}\n" for name in names)
        if text != before:
            write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return changed


@contextlib.contextmanager
def as_folder(place: Path) -> Iterator[Path]:
    """The runs of `place` as a folder of kept runs; what is added to that is in `place` afterwards.

    Args:
        place: a folder, given back as it is; or a file, unpacked into a temporary folder.
    """
    if not is_file_of_runs(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="occplug-kept-") as name:
        folder = Path(name)
        for run, content in read_runs(place).items():
            try:
                _unpack(content, folder / run)
            except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
                raise DataError(
                    f"{place}: the run {run} is damaged ({error!r}); delete its line, and it is kept again"
                ) from error
        try:
            yield folder
        finally:  # runs that were kept before a failure stay
            add_runs(place, folder)


def _check_name(name) -> None:
    """Raise ValueError for a run whose folder would lie outside the folder of runs."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or not {"..", "."}.isdisjoint(path.parts) or "\\" in name:
        raise ValueError(f"{name!r} is no folder below that of the runs")


def _check_figures(content: dict, queries: dict[str, PerQuery]) -> None:
    """Raise ValueError where a line says of a run what its queries, by target, do not."""
    seed, place = content["metrics"]["seed"], PurePosixPath(content["run"]).name
    if place != f"seed{seed}":
        raise ValueError(f"its metrics are of seed {seed}, and its name says {place}")
    for target, each in queries.items():
        told, hits = content["metrics"]["targets"][target], each.first_hit[each.first_hit > 0]
        found = {"mAP": np.nanmean(each.ap), **{f"rank{k}": np.mean(hits <= k) for k in RANKS}}
        for key, value in found.items():
            if key in told and not abs(told[key] - value) <= TOLERANCE:  # nan is not either
                raise ValueError(f"its {key} of {target} is {told[key]}, and its queries have {value:.6f}")


def _packed(name: str, run: Path) -> dict:
    try:
        kept, metrics = (read_json(run / each) for each in (KEPT, METRICS))
        config = (run / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{run} is no complete kept run ({error}); delete it, and it is kept again") from error
    queries = {target: _columns(read_per_query(per_query_file(run, target))) for target in metrics["targets"]}
    return {"run": name, "config": config, "kept": kept, "metrics": metrics, "queries": queries}


def _unpack(content: dict, run: Path) -> None:
    queries = {target: _queries(columns) for target, columns in content["queries"].items()}
    _check_figures(content, queries)
    (run / "per_query").mkdir(parents=True)
    for target, each in queries.items():
        each.write(per_query_file(run, target))
    (run / CONFIG).write_text(content["config"], encoding="utf-8")
    for name, part in ((KEPT, "kept"), (METRICS, "metrics")):
        (run / name).write_text(json.dumps(content[part], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _columns(queries: PerQuery) -> dict[str, str]:
    """Each field as text: its type, then its values compressed."""
    columns = {}
    for name, values in ((field.name, getattr(queries, field.name)) for field in fields(PerQuery)):
        if values.dtype.kind == "U":
            kind, content = "text", "\n".join(values.tolist()).encode()
        else:
            small = values.astype(np.int32) if values.dtype.kind == "i" else values.astype(np.float64)
            kind, content = small.dtype.newbyteorder("<").str, small.astype(small.dtype.newbyteorder("<")).tobytes()
        columns[name] = f"{kind}:{base64.b85encode(zlib.compress(content, 9)).decode()}"
    return columns


def _queries(columns: dict[str, str]) -> PerQuery:
    arrays = {}
    for name, column in columns.items():
        kind, _, packed = column.partition(":")
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b85decode(packed), MOST)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError(f"{name} is cut off, or takes more than {MOST:,} bytes unpacked")
        if kind == "text":
            arrays[name] = np.array(content.decode().split("\n"))
        else:
            values = np.frombuffer(content, kind)
            arrays[name] = values.astype(np.int64 if values.dtype.kind == "i" else np.float64)
    return PerQuery(**arrays)
