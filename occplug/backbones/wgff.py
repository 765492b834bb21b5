"""WGFF: a CLIP image tower whose maps are gated by LSNet running beside it.

Ji et al., "Dual-Prompt CLIP with Hybrid Visual Encoders for Occluded Person Re-Identification" (DPL-ReID),
arXiv 2605.19527. Its equations were not to be had: places and form of the gates are our reading of its figure 7, and
other readings are options.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones.clip_vit import CLIPViT
from occplug.backbones.features import VisionFeatures
from occplug.backbones.licences import LSNET, pass_licence
from occplug.backbones.lsnet import SIZES, FixedBatchNorm2d, LSNet
from occplug.backbones.lsnet_weights import EMBEDDED, load_lsnet, released_file
from occplug.backbones.resampling import to_grid
from occplug.backbones.tower import CLIPTower, Tower
from occplug.config.defaults import CORE
from occplug.errors import ConfigError
from occplug.method import Group
from occplug.registry import BACKBONES, build, tower_options

__all__ = ["WGFF", "Gate"]

_log = logging.getLogger(__name__)
FUSED = "fused"
_KEYS = CORE["backbone"]["wgff"]  # whose defaults are the constructor's
_NORMS = {"train": nn.BatchNorm2d, "eval": FixedBatchNorm2d}


class Gate(nn.Module):
    """One point of fusion. With S the guiding map, C channels here and w in R^C learnable, 1 at first:

        u = Conv1x1_b(ReLU(BN(Conv1x1_a(S))))       a: channels of S -> C / 4, b: C / 4 -> C, zero at first
        mode "gate": F' = F * (1 + w * (2 sigmoid(u) - 1))          mode "add": F' = F + w * u

    So F' = F at first, to the bit, and b has a gradient from the first step on.

    Args:
        width_in: channels of S.
        width: C.
        mode: "gate" or "add".

    Raises:
        ValueError: another mode.
    """

    def __init__(self, width_in: int, width: int, mode: str):
        super().__init__()
        if mode not in ("gate", "add"):
            raise ValueError(f"mode is {mode!r}, not 'gate' or 'add'")
        self.mode = mode
        self.reduce = nn.Conv2d(width_in, width // 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(width // 4)
        self.expand = nn.Conv2d(width // 4, width, 1)
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """F' [B, C, h, w] in the type of F `x` [B, C, h, w], guided by S [B, width_in, h, w]."""
        u = self.expand(F.relu(self.norm(self.reduce(guide))))
        w = self.weight[:, None, None]
        if self.mode == "add":
            return (x + w * u).to(x.dtype)
        return (x * (1 + w * torch.tanh(u / 2))).to(x.dtype)  # tanh(u / 2) = 2 sigmoid(u) - 1


class WGFF(Tower):
    """CLIP tower and LSNet with a gate at each of `points`; in all else the CLIP tower that a method would build on.

    Args:
        clip: name of the CLIP tower in BACKBONES.
        lsnet: one of :data:`occplug.backbones.lsnet.SIZES`.
        weights: what :meth:`load_beside_clip` reads: "released" (the authors' ImageNet weights, downloaded once), the
            path of such a file, "embedded" (the lsnet_mini in the package), or "none": LSNet starts from noise.
        points: pairs (layer of the CLIP tower, stage 1 to 4 of LSNet or "fused"); "fused" is all four stages side by
            side. Empty: for a ViT (1, "fused") and (2, "fused"), for a ResNet (n, n) with n from 1 to 4.
        mode: "gate" or "add", see :class:`Gate`.
        lsnet_bn: "train", or "eval" for LSNet's stored batch norm statistics in training too.
        clip_weights, activation: of the section `backbone`, for the CLIP tower.
        lr, lsnet_lr: learning rates of the gates and of LSNet, see :meth:`own_groups`.
        options: of the CLIP tower.

    Attributes:
        clip: the plain CLIP tower.
        lsnet: LSNet without the stages that no point reads.
        gates: one for each point.

    Raises:
        ConfigError: a point that does not exist or is given twice; what the CLIP tower refuses.
    """

    clip: CLIPTower
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        clip: str = _KEYS["clip"],
        lsnet: str = _KEYS["lsnet"],
        weights: str = _KEYS["weights"],
        points: Sequence[Sequence] = tuple(_KEYS["points"]),
        mode: str = _KEYS["mode"],
        lsnet_bn: str = _KEYS["lsnet_bn"],
        lr: float = _KEYS["lr"],
        lsnet_lr: float = _KEYS["lsnet_lr"],
        clip_weights: str | None = None,
        activation: str = "",
        **options,
    ):
        super().__init__()
        told = {"weights": clip_weights, "activation": activation}
        self.clip = build(BACKBONES, clip, **options, **{key: told[key] for key in tower_options(clip)})
        self.points = _checked([tuple(p) if isinstance(p, list) else p for p in points], self.clip)
        self.name, self.weights_source, self.rates = lsnet, weights, (lr, lsnet_lr)
        deepest = max(4 if isinstance(source, str) else source for _, source in self.points)
        sizes = {key: sizes[:deepest] for key, sizes in SIZES[lsnet].items()}
        self.lsnet = LSNet(**sizes, norm=_NORMS[lsnet_bn])
        widths: dict[int | str, int] = {**dict(enumerate(self.lsnet.widths, start=1)), FUSED: sum(self.lsnet.widths)}
        here = self.clip.point_widths
        self.gates = nn.ModuleList(Gate(widths[source], here[layer], mode) for layer, source in self.points)
        # x in CLIP's constants -> scale * x + shift in LSNet's
        mean, std, own_mean, own_std = (
            torch.tensor(v)[:, None, None] for net in (self.clip, self.lsnet) for v in (net.mean, net.std)
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)
        for name in ("arch", "image_size", "stride", "grid", "widths", "mean", "std"):
            setattr(self, name, getattr(self.clip, name))
        self.projection_names = tuple(rf"clip\.{pattern}" for pattern in self.clip.projection_names)

    def forward(self, images: Tensor, camids: Tensor | None = None, **wanted) -> VisionFeatures:
        """Features of `images` [B, 3, H, W] in the CLIP tower's constants; arguments and errors are that tower's."""
        guides = _Guides(self.lsnet.forward_features(self.scale * images + self.shift))
        edits = {layer: partial(_fuse, gate, guides, source) for gate, (layer, source) in zip(self.gates, self.points)}
        return self.clip(images, camids, edits=edits, **wanted)

    def bound_to(self) -> dict[str, str]:
        """What the CLIP tower's weights are bound to."""
        return self.clip.bound_to()

    def load_beside_clip(self) -> None:
        """Read LSNet's weights from the file `weights`; a warning says so if they stay random.

        Raises:
            CheckpointError: the file cannot be used.
        """
        if self.weights_source == "none":
            _log.warning("LSNet starts from random weights, as backbone.wgff.weights none asks for")
            return
        if self.weights_source == "released":
            pass_licence(LSNET)
        named = {"embedded": lambda: EMBEDDED, "released": lambda: released_file(self.name)}
        source = named.get(self.weights_source, lambda: self.weights_source)()
        load_lsnet(source, self.lsnet, self.name, "backbone.wgff.lsnet")

    def own_groups(self, weight_decay: float, prefix: str = r"backbone\.") -> list[Group]:
        """Gates at `lr`, LSNet at `lsnet_lr`; to be put before a method's own groups, as the first match wins.

        LSNet's attention biases have no weight decay, as in its training.
        """
        lr, lsnet_lr = self.rates
        groups = [Group(prefix + r"gates\..*", lr, weight_decay)]
        if any(name.endswith("attention_biases") for name, _ in self.lsnet.named_parameters()):
            groups.append(Group(prefix + r"lsnet\..*\.attention_biases", lsnet_lr, 0.0))
        return [*groups, Group(prefix + r"lsnet\..*", lsnet_lr, weight_decay)]


class _Guides:
    """LSNet's stages for one batch, brought to the grids that ask for them; each only once."""

    def __init__(self, stages: list[Tensor]):
        self.stages = stages
        self.made: dict[tuple, Tensor] = {}

    def __call__(self, source: int | str, grid: tuple[int, int]) -> Tensor:
        key = (source, grid)
        if key not in self.made:
            wanted = self.stages if isinstance(source, str) else [self.stages[source - 1]]
            self.made[key] = torch.cat([to_grid(stage, grid) for stage in wanted], dim=1)
        return self.made[key]


def _fuse(gate: nn.Module, guides: _Guides, source: int | str, x: Tensor) -> Tensor:
    return gate(x, guides(source, (x.shape[2], x.shape[3])))


def _checked(points: list, tower: CLIPTower) -> list[tuple[int, int | str]]:
    """`points`, or those of the paper's figure if empty. Raises ConfigError."""
    if not points:
        return [(1, FUSED), (2, FUSED)] if isinstance(tower, CLIPViT) else [(n, n) for n in (1, 2, 3, 4)]
    layers = list(tower.point_widths)
    for point in points:
        pair = isinstance(point, tuple) and len(point) == 2
        if not pair or point[0] not in layers or point[1] not in (1, 2, 3, 4, FUSED):
            raise ConfigError(
                f"backbone.wgff.points has {list(point) if isinstance(point, tuple) else point!r}; a point is "
                f"[layer, source], the layer from {layers[0]} to {layers[-1]}, the source 1, 2, 3, 4 or {FUSED!r}"
            )
    twice = sorted({layer for layer, _ in points if [p[0] for p in points].count(layer) > 1})
    if twice:
        raise ConfigError(f"backbone.wgff.points has layer {twice[0]} twice; there is one gate at a layer")
    return points


@BACKBONES.register_module("wgff")
def wgff(**options) -> WGFF:
    """CLIP and LSNet together. `options` as :class:`WGFF`'s."""
    return WGFF(**options)


wgff.options = {"clip_weights": "weights", "activation": "activation"}
