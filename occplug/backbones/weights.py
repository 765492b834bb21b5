"""Initial CLIP weights into an image tower, a text tower and prompts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from occplug.backbones import tiny
from occplug.backbones.download import check_sum, is_openais, weights_file
from occplug.backbones.licences import licence_of, pass_licence
from occplug.backbones.position import resize_positions, stored_grid
from occplug.backbones.tags import is_tagged
from occplug.backbones.temperature import check_temperature
from occplug.backbones.tower import CLIPTower
from occplug.errors import CheckpointError, ConfigError
from occplug.utils.files import user_path
from occplug.utils.keys import check_fit, note_renamed
from occplug.utils.tensors import read_tensors

__all__ = ["SIZES", "TEXT_SIDE", "TOKEN_TABLE", "fit_clip", "load_clip", "read_clip"]

_log = logging.getLogger(__name__)
TOKEN_TABLE = "token_embedding.weight"
_OUTSIDE_TOWERS = (TOKEN_TABLE, "logit_scale")
SIZES = ("input_resolution", "context_length", "vocab_size")  # integers beside the weights in OpenAI's archives
AMBIGUOUS = ("clip_vit_b16", "clip_vit_l14")  # architectures with tags of either activation
TEXT_SIDE = re.compile(r"(positional_embedding|text_projection|logit_scale|(ln_final|token_embedding|transformer)\..*)")


class AroundCLIP(Protocol):
    """A CLIP's tower, or a hybrid around one."""

    @property
    def clip(self) -> CLIPTower:
        """The plain CLIP tower."""

    def load_beside_clip(self) -> None:
        """Read the initial weights of what runs beside it."""


class Prompts(Protocol):
    """Modules whose fixed tokens come from a CLIP's token table."""

    def fill(self, table: Tensor) -> None:
        """Take the embeddings of the fixed tokens from `table` [vocabulary, W]."""


def load_clip(source, backbone: AroundCLIP, text: nn.Module | None = None, prompts: Iterable[Prompts] = ()) -> None:
    """Fill `backbone`, and `text` and `prompts` where given, with the weights of a CLIP of their sizes.

    The position embedding is fitted to the backbone's grid (bilinear, no antialiasing). The camera embedding, which no
    CLIP has, keeps its values.

    Args:
        source: "openai" or "open_clip:TAG" (this machine's cache or a download), "embedded" or "embedded_even" (the
            tiny CLIP in the package, see :func:`occplug.backbones.tiny.load_named`), "none", or the path of a
            `.safetensors` file, of OpenAI's TorchScript archive, or of a state dict saved by torch.
        backbone: CLIPViT, CLIPResNet or a hybrid around one, whose own weights are read as well.
        text: text tower of the same CLIP.
        prompts: modules with `fill(token table)`.

    Raises:
        CheckpointError: no file, damaged, unsafe to read, not the published checksum, or tensors that do not fit; a
            file that does not fit changes nothing.
        ConfigError: a named source that has no weights for this backbone.
    """
    name = backbone.clip.arch.get("name", "")
    pass_licence(licence_of(name, source))
    if source != "none":
        check_activation(source, backbone.clip.arch)
        state, where = read_clip(source, backbone.clip.arch.get("name", type(backbone).__name__))
        fit_clip(state, where, backbone, text, prompts)
    backbone.load_beside_clip()


def read_clip(source, name: str) -> tuple[dict[str, Tensor], str]:
    """Tensors of the CLIP `name` from `source` (as :func:`load_clip`) in OpenAI's layout, and what to call them."""
    if source in tiny.NAMES:
        if name != "clip_vit_tiny":
            raise ConfigError(
                f"backbone.weights is {source!r}, but only clip_vit_tiny has weights in the package, not {name}"
            )
        return tiny.load_named(source), "the embedded CLIP"
    path = _file(source, name)
    if not path.is_file():
        raise CheckpointError(
            f"backbone.weights is {str(source)!r}: there is no such file; give a path, or one of openai, "
            "open_clip:TAG, embedded, none"
        )
    check_sum(path, is_openais=source in ("openai", "open_clip:openai"))
    state, where = read_tensors(path)
    # open_clip's models with a text tower of their own have its names under `text.`
    state = {key.removeprefix("text."): value for key, value in state.items() if key not in SIZES}
    return state, where


def _file(source, name: str) -> Path:
    if source == "openai" or is_tagged(source):
        return weights_file(name, source)
    return user_path(source)


def check_activation(source, arch: dict) -> None:
    """Raise ConfigError for a CLIP file that does not tell its activation, where nobody else has told it.

    OpenAI's TorchScript archive does, and a file of the name and checksum of one; in another layout the weights of all
    tags look alike.
    """
    ambiguous = arch.get("name") in AMBIGUOUS and "activation" in arch  # a config names the weights
    if not ambiguous or arch["activation"] or not isinstance(source, str | os.PathLike):
        return
    named = source in ("openai", *tiny.NAMES, "none") or is_tagged(source)
    if not named and user_path(source).is_file() and not is_openais(user_path(source)):
        raise ConfigError(
            f"backbone.weights is {str(source)!r}, and nothing in this file tells whether it was trained with "
            "QuickGELU or GELU, which moves features by 4e-2: set backbone.activation to quick_gelu (OpenAI, DFN-2B, "
            "MetaCLIP) or gelu (LAION, DataComp, CommonPool), or name the weights as open_clip:TAG"
        )


def fit_clip(
    state: dict[str, Tensor],
    where: str,
    backbone: AroundCLIP,
    text: nn.Module | None = None,
    prompts: Iterable[Prompts] = (),
    checked: Mapping[str, Collection[int]] | None = None,
) -> None:
    """Load `state` (OpenAI's layout) as :func:`load_clip` does; every tensor is used or named in the log.

    Args:
        checked: name -> shape of tensors that must be in the file too, although nothing here uses them.
    """
    prompts, tower = list(prompts), backbone.clip
    state = _with_fitted_positions(_with_counters(state, tower), tower)
    expected = {f"visual.{key}": value.shape for key, value in tower.visual.state_dict().items()}
    if text is not None:
        expected |= {key: value.shape for key, value in text.state_dict().items()}
    if prompts:
        sizes = tower.arch["text_cfg"]
        expected[TOKEN_TABLE] = (sizes["vocab_size"], sizes["width"])
    spare = [key for key in state if (TEXT_SIDE.fullmatch(key) if text is None else key in _OUTSIDE_TOWERS)]
    unused = [key for key in spare if key not in expected]
    name = tower.arch.get("name", "with these sizes")
    check_fit(state, expected | dict(checked or {}), where, f"the CLIP {name}", () if checked else unused)
    note_renamed({name: f"backbone.{name}" for name in state if name.startswith("visual.")})
    tower.visual.load_state_dict({k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")})
    if text is not None:
        text.load_state_dict({key: state[key] for key in text.state_dict()})
        check_temperature(tower, text, state, where, TOKEN_TABLE)
    for prompt in prompts:
        prompt.fill(state[TOKEN_TABLE])
    _log.info("%s: %d tensors read, %d not needed here", where, len(expected), len(unused))
    _log.debug("not needed: %s", ", ".join(unused) or "none")


def _with_counters(state: dict[str, Tensor], backbone: CLIPTower) -> dict[str, Tensor]:
    """`state` with the batch norms' step counters, which old files lack and which no formula here reads."""
    here = {f"visual.{key}": value for key, value in backbone.visual.state_dict().items()}
    return {**{key: value for key, value in here.items() if key.endswith("num_batches_tracked")}, **state}


def _with_fitted_positions(state: dict[str, Tensor], backbone: CLIPTower) -> dict[str, Tensor]:
    """`state` with the image tower's position embedding on the backbone's grid; unchanged if it is of no known grid."""
    key = f"visual.{backbone.positions_name}"
    positions = state.get(key)
    if positions is None or positions.ndim not in (2, 3):
        return state
    rows = positions.flatten(0, -2)  # of timm's towers [1, rows, C]
    stored = stored_grid(len(rows), [backbone.stored_grid, backbone.grid])
    if stored is None:
        return state
    fitted = resize_positions(rows, stored, backbone.grid)
    return {**state, key: fitted if positions.ndim == 2 else fitted[None]}
