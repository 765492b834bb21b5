"""An official checkpoint as one of ours, and what became of each of its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from occplug.engine import save_checkpoint
from occplug.importers import load_official
from occplug.importers.vit_family import SaliencyModel
from occplug.utils.keys import KeyReport, key_report

__all__ = ["Outcome", "convert"]


@dataclass(frozen=True)
class Outcome:
    """What became of every tensor of an official file.

    Args:
        read: name there -> shape there, and our name.
        left: names there that no tensor of ours is made of: only checked, or not needed.
        filled: our names that nothing there was made into, at values without effect.
    """

    read: dict[str, tuple[tuple[int, ...], str]]
    left: list[str]
    filled: list[str]

    @classmethod
    def of(cls, report: KeyReport, ours: Iterable[str]) -> Outcome:
        """The names in the file, as of `report`, compared with the names `ours` that were written."""
        ours = list(ours)
        names = {name: report.renamed.get(name, name) for name in report.found}
        read = {name: (shape, names[name]) for name, shape in report.found.items() if names[name] in ours}
        made = {name for _, name in read.values()}
        return cls(read, [name for name in names if name not in read], [name for name in ours if name not in made])

    def lines(self) -> list[str]:
        """One a tensor."""
        read = [
            f"read     {name} {list(shape)}" + ("" if ours == name else f" -> {ours}")
            for name, (shape, ours) in self.read.items()
        ]
        return [*read, *(f"left     {name}" for name in self.left), *(f"filled   {name}" for name in self.filled)]


def convert(source: str, given: Path, made: Path, image_size: tuple[int, int] = (256, 128)) -> Outcome:
    """Write the official checkpoint `given` under our names to `made`; returns what became of every key.

    Raises:
        ConfigError: an unknown source; CheckpointError: as `load_official`. Nothing is written then.
    """
    with key_report() as report:
        module = load_official(source, given, image_size=image_size)
    state = module.state_dict()
    cameras = state.get("backbone.camera_embedding")
    content = {
        "state_dict": state,
        "source": source,
        "config": "",
        "num_classes": getattr(module, "num_classes", 1),
        "num_cameras": 1 if cameras is None else len(cameras),
    }
    if isinstance(module, SaliencyModel):  # not a model to test, but a stage that others build on
        content |= module.as_stage()
    save_checkpoint(content, made)
    return Outcome.of(report, cast(dict, content["state_dict"]))
