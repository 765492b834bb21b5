"""One text per identity, with learnable tokens among fixed words: CLIP-ReID's prompts (arXiv 2211.13977)."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.prompts.tokens import CONTEXT_LENGTH, tokenise
from occplug.registry import PROMPTS

__all__ = ["IdentityPrompts"]

_SLOT = re.compile(r"\{(\d+)\}")
_PLACEHOLDER = "X"


@PROMPTS.register_module("identity")
class IdentityPrompts(nn.Module):
    """Token embeddings of `template` with `{n}` replaced by n learnable tokens per identity.

    "A photo of a {4} person." gives 12 tokens: start, a, photo, of, a, four learnable ones at positions 5 to 8, person,
    a full stop, end. Nothing follows the end-of-text token: a causal text tower could not see it.

    Args:
        width: W, width of the text tower's token embeddings.
        num_classes: number of identities.
        template: text with exactly one `{n}`, n at least 1.
        tokenizer: text -> token ids including start and end.

    Attributes:
        context: parameter [num_classes, n, W], drawn from N(0, 0.02).
        template: buffer [L, W], embeddings of the fixed tokens (random until :meth:`fill`); its rows `slots` are not
            used.
        ids: token ids of the template, placeholders included.
        eot: position of the end-of-text token, L - 1.

    Raises:
        ConfigError: none or several `{n}`, n = 0, or more tokens than a CLIP takes.
    """

    def __init__(self, width: int, num_classes: int, template: str, tokenizer: Callable[[str], list[int]] = tokenise):
        super().__init__()
        self.ids, self.slots = _parse(template, tokenizer)
        self.eot = len(self.ids) - 1
        self.context = nn.Parameter(torch.empty(num_classes, len(self.slots), width))
        nn.init.normal_(self.context, std=0.02)
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
        fixed = self.template.expand(len(labels), -1, -1)
        before, after = fixed[:, : self.slots.start], fixed[:, self.slots.stop :]
        return torch.cat([before, self.context[labels], after], dim=1)


def _parse(template: str, tokenizer: Callable[[str], list[int]]) -> tuple[list[int], range]:
    """Token ids of the template and the positions of its learnable tokens."""
    found = _SLOT.findall(template)
    if len(found) != 1 or int(found[0]) == 0:
        raise ConfigError(f"method.template is {template!r}; it needs one {{n}}, n learnable tokens, e.g. {{4}}")
    count = int(found[0])
    words = " ".join([_PLACEHOLDER] * count)
    ids = tokenizer(_SLOT.sub(f" {words} ", template))
    start = len(tokenizer(_SLOT.split(template)[0])) - 1  # its end-of-text token stands where the first slot will
    if len(ids) > CONTEXT_LENGTH:
        raise ConfigError(f"method.template {template!r} has {len(ids)} tokens; CLIP takes at most {CONTEXT_LENGTH}")
    return ids, range(start, start + count)
