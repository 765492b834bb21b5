"""ProFD: part features that texts ask for and part masks teach where to look, trained in one stage.

Cui et al.: "ProFD: Prompt-Guided Feature Disentangling for Occluded Person Re-Identification", ACM MM 2024,
arXiv 2409.20081. Where the paper and its official code differ, the defaults follow the code, which produced the
published numbers, and a key gives the paper's form. Two defaults follow neither: attention maps are supervised before
dropout, and the memory banks start from one plain pass over the training images.

    image -- CLIP ViT -- class token F_g -- neck ------------------------------- ID, triplet, PCL
                      -- patches F ------.
    texts -- CLIP text tower -- E -------+-- cosines with F --------------------- alignment
             with a background vector    '-- decoder -- rows [background, person, F_p]
                                                        attention --------------- attention loss
                                                        F_p --------------------- diversity, visibility
                                                        F_c = F_p side by side -- neck -- ID, triplet, PCL

B images, K parts, R = K + 2 rows of queries, L = h w patches, E the width CLIP's towers share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones import build_backbone
from occplug.backbones.text_side import load_towers, text_architecture, text_tower_of
from occplug.config.ranges import ABOVE_0, AT_LEAST_0, BELOW_1, SHARE, under
from occplug.distributed import each_batch
from occplug.embedding import Embedding
from occplug.errors import ConfigError, DataError
from occplug.evaluation import Metric
from occplug.heads import (
    BNNeck,
    PartNorm,
    PartVisibility,
    TextSpace,
    build_decoder,
    cosine_maps,
    visibility_by,
    weighted_average_pool,
)
from occplug.losses import (
    AttentionAlign,
    PartDiversity,
    PrototypeMemory,
    SpatialAlign,
    VisibilityFocal,
    patch_labels,
    visible_parts,
)
from occplug.method import Group, Method, Stage
from occplug.prompts import PART_SCHEMES, PartPrompts
from occplug.registry import LOSSES, METHODS, build_part, has_texts, tower_gives
from occplug.stages import SCHEDULE, SCHEDULE_CHOICES, SCHEDULE_RANGES, optimiser, rate_schedule, rated, tower_pattern

__all__ = ["ProFD"]

CELL = 4  # image pixels to a cell of the masks
SIDES = ("height", "width")
CHOICES = {
    "parts": tuple(PART_SCHEMES),
    "prompt": ("text", "learned"),
    "background_query": ("fixed", "learned"),
    "decoder": ("hybrid", "sea", "spa", "wap", "mask"),
    "attn_loss_on": ("clean", "dropped"),
    "div_weighting": PartDiversity.WEIGHTINGS,
    "bank": ("none", "global", "part", "both"),
    "bank_init": ("plain", "loader"),
    "bank_update": PrototypeMemory.UPDATES,
    "pcl_on": ("bn", "raw"),
    "test_embeddings": ("bn", "raw"),
    "test_visibility": ("softmax", "sigmoid", "binary", "none", "even"),
    "dist_metric": ("euclidean", "cosine"),
    "train.optimizer": ("adam", "adamw", "sgd"),
    **under("train", SCHEDULE_CHOICES),
}


@dataclass
class Features:
    """What the model makes of B images before the necks.

    Args:
        whole: F_g [B, E], the projected class token.
        tokens: F [B, L, E], the projected patches.
        queries: E [R, E]: background, whole person, parts.
        parts: F_p [B, K, E].
        attention: A [B, R, L], or None if the decoder has no map to supervise.
        labels: patch labels P [B, K + 1, h, w], or None without masks.
    """

    whole: Tensor
    tokens: Tensor
    queries: Tensor
    parts: Tensor
    attention: Any  # Tensor or None; terms that need it are active only where it is
    labels: Any  # Tensor or None, likewise

    @property
    def joint(self) -> Tensor:
        """F_c [B, K E], the parts side by side."""
        return self.parts.flatten(1)


@METHODS.register_module("profd")
class ProFD(Method):
    """ProFD and its ablations. A loss of weight 0 is not computed.

    Args:
        cfg: resolved config; reads `backbone`, `method`, `data.height`, `data.width`, `train.batch_size`.
        num_classes: training identities.
        num_cameras: training cameras; used with `backbone.sie_camera`.
    """

    constant_in_tests = ("part_queries",)
    defaults = {
        "parts": "five_v",  # grouping of the body: five_v, eight, four_v, three_v, two_v
        "prompt": "text",  # queries from texts, or learned: free vectors
        "context_tokens": 16,  # learnable tokens before a part's name
        "ctx_shared": False,  # True (paper): all parts share the learnable tokens
        "background_query": "fixed",  # a random vector that stays, or learned
        "decoder": "hybrid",  # sea or spa: one of its two attentions; wap: cosine pooling; mask: pooling by the masks
        "decoder_layers": 2,
        "decoder_heads": 8,
        "dropout": 0.1,  # in the decoder
        "align_gain": 5.0,  # on the cosines of the alignment loss; paper: 1
        "align_smooth": 0.1,  # label smoothing of the alignment loss; paper: 0
        "attn_loss_on": "clean",  # dropped (official code): the maps after dropout
        "div_weighting": "softmax",  # mean, or paper: half the mean
        "vis_alpha": 0.65,  # of the focal loss
        "vis_gamma": 2.0,
        "bank": "both",  # memory banks: none, global, part, both
        "bank_init": "plain",  # loader (official code): one pass over the augmented training batches
        "bank_update": "hard",  # all (paper): every sample
        "m_g": 0.2,  # momentum of the global bank
        "m_p": 0.2,  # momentum of the part bank
        "pcl_temperature": 0.05,
        "pcl_on": "bn",  # raw (paper): features before the necks
        "test_embeddings": "bn",  # raw (paper): features before the batch norms
        # softmax: over the parts, of v / 0.1; sigmoid (paper): v; binary: v >= 0.5; none: all 1; even: all 1 / K, the
        # softmax of parts that are alike
        "test_visibility": "softmax",
        "vis_floor": 0.1,  # visibilities below it count as 0; paper: 0
        "dist_metric": "euclidean",  # of unit vectors; cosine (paper)
        "train": {
            "epochs": 60,  # paper: 120
            "optimizer": "adamw",  # adam (paper), or sgd
            "bias_lr_factor": 1.0,  # on every parameter whose name contains "bias"
            "lr": 5e-5,
            "image_encoder_lr_mult": 0.1,
            "text_encoder_lr_mult": 1.0,  # 0 (paper): frozen
            "weight_decay": 1e-4,
            "warmup_epochs": 10,
            "warmup_factor": 0.1,
            "steps": [30, 50],  # trained epochs after which the rate is multiplied by gamma
            "gamma": 0.1,
            **SCHEDULE,
            "label_smoothing": 0.1,
            "margin": 0.3,  # of the triplet loss; None: soft margin
            "triplet": {"type": "batch_hard_triplet"},  # a name in LOSSES
            "weights": {  # paper: all 1
                "loss_id": 1.0,
                "loss_tri": 1.0,
                "loss_align": 0.35,
                "loss_attn": 1.0,
                "loss_pcl_g": 1.0,
                "loss_pcl_p": 1.0,
                "loss_div": 1.0,
                "loss_vis": 10.0,
            },
        },
    }
    nullable = ("train.margin",)
    choices = CHOICES
    parts = {"train.triplet": LOSSES}
    follows = {"masks.scheme": "parts"}
    ranges = {
        **dict.fromkeys(("decoder_layers", "decoder_heads"), (1, 64)),
        "context_tokens": (1, 64),
        **dict.fromkeys(("m_g", "m_p", "align_smooth", "dropout"), BELOW_1),
        **dict.fromkeys(("vis_alpha", "vis_floor"), SHARE),
        "vis_gamma": AT_LEAST_0,
        "pcl_temperature": ABOVE_0,
        "train.lr": ABOVE_0,
        **under("train", dict.fromkeys(("epochs", "image_encoder_lr_mult", "text_encoder_lr_mult"), AT_LEAST_0)),
        **under("train", dict.fromkeys(("weight_decay", "warmup_epochs", "steps", "margin", "weights"), AT_LEAST_0)),
        **under("train", dict.fromkeys(("warmup_factor", "gamma", "label_smoothing"), SHARE)),
        **under("train", {"bias_lr_factor": AT_LEAST_0, **SCHEDULE_RANGES}),
    }
    # no clip_vit_l14: its patches of 14 pixels are no whole number of the cells that part masks come in
    backbones = {"vit_b16": "clip_vit_b16", "vit_tiny": "clip_vit_tiny"}

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values ProFD cannot train with."""
        gives = tower_gives(cfg.backbone.name)
        rate = cfg.method.train.text_encoder_lr_mult
        if not has_texts(cfg.backbone.name) and cfg.method.prompt == "text" and rate:
            raise ConfigError(
                f"method.train.text_encoder_lr_mult is {rate}, but the texts of {cfg.backbone.name} are those of "
                f"{cfg.prompts.clip}, which stay as they are: set it to 0"
            )
        if gives is None and cfg.backbone.name not in ProFD.backbones.values():
            known = ", ".join(ProFD.backbones.values())
            raise ConfigError(f"backbone.name is {cfg.backbone.name!r}, but profd needs patch tokens; use {known}")
        if ProFD.extras(cfg) and cfg.masks.scheme != cfg.method.parts:
            named = f"method.parts is {cfg.method.parts!r}, but masks.scheme is {cfg.masks.scheme!r}"
            raise ConfigError(f"{named}; both name the same parts: leave masks.scheme out")
        for key, value in (("backbone.stride", cfg.backbone.stride), *((f"data.{k}", cfg.data[k]) for k in SIDES)):
            if ProFD.extras(cfg) and value % CELL:
                raise ConfigError(f"{key} is {value}; with part masks it must be a multiple of {CELL}")

    @staticmethod
    def needs(cfg) -> dict[str, str]:
        """Patch tokens, whatever else is switched off."""
        return {"tokens": "method.decoder"}

    @staticmethod
    def prompt_keys(cfg) -> tuple[str, ...]:
        """Which CLIP's space the parts are looked for in, and the weights of its texts where those ask for them."""
        return ("clip", "weights", "activation") if cfg.method.prompt == "text" else ("clip",)

    @staticmethod
    def extras(cfg) -> tuple[str, ...]:
        """`masks` [B, K + 1, H/4, W/4] if a loss, the part bank or the decoder is taught by them."""
        taught = {"loss_align", "loss_attn", "loss_vis", "loss_pcl_p"}
        needed = cfg.method.decoder == "mask" or taught & set(_active(cfg.method))
        return ("masks",) if needed else ()

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__()
        self.options = o = cfg.method
        self.weights_source, self.batch_size = cfg.backbone.weights, cfg.train.batch_size
        self.active, self.needs_masks = _active(o), bool(self.extras(cfg))
        self.cfg = cfg
        self.backbone: Any = build_backbone(cfg, num_cameras)
        self.has_text = has_texts(cfg.backbone.name)
        whole = self.backbone.widths[-1]
        width = text_architecture(cfg, self.backbone)["embed_dim"]
        if not self.has_text:
            into = [self.backbone.level_widths[level] for level in self.backbone.part_levels]
            self.text_space = TextSpace(into[0] if into else whole, width)
        self.part_names = PART_SCHEMES[o.parts][1:]
        self.num_classes, self.num_parts = num_classes, len(self.part_names)
        self.background = nn.Parameter(torch.randn(1, width))
        if o.prompt == "text":
            self.text = text_tower_of(cfg, self.backbone)
            self.prompts = PartPrompts(self.text.width, o.parts, o.context_tokens, o.ctx_shared)
        else:
            self.queries = nn.Parameter(torch.empty(self.num_parts + 1, width).normal_(std=0.02))
        self.decoder = build_decoder(o, width)
        self.neck = BNNeck(whole, num_classes)
        self.neck_parts = BNNeck(self.num_parts * width, num_classes)
        self.part_norm = PartNorm(self.num_parts, width)
        self.visibility = PartVisibility(self.num_parts, width)
        self._build_losses(whole, width)

    def _build_losses(self, whole: int, width: int) -> None:
        o = self.options
        self.triplet = build_part(LOSSES, o.train, "triplet")
        self.align = SpatialAlign(o.align_gain, o.align_smooth)
        self.attend = AttentionAlign()
        self.diversity = PartDiversity(o.div_weighting)
        self.focal = VisibilityFocal(o.vis_alpha, o.vis_gamma)
        sizes = {"loss_pcl_g": (whole, o.m_g), "loss_pcl_p": (self.num_parts * width, o.m_p)}
        self.banks: Any = nn.ModuleDict(
            {
                name: PrototypeMemory(self.num_classes, size, momentum, o.pcl_temperature, o.bank_update)
                for name, (size, momentum) in sizes.items()
                if name in self.active
            }
        )

    def load_pretrained(self) -> None:
        """CLIP's image tower, and its text tower where parts are asked for by texts."""
        text, prompts = (self.text, [self.prompts]) if self.options.prompt == "text" else (None, [])
        load_towers(self.cfg, self.backbone, text, prompts)

    def bound_to(self) -> dict[str, str]:
        """The grid: position embeddings of another may have the same shape and mean nothing."""
        return self.backbone.bound_to()

    @property
    def training_only(self) -> tuple[str, ...]:
        """Banks, classifiers, the neck of F_c, and what `test_embeddings` and `test_visibility` leave out."""
        norms = (r"neck\.norm\..*", r"part_norm\..*") if self.options.test_embeddings == "raw" else ()
        visibility = (r"visibility\..*",) if self.options.test_visibility in ("none", "even") else ()
        return (r"banks\..*", r"neck(_parts)?\.classifier\..*", r"neck_parts\.norm\..*", *norms, *visibility)

    @classmethod
    def explain_mismatch(cls, absent: list[str], reshaped: list[str]) -> str:
        """Heads and norms have a row for each part."""
        if any(name.startswith(("visibility.", "part_norm.")) for name in reshaped):
            return "it was trained with another grouping of the body into parts (method.parts)"
        return super().explain_mismatch(absent, reshaped)

    # ------------------------------------------------------------------ the model

    def part_queries(self) -> Tensor:
        """E [R, E]: background vector, text features of the whole person and of the parts (section 4.1.1)."""
        texts = self.prompts.encode(self.text) if self.options.prompt == "text" else self.queries
        return torch.cat([self.background, texts])

    def forward_features(self, images: Tensor, camids: Tensor | None = None, masks: Tensor | None = None) -> Features:
        """Everything before the necks; `masks` [B, K + 1, H/4, W/4] where they are known."""
        whole, tokens = self._whole_and_tokens(images, camids)
        queries, labels = self.part_queries(), self._patch_labels(masks)
        decoded = self.decoder(queries, tokens, labels)
        parts = decoded.rows[:, 2:]
        return Features(whole, tokens, queries, parts, decoded.attention, labels)

    def _whole_and_tokens(self, images: Tensor, camids: Tensor | None) -> tuple[Tensor, Tensor]:
        """F_g [B, E] and F [B, L, E]; of a backbone without texts its feature [B, C], and its tokens projected."""
        image = self.backbone(images, camids, tokens=True, blocks=self.backbone.part_levels)
        if self.has_text:
            return image.projected, image.projected_tokens
        return image.feature, self.text_space(self.backbone.part_tokens(image))

    see = forward_features  # the older name; removed in the next version

    def _patch_labels(self, masks: Tensor | None) -> Any:
        patch, stride = self.backbone.part_patch
        return None if masks is None else patch_labels(masks, patch // CELL, stride // CELL)

    def _necks(self, features: Features) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Normalised feature and logits [B, C], of F_g and of F_c."""
        if self.training:
            with torch.no_grad():
                self.part_norm(features.parts)  # no loss reads it, but the test features do: its statistics must follow
        return self.neck(features.whole), self.neck_parts(features.joint)

    # ------------------------------------------------------------------ training

    def stages(self) -> list[Stage]:
        """One stage, `train`; banks are filled before it and updated after every step."""
        o = self.options.train
        factor = rate_schedule(o)(o.lr)
        return [
            Stage(
                name="train",
                epochs=o.epochs,
                groups=self._groups(),
                losses=self._losses,
                weights={name: o.weights[name] for name in self.active},
                schedule=lambda epoch: factor(epoch - 1),  # the official schedule counts epochs from 0
                optimizer=optimiser(o.optimizer),
                prepare=self._fill_banks,
                after_step=self._update_banks,
            )
        ]

    def _groups(self) -> list[Group]:
        """Image tower, text tower, everything else. Weight decay is on all of it, biases and norms too.

        As in the official code, the background vector and a camera embedding are in no group and stay as they are.
        """
        o = self.options.train
        kept = [r"backbone\.", r"text\.", r"neck(_parts)?\.norm\.bias"]
        kept += [] if self.options.background_query == "learned" else ["background"]
        kept += [] if "loss_vis" in self.active else [r"visibility\."]
        kept += [] if "loss_id" in self.active else [r"neck(_parts)?\.classifier\."]
        reads_texts = self.options.decoder != "mask" or "loss_align" in self.active
        kept += [] if reads_texts else [r"prompts\.", "queries", "background"]
        tower = tower_pattern(self.backbone, self.backbone.part_levels, r"backbone\.(?!camera_embedding)", True)
        groups = rated(tower, o, o.lr * o.image_encoder_lr_mult)
        if o.text_encoder_lr_mult > 0 and self.options.prompt == "text" and reads_texts:
            groups += rated(r"text\..*", o, o.lr * o.text_encoder_lr_mult)
        return [*groups, *rated(rf"(?!{'|'.join(kept)}).*", o, o.lr)]

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        """The terms of eq. 19; loss_id and loss_tri are sums over F_g and F_c."""
        label, smoothing = batch["pid"], self.options.train.label_smoothing
        masks: Any = self._masks(batch) if self.needs_masks else None
        features = self.forward_features(batch["img"], batch["camid"], masks)
        (whole, whole_score), (joint, joint_score) = self._necks(features)
        remembered = self._remembered(features.whole, whole, features.joint, joint)
        batch["remembered"] = {name: feature.detach() for name, feature in remembered.items()}  # for _update_banks
        terms = {
            "loss_id": lambda: sum(
                F.cross_entropy(score, label, label_smoothing=smoothing) for score in (whole_score, joint_score)
            ),
            "loss_tri": lambda: self.triplet(features.whole, label) + self.triplet(features.joint, label),
            "loss_align": lambda: self.align(self._part_cosines(features), features.labels, masks.shape[-2:]),
            "loss_attn": lambda: self.attend.of_attention(features.attention, features.labels),
            "loss_pcl_g": lambda: self.banks["loss_pcl_g"](remembered["loss_pcl_g"], label),
            "loss_pcl_p": lambda: self.banks["loss_pcl_p"](remembered["loss_pcl_p"], label),
            "loss_div": lambda: self.diversity(features.parts),
            "loss_vis": lambda: self.focal(self.visibility(features.parts), visible_parts(masks)),
        }
        return {name: terms[name]() for name in self.active}

    def _masks(self, batch: dict) -> Tensor:
        height, width = (side // CELL for side in self.backbone.image_size)
        expected = (self.num_parts + 1, height, width)
        masks = batch.get("masks")
        if masks is None:
            raise DataError(
                "the batch has no part masks; give the data set masks, or train without them: method.bank global or "
                "none, and 0 for loss_align, loss_attn and loss_vis in method.train.weights"
            )
        if tuple(masks.shape[1:]) != expected:
            raise DataError(
                f"masks are {list(masks.shape)}, method.parts {self.options.parts!r} needs [B, {expected[0]}, "
                f"{height}, {width}]: background and {self.num_parts} parts; group the masks the same way"
            )
        return masks

    def _part_cosines(self, features: Features) -> Tensor:
        """[B, K + 1, h, w]: cosines of the patches with background and parts, without the whole person (eq. 5)."""
        without_person = torch.cat([features.queries[:1], features.queries[2:]])
        return cosine_maps(features.tokens, without_person).unflatten(2, self.backbone.level_grid)

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Two logits [B, C] and the two features before the necks, F_g [B, E] and F_c [B, K E]."""
        features = self.forward_features(images, camids)
        (_, whole_score), (_, joint_score) = self._necks(features)
        return [whole_score, joint_score], [features.whole, features.joint]

    # ------------------------------------------------------------------ memory banks (section 4.3)

    def _remembered(self, whole: Tensor, whole_bn: Tensor, joint: Tensor, joint_bn: Tensor) -> dict[str, Tensor]:
        """By bank, the features it holds: after the necks, or before them."""
        pair = (whole_bn, joint_bn) if self.options.pcl_on == "bn" else (whole, joint)
        return dict(zip(("loss_pcl_g", "loss_pcl_p"), pair))

    @torch.no_grad()
    def _fill_banks(self, data, device: torch.device) -> None:
        """Prototypes from the model as it starts: class tokens, and patches pooled by their part labels (eq. 17).

        Banks that a checkpoint has brought stay as they are.
        """
        if all(bank.is_filled for bank in self.banks.values()):
            return
        loader = data.cache_loader(self.batch_size) if self.options.bank_init == "plain" else data.train_loader
        results = each_batch(loader, lambda batch: (batch["pid"], self._initial_features(batch, device)))
        labels = torch.cat([pids for pids, _ in results]).to(device)
        for name, bank in self.banks.items():
            bank.fill(torch.cat([features[name].float() for _, features in results]), labels)

    def _initial_features(self, batch: dict, device: torch.device) -> dict[str, Tensor]:
        whole, tokens = self._whole_and_tokens(batch["img"].to(device), batch["camid"].to(device))
        features_of = {}
        if "loss_pcl_g" in self.banks:
            whole = self.neck.norm(whole) if self.options.pcl_on == "bn" else whole
            features_of["loss_pcl_g"] = F.normalize(whole.float())
        if "loss_pcl_p" in self.banks:
            labels = self._patch_labels(self._masks(batch).to(device)).flatten(2)
            joint = weighted_average_pool(tokens, labels[:, 1:]).flatten(1)  # [B, K E]
            # unlike the class token not brought to unit length: a person who is hardly visible counts little
            features_of["loss_pcl_p"] = self.neck_parts.norm(joint) if self.options.pcl_on == "bn" else joint
        return features_of

    def _update_banks(self, batch: dict) -> None:
        """After the step, with the features the step's losses saw (eq. 15, 18)."""
        for name, bank in self.banks.items():
            bank.update(batch["remembered"][name], batch["pid"])

    # ------------------------------------------------------------------ testing

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """`vector` F_g [B, E] and `parts` [B, K, E] of unit length, `visibility` [B, K]. Needs no masks."""
        features = self.forward_features(images, camids)
        whole, parts = (x.to(self.neck.norm.weight.dtype) for x in (features.whole, features.parts))
        if self.options.test_embeddings == "bn":
            whole, parts = self.neck.norm(whole), self.part_norm(parts)
        visibility = visibility_by(self.options.test_visibility, self.visibility(features.parts.float()))
        return Embedding(F.normalize(whole.float()), F.normalize(parts.float(), dim=2), visibility)

    @torch.no_grad()
    def attention_maps(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[str], Tensor]:
        """What the rows are called, and where they look: [B, R, h, w] (figure 5). Call in eval mode.

        Raises:
            ConfigError: `method.decoder` has no spatial maps.
        """
        attention = self.forward_features(images, camids).attention
        if attention is None:
            raise ConfigError(f"method.decoder {self.options.decoder!r} has no attention maps; hybrid, spa and wap do")
        return ["background", *PART_SCHEMES[self.options.parts]], attention.unflatten(2, self.backbone.level_grid)

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Visibility-weighted part distance (eq. 14), [Q, G]."""
        return self.named_distance()(query, gallery)

    def named_distance(self) -> Metric:
        """The part distance with `dist_metric` and `vis_floor`."""
        return Metric("parts", {"metric": self.options.dist_metric, "vis_floor": self.options.vis_floor})


def _active(options) -> list[str]:
    """Names of the losses that count, in the order of the weights."""
    banks = {"none": (), "global": ("loss_pcl_g",), "part": ("loss_pcl_p",), "both": ("loss_pcl_g", "loss_pcl_p")}
    off = {"loss_pcl_g", "loss_pcl_p"} - set(banks[options.bank])
    if options.decoder in ("sea", "mask"):  # no map that masks could teach
        off.add("loss_attn")
    return [name for name, weight in options.train.weights.items() if weight > 0 and name not in off]
