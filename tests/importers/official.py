"""Random checkpoints in the official CLIP-ReID layout, and what the official code computes from them."""

import torch

from tests import clip_reference as reference

FULL_VIT = {"width": 768, "layers": 12, "embed": 512, "heads": 12, "text": 512, "text_layers": 12}
FULL_RN50 = {"width": 64, "layers": (3, 4, 6, 3), "embed": 1024, "heads": 32, "text": 512, "text_layers": 12}


def clip_reid_state(sizes, rows, classes=5, cameras=0, learnable=4, prompts=True, seed=0):
    """Every tensor of an official checkpoint; `rows` of the position embedding."""
    is_vit = isinstance(sizes["layers"], int)
    make = reference.vit_shapes if is_vit else reference.resnet_shapes
    towers = {"width": sizes["width"], "layers": sizes["layers"], "embed": sizes["embed"]}
    shapes = make(rows, **towers, prefix="image_encoder.")
    width, embed, text = sizes["width"] * (1 if is_vit else 32), sizes["embed"], sizes["text"]
    if cameras:
        shapes["cv_embed"] = (cameras, width)
    for suffix, size in (("", width), ("_proj", embed)):
        shapes[f"classifier{suffix}.weight"] = (classes, size)
        shapes |= reference.bn_shapes(f"bottleneck{suffix}", size)
    if prompts:
        shapes["prompt_learner.cls_ctx"] = (classes, learnable, text)
        shapes["prompt_learner.token_prefix"] = (1, 5, text)
        shapes["prompt_learner.token_suffix"] = (1, 72 - learnable, text)
        shapes |= reference.text_shapes(text, sizes["text_layers"], embed, prefix="text_encoder.")
    return reference.random_state(shapes, seed)


def _openai_names(state):
    return {name.replace("image_encoder.", "visual."): value for name, value in state.items()}


def clip_reid_feature(state, sizes, images, stride=16, camids=None, neck="before"):
    """Test feature: last-level and projected feature, [B, C + E]."""
    if isinstance(sizes["layers"], int):
        camera = None if camids is None or "cv_embed" not in state else state["cv_embed"][camids]
        _, y, z, _ = reference.vit(_openai_names(state), images, sizes["heads"], stride, camera)
        features = {"bottleneck": y[:, 0], "bottleneck_proj": z[:, 0]}
    else:
        maps, pooled = reference.resnet(_openai_names(state), images, sizes["heads"])
        features = {"bottleneck": maps[3].mean((2, 3)), "bottleneck_proj": pooled[:, 0]}
    if neck == "after":
        features = {name: _normalise(feature, state, name) for name, feature in features.items()}
    return torch.cat(list(features.values()), dim=1)


def _normalise(x, state, name):
    x = (x - state[f"{name}.running_mean"]) / torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def clip_reid_text_features(state, heads):
    """Text features of all identities, [N, E], from the whole 77 tokens."""
    context = state["prompt_learner.cls_ctx"]
    prefix, suffix = (state[f"prompt_learner.token_{n}"].expand(len(context), -1, -1) for n in ("prefix", "suffix"))
    embeddings = torch.cat([prefix, context, suffix], dim=1)
    return reference.text(state, embeddings, heads, 7 + context.shape[1], prefix="text_encoder.")
