"""Any stock torchreid model, trained by our engine: the plain baseline beside the CLIP methods.

`model.name: resnet50` runs torchreid's own engine instead; this wrapper gives the same models our engine's mixed
precision, gradient clipping, schedules and exact resume.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from occplug.config.ranges import ABOVE_0, AT_LEAST_0, SHARE, under
from occplug.embedding import Embedding
from occplug.evaluation import Metric
from occplug.losses import BatchHardTriplet
from occplug.method import Group, Method, Stage
from occplug.registry import METHODS
from occplug.stages import optimiser, warmup_multistep
from occplug.torchreid_host import build_stock_model

__all__ = ["TorchreidModel"]


@METHODS.register_module("torchreid_model")
class TorchreidModel(Method):
    """ID loss (label smoothing) plus batch-hard triplet loss on a torchreid model's logits and features.

    Args:
        cfg: resolved config; reads `method` and `model.pretrained`.
        num_classes: training identities.
        num_cameras: not used.
    """

    defaults = {
        "arch": "resnet50",  # any name of torchreid.models.show_avai_models()
        "train": {
            "epochs": 60,
            "optimizer": "adam",
            "lr": 3e-4,
            "weight_decay": 5e-4,
            "warmup_epochs": 5,
            "warmup_factor": 0.1,
            "steps": [20, 40],  # epochs from which the rate is multiplied by gamma
            "gamma": 0.1,
            "label_smoothing": 0.1,
            "margin": 0.3,
            "weights": {"loss_id": 1.0, "loss_tri": 1.0},
        },
    }

    nullable = ("train.margin",)
    ranges = {
        **under("train", dict.fromkeys(("epochs", "weight_decay", "warmup_epochs", "steps"), AT_LEAST_0)),
        **under("train", {"lr": ABOVE_0, "margin": AT_LEAST_0, "weights": AT_LEAST_0}),
        **under("train", dict.fromkeys(("warmup_factor", "gamma", "label_smoothing"), SHARE)),
    }
    squared_distance = True

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options = cfg.method.train
        self.net = build_stock_model(cfg.method.arch, num_classes, "triplet", cfg.model.pretrained, use_gpu=False)
        # what it says about an image depends on that image alone (occplug.distributed)
        self.net.__dict__["splits"] = "images"
        self.triplet = BatchHardTriplet(self.options.margin)

    def stages(self) -> list[Stage]:
        """One stage, `train`."""
        o = self.options
        return [
            Stage(
                name="train",
                epochs=o.epochs,
                groups=[Group(".*", o.lr, o.weight_decay)],
                losses=self._losses,
                weights=dict(o.weights),
                schedule=warmup_multistep(o.steps, o.gamma, o.warmup_epochs, o.warmup_factor),
                optimizer=optimiser(o.optimizer),
            )
        ]

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        scores, features = self.outputs(batch["img"])
        label = batch["pid"]
        return {
            "loss_id": sum(F.cross_entropy(s, label, label_smoothing=self.options.label_smoothing) for s in scores),
            "loss_tri": sum(self.triplet(feature, label) for feature in features),
        }

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """The model's logits [B, C] and features [B, D]; torchreid models give one of each, or lists."""
        scores, features = self.net(images)
        return _as_list(scores), _as_list(features)

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The model's eval-mode output [B, D], L2-normalised."""
        return Embedding(F.normalize(self.net(images).float()))

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Squared Euclidean distance of the unit vectors, [Q, G]."""
        return self.named_distance()(query, gallery)

    def named_distance(self) -> Metric:
        """The distance as data."""
        return Metric("squared_euclidean")


def _as_list(value) -> list[Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
