"""CLIP-ReID: two-stage learning of identity prompts, then of the image tower.

Li, Sun, Li: "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text Labels",
AAAI 2023, arXiv 2211.13977. Where the paper and its official code differ, this follows the code, which produced the
published numbers (learning-rate warm-up of stage 1, ID loss weighted 0.25 for the ViT, SupCon over all columns).

Stage 1 trains four learnable tokens per identity against cached image features, both towers frozen.
Stage 2 trains the image tower with ID, triplet and image-to-text losses against the identities' fixed text features.
With `method.prompts: False` only stage 2 remains, without the image-to-text loss: the papers' baseline.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.backbones import build_backbone, build_text_tower
from occplug.backbones.weights import load_clip
from occplug.embedding import Embedding
from occplug.errors import ConfigError
from occplug.evaluation import cosine_distance
from occplug.heads import BNNeck
from occplug.losses import BatchHardTriplet
from occplug.method import Group, Method, Stage
from occplug.prompts import IdentityPrompts
from occplug.registry import METHODS
from occplug.stages import optimiser, prompt_alignment, warmup_multistep

__all__ = ["CLIPReID"]


@METHODS.register_module("clip_reid")
class CLIPReID(Method):
    """CLIP-ReID and its baseline.

    Args:
        cfg: resolved config; reads `backbone`, `method`, `data.height`, `data.width`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
    """

    defaults = {
        "prompts": True,  # False: the baseline, stage 2 alone without the image-to-text loss
        "template": "A photo of a {4} person.",  # {n}: n learnable tokens per identity
        "neck": "before",  # tested feature: before or after the batch norm
        "stage1": {
            "epochs": 120,
            "batch_size": 64,  # cached features a step
            "lr": 3.5e-4,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "warmup_lr": 1e-5,  # rate at epoch 0 of the linear warm-up
            "min_lr": 1e-6,  # end of the cosine
            "weights": {"loss_i2t": 1.0, "loss_t2i": 1.0},
        },
        "stage2": {
            "epochs": 60,
            "optimizer": "adam",  # adam (coupled weight decay, official) or adamw
            "lr": 5e-6,
            "bias_lr_factor": 2.0,  # on every parameter whose name contains "bias"
            "classifier_lr_factor": 1.0,  # on the classifiers, which start from noise while the tower is pretrained
            "weight_decay": 1e-4,
            "warmup_epochs": 10,
            "warmup_factor": 0.1,
            "steps": [30, 50],  # epochs from which the rate is multiplied by gamma
            "gamma": 0.1,
            "label_smoothing": 0.1,
            "margin": 0.3,  # of the triplet loss; None: soft margin
            "weights": {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t": 1.0},
        },
    }
    nullable = ("stage2.margin",)
    backbones = {"vit_b16": "clip_vit_b16", "rn50": "clip_rn50", "vit_tiny": "clip_vit_tiny"}

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values stage 1 or 2 cannot use."""
        if cfg.method.neck not in ("before", "after"):
            raise ConfigError(f"method.neck is 'before' or 'after', not {cfg.method.neck!r}")
        if cfg.method.stage2.optimizer not in ("adam", "adamw"):
            raise ConfigError(f"method.stage2.optimizer is 'adam' or 'adamw', not {cfg.method.stage2.optimizer!r}")

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options = cfg.method
        self.weights_source = cfg.backbone.weights
        self.backbone = build_backbone(cfg, num_cameras)
        _, width, projected = self.backbone.widths
        self.neck = BNNeck(width, num_classes)
        self.neck_proj = BNNeck(projected, num_classes)
        self.num_classes = num_classes
        if self.options.prompts:
            self.text = build_text_tower(self.backbone.arch)
            self.prompts = IdentityPrompts(self.text.width, num_classes, self.options.template)
            # [num_classes, E]: text features of all identities, fixed during stage 2 and computed at its start
            self.register_buffer("text_features", torch.empty(0), persistent=False)
        self.triplet = BatchHardTriplet(self.options.stage2.margin)

    def load_pretrained(self) -> None:
        text, prompts = (self.text, [self.prompts]) if self.options.prompts else (None, [])
        load_clip(self.weights_source, self.backbone, text, prompts)

    # ------------------------------------------------------------------ training

    def stages(self) -> list[Stage]:
        if not self.options.prompts:
            return [self._stage2()]
        stage1 = prompt_alignment(self._encode_images, self._encode_prompts, r"prompts\.context", self.options.stage1)
        return [stage1, self._stage2()]

    def _encode_images(self, images: Tensor) -> Tensor:
        # the CLIP tower alone, which a hybrid equals at its start; no camera, as the official code caches them
        return self.backbone.clip(images).projected  # [B, E]

    def _encode_prompts(self, labels: Tensor) -> Tensor:
        return self.text(self.prompts(labels), self.prompts.eot)  # [B, E]

    def _stage2(self) -> Stage:
        o = self.options.stage2
        # Everything but the text side and the necks' shifts; "bias" anywhere in the name doubles the rate, so
        # `in_proj_bias` too.
        trained = r"(?!text\.|prompts\.|neck(_proj)?\.norm\.bias)"
        names = ["loss_id", "loss_tri"] + (["loss_i2t"] if self.options.prompts else [])
        return Stage(
            name="stage2",
            epochs=o.epochs,
            groups=[
                *self.backbone.own_groups(o.weight_decay),
                Group(r"neck(_proj)?\.classifier\..*", o.lr * o.classifier_lr_factor, o.weight_decay),
                Group(trained + r".*bias.*", o.lr * o.bias_lr_factor, o.weight_decay),
                Group(trained + r".*", o.lr, o.weight_decay),
            ],
            losses=self._stage2_losses,
            weights={name: o.weights[name] for name in names},
            schedule=warmup_multistep(o.steps, o.gamma, o.warmup_epochs, o.warmup_factor),
            optimizer=optimiser(o.optimizer),
            prepare=self._fix_text_features if self.options.prompts else lambda data, device: None,
        )

    @torch.no_grad()
    def _fix_text_features(self, data, device: torch.device) -> None:
        labels = torch.arange(self.num_classes, device=device)
        self.text_features = torch.cat([self._encode_prompts(chunk).float() for chunk in labels.split(64)])  # [C, E]

    def _stage2_losses(self, batch: dict) -> dict[str, Tensor]:
        """loss_id and loss_tri are sums over their two and three features (not means), as in the official code."""
        label = batch["pid"]
        scores, features = self.outputs(batch["img"], batch["camid"])
        smoothing = self.options.stage2.label_smoothing
        losses = {
            "loss_id": sum(F.cross_entropy(score, label, label_smoothing=smoothing) for score in scores),
            "loss_tri": sum(self.triplet(feature, label) for feature in features),
        }
        if self.options.prompts:
            logits = features[-1].float() @ self.text_features.T  # [B, C]
            losses["loss_i2t"] = F.cross_entropy(logits, label, label_smoothing=smoothing)
        return losses

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Two logits [B, C] and three features [B, *]: last-but-one level, last level, projected."""
        seen = self.backbone(images, camids)
        _, score = self.neck(seen.feature)
        _, score_proj = self.neck_proj(seen.projected)
        return [score, score_proj], [seen.last, seen.feature, seen.projected]

    # ------------------------------------------------------------------ testing

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """Last-level and projected feature side by side, [B, C + E]; not normalised."""
        seen = self.backbone(images, camids)
        if self.options.neck == "before":
            return Embedding(torch.cat([seen.feature, seen.projected], dim=1).float())
        return Embedding(torch.cat([self.neck.norm(seen.feature), self.neck_proj.norm(seen.projected)], dim=1).float())

    def matcher(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Squared Euclidean distance of the L2-normalised vectors, [Q, G] in [0, 4]: twice the cosine distance."""
        return 2 * cosine_distance(query.vector, gallery.vector)
