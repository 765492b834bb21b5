"""What a pretrained model knows: attributes by prompt and caption retrieval, each against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from pretraining.pool import labels_of
from pretraining.render import Scene, caption_of, draw_persona, render
from pretraining.texts import PHRASES, VALUES, RowTokenizer, prompts
from pretraining.trainer import encode_text, to_pixels

__all__ = ["Sample", "Scores", "score", "take_sample"]

ENSEMBLE = 24  # prompts averaged per attribute value


@dataclass(frozen=True)
class Sample:
    """Images uint8 [n, H, W, 3], their people's full captions, and attribute labels whether hidden or not."""

    images: np.ndarray
    captions: list[str]
    labels: dict[str, Tensor]


@dataclass(frozen=True)
class Scores:
    """Fractions in [0, 1]: macro accuracy per attribute, recall per occluder, caption recall in both directions."""

    attributes: dict[str, float]
    occluders: dict[str, float]
    retrieval: dict[str, float]


def take_sample(scene: Scene, pids: range, views: int = 1) -> Sample:
    """`views` images of each of `pids`, rendered now."""
    keys = [(pid, 100 + k) for pid in pids for k in range(views)]
    personas = [draw_persona(scene.seed, scene.group_size, pid) for pid, _ in keys]
    views = [render(scene, pid, k) for pid, k in keys]
    labels = labels_of(personas, [view.category or "none" for view in views])
    return Sample(np.stack([view.image for view in views]), [caption_of(p) for p in personas], labels)


@torch.no_grad()
def encode_images(model: CLIP, images: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> unit features [n, E]."""
    model.eval()
    parts = torch.from_numpy(images).split(100)
    return F.normalize(torch.cat([model.visual(to_pixels(part)) for part in parts]), dim=1)


@torch.no_grad()
def _classifier(model: CLIP, tokenize: RowTokenizer, attribute: str) -> Tensor:
    draw = np.random.default_rng(0)
    lines = [prompts(attribute, draw) for _ in range(ENSEMBLE)]
    flat = encode_text(model, *tokenize([line for group in lines for line in group]))
    return F.normalize(flat.view(ENSEMBLE, -1, flat.shape[1]).mean(dim=0), dim=1)  # [values, E]


def recalls(predicted: Tensor, label: Tensor) -> dict[int, float]:
    """Share of the images of each class that are right, for the classes that occur; labels below 0 do not count."""
    classes = [value for value in label.unique().tolist() if value >= 0]
    return {value: (predicted[label == value] == value).float().mean().item() for value in classes}


def macro_accuracy(predicted: Tensor, label: Tensor) -> float:
    """Mean of `recalls`."""
    return float(np.mean(list(recalls(predicted, label).values())))


@torch.no_grad()
def score(model: CLIP, tokenize: RowTokenizer, sample: Sample) -> Scores:
    """Attribute macro accuracy by prompt ensembles, and retrieval of each image's full caption among all."""
    image = encode_images(model, sample.images)
    predicted = {name: (image @ _classifier(model, tokenize, name).T).argmax(dim=1) for name in PHRASES}
    occluders = recalls(predicted.pop("occluder"), sample.labels["occluder"])
    attributes = {name: macro_accuracy(value, sample.labels[name]) for name, value in predicted.items()}
    text = encode_text(model, *tokenize(sample.captions))
    similarity = image @ text.T  # [n, n]
    retrieval = {}
    for direction, matrix in (("image to caption", similarity), ("caption to image", similarity.T)):
        better = (matrix > matrix.diagonal()[:, None]).sum(dim=1)
        retrieval |= {f"{direction} R@{k}": (better < k).float().mean().item() for k in (1, 10)}
    return Scores(attributes, {VALUES["occluder"][i]: value for i, value in occluders.items()}, retrieval)
