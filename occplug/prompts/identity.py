"""One text per identity, with learnable tokens among fixed words: CLIP-ReID's prompts (arXiv 2211.13977) and, with the
tokens dispersed, AG-ReID's (arXiv 2508.04998, eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from occplug.prompts.template import parse_template
from occplug.prompts.tokens import tokenise
from occplug.registry import PROMPTS

__all__ = ["IdentityPrompts"]


@PROMPTS.register_module("identity")
class IdentityPrompts(nn.Module):
    """Token embeddings of `template`, each X in it replaced by a learnable token of the identity.

    "A photo of a X X X X person." gives 12 tokens: start, a, photo, of, a, four learnable ones at positions 5 to 8,
    person, a full stop, end. Nothing follows the end-of-text token: a causal text tower could not see it. A template
    may have further learnable tokens Y, a group of their own, e.g. for what occludes the person.

    Args:
        width: W, width of the text tower's token embeddings.
        num_classes: number of identities.
        template: text or name as `parse_template` takes it.
        shared: whether all identities have the tokens Y in common.
        tokenizer: text -> token ids including start and end.

    Attributes:
        context: parameter [num_classes, M, W] of the M tokens X, drawn from N(0, 0.02).
        others: parameter [num_classes, N, W] ([1, N, W] if shared) of the N tokens Y; None without any.
        template: buffer [L, W], embeddings of the fixed tokens (random until :meth:`fill`); rows of learnable tokens
            are not used.
        text: the template's text, with each learnable token a letter.
        slots, other_slots: positions of the tokens X and Y.
        ids: token ids of the template, placeholders included.
        eot: position of the end-of-text token, L - 1.

    Raises:
        ConfigError: as `parse_template`.
    """

    template: Tensor
    _own_at: Tensor
    _others_at: Tensor

    def __init__(
        self,
        width: int,
        num_classes: int,
        template: str,
        shared: bool = False,
        tokenizer: Callable[[str], list[int]] = tokenise,
    ):
        super().__init__()
        parsed = parse_template(template, "XY", tokenizer)
        self.text, self.ids, self.eot = parsed.text, list(parsed.ids), len(parsed.ids) - 1
        self.slots, self.other_slots = list(parsed.slots["X"]), list(parsed.slots["Y"])
        self.context = _tokens(num_classes, len(self.slots), width)
        self.others = _tokens(1 if shared else num_classes, len(self.other_slots), width) if self.other_slots else None
        # on the device, since a list would be sent there at each step, and waited for
        self.register_buffer("_own_at", torch.tensor(self.slots), persistent=False)
        if self.other_slots:
            self.register_buffer("_others_at", torch.tensor(self.other_slots), persistent=False)
        self.register_buffer("template", torch.empty(len(self.ids), width))
        nn.init.normal_(self.template, std=0.02)

    @torch.no_grad()
    def fill(self, table: Tensor) -> None:
        """Take the embeddings of the fixed tokens from a token table [vocabulary, W].

        Raises:
            ValueError: a table of another width, or without a row for each id.
        """
        if table.ndim != 2 or table.shape[1] != self.template.shape[1] or len(table) <= max(self.ids):
            width = self.template.shape[1]
            raise ValueError(
                f"token table is {list(table.shape)}; ids reach {max(self.ids)} and embeddings are {width}"
            )
        self.template.copy_(table[self.ids])

    def forward(self, labels: Tensor) -> Tensor:
        """Token embeddings [n, L, W] of the prompts of identities `labels` [n]."""
        tokens = self.template.repeat(len(labels), 1, 1)
        tokens[:, self._own_at] = self.context[labels].to(tokens.dtype)
        if self.others is not None:
            rows = self.others if len(self.others) == 1 else self.others[labels]
            tokens[:, self._others_at] = rows.to(tokens.dtype)
        return tokens


def _tokens(rows: int, count: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(rows, count, width), std=0.02))
