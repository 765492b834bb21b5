"""The ImageNet ViT as plain functions of a state dict in timm's layout; shares nothing with occplug."""

import math

import torch
import torch.nn.functional as F

from tests.clip_reference import random_state


def _norm(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def vit(state, images, heads, stride, camera=None, prefix="", scale=None):
    """Streams after 0, 1, ... blocks; the class token after the norm; scores [B, heads, L, L] of each block.

    `camera` [B, C] is added to all tokens; `scale` [B, N] multiplies the embedded patches.
    """
    get = lambda name: state[f"{prefix}{name}"]  # noqa: E731
    patches = F.conv2d(images, get("patch_embed.proj.weight"), get("patch_embed.proj.bias"), stride=stride)
    patches = patches.flatten(2).transpose(1, 2)
    if scale is not None:
        patches = patches * scale[:, :, None]
    x = torch.cat([get("cls_token").expand(len(images), -1, -1), patches], dim=1) + get("pos_embed")
    x = x if camera is None else x + camera[:, None]
    streams, scores, i = [x], [], 0
    while f"{prefix}blocks.{i}.norm1.weight" in state:
        name = f"{prefix}blocks.{i}"
        y = _norm(x, state, f"{name}.norm1")
        q, k, v = (y @ state[f"{name}.attn.qkv.weight"].T + state[f"{name}.attn.qkv.bias"]).chunk(3, dim=-1)
        q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
        scores.append(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]))
        mixed = (scores[-1].softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"]
        y = _norm(x, state, f"{name}.norm2") @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"]
        x = x + _gelu(y) @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]
        streams.append(x)
        i += 1
    return streams, _norm(x, state, f"{prefix}norm")[:, 0], scores


def vit_shapes(rows, width=768, layers=12, patch=16, prefix=""):
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, rows, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(layers):
        for n in (1, 2):
            shapes |= {f"blocks.{i}.norm{n}.{kind}": (width,) for kind in ("weight", "bias")}
        for name, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"blocks.{i}.{name}.weight"] = (out * width, into * width)
            shapes[f"blocks.{i}.{name}.bias"] = (out * width,)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def vit_state(rows, seed=0, **sizes):
    return random_state(vit_shapes(rows, **sizes), seed)
