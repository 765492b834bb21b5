"""Small CLIPs in OpenAI's layout: their sizes in our form, and random weights."""

from tests import clip_reference as reference

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 80, "patch_size": 16, "width": 64, "layers": 4, "head_width": 16},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
RESNET = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 96, "width": 8, "layers": [1, 2, 1, 2], "head_width": 64},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
HEADS = 4  # of both image towers: 64 / 16 and 8 * 32 / 64
SIZE = (64, 48)


def text_state():
    shapes = reference.text_shapes(32, 3, 24)
    return reference.random_state({**shapes, "token_embedding.weight": (49408, 32), "logit_scale": ()}, seed=2)


def vit_state(rows=26):
    return reference.random_state(reference.vit_shapes(rows, 64, 4, 16, 24))


def resnet_state(rows=10):
    return reference.random_state(reference.resnet_shapes(rows, 8, (1, 2, 1, 2), 24))
