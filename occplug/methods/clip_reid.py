"""CLIP-ReID: two-stage learning of identity prompts, then of the image tower.

Li, Sun, Li: "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text Labels",
AAAI 2023, arXiv 2211.13977. Where the paper and its official code differ, this follows the code, which produced the
published numbers (learning-rate warm-up of stage 1, ID loss weighted 0.25 for the ViT, SupCon over all columns).

Stage 1 trains four learnable tokens per identity against cached image features, both towers frozen.
Stage 2 trains the image tower with ID, triplet and image-to-text losses against the identities' fixed text features.
With `method.prompts: False` only stage 2 remains, without the image-to-text loss: the papers' baseline.
Both stages are parts that other methods use too: `prompt_alignment` and `CLIPTuning` in `occplug.stages`.
"""

from __future__ import annotations

from occplug.method import Stage
from occplug.registry import METHODS
from occplug.stages import CLIPTuning, prompt_alignment

__all__ = ["CLIPReID"]


@METHODS.register_module("clip_reid")
class CLIPReID(CLIPTuning):
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

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__(cfg, num_classes, num_cameras, prompts=cfg.method.prompts)

    def stages(self) -> list[Stage]:
        """Prompts against cached image features, then the image tower; of the baseline only the latter."""
        if not self.options.prompts:
            return [self.tuning_stage()]
        stage1 = prompt_alignment(self._encode_images, self._encode_prompts, r"prompts\.context", self.options.stage1)
        return [stage1, self.tuning_stage()]
