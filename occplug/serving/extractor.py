"""A trained model for a user's images: embeddings, distances, a search in a gallery."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from occplug.backbones.tower import MEAN_CAMERA
from occplug.config import resolved_yaml
from occplug.data.cameras import sees_cameras
from occplug.embedding import Embedding, Origin, check_embedding
from occplug.errors import ConfigError, DataError
from occplug.evaluation.extract import HALF, extract
from occplug.method import Method
from occplug.runs.candidates import candidates, model_of
from occplug.serving.calibration import Calibration, common_visibility
from occplug.serving.pictures import Source, crops_of, open_source, prefetched
from occplug.serving.same import Same
from occplug.transforms import build_pipeline
from occplug.utils.devices import device_named
from occplug.utils.files import user_path
from occplug.zoo.weights import needed_tensors

__all__ = ["Extractor", "load"]

_log = logging.getLogger(__name__)
ON_ERROR = ("raise", "skip")
_NO_PART = (
    "data.root",
    "data.save_dir",
    "data.workers",
    "data.cache",
    "run",
    "train",
    "test",
    "sampler",
    "ensemble",
    "augment",
    "zoo",
)


class Extractor:
    """A model with trained weights, and what its pictures go through before it.

    Attributes:
        method: the model in eval mode.   cfg: its resolved config.   device: where it is.
        weights: what was read of the weight file.   address: what `load` finds it by.
    """

    def __init__(self, method: Method, cfg, device: torch.device, weights=None, address: str = ""):
        self.method, self.cfg, self.device, self.weights = method.to(device).eval(), cfg, device, weights
        self.address, self._said_mean = address, False
        data = cfg.data
        norm = (data.norm_mean, data.norm_std)
        how = (cfg.input.test_interpolation, data.resize)
        self._pipeline = build_pipeline([], data.height, data.width, *norm, {}, *how)

    # ------------------------------------------------------------------ what it is

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the tensors that embeddings are computed with; the same file, the same digits."""
        if self.weights is not None and self.weights.fingerprint:
            return self.weights.fingerprint
        digest = hashlib.sha256()
        state = self.method.state_dict()
        for name in sorted(needed_tensors(self.method, self.method.training_only)):  # others are not in every file
            value = state[name]
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @functools.cached_property
    def config_hash(self) -> str:
        """12 hexadecimal digits over the config, but for folders, training and what else has no part in embeddings."""
        kept = [line for line in _lines(self.cfg) if not line.startswith(_NO_PART)]
        return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]

    def preprocessing(self, flip: bool | None = None) -> dict:
        """What pictures go through, as plain values: height, width, interpolation, mean, std and flip, and `resize`
        where it is not Pillow's."""
        data = self.cfg.data
        resize = {} if data.resize == "pil" else {"resize": data.resize}
        return {
            "height": data.height,
            "width": data.width,
            "interpolation": self.cfg.input.test_interpolation,
            "mean": list(data.norm_mean),
            "std": list(data.norm_std),
            "flip": bool(self.cfg.eval.flip if flip is None else flip),
            **resize,
        }

    # ------------------------------------------------------------------ embedding

    def embed(
        self,
        pictures,
        camids: Sequence[int] | int | None = None,
        batch_size: int = 64,
        *,
        boxes=None,
        color: str = "rgb",
        workers: int = 2,
        amp: bool | str | None = None,
        flip: bool | None = None,
        on_error: str = "raise",
        progress: bool | None = None,
    ) -> Embedding:
        """Embeddings [B] of `pictures`, on the CPU, as `occplug test` makes them; `.paths` says what each is of.

        Pictures are read, resized and dropped a batch at a time, so memory beside the result does not grow with B.

        Args:
            pictures: one or many images of one person each, of any size: a path, a folder (all images below it,
                sorted), a PIL image, a uint8 array [H, W, 3] or tensor [3, H, W], a batch of those, or a list or
                generator of them. An empty list gives an embedding of no rows.
            camids: 0-based cameras of training, one a picture or one for all, for models with a camera embedding;
                others do not look at them. None: not known, so the mean of that embedding's rows stands for them, and
                the log says so.
            batch_size: pictures per pass of the model.
            boxes: [N, 4] corners x1, y1, x2, y2 in pixels: `pictures` is one frame, of which these parts are embedded.
            color: order of the channels of arrays and tensors, "rgb", or "bgr" as OpenCV reads them.
            workers: threads that read and resize while the model computes; 0 for none.
            amp: "bf16" or "fp16": compute in half precision, faster on processors made for it, and not the same
                numbers; True: fp16 on a GPU, bf16 on a CPU; False or "none": not; None: as `eval.amp` of the config.
            flip: average with the mirrored picture's embedding, which doubles the time; None: as `eval.flip` of the
                config, which is how the model's figures were measured.
            on_error: "raise" at the first picture that cannot be read, or "skip" it and list it in `.skipped`.
            progress: show a bar; None means only on a terminal.

        Raises:
            DataError: a picture that is missing, damaged or of a kind that is not known, or whose embedding is not
                finite; names it.
            ConfigError: a wrong option, a camera that training did not have, or other numbers of cameras than
                pictures.
        """
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error is {on_error!r}; there are: {', '.join(ON_ERROR)}")
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if not isinstance(value, Integral) or value < least:
                raise ConfigError(f"{name} is {value!r}; it must be at least {least}, a whole number")
        half = self._half(amp)
        sources, count = open_source(pictures, color) if boxes is None else crops_of(pictures, boxes, color)
        cameras = self._cameras(camids, count)
        skipped: dict[str, str] = {}
        batches = self._batches(sources, cameras, batch_size, workers, skipped if on_error == "skip" else None)
        preprocessing = self.preprocessing(flip)
        bar = tqdm(total=count, desc="embedding", leave=False, disable=_hidden(progress), dynamic_ncols=True)
        with bar:
            embedding, paths = self._embed_batches(batches, preprocessing["flip"], half, bar, count)
        if skipped:
            _log.warning(
                "%d of %d pictures could not be read and are left out", len(skipped), len(skipped) + len(paths)
            )
        known = (self.fingerprint, self.config_hash, preprocessing, self._metric(), self.address)
        embedding.origin = Origin(tuple(paths), *known, skipped, self.test_settings)
        return embedding

    def _half(self, amp: bool | str | None) -> str:
        """`amp` of `embed` as a value of `eval.amp`. Raises ConfigError for another."""
        if isinstance(amp, bool):
            return ("fp16" if self.device.type == "cuda" else "bf16") if amp else "none"
        chosen = self.cfg.eval.amp if amp is None else amp
        if chosen not in ("none", *HALF):
            raise ConfigError(f"amp is {chosen!r}; there are: none, {', '.join(HALF)}")
        return chosen

    @functools.cached_property
    def num_cameras(self) -> int:
        """Rows of the camera embedding; 0 without one."""
        rows = (getattr(module, "camera_embedding", None) for module in self.method.modules())
        return max((len(each) for each in rows if each is not None), default=0) if sees_cameras(self.cfg) else 0

    def _cameras(self, camids, count: int | None) -> Iterator[int] | int:
        """What the model is given for the cameras `camids` of `embed`. Raises ConfigError for what are none."""
        if camids is None:
            if self.num_cameras and count != 0:
                self._say_mean()
            return MEAN_CAMERA if self.num_cameras else 0
        try:
            numbers = np.asarray(camids.cpu() if isinstance(camids, Tensor) else camids)
        except ValueError as error:
            raise ConfigError(f"camids are whole numbers from 0, one a picture; {error}") from error
        if numbers.size and numbers.dtype.kind not in "iu":
            raise ConfigError(f"camids are whole numbers from 0, one a picture; these are of type {numbers.dtype}")
        if numbers.ndim and count is not None and len(numbers) != count:
            raise ConfigError(f"{len(numbers)} camids for {count} pictures; give one each")
        if numbers.ndim > 1:
            raise ConfigError(f"camids are one number a picture; these are of shape {list(numbers.shape)}")
        wrong = numbers[(numbers < 0) | (numbers >= self.num_cameras)] if self.num_cameras else numbers[:0]
        if wrong.size:
            raise ConfigError(
                f"camera {wrong.flat[0]} is none of training's, 0 to {self.num_cameras - 1}; leave cameras out where "
                "they are others"
            )
        return iter(numbers.tolist()) if numbers.ndim else numbers.item()

    def _say_mean(self) -> None:
        """Say once a model that images of unknown cameras are embedded."""
        if not self._said_mean:
            _log.warning(
                "cameras are not given, so the mean of the camera embedding's %d rows stands for them", self.num_cameras
            )
        self._said_mean = True

    def _batches(
        self,
        sources: Iterator[Source],
        cameras: Iterator[int] | int,
        size: int,
        workers: int,
        skipped: dict[str, str] | None,
    ) -> Iterator[dict]:
        rows: list[tuple[str, Tensor, int]] = []
        for name, image in prefetched(sources, self._pipeline.per_image, workers, ahead=size + 2 * workers):
            camera = cameras if isinstance(cameras, int) else next(cameras, None)
            if camera is None:
                raise ConfigError("there are more pictures than camids; give one each")
            if not isinstance(image, DataError):
                rows.append((name, image, camera))
            elif skipped is None:
                raise image
            else:
                skipped[name] = str(image)
            if len(rows) == size:
                yield self._batch(rows)
                rows = []
        if rows:
            yield self._batch(rows)

    def _batch(self, rows: list[tuple[str, Tensor, int]]) -> dict:
        camids = torch.tensor([camera for *_, camera in rows])
        images = self._pipeline.per_batch(torch.stack([image for _, image, _ in rows]))
        return {
            "img": images,
            "pid": torch.zeros_like(camids),
            "camid": camids,
            "impath": [name for name, *_ in rows],
        }

    def _embed_batches(
        self, batches: Iterator[dict], flip: bool, amp: str, bar: tqdm, count: int | None
    ) -> tuple[Embedding, list[str]]:
        """Embeddings of all batches in arrays that are made once where `count` is known, so no two copies are held."""
        fields: dict[str, Any] = {}  # tensors
        pieces: list[Embedding] = []
        paths: list[str] = []
        for batch in batches:
            part = extract(self.method.embed, [batch], self.device, flip=flip, progress=False, amp=amp)[0]
            if count is None:
                pieces.append(part)
            else:
                for name, shape in part.layout():
                    if name not in fields:
                        fields[name] = torch.empty(count, *shape)
                    fields[name][len(paths) : len(paths) + len(part)] = getattr(part, name)
            paths += batch["impath"]
            bar.update(len(part))
        if not paths:
            return self._empty(), paths
        if pieces:
            return Embedding.cat(pieces), paths
        return Embedding(**{name: value[: len(paths)] for name, value in fields.items()}), paths

    @torch.no_grad()
    def _empty(self) -> Embedding:
        """An embedding of no image, with the widths of any other."""
        data = self.cfg.data
        blank = torch.zeros(1, 3, data.height, data.width, device=self.device)
        nobody = torch.zeros(1, dtype=torch.long, device=self.device)
        return self.method.embed(blank, nobody)[:0].to("cpu")

    # ------------------------------------------------------------------ comparing

    @torch.no_grad()
    def distances(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G] by the method's own distance; smaller is closer.

        Raises:
            DataError: they are known to be of different models or settings, one is not finite or no embedding.
        """
        check_embedding(query, "the queries")
        query.check_same_model(gallery, "the queries", "the gallery")
        for side, name, one in ((query, "the queries", "a query"), (gallery, "the gallery", "a gallery image")):
            self.check(side, name)
            side.check_finite(one)
        return self.method.distance(query.to(self.device), gallery.to(self.device)).cpu()

    @functools.cached_property
    def calibration(self) -> Calibration:
        """What distances of this model mean. Raises ConfigError if nobody has calibrated the weights."""
        known = self.weights.calibration if self.weights is not None else None
        if not known:
            where = self.address or "W"
            raise ConfigError(
                f"these weights are not calibrated, so their distances have no probabilities; run: occplug calibrate "
                f"--weights {where} --root DIR (the data sets' folder; with -o FILE for weights of the zoo)"
            )
        calibration = Calibration.of_dict(known, where=self.address or "these weights")
        for key, value in calibration.facts.get("settings", {}).items():
            if self.test_settings.get(key, value) != value:
                raise ConfigError(
                    f"these weights were calibrated with {key} {value!r}, and it is {self.test_settings[key]!r} here, "
                    f"so distances mean something else; set {key} to {value!r}, or calibrate again"
                )
        if calibration.flip not in (None, self.cfg.eval.flip):
            _log.warning("%s, so same() embeds them so", calibration.of_images)
        return calibration

    @property
    def test_settings(self) -> dict[str, Any]:
        """Keys of the method that change what it computes in tests, `method.test_...` -> value."""
        return {f"method.{key}": value for key, value in self.cfg.method.items() if key.startswith("test_")}

    def same(self, a, b, prior: float = 0.5, **options) -> Same:
        """Whether `a` and `b` show the same person, pair by pair.

        Args:
            a, b: N images each in any form that `embed` takes, or embeddings of this model; one may be a single image.
            prior: share of pairs of the same person among those that are asked about.
            options: of `embed`, e.g. `camids` and `color`; `flip` is as it was in the calibration.

        Raises:
            ConfigError: the weights are not calibrated (the message says what to run), on images that were mirrored
                otherwise, or `prior` is not within (0, 1).
            DataError: unequal numbers of images, or none on one side.
        """
        if not 0 < prior < 1:
            raise ConfigError(f"prior is {prior}; it lies between 0 and 1")
        known = self.calibration
        options["flip"] = known.flip if options.get("flip") is None else options["flip"]
        known.check_flip(options["flip"])
        one, other = (each if isinstance(each, Embedding) else self.embed(each, **options) for each in (a, b))
        for each in (one, other):
            known.check_flip(each.origin.preprocessing.get("flip") if each.origin is not None else None)
        numbers, count = {len(one), len(other)}, max(len(one), len(other))
        if len(numbers) > 1 and (1 not in numbers or 0 in numbers):
            raise DataError(f"there are {len(one)} and {len(other)} images; give equally many, or one on one side")
        rows = [(min(n, len(one) - 1), min(n, len(other) - 1)) for n in range(count)]
        pairs = [(one[i], other[j]) for i, j in rows]
        distance = np.array([self.distances(*pair).item() for pair in pairs])
        common = np.array([_common(*pair, known.floor) for pair in pairs])
        visible = None if one.visibility is None else common
        probability = known.probability(distance, visible, prior)
        return Same.of(probability, distance, known.false_accept_rate(distance), common, common <= 0)

    def save_pretrained(self, folder, **options):
        """Write the model to `folder`, to be passed on; :func:`occplug.serving.hub.save_pretrained`."""
        from occplug.serving.hub import save_pretrained

        return save_pretrained(self, folder, **options)

    def push(self, repository: str, **options):
        """Upload the model to the Hugging Face hub; :func:`occplug.serving.hub.push`."""
        from occplug.serving.hub import push

        return push(self, repository, **options)

    def check(self, embedding: Embedding, name: str = "these embeddings") -> None:
        """Raise DataError if `embedding` is known to be of another model or settings than this one, or is none."""
        check_embedding(embedding, name)
        if embedding.origin is not None and embedding.origin.model:
            origin = Origin(
                model=self.fingerprint, metric=self._metric(), weights=self.address, settings=self.test_settings
            )
            embedding.check_same_model(Embedding(embedding.vector[:0], origin=origin), name, "this model")

    def _metric(self) -> dict:
        metric = self.method.named_distance()
        return {} if metric is None else metric.as_dict()


def _common(one: Embedding, other: Embedding, floor: float) -> float:
    common = common_visibility(one, other, floor)
    return float("nan") if common is None else common.item()


def _hidden(progress: bool | None) -> bool:
    return not (sys.stderr.isatty() if progress is None else progress)


def _lines(cfg) -> list[str]:
    """The config as `section.key: value` lines."""
    lines, section = [], ""
    for line in resolved_yaml(cfg).splitlines():
        if not line.startswith(" "):
            section = line.split(":")[0]
        lines.append(f"{section}.{line.strip()}" if line.startswith(" ") else line)
    return lines


def load(
    weights: str | os.PathLike, config_file: str | None = None, options: list | None = None, device: str = "cpu"
) -> Extractor:
    """The trained model at `weights`.

    Args:
        weights: a run's folder, a file (a checkpoint of `occplug train`, `zoo export` or `convert`, an exported file),
            a folder of `save_pretrained`, `zoo://NAME`, or `hf://user/repo`.
        config_file: its config; needed only for files that do not hold their own (converted ones).
        options: config keys over it, as for `load_config`.
        device: a torch device, e.g. "cpu", "cuda:1" or "mps".

    Raises:
        ConfigError: a device that is not there, no such entry, or no config.
        CheckpointError: weights that cannot be fetched or read, or do not fit the config.
    """
    put_on = device_named(device)  # before weights are fetched
    address = os.fspath(weights)
    candidate = candidates([] if config_file is None else [config_file], [address], list(options or []))[0]
    place = address if "://" in address else os.path.abspath(user_path(address))
    return Extractor(model_of(candidate), candidate.cfg, put_on, candidate.weights, place)
