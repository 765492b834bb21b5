"""Learnt tokens in words: the vocabulary's nearest entries."""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from occplug.prompts.tokens import whole_words

__all__ = ["nearest_words", "vocabulary"]

_ROWS = 512  # tokens compared with the whole vocabulary at a time


def vocabulary(known: Collection[int] | None = None) -> dict[int, str]:
    """Token id -> word, for whole words of two letters or more; of those in `known` only, if it is given."""
    words = whole_words()
    return words if known is None else {i: words[i] for i in sorted(known) if i in words}


def nearest_words(tokens: Tensor, table: Tensor, words: dict[int, str], count: int) -> list[list[tuple[str, float]]]:
    """The `count` words nearest to each of `tokens` [N, W] by cosine, nearest first, with their cosines.

    Args:
        table: [vocabulary, W] token embeddings.
        words: token id -> word, the candidates; at least `count`.
    """
    ids, names = list(words), list(words.values())
    candidates = F.normalize(table[ids].float(), dim=1)
    nearest = []
    for rows in F.normalize(tokens.float(), dim=1).split(_ROWS):
        best = (rows @ candidates.T).topk(count, dim=1)
        for values, indices in zip(best.values.tolist(), best.indices.tolist()):
            nearest.append([(names[i], value) for i, value in zip(indices, values)])
    return nearest
