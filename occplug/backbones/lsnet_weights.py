"""Released LSNet checkpoints into an LSNet: which size a file holds, what it must hold, what of it is not needed."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from occplug.backbones.lsnet import SIZES, TABLE_SIDE, LSNet
from occplug.errors import CheckpointError, ConfigError, first_line
from occplug.utils.keys import check_fit
from occplug.utils.tensors import read_tensors

__all__ = ["EMBEDDED", "RELEASED", "fit_lsnet", "load_lsnet", "recognise_lsnet", "released_file"]

_log = logging.getLogger(__name__)
# lsnet_mini trained on rendered people; tools/pretrain_lsnet.py makes it
EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "lsnet_mini.safetensors"
# ImageNet weights of the authors (Wang et al., CVPR 2025, arXiv 2503.23135), a file for each size
RELEASED = "jameslahm/lsnet"
_FILES = {name: f"{name}.pth" for name in ("lsnet_t", "lsnet_s", "lsnet_b")}
_HEADS = re.compile(r"head(_dist)?\.(bn|l)\.\w+")  # the second one is a distilled file's
_FUSED = re.compile(r"(patch_embed\.\d|blocks\d\.[\w.]*\.(pw[12]|qkv|dw|proj\.1|cv[123]))\.(weight|bias)")
_POINT = re.compile(r".*\.mixer\.conv1\.(c|bn)\.\w+")
_INDEX = "attention_bias_idxs"


def released_file(name: str) -> Path:
    """The authors' ImageNet checkpoint of the LSNet `name`: from the Hugging Face cache, or else downloaded there.

    Raises:
        ConfigError: nothing of that size is released.
        CheckpointError: not on this machine and the hub does not give it; says where to fetch it.
    """
    if name not in _FILES:
        raise ConfigError(
            f"backbone.wgff.weights is 'released', but there is no released {name}; there are {', '.join(_FILES)}"
        )
    try:
        return Path(huggingface_hub.hf_hub_download(RELEASED, _FILES[name]))
    except (OSError, HfHubHTTPError, RuntimeError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"the released weights of {name} are not on this machine and cannot be downloaded ({reason}).\n"
            f"  Fetch https://huggingface.co/{RELEASED}/blob/main/{_FILES[name]} elsewhere, and set "
            "backbone.wgff.weights to its path; none starts LSNet from noise."
        ) from error


def load_lsnet(source, net: LSNet, name: str, key: str) -> None:
    """Fill `net`, the LSNet called `name`, from a released checkpoint.

    Args:
        source: path, or a state dict in the published naming.
        key: config key that says `name`, for the message.

    Raises:
        CheckpointError: as :func:`fit_lsnet`, or a file that holds another size.
    """
    state, where = read_tensors(source)
    held = recognise_lsnet(state, where)
    if held != name:
        raise CheckpointError(f"{where} holds {held}, but {key} is {name!r}; set it to {held!r} or give another file")
    fit_lsnet(state, where, net, name)


def recognise_lsnet(state: Mapping[str, Tensor], where: str) -> str:
    """Name of the size with the tensors `state`, by the width of its stem.

    Raises:
        CheckpointError: fused (no batch norms left), or no LSNet of a known size.
    """
    fused = sorted(name for name in state if _FUSED.fullmatch(name))
    if fused:
        raise CheckpointError(
            f"{where}: a fused LSNet, whose batch norms are folded into the convolutions ({', '.join(fused[:3])} ...); "
            "give the checkpoint from before the fusion"
        )
    stem = [value.shape[0] for name, value in state.items() if name.startswith("patch_embed.4.") and value.ndim]
    width = Counter(stem).most_common(1)[0][0] if stem else None  # by majority: one wrong tensor is for the key report
    known = {sizes["widths"][0]: name for name, sizes in SIZES.items()}
    if width not in known:
        has = f"its stem has width {width}" if width else "it has no patch_embed.4.c.weight"
        widths = ", ".join(f"{w} ({name})" for w, name in known.items())
        raise CheckpointError(f"{where}: no LSNet of a known size: {has}; known are {widths}")
    return known[width]


def fit_lsnet(state: Mapping[str, Tensor], where: str, net: LSNet, name: str) -> None:
    """Load `state` into `net`, all or nothing. Heads, index tables and stages that `net` lacks go to the log.

    A LSNet-B without any depthwise 1x1 branch, as its training log suggests the released one to be, is accepted: the
    branch then adds nothing.

    Raises:
        CheckpointError: lists every wrongly shaped, missing and unknown name; or index tables of another layout.
    """
    here = net.state_dict()
    points = {key for key in here if _POINT.fullmatch(key)}
    if name == "lsnet_b" and {key for key in here if key not in state} == points:
        _log.warning("%s: no mixer.conv1 in it; LSNet's depthwise 1x1 branches start without effect", where)
        state = {**state, **{key: _without_effect(key, here[key]) for key in points}}
    unused = [key for key in state if _not_needed(key, len(net.widths))]
    depths = _depths(state)
    hints = []
    if depths[: len(net.depths)] != net.depths:
        hints = [f"blocks in its stages: {_text(depths)}; {name} has {_text(SIZES[name]['depths'])}"]
    check_fit(state, {key: tuple(value.shape) for key, value in here.items()}, where, name, unused, hints)
    _check_indices(state, where)
    net.load_state_dict({key: state[key] for key in here})
    _log.info("%s: %d tensors read into %s; not used: %s", where, len(here), name, ", ".join(unused) or "none")


def _without_effect(key: str, value: Tensor) -> Tensor:
    return torch.ones_like(value) if key.endswith("running_var") else torch.zeros_like(value)


def _not_needed(key: str, stages: int) -> bool:
    of_stage = re.match(r"blocks([1-4])\.", key)
    later = of_stage is not None and int(of_stage.group(1)) > stages
    return later or key.endswith(f".mixer.m.{_INDEX}") or _HEADS.fullmatch(key) is not None


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of the four stages, without the two layers that reduce."""
    matches = [re.match(r"blocks([1-4])\.(\d+)\.(mixer|ffn|se)\.", key) for key in state]
    blocks = {match.group(1, 2) for match in matches if match}
    return tuple(sum(stage == str(number) for stage, _ in blocks) for number in (1, 2, 3, 4))


def _text(depths) -> str:
    return ", ".join(map(str, depths))


def _check_indices(state: Mapping[str, Tensor], where: str) -> None:
    """The stored index must be ours, |row distance| * 4 + |column distance|, or the bias table means something else."""
    cells = torch.cartesian_prod(*[torch.arange(TABLE_SIDE)] * 2)
    apart = (cells[:, None] - cells[None]).abs()
    expected = apart[..., 0] * TABLE_SIDE + apart[..., 1]
    wrong = [key for key, value in state.items() if key.endswith(_INDEX) and not torch.equal(value.long(), expected)]
    if wrong:
        raise CheckpointError(
            f"{where}: {', '.join(wrong)}: not |row distance| * {TABLE_SIDE} + |column distance| of a "
            f"{TABLE_SIDE}x{TABLE_SIDE} grid; the attention biases are of another layout"
        )
