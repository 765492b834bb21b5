"""What the class token's heads look at alike, and how alike patches become: figure 3 of DPM++ (arXiv 2605.06637)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from occplug.backbones.tower import TransformerTower
from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.runs.candidates import Candidate, cameras_of, model_of
from occplug.utils.plotting import COLORS, STYLE, check_ending, save_figure

__all__ = ["HeadFigures", "draw_heads", "head_correlation", "head_figures", "patch_similarity"]

MARKERS = ("o", "s", "^", "D", "v")  # of lines, which differ in colour as well


@dataclass(frozen=True)
class HeadFigures:
    """Of one model, means over images.

    Args:
        title: of the model.
        heads: [K, K] correlation of the last block's heads, see :func:`head_correlation`.
        patches: of each block from the first, :func:`patch_similarity` of its patches.
    """

    title: str
    heads: Tensor
    patches: list[float]

    @property
    def mean_correlation(self) -> float:
        """Mean size of the entries beside the diagonal; nan with one head."""
        return float(self.heads[~torch.eye(len(self.heads), dtype=torch.bool)].abs().mean())


def head_correlation(scores: Tensor) -> Tensor:
    """Cosine of each two heads' scores of the class token for the patches, mean over images (figure 3a).

    Args:
        scores: [B, K, N] before the softmax, as the head diversity loss takes them.

    Returns: [K, K] float32, 1 on the diagonal.
    """
    rows = F.normalize(scores.float(), dim=2)
    return (rows @ rows.transpose(1, 2)).mean(dim=0)


def patch_similarity(patches: Tensor) -> float:
    """Cosine of each patch to the patch of its image that is most like it, mean over patches and images (figure 3b).

    Args:
        patches: [B, N, C], N at least 2.
    """
    rows = F.normalize(patches.float(), dim=2)
    similar = rows @ rows.transpose(1, 2)
    similar.diagonal(dim1=1, dim2=2).fill_(-2.0)
    return float(similar.amax(dim=2).mean())


@torch.no_grad()
def head_figures(candidate: Candidate, title: str, images: int) -> HeadFigures:
    """Figures of a model on queries of its first target, spread evenly.

    Raises:
        ConfigError: a backbone without class token, or no image.
    """
    if images < 1:
        raise ConfigError(f"--images is {images}; it must be at least 1")
    data = DataManager(candidate.cfg, trains=False)
    target = data.targets[0]
    method: Any = model_of(candidate).eval()
    rows = cameras_of(candidate, target)
    tower = getattr(method.backbone, "clip", method.backbone)  # a hybrid's CLIP
    if not isinstance(tower, TransformerTower):
        raise ConfigError(f"{title}: {candidate.cfg.backbone.name} has no class token whose heads could be compared")
    queries = data.test_loader[target]["query"].dataset
    places = torch.linspace(0, len(queries) - 1, min(images, len(queries))).round().long()
    batch = queries.collate([queries[index] for index in places.tolist()])
    data.close()
    blocks = tuple(range(1, tower.depth + 1))
    found = tower(batch["img"], rows(batch["camid"]), blocks=blocks, class_scores=True)
    similar = [patch_similarity(found.blocks[block][:, tower.num_prefix :]) for block in blocks]
    return HeadFigures(title, head_correlation(found.class_scores), similar)


def draw_heads(models: list[HeadFigures], file: Path) -> Path:
    """Draw the correlations of each model's heads and a line a model over the blocks; equal bytes for equal figures.

    Raises:
        ConfigError: another ending than .pdf, .svg, .png or .jpg, or more models than there are lines to tell apart.
        OutputError: the file cannot be written.
    """
    check_ending(file)
    if len(models) > len(MARKERS):
        raise ConfigError(f"{len(models)} models are given; a figure holds {len(MARKERS)}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.0 * len(models) + 3.2, 2.5), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        *maps, lines = figure.subplots(1, len(models) + 1, width_ratios=[1.0] * len(models) + [1.5])
        for axis, model in zip(maps, models):
            shown = axis.imshow(model.heads.numpy(), vmin=-1, vmax=1, cmap="PuOr", interpolation="nearest")
            axis.set_title(f"{model.title}\nmean size {model.mean_correlation:.2f}", fontsize=8)
            axis.set(xlabel="head", xticks=[], yticks=[])
        figure.colorbar(shown, ax=maps, shrink=0.7, label="correlation")
        for model, color, marker in zip(models, COLORS, MARKERS):
            numbers = range(1, len(model.patches) + 1)
            lines.plot(numbers, model.patches, color=color, marker=marker, markersize=4, label=model.title)
        lines.set(xlabel="block", ylabel="similarity of the most alike patches")
        lines.legend(frameon=False)
        return save_figure(figure, file)
