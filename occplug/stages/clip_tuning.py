"""What methods share that fine-tune a CLIP's image tower against the text features of learnt prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.backbones import build_text_tower
from occplug.backbones.weights import load_clip
from occplug.embedding import Embedding
from occplug.errors import ConfigError
from occplug.evaluation import cosine_distance
from occplug.heads import BNNeck
from occplug.losses import BatchHardTriplet
from occplug.method import Group, Method, Stage
from occplug.prompts import IdentityPrompts
from occplug.registry import BACKBONES, build
from occplug.stages.optimisers import optimiser
from occplug.stages.schedules import warmup_multistep

__all__ = ["CLIPTuning", "Further"]

# Losses on top of those of a stage: name -> function of projected image features [B, E] and labels [B].
Further = Mapping[str, Callable[[Tensor, Tensor], Tensor]]


class CLIPTuning(Method):
    """CLIP-ReID's model (arXiv 2211.13977) without its stages: image tower, two BN necks, identity prompts, text tower.

    Subclasses state `defaults` and `stages`; :meth:`tuning_stage` is CLIP-ReID's second stage.

    Args:
        cfg: resolved config; reads `backbone`, `method.template`, `method.neck`, `method.stage2`, `data.height`,
            `data.width`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
        prompts: False leaves out text tower and prompts.
    """

    backbones = {"vit_b16": "clip_vit_b16", "rn50": "clip_rn50", "vit_tiny": "clip_vit_tiny"}

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values the tuning stage or the embedding cannot use."""
        if cfg.method.neck not in ("before", "after"):
            raise ConfigError(f"method.neck is 'before' or 'after', not {cfg.method.neck!r}")
        if cfg.method.stage2.optimizer not in ("adam", "adamw"):
            raise ConfigError(f"method.stage2.optimizer is 'adam' or 'adamw', not {cfg.method.stage2.optimizer!r}")

    def __init__(self, cfg, num_classes: int, num_cameras: int, prompts: bool = True):
        super().__init__()
        self.options = cfg.method
        self.weights_source = cfg.backbone.weights
        self.backbone = build(
            BACKBONES,
            cfg.backbone.name,
            image_size=(cfg.data.height, cfg.data.width),
            stride=cfg.backbone.stride,
            num_cameras=num_cameras if cfg.backbone.sie_camera else 0,
            sie_coefficient=cfg.backbone.sie_coefficient,
        )
        _, width, projected = self.backbone.widths
        self.neck = BNNeck(width, num_classes)
        self.neck_proj = BNNeck(projected, num_classes)
        self.num_classes = num_classes
        self.has_prompts = prompts
        if prompts:
            self.text = build_text_tower(self.backbone.arch)
            self.prompts = IdentityPrompts(self.text.width, num_classes, self.options.template)
            # [num_classes, E]: text features of all identities, fixed during stage 2 and computed at its start
            self.register_buffer("text_features", torch.empty(0), persistent=False)
        self.triplet = BatchHardTriplet(self.options.stage2.margin)

    def load_pretrained(self) -> None:
        text, prompts = (self.text, [self.prompts]) if self.has_prompts else (None, [])
        load_clip(self.weights_source, self.backbone, text, prompts)

    def bound_to(self) -> dict[str, str]:
        """The prompts' template: tokens learnt in one text mean nothing in another."""
        return {"method.template": self.prompts.text} if self.has_prompts else {}

    # ------------------------------------------------------------------ training

    def _encode_images(self, images: Tensor) -> Tensor:
        """Projected features [B, E]; no camera, as the official code caches them."""
        return self.backbone(images).projected

    def _encode_prompts(self, labels: Tensor) -> Tensor:
        """Text features [B, E] of the prompts of identities `labels`."""
        return self.text(self.prompts(labels), self.prompts.eot)

    def tuning_stage(self, further: Further | None = None, frozen: str = r"text\.|prompts\.") -> Stage:
        """CLIP-ReID's second stage: image tower and necks, ID, triplet and (with prompts) image-to-text losses.

        Args:
            further: more losses, on the projected image features.
            frozen: regular expression of the names' beginnings that do not train.
        """
        o = self.options.stage2
        further = dict(further or {})
        # The necks' shifts are frozen too; "bias" anywhere in the name changes the rate, so `in_proj_bias` too.
        trained = rf"(?!{frozen}|neck(_proj)?\.norm\.bias)"
        names = ["loss_id", "loss_tri", *(["loss_i2t"] if self.has_prompts else []), *further]
        return Stage(
            name="stage2",
            epochs=o.epochs,
            groups=[
                Group(r"neck(_proj)?\.classifier\..*", o.lr * o.classifier_lr_factor, o.weight_decay),
                Group(trained + r".*bias.*", o.lr * o.bias_lr_factor, o.weight_decay),
                Group(trained + r".*", o.lr, o.weight_decay),
            ],
            losses=lambda batch: self._tuning_losses(batch, further),
            weights={name: o.weights[name] for name in names},
            schedule=warmup_multistep(o.steps, o.gamma, o.warmup_epochs, o.warmup_factor),
            optimizer=optimiser(o.optimizer),
            prepare=self._fix_text_features if self.has_prompts else lambda data, device: None,
        )

    @torch.no_grad()
    def _fix_text_features(self, data, device: torch.device) -> None:
        labels = torch.arange(self.num_classes, device=device)
        self.text_features = torch.cat([self._encode_prompts(chunk).float() for chunk in labels.split(64)])  # [C, E]

    def _tuning_losses(self, batch: dict, further: dict) -> dict[str, Tensor]:
        """loss_id and loss_tri are sums over their two and three features (not means), as in the official code."""
        label = batch["pid"]
        scores, features = self.outputs(batch["img"], batch["camid"])
        smoothing = self.options.stage2.label_smoothing
        losses = {
            "loss_id": sum(F.cross_entropy(score, label, label_smoothing=smoothing) for score in scores),
            "loss_tri": sum(self.triplet(feature, label) for feature in features),
        }
        if self.has_prompts:
            logits = features[-1].float() @ self.text_features.T  # [B, C]
            losses["loss_i2t"] = F.cross_entropy(logits, label, label_smoothing=smoothing)
        return losses | {name: loss(features[-1], label) for name, loss in further.items()}

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
