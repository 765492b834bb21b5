"""Checkpoints of the official ProFD code (Cuixxx/ProFD), ViT-B/16."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from occplug.config import default_config
from occplug.errors import CheckpointError, ConfigError
from occplug.importers.positions import patch_stride, size_hints
from occplug.importers.report import Composed, load_renamed, most_common
from occplug.method import Method, build_method
from occplug.prompts import PART_SCHEMES
from occplug.utils.tensors import read_tensors

__all__ = ["load"]

_DECODER = "parts_feature_decoder."
_LAYER = {
    "reverse.": "t2p_cross_attn.",
    "semantic.": "p2t_cross_attn.",
    "spatial.query.": "spa_proj.",
    "spatial.attend.": "distill_attn.",
    "final.": "final_cross_attn.",
    "norm_keys.": "norm2.",
    "norm_hybrid.": "norm3.",
    "norm_mlp.": "norm4.",
    "norm_out.": "norm5.",
    "mlp.": "mlp.",
}
# ours, official
TABLE = (
    ("backbone.visual.", "image_encoder."),
    ("text.", "text_encoder."),
    ("background", "background_cls"),
    ("prompts.context", "pose_prompt_learner.ctx"),
    ("decoder.memory_proj.", f"{_DECODER}memory_proj."),
    ("decoder.query_proj.", f"{_DECODER}text_proj."),
    ("decoder.out_proj.", f"{_DECODER}out_proj."),
    *(
        (f"decoder.layers.{i}.{ours}", f"{_DECODER}decoder.{i}.{theirs}")
        for i in (0, 1)
        for ours, theirs in _LAYER.items()
    ),
    ("neck.norm.", "global_identity_classifier.bn."),
    ("neck.classifier.", "global_identity_classifier.classifier."),
    ("neck_parts.norm.", "concat_parts_identity_classifier.bn."),
    ("neck_parts.classifier.", "concat_parts_identity_classifier.classifier."),
)
# What the official training code leaves in its files and the model has no use for: heads of the code it grew from, a
# second image encoder, self-attention that never runs, counters of a FLOP meter. cv_embed has coefficient 0.
LEFTOVERS = re.compile(
    r"gamma|cv_embed|(.*\.)?total_(ops|params)"
    r"|(seg_classifier|prompt_encoder|context_decoder|DAI|pose_prompt_learner\.ZS_image_encoder)(\..*)?"
    r"|(global|foreground|background|parts)_after_pooling_dim_reduce\..*"
    r"|(foreground|background)_identity_classifier\..*"
    r"|parts_identity_classifier\.\d+\.classifier\.weight"
    r"|parts_feature_decoder\.decoder\.\d+\.(self_attn|norm1)\..*"
)
_CONTEXT, _POSITIONS = "pose_prompt_learner.ctx", "image_encoder.positional_embedding"
_PREFIX, _SUFFIX = "pose_prompt_learner.token_prefix", "pose_prompt_learner.token_suffix"
_CLASSIFIERS = ["global_identity_classifier.classifier.weight", "concat_parts_identity_classifier.classifier.weight"]
_NORM = "parts_identity_classifier.{}.bn.{}"


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """The model of a `.pth.tar` file or state dict as a ProFD in eval mode.

    `embed` gives the official test features, global and parts after their batch norms at unit length, and the
    visibilities. Identities, stride, parts and learnable tokens are read from the tensors.

    Args:
        image_size: (height, width) it was trained at; the position embedding must fit it.
        num_cameras: not used; the official models switch their camera embedding off.
        neck: "before" (the default of `load_official`) or "after"; the official features are after the necks.

    Raises:
        CheckpointError: unreadable, a number of parts no grouping has, or every official name that is wrongly shaped,
            missing or unknown.
        ConfigError: `neck` is neither "before" nor "after".
    """
    if neck not in ("before", "after"):
        raise ConfigError(f"neck is {neck!r}; there are: before, after")
    state, where = read_tensors(checkpoint)
    image_size = (image_size[0], image_size[1])
    method = _build(state, where, image_size)
    load_renamed(
        method,
        state,
        TABLE,
        where,
        "ProFD on ViT-B/16",
        _composed(method),
        unused=[name for name in state if LEFTOVERS.fullmatch(name)],
        hints=size_hints(state, _POSITIONS, image_size),
    )
    return method.eval()


def _build(state: dict[str, Tensor], where: str, image_size: tuple[int, int]) -> Method:
    """A ProFD with random weights and the sizes the tensors tell."""
    context = state.get(_CONTEXT)
    is_shared = context is not None and context.ndim == 2
    options = {
        "data.height": image_size[0],
        "data.width": image_size[1],
        "backbone.weights": "none",
        "backbone.stride": patch_stride(state, _POSITIONS, image_size) or 16,
        "method.parts": _scheme(state, where),
        "method.context_tokens": most_common(state, [_CONTEXT], axis=0 if is_shared else 1) or 16,
        "method.ctx_shared": is_shared,
        "method.bank": "none",  # official files have no memory banks
        **{f"method.train.weights.{name}": 0.0 for name in ("loss_align", "loss_attn", "loss_vis")},  # any stride
    }
    pairs = [item for pair in options.items() for item in pair]
    cfg = default_config("profd", "clip_vit_b16", pairs)
    return build_method(cfg, most_common(state, _CLASSIFIERS) or 1, 1, pretrained=False)


def _scheme(state: dict[str, Tensor], where: str) -> str:
    """The grouping with as many prompt rows as the file; the five parts of the published models if it has none."""
    context = [_CONTEXT] if _CONTEXT in state and state[_CONTEXT].ndim == 3 else []
    rows = most_common(state, [_PREFIX, _SUFFIX, *context]) or len(PART_SCHEMES["five_v"])
    for name, texts in PART_SCHEMES.items():
        if len(texts) == rows:
            return name
    known = ", ".join(f"{len(texts)} ({name})" for name, texts in PART_SCHEMES.items())
    raise CheckpointError(
        f"{where}: its prompts have {rows} rows, which no part grouping has; the groupings with prompts have {known}"
    )


def _composed(method: Any) -> dict[str, Composed]:
    """What the official file holds part by part, and the prompts' fixed tokens."""
    parts, width = method.part_norm.scale.shape
    one: tuple[int, ...] = (width,)
    none: tuple[int, ...] = ()
    norm = {"running_mean": one, "running_var": one, "num_batches_tracked": none, "weight": one, "bias": one}

    def gathered(template: str, shape: tuple[int, ...], join) -> Composed:
        names = [template.format(k) for k in range(parts)]
        return Composed(dict.fromkeys(names, shape), lambda state: join([state[name] for name in names]))

    def of_norm(key: str, join) -> Composed:
        return gathered(_NORM.format("{}", key), norm[key], join)

    return {
        "prompts.template": _template(method),
        "part_norm.norm.running_mean": of_norm("running_mean", torch.cat),
        "part_norm.norm.running_var": of_norm("running_var", torch.cat),
        "part_norm.norm.num_batches_tracked": of_norm("num_batches_tracked", lambda counts: counts[0]),
        "part_norm.scale": of_norm("weight", torch.stack),
        "part_norm.shift": of_norm("bias", torch.stack),
        "visibility.weight": gathered("IAI.{}.weight", (1, width), torch.cat),
        "visibility.bias": gathered("IAI.{}.bias", (1,), torch.cat),
    }


def _template(method: Any) -> Composed:
    """Start token, a gap for the learnable tokens, and of the padded rest what comes up to the longest text's end."""
    prompts, text = method.prompts, method.text
    rows, length, width = prompts.template.shape
    count = prompts.context_tokens
    shapes: dict[str, tuple[int, ...]] = {
        _PREFIX: (rows, 1, width),
        _SUFFIX: (rows, text.context_length - 1 - count, width),
    }

    def make(state):
        gap = torch.zeros(rows, count, width)
        return torch.cat([state[_PREFIX], gap, state[_SUFFIX][:, : length - 1 - count]], dim=1)

    return Composed(shapes, make)
