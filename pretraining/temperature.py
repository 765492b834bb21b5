"""The learnt temperature, folded into the projections of the weights that are written.

Methods use raw products `image @ text.T` without a logit scale. That is right for OpenAI's CLIP, whose features have
norms of about 10 and 10 and whose logit scale is 100. A CLIP trained on unit features has whatever norms it has.
"""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from torch import Tensor

from pretraining.trainer import encode_text, to_pixels

__all__ = ["fold_logit_scale", "mean_norms"]


@torch.no_grad()
def mean_norms(model: CLIP, images: Tensor, rows: Tensor, ends: Tensor) -> tuple[float, float]:
    """Mean norm of the projected image features and of the text features.

    Args:
        images: uint8 [n, H, W, 3].   rows, ends: tokenised texts, as RowTokenizer returns them.
    """
    was_training = model.training
    model.eval()
    image, text = model.visual(to_pixels(images)), encode_text(model, rows, ends, normalize=False)
    model.train(was_training)
    return image.norm(dim=1).mean().item(), text.norm(dim=1).mean().item()


def fold_logit_scale(
    state: dict[str, Tensor], image_norm: float, text_norm: float, image_target: float
) -> dict[str, Tensor]:
    """Scale both projections so that raw products are what training saw; cosines do not change.

    Args:
        state: open_clip layout.   image_norm, text_norm: mean norms of its features.
        image_target: mean norm the image features get (margins of triplet losses act on it); the text features get
            logit scale / image_target.
    """
    text_target = state["logit_scale"].exp().item() / image_target
    scaled = {"visual.proj": image_target / image_norm, "text_projection": text_target / text_norm}
    return state | {key: state[key] * factor for key, factor in scaled.items()}
