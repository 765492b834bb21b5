"""Masked prototype learning: what DPM and DPM++ train on a backbone's feature, and how they compare images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from occplug.backbones import VisionFeatures
from occplug.embedding import Embedding
from occplug.evaluation import MASK_PLACES, Metric, masked_cosine
from occplug.heads.bnneck import BNNeck
from occplug.heads.mask_generator import POOLS, MaskGenerator
from occplug.losses import AngularMargin, HeadDiversity, IgnoringCrossEntropy
from occplug.registry import LOSSES, build_part

if TYPE_CHECKING:
    from occplug.stages.patch_transfer import Transfer

__all__ = ["MASK_CHOICES", "MaskedMetric"]


# Of the keys of a method that has such a metric
MASK_CHOICES = {"mask": ("none", *MASK_PLACES), "mask_pool": tuple(POOLS), "neck": ("before", "after")}


class MaskedMetric(nn.Module):
    r"""Prototypes W, a mask over their dimensions for each image, and the losses on both.

    DPM (arXiv 2207.09046) and DPM++ (arXiv 2605.06637), eq. 8-10 and 14-21, with f a feature, n = BN(f):

        loss_id    CE(n W^T)
        loss_mask  angular-margin CE of the masked cosines of n and W
        loss_tri   batch-hard triplet on f
        loss_hem   diversity of the last block's heads

    Args:
        width: d of f; W starts Xavier-uniform [num_classes, d].
        num_classes: training identities.
        generator: of the masks, or None for none (then no loss_mask).
        options: the method's config node: mask (its place, see :func:`masked_cosine`), hem (with loss_hem), neck (what
            is tested: "before" the batch norm, as in the official code, or "after" it, which masks are trained on),
            test_mask (False: masks are trained and have no part in the test), and of train scale, angular_margin,
            margin (of the triplet; None: soft) and label_smoothing (of loss_id; never of loss_mask).
    """

    def __init__(self, width: int, num_classes: int, generator: MaskGenerator | None, options):
        super().__init__()
        losses = options.train
        self.neck = BNNeck(width, num_classes)
        nn.init.xavier_uniform_(self.neck.classifier.weight)
        self.generator, self.place, self.hem = generator, options.mask, options.hem
        self.tested, self.test_mask = options.neck, options.test_mask
        self.identity = IgnoringCrossEntropy(losses.label_smoothing)
        self.margin = AngularMargin(losses.scale, losses.angular_margin)
        self.triplet = build_part(LOSSES, losses, "triplet")
        self.diversity = HeadDiversity()

    @property
    def levels(self) -> tuple[int, ...]:
        """Blocks whose output the masks need."""
        return () if self.generator is None else self.generator.levels

    def bound_to(self) -> dict[str, str]:
        """The mask generator's blocks, as `Method.bound_to`: masks from others have the same shape and mean nothing."""
        return {} if self.generator is None else {"method.mask_levels": str(list(self.levels))}

    @property
    def training_only(self) -> tuple[str, ...]:
        """As `Method.training_only`, for this module named `metric`: prototypes, and parts that are not tested."""
        neck = (r"metric\.neck\.norm\..*",) if self.tested == "before" else ()
        mask = () if self.test_mask else (r"metric\.generator\..*",)
        return (r"metric\.neck\.classifier\..*", *neck, *mask)

    @property
    def names(self) -> list[str]:
        """Names of the losses."""
        masked = [] if self.generator is None else ["loss_mask"]
        return ["loss_id", "loss_tri", *masked, *(["loss_hem"] if self.hem else [])]

    def losses(
        self,
        feature: Tensor,
        features: VisionFeatures,
        labels: Tensor,
        transfer: Transfer | None = None,
        triplet_on: tuple[Tensor, ...] = (),
        matched: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses of B images.

        Args:
            feature: f [B, d].
            seen: the backbone's answer with blocks `levels`, and class scores for loss_hem.
            transfer: what was mixed into the images.
            triplet_on: features of the triplet loss, which is summed over them; f alone if empty.
            matched: [B, e] and [C, e], what is masked and matched in place of n and W.
        """
        normalised, logits = self.neck(feature)
        ignored = None if transfer is None else transfer.ignored(labels)
        ineligible = [] if transfer is None else [transfer.ineligible(labels)]
        terms = {
            "loss_id": self.identity(logits, labels, ignored),
            "loss_tri": sum(self.triplet(f, labels, *ineligible) for f in triplet_on or (feature,)),
        }
        if self.generator is not None:
            vectors, prototypes = matched or (normalised, self.neck.classifier.weight)
            cosine = masked_cosine(vectors, self.generator(features.blocks), prototypes, self.place)
            terms["loss_mask"] = self.margin(cosine, labels, ignored)
        if self.hem:
            terms["loss_hem"] = self.diversity(features.class_scores)
        return terms

    def embedding(self, vector: Tensor, features: VisionFeatures) -> Embedding:
        """`vector` [B, e], through the neck's norm if so asked, with its mask."""
        generator = self.generator if self.test_mask else None
        mask = None if generator is None else generator(features.blocks).float()
        return Embedding((self.neck.norm(vector) if self.tested == "after" else vector).float(), mask=mask)

    @property
    def squared_distance(self) -> bool:
        """As `Method.squared_distance`: angles are plain; the cosine distance is half a squared one."""
        return self.generator is None or not self.test_mask

    def distances(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G]: angles in radians under the *query's* masks; without masks the cosine distance."""
        return self.named_distance()(query, gallery)

    def named_distance(self) -> Metric:
        """The distance as data."""
        masked = self.generator is not None and self.test_mask
        return Metric("masked", {"place": self.place}) if masked else Metric("cosine")
