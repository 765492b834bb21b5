"""Weight files that hold what testing needs and no more, and the reading of all kinds of weights for a test.

A small file is safetensors: fp16 where that loses no more than precision, with the resolved config, the numbers of
identities and cameras, and where it is from in its header. Tensors that only training reads are left out:
those that the method declares (`Method.training_only`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from occplug.data.recognition import ImageMarks
from occplug.engine.checkpoint import check_run, load_checkpoint, load_weights
from occplug.engine.contents import OF_A_RUN, check_kinds, check_parts
from occplug.errors import CheckpointError
from occplug.importers import load_official
from occplug.importers.exported import ExportedModel, exported_format, read_exported
from occplug.torchreid_host import load_stock_checkpoint
from occplug.utils.files import user_path, write_atomically
from occplug.utils.integrity import is_intact, save_checked
from occplug.utils.keys import check_fit, with_current_names
from occplug.utils.texts import parse_json

__all__ = ["TestWeights", "fill", "needed_tensors", "read_test_weights", "save_small"]

_log = logging.getLogger(__name__)
FORMAT = "occplug-test-1"
_HALF_MAX = 65504.0


@dataclass(frozen=True)
class TestWeights:
    """Weights as a test takes them.

    Args:
        state: tensors by our names, floats in float32.
        num_classes, num_cameras: of the model they belong to.
        where: the file, for messages.
        is_whole: they are all of a model's; else those that testing does not need may be missing.
        config: the resolved config as yaml text, where the file has it.
        pids: identities it was trained on, where the file has them.
        cameras: camera numbers of all sources, one after the other, where the file has them.
        camera_rows: source -> first row and number in the camera embedding, where the file has them.
        bound_to: what its tensors mean something for only (`Method.bound_to`), where the file says it.
        module: an exported model, which is the file itself; `state` is empty then.
        fingerprint: of the weights, where the file knows better than its tensors tell.
        calibration: what `occplug calibrate` has kept with the weights, or None.
        images: marks of the images they were trained and tested on, where the file has them.
    """

    __test__ = False  # no class of tests

    state: dict[str, Tensor]
    num_classes: int
    num_cameras: int
    where: str
    is_whole: bool
    config: str | None = None
    pids: tuple[int, ...] | None = None
    bound_to: dict[str, str] = field(default_factory=dict)
    cameras: tuple[int, ...] = ()
    camera_rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    module: ExportedModel | None = None
    fingerprint: str = ""
    calibration: dict | None = None
    images: dict[str, str] | None = None

    @property
    def metric(self) -> str | None:
        """Name of the distance they are tested with, where it is not that of the method in their config."""
        if self.module is None or not self.module.about.get("reduced"):
            return None
        return self.module.named.name

    @property
    def trained(self) -> frozenset[bytes]:
        """Marks of the images they were trained on; empty where the file has none."""
        return frozenset() if self.images is None else ImageMarks.of_dict(self.images).train

    @property
    def note(self) -> str:
        """What a protocol line has to say about them; empty if nothing."""
        if self.module is None:
            return ""
        about, kind = self.module.about, Path(self.where).suffix[1:]
        camera = "" if about["camera"] is None else f", camera embedding folded to {about['camera']}"
        return f"through an exported {kind} file{' in half precision' if about['half'] else ''}{camera}"


# ---------------------------------------------------------------------- reading


def read_test_weights(path, form: str = "occplug", cfg=None) -> TestWeights:
    """The weights in the file `path`, onto the CPU, without running code that may be in it.

    Args:
        form: "occplug" for a checkpoint of ours or a small file, whatever its name, else a source of `load_official`;
            those are read for the image size and neck of `cfg`.

    Raises:
        CheckpointError: missing, damaged, unsafe to read, or not of that form.
    """
    path = user_path(path)
    if form != "occplug":
        return _official(path, form, cfg)
    if exported_format(path):
        return _exported(path)
    if _is_safetensors(path):
        return _small(path)
    try:
        content = load_checkpoint(path)
    except CheckpointError:
        stock = _torchreids(path)
        if stock is None:
            raise
        return stock
    state = content["state_dict"]
    if "source" in content:  # converted; what the official file lacks only training needs, or `fill` objects
        check_parts(content, ("num_classes", "num_cameras"), path)
        return TestWeights(state, content["num_classes"], content["num_cameras"], str(path), False)
    check_run(content, path)
    check_parts(content, OF_A_RUN, path)
    pids, bound_to = tuple(content["pids"]), content.get("bound_to", {})
    cameras, rows = tuple(content["cameras"]), content.get("camera_rows", {})
    weights = TestWeights(
        state, len(pids), len(cameras), str(path), True, content.get("config"), pids, bound_to, cameras, rows
    )
    return replace(weights, calibration=content.get("calibration"), images=content.get("images"))


def _torchreids(path: Path) -> TestWeights | None:
    """What torchreid's own engine saved of a model (`model.pth.tar-EPOCH`), ours or its own; None for other files.

    It holds neither config nor identities. The number of classes is read from the classifiers; what a test needs and
    the file lacks is named by :func:`fill`.
    """
    try:
        content = load_stock_checkpoint(path)
    except CheckpointError:
        return None
    if "format" in content or not {"state_dict", "epoch"} <= content.keys():
        return None
    check_kinds({"state_dict": content["state_dict"]}, path)
    state = {name.removeprefix("module."): value for name, value in content["state_dict"].items()}
    heads = [value.shape[0] for name, value in state.items() if "classifier" in name and value.ndim >= 2]
    cameras = state.get("backbone.camera_embedding")
    classes = max(heads, default=1)
    return TestWeights(state, classes, 1 if cameras is None else len(cameras), str(path), False)


def _is_safetensors(path) -> bool:
    """Whether it begins like one: eight bytes of length, then a JSON object. Downloads need not have the suffix."""
    path = user_path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _exported(path: Path) -> TestWeights:
    module = read_exported(path)
    about = module.about
    check_kinds({"images": about["images"]} if about.get("images") else {}, path)
    return TestWeights(
        {},
        about["num_classes"],
        about["num_cameras"],
        str(path),
        False,
        about["config"],
        module=module,
        fingerprint=about["fingerprint"],
        calibration=about.get("calibration"),
        images=about.get("images"),
    )


def _official(path: Path, form: str, cfg) -> TestWeights:
    neck = cfg.method.neck if "neck" in cfg.method else "before"
    module = load_official(form, path, image_size=(cfg.data.height, cfg.data.width), neck=neck)
    classes = getattr(module, "num_classes", 1)
    state = module.state_dict()
    cameras = state.get("backbone.camera_embedding")
    return TestWeights(state, classes, 1 if cameras is None else len(cameras), str(path), False)


def _small(path: Path) -> TestWeights:
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint: damaged, cut off, or of another kind ({error})"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a small checkpoint of occplug (occplug zoo export or occplug convert)")
    if not is_intact(state, header):
        raise CheckpointError(f"{path}: it is damaged, its checksum does not hold; fetch or export it again")
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    try:
        pids = parse_json(header["pids"])
        bound_to, rows = (parse_json(header.get(key, "{}")) for key in ("bound_to", "camera_rows"))
        calibration, images = (parse_json(header.get(key, "null")) for key in ("calibration", "images"))
        sizes = int(header["num_classes"]), int(header["num_cameras"])
        config = header["config"] or None
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error}); fetch or export it again") from error
    parts = {"pids": pids, "bound_to": bound_to, "camera_rows": rows, **({} if images is None else {"images": images})}
    check_kinds({**parts, "num_classes": sizes[0], "num_cameras": sizes[1]}, path)
    weights = TestWeights(state, *sizes, str(path), False, config, tuple(pids) if pids else None, bound_to, (), rows)
    return replace(weights, calibration=calibration, images=images, fingerprint=header.get("fingerprint", ""))


def fill(model: nn.Module, weights: TestWeights, training_only: Sequence[str]) -> None:
    """Put `weights` into `model`, all or nothing.

    Args:
        training_only: patterns of names that a file may lack (`Method.training_only`); they stay as they are.

    Raises:
        CheckpointError: lists every unknown and wrongly shaped name, and the missing ones that testing needs.
    """
    if weights.is_whole:
        load_weights(model, weights.state, weights.where)
        return
    here, state = model.state_dict(), with_current_names(weights.state, model)
    missing = [name for name in here if name not in state]
    expected = {name: tuple(value.shape) for name, value in here.items() if name not in missing}
    check_fit(state, expected, weights.where, f"{type(model).__name__} of this config")
    if lacking := _read_by_tests(missing, training_only):
        listed = ", ".join(lacking)
        raise CheckpointError(f"{weights.where} lacks tensors that testing with this config needs; missing: {listed}")
    model.load_state_dict(state, strict=False)
    read = len(state)
    _log.info("%s: %d tensors read, %d not in it that only training needs", weights.where, read, len(missing))


def _read_by_tests(names: Iterable[str], training_only: Sequence[str]) -> list[str]:
    return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in training_only)]


# ---------------------------------------------------------------------- writing


def needed_tensors(model: nn.Module, training_only: Sequence[str]) -> list[str]:
    """Names of the tensors of `model`'s state dict that its test embedding reads: all but the `training_only` ones."""
    return _read_by_tests(model.state_dict(), training_only)


def save_small(
    path: Path, state: dict[str, Tensor], num_classes: int, num_cameras: int, half: bool = True, **header
) -> None:
    """Write `state` as a small file: floats as fp16, or as they are where fp16 has not their range.

    Args:
        half: False: floats stay as they are.
        header: texts; `config`, `pids` (a list) and `bound_to` (a dict) are read again by :func:`read_test_weights`.

    Raises:
        CheckpointError: a value that is not finite.
    """
    bad = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{path} is not written: not finite: {', '.join(bad)}")
    tensors = {name: _narrow(value) if half else value.detach().cpu().clone() for name, value in state.items()}
    texts = {"config": "", "pids": [], **header, "num_classes": num_classes, "num_cameras": num_cameras}
    texts = {key: text if isinstance(text, str) else json.dumps(text) for key, text in texts.items()}
    write_atomically(path, lambda temporary: save_checked(tensors, temporary, {"format": FORMAT, **texts}))


def _narrow(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point() or (value.numel() and value.abs().max() > _HALF_MAX):
        return value.clone()
    return value.half()
