"""A projection into the space of a CLIP's texts, for image features that know no texts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from occplug.losses import SupCon
from occplug.registry import HEADS

__all__ = ["TextSpace"]


@HEADS.register_module("text_space")
class TextSpace(nn.Linear):
    """Linear(C -> E) without bias, started from N(0, 0.02); compared with texts by cosines over a temperature.

    Raw products, as CLIP-ReID takes them on a CLIP, would mean nothing: a foreign feature has a scale of its own.

    Args:
        width: C, of the features.
        embed: E, of the texts.
        temperature: that cosines are divided by.
    """

    def __init__(self, width: int, embed: int, temperature: float = 0.07):
        super().__init__(width, embed, bias=False)
        nn.init.normal_(self.weight, std=0.02)
        self.temperature = temperature
        self.supcon = SupCon()

    def logits(self, feature: Tensor, texts: Tensor) -> Tensor:
        """Cosines of the projected `feature` [B, C] and `texts` [n, E], over the temperature: [B, n]."""
        return F.normalize(self(feature).float()) @ F.normalize(texts.float()).T / self.temperature

    def contrast(self, feature: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """SupCon both ways between `feature` [B, C] and a text [B, E] for each, of the same `labels` [B]."""
        image, text = F.normalize(self(feature).float()), F.normalize(texts.float())
        image = image / self.temperature
        return self.supcon(image, text, labels, labels) + self.supcon(text, image, labels, labels)
