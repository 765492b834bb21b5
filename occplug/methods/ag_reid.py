"""AG-ReID: prompts about attributes whose learnt tokens also serve as pseudo-labels.

Zhi, Yang, Zhang: "Attribute Guidance With Inherent Pseudo-label For Occluded Person Re-identification", ECAI 2025,
arXiv 2508.04998. No code is public; where the paper leaves a choice, a key of the config says which one is taken.

Stage 1 (cross-modal alignment) learns prompts whose tokens stand among words about attributes, as CLIP-ReID learns its
own, and an attribute encoder that predicts an identity's tokens from the feature of one image.
Stage 2 (dual guidance) is CLIP-ReID's, and pulls the tokens predicted from each image towards its identity's, except
where they match badly: there the image is probably occluded (noise mask).
Testing needs the image tower alone: the model and its cost are CLIP-ReID's.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor, nn

from occplug.backbones.text_side import text_architecture
from occplug.errors import ConfigError
from occplug.heads import AttributeEncoder
from occplug.losses import AttributeAlign, noise_threshold
from occplug.method import Stage
from occplug.methods._clip import ALIGNMENT, FINETUNING, PROMPTS, SPT, TESTING, CLIPMethod
from occplug.prompts import parse_template
from occplug.registry import METHODS
from occplug.stages import CLEAN, Pair, prompt_alignment

__all__ = ["AGReID"]

log = logging.getLogger(__name__)


@METHODS.register_module("ag_reid")
class AGReID(CLIPMethod):
    """AG-ReID; with `method.attributes.enabled: False` its attribute prompts alone ("AT" in the paper's table 4).

    Arguments as `CLIPMethod`'s.
    """

    defaults = {
        "template": "attribute_d",  # a name in occplug.prompts.TEMPLATES, or a text; each stand-alone X is learnt
        **TESTING,
        "attributes": {
            "enabled": True,  # False: neither attribute encoder nor loss_attr
            "width": 384,  # of the attribute encoder's self-attention
            "heads": 6,
            "layers": 4,
            "reduction": "sum",  # of loss_attr over the batch: sum (eq. 8 and 14 as printed) or mean
            "detach_target": True,  # False: loss_attr of stage 1 moves the tokens too (eq. 8 and 9 taken literally)
            "train_in_stage2": True,  # False: the attribute encoder is frozen in stage 2
        },
        "noise_mask": {
            "method": "otsu",  # otsu; p50, p75, p90 (percentile); a number as text; none (gamma = -1, holistic data)
            "scope": "batch",  # cosines that give gamma: of the batch, or of the previous epoch
        },
        "stage1": {
            **ALIGNMENT,
            "batch_size": 32,
            "warmup_lr": 1e-6,
            # loss_attr: lambda. With detach_target it scales the encoder's gradient alone, so under Adam it acts only
            # against the weight decay
            "weights": {"loss_i2t": 1.0, "loss_t2i": 1.0, "loss_attr": 1.0},
        },
        "stage2": {
            **FINETUNING,
            # loss_i2t: L_CE, loss_attr: beta. The paper prints 1 for loss_id; 0.25 is CLIP-ReID's code for the ViT
            "weights": {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t": 1.0, "loss_attr": 0.01},
        },
        **SPT,
    }

    in_one_stage = {"attributes.enabled": False}
    choices = {
        **CLIPMethod.choices,
        "noise_mask.scope": ("batch", "epoch"),
        "attributes.reduction": ("sum", "mean"),
    }

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for a template, mask, or encoder that cannot be built."""
        CLIPMethod.check(cfg)
        parse_template(cfg.method.template)
        if cfg.prompts.source == "joint":
            raise ConfigError("prompts.source is 'joint', but ag_reid learns its attributes in a stage of their own")
        noise_threshold(cfg.method.noise_mask.method, "method.noise_mask.method")
        a = cfg.method.attributes
        if min(a.width, a.heads, a.layers) < 1 or a.width % a.heads:
            raise ConfigError(
                f"method.attributes has width {a.width}, {a.heads} heads and {a.layers} layers; each must be at least "
                "1, and width a multiple of heads"
            )

    def __init__(self, cfg, num_classes: int, num_cameras: int):
        super().__init__(cfg, num_classes, num_cameras)
        self.add_prompts()
        a = self.options.attributes
        if a.enabled:
            slots = len(self.prompts.slots)
            feature = text_architecture(cfg, self.backbone)["embed_dim"]
            self.attributes = AttributeEncoder(feature, self.text.width, slots, a.width, a.heads, a.layers)
            self.align = AttributeAlign(a.reduction)  # eq. 8
            self.guidance = _Guidance(AttributeAlign(a.reduction, self.options.noise_mask.method), self.options)

    @property
    def training_only(self) -> tuple[str, ...]:
        """CLIP-ReID's, and the attribute side."""
        return (*super().training_only, r"(attributes|guidance)\..*")

    @classmethod
    def explain_mismatch(cls, absent: list[str], reshaped: list[str]) -> str:
        """The attribute encoder is there or not, in one of many sizes."""
        if absent and not reshaped and all(name.startswith(("attributes.", "guidance.")) for name in absent):
            return "of the file and this run one has method.attributes.enabled True and the other has not"
        if any(name.startswith("attributes.") for name in reshaped):
            return "it was trained with another attribute encoder (method.attributes)"
        return super().explain_mismatch(absent, reshaped)

    def stages(self) -> list[Stage]:
        """Cross-modal alignment and dual guidance."""
        pair = Pair(partial(self.encode_prompts, self.prompts))  # eq. 6
        names = ["loss_id", "loss_tri", "loss_i2t"]
        if not self.options.attributes.enabled:
            alignment = prompt_alignment(self.encode_images, [pair], PROMPTS, self.options.stage1)
            return self.earlier.left_to_train(
                [alignment, *self.occlusion_stages(), self.finetuning(self._losses, names)]
            )
        alignment = prompt_alignment(
            self.encode_images,
            [pair],
            PROMPTS + r"|attributes\..*",
            self.options.stage1,
            further={"loss_attr": self._alignment_loss},
        )
        frozen = "" if self.options.attributes.train_in_stage2 else "attributes"
        names.append("loss_attr")
        stage2 = self.finetuning(self._losses, names, frozen)
        return self.earlier.left_to_train([alignment, *self.occlusion_stages(), stage2])

    def close_epoch(self) -> None:
        """What the second stage does after each epoch; the noise mask's counts among it."""
        super().close_epoch()
        if self.options.attributes.enabled:
            self.guidance.close_epoch()

    def _alignment_loss(self, batch: dict) -> Tensor:
        """L_attrA of stage 1, eq. 7 and 8."""
        pseudo_labels = self.prompts.context[batch["pid"]]  # [B, r, W]
        if self.options.attributes.detach_target:
            pseudo_labels = pseudo_labels.detach()
        return self.align(self.attributes(batch[CLEAN]), pseudo_labels)

    def _losses(self, batch: dict) -> dict[str, Tensor]:
        """Terms of stage 2's total, eq. 15."""
        labels, transfer = batch["pid"], self.mixed_into(batch)
        scores, features = self.outputs(batch["img"], batch["camid"], transfer)
        image = features[-1]  # [B, E]
        losses = self.identity_losses(scores, features, labels, transfer)  # eq. 11 and 12
        losses["loss_i2t"] = self.text_loss(image, labels, transfer=transfer)  # eq. 10
        if self.options.attributes.enabled:
            losses["loss_attr"] = self._guidance_loss(self.in_text_space(image), labels)
        return losses

    def _guidance_loss(self, image: Tensor, labels: Tensor) -> Tensor:
        """L_attrG, eq. 13 and 14."""
        return self.guidance(self.attributes(image), self.prompts.context[labels].detach())


class _Guidance(nn.Module):
    """The masked alignment, with the threshold of its scope and a log line an epoch.

    Attributes:
        gamma: buffer, threshold from the cosines of the previous epoch; infinite before there was one (each batch then
            gives its own). In the state dict, so that a resumed run masks alike.
    """

    def __init__(self, align: AttributeAlign, options):
        super().__init__()
        self.align: AttributeAlign = align
        self.name, self.scope = options.noise_mask.method, options.noise_mask.scope
        self.gamma: Tensor
        self.register_buffer("gamma", torch.tensor(float("inf")))
        self._seen: list[tuple[Tensor, Tensor]] = []  # (cosines [n, r], gamma) of each batch of this epoch

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        cosine = self.align.cosines(predicted, target)
        gamma = self.align.gamma(cosine)
        if self.scope == "epoch":
            gamma = torch.where(self.gamma.isinf(), gamma, self.gamma)
        self._seen.append((cosine.detach(), gamma))
        return self.align.reduce(cosine, gamma)

    def close_epoch(self) -> None:
        """Log what the mask did in this epoch and keep the threshold for the next."""
        cosines = torch.cat([cosine for cosine, _ in self._seen])
        kept = torch.cat([self.align.kept(cosine, gamma) for cosine, gamma in self._seen])
        gammas = torch.stack([gamma for _, gamma in self._seen])
        log.info(
            "noise mask %s: gamma %.4f, %.1f %% of the pairs kept, mean cosine %.4f",
            self.name,
            gammas.mean().item(),
            100 * kept.float().mean().item(),
            cosines.mean().item(),
        )
        if self.scope == "epoch":
            self.gamma.copy_(self.align.gamma(cosines))
        self._seen.clear()
