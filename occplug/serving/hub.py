"""A trained model as a folder that can be passed on: weights, config, a card; and its way to the Hugging Face hub."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from occplug.backbones.licences import licences_of_run
from occplug.config import resolved_yaml
from occplug.errors import CheckpointError, ConfigError, first_line
from occplug.serving.extractor import Extractor
from occplug.utils.files import user_path, write_atomically
from occplug.zoo.addresses import MODEL_FILE, ZOO
from occplug.zoo.exporting import read_metrics
from occplug.zoo.index import read_index
from occplug.zoo.weights import needed_tensors, save_small

__all__ = ["push", "save_pretrained"]


def save_pretrained(model: Extractor, folder, licence: str = "other", figures: dict | None = None) -> Path:
    """Write `model` to `folder`, from which `occplug.load` reads it again.

    That are model.safetensors (what a test needs, in full precision, with its config in the header), config.yaml,
    preprocessing.json and README.md, a model card.

    Args:
        licence: of the weights, as the hub names licences; whose images and towers they were trained from decides.
        figures: data set -> {"mAP": ..., "rank1": ..., "protocol": ...} for the card; None: those of the run's folder
            or the zoo's entry that the model was loaded from, if it was.

    Raises:
        ConfigError: an exported file, which is passed on as it is.
    """
    if model.weights is None or model.weights.module is not None:
        raise ConfigError("save_pretrained takes a model that occplug.load read from weights, not an exported file")
    folder, given = user_path(folder), model.weights
    method = getattr(model.method, "net", model.method)  # of a stock model
    state = method.state_dict()
    kept = {name: state[name] for name in needed_tensors(method, model.method.training_only)}
    header = {
        "config": resolved_yaml(model.cfg),
        "pids": list(given.pids or []),
        "bound_to": given.bound_to,
        "camera_rows": given.camera_rows,
        "calibration": given.calibration,
        "images": given.images,
        "fingerprint": model.fingerprint,
    }
    save_small(folder / MODEL_FILE, kept, given.num_classes, given.num_cameras, half=False, **header)
    texts = {
        "config.yaml": resolved_yaml(model.cfg),
        "preprocessing.json": json.dumps(model.preprocessing(), indent=2) + "\n",
        "README.md": _card(model, licence, _measured(model.address) if figures is None else figures),
    }
    for name, text in texts.items():
        write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))
    return folder


def _measured(address: str) -> dict[str, dict]:
    """Figures of the run that made the weights at `address`, as far as its folder or the zoo tells."""
    if address.startswith(ZOO):
        entry = read_index().find(address.removeprefix(ZOO))
        if entry.ours is None or entry.checkpoint is None:
            return {}
        runs = [run for run in entry.ours.runs if run.seed == entry.checkpoint.seed]
        return {entry.data: {**runs[0].figures, "protocol": entry.ours.protocol}} if runs else {}
    if not Path(address, "metrics.json").is_file():
        return {}
    metrics = read_metrics(Path(address))
    return {name: {**told, "protocol": metrics["protocol"]} for name, told in metrics["targets"].items()}


def _card(model: Extractor, licence: str, figures: dict) -> str:
    cfg, prepared = model.cfg, model.preprocessing()
    named = model.method.named_distance()
    distance = named.name if named is not None else "the method's own"
    rows = [
        f"| {name} | {100 * each['mAP']:.1f} | {100 * each['rank1']:.1f} | {each.get('protocol', '')} |"
        for name, each in figures.items()
    ]
    table = ["| data set | mAP | Rank-1 | protocol |", "|---|---|---|---|", *rows] if rows else ["Not measured here."]
    lines = [
        "---",
        f"license: {licence}",
        "library_name: occplug",
        "tags: [person-re-identification, occlusion]",
        "---",
        f"# {cfg.model.name} on {', '.join(cfg.data.sources)}",
        "",
        "```python",
        "import occplug",
        "",
        'model = occplug.load("hf://USER/REPO")  # or the folder',
        'embedding = model.embed("crops/")',
        "```",
        "",
        f"Images: {prepared['height']}x{prepared['width']}, {prepared['interpolation']}, mean {prepared['mean']}, std "
        f"{prepared['std']}; mirrored images averaged: {'yes' if prepared['flip'] else 'no'}. Distance: {distance}. "
        f"Fingerprint: {model.fingerprint}.",
        "",
        "## Figures",
        "",
        *table,
        "",
        "## Licence",
        "",
        f"{licence}. The weights may also be bound by the terms of the data sets and of the pretrained towers "
        f"({_towers(cfg)}) they were trained from. They recognise people: ask whether you "
        "may.",
        "",
    ]
    return "\n".join(lines)


def _towers(cfg) -> str:
    """What the towers' weights are, and what their licences do not allow."""
    told = []
    for licence in licences_of_run(cfg):
        told.append(f"{licence.of}: {licence.name}, {licence.restriction}" if licence.restriction else licence.of)
    return "; ".join(told)


def push(model: Extractor, repository: str, licence: str = "other", figures: dict | None = None, private: bool = True):
    """Upload what `save_pretrained` writes to `repository` ("user/repo") on the hub; returns its answer.

    Raises:
        CheckpointError: the hub refuses (no login, no right) or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, licence, figures)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            return api.upload_folder(repo_id=repository, folder_path=folder, commit_message="occplug")
        except Exception as error:  # its HTTP library's, too, which changes with its version
            answered = isinstance(error, (HfHubHTTPError, ValueError)) and not isinstance(error, OfflineModeIsEnabled)
            reason = first_line(error)
            cure = "log in with: hf auth login" if answered else "connect, or pass on the folder of save_pretrained"
            raise CheckpointError(f"{repository}: the hub did not take it ({reason}); {cure}") from error
