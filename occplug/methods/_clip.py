"""What the methods built on CLIP-ReID share: its image side, its losses without text, its embedding and distance.

Li, Sun, Li: "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text Labels",
AAAI 2023, arXiv 2211.13977, with the values of its official code where that differs from the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones import build_backbone, load_initial
from occplug.backbones.text_side import PromptCLIP, load_towers, text_architecture, text_tower_of
from occplug.config.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SHARE, under
from occplug.embedding import Embedding
from occplug.engine import EarlierStages, check_start
from occplug.errors import ConfigError
from occplug.evaluation import Metric
from occplug.heads import BNNeck, TextSpace
from occplug.losses import IgnoringCrossEntropy
from occplug.method import Group, Stage
from occplug.prompts import IdentityPrompts
from occplug.registry import LOSSES, METHODS, build_part, get, has_texts, tower_gives
from occplug.stages import (
    SCHEDULE,
    SCHEDULE_CHOICES,
    SCHEDULE_RANGES,
    PatchTransferMethod,
    Transfer,
    build_patch_transfer,
    clip_saliency_stage,
    optimiser,
    rate_schedule,
    transfer_once,
)
from occplug.stages.patch_transfer import CHOICES as TRANSFER_CHOICES
from occplug.stages.patch_transfer import DEFAULTS as TRANSFER
from occplug.stages.patch_transfer import NULLABLE as TRANSFER_NULLABLE
from occplug.stages.patch_transfer import RANGES as TRANSFER_RANGES
from occplug.stages.saliency import SALIENCY, SALIENCY_NULLABLE, SALIENCY_RANGES

__all__ = ["ALIGNMENT", "FINETUNING", "PROMPTS", "SPT", "TESTING", "CLIPMethod"]

# Defaults of the stage that learns prompts (`prompt_alignment`).
ALIGNMENT = {
    "epochs": 120,
    "batch_size": 64,  # cached features a step
    "lr": 3.5e-4,
    "weight_decay": 1e-4,
    "warmup_epochs": 5,
    "warmup_lr": 1e-5,  # rate at epoch 0 of the linear warm-up
    "min_lr": 1e-6,  # end of the cosine
}

ALIGNMENT_RANGES = {
    **dict.fromkeys(("epochs", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "weights"), AT_LEAST_0),
    "batch_size": AT_LEAST_1,
    "lr": ABOVE_0,
}

# Defaults of the stage that trains the image tower.
FINETUNING = {
    "epochs": 60,
    "optimizer": "adam",  # adam (coupled weight decay, official), adamw or sgd
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
    "triplet": {"type": "batch_hard_triplet"},  # a name in LOSSES: (features [B, D], labels [B]) -> scalar
    **SCHEDULE,
}
FINETUNING_RANGES = {
    **dict.fromkeys(("epochs", "bias_lr_factor", "classifier_lr_factor", "weight_decay"), AT_LEAST_0),
    **dict.fromkeys(("warmup_epochs", "steps", "margin", "weights"), AT_LEAST_0),
    "lr": ABOVE_0,
    **dict.fromkeys(("warmup_factor", "gamma", "label_smoothing"), SHARE),
    **SCHEDULE_RANGES,
}

# Defaults of the test.
TESTING = {
    "neck": "before",  # tested feature: before or after the batch norm
    "test_cameras": True,  # False: no camera embedding at test, for targets with other cameras than the source
}

# Defaults of patch transfer (SPT), which any of these methods can switch on.
SPT = {
    "spt": False,  # train a saliency net before the image tower and mix occlusions into its batches (ViT alone)
    "transfer": dict(TRANSFER),
    "saliency": dict(SALIENCY),
    "start": "",  # first stage to train: empty for all; earlier ones are taken from `earlier`
    "earlier": "",  # checkpoint with the stages before `start`; texts learnt beside a CLIP serve any backbone
}
SPT_NULLABLE = (
    *under("transfer", dict.fromkeys(TRANSFER_NULLABLE)),
    *under("saliency", dict.fromkeys(SALIENCY_NULLABLE)),
)
PROMPTS = r"prompts\.(\w+\.)?(context|others)"  # what stage 1 trains, of all kinds
MIXING = ("clip_vit_b16", "clip_vit_l14", "clip_vit_tiny")  # backbones whose patches can be mixed


class CLIPMethod(PatchTransferMethod):
    """CLIP's image tower with two BN necks; a subclass adds texts with `add_prompts` and states its stages.

    On a backbone that shares no space with texts there is one neck, on its feature, and nothing else is tested. Its
    texts are those of the CLIP that `cfg.prompts` names: learnt beside that CLIP's own image tower in stage 1, which
    never sees the backbone, or with `prompts.source: joint` together with it.

    With `method.spt` a stage `saliency` before the last, and what that makes is mixed into the last stage's batches.

    Args:
        cfg: resolved config; reads `backbone`, `data.height`, `data.width`, and of `method` the keys of `TESTING`,
            `stage2` (at least those of `FINETUNING`) and those of `SPT`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
    """

    nullable = ("stage2.margin", *SPT_NULLABLE)
    choices = {
        "neck": ("before", "after"),
        "stage2.optimizer": ("adam", "adamw", "sgd"),
        **under("stage2", SCHEDULE_CHOICES),
        **under("transfer", TRANSFER_CHOICES),
    }
    parts = {"stage2.triplet": LOSSES}
    ranges = {
        **under("stage1", ALIGNMENT_RANGES),
        **under("stage2", FINETUNING_RANGES),
        **under("transfer", TRANSFER_RANGES),
        **under("saliency", SALIENCY_RANGES),
    }
    backbones = {
        "vit_b16": "clip_vit_b16",
        "vit_l14": "clip_vit_l14",
        "rn50": "clip_rn50",
        "vit_tiny": "clip_vit_tiny",
    }
    squared_distance = True
    text: Any  # TextTower, or None before `add_prompts`
    prompts: Any  # IdentityPrompts of `add_prompts`; with several kinds a ModuleDict of them
    saliency: Any  # with `spt`: SaliencyNet, and the PatchTransfer it guides
    transfer: Any

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values no stage can use."""
        if cfg.method.spt and tower_gives(cfg.backbone.name) is None and cfg.backbone.name not in MIXING:
            raise ConfigError(
                f"method.spt mixes patches, which {cfg.backbone.name} does not have for it; it works on "
                f"{', '.join(MIXING)}"
            )
        o = cfg.method
        check_start(o.start, o.earlier, get(METHODS, cfg.model.name).stage_names(o, cfg.prompts.source == "joint"))

    @classmethod
    def has_prompts(cls, options) -> bool:
        """Whether `options` ask for texts."""
        return True

    @classmethod
    def stage_names(cls, options, is_joint: bool = False) -> list[str]:
        """The stages `options` ask for, in order."""
        first = ["stage1"] if cls.has_prompts(options) and not is_joint else []
        return [*first, *(["saliency"] if options.spt else []), "stage2"]

    @staticmethod
    def needs(cfg) -> dict[str, str]:
        """Patches and blocks for the transfer; features do for all else."""
        return {"levels": "method.spt", "patches": "method.spt"} if cfg.method.spt else {}

    @classmethod
    def prompt_keys(cls, cfg) -> tuple[str, ...]:
        """All of them, where there are texts."""
        return ("source", "clip", "weights", "activation", "temperature") if cls.has_prompts(cfg.method) else ()

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options, self.cfg = cfg.method, cfg
        self.weights_source = cfg.backbone.weights
        self.num_classes = num_classes
        self.backbone: Any = build_backbone(cfg, num_cameras)
        self.has_text, self.is_joint = has_texts(cfg.backbone.name), cfg.prompts.source == "joint"
        _, width, projected = self.backbone.widths
        self.neck = BNNeck(width, num_classes)
        if self.has_text:
            self.neck_proj = BNNeck(projected, num_classes)
        leaves = {"stage1": ("prompts.", "text.", "attributes."), "saliency": ("saliency.",)}
        self.earlier = EarlierStages(cfg, self.stage_names(self.options, self.is_joint), leaves)
        self.text = None
        self.text_features_by_kind: dict[str, Tensor] = {}  # [C, E] each, fixed in the last stage
        self.triplet = build_part(LOSSES, self.options.stage2, "triplet")
        self.ignoring = IgnoringCrossEntropy(self.options.stage2.label_smoothing)
        if self.options.spt:
            self.saliency, self.transfer = build_patch_transfer(cfg, num_classes)

    def load_pretrained(self) -> None:
        """CLIP's towers; the saliency net's, too, where occlusions are transferred."""
        prompts = self._prompts().values()
        load_towers(self.cfg, self.backbone, self.text, prompts, getattr(self, "prompt_clip", None))
        if self.options.spt:
            load_initial(self.weights_source, self.saliency.backbone)
        takes_saliency = "saliency" in self.earlier.skipped
        self.earlier.load(self, self._templates() | (self.saliency.bound_to() if takes_saliency else {}))

    def _templates(self) -> dict[str, str]:
        return {f"method.{_template_key(kind)}": prompts.text for kind, prompts in self._prompts().items()}

    def bound_to(self) -> dict[str, str]:
        """The templates, the grids and the saliency net's blocks: tensors of others may have the same shapes."""
        bound = self._templates() | self.backbone.bound_to()
        return bound | (self.saliency.bound_to() if self.options.spt else {})

    @property
    def training_only(self) -> tuple[str, ...]:
        """Texts, classifiers and the saliency net; necks and camera embedding where the test leaves them out."""
        necks = (r"neck(_proj)?\.norm\..*",) if self.options.neck == "before" else ()
        cameras = () if self.options.test_cameras else (r"backbone\.(.*\.)?camera_embedding",)
        texts = (r"text(_space)?\..*", r"prompt_clip\..*", r"prompts\..*")
        rest = (*texts, r"neck(_proj)?\.classifier\..*", r"saliency\..*")
        return (*rest, *necks, *cameras)

    # ------------------------------------------------------------------ texts

    def add_prompts(self, kind: str = "", shared: bool = False) -> None:
        """Give each identity a text of the template `method.template`, which makes the module `prompts`.

        A method with several kinds of texts adds each by its name: `method.template_<kind>` makes `prompts[kind]`.

        Args:
            shared: as in `IdentityPrompts`.
        """
        if self.text is None:
            self.text = text_tower_of(self.cfg, self.backbone)
            if not self.has_text:
                width, embed = self.backbone.widths[1], text_architecture(self.cfg, self.backbone)["embed_dim"]
                self.text_space = TextSpace(width, embed, self.cfg.prompts.temperature)
                self.prompt_clip: Any = None if self.is_joint else PromptCLIP(self.cfg)
        template = self.options[_template_key(kind)]
        prompts = IdentityPrompts(self.text.width, self.num_classes, template, shared)
        if kind and not hasattr(self, "prompts"):
            self.prompts = nn.ModuleDict()
        if kind:
            self.prompts[kind] = prompts
        else:
            self.prompts = prompts

    def _prompts(self) -> dict[str, IdentityPrompts]:
        """Prompts by kind: "" for those of a method with one kind; none without texts."""
        found = getattr(self, "prompts", {})
        return {"": found} if isinstance(found, IdentityPrompts) else dict(found)

    def learn_texts(self, key: str, shared: bool = False) -> None:
        """The older name of `add_prompts`, which took the template's key; it goes in the next version."""
        self.add_prompts(key.removeprefix("template").removeprefix("_"), shared)

    @property
    def text_features(self) -> Tensor:
        """Features [C, E] of the texts of a method with one kind of them; AttributeError where none are fixed."""
        if "" not in self.text_features_by_kind:
            raise AttributeError("text_features")
        return self.text_features_by_kind[""]

    def __getattr__(self, name: str) -> Any:
        """`prompts_<kind>` and `text_features_<kind>`, the older names; they go in the next version."""
        what, _, kind = name.rpartition("_")
        by_kind: dict[str, Callable[[], Any]] = {
            "prompts": self._prompts,
            "text_features": lambda: self.text_features_by_kind,
        }
        known = by_kind.get(what, dict)()
        if kind in known:
            return known[kind]
        return super().__getattr__(name)

    def _apply(self, fn, *args, **kwargs):
        """Text features go where the module goes."""
        self.text_features_by_kind = {kind: fn(features) for kind, features in self.text_features_by_kind.items()}
        return super()._apply(fn, *args, **kwargs)

    def encode_images(self, images: Tensor) -> Tensor:
        """Projected features [B, E] of `images`; no camera, as the official code caches them for the prompts.

        A hybrid backbone is its CLIP tower until it has been trained, so the tower alone is asked.
        """
        return self.backbone.clip(images).projected if self.has_text else self.prompt_clip(images)

    def encode_prompts(self, prompts, labels: Tensor) -> Tensor:
        """Text features [B, E] of the identities `labels` [B] under the prompt module `prompts`."""
        return self.text(prompts(labels), prompts.eot)

    @torch.no_grad()
    def fix_text_features(self, data, device: torch.device) -> None:
        """Compute the text features of all identities, [C, E] float32: what stage 2 starts with (`Stage.prepare`).

        Texts that are learnt together with the backbone are computed in each step instead.
        """
        if not self.has_text and self.is_joint:
            return
        labels = torch.arange(self.num_classes, device=device)
        for kind, prompts in self._prompts().items():
            features = [self.encode_prompts(prompts, chunk).float() for chunk in labels.split(64)]
            self.text_features_by_kind[kind] = torch.cat(features)

    def text_loss(
        self,
        image: Tensor,
        labels: Tensor,
        texts: Tensor | None = None,
        transfer: Transfer | None = None,
        reduction: str = "mean",
        kind: str = "",
    ) -> Tensor:
        """What pulls `image`, the last of the `features` [B, *] of `outputs`, to the texts of the identities `labels`.

        Cross entropy over the products with all `texts` [C, E], those of the `kind` unless given, on a foreign backbone
        over cosines; with texts that are learnt along, SupCon both ways with those of the batch.
        """
        if self._learns_along:
            return self.text_space.contrast(image, self.encode_prompts(self._prompts()[kind], labels), labels)
        texts = self.text_features_by_kind[kind] if texts is None else texts
        if self.has_text:
            return self.classification(image @ texts.T, labels, transfer, reduction)
        return self.classification(self.text_space.logits(image, texts), labels, transfer, reduction)

    def in_text_space(self, image: Tensor) -> Tensor:
        """`image`, the last of the `features` of `outputs`, in the space of the texts: [B, E]."""
        return image if self.has_text else self.text_space(image)

    # ------------------------------------------------------------------ training of the image tower

    def occlusion_stages(self) -> list[Stage]:
        """What `method.spt` trains before the image tower."""
        return [clip_saliency_stage(self.saliency, self.options.saliency)] if self.options.spt else []

    def mixed_into(self, batch: dict) -> Transfer | None:
        """What patch transfer mixes into the images of `batch`; None without it."""
        return transfer_once(batch, self.transfer.plan if self.options.spt else None)

    def finetuning(
        self,
        losses: Callable[[dict], dict[str, Tensor]],
        names: list[str],
        frozen: str = "",
    ) -> Stage:
        """CLIP-ReID's second stage: everything trains but texts and the necks' shifts.

        Args:
            losses: as `Stage.losses`; `identity_losses` gives two of them.
            names: of the losses, weighted by `method.stage2.weights`.
            frozen: name of a module that does not train either.
        """
        o = self.options.stage2
        kept = [r"text\.", r"prompts\.", r"saliency\.", r"prompt_clip\.", r"neck(_proj)?\.norm\.bias"]
        kept += [rf"backbone\.{name}" for name in self.backbone.untrained()]
        kept += [rf"{frozen}\."] if frozen else []
        rates = rate_schedule(o)
        head = r"neck(_proj)?\.classifier\..*" + ("" if self.has_text else r"|text_space\..*")
        head += f"|{PROMPTS}" if self._learns_along else ""  # at the rate of their projection

        def group(pattern: str, lr: float) -> Group:
            return Group(pattern, lr, o.weight_decay, rates(lr) if o.schedule == "cosine" else None)

        trained = f"(?!{'|'.join(kept)})"  # "bias" anywhere in the name changes the rate, so `in_proj_bias` too
        return Stage(
            name="stage2",
            epochs=o.epochs,
            groups=[
                *self.backbone.own_groups(o.weight_decay),
                group(head, o.lr * o.classifier_lr_factor),
                group(trained + r".*bias.*", o.lr * o.bias_lr_factor),
                group(trained + r".*", o.lr),
            ],
            losses=losses,
            weights={name: o.weights[name] for name in names},
            schedule=rates(o.lr),
            optimizer=optimiser(o.optimizer),
            prepare=self.fix_text_features,
            after_epoch=self.close_epoch,
        )

    @property
    def _learns_along(self) -> bool:
        return not self.has_text and self.is_joint

    def close_epoch(self) -> None:
        """What the second stage does after each epoch."""
        if self.options.spt:
            self.transfer.close_epoch()

    def identity_losses(
        self, scores: list[Tensor], features: list[Tensor], labels: Tensor, transfer: Transfer | None = None
    ) -> dict[str, Tensor]:
        """loss_id and loss_tri of the `outputs`, sums over scores and features (not means), as in the official code."""
        ineligible = [] if transfer is None else [transfer.ineligible(labels)]
        return {
            "loss_id": sum(self.classification(score, labels, transfer) for score in scores),
            "loss_tri": sum(self.triplet(feature, labels, *ineligible) for feature in features),
        }

    def classification(
        self, scores: Tensor, labels: Tensor, transfer: Transfer | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Label-smoothed cross entropy of `scores` [B, C], less the classes that `transfer` ignores."""
        if transfer is not None:
            return self.ignoring(scores, labels, transfer.ignored(labels), reduction)
        smoothing = self.options.stage2.label_smoothing
        return F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction=reduction)

    def outputs(
        self, images: Tensor, camids: Tensor | None = None, transfer: Transfer | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Two logits [B, C] and three features [B, *]: last-but-one level, last level, projected; or one of each."""
        change = {} if transfer is None else {"change": transfer.change(self.backbone.patch_grid)}
        features = self.backbone(images, camids, **change)
        _, score = self.neck(features.feature)
        if not self.has_text:
            return [score], [features.feature]
        _, score_proj = self.neck_proj(features.projected)
        return [score, score_proj], [features.last, features.feature, features.projected]

    # ------------------------------------------------------------------ testing

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """Last-level and projected feature side by side, [B, C + E], or the feature alone; not normalised."""
        features = self.backbone(images, camids if self.options.test_cameras else None)
        if not self.has_text:
            feature = features.feature
            return Embedding((self.neck.norm(feature) if self.options.neck == "after" else feature).float())
        levels = [features.feature, features.projected]
        if self.options.neck == "after":
            levels = [neck.norm(level) for neck, level in zip((self.neck, self.neck_proj), levels)]
        return Embedding(torch.cat(levels, dim=1).float())

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Squared Euclidean distance of the L2-normalised vectors, [Q, G] in [0, 4]: twice the cosine distance."""
        return self.named_distance()(query, gallery)

    def named_distance(self) -> Metric:
        """|q^ - g^|^2 of the vectors brought to unit length."""
        return Metric("normalised_euclidean")


def _template_key(kind: str) -> str:
    """The key of `cfg.method` that has the template of the texts of `kind`."""
    return f"template_{kind}" if kind else "template"
