"""One text per body part, with learnable tokens before the part's name: ProFD's prompts (arXiv 2409.20081, eq. 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.prompts.tokens import CONTEXT_LENGTH, tokenise
from occplug.registry import PROMPTS
from occplug.utils.body_parts import SCHEMES

__all__ = ["PART_SCHEMES", "PartPrompts"]

# grouping of the body -> what the texts call its parts, the whole person first; the official code's words
PART_SCHEMES: dict[str, tuple[str, ...]] = {name: ("people", *parts) for name, parts in SCHEMES.items()}


@PROMPTS.register_module("parts")
class PartPrompts(nn.Module):
    """Token embeddings of "<M learnable tokens> <name>." for the whole person and each of K parts.

    Args:
        width: W, width of the text tower's token embeddings.
        scheme: one of PART_SCHEMES.
        context_tokens: M, learnable tokens.
        shared: one context for all rows (the paper) instead of one for each (official code).
        tokenizer: text -> token ids including start and end.

    Attributes:
        context: parameter [K + 1, M, W], or [M, W] if shared, drawn from N(0, 0.02).
        template: buffer [K + 1, L, W], embeddings of the fixed tokens (random until :meth:`fill`); its rows 1 to M are
            not used.
        eot: [K + 1], position of each row's end-of-text token; shorter texts are padded after it.

    Raises:
        ConfigError: a scheme without prompts, M below 1, or more tokens than a CLIP takes.
    """

    template: Tensor
    eot: Tensor

    def __init__(
        self,
        width: int,
        scheme: str = "five_v",
        context_tokens: int = 16,
        shared: bool = False,
        tokenizer: Callable[[str], list[int]] = tokenise,
    ):
        super().__init__()
        if scheme not in PART_SCHEMES:
            raise ConfigError(f"method.parts is {scheme!r}; prompts exist for: {', '.join(PART_SCHEMES)}")
        self.names, self.context_tokens = PART_SCHEMES[scheme], context_tokens
        texts = [tokenizer(f"{'X ' * context_tokens}{name}.") for name in self.names]
        length = max(map(len, texts))
        if context_tokens < 1 or length > CONTEXT_LENGTH:
            most = CONTEXT_LENGTH - (length - context_tokens)
            raise ConfigError(
                f"method.context_tokens is {context_tokens}; with these parts it must be from 1 to {most}"
            )
        self.ids = [ids + [0] * (length - len(ids)) for ids in texts]
        self.register_buffer("eot", torch.tensor([len(ids) - 1 for ids in texts]), persistent=False)
        rows = () if shared else (len(texts),)
        self.context = nn.Parameter(torch.empty(*rows, context_tokens, width))
        nn.init.normal_(self.context, std=0.02)
        self.register_buffer("template", torch.empty(len(texts), length, width))
        nn.init.normal_(self.template, std=0.02)
        self._known: tuple[tuple, Tensor] | None = None  # what `encode` saw last, and its answer

    @torch.no_grad()
    def fill(self, table: Tensor) -> None:
        """Take the embeddings of the fixed tokens from a token table [vocabulary, W].

        Raises:
            ValueError: a table of another width, or without a row for each id.
        """
        width, highest = self.template.shape[2], max(map(max, self.ids))
        if table.ndim != 2 or table.shape[1] != width or len(table) <= highest:
            raise ValueError(f"token table is {list(table.shape)}; ids reach {highest} and embeddings are {width}")
        self.template.copy_(table[torch.tensor(self.ids)])

    def forward(self) -> Tensor:
        """Token embeddings [K + 1, L, W] of all rows."""
        context = self.context.expand(len(self.names), -1, -1)
        return torch.cat([self.template[:, :1], context, self.template[:, 1 + self.context_tokens :]], dim=1)

    def encode(self, text: nn.Module) -> Tensor:
        """Features [K + 1, E] of all rows by the tower `text`, not normalised.

        Without gradient the answer is kept until a parameter of the prompts or of the tower changes, or a call with
        gradient comes between: at test the texts are the same for every batch.
        """
        if torch.is_grad_enabled():
            self._known = None  # a fused optimiser's step, which may follow, leaves no trace on the parameters
            return text(self(), self.eot)
        tensors = [self.context, self.template, *text.parameters()]
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        if self._known is None or self._known[0] != state:
            self._known = (state, text(self(), self.eot))
        return self._known[1]
