"""What each term of a stage's loss does: its value, its gradient, its logits, and how many images it reaches.

For the question "why does this part do nothing?". A weight says little about that: terms differ in scale, logits that
are far too sharp have one-sided gradients, and a mask may select no image at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones import VisionFeatures
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.losses import IgnoringCrossEntropy, SupCon
from occplug.losses.ignoring import kept_classes
from occplug.method import Method, Stage, parameter_groups
from occplug.utils.devices import device_named

__all__ = ["TermFigures", "gradient_report", "scale_texts", "term_gradients"]

LEVELS = tuple(each.name for each in fields(VisionFeatures))  # terms may act on whatever a backbone hands out


@dataclass
class TermFigures:
    """What one term of the loss does in one batch.

    Args:
        weight: of the term in the stage.
        value: unweighted.
        tower: norm of the weighted term's gradient on all trained parameters of backbones.
        rest: the same on all other trained parameters.
        levels: output of the backbone -> norm of the weighted term's gradient on it; where one output is made of
            another, the latter's includes the former's, but `blocks` and `attention` have what the term takes from
            them itself.
        touched: share of the batch's images whose outputs have a gradient at all. Where the term does not act on the
            backbone: those whose cached features have one, or else whose outputs of another trained part; None where
            it trains something and none of these was seen.
        spread: of the logits of the term's cross entropies and SupCons as these take them (with an angular margin), the
            standard deviation over the classes (columns), mean over images.
        label: softmax's mean probability of the label there, of all its columns in a SupCon.
    """

    weight: float
    value: float
    tower: float
    rest: float
    levels: dict[str, float] = field(default_factory=dict)
    touched: float | None = 0.0
    spread: float | None = None
    label: float | None = None


def gradient_report(method: Method, data, batches: int, stage: str = "", device: str = "cpu") -> dict:
    """Figures of every term of a stage, means over some training batches.

    Args:
        method: with the weights to look at; in the state that the stage starts from or ended with.
        data: a data manager that gives the stage its batches.
        batches: how many to look at.
        stage: name; the last by default.

    Returns: `stage`, `batches`, `images` (of the largest batch), and `terms`: name -> the fields of
        :class:`TermFigures`, with `share`, the weighted gradient on the tower relative to the sum of all terms' norms
        (on the other parameters where the tower rests).

    Raises:
        ConfigError: no such stage, fewer than one batch, or a device that is not there.
    """
    chosen = _stage(method, stage)
    if batches < 1:
        raise ConfigError(f"--batches is {batches}; it must be at least 1")
    put_on = device_named(device)
    _open(method, chosen, data, put_on)
    loader = chosen.loader(data) if chosen.loader else data.train_loader
    per_batch, images = [], 0
    for batch in itertools.islice(loader, batches):
        per_batch.append(term_gradients(method, chosen, {**_on(batch, put_on), "epoch": 1}))
        images = max(images, len(batch["pid"]))
    terms = {name: _mean([figures[name] for figures in per_batch]) for name in per_batch[0]}
    scale = "tower" if any(term["tower"] for term in terms.values()) else "rest"
    whole = sum(term[scale] for term in terms.values())
    for term in terms.values():
        term["share"] = term[scale] / whole if whole else 0.0
    return {"stage": chosen.name, "batches": len(per_batch), "images": images, "terms": terms}


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


@dataclass
class _Seen:
    """What was noted while the losses were computed.

    Args:
        outputs: (level, tensor) of backbones.
        features: the batch's cached features, rows of images.
        parts: outputs of trained modules beside backbones.
        logits: of the losses.
    """

    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    logits: list[_Logits] = field(default_factory=list)


class _Logits(NamedTuple):
    """What a softmax over classes was taken of: `scores` [N, C], which are the label's and which take part (bool)."""

    scores: Tensor
    positive: Tensor
    kept: Tensor


def term_gradients(method: Method, stage: Stage, batch: dict) -> dict[str, TermFigures]:
    """The figures of each term of `stage` on `batch`, in which only what the stage trains has gradients."""
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    tower = [p for name, p in trained.items() if "backbone." in name]
    rest = [p for name, p in trained.items() if "backbone." not in name]
    count = len(batch["pid"])
    cached = {key: value.detach().requires_grad_() for key, value in batch.items() if _is_cached(value, count)}
    seen = _Seen(features=list(cached.values()))
    with _outputs(method, seen), _logits(seen):
        losses = stage.losses({**batch, **cached})
    return {name: _term(stage.weights[name], loss, tower, rest, seen, count) for name, loss in losses.items()}


def _is_cached(value: Any, count: int) -> bool:
    """Whether an entry of a batch is features [B, E] of its images."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2 and len(value) == count


def _term(weight: float, loss: Tensor, tower: list, rest: list, seen: _Seen, count: int) -> TermFigures:
    figures = TermFigures(weight, float(loss.detach()), 0.0, 0.0)
    if not loss.requires_grad:
        return figures
    tensors, scores = [tensor for _, tensor in seen.outputs], [each.scores for each in seen.logits]
    groups = _gradients(weight * loss, tower, rest, tensors, seen.features, seen.parts, scores)
    on_tower, on_rest, on_outputs, on_features, on_parts, on_logits = groups
    figures.tower, figures.rest = _norm(on_tower), _norm(on_rest)
    for level in LEVELS:
        values = [grad for (name, _), grad in zip(seen.outputs, on_outputs) if name == level and grad is not None]
        if values:
            figures.levels[level] = _norm(values)
    touched = [_touched(gradients, count) for gradients in (on_outputs, on_features, on_parts)]
    trains = figures.tower or figures.rest
    figures.touched = next((share for share in touched if share is not None), None if trains else 0.0)
    used = [each for each, grad in zip(seen.logits, on_logits) if grad is not None and each.positive.any()]
    if used:
        figures.spread = _average([_spread(each) for each in used])
        figures.label = _average([_at_label(each) for each in used])
    return figures


def _gradients(loss: Tensor, *groups: list[Tensor]) -> list[list[Tensor | None]]:
    """Of `loss`, on the tensors of each group; None where it does not pass them."""
    wanted = [tensor for group in groups for tensor in group]
    parts = iter(torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True))
    return [list(itertools.islice(parts, len(group))) for group in groups]


def _touched(gradients: list[Tensor | None], count: int) -> float | None:
    """Share of the `count` images that have a gradient in any of `gradients` with a row for each; None without one."""
    rows = [grad.flatten(1).abs().amax(1) > 0 for grad in gradients if grad is not None and len(grad) == count]
    return float(torch.stack(rows).any(0).float().mean()) if rows else None


def _spread(logits: _Logits) -> Tensor:
    scores, count = logits.scores.detach().float(), logits.kept.sum(dim=1)
    mean = scores.masked_fill(~logits.kept, 0.0).sum(dim=1) / count
    gaps = (scores - mean[:, None]).masked_fill(~logits.kept, 0.0)
    return (gaps.square().sum(dim=1) / (count - 1)).sqrt().mean()


def _at_label(logits: _Logits) -> Tensor:
    """Rows without a column of their label are left out, as the losses do."""
    scores = logits.scores.detach().float().masked_fill(~logits.kept, float("-inf"))
    return (scores.softmax(dim=1) * logits.positive).sum(dim=1)[logits.positive.any(dim=1)].mean()


def _norm(grads) -> float:
    return math.sqrt(sum(float(grad.detach().float().square().sum()) for grad in grads if grad is not None))


def _average(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())


@contextmanager
def _outputs(method: nn.Module, seen: _Seen) -> Iterator[None]:
    """Inside, every output that has a gradient is noted, of backbones and of other modules with trained parameters."""

    def note_tower(module, args, output):
        if isinstance(output, VisionFeatures):
            # what the tower goes on with stays its own: a gradient on a block is what terms take from it themselves,
            # for later layers may mix images (batch norm)
            output.blocks, output.attention = _handed_out(output.blocks), _handed_out(output.attention)
            noted = ((level, value) for level in LEVELS for value in _tensors(getattr(output, level)))
            seen.outputs.extend((level, value) for level, value in noted if value.requires_grad)

    def note_part(module, args, output):
        seen.parts.extend(value for value in _tensors(output) if value.requires_grad and value.ndim > 0)

    handles = []
    for name, module in method.named_modules():
        if name.rpartition(".")[2] == "backbone":
            handles.append(module.register_forward_hook(note_tower))
        elif "backbone." not in name and any(p.requires_grad for p in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(note_part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _handed_out(tensors: dict[int, Tensor]) -> dict[int, Tensor]:
    return {number: tensor.view_as(tensor) for number, tensor in tensors.items()}


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in one output: itself, or those of a dict."""
    values = value.values() if isinstance(value, dict) else [value]
    return [each for each in values if isinstance(each, Tensor)]


@contextmanager
def _logits(seen: _Seen) -> Iterator[None]:
    """Inside, what the losses over classes take a softmax of is noted."""

    def watched(owner: Any, name: str, read: Callable[..., _Logits | None]):
        plain = getattr(owner, name)

        def spy(*args, **kwargs):
            logits = read(*args, **kwargs)
            if logits is not None and logits.scores.requires_grad:
                seen.logits.append(logits)
            return plain(*args, **kwargs)

        return mock.patch.object(owner, name, spy)

    with ExitStack() as watching:
        watching.enter_context(watched(F, "cross_entropy", _of_cross_entropy))
        watching.enter_context(watched(IgnoringCrossEntropy, "forward", _of_ignoring))
        watching.enter_context(watched(SupCon, "of_scores", _of_supcon))
        yield


def _of_cross_entropy(input: Tensor, target: Tensor, *args, **kwargs) -> _Logits | None:
    if input.ndim != 2 or target.ndim != 1:
        return None
    return _Logits(input, ~kept_classes(input, target), torch.ones_like(input, dtype=torch.bool))


def _of_ignoring(
    loss: IgnoringCrossEntropy, logits: Tensor, labels: Tensor, ignored: Tensor | None = None, reduction: str = ""
) -> _Logits:
    ignored = torch.full_like(labels, -1) if ignored is None else ignored
    return _Logits(logits, ~kept_classes(logits, labels), kept_classes(logits, ignored))


def _of_supcon(loss: SupCon, scores: Tensor, positive: Tensor) -> _Logits:
    return _Logits(scores, positive, torch.ones_like(positive))


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
