"""The index of the model zoo: `index.yaml`, one entry a published or measured row. Read strictly, written in one form.

licences:                             # what an entry's `licence` names
  code: {clip_reid: MIT (...), ...}
  weights: {openai: MIT, ...}         # initial weights
  data: {occluded_duke: ..., ...}
overview:                             # rows of the README's table, may be left out
- {title: CLIP-ReID, paper: AAAI 2023, published: clip_reid/vit_b16/occduke, synthocc: clip_reid/vit_tiny/synthocc}
entries:
  clip_reid/vit_b16/occduke:          # zoo://clip_reid/vit_b16/occduke
    method: clip_reid                 # model.name
    config: configs/clip_reid_occduke.yaml
    set: {data.height: 160}           # config keys over the file; may be left out
    data: occluded_duke               # the target
    published:                        # per cent; [] where nothing is published, null for a figure nobody gives
      - {mAP: 59.5, rank1: 67.1, source: ...}
    notes: ...                        # may be left out
    ours: not measured                # or figures of our own runs, see `Measured`
    checkpoint: none                  # or, see `Checkpoint`
    log: none                         # or {drive: ID} or {url: ...}, of the official run
    licence: {code: clip_reid, weights: openai, data: occluded_duke}
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from occplug.config.files import parse_yaml
from occplug.errors import ConfigError
from occplug.utils.files import user_path, write_atomically
from occplug.zoo.schema import checked, choice

__all__ = [
    "FIGURES",
    "INDEX",
    "NOT_RECORDED",
    "Checkpoint",
    "Entry",
    "Index",
    "Made",
    "Measured",
    "Published",
    "Run",
    "read_index",
]

INDEX = Path(__file__).with_name("index.yaml")
FIGURES = ("mAP", "rank1", "rank5", "rank10")
NAME = re.compile(r"[a-z0-9_]+/[a-z0-9_]+/[a-z0-9_]+")
PLACES = ("file", "url", "drive")
NOT_RECORDED = "not recorded"
OVERVIEW = ("title", "paper", "published", "synthocc")
_HEAD = f"""\
# The model zoo. Rows are added and filled by tools/zoo.py (add, export), which keeps this form; texts are by hand.
# What the keys mean: occplug/zoo/index.py. model_zoo.md is made from this file by: python tools/zoo.py table
{"# " + "-" * 116}
"""


@dataclass(frozen=True)
class Published:
    """Figures somebody else states, in per cent; None where they give none."""

    mAP: float | None
    rank1: float | None
    source: str


@dataclass(frozen=True)
class Run:
    """One of our runs: seed, ISO date, minutes of training, MiB at the peak (None: not recorded), figures in [0, 1]."""

    seed: int
    date: str
    minutes: float
    memory_mib: int | None
    figures: dict[str, float]


@dataclass(frozen=True)
class Made:
    """On what and by which code the runs of `seeds` were made; "not recorded" (versions: empty) where they do not say.

    Args:
        machine: its kind; revision: of this repository; sources: hash of the code that computes; versions: of packages.
    """

    seeds: tuple[int, ...]
    machine: str
    revision: str
    sources: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Measured:
    """Our own figures of an entry, and what is needed to find out why they differ one day.

    Args:
        command: that made them.
        protocol: how features were made and compared.
        config: config keys over the entry's `config`, dotted, that the runs had.
        data: data set -> counts and fingerprint, as in `metrics.json`.
        made: each kind of machine and code once; every run belongs to one.
    """

    command: str
    protocol: str
    config: dict[str, object]
    data: dict[str, dict]
    made: tuple[Made, ...]
    runs: tuple[Run, ...]

    def made_of(self, run: Run) -> Made:
        """On what and by which code `run` was made."""
        return next(made for made in self.made if run.seed in made.seeds)


@dataclass(frozen=True)
class Checkpoint:
    """A weight file: one of `file` (beside the index in a checkout), `url`, `drive` (a Google Drive id).

    A `file` may have one of the others beside it, from where installed packages without the file fetch it.

    Args:
        format: "occplug", or a source of `occplug.importers.load_official`.
        sha256, size: None where this project has not had the file.
        seed: of the run it is from, for our own.
    """

    format: str
    file: str | None = None
    url: str | None = None
    drive: str | None = None
    sha256: str | None = None
    size: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Entry:
    """One row; see the head of this file."""

    name: str
    method: str
    config: str
    data: str
    published: tuple[Published, ...]
    licence: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    notes: str = ""
    ours: Measured | None = None
    checkpoint: Checkpoint | None = None
    log: dict[str, str] | None = None

    @property
    def options(self) -> list:
        """Its config keys over the file, as `load_config` takes them."""
        return [item for pair in self.settings.items() for item in pair]


@dataclass
class Index:
    """The zoo: licences by kind and name, entries by name; `file` is where it lies.

    Attributes:
        overview: rows of a short table, each with a `title`, a `paper` (Markdown), and the names of the entries whose
            figures are `published` and measured on `synthocc`.
    """

    file: Path
    licences: dict[str, dict[str, str]]
    entries: dict[str, Entry]
    overview: list[dict[str, str]] = field(default_factory=list)

    def find(self, name: str) -> Entry:
        """The entry `name`, `zoo://` allowed. Raises ConfigError that gives the nearest names."""
        name = name.removeprefix("zoo://")
        if name not in self.entries:
            near = difflib.get_close_matches(name, self.entries, n=3, cutoff=0.4)
            hint = f"; the nearest: {', '.join(near)}" if near else ""
            raise ConfigError(f"the model zoo has no entry {name!r}{hint}; occplug zoo list prints all")
        return self.entries[name]

    def put(self, entry: Entry) -> None:
        """Add `entry`, or replace the one of its name.

        Raises:
            ConfigError: its name has another form than method/variant/data, or it names a licence that is not listed.
        """
        if not NAME.fullmatch(entry.name):
            form = "an entry is called method/variant/data, of small letters, digits and _"
            raise ConfigError(f"{self.file}: {entry.name}: {form}")
        _check_licence(entry.licence, self.licences, f"{self.file}: {entry.name}")
        self.entries[entry.name] = entry

    def path_of(self, entry: Entry) -> Path | None:
        """Where the checkpoint lies in a checkout, None if it is a download; a wheel carries only some of these."""
        point = entry.checkpoint
        return self.file.parent / point.file if point is not None and point.file else None

    def text(self) -> str:
        """The file's content in its one form."""
        entries = {entry.name: _entry_node(entry) for entry in sorted(self.entries.values(), key=_order)}
        tree: dict[str, Any] = {"licences": self.licences}
        tree |= {"overview": self.overview} if self.overview else {}
        tree |= {"entries": entries}
        layout: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "allow_unicode": True, "width": 118}
        body = yaml.dump(tree, Dumper=_Dumper, **layout)
        return _HEAD + re.sub(r"^(overview:|entries:|  [\w/]+/\w+:)$", r"\n\1", body, flags=re.M)

    def write(self) -> None:
        """Write `text()` to `file`, whole or not at all."""
        write_atomically(self.file, lambda temporary: temporary.write_text(self.text(), encoding="utf-8"))


def read_index(file: Path = INDEX) -> Index:
    """The index in `file`.

    Raises:
        ConfigError: not yaml; an unknown, missing or wrongly typed key; a licence that is not listed. Names the entry
            and the key.
    """
    file = user_path(file)
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such index of the model zoo")
    tree = checked(parse_yaml(file), str(file), {"licences": dict, "entries": dict}, {"overview": list})
    kinds = dict.fromkeys(("code", "weights", "data"), dict)
    licences = checked(tree["licences"], f"{file}: licences", kinds)
    index = Index(file, licences, {})
    for name, node in tree["entries"].items():
        entry = _entry(str(name), node, f"{file}: {name}")
        index.put(entry)
    for number, row in enumerate(tree.get("overview", [])):
        row = checked(row, f"{file}: overview[{number}]", dict.fromkeys(OVERVIEW, str))
        index.find(row["published"]), index.find(row["synthocc"])
        index.overview.append(row)
    return index


# ---------------------------------------------------------------------- reading


def _entry(name: str, node, where: str) -> Entry:
    needed = {"method": str, "config": str, "data": str, "published": list, "ours": (dict, str)}
    needed |= {"checkpoint": (dict, str), "log": (dict, str), "licence": dict}
    values = checked(node, where, needed, {"set": dict, "notes": str})
    licence = checked(values["licence"], f"{where}: licence", dict.fromkeys(("code", "weights", "data"), str))
    return Entry(
        name=name,
        method=values["method"],
        config=values["config"],
        data=values["data"],
        published=tuple(_published(n, f"{where}: published[{i}]") for i, n in enumerate(values["published"])),
        licence=licence,
        settings=values.get("set", {}),
        notes=values.get("notes", ""),
        ours=choice(values["ours"], "not measured", f"{where}: ours", _measured),
        checkpoint=choice(values["checkpoint"], "none", f"{where}: checkpoint", _checkpoint),
        log=choice(values["log"], "none", f"{where}: log", _log),
    )


def _published(node, where: str) -> Published:
    number = (float, int, type(None))
    values = checked(node, where, {"mAP": number, "rank1": number, "source": str})
    for key in ("mAP", "rank1"):
        if values[key] is not None and not 0 <= values[key] <= 100:
            raise ConfigError(f"{where}: {key} is {values[key]}, expected per cent, 0 to 100")
    return Published(**values)


def _measured(node, where: str) -> Measured:
    needed = {"command": str, "protocol": str, "config": dict, "data": dict, "made": list, "runs": list}
    values = checked(node, where, needed)
    if not values["runs"]:
        raise ConfigError(f"{where}: runs is empty; write 'not measured' in place of it all")
    counts = dict.fromkeys(("train", "query", "gallery", "train_ids"), int)
    for name, summary in values["data"].items():
        checked(summary, f"{where}: data: {name}", {**counts, "fingerprint": str})
    runs = tuple(_run(n, f"{where}: runs[{i}]") for i, n in enumerate(values["runs"]))
    made = tuple(_made(n, f"{where}: made[{i}]") for i, n in enumerate(values["made"]))
    seeds, recorded = [run.seed for run in runs], [seed for one in made for seed in one.seeds]
    if sorted(seeds, key=str) != sorted(recorded, key=str):  # as text, since `recorded` is not checked to be numbers
        raise ConfigError(f"{where}: made is about the seeds {recorded}, but runs has {seeds}; name each once")
    return Measured(**{**values, "made": made, "runs": runs})


def _made(node, where: str) -> Made:
    texts = dict.fromkeys(("machine", "revision", "sources"), str)
    values = checked(node, where, {"seeds": list, **texts, "versions": dict})
    return Made(**{**values, "seeds": tuple(values["seeds"])})


def _run(node, where: str) -> Run:
    needed = {"seed": int, "date": str, "minutes": (float, int), "memory_mib": (int, str)}
    values = checked(node, where, {**needed, **dict.fromkeys(FIGURES, float)})
    figures = {key: values.pop(key) for key in FIGURES}
    for key, value in figures.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{where}: {key} is {value}, expected a fraction, 0 to 1")
    memory = choice(values["memory_mib"], NOT_RECORDED, f"{where}: memory_mib", lambda value, where: value)
    return Run(values["seed"], values["date"], float(values["minutes"]), memory, figures)


def _checkpoint(node, where: str) -> Checkpoint:
    needed = {"format": str, "sha256": str, "bytes": (int, str)}
    values = checked(node, where, needed, {**dict.fromkeys(PLACES, str), "seed": int})
    remote = sum(place in values for place in PLACES[1:])
    if remote > 1 or remote == 0 and "file" not in values:
        raise ConfigError(
            f"{where}: needs exactly one of {', '.join(PLACES)}; only a file may have one of the others too"
        )
    inside = Path(values.get("file", "."))
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigError(f"{where}: file is {values['file']}, expected a path inside the folder of the index")
    sha256 = None if values["sha256"] == "unknown" else values["sha256"]
    if sha256 is None and "file" in values:
        raise ConfigError(f"{where}: sha256 is unknown, but {values['file']} is in the package; state it")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ConfigError(f"{where}: sha256 is {sha256!r}, expected 64 hexadecimal digits, or: unknown")
    size = choice(values["bytes"], "unknown", f"{where}: bytes", lambda value, where: value)
    places = {place: values.get(place) for place in PLACES}
    return Checkpoint(values["format"], **places, sha256=sha256, size=size, seed=values.get("seed"))


def _log(node, where: str) -> dict[str, str]:
    values = checked(node, where, {}, {"url": str, "drive": str})
    if len(values) != 1:
        raise ConfigError(f"{where}: needs exactly one of url, drive")
    return values


def _check_licence(licence: dict[str, str], known: dict[str, dict[str, str]], where: str) -> None:
    for kind, name in licence.items():
        if name not in known[kind]:
            listed = ", ".join(known[kind])
            raise ConfigError(f"{where}: licence.{kind} is {name!r}, which licences.{kind} does not list: {listed}")


# ---------------------------------------------------------------------- writing


class _Flow(dict):
    """A mapping written on one line."""


class _Dumper(yaml.SafeDumper):
    """yaml's safe dumper, with `_Flow` and empty or plain lists on one line."""

    def ignore_aliases(self, data) -> bool:
        return True


_Dumper.add_representer(_Flow, lambda d, value: d.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True))


def _order(entry: Entry) -> str:
    return entry.name


def _entry_node(entry: Entry) -> dict:
    node: dict = {"method": entry.method, "config": entry.config}
    if entry.settings:
        node["set"] = _Flow(entry.settings)
    node["data"] = entry.data
    node["published"] = [_Flow(vars(published)) for published in entry.published]
    if entry.notes:
        node["notes"] = entry.notes
    node["ours"] = "not measured" if entry.ours is None else _measured_node(entry.ours)
    node["checkpoint"] = "none" if entry.checkpoint is None else _checkpoint_node(entry.checkpoint)
    node["log"] = "none" if entry.log is None else _Flow(entry.log)
    node["licence"] = _Flow(entry.licence)
    return node


def _measured_node(ours: Measured) -> dict:
    node = dict(vars(ours))
    node["config"] = _Flow(ours.config)
    node["made"] = [_Flow({**vars(made), "seeds": list(made.seeds)}) for made in ours.made]
    node["data"] = {name: _Flow(summary) for name, summary in ours.data.items()}
    node["runs"] = [_run_node(run) for run in ours.runs]
    return node


def _run_node(run: Run) -> _Flow:
    memory = NOT_RECORDED if run.memory_mib is None else run.memory_mib
    return _Flow({"seed": run.seed, "date": run.date, "minutes": run.minutes, "memory_mib": memory, **run.figures})


def _checkpoint_node(point: Checkpoint) -> _Flow:
    places = {place: getattr(point, place) for place in PLACES if getattr(point, place) is not None}
    seed = {} if point.seed is None else {"seed": point.seed}
    known = {"sha256": point.sha256 or "unknown", "bytes": "unknown" if point.size is None else point.size}
    return _Flow({**places, "format": point.format, **seed, **known})
