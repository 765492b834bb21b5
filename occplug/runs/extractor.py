"""A trained model for pictures of one's own: embeddings, distances, a search in a gallery."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from occplug.embedding import Embedding
from occplug.errors import ConfigError, DataError
from occplug.evaluation import extract
from occplug.importers.torchreid_stock import StockModel
from occplug.method import Method, build_method
from occplug.registry import METHODS, names
from occplug.runs.candidates import ZOO, Candidate, candidates, config_of, fit
from occplug.runs.session import sees_cameras
from occplug.torchreid_host import build_stock_model
from occplug.transforms import build_pipeline
from occplug.utils.imagefile import open_picture
from occplug.zoo.weights import read_test_weights

__all__ = ["Extractor", "load"]


class Extractor:
    """A model with trained weights, and what its pictures go through before it.

    Attributes:
        method: the model in eval mode.   cfg: its resolved config.   device: where it is.
    """

    def __init__(self, method: Method, cfg, device: torch.device):
        self.method, self.cfg, self.device = method.to(device).eval(), cfg, device
        data = cfg.data
        norm = (data.norm_mean, data.norm_std)
        self._pipeline = build_pipeline([], data.height, data.width, *norm, {}, cfg.input.test_interpolation)

    def embed(self, pictures: Sequence, camids: Sequence[int] | None = None, batch_size: int = 64) -> Embedding:
        """Embeddings [B] of `pictures`, on the CPU, as `tools/test.py` makes them (mirrored too, if the config says).

        Args:
            pictures: paths, PIL images or arrays of one person each, of any size, as `open_picture` takes them.
            camids: 0-based cameras of training, for models with a camera embedding; others do not look at them.

        Raises:
            DataError: no picture, or one that is missing or damaged; names the file.
            ConfigError: no cameras for a model that sees them, or other numbers of cameras than pictures.
        """
        if not len(pictures):
            raise DataError("there is no picture to embed")
        if camids is None and self.cfg.model.name in names(METHODS) and sees_cameras(self.cfg):
            raise ConfigError("this model has a camera embedding (backbone.sie_camera); give camids, from 0")
        cameras = [0] * len(pictures) if camids is None else list(camids)
        if len(cameras) != len(pictures):
            raise ConfigError(f"{len(cameras)} camids for {len(pictures)} pictures; give one each")
        batches = self._batches(list(pictures), cameras, batch_size)
        return extract(self.method.embed, batches, self.device, flip=self.cfg.eval.flip)[0]

    def _batches(self, pictures: list, cameras: list[int], size: int) -> Iterator[dict]:
        for start in range(0, len(pictures), size):
            chosen = pictures[start : start + size]
            rows = [self._pipeline.per_image(open_picture(picture)) for picture in chosen]
            camids = torch.tensor(cameras[start : start + size])
            labels = {"pid": torch.zeros_like(camids), "camid": camids, "impath": [str(each) for each in chosen]}
            yield {"img": self._pipeline.per_batch(default_collate(rows)), **labels}

    @torch.no_grad()
    def distances(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G] by the method's own distance; smaller is closer."""
        return self.method.matcher(query.to(self.device), gallery.to(self.device)).cpu()


def load(
    weights: str | os.PathLike, config_file: str | None = None, options: list | None = None, device: str = "cpu"
) -> Extractor:
    """The trained model behind `weights`.

    Args:
        weights: `zoo://NAME`, or a file: a checkpoint of `tools/train.py`, `tools/zoo.py export` or `tools/convert.py`.
        config_file: its config; not needed for the zoo, and for files that hold their own (all but converted ones).
        options: config keys over it, as for `load_config`.
        device: a torch device.

    Raises:
        ConfigError: no such entry, or no config.
        CheckpointError: weights that cannot be fetched or read, or do not fit the config.
    """
    found = _candidate(str(weights), config_file, list(options or []))
    cfg, given = found.cfg, found.weights
    if cfg.model.name in names(METHODS):
        model = method = build_method(cfg, given.num_classes, given.num_cameras, pretrained=False).eval()
    else:
        model = build_stock_model(cfg.model.name, given.num_classes, cfg.loss.name, pretrained=False, use_gpu=False)
        method = StockModel(model, given.num_classes).eval()
    fit(model, found, method, torch.device("cpu"))
    return Extractor(method, cfg, torch.device(device))


def _candidate(address: str, config_file: str | None, options: list) -> Candidate:
    if config_file is not None or address.startswith(ZOO):
        return candidates([] if config_file is None else [config_file], [address], options)[0]
    weights = read_test_weights(address)
    if not weights.config:
        raise ConfigError(f"{address} does not hold its config; name it with config_file")
    return Candidate(config_of(weights.config, options), address, weights)
