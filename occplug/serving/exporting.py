"""A trained model as one file that runs without occplug: ONNX or TorchScript, for any number of images at once."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from occplug.config import resolved_yaml
from occplug.embedding import FIELDS, Embedding
from occplug.errors import ConfigError
from occplug.evaluation import evaluate_embeddings, extract
from occplug.importers.exported import (
    ENDINGS,
    FORMAT,
    INPUTS,
    KEY,
    ExportedModel,
    exported_format,
    read_exported,
    seal_onnx,
)
from occplug.method import Method
from occplug.serving.extractor import Extractor
from occplug.transforms.pipeline import IMAGENET_MEAN, IMAGENET_STD
from occplug.utils.files import check_text, write_atomically

__all__ = ["FORMATS", "compare", "export"]

_log = logging.getLogger(__name__)
FORMATS = tuple(ENDINGS.values())
OPSET = 17


class _Tensors(nn.Module):
    """`method`'s embedding as a tuple of tensors, from images as the file expects them."""

    def __init__(self, method: Method, scale: Tensor, shift: Tensor, names: list[str], half: bool):
        super().__init__()
        self.method, self.names, self.half_precision = method, names, half
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor):
        images = images * self.scale + self.shift
        nobody = torch.zeros(1, dtype=torch.long)  # which camera is folded in, `_folded` has decided
        embedding = self.method.features(images.half() if self.half_precision else images, nobody)
        values = tuple(getattr(embedding, name).float() for name in self.names)
        return values if len(values) > 1 else values[0]


def export(
    model: Extractor,
    file,
    kind: str | None = None,
    half: bool = False,
    camera: int | None = None,
    input: str = "model",
    vector_only: bool = False,
) -> ExportedModel:
    """Write `model` to `file`; returns what was written, read again.

    The input `images` is float32 [B, 3, H, W] for any B; outputs are float32 `vector` [B, D] and, where the method has
    them, `parts`, `visibility` and `mask`. The file says its mean, std, size, distance, config and fingerprint in the
    metadata `occplug` (JSON). The mirrored image is not in it: a test with `eval.flip` runs the file twice.

    Args:
        file: ends in .onnx or .torchscript.
        kind: "onnx" or "torchscript"; by default as the ending says.
        half: weights and computation in float16, for GPUs; input and outputs stay float32.
        camera: of a model with a camera embedding, the camera (from 0) it sees; None: the mean of the embedding.
        input: what the file expects: pixels normalised by the "model"'s constants, by "imagenet"'s, as trackers do, or
            in [0, 1] ("unit").
        vector_only: one output, as trackers want it; what the method says of parts or masks is left out. Where its
            distance reads them, the file is a model of its own: with another distance and fingerprint, and without the
            calibration.

    Raises:
        ConfigError: a wrong option, a camera that the model does not know, or packages that are not installed.
        OutputError: `file` cannot be written.
    """
    file = Path(file)
    check_text(file)
    kind = kind or exported_format(file)
    if kind not in FORMATS or exported_format(file) != kind:
        known = " or ".join(f"{name} ({ending})" for ending, name in ENDINGS.items())
        given = f" and the format {kind}" if kind else ""
        raise ConfigError(f"the file is {file}{given}; by their ending, files are {known}")
    if input not in INPUTS:
        raise ConfigError(f"input is {input!r}; there are: {', '.join(INPUTS)}")
    if isinstance(model.method, ExportedModel):
        raise ConfigError(f"{model.weights.where} is an exported file already; export the weights it was made of")
    example, names = _example(model), _names(model, vector_only)
    with _folded(model, camera) as method:
        scale, shift = _affine(model, input)
        module = _Tensors(method.half() if half else method, scale, shift, names, half).eval()
        about = _about(model, names, half, camera, input)
        _check_packages(kind)
        with torch.no_grad():
            module(example)  # fills the caches of constants, which the tracer would take for computations
        write = _write_onnx if kind == "onnx" else _write_torchscript
        write_atomically(file, lambda temporary: write(module, example, names, about, temporary))
    return read_exported(file)


def _check_packages(kind: str) -> None:
    if kind == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"exporting to ONNX needs packages: pip install 'occplug[onnx]' ({error})") from error


def _example(model: Extractor) -> Tensor:
    data, generator = model.cfg.data, torch.Generator().manual_seed(0)
    return torch.rand(2, 3, data.height, data.width, generator=generator)


def _names(model: Extractor, vector_only: bool) -> list[str]:
    fields = dict(model.embed([], flip=False).layout())
    return ["vector"] if vector_only else [name for name in FIELDS if name in fields]


def _affine(model: Extractor, input: str) -> tuple[Tensor, Tensor]:
    """scale and shift [3, 1, 1] from what the file is given to what the model sees."""
    mean, std = (torch.tensor(list(v))[:, None, None] for v in (model.cfg.data.norm_mean, model.cfg.data.norm_std))
    given = {"model": (mean, std), "unit": (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))}
    given["imagenet"] = (torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None])
    other_mean, other_std = given[input]
    return other_std / std, (other_mean - mean) / std


class _FixedNorm(nn.Module):
    """A batch norm over vectors as the scale and shift it is in eval mode; the tracer wants sizes for more."""

    def __init__(self, norm: nn.BatchNorm1d):
        super().__init__()
        assert norm.running_var is not None and norm.running_mean is not None  # necks track them
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        self.weight, self.shift = nn.Parameter(scale), nn.Parameter(shift if norm.bias is None else shift + norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.shift


def _fix_norms(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, _FixedNorm(child))
        else:
            _fix_norms(child)


@contextlib.contextmanager
def _folded(model: Extractor, camera: int | None) -> Iterator[Method]:
    """A copy of the method in which everything is a constant that does not depend on the images."""
    method = copy.deepcopy(model.method).cpu().float()
    _fold_camera(method, camera)
    _fix_norms(method)
    with torch.no_grad():
        for name in method.constant_in_tests:
            value = getattr(method, name)().detach().clone()
            setattr(method, name, lambda value=value: value.to(next(method.parameters()).dtype))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator is known to torch alone
    try:
        yield method
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _fold_camera(method: Method, camera: int | None) -> None:
    towers: list[Any] = [module for module in method.modules() if getattr(module, "camera_embedding", None) is not None]
    if camera is not None and not towers:
        raise ConfigError("a camera was given, and this model has no camera embedding (backbone.sie_camera)")
    for tower in towers:
        rows = tower.camera_embedding
        if camera is not None and not 0 <= camera < len(rows):
            raise ConfigError(f"camera is {camera}; the model knows cameras 0 to {len(rows) - 1}")
        row = (rows.mean(dim=0) if camera is None else rows[camera]).detach().clone()[None]  # [1, C]
        tower.cameras = lambda camids, row=row: row.to(next(method.parameters()).dtype)


def _about(model: Extractor, names: list[str], half: bool, camera: int | None, input: str) -> dict:
    cfg = model.cfg.clone()
    cfg.defrost()
    folded = bool(cfg.backbone.sie_camera)
    cfg.backbone.sie_camera = False  # who reads the file has no camera to give
    metric = model.method.named_distance()
    if metric is None:
        raise ConfigError(f"{cfg.model.name} does not name its distance (Method.named_distance), so no file can say it")
    prepared = model.preprocessing(flip=bool(cfg.eval.flip))
    known = model.weights.calibration if model.weights is not None else None
    reduced = names == ["vector"] and not metric.is_inner_product
    return {
        "format": FORMAT,
        "outputs": names,
        "distance": _OF_VECTORS if reduced else metric.as_dict(),
        "reduced": reduced,  # to another distance than the method's
        "input": input,
        "half": half,
        "camera": None if not folded else "mean" if camera is None else camera,
        "fingerprint": _of_reduced(model.fingerprint) if reduced else model.fingerprint,
        "config": resolved_yaml(cfg),
        "num_classes": model.weights.num_classes if model.weights is not None else 1,
        "num_cameras": 1,
        "calibration": None if reduced else known,
        "images": model.weights.images if model.weights is not None else None,
        **prepared,
    }


_OF_VECTORS = {"name": "normalised_euclidean"}  # the distance of a file whose parts or masks were left out


def _of_reduced(fingerprint: str) -> str:
    """The fingerprint of such a file: its distances are none of the model's, so neither are its galleries."""
    return hashlib.sha256(f"{fingerprint} vector".encode()).hexdigest()[:16]


def _write_onnx(module: nn.Module, example: Tensor, names: list[str], about: dict, path: Path) -> None:
    import onnx

    with warnings.catch_warnings(), torch.no_grad(), _quiet():
        warnings.simplefilter("ignore")  # the tracer's, about sizes that are constants on purpose
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,  # ten times as fast, and needs no further package
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
        )
    made = onnx.load(str(path))
    for key, value in {KEY: json.dumps(about), **{k: json.dumps(about[k]) for k in _PLAIN}}.items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, str(path))
    seal_onnx(path)


_PLAIN = ("mean", "std", "height", "width", "distance")  # once more by themselves, for readers that know no occplug


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_torchscript(module: nn.Module, example: Tensor, names: list[str], about: dict, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (example,), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={KEY: json.dumps(about)})


# ---------------------------------------------------------------------- what came of it


@torch.no_grad()
def compare(model: Extractor, made: ExportedModel, data=None, batch: int = 16) -> dict:
    """The file beside the model: differences, latency, and on a data set Rank-1 and mAP through both.

    Args:
        data: a :class:`occplug.data.manager.DataManager` whose first target is tested; None for none.
        batch: images of the latency's measurement.

    Returns: `max_difference`, `cosine` (least, of the vectors), `milliseconds` an image of both, on this processor;
        with `data` also `target` and the figures of both.
    """
    generator, size = torch.Generator().manual_seed(1), (model.cfg.data.height, model.cfg.data.width)
    images = torch.randn(batch, 3, *size, generator=generator)
    camids = torch.zeros(batch, dtype=torch.long)
    with _folded(model, _camera(made)) as method:
        one, seconds = _timed(lambda: method.eval().features(images, camids))
        other, seconds_made = _timed(lambda: made.features(images))
        shared = [name for name, _ in other.layout()]
        differences = [(getattr(one, name) - getattr(other, name)).abs().max().item() for name in shared]
        result = {
            "max_difference": max(differences),
            "cosine": torch.cosine_similarity(one.vector, other.vector).min().item(),
            "milliseconds": {"model": 1e3 * seconds / batch, "file": 1e3 * seconds_made / batch},
        }
        if data is not None:
            name = data.targets[0]
            result["target"] = name
            for who, each in (("model", method), ("file", made)):
                result[who] = _figures(each, data, name, model.cfg.eval.flip)
    return result


def _camera(made: ExportedModel) -> int | None:
    camera = made.about["camera"]
    return camera if isinstance(camera, int) else None


def _timed(function) -> tuple[Embedding, float]:
    function()  # warm
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def _figures(method: Method, data, target: str, flip: bool) -> dict:
    sides = {}
    for side in ("query", "gallery"):
        sides[side] = extract(method.embed, data.test_loader[target][side], "cpu", flip=flip)
    (query, q_pids, q_camids, _), (gallery, g_pids, g_camids, _) = sides["query"], sides["gallery"]
    result = evaluate_embeddings(method.distance, query, gallery, q_pids, g_pids, q_camids, g_camids)
    return {"mAP": result.mAP, "rank1": result.rank(1)}
