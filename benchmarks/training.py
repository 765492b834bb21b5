"""Training steps: prompts, what DPM++ adds to a step, the engine against a plain loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.comparison import Comparison, Rows
from occplug.utils.measuring import measured

__all__ = ["dpmpp_step", "stage1", "step"]


def stage1(quick: bool) -> Comparison:
    """One prompt-learning step through CLIP's text tower: up to the end-of-text token against all 77 positions."""
    batch = 8 if quick else 64
    theirs = measured(_prompt_step, 77, batch)
    ours = measured(_prompt_step, None, batch)
    difference = abs(theirs.output - ours.output) / abs(theirs.output)
    return Comparison(
        f"stage1: one step of prompt learning, text tower of CLIP ViT-B/16 (random weights), batch {batch}",
        "77 tokens, as the official code",
        theirs,
        ours,
        f"relative difference of the loss {difference:.1e}",
    )


def _prompt_step(length: int | None, batch: int) -> Callable:
    """`length` None: as long as the template."""
    from occplug.backbones import architecture, build_text_tower
    from occplug.losses import SupCon
    from occplug.prompts import IdentityPrompts

    torch.manual_seed(0)
    text = build_text_tower(architecture("clip_vit_b16")).requires_grad_(False)
    prompts = IdentityPrompts(text.width, 702, "A photo of a {4} person.")
    labels = torch.randint(702, (batch,))
    images = F.normalize(torch.randn(batch, text.text_projection.shape[1]))
    contrast, optimizer = SupCon(), torch.optim.Adam(prompts.parameters())

    def step() -> float:
        tokens = prompts(labels)  # [B, L, W]
        if length is not None:
            tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
        features = text(tokens, prompts.eot)
        loss = contrast(images, features, labels, labels) + contrast(features, images, labels, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def dpmpp_step(quick: bool) -> Comparison:
    """A step of DPM++'s last stage with transferred patches against the same step on ID and triplet loss alone."""
    backbone, batch = ("clip_vit_tiny", 16) if quick else ("clip_vit_b16", 16)
    theirs = measured(_training_step, "plain", backbone, batch)
    ours = measured(_training_step, "dpmpp", backbone, batch)
    return Comparison(
        f"dpmpp_step: one step of the stage train, {backbone} (random weights), overlapping patches, batch {batch}",
        "without masks, head diversity and patch transfer",
        theirs,
        ours,
        "the ratio is what mask generator and frozen saliency net cost",
    )


def _training_step(whose: str, backbone: str, batch: int) -> Callable:
    from occplug.config import default_config
    from occplug.method import build_method, parameter_groups

    torch.manual_seed(0)
    options = ["backbone.weights", "none", "method.prompts", False]
    if backbone == "clip_vit_tiny":
        levels = [1, 2, 5, 6]
        options += ["backbone.stride", 6, "method.mask_levels", levels, "method.saliency.levels", levels]
    else:
        options += ["backbone.stride", 12]
    if whose == "plain":
        options += ["method.mask", "none", "method.hem", False, "method.spt", False]
    cfg = default_config("dpmpp", backbone, options)
    method = build_method(cfg, 702, 8)
    stage = method.stages()[-1]
    groups = parameter_groups(method, stage.groups)
    optimizer = stage.optimizer([{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups])
    pids = torch.arange(batch) // 4
    images = torch.randn(batch, 3, cfg.data.height, cfg.data.width)
    inputs = {"img": images, "pid": pids, "camid": torch.zeros_like(pids), "epoch": 1}

    def step() -> float:
        losses = stage.losses(dict(inputs))
        loss = sum(stage.weights[name] * value for name, value in losses.items())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def step(quick: bool) -> Rows:
    """A step of CLIP-ReID's second stage in a plain loop of the same model, in the engine, and compiled."""
    from benchmarks.gpu import SIDES

    bench = _bench(quick)
    found = {side: measured(_steps, side, quick).output for side in SIDES}
    first, _ = found[SIDES[0]]
    rows = [
        [side, f"{speed:,.2f}", f"x{speed / first:.3g}", f"{memory:,.0f}"] for side, (speed, memory) in found.items()
    ]
    heads = ("", "images per CPU s", "of the plain loop", "peak MiB of the process")
    note = (
        f"float32; {bench.steps} steps after {bench.warm} that are not counted, nor is compiling; "
        "the loop moves floats and asks for the loss after each step"
    )
    return Rows(f"step: CLIP-ReID's second stage, {bench.name}", heads, rows, note)


def _bench(quick: bool):
    from benchmarks.gpu import Bench, tiny_bench

    return tiny_bench("inductor") if quick else Bench("cpu", "clip_vit_b16", 8, 1, 3, 0)


def _steps(side: str, quick: bool) -> Callable:
    """Images per second and MiB of the second stage."""
    from benchmarks.gpu import SIDES, plainly_trained, trained

    bench = _bench(quick)
    if side == SIDES[0]:
        return lambda: plainly_trained(bench, "fp32")["stage2"]
    return lambda: trained(bench, "fp32", is_compiled=side == SIDES[2])["stage2"]
