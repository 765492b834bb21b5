"""How much of an attribute a linear classifier reads out of vectors, against labels that mean nothing.

scikit-learn's `permutation_test_score` is not used: with groups it permutes labels within each, where they are equal
here, and it fits one model after another, some 500 for one attribute. Here whole groups exchange their labels, and one
solve fits the true and all shuffled labels of a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Probe", "linear_probe", "slot_accuracies"]


@dataclass(frozen=True)
class Probe:
    """Cross-validated accuracies in [0, 1].

    Attributes:
        accuracy: with the true labels.
        majority: of always answering the training folds' most frequent class.
        shuffled: mean accuracy with shuffled labels; not a number without shuffles.
        p_value: share of shuffles (the true labels counted among them) at least as good as the true labels.
        count, classes: samples and different labels.
    """

    accuracy: float
    majority: float
    shuffled: float
    p_value: float
    count: int
    classes: int


def linear_probe(
    vectors: Tensor,
    labels: Tensor,
    groups: Tensor,
    folds: int = 5,
    shuffles: int = 99,
    penalty: float = 1.0,
    seed: int = 0,
) -> Probe:
    """Cross-validated multinomial logistic regression of `labels` on `vectors`.

    Vectors are standardised with the training folds' statistics and divided by the root of their width, so that
    `penalty` (factor of half the squared norm of the weights, beside the sum of the samples' losses) means the same at
    any width. Members of a group stay in one fold. A shuffle hands the labels of a whole group to another of its size,
    so that shuffled labels agree within groups as often as the true ones do; it is fitted like these.

    Args:
        vectors: [N, D]; labels: [N] integers; groups: [N] integers, at least `folds` different ones.

    Raises:
        ValueError: lengths differ, a single class, or fewer groups than folds.
    """
    values, labels = labels.unique(return_inverse=True)
    names, groups = groups.unique(return_inverse=True)
    if not len(vectors) == len(labels) == len(groups) or len(values) < 2 or len(names) < folds:
        raise ValueError(
            f"{len(vectors)} vectors, {len(labels)} labels of {len(values)} classes, {len(groups)} samples in "
            f"{len(names)} groups; {folds} folds need equal lengths, two classes and {folds} groups"
        )
    draw, fold = torch.Generator().manual_seed(seed + 1), _folds(groups, len(names), folds, seed)
    orders = [torch.arange(len(labels)), *(_shuffled(groups, draw) for _ in range(shuffles))]
    # the true labels first
    accuracy = _accuracies(vectors, torch.stack([labels[order] for order in orders]), fold, penalty)
    tests = [(labels[fold == k], labels[fold != k].mode().values) for k in range(folds)]
    better = int((accuracy[1:] >= accuracy[0]).sum())
    return Probe(
        accuracy=accuracy[0].item(),
        majority=sum(int((true == common).sum()) for true, common in tests) / len(labels),
        shuffled=accuracy[1:].mean().item(),
        p_value=(1 + better) / (1 + shuffles),
        count=len(labels),
        classes=len(values),
    )


def slot_accuracies(
    vectors: Tensor, labels: Tensor, groups: Tensor, folds: int = 5, penalty: float = 1.0, seed: int = 0
) -> list[float]:
    """Accuracy of :func:`linear_probe` from each slot of `vectors` [N, r, D] alone, in the same folds."""
    _, labels = labels.unique(return_inverse=True)
    names, groups = groups.unique(return_inverse=True)
    fold = _folds(groups, len(names), folds, seed)
    slots = vectors.transpose(0, 1)  # [r, N, D]
    return _accuracies(slots, labels.expand(len(slots), -1), fold, penalty).tolist()


def _accuracies(vectors: Tensor, labels: Tensor, fold: Tensor, penalty: float) -> Tensor:
    """Cross-validated accuracy [P] for `labels` [P, N] from `vectors` [N, D], or [P, N, D] of their own."""
    vectors, classes = vectors.double(), int(labels.max()) + 1
    hits = torch.zeros(len(labels), dtype=torch.float64)
    for k in fold.unique():
        train, test = fold != k, fold == k
        known = vectors[..., train, :]
        mean, std = known.mean(-2, keepdim=True), known.std(-2, keepdim=True).clamp(min=1e-8)
        x = (vectors - mean) / std / vectors.shape[-1] ** 0.5
        answers = _fit(x[..., train, :], labels[:, train], classes, penalty)(x[..., test, :])
        hits += (answers == labels[:, test]).sum(1)
    return hits / labels.shape[1]


def _folds(groups: Tensor, count: int, folds: int, seed: int) -> Tensor:
    """Fold [N] of each sample, the same for all of a group of 0 to `count` - 1."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[groups] % folds


def _shuffled(groups: Tensor, draw: torch.Generator) -> Tensor:
    """An order [N] of the samples that moves whole groups onto groups of the same size."""
    members = [torch.nonzero(groups == g)[:, 0] for g in range(int(groups.max()) + 1)]
    order = torch.empty_like(groups)
    for size in {len(m) for m in members}:
        alike = [m for m in members if len(m) == size]
        for to, source in zip(alike, torch.randperm(len(alike), generator=draw).tolist()):
            order[to] = alike[source]
    return order


def _fit(x: Tensor, labels: Tensor, classes: int, penalty: float):
    """A classifier for each row of `labels` [P, n] on x [n, D] or [P, n, D]: a function from [(P,) m, D] to answers
    [P, m].

    The weights of an L2-penalised linear model lie in the span of the samples, so n coordinates hold them all.
    """
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    inputs = u * s[..., None, :]  # [(P,) n, min(n, D)]
    weight = torch.zeros(len(labels), inputs.shape[-1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(len(labels), 1, classes, dtype=x.dtype, requires_grad=True)
    target = F.one_hot(labels, classes).to(x.dtype)  # [P, n, classes]
    # convex and separable over P, so one run of L-BFGS serves all
    solver = torch.optim.LBFGS([weight, bias], max_iter=60, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        log_p = (inputs @ weight + bias).log_softmax(-1)
        total = -(target * log_p).sum() + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    whole, shift = weight.detach(), bias.detach()
    return lambda others: ((others @ v.mT) @ whole + shift).argmax(-1)
