"""CLIP's towers as plain functions of a state dict in OpenAI's layout, and random state dicts of any size.

Written from the formulas alone, sharing nothing with occplug: what the modules are compared with.
"""

import math

import torch
import torch.nn.functional as F


def _norm(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x, weight, bias):
    return x @ weight.T + bias


def _attend(query, key, value, heads, mask=None):
    """[B, L, C] x3 -> mixed values [B, L, C] and weights [B, heads, L, M]."""
    split = lambda x: x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)  # noqa: E731
    query, key, value = split(query), split(key), split(value)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2), weights


def block(x, state, name, heads, mask=None):
    y = _norm(x, state, f"{name}.ln_1")
    q, k, v = _linear(y, state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]).chunk(3, dim=-1)
    mixed, weights = _attend(q, k, v, heads, mask)
    x = x + _linear(mixed, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"])
    hidden = _linear(_norm(x, state, f"{name}.ln_2"), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    return x + _linear(hidden, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"]), weights


def _depth(state, prefix):
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def resize(positions, stored, grid):
    """Bilinear, half-pixel centres, no antialias, by explicit loops."""
    (h0, w0), (h, w) = stored, grid
    image = positions[1:].reshape(h0, w0, -1)
    rows = [positions[0]]
    for i in range(h):
        for j in range(w):
            y = min(max((i + 0.5) * h0 / h - 0.5, 0), h0 - 1)
            x = min(max((j + 0.5) * w0 / w - 0.5, 0), w0 - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, h0 - 1), min(left + 1, w0 - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[low, left] * (1 - (x - left)) + image[low, right] * (x - left)
            rows.append(upper * (1 - (y - top)) + lower * (y - top))
    return torch.stack(rows)


def vit(state, images, heads, stride, camera=None):
    """(streams after 0, 1, ... blocks; after ln_post; projected; weights of each block). `camera` is [B, C] or None."""
    patches = F.conv2d(images, state["visual.conv1.weight"], stride=stride).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(images), -1)
    first = first if camera is None else first + camera
    x = torch.cat([first[:, None], patches], dim=1) + state["visual.positional_embedding"]
    x = _norm(x, state, "visual.ln_pre")
    streams, weights = [x], []
    for i in range(_depth(state, "visual.transformer.resblocks.")):
        x, w = block(x, state, f"visual.transformer.resblocks.{i}", heads)
        streams.append(x)
        weights.append(w)
    y = _norm(x, state, "visual.ln_post")
    return streams, y, y @ state["visual.proj"], weights


def _bn(x, state, name, training):
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    wide = lambda v: v[None, :, None, None]  # noqa: E731
    x = (x - wide(mean)) / torch.sqrt(wide(var) + 1e-5)
    return x * wide(state[f"{name}.weight"]) + wide(state[f"{name}.bias"])


def resnet(state, images, heads, last_stride=1, training=False):
    """(maps of layers 1 to 4, attention pool output of every query [B, 1 + N, E])."""
    x = images
    for i in (1, 2, 3):
        x = F.conv2d(x, state[f"visual.conv{i}.weight"], stride=2 if i == 1 else 1, padding=1)
        x = _bn(x, state, f"visual.bn{i}", training).relu()
    x = F.avg_pool2d(x, 2)
    maps = []
    for layer in (1, 2, 3, 4):
        for i in range(_depth(state, f"visual.layer{layer}.")):
            reduce = {1: 1, 2: 2, 3: 2, 4: last_stride}[layer] if i == 0 else 1
            x = _bottleneck(x, state, f"visual.layer{layer}.{i}", reduce, training)
        maps.append(x)
    cells = x.flatten(2).transpose(1, 2)
    t = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + state["visual.attnpool.positional_embedding"]
    q, k, v = (
        _linear(t, state[f"visual.attnpool.{n}_proj.weight"], state[f"visual.attnpool.{n}_proj.bias"]) for n in "qkv"
    )
    mixed, _ = _attend(q, k, v, heads)
    return maps, _linear(mixed, state["visual.attnpool.c_proj.weight"], state["visual.attnpool.c_proj.bias"])


def _bottleneck(x, state, name, reduce, training):
    y = _bn(F.conv2d(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1", training).relu()
    y = _bn(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.bn2", training).relu()
    y = F.avg_pool2d(y, reduce)
    y = _bn(F.conv2d(y, state[f"{name}.conv3.weight"]), state, f"{name}.bn3", training)
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(F.avg_pool2d(x, reduce), state[f"{name}.downsample.0.weight"])
        x = _bn(x, state, f"{name}.downsample.1", training)
    return (x + y).relu()


def text(state, embeddings, heads, eot, prefix=""):
    """[n, L, W] -> [n, E], read at position `eot`."""
    length = embeddings.shape[1]
    mask = torch.zeros(length, length).masked_fill(torch.ones(length, length).tril() == 0, float("-inf"))
    x = embeddings + state[f"{prefix}positional_embedding"][:length]
    for i in range(_depth(state, f"{prefix}transformer.resblocks.")):
        x, _ = block(x, state, f"{prefix}transformer.resblocks.{i}", heads, mask)
    return _norm(x, state, f"{prefix}ln_final")[:, eot] @ state[f"{prefix}text_projection"]


# ---------------------------------------------------------------- random state dicts


def _blocks(prefix, width, layers):
    shapes = {}
    for i in range(layers):
        name = f"{prefix}transformer.resblocks.{i}"
        shapes |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{name}.attn.out_proj.weight": (width, width), f"{name}.attn.out_proj.bias": (width,)}
        shapes |= {f"{name}.mlp.c_fc.weight": (4 * width, width), f"{name}.mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{name}.mlp.c_proj.weight": (width, 4 * width), f"{name}.mlp.c_proj.bias": (width,)}
        shapes |= {f"{name}.ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    return shapes


def vit_shapes(rows, width=768, layers=12, patch=16, embed=512, prefix="visual."):
    shapes = {f"{prefix}class_embedding": (width,), f"{prefix}positional_embedding": (rows, width)}
    shapes |= {f"{prefix}conv1.weight": (width, 3, patch, patch), f"{prefix}proj": (width, embed)}
    shapes |= {f"{prefix}ln_{n}.{kind}": (width,) for n in ("pre", "post") for kind in ("weight", "bias")}
    return shapes | _blocks(prefix, width, layers)


def bn_shapes(name, width):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (width,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def resnet_shapes(rows, width=64, layers=(3, 4, 6, 3), embed=1024, prefix="visual."):
    half, full = width // 2, 32 * width
    shapes = {f"{prefix}conv1.weight": (half, 3, 3, 3), f"{prefix}conv2.weight": (half, half, 3, 3)}
    shapes |= {f"{prefix}conv3.weight": (width, half, 3, 3)}
    for i, channels in ((1, half), (2, half), (3, width)):
        shapes |= bn_shapes(f"{prefix}bn{i}", channels)
    before = width
    for layer, count in enumerate(layers, start=1):
        planes = width * 2 ** (layer - 1)
        for i in range(count):
            name = f"{prefix}layer{layer}.{i}"
            shapes |= {f"{name}.conv1.weight": (planes, before, 1, 1), f"{name}.conv2.weight": (planes, planes, 3, 3)}
            shapes |= {f"{name}.conv3.weight": (4 * planes, planes, 1, 1)}
            shapes |= bn_shapes(f"{name}.bn1", planes) | bn_shapes(f"{name}.bn2", planes)
            shapes |= bn_shapes(f"{name}.bn3", 4 * planes)
            if i == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * planes, before, 1, 1)}
                shapes |= bn_shapes(f"{name}.downsample.1", 4 * planes)
            before = 4 * planes
    shapes |= {f"{prefix}attnpool.positional_embedding": (rows, full)}
    for n in "qkvc":
        out = embed if n == "c" else full
        shapes |= {f"{prefix}attnpool.{n}_proj.weight": (out, full), f"{prefix}attnpool.{n}_proj.bias": (out,)}
    return shapes


def text_shapes(width=512, layers=12, embed=512, context=77, prefix=""):
    shapes = {f"{prefix}positional_embedding": (context, width), f"{prefix}text_projection": (width, embed)}
    shapes |= {f"{prefix}ln_final.weight": (width,), f"{prefix}ln_final.bias": (width,)}
    return shapes | _blocks(prefix, width, layers)


def random_state(shapes, seed=0):
    """Tensors of these shapes, scaled so that activations stay near 1: no parameter is at its neutral value."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=draw)
        if name.endswith("num_batches_tracked"):
            noise = torch.tensor(7)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            noise = 1 + 0.2 * noise.clamp(-2, 2)
        elif len(shape) >= 2 and "embedding" not in name:
            noise = noise / math.prod(shape[1:]) ** 0.5
        elif len(shape) >= 1:
            noise = 0.3 * noise
        state[name] = noise
    return state
