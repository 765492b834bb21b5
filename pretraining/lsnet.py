"""The small towers without texts, trained on the tiny CLIP's rendered people by their attributes.

`lsnet_mini`, which runs beside that CLIP (WGFF); `vit_mini` and `solider_swin_mini`, which stand for PersonViT and
SOLIDER where every combination has to run on a laptop. One linear head per attribute on the tower's feature, what
stands in front among them; the heads are dropped.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from occplug.backbones.lsnet import SIZES, LSNet
from occplug.registry import BACKBONES, build
from pretraining.pool import Pool, shares_of
from pretraining.scoring import Sample, macro_accuracy
from pretraining.texts import PHRASES, VALUES
from pretraining.trainer import augment, to_pixels

__all__ = ["NAME", "NAMES", "AttributeNet", "measure", "save", "train"]

NAME = "lsnet_mini"
# AdamW: rate, steps of warm-up; linear decay after it
NAMES = {NAME: (2e-3, 60), "vit_mini": (1e-3, 60), "solider_swin_mini": (1.5e-3, 60)}
WEIGHT_DECAY = 0.05
TABLES = ("attention_biases", "relative_position_bias_table")  # no weight decay


class AttributeNet(nn.Module):
    """A tower and one linear head per attribute of PHRASES.

    Args:
        name: one of NAMES.

    Attributes:
        tower: what is kept.
    """

    def __init__(self, name: str = NAME):
        super().__init__()
        self.name, self.is_lsnet = name, name == NAME
        self.tower = LSNet(**SIZES[NAME]) if self.is_lsnet else build(BACKBONES, name)
        width = self.tower.widths[-1]
        self.heads = nn.ModuleDict({n: nn.Linear(width, len(VALUES[n])) for n in PHRASES})
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.tower.mean, self.tower.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits [B, values] per attribute of `pixels` [B, 3, H, W] in [-1, 1]."""
        features = self.tower(((pixels + 1) / 2 - self.mean) / self.std)
        features = features if self.is_lsnet else features.feature
        return {name: head(features) for name, head in self.heads.items()}


def train(
    pool: Pool,
    counted: range,
    batch: int,
    minutes: float,
    seed: int = 0,
    name: str = NAME,
    start: Path | None = None,
) -> tuple[AttributeNet, dict[str, int]]:
    """Train for `minutes` of this process's CPU time; -> the network, and `samples` and `steps`.

    Args:
        name: of the tower, one of NAMES.
        start: a file of :func:`save` to go on from, with new heads; without one the tower starts from noise.
        counted: chunks by whose labels the shares of the attributes' values are counted (logit adjustment).
    """
    torch.manual_seed(seed)
    net, draw = AttributeNet(name).train(), np.random.default_rng(seed)
    if start is not None:
        tower = net.tower if net.is_lsnet else net.tower.visual
        tower.load_state_dict(load_file(start))
    shares = {name: value.clamp_min(1e-3).log() for name, value in shares_of(pool.labels(counted)).items()}
    decay = [p for n, p in net.named_parameters() if p.ndim >= 2 and not n.endswith(TABLES)]
    others = [p for n, p in net.named_parameters() if p.ndim < 2 or n.endswith(TABLES)]
    groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer, steps, start = torch.optim.AdamW(groups, lr=NAMES[name][0]), 0, time.process_time()
    with tqdm(unit=" steps") as bar:
        while (progress := (time.process_time() - start) / 60 / minutes) < 1:
            for group in optimizer.param_groups:
                group["lr"] = NAMES[name][0] * min(1.0, (steps + 1) / NAMES[name][1]) * max(1 - progress, 0.01)
            images, _, labels = pool.batch(batch, draw)
            logits = net(augment(images, torch.Generator().manual_seed(int(draw.integers(1 << 31)))))
            loss = torch.stack([F.cross_entropy(logits[n] + shares[n], labels[n]) for n in PHRASES]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps += 1
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", done=f"{progress:.0%}")
    return net.eval(), {"samples": steps * batch, "steps": steps}


@torch.no_grad()
def measure(net: AttributeNet, sample: Sample) -> dict[str, float]:
    """Macro accuracy per attribute by the heads, in [0, 1]."""
    parts = [net.eval()(to_pixels(part)) for part in torch.from_numpy(sample.images).split(100)]
    return {n: macro_accuracy(torch.cat([p[n] for p in parts]).argmax(dim=1), sample.labels[n]) for n in PHRASES}


def save(net: AttributeNet, path: Path, metadata: dict[str, str]) -> None:
    """The tower alone, in fp16, with the names of the published code."""
    kept = net.tower if net.is_lsnet else net.tower.visual
    state = {k: v.half() if v.is_floating_point() else v for k, v in kept.state_dict().items()}
    assert all(v.isfinite().all() for v in state.values()), "a value that fp16 does not hold"
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata)
