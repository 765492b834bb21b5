"""CLIP-ReID: two-stage learning of identity prompts, then of the image tower.

Li, Sun, Li: "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text Labels",
AAAI 2023, arXiv 2211.13977. Where the paper and its official code differ, this follows the code, which produced the
published numbers (learning-rate warm-up of stage 1, ID loss weighted 0.25 for the ViT, SupCon over all columns).

Stage 1 trains four learnable tokens per identity against cached image features, both towers frozen.
Stage 2 trains the image tower with ID, triplet and image-to-text losses against the identities' fixed text features.
With `method.prompts: False` only stage 2 remains, without the image-to-text loss: the papers' baseline.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from occplug.method import Stage
from occplug.methods._clip import ALIGNMENT, FINETUNING, PROMPTS, SPT, TESTING, CLIPMethod
from occplug.prompts import parse_template
from occplug.registry import METHODS
from occplug.stages import Pair, prompt_alignment

__all__ = ["CLIPReID"]


@METHODS.register_module("clip_reid")
class CLIPReID(CLIPMethod):
    """CLIP-ReID and its baseline; arguments as `CLIPMethod`'s."""

    defaults = {
        "prompts": True,  # False: the baseline, stage 2 alone without the image-to-text loss
        "template": "A photo of a {4} person.",  # each stand-alone X a learnable token per identity; {n} for n of them
        **TESTING,
        "stage1": {**ALIGNMENT, "weights": {"loss_i2t": 1.0, "loss_t2i": 1.0}},
        "stage2": {**FINETUNING, "weights": {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t": 1.0}},
        **SPT,
    }

    in_one_stage = {"prompts": False}

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for a template, or values of the stages, that cannot be trained."""
        CLIPMethod.check(cfg)
        if cfg.method.prompts:
            parse_template(cfg.method.template, "XY")

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__(cfg, num_classes, num_cameras)
        if self.options.prompts:
            self.add_prompts()

    @classmethod
    def has_prompts(cls, options) -> bool:
        """Whether `options` ask for texts."""
        return options.prompts

    def stages(self) -> list[Stage]:
        """Prompt learning where there are prompts, SPT's saliency stage where asked for, then fine-tuning."""
        names = ["loss_id", "loss_tri", *(["loss_i2t"] if self.options.prompts else [])]
        stages = [*self.occlusion_stages(), self.finetuning(self._losses, names)]
        if "stage1" not in self.stage_names(self.options, self.is_joint):
            return self.earlier.left_to_train(stages)
        pair = Pair(partial(self.encode_prompts, self.prompts))
        stage1 = prompt_alignment(self.encode_images, [pair], PROMPTS, self.options.stage1)
        return self.earlier.left_to_train([stage1, *stages])

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        """Stage 2: ID and triplet losses, and cross entropy over the similarities to the identities' texts."""
        labels, transfer = batch["pid"], self.mixed_into(batch)
        scores, features = self.outputs(batch["img"], batch["camid"], transfer)
        losses = self.identity_losses(scores, features, labels, transfer)
        if self.options.prompts:
            losses["loss_i2t"] = self.text_loss(features[-1], labels, transfer=transfer)
        return losses
