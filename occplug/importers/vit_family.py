"""Checkpoints of the official TransReID, DPM and SPT code, which share the names of one ImageNet ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from occplug.backbones import ViT
from occplug.backbones.position import patch_grid
from occplug.backbones.vit import SIZES
from occplug.config import default_config
from occplug.embedding import Embedding
from occplug.errors import ConfigError
from occplug.evaluation import cosine_distance
from occplug.heads import SaliencyNet
from occplug.importers.report import Composed, load_renamed, most_common, official_name
from occplug.method import Method, build_method
from occplug.utils.keys import note_renamed
from occplug.utils.tensors import read_tensors

__all__ = ["SaliencyModel", "load_dpm", "load_spt_reid", "load_spt_sps", "load_transreid"]

# ours, official
_TABLE = (
    ("backbone.visual.", "base."),
    ("metric.neck.norm.", "bottleneck."),
    ("metric.neck.classifier.", "classifier."),
    ("metric.generator.convolutions.", "base.ConvLayer."),
    ("metric.generator.linear.", "base.attfc."),
)
_SPS_TABLE = (
    ("net.backbone.visual.", "base."),
    ("net.neck.norm.", "bottleneck."),
    ("net.neck.classifier.", "classifier."),
    ("net.decision.", "base.mixfc."),
)
_CAMERAS = "base.sie_embed"
_POSITIONS = "base.pos_embed"
_UNUSED = ("base.fc.weight", "base.fc.bias")  # 1000 ImageNet classes; the official code never reads them
_LEVELS = [2, 4, 10, 12]  # order of the channels in both official generators
_STRIDES = (16, 12, 11, 15, 14, 13, *range(10, 0, -1))  # the official three first
_SIE = 3.0  # official camera coefficient; not in the file


class SaliencyModel(Method):
    """An SPS mask model; embeds an image as its class token after the norm, and says how salient its patches are."""

    def __init__(self, net: SaliencyNet):
        super().__init__()
        self.net = net

    def saliency(self, images: Tensor) -> Tensor:
        """[B, N] in (0, 1), patch by patch, row by row."""
        return self.net.saliency(images)

    def as_stage(self) -> dict:
        """What a checkpoint of DPM's stage `saliency` holds of it, for `method.earlier`."""
        state = {_in_stage(name): value for name, value in self.state_dict().items()}
        return {"stage": "saliency", "state_dict": state, "bound_to": self.net.bound_to()}

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The class token after the norm, [B, C]."""
        return Embedding(self.net.backbone(images).feature.float())

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Cosine distance, [Q, G]."""
        return cosine_distance(query.vector, gallery.vector)


def _in_stage(name: str) -> str:
    """What DPM calls the tensor `name` of a SaliencyModel."""
    return name.replace("net.", "saliency.", 1)


def load_dpm(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """DPM's model, with its masks; see :func:`occplug.importers.load_official`.

    `embed` gives the class token on the asked side of the batch norm (officially before it) and the mask; `distance` is
    the official masked distance.
    """
    return _load(checkpoint, image_size, num_cameras, neck, "DPM", masked=True)


def load_spt_reid(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """SPT's ReID model; `embed` gives the class token on the asked side of the batch norm (officially before it)."""
    return _load(checkpoint, image_size, num_cameras, neck, "SPT's ReID model")


def load_transreid(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """TransReID's ViT baseline, with or without camera embedding; `embed` gives the class token, officially the one
    before the batch norm.

    Models with the jigsaw patch module have further layers and are refused with their names.
    """
    return _load(checkpoint, image_size, num_cameras, neck, "TransReID (without JPM)")


def load_spt_sps(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> SaliencyModel:
    """SPT's mask model; `embed` gives the class token before the batch norm, `saliency` the map of an image."""
    if neck != "before":
        raise ConfigError(f"neck is {neck!r}; a mask model is asked for the feature before the neck, use 'before'")
    state, where = read_tensors(checkpoint)
    stride = _stride(state, image_size)
    classes = most_common(state, ["classifier.weight"]) or 1
    backbone = ViT(SIZES["vit_b16"], image_size, stride or 16)
    model = SaliencyModel(SaliencyNet(backbone, classes, [n for n in _LEVELS if n <= backbone.depth]))
    load_renamed(model, state, _SPS_TABLE, where, "SPT's mask model", unused=_UNUSED, hints=_hints(state, image_size))
    note_renamed({official_name(name, _SPS_TABLE): _in_stage(name) for name in model.state_dict()})
    return model.eval()


def _load(checkpoint, image_size, num_cameras: int | None, neck: str, what: str, masked: bool = False) -> Method:
    state, where = read_tensors(checkpoint)
    cameras = (num_cameras or most_common(state, [_CAMERAS])) if _CAMERAS in state else None
    options = {
        "data.height": image_size[0],
        "data.width": image_size[1],
        "backbone.weights": "none",
        "backbone.stride": _stride(state, image_size) or 16,
        "backbone.sie_camera": bool(cameras),
        "backbone.sie_coefficient": _SIE,
        "method.mask": "proto_pre" if masked else "none",
        "method.neck": neck,
        "method.mask_levels": [n for n in _LEVELS if n <= SIZES["vit_b16"]["layers"]],
    }
    cfg = default_config("dpm", "vit_b16", [item for pair in options.items() for item in pair])
    classes = most_common(state, ["classifier.weight"]) or 1
    method = build_method(cfg, classes, cameras or 1, pretrained=False)
    composed = {"backbone.camera_embedding": _cameras(method.backbone)} if cameras else {}
    load_renamed(method, state, _TABLE, where, what, composed, _UNUSED, _hints(state, image_size))
    return method.eval()


def _cameras(backbone: Any) -> Composed:
    count, width = backbone.camera_embedding.shape
    return Composed({_CAMERAS: (count, 1, width)}, lambda state: state[_CAMERAS][:, 0])


def _stride(state: Mapping[str, Tensor], image_size: tuple[int, int]) -> int | None:
    """The patch stride whose grid has as many patches as the position embedding, None if none has."""
    patches = (most_common(state, [_POSITIONS], axis=1) or 0) - 1
    for stride in _STRIDES:
        height, width = patch_grid(image_size, SIZES["vit_b16"]["patch_size"], stride)
        if height * width == patches:
            return stride
    return None


def _hints(state: Mapping[str, Tensor], image_size: tuple[int, int]) -> list[str]:
    """Said if the file was trained at another image size."""
    rows = most_common(state, [_POSITIONS], axis=1)
    if rows is None or _stride(state, image_size):
        return []
    return [f"{rows} position rows fit no stride at {image_size[0]}x{image_size[1]}; pass the image_size of training"]
