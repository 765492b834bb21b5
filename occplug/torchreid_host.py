"""What occplug takes from torchreid, by name; the only file that knows torchreid's inside beside `occplug.plugin`.

Works with both layouts, `torchreid.reid.*` (0.2.5 on PyPI) and `torchreid.*` (1.4.0 from source). Importing this file
changes nothing in torchreid and needs nothing of occplug but its errors and its reader of pictures.

Two faults of torchreid are worked around here, each with a test that shows the fault: a checkpoint that torchreid saved
cannot be read on torch >= 2.6 (:func:`safe_globals`), and the CUHK03 metric uses `np.bool`, which numpy 1.24 to 1.26 do
not have (:func:`stock_cuhk03`).
"""

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from occplug.errors import CheckpointError, ConfigError, OccplugError, first_line
from occplug.utils.files import user_path
from occplug.utils.imagefile import read_image
from occplug.utils.integrity import check_archive

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython evaluation")
        import torchreid
except ModuleNotFoundError as err:
    raise OccplugError(f"torchreid cannot be imported ({err}); installing occplug by pip brings all it needs") from err

__all__ = [
    "Engine",
    "ImageDataManager",
    "ImageDataset",
    "ImageSoftmaxEngine",
    "ImageTripletEngine",
    "ROOT",
    "STOCK_TRANSFORMS",
    "attribute",
    "build_lr_scheduler",
    "build_optimizer",
    "build_stock_model",
    "load_stock_checkpoint",
    "load_stock_weights",
    "safe_globals",
    "stock_cuhk03",
    "stock_dataset",
    "stock_model_names",
    "stock_sampler",
    "stock_transforms",
    "sub",
    "visualize_ranked_results",
]

_log = logging.getLogger(__name__)


def _drift(what: str) -> OccplugError:
    version = getattr(torchreid, "__version__", "of unknown version")
    return OccplugError(f"{what}: torchreid {version} is not laid out as occplug knows it (0.2.5 or 1.4.0)")


def attribute(owner, name: str):
    """`owner.name`, or an error that names torchreid's version."""
    value = getattr(owner, name, None)
    if value is None:
        raise _drift(f"{owner.__name__} has no {name}")
    return value


def _table(module, name: str, probe: str) -> dict:
    """The dict `module.name`, which must hold the key `probe`. Inside a class Python would mangle a name with `__`."""
    value = attribute(module, name)
    if not isinstance(value, dict) or probe not in value:
        raise _drift(f"{module.__name__}.{name} is not a table with an entry {probe!r}")
    return value


def _function(owner, name: str, *parameters: str):
    """The function `owner.name`, which must still have these parameters."""
    value = attribute(owner, name)
    missing = set(parameters) - set(inspect.signature(value).parameters)
    if missing:
        raise _drift(f"{owner.__name__}.{name} has no parameter {', '.join(sorted(missing))}")
    return value


ROOT = attribute(attribute(torchreid, "models"), "__name__").rpartition(".")[0]  # "torchreid.reid" or "torchreid"


def sub(name: str):
    """torchreid's module `name`, e.g. `sub("data.sampler")`, in whichever layout is installed."""
    try:
        return importlib.import_module(f"{ROOT}.{name}")
    except ModuleNotFoundError as err:
        raise _drift(f"there is no module {ROOT}.{name}") from err


Engine = attribute(torchreid.engine, "Engine")
ImageSoftmaxEngine = attribute(torchreid.engine, "ImageSoftmaxEngine")
ImageTripletEngine = attribute(torchreid.engine, "ImageTripletEngine")
ImageDataset = attribute(torchreid.data, "ImageDataset")
ImageDataManager = attribute(torchreid.data, "ImageDataManager")
build_optimizer = attribute(torchreid.optim, "build_optimizer")
build_lr_scheduler = attribute(torchreid.optim, "build_lr_scheduler")

MODELS = _table(torchreid.models, "__model_factory", "resnet50")
IMAGE_DATASETS = _table(sub("data.datasets"), "__image_datasets", "market1501")
manager = sub("data.datamanager")  # imports the builders by name, so they are swapped here, not where they are made
reader = sub("data.datasets.dataset")
metrics = sub("metrics")
_rank = sub("metrics.rank")

STOCK_MODELS = dict(MODELS)
STOCK_DATASETS = dict(IMAGE_DATASETS)
stock_build_transforms = _function(
    manager, "build_transforms", "height", "width", "transforms", "norm_mean", "norm_std"
)
stock_build_sampler = _function(
    manager, "build_train_sampler", "data_source", "train_sampler", "batch_size", "num_instances"
)
stock_init_dataset = _function(manager, "init_image_dataset", "name")
stock_run = _function(Engine, "run", "dist_metric", "normalize_feature")
stock_test = _function(Engine, "test", "dist_metric", "normalize_feature")
stock_distances = _function(metrics, "compute_distance_matrix", "input1", "input2", "metric")
stock_evaluate_rank = _function(
    metrics, "evaluate_rank", "distmat", "q_pids", "g_pids", "q_camids", "g_camids", "max_rank", "use_metric_cuhk03"
)
_function(reader, "read_image", "path")
engines = sub("engine.engine")
stock_re_ranking = _function(engines, "re_ranking", "q_g_dist", "q_q_dist", "g_g_dist")
drawing = sub("utils.reidtools")
_draw_ranked = _function(drawing, "visualize_ranked_results", "distmat", "dataset", "save_dir", "topk")
attribute(drawing, "cv2")
stock_load_pretrained = _function(sub("utils.torchtools"), "load_pretrained_weights", "model", "weight_path")

STOCK_TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


# ---- torchreid's own parts, by name


def _unknown(kind: str, name: str, known) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigError(f"torchreid has no {kind} called {name!r}{hint}; there are: {', '.join(sorted(known))}")


def stock_model_names() -> list[str]:
    """Names of torchreid's own models, sorted."""
    return sorted(STOCK_MODELS)


def build_stock_model(name: str, num_classes: int, loss: str, pretrained: bool, use_gpu: bool) -> nn.Module:
    """torchreid's own model `name`; `loss` is "softmax" or "triplet".

    Raises:
        ConfigError: an unknown name.
        CheckpointError: `pretrained`, and torchreid can neither find nor download the ImageNet weights.
    """
    if name not in STOCK_MODELS:
        raise _unknown("model", name, STOCK_MODELS)
    try:
        return STOCK_MODELS[name](num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu)
    except Exception as error:
        if not pretrained or not _is_of_a_download(error):
            raise
        reason = first_line(error)
        raise CheckpointError(
            f"model.pretrained is True, and torchreid could not get the ImageNet weights of {name} ({reason}); set "
            "model.pretrained False to start from random ones, name a file in model.load_weights with that, or try "
            "again where the network can be reached"
        ) from error


def _is_of_a_download(error: Exception) -> bool:
    """Whether a download of weights fails so: no network, no such file, a web page in its place, half a file."""
    kinds = (OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)  # URLError and requests' are OSErrors
    damaged = isinstance(error, RuntimeError) and "PytorchStreamReader" in str(error)
    return damaged or isinstance(error, kinds) or type(error).__module__.startswith("gdown")


def stock_dataset(name: str) -> type:
    """torchreid's own image data set class, also while ours stands in its place. Raises ConfigError if unknown."""
    if name not in STOCK_DATASETS:
        raise _unknown("image data set", name, STOCK_DATASETS)
    return STOCK_DATASETS[name]


def stock_transforms() -> dict[str, type]:
    """torchreid's own augmentation classes by the names `build_transforms` knows; flip and jitter are torchvision's."""
    module = sub("data.transforms")
    classes = {"random_crop": "Random2DTranslation", "random_patch": "RandomPatch", "random_erase": "RandomErasing"}
    return {name: attribute(module, cls) for name, cls in classes.items()}


def stock_sampler(name: str, data_source: list, batch_size: int, num_instances: int = 4, **options):
    """torchreid's own training sampler `name`. Raises ConfigError for an unknown name."""
    known = attribute(sub("data.sampler"), "AVAI_SAMPLERS")
    if name not in known:
        raise _unknown("sampler", name, known)
    return stock_build_sampler(data_source, name, batch_size=batch_size, num_instances=num_instances, **options)


# ---- checkpoints


def _scalar_globals() -> list:
    """What a torchreid checkpoint holds beside tensors: `rank1`, a numpy scalar, under numpy 1's or numpy 2's path."""
    scalar = np.float64(0).__reduce__()[0]
    paths = ["numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"]
    types = [type(np.dtype(name)) for name in ("float32", "float64")]
    return [np.dtype, *types, *((scalar, path) for path in paths)]


@contextlib.contextmanager
def safe_globals():
    """Inside, torch >= 2.6 reads checkpoints that torchreid wrote, with `weights_only=True`. May be nested."""
    known = torch.serialization.get_safe_globals()
    added = [entry for entry in _scalar_globals() if entry not in known]
    torch.serialization.add_safe_globals(added)
    try:
        yield
    finally:
        kept = [entry for entry in torch.serialization.get_safe_globals() if entry not in added]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)


def load_stock_checkpoint(path) -> dict:
    """What torchreid's `save_checkpoint` wrote at `path`, on the CPU and without running code from the file.

    Raises:
        CheckpointError: no such file, damaged, holding more than tensors and numbers, or not a dict.
    """
    path = str(user_path(path))
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no checkpoint at {path}; torchreid writes SAVE_DIR/model/model.pth.tar-EPOCH")
    check_archive(Path(path))
    try:
        with safe_globals():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # a damaged pickle fails in many ways
        reason = str(err).strip().split("\n")[0]
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and numbers: {reason}") from err
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected the dict torchreid saves")
    return content


def load_stock_weights(model: nn.Module, path) -> None:
    """Copy into `model` what fits of the torchreid checkpoint `path` (`model.load_weights`), as torchreid does.

    Raises: CheckpointError as :func:`load_stock_checkpoint`.
    """
    content = load_stock_checkpoint(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds something else than tensors by name, bare or under state_dict")
    with safe_globals():
        sub("utils.torchtools").load_pretrained_weights(model, str(user_path(path)))


# ---- ranked galleries


class CvWithOurPictures:
    """cv2, with pictures read as occplug reads them everywhere; cv2's reader gives None for what it cannot read."""

    @staticmethod
    def imread(path: str) -> np.ndarray:
        """uint8 [H, W, 3], blue first. Raises DataError as `open_picture`."""
        return np.ascontiguousarray(np.asarray(read_image(path))[..., ::-1])

    def __getattr__(self, name: str):
        import cv2

        return getattr(cv2, name)


def visualize_ranked_results(*case, **options) -> None:
    """torchreid's drawing of ranked galleries, of pictures that are read as occplug reads them."""
    before = drawing.cv2
    drawing.cv2 = CvWithOurPictures()
    try:
        _draw_ranked(*case, **options)
    finally:
        drawing.cv2 = before


# ---- the CUHK03 metric


def stock_cuhk03(*case, **options):
    """torchreid's CUHK03 metric, its arguments and answer; also works on numpy 1.24 to 1.26."""
    before = _rank.np
    if not hasattr(np, "bool"):
        _rank.np = _NumpyWithBool()
    try:
        return stock_evaluate_rank(*case, use_metric_cuhk03=True, **options)
    finally:
        _rank.np = before


class _NumpyWithBool:
    """numpy, with the name `bool` that numpy 1.24 to 1.26 lack."""

    bool = bool

    def __getattr__(self, name: str):
        return getattr(np, name)
