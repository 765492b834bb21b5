"""DPM: dynamic prototype masks on the ImageNet ViT, with patch transfer (SPT) where it is switched on.

Tan et al.: "Dynamic Prototype Mask for Occluded Person Re-Identification", ACM MM 2022, arXiv 2207.09046; SPT, AAAI
2024; both as their official code computes. `method.mask: none` and `method.hem: False` leave the plain ViT baseline.

    image -- ViT -- class token f -- BN -- n -- prototypes W ----------- ID loss
                 |                         '--- m * W, angular margin -- mask loss
                 |-- blocks 2, 4, 10, 12 -- mask generator -- m
                 '-- last block's class scores ---------------------------- head diversity

Updates alternate: after a step of everything else, the batch goes through again and the mask generator alone steps, at
a rate that no schedule changes. Test: the query's mask acts on the gallery.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from occplug.backbones import build_backbone, load_initial
from occplug.config.ranges import ABOVE_0, ANGLE, AT_LEAST_0, SHARE, under
from occplug.embedding import Embedding
from occplug.engine import EarlierStages, check_start
from occplug.errors import ConfigError
from occplug.heads import MASK_CHOICES, MaskedMetric, MaskGenerator
from occplug.method import ExtraOptimizer, Group, Stage
from occplug.registry import LOSSES, METHODS, tower_gives, tower_options
from occplug.stages import (
    MaskedMethod,
    build_patch_transfer,
    module_rate,
    optimiser,
    saliency_stage,
    tower_pattern,
    warmup_cosine,
    with_biases,
)
from occplug.stages.patch_transfer import CHOICES as TRANSFER_CHOICES
from occplug.stages.patch_transfer import DEFAULTS as TRANSFER
from occplug.stages.patch_transfer import RANGES as TRANSFER_RANGES

__all__ = ["DPM"]

# Of both stages
RATES = {
    **dict.fromkeys(("epochs", "module_lr", "bias_lr_factor", "weight_decay"), AT_LEAST_0),
    **dict.fromkeys(("warmup_epochs", "warmup_lr", "min_lr", "rate_lag", "weights"), AT_LEAST_0),
    "lr": ABOVE_0,
}


@METHODS.register_module("dpm")
class DPM(MaskedMethod):
    """DPM, DPM-SPT, SPT and the ViT baseline.

    Args:
        cfg: resolved config; reads `backbone`, `method`, `data.height`, `data.width`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
    """

    defaults = {
        "mask": "proto_pre",  # none, or where the mask acts: {feat, proto, both}_{pre, post} normalisation
        "mask_levels": [],  # blocks the mask generator sees; empty: 2, 4, 10, 12 of 12; [-1]: DPM without the hierarchy
        "mask_pool": "max",  # last pooling of the mask generator: max (code) or mean (the paper's text)
        "hem": True,  # head diversity loss
        "neck": "before",  # tested feature: before the batch norm (official code), or after it, as masks are trained
        "test_mask": True,  # False: masks are trained and have no part in the test
        "drop_path": None,  # of both towers; null: backbone.drop_path, or 0.1 on a ViT or Swin (TransReID's, from
        # which the official codes descend); a CLIP's cannot have it
        "spt": False,  # train a saliency net first and mix occlusions into the batches
        "transfer": dict(TRANSFER),
        "start": "",  # first stage to train: empty for all, or saliency, train
        "earlier": "",  # checkpoint with the stages before `start`
        "saliency": {
            "stride": None,  # of the saliency net's patches; null: the patch size
            "levels": [],  # blocks the saliency net sees; as mask_levels
            "epochs": 120,
            "optimizer": "sgd",
            "lr": 0.008,
            "module_lr": None,  # of the classifier; null: lr, as in the official code
            "decision_lr": None,  # of the decision layer; null: module_lr
            "bias_lr_factor": 2.0,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "warmup_lr": 8e-5,  # rate at epoch 0 of the linear warm-up
            "min_lr": 1.6e-5,  # end of the cosine
            "rate_lag": 0,  # epochs by which rates are late; 1 where a code steps its schedule at an epoch's end
            "ratio": 0.3,  # budget: wanted share of salient patches
            "weights": {"loss_id": 1.0, "loss_keep": 1.0, "loss_tri": 1.0, "loss_budget": 50.0, "loss_orth": 0.1},
        },
        "train": {
            "epochs": 150,
            "optimizer": "sgd",
            "alternating": True,  # False: the mask generator steps with everything else, on the same schedule
            "lr": 0.008,
            "module_lr": None,  # of mask generator and prototypes; null: lr, as in the official code
            "bias_lr_factor": 2.0,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "warmup_lr": 8e-5,
            "min_lr": 1.6e-5,
            "rate_lag": 0,
            "scale": 30.0,
            "angular_margin": 0.5,  # radians
            "margin": None,  # of the triplet loss; null: soft margin
            "triplet": {"type": "batch_hard_triplet"},  # a name in LOSSES
            "label_smoothing": 0.0,
            "weights": {"loss_id": 0.5, "loss_mask": 0.5, "loss_tri": 1.0, "loss_hem": 0.1},
        },
    }
    nullable = (
        "drop_path", "train.margin", "train.module_lr", "transfer.alpha2_abs",
        *under("saliency", dict.fromkeys(("module_lr", "decision_lr", "stride"))),
    )  # fmt: skip
    parts = {"train.triplet": LOSSES}
    choices = {**MASK_CHOICES, **under("transfer", TRANSFER_CHOICES)}
    ranges = {
        "drop_path": SHARE,
        **under("transfer", TRANSFER_RANGES),
        **under("saliency", {**RATES, "decision_lr": AT_LEAST_0, "ratio": SHARE}),
        **under("train", {**RATES, "margin": AT_LEAST_0, "scale": ABOVE_0, "angular_margin": ANGLE}),
        "train.label_smoothing": SHARE,
    }
    backbones = {"vit_b16": "vit_b16", "vit_tiny": "clip_vit_tiny"}

    @staticmethod
    def prompt_keys(cfg) -> tuple[str, ...]:
        """None: there are no texts here."""
        return ()

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values the stages cannot use."""
        name, o = cfg.backbone.name, cfg.method
        if tower_gives(name) is None and name not in DPM.backbones.values():
            known = ", ".join(DPM.backbones.values())
            raise ConfigError(f"backbone.name is {name!r}, and dpm works on {known}")
        if o.drop_path is not None and "drop_path" not in tower_options(name).values():
            raise ConfigError(f"method.drop_path is {o.drop_path}, and {cfg.backbone.name} has none; set it to null")
        check_start(o.start, o.earlier, DPM.stage_names(o))

    @staticmethod
    def stage_names(options) -> list[str]:
        """The stages `options` asks for, in order."""
        return (["saliency"] if options.spt else []) + ["train"]

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options = o = cfg.method
        self.weights_source, self.num_classes = cfg.backbone.weights, num_classes
        form = self._form(cfg)
        self.backbone: Any = build_backbone(cfg, num_cameras, **form)
        width, generator = self.backbone.widths[1], None
        if o.mask != "none":
            generator = MaskGenerator.on(self.backbone, o.mask_levels, width, o.mask_pool)
        self.metric = MaskedMetric(width, num_classes, generator, o)
        self.earlier = EarlierStages(cfg, self.stage_names(o), {"saliency": ("saliency.",)})
        if o.spt:
            self.saliency, self.transfer = build_patch_transfer(cfg, num_classes, **form)

    @staticmethod
    def _form(cfg) -> dict[str, Any]:
        """Options of the towers: stochastic depth, or where a CLIP's adds its camera embedding."""
        if "drop_path" not in tower_options(cfg.backbone.name).values():
            return {"sie_scope": "all"}
        asked = [rate for rate in (cfg.method.drop_path, cfg.backbone.drop_path) if rate is not None]
        return {"drop_path": asked[0] if asked else 0.1}

    def load_pretrained(self) -> None:
        """The ImageNet ViT, also for the saliency net; with `method.start train` that net of an earlier run."""
        load_initial(self.weights_source, self.backbone)
        if self.options.spt:
            load_initial(self.weights_source, self.saliency.backbone)
        self.earlier.load(self, self.saliency.bound_to() if self.options.spt else {})

    def bound_to(self) -> dict[str, str]:
        """The blocks of mask generator and saliency net, and the grids."""
        bound = self.metric.bound_to() | self.backbone.bound_to()
        return bound | (self.saliency.bound_to() if self.options.spt else {})

    # ------------------------------------------------------------------ training

    @property
    def training_only(self) -> tuple[str, ...]:
        """Prototypes, the saliency net and CLIP's projection; the neck if features are taken before it."""
        projection = (rf"backbone\.{name}" for name in self.backbone.projection_names)
        return (r"saliency\..*", *projection, *self.metric.training_only)

    def stages(self) -> list[Stage]:
        """`saliency`, where occlusions are transferred and no earlier run is taken, then `train`."""
        made = {"saliency": self._saliency_stage, "train": self._train_stage}
        return self.earlier.left_to_train([made[name]() for name in self.stage_names(self.options)])

    def _saliency_stage(self) -> Stage:
        o = self.options.saliency
        pattern = tower_pattern(self.saliency.backbone, prefix=r"saliency\.backbone\.")
        tower = self._groups(pattern, o, o.lr)
        rate = module_rate(o)
        classifier = Group(r"saliency\.neck\.(?!norm\.bias).*", rate, o.weight_decay, self._schedule(o)(rate))
        decision = self._groups(r"saliency\.decision\..*", o, rate if o.decision_lr is None else o.decision_lr)
        groups = [*tower, classifier, *decision]
        return saliency_stage(
            self.saliency, o, groups, schedule=self._schedule(o)(o.lr), optimizer=optimiser(o.optimizer)
        )

    def _train_stage(self) -> Stage:
        o = self.options.train
        masks = r"metric\.generator\..*"
        rate = module_rate(o)
        # the neck's shift has no part in the losses
        tower = tower_pattern(self.backbone, self.metric.levels)
        groups, extra_optimizers = self._groups(tower, o, o.lr), []
        groups.append(Group(r"metric\.neck\.(?!norm\.bias).*", rate, o.weight_decay, self._schedule(o)(rate)))
        if self.metric.generator is not None and o.alternating:
            constant = with_biases(masks, rate, o.bias_lr_factor, o.weight_decay, lambda lr: lambda epoch: 1.0)
            extra_optimizers = [ExtraOptimizer(constant, optimiser(o.optimizer), own_pass=True)]
        elif self.metric.generator is not None:
            groups += self._groups(masks, o, rate)
        return Stage(
            name="train",
            epochs=o.epochs,
            groups=groups,
            losses=self._losses,
            weights={name: o.weights[name] for name in self.metric.names},
            schedule=self._schedule(o)(o.lr),
            optimizer=optimiser(o.optimizer),
            extra_optimizers=extra_optimizers,
            after_epoch=self.transfer.close_epoch if self.options.spt else lambda: None,
        )

    @staticmethod
    def _schedule(o):
        """Base rate -> its schedule; warm-up and end have the same rates for every base, so biases' factors differ."""
        return lambda lr: warmup_cosine(lr, o.epochs, o.warmup_epochs, o.warmup_lr, o.min_lr, o.rate_lag)

    def _groups(self, pattern: str, o, lr: float) -> list:
        return with_biases(pattern, lr, o.bias_lr_factor, o.weight_decay, self._schedule(o))

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        features, transfer = self.transferred_pass(batch)
        return self.metric.losses(features.feature, features, batch["pid"], transfer)

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of the prototypes [B, C] and the feature [B, d]."""
        feature = self.backbone(images, camids).feature
        return [self.metric.neck(feature)[1]], [feature]

    # ------------------------------------------------------------------ testing

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The feature [B, d], before or after the neck, and its mask [B, d]."""
        features = self.backbone(images, camids, blocks=self.metric.levels)
        return self.metric.embedding(features.feature, features)
