"""Models that are files of their own, ONNX or TorchScript, as `occplug export` writes them, in the form of a method."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occplug.embedding import FIELDS, Embedding
from occplug.errors import CheckpointError, ConfigError
from occplug.evaluation import Metric
from occplug.method import Method, Stage
from occplug.transforms.pipeline import IMAGENET_MEAN, IMAGENET_STD
from occplug.utils.integrity import check_archive
from occplug.utils.texts import parse_json

__all__ = ["FORMAT", "INPUTS", "ExportedModel", "exported_format", "read_exported", "seal_onnx"]

FORMAT = "occplug-export-1"
KEY = "occplug"  # of the metadata in an ONNX file, and of the extra file in a TorchScript archive
ENDINGS = {".onnx": "onnx", ".torchscript": "torchscript"}
SEAL = b"occplug_crc32"  # metadata of an ONNX file, its last bytes: the CRC-32 of all bytes before
_BLOCK = 1 << 22
# what the file expects: pixels normalised by the model's constants, by ImageNet's, or in [0, 1]
INPUTS = ("model", "imagenet", "unit")


def exported_format(path) -> str | None:
    """ "onnx" or "torchscript" by the ending of `path`; None for any other file."""
    return ENDINGS.get(Path(path).suffix)


class ExportedModel(Method):
    """What the file computes, asked as a method is.

    Args:
        run: images [B, 3, H, W], as the file expects them, on the CPU -> its outputs by name.
        about: what the file says about itself (:func:`occplug.serving.exporting.export`).
    """

    def __init__(self, run: Callable[[Tensor], dict[str, Tensor]], about: dict):
        super().__init__()
        self.run, self.about = run, about
        mean, std = (torch.tensor(about[key])[:, None, None] for key in ("mean", "std"))
        wanted = {"model": (mean, std), "unit": (torch.zeros_like(mean), torch.ones_like(std))}
        wanted["imagenet"] = (torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None])
        other_mean, other_std = wanted[about["input"]]
        self.scale, self.shift = std / other_std, (mean - other_mean) / other_std
        self.named = Metric.of_dict(about["distance"])

    def stages(self) -> list[Stage]:
        """None: nothing of it trains."""
        return []

    @property
    def device(self) -> torch.device:
        """The CPU, from which the file takes images."""
        return torch.device("cpu")

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The file's outputs for normalised `images`; cameras are folded into it."""
        pixels = images.cpu().float()
        if self.about["input"] != "model":
            pixels = self.scale * pixels + self.shift
        outputs = self.run(pixels)
        fields: dict[str, Any] = {name: outputs[name].float().to(images.device) for name in FIELDS if name in outputs}
        return Embedding(**fields)

    def named_distance(self) -> Metric:
        """The distance that the file names."""
        return self.named

    @property
    def squared_distance(self) -> bool:  # type: ignore[override]  # the file decides it
        """As `Method.squared_distance`: of vectors there are squared distances and the cosine distance alone."""
        return self.named.is_inner_product

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G] by it."""
        return self.named(query, gallery)


def read_exported(path) -> ExportedModel:
    """The model in the file `path`.

    Raises:
        CheckpointError: missing, damaged, or not written by `occplug export`.
        ConfigError: onnxruntime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    run, text = (_onnx if exported_format(path) == "onnx" else _torchscript)(path)
    try:
        about = parse_json(text)
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        return ExportedModel(run, about)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a file that occplug export wrote ({error or 'nothing about it'})"
        ) from error


def seal_onnx(path: Path) -> None:
    """Append a checksum to the ONNX file `path`, as one more entry of its metadata: ONNX has none of its own.

    Fields of a protobuf message may follow in any order, so the bytes before stay as they are.
    """
    with path.open("r+b") as file:
        digits = _crc32(file, path.stat().st_size)
        file.seek(0, 2)
        file.write(_seal(digits))


def _seal(digits: int) -> bytes:
    """ModelProto's field 14, a StringStringEntryProto: key (field 1) and value (field 2), as JSON like the others."""
    value = f'"{digits:08x}"'.encode()
    entry = bytes([0x0A, len(SEAL)]) + SEAL + bytes([0x12, len(value)]) + value
    return bytes([14 << 3 | 2, len(entry)]) + entry


def _crc32(file, size: int) -> int:
    """Of the next `size` bytes of the open `file`."""
    digits = 0
    while size and (block := file.read(min(size, _BLOCK))):
        digits, size = zlib.crc32(block, digits), size - len(block)
    return digits


def _check_seal(path: Path, metadata: dict) -> None:
    """Raise CheckpointError if the file at `path` has a seal that does not hold. Files of earlier versions have none.

    Args:
        metadata: of the file, by name.
    """
    length = len(_seal(0))
    with path.open("rb") as file:
        holds = _seal(_crc32(file, max(path.stat().st_size - length, 0))) == file.read()
    if SEAL.decode() in metadata and not holds:
        raise CheckpointError(
            f"{path}: it is damaged, or was changed since its export: its checksum does not hold; fetch or export it "
            f"again (who has changed it on purpose takes the entry {SEAL.decode()} out of its metadata)"
        )


def _onnx(path: Path) -> tuple[Callable, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{path} needs onnxruntime: pip install 'occplug[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # its errors have no class in common
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path}: not a readable ONNX file ({reason})") from error
    metadata = session.get_modelmeta().custom_metadata_map
    _check_seal(path, metadata)
    given, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        values = session.run(names, {given: np.ascontiguousarray(images.numpy())})
        return {name: torch.from_numpy(value) for name, value in zip(names, values)}

    return run, metadata.get(KEY, "{}")


def _torchscript(path: Path) -> tuple[Callable, str]:
    check_archive(path)
    extra = {KEY: ""}
    try:
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path}: not a readable TorchScript file ({reason})") from error
    raw: Any = extra[KEY]  # text, or bytes by torch's version
    text = raw if isinstance(raw, str) else raw.decode()

    @torch.no_grad()
    def run(images: Tensor) -> dict[str, Tensor]:
        values = module(images)
        values = values if isinstance(values, (tuple, list)) else (values,)
        return dict(zip(json.loads(text)["outputs"], values))

    return run, text or "{}"
