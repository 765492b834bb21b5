"""A quick look whether a rendered benchmark is complete."""

from __future__ import annotations

import os
from pathlib import Path

from occplug.datasets.synthocc.files import IDENTITIES, IMAGES, MANIFEST, VERSION, bank_names
from occplug.datasets.synthocc.knobs import DEFAULTS, Knobs
from occplug.errors import DataError
from occplug.utils.texts import parse_json, read_json

__all__ = ["check", "read_annotations", "read_identities", "rebuild_command"]

_ENDINGS = (".jpg", ".png", ".json", ".jsonl")


def rebuild_command(directory: Path, seed: int = DEFAULTS["seed"]) -> str:
    """The command line that renders `directory` (<root>/synthocc/<size>)."""
    command = f"occplug synthocc --root {directory.parent.parent} --size {directory.name}"
    return command if seed == DEFAULTS["seed"] else f"{command} --seed {seed}"


def check(directory: str | Path) -> dict:
    """The manifest of `directory`, after a check of its version and of the number of files in each folder.

    Raises:
        DataError: damaged or of another version; names the first missing file and the command to rebuild.
    """
    directory = Path(directory)
    try:
        manifest = read_json(directory / MANIFEST)
        version, expected, seed = manifest["version"], manifest["files"], manifest["settings"]["seed"]
    except FileNotFoundError:
        raise _damage(directory, f"{MANIFEST} is missing") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damage(directory, f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    if version != VERSION:
        raise _damage(directory, f"it was made by {version}, this is {VERSION}", seed)
    for folder, count in expected.items():
        names = _names(directory / folder)
        if len(names) != count:
            raise _damage(directory, _difference(directory, folder, names, count, manifest), seed)
    return manifest


def read_annotations(directory: str | Path, seed: int = DEFAULTS["seed"]) -> list[dict]:
    """The lines of annotations/images.jsonl.

    Raises:
        DataError: it is missing, or a line is damaged or lacks what is read of it; names it and the command to rebuild.
    """
    directory, records = Path(directory), []
    try:
        for line in (directory / IMAGES).read_bytes().splitlines():
            record = parse_json(line)
            known = [record[key] for key in ("file", "split", "occluder")]
            if not isinstance(known[0], str) or not isinstance(record["occlusion_ratio"], int | float):
                raise ValueError("file is no text, or occlusion_ratio no number")
            records.append(record)
        return records
    except FileNotFoundError:
        raise _damage(directory, f"{IMAGES} is missing", seed) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damage(directory, f"{IMAGES}, line {len(records) + 1}, is damaged ({error})", seed) from error


def read_identities(directory: str | Path, seed: int = DEFAULTS["seed"]) -> dict[int, dict]:
    """Person number -> what annotations/identities.json says. Raises DataError if it is missing or damaged."""
    directory = Path(directory)
    try:
        return {int(pid): dict(record) for pid, record in read_json(directory / IDENTITIES).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _damage(directory, f"{IDENTITIES} is missing or damaged ({error})", seed) from error


def _damage(directory: Path, what: str, seed: int = DEFAULTS["seed"]) -> DataError:
    return DataError(
        f"{directory} is not a complete SynthOcc: {what}; delete the folder and run "
        f"`{rebuild_command(directory, seed)}`"
    )


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.endswith(_ENDINGS) and not entry.name.startswith(".")}


def _difference(directory: Path, folder: str, names: set[str], count: int, manifest: dict) -> str:
    """Names the first missing file of `folder`, or says how many are too many."""
    if len(names) > count:
        return f"{folder} holds {len(names)} files, not {count}"
    missing = sorted(_expected_names(directory, folder, manifest) - names)
    return f"{folder}/{missing[0]} is missing" if missing else f"{folder} holds {len(names)} files, not {count}"


def _expected_names(directory: Path, folder: str, manifest: dict) -> set[str]:
    annotations = {IDENTITIES.rsplit("/", 1)[1], IMAGES.rsplit("/", 1)[1]}
    if folder == "annotations":
        return annotations
    if folder == "occluders":
        return set(bank_names(Knobs(heldout_occluders=manifest["settings"]["heldout_occluders"])))
    lines = read_annotations(directory, manifest["settings"]["seed"])
    *kind, split = folder.split("/")
    wanted = [line for line in lines if line["split"] == split and ("occluder" not in kind or line["occluder"])]
    ending = ".png" if kind else ".jpg"
    return {Path(line["file"]).with_suffix(ending).name for line in wanted}
