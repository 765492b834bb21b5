"""What methods with masks over prototypes have in common: one pass in training, and the distance of tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from occplug.backbones import VisionFeatures
from occplug.embedding import Embedding
from occplug.evaluation import Metric
from occplug.heads import MaskedMetric
from occplug.stages.patch_transfer import Transfer, transfer_once
from occplug.stages.saliency import PatchTransferMethod

__all__ = ["MaskedMethod"]


class MaskedMethod(PatchTransferMethod):
    """A tower, masks from its blocks, and a masked metric over prototypes.

    Attributes that a subclass sets:
        backbone: the image tower; options: `cfg.method`.
        metric: losses, embedding and distance under masks.
        transfer: the patch transfer, with `options.spt`.
    """

    backbone: Any
    options: Any
    transfer: Any
    metric: MaskedMetric

    @staticmethod
    def needs(cfg) -> dict[str, str]:
        """Blocks for the masks, class scores for the head diversity, patches for the transfer."""
        o = cfg.method
        masks = {"levels": "method.mask"} if o.mask != "none" else {}
        transfer = {"levels": "method.spt", "patches": "method.spt"} if o.spt else {}
        return masks | transfer | ({"class scores": "method.hem"} if o.hem else {})

    def transferred_pass(self, batch: dict) -> tuple[VisionFeatures, Transfer | None]:
        """Features of a training batch after the patch transfer, with what the metric reads; and that transfer."""
        transfer = transfer_once(batch, self.transfer.plan if self.options.spt else None)
        features = self.backbone(
            batch["img"],
            batch["camid"],
            blocks=self.metric.levels,
            class_scores=self.metric.hem,
            change=transfer and transfer.change(self.backbone.patch_grid),
        )
        return features, transfer

    @property
    def squared_distance(self) -> bool:  # type: ignore[override]  # a key decides it
        """Angles under masks are plain distances; cosine distances, without masks, are not."""
        return self.metric.squared_distance

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Angles in radians under the query's masks, [Q, G]; without masks cosine distances."""
        return self.metric.distances(query, gallery)

    def named_distance(self) -> Metric:
        """The distance as data."""
        return self.metric.named_distance()
