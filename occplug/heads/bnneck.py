"""The batch-norm neck between a feature and its classifier."""

from torch import Tensor, nn

from occplug.registry import HEADS

__all__ = ["BNNeck"]


@HEADS.register_module("bnneck")
class BNNeck(nn.Module):
    """Batch norm without a learnt shift, then a linear classifier without bias.

    Luo et al., "Bag of Tricks", arXiv 1903.07071, with CLIP-ReID's initial values: the batch norm starts as the
    identity and its bias is frozen at zero, the classifier is drawn from N(0, 0.001).

    Args:
        width: C, width of the feature.
        num_classes: number of training identities.
    """

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """`feature` [B, C] -> the normalised feature [B, C] and logits [B, num_classes]."""
        normalised = self.norm(feature)
        return normalised, self.classifier(normalised)
