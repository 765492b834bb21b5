"""torchreid's own models in the form of a method, so that nobody has to ask which of the two a model is."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from occplug.embedding import Embedding
from occplug.evaluation import Metric
from occplug.method import Method
from occplug.torchreid_host import build_stock_model, load_stock_weights
from occplug.utils.keys import hide_child

__all__ = ["StockModel"]


class StockModel(Method):
    """A stock torchreid model, tested as torchreid does: by default its features as they are, Euclidean distance.

    torchreid's engines train `net`. The names in its state dict are those of torchreid's model, without `net.`.

    Args:
        net: torchreid's model.
        num_classes: training identities.
        normalize: whether features are divided by their length (`test.normalize_feature`).
        metric: "euclidean" or "cosine" (`test.dist_metric`).
    """

    is_stock = True
    squared_distance = True  # both are: the cosine distance is half the squared distance of unit vectors
    training_only = (r"(.*\.)?\w*classifier\w*\..*",)

    def __init__(self, net: nn.Module, num_classes: int, normalize: bool = False, metric: str = "euclidean"):
        super().__init__()
        self.net: Any = net  # without types
        self.num_classes = num_classes
        self.normalize, self.metric = normalize, metric
        # what it says about an image depends on that image alone (occplug.distributed)
        self.net.__dict__["splits"] = "images"
        hide_child(self, "net")

    @classmethod
    def build(cls, cfg, num_classes: int, num_cameras: int, pretrained: bool = True) -> StockModel:
        """torchreid's model `cfg.model.name`.

        Args:
            pretrained: start from what `model.pretrained` and `model.load_weights` name; False leaves random weights.

        Raises:
            ConfigError: torchreid has no such model.
        """
        starts = pretrained and cfg.model.pretrained
        net = build_stock_model(cfg.model.name, num_classes, cfg.loss.name, starts, use_gpu=False)
        if pretrained and cfg.model.load_weights:
            load_stock_weights(net, cfg.model.load_weights)
        return cls(net, num_classes, cfg.test.normalize_feature, cfg.test.dist_metric)

    def _apply(self, fn, *args, **kwargs):
        """As of any module; `hacnn` asks its attribute `use_gpu` where to make its tensors."""
        super()._apply(fn, *args, **kwargs)
        if hasattr(self.net, "use_gpu"):
            self.net.__dict__["use_gpu"] = self.device.type == "cuda"
        return self

    @staticmethod
    def takes_cameras(cfg) -> bool:
        """No torchreid model does."""
        return False

    @staticmethod
    def protocol(cfg) -> dict:
        """The distance; torchreid's models have no other choices."""
        return {"metric": cfg.test.dist_metric}

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The model's eval-mode output [B, D] float32."""
        features = self.net(images).float()  # [B, D]
        return Embedding(F.normalize(features) if self.normalize else features)

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Squared Euclidean or cosine distance, [Q, G]."""
        return self.named_distance()(query, gallery)

    def named_distance(self) -> Metric:
        """The distance as data."""
        return Metric("cosine" if self.metric == "cosine" else "squared_euclidean")
