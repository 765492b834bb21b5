"""CLIP's text tower without its token table: embeddings in, one feature a text out."""

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from occplug.backbones.quick_gelu import use_quick_gelu

__all__ = ["TextTower", "build_text_tower"]


class TextTower(nn.Module):
    """Text tower of a CLIP (arXiv 2103.00020), fed with token embeddings; random weights until `load_clip` fills them.

    Args:
        arch: sizes as :func:`architecture` gives them.

    Attributes:
        width: W, width of the token embeddings.
        context_length: the most tokens it takes.
    """

    splits = "rows"  # a feature depends on one text alone (occplug.distributed)

    def __init__(self, arch: dict):
        super().__init__()
        sizes = arch["text_cfg"]
        self.width = sizes["width"]
        self.context_length = sizes["context_length"]
        whole = TextTransformer(
            context_length=self.context_length,
            vocab_size=1,  # its table is not used
            width=self.width,
            heads=sizes["heads"],
            layers=sizes["layers"],
            output_dim=arch["embed_dim"],
        )
        if arch["quick_gelu"]:
            use_quick_gelu(whole.transformer.resblocks)
        self.positional_embedding = whole.positional_embedding
        self.transformer = whole.transformer
        self.ln_final = whole.ln_final
        self.text_projection = whole.text_projection

    def forward(self, embeddings: Tensor, eot: int | Tensor) -> Tensor:
        """Features [n, E] of the texts whose token embeddings are [n, L, W], read at end-of-text position `eot`.

        The mask is causal, so what follows `eot` cannot matter: give only the tokens up to it, and the values and
        gradients are those of the padded 77 tokens at a fraction of the time.

        Args:
            eot: one position for all texts, or [n].

        Raises:
            ValueError: more tokens than the tower has positions for.
        """
        length = embeddings.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens, the text tower takes at most {self.context_length}")
        x = embeddings + self.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
        x = self.transformer(x, attn_mask=mask)
        rows = x[torch.arange(len(x), device=x.device), eot]  # [n, W]
        return self.ln_final(rows) @ self.text_projection


def build_text_tower(arch: dict) -> TextTower:
    """The text tower of the CLIP with sizes `arch`, with random weights."""
    return TextTower(arch)
