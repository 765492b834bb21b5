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
    """Token embeddings of `template` with its learnable tokens filled in for each identity.

    "A photo of a {4} person." gives 12 tokens: start, a, photo, of, a, four learnable ones at positions 5 to 8, person,
    a full stop, end. Nothing follows the end-of-text token: a causal text tower could not see it.

    Args:
        width: W, width of the text tower's token embeddings.
        num_classes: number of identities.
        template: text or name as `parse_template` takes it, with r learnable tokens.
        tokenizer: text -> token ids including start and end.

    Attributes:
        context: parameter [num_classes, r, W], drawn from N(0, 0.02).
        template: buffer [L, W], embeddings of the fixed tokens (random until :meth:`fill`); its rows `slots` are not
            used.
        text: the template's text.
        ids: token ids of the template, placeholders included.
        slots: positions of the r learnable tokens.
        eot: position of the end-of-text token, L - 1.

    Raises:
        ConfigError: as `parse_template`.
    """

    def __init__(self, width: int, num_classes: int, template: str, tokenizer: Callable[[str], list[int]] = tokenise):
        super().__init__()
        parsed = parse_template(template, tokenizer=tokenizer)
        self.text, self.ids, self.eot = parsed.text, list(parsed.ids), parsed.eot
        self.slots = list(parsed.positions["X"])
        self.context = nn.Parameter(torch.empty(num_classes, len(self.slots), width))
        nn.init.normal_(self.context, std=0.02)
        self.register_buffer("template", torch.empty(len(self.ids), width))
        nn.init.normal_(self.template, std=0.02)
        self.register_buffer("_where", torch.tensor(self.slots), persistent=False)  # on the module's device

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
        fixed = self.template.expand(len(labels), -1, -1)
        return fixed.index_copy(1, self._where, self.context[labels])
