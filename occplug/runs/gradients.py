"""What each term of a stage's loss does: its value, its gradient, its logits, and how many images it reaches.

For the question "why does this part do nothing?". A weight says little about that: terms differ in scale, logits that
are far too sharp have one-sided gradients, and a mask may select no image at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones import VisionFeatures
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.method import Method, Stage, parameter_groups
from occplug.utils.devices import device_named

__all__ = ["TermFigures", "gradient_report", "scale_texts", "term_gradients"]

LEVELS = ("last", "feature", "projected", "tokens", "projected_tokens")  # of VisionFeatures, that terms may act on


@dataclass
class TermFigures:
    """What one term of the loss does in one batch.

    Args:
        weight: of the term in the stage.
        value: unweighted.
        tower: norm of the weighted term's gradient on all trained parameters of backbones.
        rest: the same on all other trained parameters.
        levels: output of the backbone -> norm of the weighted term's gradient on it; where one output is made of
            another, the latter's includes the former's.
        touched: share of the batch's images whose outputs have a gradient at all.
        spread: of the logits of the term's cross entropies, the standard deviation over the classes, mean over images.
        label: softmax's mean probability of the label there.
    """

    weight: float
    value: float
    tower: float
    rest: float
    levels: dict[str, float] = field(default_factory=dict)
    touched: float = 0.0
    spread: float | None = None
    label: float | None = None


def gradient_report(method: Method, data, batches: int, stage: str = "", device: str = "cpu") -> dict:
    """Figures of every term of a stage, means over some training batches.

    Args:
        method: with the weights to look at; in the state that the stage starts from or ended with.
        data: a data manager that gives the stage its batches.
        batches: how many to look at.
        stage: name; the last by default.

    Returns: `stage`, `batches`, and `terms`: name -> the fields of :class:`TermFigures`, with `share`, the weighted
        gradient on the tower relative to the sum of all terms' norms (on the other parameters where the tower rests).

    Raises:
        ConfigError: no such stage, fewer than one batch, or a device that is not there.
    """
    chosen = _stage(method, stage)
    if batches < 1:
        raise ConfigError(f"--batches is {batches}; it must be at least 1")
    put_on = device_named(device)
    _open(method, chosen, data, put_on)
    loader = chosen.loader(data) if chosen.loader else data.train_loader
    per_batch = [
        term_gradients(method, chosen, {**_on(batch, put_on), "epoch": 1})
        for batch in itertools.islice(loader, batches)
    ]
    terms = {name: _mean([figures[name] for figures in per_batch]) for name in per_batch[0]}
    scale = "tower" if any(term["tower"] for term in terms.values()) else "rest"
    whole = sum(term[scale] for term in terms.values())
    for term in terms.values():
        term["share"] = term[scale] / whole if whole else 0.0
    return {"stage": chosen.name, "batches": len(per_batch), "terms": terms}


@torch.no_grad()
def scale_texts(method: Method, factor: float) -> None:
    """Multiply all text features of `method` by `factor`, as another temperature of its CLIP would.

    Raises:
        ConfigError: a method without a text tower, or a factor that is not above 0.
    """
    text: Any = getattr(method, "text", None)
    if text is None:
        raise ConfigError("--text-scale is for methods with texts, and this one has no text tower")
    if not 0 < factor < math.inf:
        raise ConfigError(f"--text-scale is {factor}; it must be above 0")
    text.text_projection *= factor


def _stage(method: Method, name: str) -> Stage:
    stages = {stage.name: stage for stage in method.stages()}
    if name and name not in stages:
        raise ConfigError(f"--stage is {name!r}; the stages are {', '.join(stages)}")
    return stages[name] if name else list(stages.values())[-1]


def _open(method: Method, stage: Stage, data, device: torch.device) -> None:
    """Prepare `stage` as the engine does: what it trains has gradients, the rest is closed."""
    parts: list[Any] = [stage, *stage.extra_optimizers]
    parameter_groups(method, [group for part in parts for group in part.groups])
    method.to(device).eval()
    stage.prepare(data, device)
    method.train()
    close_layers(method)


def _on(batch: dict, device: torch.device) -> dict:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


# ---------------------------------------------------------------------- one batch


def term_gradients(method: Method, stage: Stage, batch: dict) -> dict[str, TermFigures]:
    """The figures of each term of `stage` on `batch`, in which only what the stage trains has gradients."""
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    tower = [p for name, p in trained.items() if "backbone." in name]
    rest = [p for name, p in trained.items() if "backbone." not in name]
    with _outputs(method) as outputs, _cross_entropies() as entropies:
        losses = stage.losses(batch)
    parts = (tower, rest, outputs, entropies, len(batch["pid"]))
    return {name: _term(stage.weights[name], loss, *parts) for name, loss in losses.items()}


def _term(
    weight: float, loss: Tensor, tower: list, rest: list, outputs: list, entropies: list, count: int
) -> TermFigures:
    figures = TermFigures(weight, float(loss.detach()), 0.0, 0.0)
    if not loss.requires_grad:
        return figures
    tensors = [tensor for _, tensor in outputs]
    logits = [tensor for tensor, _ in entropies]
    wanted = [*tower, *rest, *tensors, *logits]
    gradients = torch.autograd.grad(weight * loss, wanted, retain_graph=True, allow_unused=True)
    parts = iter(gradients)
    figures.tower = _norm(itertools.islice(parts, len(tower)))
    figures.rest = _norm(itertools.islice(parts, len(rest)))
    at_outputs = list(itertools.islice(parts, len(tensors)))
    for level in LEVELS:
        values = [grad for (name, _), grad in zip(outputs, at_outputs) if name == level and grad is not None]
        if values:
            figures.levels[level] = _norm(values)
    rows = [grad.flatten(1).abs().amax(1) > 0 for grad in at_outputs if grad is not None and len(grad) == count]
    figures.touched = float(torch.stack(rows).any(0).float().mean()) if rows else 0.0
    used = [each for each, grad in zip(entropies, parts) if grad is not None]
    if used:
        figures.spread = _average([logits.detach().float().std(dim=1).mean() for logits, _ in used])
        figures.label = _average([_at_label(logits, labels) for logits, labels in used])
    return figures


def _at_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.detach().float().softmax(dim=1).gather(1, labels[:, None]).mean()


def _norm(grads) -> float:
    return math.sqrt(sum(float(grad.detach().float().square().sum()) for grad in grads if grad is not None))


def _average(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())


@contextmanager
def _outputs(method: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Inside, every output of a backbone that has a gradient is noted: (level, tensor)."""
    noted: list[tuple[str, Tensor]] = []

    def note(module, args, output):
        if isinstance(output, VisionFeatures):
            values = {level: getattr(output, level) for level in LEVELS}
            noted.extend((k, v) for k, v in values.items() if isinstance(v, Tensor) and v.requires_grad)

    backbones = [module for name, module in method.named_modules() if name.rpartition(".")[2] == "backbone"]
    handles = [backbone.register_forward_hook(note) for backbone in backbones]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _cross_entropies() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, the logits [B, C] and class labels [B] of every cross entropy are noted."""
    noted: list[tuple[Tensor, Tensor]] = []
    plain = F.cross_entropy

    def spy(logits, labels, *args, **kwargs):
        if logits.ndim == 2 and labels.ndim == 1 and logits.requires_grad:
            noted.append((logits, labels))
        return plain(logits, labels, *args, **kwargs)

    with mock.patch.object(F, "cross_entropy", spy):
        yield noted


def _mean(figures: list[TermFigures]) -> dict:
    """The fields of a term, means over batches."""

    def of(values: list) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    names = ("weight", "value", "tower", "rest", "touched", "spread", "label")
    levels = {level: of([each.levels.get(level) for each in figures]) for level in LEVELS}
    return {name: of([getattr(each, name) for each in figures]) for name in names} | {
        "levels": {level: value for level, value in levels.items() if value is not None}
    }
