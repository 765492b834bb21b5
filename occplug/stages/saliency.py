"""The stage that trains salient patch selection (SPS), before its masks are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from occplug.backbones import build_backbone
from occplug.config.ranges import ABOVE_0, AT_LEAST_0, SHARE
from occplug.heads import SaliencyNet
from occplug.losses import BatchHardTriplet, Budget
from occplug.method import ExtraOptimizer, Group, Method, Stage
from occplug.stages.groups import module_rate, tower_pattern, with_biases
from occplug.stages.optimisers import optimiser
from occplug.stages.patch_transfer import PatchTransfer, transfer_extras
from occplug.stages.schedules import warmup_multistep

__all__ = [
    "SALIENCY",
    "SALIENCY_NULLABLE",
    "SALIENCY_RANGES",
    "build_patch_transfer",
    "clip_saliency_stage",
    "saliency_losses",
    "saliency_stage",
    "PatchTransferMethod",
]

# Keys of a method on CLIP that trains a saliency net
SALIENCY: dict[str, object] = {
    "stride": None,  # of the saliency net's patches; null: the patch size
    "levels": [],  # blocks the saliency net sees; empty: 2, 4, 10, 12 of 12
    "epochs": 60,
    "optimizer": "adam",  # of backbone and classifier; the decision layer has SGD
    "lr": 5e-6,
    "module_lr": None,  # of the classifier; null: lr, as the paper's one rate
    "decision_lr": 0.008,
    "bias_lr_factor": 1.0,
    "weight_decay": 1e-4,
    "warmup_epochs": 5,
    "warmup_factor": 0.1,
    "steps": [],
    "gamma": 0.1,
    "ratio": 0.3,  # budget: wanted share of salient patches
    "weights": {"loss_id": 1.0, "loss_keep": 1.0, "loss_tri": 1.0, "loss_budget": 50.0, "loss_orth": 0.1},
}
SALIENCY_NULLABLE = ("module_lr", "stride")
SALIENCY_RANGES = {
    **dict.fromkeys(("epochs", "module_lr", "decision_lr", "bias_lr_factor", "weight_decay"), AT_LEAST_0),
    **dict.fromkeys(("warmup_epochs", "steps", "weights"), AT_LEAST_0),
    "lr": ABOVE_0,
    **dict.fromkeys(("warmup_factor", "gamma", "ratio"), SHARE),
}


def build_patch_transfer(cfg, num_classes: int, **form) -> tuple[SaliencyNet, PatchTransfer]:
    """A saliency net on a backbone of its own, and the transfer it guides.

    Args:
        cfg: resolved config; reads `backbone`, `data`, `method.saliency` (stride, levels) and `method.transfer`.
        num_classes: training identities.
        form: passed on to the backbone.

    Raises:
        ConfigError: a level that is no block of the backbone, or a stride beyond its patches.
    """
    o = cfg.method.saliency
    tower = build_backbone(cfg, 0, stride=o.stride, **form)
    net = SaliencyNet(tower, num_classes, o.levels, "method.saliency.levels")
    return net, PatchTransfer(net.saliency, net.grid, cfg.method.transfer)


def saliency_losses(net: SaliencyNet, images: Tensor, labels: Tensor, ratio: float) -> dict[str, Tensor]:
    r"""Unweighted terms of eq. 23 of DPM++ (arXiv 2605.06637), as in SPT's official code.

        loss_id      CE of the plain image        loss_keep    CE of the image with patches times s
        loss_tri     soft-margin triplet on the plain image's feature before the neck
        loss_budget  (mean of s over the batch - ratio)^2
        loss_orth    sum over batch and classes of softmax(plain) softmax(image with patches times 1 - s)

    The paper names only identity, metric and budget terms; loss_orth is the code's.
    """
    feature, plain, saliency, kept, dropped = net(images)
    return {
        "loss_id": F.cross_entropy(plain.float(), labels),
        "loss_keep": F.cross_entropy(kept.float(), labels),
        "loss_tri": BatchHardTriplet(None)(feature, labels),
        "loss_budget": Budget(ratio)(saliency),
        "loss_orth": (plain.float().softmax(dim=1) * dropped.float().softmax(dim=1)).sum(),
    }


def saliency_stage(
    net: SaliencyNet,
    options,
    groups: list[Group],
    schedule: Callable,
    optimizer: Callable,
    extra_optimizers: Sequence[ExtraOptimizer] = (),
    name: str = "saliency",
) -> Stage:
    """The stage that trains `net` on the identity batches.

    Args:
        options: config node with epochs, ratio, weights.
        groups, schedule, optimizer, extra_optimizers: as :class:`Stage`'s.
    """
    names = [key for key, weight in options.weights.items() if weight or key != "loss_orth"]

    def losses(batch: dict) -> dict[str, Tensor]:
        terms = saliency_losses(net, batch["img"], batch["pid"], options.ratio)
        return {key: terms[key] for key in names}

    return Stage(
        name=name,
        epochs=options.epochs,
        groups=groups,
        losses=losses,
        weights={key: options.weights[key] for key in names},
        schedule=schedule,
        optimizer=optimizer,
        extra_optimizers=list(extra_optimizers),
    )


def clip_saliency_stage(net: SaliencyNet, options) -> Stage:
    """The stage that trains `net`, a method's module `saliency` on a CLIP's tower, as DPM++'s text has it.

    Args:
        options: config node with the keys of SALIENCY.
    """
    pattern = tower_pattern(net.backbone, prefix=r"saliency\.backbone\.")
    tower = with_biases(pattern, options.lr, options.bias_lr_factor, options.weight_decay)
    neck = Group(r"saliency\.neck\.(?!norm\.bias).*", module_rate(options), options.weight_decay)
    decision = [Group(r"saliency\.decision\..*", options.decision_lr, options.weight_decay, lambda epoch: 1.0)]
    return saliency_stage(
        net,
        options,
        [*tower, neck],
        schedule=warmup_multistep(options.steps, options.gamma, options.warmup_epochs, options.warmup_factor),
        optimizer=optimiser(options.optimizer),
        extra_optimizers=[ExtraOptimizer(decision, optimiser("sgd"))],
    )


class PatchTransferMethod(Method):
    """What all methods that can transfer patches (`method.spt`) have in common."""

    @staticmethod
    def extras(cfg) -> tuple[str, ...]:
        """Part masks, where patch transfer asks for them."""
        return transfer_extras(cfg)

    @classmethod
    def explain_mismatch(cls, absent: list[str], reshaped: list[str]) -> str:
        """Patch transfer brings a saliency net of its own, whose grid need not be the backbone's."""
        if absent and not reshaped and all(name.startswith("saliency.") for name in absent):
            return "of the file and this run one has method.spt True and the other has not"
        if any(name.startswith("saliency.") and ("pos_embed" in name or "positional" in name) for name in reshaped):
            return "it was trained on another grid of patches (data.height, data.width or method.saliency.stride)"
        return super().explain_mismatch(absent, reshaped)
