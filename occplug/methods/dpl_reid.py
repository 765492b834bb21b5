"""DPL-ReID: dual prompts, learnt on whole and on occluded images.

Ji, Qiao, Feng, Wei: "Dual-Prompt CLIP with Hybrid Visual Encoders for Occluded Person Re-Identification",
arXiv 2605.19527. The paper's formulas are not public; this is occplug's reading of what is, on top of CLIP-ReID, with
a key for each choice that was open. Its results are not the authors' numbers.

Three parts, each switched on its own:
* Dual-PL (`method.prompts: dual`): every identity has two texts, one of the whole person and one of the person behind
  something. Stage 1 aligns the first with the training images and the second with occluded copies of them; in stage 2
  both sets of text features supervise the image tower.
* RWOA (`data.transforms`): the augmentation `rwoa`, in place of random erasing.
* WGFF (`backbone.name: wgff`): CLIP's image tower gated by an LSNet.

The test needs images alone: texts belong to training identities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occplug.config.ranges import SHARE
from occplug.errors import ConfigError
from occplug.method import Stage
from occplug.methods._clip import ALIGNMENT, FINETUNING, PROMPTS, SPT, TESTING, CLIPMethod
from occplug.prompts import parse_template
from occplug.registry import METHODS, TRANSFORMS, get, names
from occplug.stages import CLEAN, OCCLUDED, OccludedViews, Pair, prompt_alignment

__all__ = ["DPLReID"]

BY_IMAGE = ("by_image", "occluded_both")  # modes of `method.stage2.i2t` in which an image's occlusion decides
SETS = {"dual": ("full", "occ"), "full": ("full",), "occ": ("occ",), "none": ()}  # of texts, by `method.prompts`


def _occluders() -> list[str]:
    """Names of the transforms that put something before the person."""
    return [name for name in names(TRANSFORMS) if getattr(get(TRANSFORMS, name), "occludes", False)]


@METHODS.register_module("dpl_reid")
class DPLReID(CLIPMethod):
    """DPL-ReID, and CLIP-ReID as its base (`prompts: full`); arguments as `CLIPMethod`'s."""

    defaults = {
        "prompts": "dual",  # sets of texts: dual, full, occ or none
        "template_full": "A photo of a X X X X person.",  # each X a learnable token per identity
        "template_occ": "A photo of a X X X X person occluded by Y Y Y Y.",  # each Y one for what occludes
        "share_id_tokens": False,  # both templates have the same tokens X
        "occ_tokens": "per_id",  # tokens Y: per_id, or shared by all identities
        **TESTING,
        "stage1": {
            **ALIGNMENT,
            "occluder": "rwoa",  # augmentation that makes the occluded images
            "occ_prob": 0.5,  # share of the images it is tried on
            "occ_views": 1,  # occluded copies of each image, used in turn
            "pairing": "both",  # each image serves both sets; split: occluded ones the occ set, others the full set
            "full_images": "clean",  # that the full set is aligned with: clean or occluded
            "weights": {"loss_i2t_full": 1.0, "loss_t2i_full": 1.0, "loss_i2t_occ": 1.0, "loss_t2i_occ": 1.0},
        },
        "stage2": {
            **FINETUNING,
            # dual: both sets; fused: their mean; by_image: occluded images the occ set, others the full; occluded_both:
            # occluded images both sets, others the full
            "i2t": "dual",
            "weights": {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t_full": 1.0, "loss_i2t_occ": 1.0},
        },
        **SPT,
    }
    in_one_stage = {"prompts": "none"}
    renamed_tensors = {"prompts_full.": "prompts.full.", "prompts_occ.": "prompts.occ."}
    choices = {
        **CLIPMethod.choices,
        "prompts": tuple(SETS),
        "occ_tokens": ("per_id", "shared"),
        "stage1.pairing": ("both", "split"),
        "stage1.full_images": ("clean", "occluded"),
        "stage2.i2t": ("dual", "fused", *BY_IMAGE),
        "stage1.occluder": _occluders,
    }
    ranges = {**CLIPMethod.ranges, "stage1.occ_prob": SHARE, "stage1.occ_views": (1, 1000)}

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for values and combinations that cannot be trained."""
        CLIPMethod.check(cfg)
        _check_sets(cfg.method)
        if cfg.prompts.source == "joint" and cfg.method.stage2.i2t != "dual":
            raise ConfigError(
                f"method.stage2.i2t is {cfg.method.stage2.i2t!r}, which needs fixed texts; with prompts.source 'joint' "
                "only 'dual' works"
            )

    @staticmethod
    def extras(cfg) -> tuple[str, ...]:
        """The occluder's mask, where it decides which texts an image has; patch transfer's entries."""
        by_image = cfg.method.prompts == "dual" and cfg.method.stage2.i2t in BY_IMAGE
        return (("occlusion",) if by_image else ()) + CLIPMethod.extras(cfg)

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__(cfg, num_classes, num_cameras)
        self.sets = SETS[self.options.prompts]
        for kind in self.sets:
            self.add_prompts(kind, shared=self.options.occ_tokens == "shared")
        if self.options.share_id_tokens and len(self.sets) == 2:
            self.prompts["occ"].context = self.prompts["full"].context

    @classmethod
    def has_prompts(cls, options) -> bool:
        """Whether `options` ask for texts."""
        return options.prompts != "none"

    # ------------------------------------------------------------------ stage 1

    def stages(self) -> list[Stage]:
        """Prompt learning for all sets of texts at once, SPT's saliency stage where asked for, then fine-tuning."""
        names = ["loss_id", "loss_tri", *self._text_losses()]
        stage2 = self.finetuning(self._losses, names)
        first = [self._stage1()] if "stage1" in self.stage_names(self.options, self.is_joint) else []
        return self.earlier.left_to_train([*first, *self.occlusion_stages(), stage2])

    def _stage1(self) -> Stage:
        o = self.options.stage1
        split = o.pairing == "split" and len(self.sets) == 2
        full_images = OCCLUDED if o.full_images == "occluded" else CLEAN
        pairs = {
            "full": Pair(self._encoder("full"), "_full", full_images, only=False if split else None),
            "occ": Pair(self._encoder("occ"), "_occ", OCCLUDED, only=True if split else None),
        }
        chosen = [pairs[kind] for kind in self.sets]
        needs_copies = any(pair.images == OCCLUDED for pair in chosen)
        views = OccludedViews(o.occluder, o.occ_prob, o.occ_views) if needs_copies else None
        return prompt_alignment(self.encode_images, chosen, PROMPTS, o, views)

    def _encoder(self, kind: str):
        return lambda labels: self.encode_prompts(self.prompts[kind], labels)

    # ------------------------------------------------------------------ stage 2

    def _text_losses(self) -> list[str]:
        fused = len(self.sets) == 2 and self.options.stage2.i2t == "fused"
        return ["loss_i2t_full"] if fused else [f"loss_i2t_{kind}" for kind in self.sets]

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        """L_id, L_tri and the image-to-text terms, each over the images that the mode gives it."""
        labels, transfer = batch["pid"], self.mixed_into(batch)
        scores, features = self.outputs(batch["img"], batch["camid"], transfer)
        losses = self.identity_losses(scores, features, labels, transfer)
        image = features[-1]  # [B, E]
        mode = self.options.stage2.i2t if len(self.sets) == 2 else "dual"
        if mode == "fused":
            full, occ = self.text_features_by_kind.values()
            return losses | {"loss_i2t_full": self.text_loss(image, labels, (full + occ) / 2, transfer)}
        for kind in self.sets:
            if mode in BY_IMAGE:
                chosen = self._has_text(kind, mode, batch, transfer)
                term = self.text_loss(image, labels, None, transfer, reduction="none", kind=kind)
                losses[f"loss_i2t_{kind}"] = (term * chosen).mean()
            else:
                losses[f"loss_i2t_{kind}"] = self.text_loss(image, labels, None, transfer, kind=kind)
        return losses

    @staticmethod
    def _has_text(kind: str, mode: str, batch: dict, transfer) -> Tensor:
        """[B] bool: whether an image is compared with the texts `kind`, by its occlusion."""
        occluded = batch["occlusion"].flatten(1).amax(dim=1) > 0
        occluded = occluded if transfer is None else occluded | transfer.mixed
        if kind == "occ":
            return occluded
        return torch.ones_like(occluded) if mode == "occluded_both" else ~occluded


def _check_sets(options) -> None:
    """The templates of the sets that `options.prompts` names, and what sharing their tokens needs."""
    slots = {
        kind: parse_template(options[f"template_{kind}"], "XY", key=f"method.template_{kind}").slots
        for kind in SETS[options.prompts]
    }
    counts = {kind: len(positions["X"]) for kind, positions in slots.items()}
    if options.share_id_tokens and len(set(counts.values())) == 2:
        raise ConfigError(
            f"method.share_id_tokens is True, but template_full has {counts['full']} tokens X and template_occ "
            f"{counts['occ']}; give both as many"
        )
    if options.occ_tokens == "shared" and "occ" in slots and not slots["occ"]["Y"]:
        raise ConfigError("method.occ_tokens is 'shared', but method.template_occ has no token Y to share")
