"""What testing a method costs beside CLIP-ReID."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.comparison import Comparison
from occplug.utils.measuring import measured

__all__ = ["ag_reid_test"]


def ag_reid_test(quick: bool) -> Comparison:
    """Embedding a batch with AG-ReID against CLIP-ReID: its attribute parts serve training alone."""
    backbone, batch = ("clip_vit_tiny", 64) if quick else ("clip_vit_b16", 16)
    theirs, ours = (measured(_embedding, name, backbone, batch, repeats=5) for name in ("clip_reid", "ag_reid"))
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"ag_reid_test: embeddings of {batch} images, {backbone} (random weights)",
        "CLIP-ReID",
        theirs,
        ours,
        f"largest difference {difference:.1e}; the ratio should be 1",
    )


def _embedding(name: str, backbone: str, batch: int) -> Callable:
    from occplug.config import default_config
    from occplug.method import build_method

    torch.manual_seed(0)
    cfg = default_config(name, backbone, ["backbone.weights", "none"])
    method = build_method(cfg, 702, 8).eval()
    images = torch.randn(batch, 3, cfg.data.height, cfg.data.width, generator=torch.Generator().manual_seed(1))
    return lambda: method.embed(images).vector.numpy()
