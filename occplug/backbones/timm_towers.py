"""Any image model of timm's as a tower without text: `backbone.name timm:NAME`.

Three kinds. A plain vision transformer gives all that :class:`ViT` does; one of timm's class `Eva` (rotary positions,
other attention) all but scores and attention of the class token; anything else its pooled feature alone.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import get_pretrained_cfg
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from occplug.backbones.features import VisionFeatures
from occplug.backbones.licences import TIMM, check_licence
from occplug.backbones.position import resize_positions
from occplug.backbones.timm_transformer import PlainTransformer, TimmTransformer, is_usual
from occplug.backbones.tower import Edits, Tower
from occplug.errors import CheckpointError, ConfigError, first_line
from occplug.registry import BACKBONES
from occplug.utils.keys import check_fit
from occplug.utils.tensors import read_tensors

__all__ = ["EvaTower", "PlainTower", "TimmViT", "fit_positions"]

HEADS = ("head.", "fc.", "pre_logits.", "head_drop.", "attn_pool.", "classifier.")


@dataclass(frozen=True)
class Facts:
    """What a model of timm's is, before one is built."""

    kind: str  # vit, eva or plain
    patch: int
    has_class: bool
    is_usual: bool  # each block is norm, attention, norm, MLP, so that attention can be read


@functools.lru_cache(maxsize=64)
def facts_of(name: str) -> Facts:
    """The facts of the model `name`, by building it without memory.

    Raises:
        ConfigError: timm has no such model, or its licence forbids what re-identification is.
    """
    check_licence(f"{TIMM}{name}")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ConfigError(f"backbone.name is '{TIMM}{name}', a model that timm does not have{hint}")
    with torch.device("meta"):
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if type(model) not in (VisionTransformer, Eva) or type(model.patch_embed) is not PatchEmbed:
        return Facts("plain", 1, False, False)  # also where a network of another kind makes the patches
    patch = model.patch_embed.patch_size[0]
    kind = "vit" if type(model) is VisionTransformer else "eva"
    return Facts(kind, patch, model.cls_token is not None, is_usual(model.blocks))


def fit_positions(positions: Tensor, stored: tuple[int, int], grid: tuple[int, int], prefix: int) -> Tensor:
    """Positions [1, prefix + h0 w0, C] of the grid `stored` on `grid`, bilinear without antialiasing."""
    rows = positions[0]
    first = rows[:1] if prefix == 0 else rows[prefix - 1 : prefix]  # stands where the class token's would
    fitted = resize_positions(torch.cat([first, rows[prefix:]]), stored, grid)[1:]
    return torch.cat([rows[:prefix], fitted])[None]


class _Loaded:
    """Reading weights in timm's layout."""

    name: str
    visual: Any

    def load(self, source) -> None:
        """Fill the tower from timm's own weights ("timm") or a file or state dict in their layout.

        Raises:
            CheckpointError: no file, nobody answers, or tensors that do not fit.
            ConfigError: another named source, or a model that timm has no weights for.
        """
        if source in ("openai", "embedded"):
            raise ConfigError(f"backbone.weights is {source!r}, which {self.name} does not have; use 'timm' or a file")
        state, where = read_tensors(_published(self.name) if source == "timm" else source)
        own = self.visual.state_dict()
        state = {key: value for key, value in state.items() if key in own or not key.startswith(HEADS)}
        state = self._fitted(state)
        check_fit(state, {key: value.shape for key, value in own.items()}, where, self.name)
        self.visual.load_state_dict(state)

    def _fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state


def _published(name: str) -> dict[str, Tensor]:
    model = name.removeprefix(TIMM)
    if not (cfg := get_pretrained_cfg(model)) or not cfg.has_weights:
        raise ConfigError(
            f"backbone.weights is 'timm', but timm has no weights for {model}; name a tag, as {model}.TAG"
        )
    try:
        return timm.create_model(model, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"timm's weights {model} are not on this machine and cannot be downloaded ({reason}).\n  Fetch "
            f"model.safetensors of https://huggingface.co/{cfg.hf_hub_id} elsewhere and set backbone.weights to its "
            "path."
        ) from error


class _ByName(_Loaded, TimmTransformer):
    """A transformer of timm's by its name.

    Args:
        name: of `backbone.name`, with "timm:".
        image_size: (height, width) of the images in pixels, multiples of the patch unless patches overlap.
        stride: pixels from patch to patch; another than the patch size for plain vision transformers alone. None: the
            patch size.
        num_cameras, sie_coefficient: of a camera embedding, added to all tokens.
        drop_path: rate of stochastic depth at the last block.
        num_classes: width of a projection of the class token that is kept, its head; 0 for none.

    Raises:
        ConfigError: an image size or stride that the model does not allow.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = None,
        num_cameras: int = 0,
        sie_coefficient: float = 3.0,
        drop_path: float = 0.0,
        num_classes: int = 0,
    ):
        model = name.removeprefix(TIMM)
        patch = facts_of(model).patch
        stride = patch if stride is None else stride
        self._check_size(name, image_size, patch, stride)
        pool = {"num_classes": num_classes, "global_pool": "token"} if num_classes else {"num_classes": 0}
        # its patches come row by row, and its rotary positions are those of one grid
        fixed: dict[str, Any] = {"pretrained": False, "dynamic_img_size": False}
        visual: Any = timm.create_model(model, drop_path_rate=drop_path, **fixed, **pool)
        stored_grid = tuple(visual.patch_embed.grid_size)
        if num_classes == 0:
            visual.attn_pool = None
        super().__init__(visual, image_size, patch, stride, num_cameras, sie_coefficient)
        self.name, self.arch, self.stored_grid = name, {"name": name}, stored_grid
        self.mean, self.std = (tuple(visual.pretrained_cfg[key]) for key in ("mean", "std"))

    @staticmethod
    def _check_size(name: str, image_size: tuple[int, int], patch: int, stride: int) -> None:
        if stride == patch and any(side % patch for side in image_size):
            height, width = (side // patch * patch for side in image_size)
            raise ConfigError(
                f"{name} has patches of {patch} pixels, so data.height and data.width must be multiples of {patch}, "
                f"e.g. {height} and {width}, not {image_size[0]} and {image_size[1]}"
            )

    def _fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        positions = state.get("pos_embed")
        if positions is None or positions.ndim != 3:
            return state
        prefix = self.position_prefix
        patches = positions.shape[1] - prefix
        for stored in (self.stored_grid, self.grid):
            if stored[0] * stored[1] == patches:
                return {**state, "pos_embed": fit_positions(positions, stored, self.grid, prefix)}
        return state


class TimmViT(_ByName, PlainTransformer):
    """timm's `VisionTransformer` with all its switches; arguments and errors as :class:`_ByName`'s."""


class EvaTower(_ByName):
    """timm's `Eva`: rotary positions, perhaps SwiGLU and sub-norms. Arguments and errors as :class:`_ByName`'s.

    It gives blocks, tokens, changes and edits; scores and attention of a class token that rotary positions do not turn
    are not to be had.
    """

    gives_attention = False

    @staticmethod
    def _check_size(name: str, image_size: tuple[int, int], patch: int, stride: int) -> None:
        if stride != patch:
            raise ConfigError(
                f"backbone.stride is {stride}, but {name} has rotary positions of its own grid; only {patch}, its "
                "patch size, works"
            )
        _ByName._check_size(name, image_size, patch, stride)

    def _set_grid(self) -> None:
        self.visual.set_input_size(self.image_size)

    def forward(
        self,
        images: Tensor,
        camids: Tensor | None = None,
        *,
        attention: Collection[int] = (),
        class_scores: bool = False,
        edits: Edits | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        **wanted: Any,
    ) -> VisionFeatures:
        """As :meth:`TransformerTower.forward`. Raises ConfigError where class scores or attention are asked for."""
        if attention or class_scores:
            raise ConfigError(f"{self.name} gives no class scores and no attention: set method.hem to False")
        return super().forward(images, camids, edits=edits, change=change, **wanted)

    def add_positions(self, patches: Tensor, camids: Tensor | None) -> Tensor:
        """Input of block 1, [B, P + N, C]: patches with prefix tokens and position, and the camera on every token."""
        x, _ = self.visual._pos_embed(patches)
        return self.visual.norm_pre(self.with_camera(x, camids))

    def run_block(self, block: Any, x: Tensor) -> Tensor:
        """One block: [B, P + N, C] -> the same shape."""
        rope = self.visual.rope
        if rope is None:
            return block(x)
        places = rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=self.grid)
        if getattr(self.visual, "rope_mixed", False):
            places = places[list(self.layers).index(block)]
        return block(x, rope=places)

    def block_and_attention(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Not to be had."""
        raise ConfigError(f"{self.name} gives no attention")

    def class_queries(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Not to be had."""
        raise ConfigError(f"{self.name} gives no class scores: set method.hem to False")


class PlainTower(_Loaded, Tower):
    """Any other image model: its pooled feature alone, for baselines.

    Args:
        name, image_size, drop_path: as :class:`_ByName`'s.
        stride: must be 16 or None; the model has its own.
        num_cameras: must be 0.

    Raises:
        ConfigError: what is said above, or an image size that the model does not allow.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = 16,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if stride not in (None, 16) or num_cameras:
            raise ConfigError(
                f"{name} has its own strides and no camera embedding: leave backbone.stride and sie_camera"
            )
        self.name, self.arch, self.image_size = name, {"name": name}, (image_size[0], image_size[1])
        self.visual = _sized(name.removeprefix(TIMM), self.image_size, drop_path).eval()
        with torch.no_grad():
            maps = self.visual.forward_features(torch.zeros(1, 3, *self.image_size))
            width = self.visual(torch.zeros(1, 3, *self.image_size)).shape[1]
        rows = maps.shape[1:3] if maps.ndim == 4 and maps.shape[-1] == width else maps.shape[2:4]
        self.grid = (int(rows[0]), int(rows[1])) if maps.ndim == 4 else (1, 1)
        self.visual.train()
        self.widths, self.level_widths, self.point_widths = (width, width, width), {}, {}
        self.mean, self.std = (tuple(self.visual.pretrained_cfg[key]) for key in ("mean", "std"))

    def forward(
        self, images: Tensor, camids: Tensor | None = None, *, blocks: Collection[int] = (), **wanted: Any
    ) -> VisionFeatures:
        """The pooled feature of `images` [B, 3, H, W]. Raises ValueError where more is asked for."""
        if blocks or any(value for value in wanted.values()):
            raise ValueError(f"{self.name} gives its feature alone, asked for {sorted(wanted) or 'blocks'}")
        self.check_size(images)
        feature = self.visual(images)
        return VisionFeatures(last=feature, feature=feature, projected=feature, grid=self.grid)


def _sized(model: str, image_size: tuple[int, int], drop_path: float) -> Any:
    """The model at an image size; those without positions take any."""
    sizes: tuple[dict[str, Any], ...] = ({"img_size": image_size}, {})
    for options in sizes:
        try:
            return timm.create_model(
                model, pretrained=False, num_classes=0, drop_path_rate=drop_path or None, **options
            )
        except TypeError:
            continue
        except (AssertionError, ValueError) as error:
            raise ConfigError(
                f"data.height and data.width: {TIMM}{model} does not take {image_size}: {error}"
            ) from error
    raise ConfigError(f"{TIMM}{model} cannot be built as a backbone")


GIVES = {
    "vit": frozenset({"patches", "levels", "tokens", "cameras"}),
    "eva": frozenset({"patches", "levels", "tokens", "cameras"}),
    "plain": frozenset(),
}
KINDS: dict[str, type] = {"vit": TimmViT, "eva": EvaTower, "plain": PlainTower}


@BACKBONES.register_module("timm:NAME")
def timm_tower(name: str) -> Callable[..., Tower]:
    """What builds the model of timm's that `name`, "timm:NAME", calls; says what it gives and was made for."""

    def build(**options: Any) -> Tower:
        return KINDS[facts_of(name.removeprefix(TIMM)).kind](name, **options)

    def gives() -> frozenset[str]:
        facts = facts_of(name.removeprefix(TIMM))
        scores = {"class scores"} if facts.kind == "vit" and facts.has_class and facts.is_usual else set()
        return GIVES[facts.kind] | scores

    build.gives = gives  # type: ignore[attr-defined]
    build.options = {"drop_path": "drop_path"}  # type: ignore[attr-defined]
    build.made_for = _made_for(name.removeprefix(TIMM))  # type: ignore[attr-defined]
    return build


def _made_for(model: str) -> dict[str, Any]:
    cfg = get_pretrained_cfg(model) if timm.is_model(model) else None
    if not cfg:
        return {}
    constants = {"data.norm_mean": list(cfg.mean), "data.norm_std": list(cfg.std)}
    return {**constants, "backbone.weights": "timm" if cfg.has_weights else "none"}
