"""Random checkpoints in the official ProFD layout, and what the official code computes from them."""

import torch
import torch.nn.functional as F

from tests import clip_reference as reference
from tests.heads.test_part_heads import decode

FULL = {"width": 768, "layers": 12, "embed": 512, "heads": 12, "text": 512, "text_layers": 12, "text_heads": 8}
DECODER = "parts_feature_decoder."
# the decoder of the reference formulas -> the official names
RENAMED = {
    "memory_proj.": "memory_proj.",
    "query_proj.": "text_proj.",
    "out_proj.": "out_proj.",
    **{
        f"layers.{i}.{ours}.": f"decoder.{i}.{theirs}."
        for i in (0, 1)
        for ours, theirs in {
            "reverse": "t2p_cross_attn",
            "semantic": "p2t_cross_attn",
            "spatial.query": "spa_proj",
            "spatial.attend": "distill_attn",
            "final": "final_cross_attn",
            "norm_keys": "norm2",
            "norm_hybrid": "norm3",
            "norm_mlp": "norm4",
            "norm_out": "norm5",
            "mlp": "mlp",
        }.items()
    },
}


def _decoder_shapes(d):
    def norm(name):
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    def linear(name, out=d, inside=d):
        return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}

    shapes = norm("memory_proj.0") | linear("memory_proj.1") | norm("memory_proj.2")
    shapes |= norm("text_proj.0") | linear("text_proj.1") | norm("out_proj.0") | linear("out_proj.1")
    for layer in ("decoder.0.", "decoder.1."):
        for name in ("t2p_cross_attn", "p2t_cross_attn", "distill_attn", "final_cross_attn", "self_attn"):
            shapes |= {f"{layer}{name}.in_proj_weight": (3 * d, d), f"{layer}{name}.in_proj_bias": (3 * d,)}
            shapes |= linear(f"{layer}{name}.out_proj")
        shapes |= linear(f"{layer}spa_proj") | linear(f"{layer}mlp.0", 4 * d) | linear(f"{layer}mlp.3", d, 4 * d)
        for number in (1, 2, 3, 4, 5):
            shapes |= norm(f"{layer}norm{number}")
    return {DECODER + name: shape for name, shape in shapes.items()}


def profd_state(sizes, rows, parts=5, classes=5, context=16, shared=False, cameras=8, seed=0):
    """Every tensor of an official checkpoint, leftovers included; `rows` of the position embedding."""
    d, text = sizes["embed"], sizes["text"]
    towers = {"width": sizes["width"], "layers": sizes["layers"], "embed": d}
    shapes = reference.vit_shapes(rows, **towers, prefix="image_encoder.")
    shapes |= reference.text_shapes(text, sizes["text_layers"], d, prefix="text_encoder.")
    shapes |= {"background_cls": (1, d), "cv_embed": (cameras, sizes["width"]), "gamma": (d,)}
    learner = "pose_prompt_learner."
    shapes[f"{learner}ctx"] = (context, text) if shared else (parts + 1, context, text)
    shapes[f"{learner}token_prefix"] = (parts + 1, 1, text)
    shapes[f"{learner}token_suffix"] = (parts + 1, 76 - context, text)
    shapes |= _decoder_shapes(d)
    for name, width in (("global", d), ("concat_parts", parts * d), ("foreground", d), ("background", d)):
        shapes |= reference.bn_shapes(f"{name}_identity_classifier.bn", width)
        shapes[f"{name}_identity_classifier.classifier.weight"] = (classes, width)
    for k in range(parts):
        shapes |= reference.bn_shapes(f"parts_identity_classifier.{k}.bn", d)
        shapes[f"parts_identity_classifier.{k}.classifier.weight"] = (classes, d)
        shapes |= {f"IAI.{k}.weight": (1, d), f"IAI.{k}.bias": (1,)}
    shapes |= {f"{learner}ZS_image_encoder.conv1.weight": (4, 3, 2, 2), "seg_classifier.weight": (3, d)}
    shapes |= {"global_after_pooling_dim_reduce.layers.0.weight": (d, d), "DAI.0.weight": (1, d)}
    shapes |= {
        "prompt_encoder.x": (2,),
        "context_decoder.layers.0.y": (2,),
        "total_ops": (1,),
        "IAI.total_params": (1,),
    }
    return reference.random_state(shapes, seed)


def _bn(x, state, name):
    x = (x - state[f"{name}.running_mean"]) / torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def profd_test_features(state, sizes, images, ends, stride=16):
    """Unit global [B, D], unit parts [B, K, D], visibility [B, K]; `ends`: end-of-text position of each prompt."""
    openai = {name.replace("image_encoder.", "visual."): value for name, value in state.items()}
    *_, projected, _ = reference.vit(openai, images, sizes["heads"], stride)
    learner = "pose_prompt_learner."
    prefix, suffix = state[f"{learner}token_prefix"], state[f"{learner}token_suffix"]
    context = state[f"{learner}ctx"].expand(len(prefix), -1, -1)
    embeddings = torch.cat([prefix, context, suffix], dim=1)  # all 77 tokens
    texts = [
        reference.text(state, embeddings[i : i + 1], sizes["text_heads"], end, prefix="text_encoder.")
        for i, end in enumerate(ends)
    ]
    queries = torch.cat([state["background_cls"], *texts])
    decoder = {}
    for ours, theirs in RENAMED.items():
        for name, value in state.items():
            if name.startswith(DECODER + theirs):
                decoder[ours + name[len(DECODER + theirs) :]] = value
    rows = torch.stack([_decode(queries, image, decoder) for image in projected[:, 1:]])
    parts = rows[:, 2:]
    count = parts.shape[1]
    v = torch.stack([parts[:, k] @ state[f"IAI.{k}.weight"][0] + state[f"IAI.{k}.bias"] for k in range(count)], dim=1)
    normed = torch.stack([_bn(parts[:, k], state, f"parts_identity_classifier.{k}.bn") for k in range(count)], dim=1)
    whole = F.normalize(_bn(projected[:, 0], state, "global_identity_classifier.bn"))
    return whole, F.normalize(normed, dim=2), (v.sigmoid() / 0.1).softmax(dim=1)


def _decode(queries, image, state):
    return decode(queries, image, state, layers=2, heads=8)[0]
