"""LSNet from a state dict in the published naming, written down plainly: scalar loops where a formula has an index.

Shares nothing with occplug; eval mode. `shapes` lists the tensors of a released file, `random_state` fills it.
"""

import math

import torch
import torch.nn.functional as F

SIZES = {
    "lsnet_t": ((64, 128, 256, 384), (0, 2, 8, 10)),
    "lsnet_s": ((96, 192, 320, 448), (1, 2, 8, 10)),
    "lsnet_b": ((128, 256, 384, 512), (4, 6, 8, 10)),
}


def ska(x, w):
    """Every output from its own sum, in Python numbers."""
    batch, channels, height, width = x.shape
    kernels, taps = w.shape[1:3]
    side = math.isqrt(taps)
    p = (side - 1) // 2
    out = torch.zeros_like(x)
    for b in range(batch):
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    total = 0.0
                    for u in range(side):
                        for v in range(side):
                            row, column = i - p + u, j - p + v
                            if 0 <= row < height and 0 <= column < width:
                                total += float(x[b, c, row, column]) * float(w[b, c % kernels, u * side + v, i, j])
                    out[b, c, i, j] = total
    return out


def ska_unfold(x, w):
    """The same with F.unfold, for maps too large for loops."""
    batch, channels, height, width = x.shape
    kernels, taps = w.shape[1:3]
    side = math.isqrt(taps)
    columns = F.unfold(x, side, padding=side // 2).view(batch, channels, taps, height, width)
    return (columns * w[:, [c % kernels for c in range(channels)]]).sum(2)


def forward_features(state, images, widths, depths, kernel=ska_unfold):
    s = state
    x = F.relu(_cb(s, "patch_embed.0", images, 2))
    x = F.relu(_cb(s, "patch_embed.2", x, 2))
    x = _cb(s, "patch_embed.4", x, 2)
    outputs = []
    for stage, depth in enumerate(depths, start=1):
        start = 0
        if stage > 1:
            x = _cb(s, f"blocks{stage}.0", x, 2, groups=widths[stage - 2])
            x = _cb(s, f"blocks{stage}.1", x)
            start = 2
        for number in range(depth):
            x = _block(s, f"blocks{stage}.{start + number}", x, number, stage, kernel)
        outputs.append(x)
    return outputs


def _block(s, name, x, number, stage, kernel):
    channels = x.shape[1]
    if number % 2 == 0:
        x = _cb(s, f"{name}.mixer.conv", x, groups=channels) + _cb(s, f"{name}.mixer.conv1", x, groups=channels) + x
        gate = x.mean((2, 3), keepdim=True)
        gate = F.relu(F.conv2d(gate, s[f"{name}.se.fc1.weight"], s[f"{name}.se.fc1.bias"]))
        x = x * torch.sigmoid(F.conv2d(gate, s[f"{name}.se.fc2.weight"], s[f"{name}.se.fc2.bias"]))
    elif stage < 4:
        x = x + _bn(s, f"{name}.mixer.bn", kernel(x, _perceive(s, f"{name}.mixer.lkp", x)))
    else:
        x = x + _attend(s, f"{name}.mixer.m", x)
    return x + _cb(s, f"{name}.ffn.m.pw2", F.relu(_cb(s, f"{name}.ffn.m.pw1", x)))


def _perceive(s, name, x):
    batch, channels, height, width = x.shape
    y = F.relu(_cb(s, f"{name}.cv1", x))
    y = _cb(s, f"{name}.cv2", y, groups=channels // 2)
    y = F.relu(_cb(s, f"{name}.cv3", y))
    y = F.conv2d(y, s[f"{name}.cv4.weight"], s[f"{name}.cv4.bias"])
    y = y.view(batch, channels // 8, 9, height, width)
    mean = y.mean((2, 3, 4), keepdim=True)
    variance = ((y - mean) ** 2).mean((2, 3, 4), keepdim=True)
    scale, shift = (s[f"{name}.norm.{n}"].view(1, channels // 8, 9, 1, 1) for n in ("weight", "bias"))
    return (y - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def _attend(s, name, x):
    batch, channels, height, width = x.shape
    y = _cb(s, f"{name}.qkv", x)
    q, k, v = y[:, :64], y[:, 64:128], y[:, 128:]
    q = _cb(s, f"{name}.dw", q, groups=64)
    biases = s[f"{name}.attention_biases"].view(4, 4, 4)
    if max(height, width) > 4:
        size = (max(4, height), max(4, width))
        biases = F.interpolate(biases[None], size=size, mode="bicubic", align_corners=False)[0]
    cells = [(i, j) for i in range(height) for j in range(width)]
    heads = []
    for h in range(4):
        qh, kh = (t[:, 16 * h : 16 * h + 16].reshape(batch, 16, -1) for t in (q, k))
        vh = v[:, channels // 4 * h : channels // 4 * (h + 1)].reshape(batch, channels // 4, -1)
        logits = torch.einsum("bdn,bdm->bnm", qh, kh) / 4
        for n, (i, j) in enumerate(cells):
            for m, (k_row, k_column) in enumerate(cells):
                logits[:, n, m] += biases[h, abs(i - k_row), abs(j - k_column)]
        heads.append(torch.einsum("bnm,bdm->bdn", logits.softmax(2), vh))
    out = torch.cat(heads, dim=1).view(batch, channels, height, width)
    return _cb(s, f"{name}.proj.1", F.relu(out))


def _cb(s, name, x, stride=1, groups=1):
    weight = s[f"{name}.c.weight"]
    return _bn(s, f"{name}.bn", F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups))


def _bn(s, name, x):
    mean, variance, weight, bias = (
        s[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


# ---------------------------------------------------------------- tensors of a released file


def shapes(widths, depths, distilled=False, classes=1000):
    """Name -> shape, as the published code saves them."""
    found = {}
    first, last = widths[0], widths[-1]
    for index, (a, b) in zip((0, 2, 4), ((3, first // 4), (first // 4, first // 2), (first // 2, first))):
        found |= _cb_shapes(f"patch_embed.{index}", b, a, 3)
    for stage, (width, depth) in enumerate(zip(widths, depths), start=1):
        start = 0
        if stage > 1:
            before = widths[stage - 2]
            found |= _cb_shapes(f"blocks{stage}.0", before, 1, 3) | _cb_shapes(f"blocks{stage}.1", width, before, 1)
            start = 2
        for number in range(depth):
            found |= _block_shapes(f"blocks{stage}.{start + number}", width, number, stage)
    for head in ("head", "head_dist") if distilled else ("head",):
        found |= _bn_shapes(f"{head}.bn", last)
        found |= {f"{head}.l.weight": (classes, last), f"{head}.l.bias": (classes,)}
    return found


def _block_shapes(name, width, number, stage):
    if number % 2 == 0:
        found = _cb_shapes(f"{name}.mixer.conv", width, 1, 3) | _cb_shapes(f"{name}.mixer.conv1", width, 1, 1)
        found |= {f"{name}.se.fc1.weight": (width // 4, width, 1, 1), f"{name}.se.fc1.bias": (width // 4,)}
        found |= {f"{name}.se.fc2.weight": (width, width // 4, 1, 1), f"{name}.se.fc2.bias": (width,)}
    elif stage < 4:
        lkp, half, taps = f"{name}.mixer.lkp", width // 2, 9 * width // 8
        found = _cb_shapes(f"{lkp}.cv1", half, width, 1) | _cb_shapes(f"{lkp}.cv2", half, 1, 7)
        found |= _cb_shapes(f"{lkp}.cv3", half, half, 1) | _bn_shapes(f"{name}.mixer.bn", width)
        found |= {f"{lkp}.cv4.weight": (taps, half, 1, 1), f"{lkp}.cv4.bias": (taps,)}
        found |= {f"{lkp}.norm.weight": (taps,), f"{lkp}.norm.bias": (taps,)}
    else:
        m = f"{name}.mixer.m"
        found = _cb_shapes(f"{m}.qkv", 128 + width, width, 1) | _cb_shapes(f"{m}.dw", 64, 1, 3)
        found |= _cb_shapes(f"{m}.proj.1", width, width, 1)
        found |= {f"{m}.attention_biases": (4, 16), f"{m}.attention_bias_idxs": (16, 16)}
    return (
        found
        | _cb_shapes(f"{name}.ffn.m.pw1", 2 * width, width, 1)
        | _cb_shapes(f"{name}.ffn.m.pw2", width, 2 * width, 1)
    )


def _cb_shapes(name, b, a, kernel):
    return {f"{name}.c.weight": (b, a, kernel, kernel)} | _bn_shapes(f"{name}.bn", b)


def _bn_shapes(name, width):
    return {f"{name}.{n}": (width,) for n in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def random_state(shapes, seed=0, dtype=torch.float32):
    """Values that keep activations near 1 and leave no part without effect."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=draw, dtype=torch.float64)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
            continue
        if name.endswith("attention_bias_idxs"):
            cells = [(i, j) for i in range(4) for j in range(4)]
            state[name] = torch.tensor([[abs(a - c) * 4 + abs(b - d) for c, d in cells] for a, b in cells])
            continue
        if name.endswith("running_var"):
            value = 0.5 + noise.abs()
        elif name.endswith((".bn.weight", ".norm.weight")):
            value = 0.6 + 0.2 * noise
        elif name.endswith(("attention_biases", "head.l.weight")):
            value = noise
        elif len(shape) == 4:
            value = noise * math.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        else:
            value = 0.2 * noise
        state[name] = value.to(dtype)
    return state
