"""SOLIDER's Swin as plain loops over a state dict in its official layout; shares nothing with occplug.

Windows are visited one by one, keys and biases query by query from coordinates, so that no index table, mask tensor or
reshaping of the implementation can be repeated here.
"""

import math

import torch
import torch.nn.functional as F

from tests.clip_reference import random_state

WEIGHT = 0.2  # semantic


def shapes(width, depths, heads, prefix):
    found = {"patch_embed.projection.weight": (width, 3, 4, 4), "patch_embed.projection.bias": (width,)}
    found |= {f"patch_embed.norm.{kind}": (width,) for kind in ("weight", "bias")}
    for i in range(4):
        c = width * 2**i
        for j in range(depths[i]):
            name = f"stages.{i}.blocks.{j}"
            found |= {f"{name}.norm{n}.{kind}": (c,) for n in (1, 2) for kind in ("weight", "bias")}
            found[f"{name}.attn.w_msa.relative_position_bias_table"] = (169, heads[i])
            found[f"{name}.attn.w_msa.relative_position_index"] = (49, 49)
            for layer, out, into in (
                ("attn.w_msa.qkv", 3 * c, c),
                ("attn.w_msa.proj", c, c),
                ("ffn.layers.0.0", 4 * c, c),
                ("ffn.layers.1", c, 4 * c),
            ):
                found |= {f"{name}.{layer}.weight": (out, into), f"{name}.{layer}.bias": (out,)}
        if i < 3:
            found |= {f"stages.{i}.downsample.norm.{kind}": (4 * c,) for kind in ("weight", "bias")}
            found[f"stages.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
        found |= {f"norm{i}.{kind}": (c,) for kind in ("weight", "bias")}
        out = 2 * c if i < 3 else c
        for letter in "wb":
            found |= {f"semantic_embed_{letter}.{i}.weight": (out, 2), f"semantic_embed_{letter}.{i}.bias": (out,)}
    return {f"{prefix}{name}": shape for name, shape in found.items()}


def state(width, depths, heads, prefix=""):
    made = random_state({k: v for k, v in shapes(width, depths, heads, prefix).items() if not k.endswith("_index")})
    index = torch.tensor([[(a // 7 - b // 7 + 6) * 13 + a % 7 - b % 7 + 6 for b in range(49)] for a in range(49)])
    names = [name for name in shapes(width, depths, heads, prefix) if name.endswith("_index")]
    return made | {name: index.clone() for name in names}


def _norm(x, get, name):
    return F.layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)


def _linear(x, get, name):
    return x @ get(f"{name}.weight").T + get(f"{name}.bias")


def _region(place, side):
    """Which of the three bands of a rolled, padded side a place is in."""
    return 0 if place < side - 7 else 1 if place < side - 3 else 2


def _attention(x, get, name, heads, shifted):
    """x [h, w, C] of one image, after the first norm."""
    h, w, c = x.shape
    height, width = math.ceil(h / 7) * 7, math.ceil(w / 7) * 7
    padded = torch.zeros(height, width, c, dtype=x.dtype)
    padded[:h, :w] = x  # padded first,
    shift = 3 if shifted else 0
    rolled = torch.empty_like(padded)
    for y in range(height):
        for z in range(width):  # rolled then
            rolled[y, z] = padded[(y + shift) % height, (z + shift) % width]
    table, out = get(f"{name}.w_msa.relative_position_bias_table"), torch.empty_like(rolled)
    d = c // heads
    for top in range(0, height, 7):
        for left in range(0, width, 7):
            cells = [(top + y, left + z) for y in range(7) for z in range(7)]
            qkv = _linear(torch.stack([rolled[cell] for cell in cells]), get, f"{name}.w_msa.qkv")
            q, k, v = (part.reshape(49, heads, d) for part in qkv.split(c, dim=1))
            for row, (y, z) in enumerate(cells):
                rows = [(y - b + 6) * 13 + z - a + 6 for b, a in cells]
                logits = (k * q[row]).sum(-1) / math.sqrt(d) + table[rows]  # [49, heads]
                if shifted:
                    mine = (_region(y, height), _region(z, width))
                    other = [(_region(b, height), _region(a, width)) != mine for b, a in cells]
                    logits = logits - 100.0 * torch.tensor(other, dtype=x.dtype)[:, None]
                out[y, z] = (logits.softmax(0)[:, :, None] * v).sum(0).flatten()
    out = _linear(out, get, f"{name}.w_msa.proj")
    back = torch.empty_like(out)
    for y in range(height):
        for z in range(width):
            back[(y + shift) % height, (z + shift) % width] = out[y, z]
    return back[:h, :w]


def _merge(x, get, name):
    h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
    rows = []
    for y in range(0, x.shape[0], 2):
        for z in range(0, x.shape[1], 2):
            rows.append(torch.stack([x[y + i, z + j, ch] for ch in range(c) for i in (0, 1) for j in (0, 1)]))
    merged = _norm(torch.stack(rows), get, f"{name}.norm") @ get(f"{name}.reduction.weight").T
    return merged.reshape(x.shape[0] // 2, x.shape[1] // 2, -1)


def levels(state, images, heads, prefix="", weight=WEIGHT):
    """The four normalised levels, each [B, C, h, w]."""
    get = lambda name: state[f"{prefix}{name}"].double()  # noqa: E731
    semantic, found = torch.tensor([weight, 1 - weight], dtype=torch.float64), [[], [], [], []]
    for image in images.double():
        image = F.pad(image, (0, -image.shape[2] % 4, 0, -image.shape[1] % 4))
        x = F.conv2d(image[None], get("patch_embed.projection.weight"), get("patch_embed.projection.bias"), stride=4)
        x = _norm(x[0].permute(1, 2, 0), get, "patch_embed.norm")
        for i in range(4):
            j = 0
            while f"{prefix}stages.{i}.blocks.{j}.norm1.weight" in state:
                name = f"stages.{i}.blocks.{j}"
                x = x + _attention(_norm(x, get, f"{name}.norm1"), get, f"{name}.attn", heads[i], j % 2 == 1)
                y = _linear(_norm(x, get, f"{name}.norm2"), get, f"{name}.ffn.layers.0.0")
                x = x + _linear(0.5 * y * (1 + torch.erf(y / math.sqrt(2))), get, f"{name}.ffn.layers.1")
                j += 1
            found[i].append(_norm(x, get, f"norm{i}").permute(2, 0, 1))
            if i < 3:
                x = _merge(x, get, f"stages.{i}.downsample")
                scale = F.softplus(_linear(semantic, get, f"semantic_embed_w.{i}"))
                x = x * scale + _linear(semantic, get, f"semantic_embed_b.{i}")
    return [torch.stack(level) for level in found]
