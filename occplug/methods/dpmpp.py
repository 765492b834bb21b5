"""DPM++: masked prototypes on CLIP, anchored by texts, trained with occlusions transferred between images.

"DPM++: Dynamic Masked Metric Learning for Occluded Person Re-identification", arXiv 2605.06637. No official code is
public; where the paper leaves a choice this follows the code of DPM, SPT and CLIP-ReID; a key names the alternative.

    semantic   learns prompts "A photo of a [X]1..4 person." against the frozen CLIP     -> coarse prototypes T
    saliency   trains a second image tower that says which patches show the person       -> masks for patch transfer
    train      image tower, prototypes W, mask generator, on batches with transferred patches

    L = L_coarse + L_id + lambda1 L_mask + L_tri + lambda2 L_HEM                                           (eq. 24)

f [B, 768] is the class token after the last norm, f_p [B, 512] its projection into the space of the texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occplug.backbones import VisionFeatures, build_backbone, load_initial
from occplug.backbones.text_side import PromptCLIP, load_towers, text_architecture, text_tower_of
from occplug.config.ranges import ABOVE_0, ANGLE, AT_LEAST_0, AT_LEAST_1, SHARE, under
from occplug.embedding import Embedding
from occplug.engine import EarlierStages, check_start
from occplug.errors import ConfigError
from occplug.heads import MASK_CHOICES, MaskedMetric, MaskGenerator, TextSpace
from occplug.losses import IgnoringCrossEntropy
from occplug.method import ExtraOptimizer, Group, Stage
from occplug.prompts import IdentityPrompts, parse_template
from occplug.registry import LOSSES, METHODS, has_texts, tower_gives
from occplug.stages import (
    SCHEDULE,
    SCHEDULE_CHOICES,
    SCHEDULE_RANGES,
    MaskedMethod,
    Pair,
    Transfer,
    build_patch_transfer,
    clip_saliency_stage,
    optimiser,
    prompt_alignment,
    rate_schedule,
    tower_pattern,
    with_biases,
)
from occplug.stages.patch_transfer import CHOICES as TRANSFER_CHOICES
from occplug.stages.patch_transfer import DEFAULTS as TRANSFER
from occplug.stages.patch_transfer import RANGES as TRANSFER_RANGES
from occplug.stages.saliency import SALIENCY, SALIENCY_RANGES

__all__ = ["DPMpp"]


def _check_foreign(cfg) -> None:
    """Raise ConfigError for what needs a projection into the space of texts that was trained with them."""
    o, usual = cfg.method, {"space": "feature", "prototypes": "visual", "triplet_on": "space"}
    for key, value in usual.items():
        if o[key] != value:
            raise ConfigError(
                f"method.{key} is {o[key]!r}, but {cfg.backbone.name} has no projection into a space of texts; use "
                f"{value!r}"
            )


@METHODS.register_module("dpmpp")
class DPMpp(MaskedMethod):
    """DPM++ and every row of its ablations on CLIP.

    Args:
        cfg: resolved config; reads `backbone`, `method`, `data.height`, `data.width`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
    """

    defaults = {
        "prompts": True,  # the stage semantic and the loss on coarse text prototypes
        "template": "A photo of a {4} person.",  # {n}: n learnable tokens per identity
        "sie_scope": "cls",  # tokens the camera embedding is added to: cls (as CLIP-ReID) or all (as the paper's eq. 2)
        "space": "feature",  # of prototypes, mask and test: feature (f), projected (f_p) or both side by side
        "prototypes": "visual",  # masked ones: visual (W), or text (T with f_p, table VI)
        "triplet_on": "space",  # triplet loss on the feature of `space`, or on all three as CLIP-ReID
        "mask": "proto_pre",  # none, or where the mask acts: {feat, proto, both}_{pre, post} normalisation
        "mask_levels": [],  # blocks the mask generator sees; empty: 2, 4, 10, 12 of 12; [-1]: without the hierarchy
        "mask_pool": "max",  # last pooling of the mask generator: max (DPM's code) or mean (the paper's text)
        "hem": True,  # head diversity loss
        "neck": "before",  # tested feature: before the batch norm, as in DPM's code, or after it, as masks are trained
        "test_mask": True,  # False: masks are trained and have no part in the test
        "spt": True,  # train a saliency net first and mix occlusions into the batches
        "transfer": dict(TRANSFER),
        "start": "",  # first stage to train: empty for all, or semantic, saliency, train
        "earlier": "",  # checkpoint with the stages before `start`
        "semantic": {
            "epochs": 100,
            "batch_size": 64,  # cached features a step
            "lr": 3.5e-4,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "warmup_lr": 1e-5,
            "min_lr": 1e-6,
            "weights": {"loss_i2t": 1.0, "loss_t2i": 1.0},
        },
        "saliency": dict(SALIENCY),
        "train": {
            "epochs": 60,
            "optimizer": "adam",
            "alternating": False,  # True: the mask generator steps alone in a second pass, as DPM
            "lr": 5e-6,  # of the image tower
            "module_lr": 3.5e-4,  # of mask generator, prototypes, neck and camera embedding
            "bias_lr_factor": 2.0,
            "weight_decay": 1e-4,
            "warmup_epochs": 0,
            "warmup_factor": 0.1,
            "steps": [20, 40],
            "gamma": 0.1,
            **SCHEDULE,
            "scale": 30.0,
            "angular_margin": 0.5,  # radians
            "margin": 0.3,  # of the triplet loss; null: soft margin
            "triplet": {"type": "batch_hard_triplet"},  # a name in LOSSES
            "label_smoothing": 0.1,  # of loss_id and loss_coarse
            "coarse_epochs": None,  # loss_coarse acts up to this epoch; null: always
            # lambda1 is the weight of loss_mask, lambda2 that of loss_hem
            "weights": {"loss_coarse": 1.0, "loss_id": 1.0, "loss_mask": 1.0, "loss_tri": 1.0, "loss_hem": 0.1},
        },
    }
    nullable = (
        "train.margin", "train.coarse_epochs", "saliency.module_lr", "saliency.stride", "transfer.alpha2_abs"
    )  # fmt: skip
    parts = {"train.triplet": LOSSES}
    choices = {
        **MASK_CHOICES,
        "space": ("feature", "projected", "both"),
        "prototypes": ("visual", "text"),
        "triplet_on": ("space", "all"),
        "sie_scope": ("cls", "all"),
        **under("train", SCHEDULE_CHOICES),
        **under("transfer", TRANSFER_CHOICES),
    }
    ranges = {
        **under("transfer", TRANSFER_RANGES),
        **under("saliency", SALIENCY_RANGES),
        **under("semantic", dict.fromkeys(("epochs", "weight_decay", "warmup_epochs", "warmup_lr"), AT_LEAST_0)),
        **under("semantic", {"min_lr": AT_LEAST_0, "weights": AT_LEAST_0, "batch_size": AT_LEAST_1, "lr": ABOVE_0}),
        **under("train", dict.fromkeys(("epochs", "module_lr", "bias_lr_factor", "weight_decay"), AT_LEAST_0)),
        **under("train", dict.fromkeys(("warmup_epochs", "steps", "margin", "coarse_epochs", "weights"), AT_LEAST_0)),
        **under("train", {"lr": ABOVE_0, "scale": ABOVE_0, "angular_margin": ANGLE}),
        **under("train", dict.fromkeys(("warmup_factor", "gamma", "label_smoothing"), SHARE)),
        **under("train", SCHEDULE_RANGES),
    }
    backbones = {"vit_b16": "clip_vit_b16", "vit_l14": "clip_vit_l14", "vit_tiny": "clip_vit_tiny"}
    in_one_stage = {"prompts": False, "spt": False}

    @staticmethod
    def stage_names(options, is_joint: bool = False) -> list[str]:
        """The stages `options` asks for, in order; texts that train with the backbone have none of their own."""
        first = ["semantic"] if options.prompts and not is_joint else []
        return [*first, *(["saliency"] if options.spt else []), "train"]

    @staticmethod
    def prompt_keys(cfg) -> tuple[str, ...]:
        """All of them, where there are texts."""
        return ("source", "clip", "weights", "activation", "temperature") if cfg.method.prompts else ()

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values the stages cannot use."""
        gives = tower_gives(cfg.backbone.name)
        if gives is None and cfg.backbone.name not in DPMpp.backbones.values():
            known = ", ".join(DPMpp.backbones.values())
            raise ConfigError(f"backbone.name is {cfg.backbone.name!r}, and dpmpp works on {known}")
        o = cfg.method
        if o.prototypes == "text" and not o.prompts:
            raise ConfigError("method.prototypes is 'text', which needs method.prompts True to learn them")
        if o.prototypes == "text" and o.mask == "none":
            raise ConfigError("method.prototypes is 'text', which needs a method.mask: only masks meet the texts")
        if o.prototypes == "text" and o.neck == "after":
            raise ConfigError(
                "method.neck is 'after', but with method.prototypes 'text' the feature f_p is tested, as it is"
            )
        if o.prompts:
            parse_template(o.template, "XY")
        if not has_texts(cfg.backbone.name):
            _check_foreign(cfg)
        if gives is not None and cfg.backbone.sie_camera and o.sie_scope != "all":
            raise ConfigError(
                f"method.sie_scope is {o.sie_scope!r}, but {cfg.backbone.name} adds its camera embedding to all "
                "tokens; set it to 'all'"
            )
        check_start(o.start, o.earlier, DPMpp.stage_names(o, cfg.prompts.source == "joint"))

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options, self.cfg = cfg.method, cfg
        o = cfg.method
        self.weights_source, self.num_classes = cfg.backbone.weights, num_classes
        gives = tower_gives(cfg.backbone.name)
        form = {"sie_scope": o.sie_scope} if gives is None else {}
        self.backbone: Any = build_backbone(cfg, num_cameras, **form)
        self.has_text, self.is_joint = has_texts(cfg.backbone.name), cfg.prompts.source == "joint"
        leaves = {"semantic": ("prompts.", "text."), "saliency": ("saliency.",)}
        self.earlier = EarlierStages(cfg, self.stage_names(o, self.is_joint), leaves)
        _, width, projected = self.backbone.widths
        widths = {"feature": width, "projected": projected, "both": width + projected}
        generator = None
        if o.mask != "none":
            out = projected if o.prototypes == "text" else widths[o.space]
            generator = MaskGenerator.on(self.backbone, o.mask_levels, out, o.mask_pool)
        self.metric = MaskedMetric(widths[o.space], num_classes, generator, o)
        self.coarse = IgnoringCrossEntropy(o.train.label_smoothing)
        if o.prompts:
            self.text = text_tower_of(cfg, self.backbone)
            self.prompts = IdentityPrompts(self.text.width, num_classes, o.template)
            if not self.has_text:
                embed = text_architecture(cfg, self.backbone)["embed_dim"]
                self.text_space = TextSpace(width, embed, cfg.prompts.temperature)
                self.prompt_clip: Any = None if self.is_joint else PromptCLIP(cfg)
            # [num_classes, E]: coarse prototypes T, fixed in the stage train and computed at its start
            self.register_buffer("text_features", torch.empty(0), persistent=False)
        if o.spt:
            self.saliency, self.transfer = build_patch_transfer(cfg, num_classes)

    def load_pretrained(self) -> None:
        """CLIP's towers and the saliency net's; then what stages before `method.start` left in an earlier run."""
        o = self.options
        text, prompts = (self.text, [self.prompts]) if o.prompts else (None, [])
        load_towers(self.cfg, self.backbone, text, prompts, getattr(self, "prompt_clip", None))
        if o.spt:
            load_initial(self.weights_source, self.saliency.backbone)
        takes_saliency = "saliency" in self.earlier.skipped
        self.earlier.load(self, self._template() | (self.saliency.bound_to() if takes_saliency else {}))

    def bound_to(self) -> dict[str, str]:
        """The template, the grids, and the blocks of mask generator and saliency net: tensors of others may fit."""
        bound = self._template() | self.metric.bound_to() | self.backbone.bound_to()
        return bound | (self.saliency.bound_to() if self.options.spt else {})

    def _template(self) -> dict[str, str]:
        return {"method.template": self.prompts.text} if self.options.prompts else {}

    # ------------------------------------------------------------------ training

    @property
    def training_only(self) -> tuple[str, ...]:
        """Texts, prototypes and the saliency net; neck and projection where features do not pass them."""
        reads_projection = self.options.prototypes == "text" or self.options.space != "feature"
        unread = () if reads_projection else self.backbone.projection_names
        return (
            r"(text|text_space|prompt_clip|prompts|saliency)\..*",
            *(rf"backbone\.{name}" for name in unread),
            *self.metric.training_only,
        )

    def stages(self) -> list[Stage]:
        """`semantic` (texts), `saliency` where occlusions are transferred, `train`; from `method.start` on."""
        made = {"semantic": self._semantic_stage, "saliency": self._saliency_stage, "train": self._train_stage}
        return self.earlier.left_to_train([made[name]() for name in self.stage_names(self.options, self.is_joint)])

    def _semantic_stage(self) -> Stage:
        o, pairs = self.options.semantic, [Pair(self._encode_prompts)]
        return prompt_alignment(self._encode_images, pairs, r"prompts\.(context|others)", o, name="semantic")

    def _encode_images(self, images: Tensor) -> Tensor:
        if not self.has_text:
            return self.prompt_clip(images)
        return self.backbone(images).projected  # [B, E]; no camera, as CLIP-ReID caches them

    def _encode_prompts(self, labels: Tensor) -> Tensor:
        return self.text(self.prompts(labels), self.prompts.eot)  # [B, E]

    def _saliency_stage(self) -> Stage:
        return clip_saliency_stage(self.saliency, self.options.saliency)

    def _train_stage(self) -> Stage:
        o = self.options.train
        rest = (o.bias_lr_factor, o.weight_decay)
        tower = tower_pattern(self.backbone, self.metric.levels, is_projected=self._is_projected)
        rates = rate_schedule(o)
        own = rates if o.schedule == "cosine" else None
        modules = [r"metric\.neck\.(?!norm\.bias).*"]
        if getattr(self.backbone, "camera_embedding", None) is not None:
            modules.append(r"backbone\.camera_embedding")
        if self.options.prompts and not self.has_text:
            modules.append(r"text_space\..*")
        if self._learns_along:
            modules.append(r"prompts\.(context|others)")
        groups = [Group(name, o.module_lr, o.weight_decay, own and own(o.module_lr)) for name in modules]
        extra_optimizers = []
        groups += with_biases(tower, o.lr, *rest, own)
        if self.metric.generator is not None:
            masks = with_biases(r"metric\.generator\..*", o.module_lr, *rest, own)
            extra_optimizers = [ExtraOptimizer(masks, optimiser(o.optimizer), own_pass=True)] if o.alternating else []
            groups += [] if o.alternating else masks
        names = (["loss_coarse"] if self.options.prompts else []) + self.metric.names
        return Stage(
            name="train",
            epochs=o.epochs,
            groups=groups,
            losses=self._losses,
            weights={name: o.weights[name] for name in names},
            schedule=rates(o.lr),
            optimizer=optimiser(o.optimizer),
            extra_optimizers=extra_optimizers,
            after_epoch=self.transfer.close_epoch if self.options.spt else lambda: None,
            prepare=self._fix_text_features,
        )

    @property
    def _learns_along(self) -> bool:
        """Whether texts train together with a backbone that knows none, in place of a stage of their own."""
        return self.options.prompts and self.is_joint and not self.has_text

    @property
    def _is_projected(self) -> bool:
        """Whether anything is compared in the space of the texts."""
        o = self.options
        return o.prompts or o.space != "feature" or o.triplet_on == "all"

    @torch.no_grad()
    def _fix_text_features(self, data, device: torch.device) -> None:
        if not self.options.prompts or self._learns_along:
            return
        labels = torch.arange(self.num_classes, device=device)
        self.text_features = torch.cat([self._encode_prompts(chunk).float() for chunk in labels.split(64)])  # [C, E]

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        o, labels = self.options, batch["pid"]
        features, transfer = self.transferred_pass(batch)
        losses = self.metric.losses(
            self._feature(features),
            features,
            labels,
            transfer,
            triplet_on=(features.last, features.feature, features.projected) if o.triplet_on == "all" else (),
            matched=(features.projected, self.text_features) if o.prototypes == "text" else None,
        )
        if o.prompts:
            acts = o.train.coarse_epochs is None or batch["epoch"] <= o.train.coarse_epochs
            losses["loss_coarse"] = self._coarse_loss(features, labels, transfer) * float(acts)
        return losses

    def _coarse_loss(self, features: VisionFeatures, labels: Tensor, transfer: Transfer | None) -> Tensor:
        """Cross entropy over the products with the texts; of a foreign backbone over cosines, or SupCon both ways."""
        if self._learns_along:
            return self.text_space.contrast(features.feature, self._encode_prompts(labels), labels)
        if self.has_text:
            logits = features.projected @ self.text_features.T  # [B, C], raw dot products
        else:
            logits = self.text_space.logits(features.feature, self.text_features)
        return self.coarse(logits, labels, None if transfer is None else transfer.ignored(labels))

    def _feature(self, features: VisionFeatures) -> Tensor:
        """The feature of `method.space`, [B, d]."""
        if self.options.space == "both":
            return torch.cat([features.feature, features.projected], dim=1)
        return features.feature if self.options.space == "feature" else features.projected

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of the prototypes [B, C] and the feature [B, d]."""
        feature = self._feature(self.backbone(images, camids))
        return [self.metric.neck(feature)[1]], [feature]

    # ------------------------------------------------------------------ testing

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The feature [B, d], before or after the neck, and its mask [B, d]."""
        features = self.backbone(images, camids, blocks=self.metric.levels)
        vector = features.projected if self.options.prototypes == "text" else self._feature(features)
        return self.metric.embedding(vector, features)
