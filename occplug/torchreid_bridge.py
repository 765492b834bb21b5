"""The only file that knows torchreid's inside: what occplug takes from it, and what occplug puts into it.

Works with both layouts, `torchreid.reid.*` (0.2.5 on PyPI) and `torchreid.*` (1.4.0 from source). Importing this file
changes nothing; :func:`register` changes table entries and six functions, :func:`unregister` puts back what was there.

Faults of torchreid that are cured here, each with a test that shows the fault:

* a checkpoint torchreid saved cannot be read on torch >= 2.6: :func:`safe_globals`, in force while registered;
* `read_image` tries a broken file for ever: ours raises DataError, in force while registered;
* ranking is a Python loop: `metrics.evaluate_rank` is ours while registered;
* the CUHK03 metric uses `np.bool`, which numpy 1.24 to 1.26 do not have: cured while registered;
* labels depend on the order of a Python set: our Market, Duke and MSMT17 replace torchreid's while registered;
* every epoch opens frozen layers and their batch norm: :func:`close_layers`; :class:`TorchreidModel` keeps them closed.

Data loading workers that are spawned (not forked) import torchreid anew and see none of this.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import logging
import os
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler

from occplug import registry
from occplug.backbones.files import read_tensors
from occplug.errors import CheckpointError, ConfigError, OccplugError
from occplug.method import build_method
from occplug.torchreid_models import PackedEmbeddings, TorchreidModel, close_layers, packed_distances

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython evaluation")
        import torchreid
except ModuleNotFoundError as err:
    raise OccplugError(f"torchreid cannot be imported ({err}); installing occplug by pip brings all it needs") from err

__all__ = [
    "ROOT",
    "STOCK_TRANSFORMS",
    "Engine",
    "ImageDataManager",
    "ImageDataset",
    "ImageSoftmaxEngine",
    "ImageTripletEngine",
    "PackedEmbeddings",
    "TorchreidModel",
    "build_lr_scheduler",
    "build_optimizer",
    "build_stock_model",
    "close_layers",
    "evaluate_cuhk03",
    "load_stock_checkpoint",
    "load_stock_weights",
    "register",
    "safe_globals",
    "stock_dataset",
    "stock_model_names",
    "stock_sampler",
    "stock_transforms",
    "sub",
    "unregister",
    "visualize_ranked_results",
]

_log = logging.getLogger(__name__)


def _drift(what: str) -> OccplugError:
    version = getattr(torchreid, "__version__", "of unknown version")
    return OccplugError(f"{what}: torchreid {version} is not laid out as occplug knows it (0.2.5 or 1.4.0)")


def _attribute(owner, name: str):
    """`owner.name`, or an error that names torchreid's version."""
    value = getattr(owner, name, None)
    if value is None:
        raise _drift(f"{owner.__name__} has no {name}")
    return value


def _table(module, name: str, probe: str) -> dict:
    """The dict `module.name`, which must hold the key `probe`. Inside a class Python would mangle a name with `__`."""
    value = _attribute(module, name)
    if not isinstance(value, dict) or probe not in value:
        raise _drift(f"{module.__name__}.{name} is not a table with an entry {probe!r}")
    return value


def _function(owner, name: str, *parameters: str):
    """The function `owner.name`, which must still have these parameters."""
    value = _attribute(owner, name)
    missing = set(parameters) - set(inspect.signature(value).parameters)
    if missing:
        raise _drift(f"{owner.__name__}.{name} has no parameter {', '.join(sorted(missing))}")
    return value


ROOT = _attribute(_attribute(torchreid, "models"), "__name__").rpartition(".")[0]  # "torchreid.reid" or "torchreid"


def sub(name: str):
    """torchreid's module `name`, e.g. `sub("data.sampler")`, in whichever layout is installed."""
    try:
        return importlib.import_module(f"{ROOT}.{name}")
    except ModuleNotFoundError as err:
        raise _drift(f"there is no module {ROOT}.{name}") from err


Engine = _attribute(torchreid.engine, "Engine")
ImageSoftmaxEngine = _attribute(torchreid.engine, "ImageSoftmaxEngine")
ImageTripletEngine = _attribute(torchreid.engine, "ImageTripletEngine")
ImageDataset = _attribute(torchreid.data, "ImageDataset")
ImageDataManager = _attribute(torchreid.data, "ImageDataManager")
build_optimizer = _attribute(torchreid.optim, "build_optimizer")
build_lr_scheduler = _attribute(torchreid.optim, "build_lr_scheduler")
visualize_ranked_results = _attribute(torchreid.utils, "visualize_ranked_results")

_models = _table(torchreid.models, "__model_factory", "resnet50")
_datasets = _table(sub("data.datasets"), "__image_datasets", "market1501")
_manager = sub("data.datamanager")  # imports the builders by name, so they are swapped here, not where they are made
_reader = sub("data.datasets.dataset")
_metrics = sub("metrics")
_rank = sub("metrics.rank")

_STOCK_MODELS = dict(_models)
_STOCK_DATASETS = dict(_datasets)
_stock_build_transforms = _function(
    _manager, "build_transforms", "height", "width", "transforms", "norm_mean", "norm_std"
)
_stock_build_sampler = _function(
    _manager, "build_train_sampler", "data_source", "train_sampler", "batch_size", "num_instances"
)
_stock_run = _function(Engine, "run", "dist_metric", "normalize_feature")
_stock_distances = _function(_metrics, "compute_distance_matrix", "input1", "input2", "metric")
_stock_evaluate_rank = _function(
    _metrics, "evaluate_rank", "distmat", "q_pids", "g_pids", "q_camids", "g_camids", "max_rank", "use_metric_cuhk03"
)
_function(_reader, "read_image", "path")
_stock_load_pretrained = _function(sub("utils.torchtools"), "load_pretrained_weights", "model", "weight_path")

STOCK_TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


# ---- torchreid's own parts, by name


def _unknown(kind: str, name: str, known) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigError(f"torchreid has no {kind} called {name!r}{hint}; there are: {', '.join(sorted(known))}")


def stock_model_names() -> list[str]:
    """Names of torchreid's own models, sorted."""
    return sorted(_STOCK_MODELS)


def build_stock_model(name: str, num_classes: int, loss: str, pretrained: bool, use_gpu: bool) -> nn.Module:
    """torchreid's own model `name`; `loss` is "softmax" or "triplet". Raises ConfigError for an unknown name."""
    if name not in _STOCK_MODELS:
        raise _unknown("model", name, _STOCK_MODELS)
    return _STOCK_MODELS[name](num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu)


def stock_dataset(name: str) -> type:
    """torchreid's own image data set class, also while ours stands in its place. Raises ConfigError if unknown."""
    if name not in _STOCK_DATASETS:
        raise _unknown("image data set", name, _STOCK_DATASETS)
    return _STOCK_DATASETS[name]


def stock_transforms() -> dict[str, type]:
    """torchreid's own augmentation classes by the names `build_transforms` knows; flip and jitter are torchvision's."""
    module = sub("data.transforms")
    classes = {"random_crop": "Random2DTranslation", "random_patch": "RandomPatch", "random_erase": "RandomErasing"}
    return {name: _attribute(module, cls) for name, cls in classes.items()}


def stock_sampler(name: str, data_source: list, batch_size: int, num_instances: int = 4, **options):
    """torchreid's own training sampler `name`. Raises ConfigError for an unknown name."""
    known = _attribute(sub("data.sampler"), "AVAI_SAMPLERS")
    if name not in known:
        raise _unknown("sampler", name, known)
    return _stock_build_sampler(data_source, name, batch_size=batch_size, num_instances=num_instances, **options)


# ---- the CUHK03 metric


def evaluate_cuhk03(distmat, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50):
    """torchreid's CUHK03 metric as an `occplug.evaluation.RankResult`; also works on numpy 1.24 to 1.26.

    The CMC is the mean over ten draws (numpy's global generator) of one gallery image per person; mAP and the figures
    per query are those of the whole gallery. Arguments and errors as `occplug.evaluation.rank_distances`.
    """
    from occplug.evaluation import rank_distances

    case = (distmat, q_pids, g_pids, q_camids, g_camids, max_rank)
    result = rank_distances(*case)
    cmc, mean_ap = _cuhk03(*case)
    return dataclasses.replace(result, cmc=cmc, mAP=float(mean_ap))


def _cuhk03(*case, **options):
    with contextlib.ExitStack() as stack:
        if not hasattr(np, "bool"):
            _put(stack, vars(_rank), "np", _NumpyWithBool())
        return _stock_evaluate_rank(*case, use_metric_cuhk03=True, **options)


class _NumpyWithBool:
    """numpy, with the name `bool` that numpy 1.24 to 1.26 lack."""

    bool = bool

    def __getattr__(self, name: str):
        return getattr(np, name)


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
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no checkpoint at {path}; torchreid writes SAVE_DIR/model/model.pth.tar-EPOCH")
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
        sub("utils.torchtools").load_pretrained_weights(model, os.path.expanduser(path))


# ---- models


@functools.cache
def _model_builder(method_name: str, backbone_name: str):
    """The function torchreid's `build_model` calls. `use_gpu` is torchreid's and means nothing here.

    Built from the default config for that backbone, images of the size it was made for, and the method's settings for
    one stage, since torchreid's engines run no more: without prompts, `clip_reid_*` is its baseline there.
    """

    def build_occplug_model(num_classes=1, loss="softmax", pretrained=True, use_gpu=True):
        from occplug.config import default_config

        settings = registry.get(registry.METHODS, method_name).in_one_stage.items()
        cfg = default_config(method_name, backbone_name, [x for k, v in settings for x in (f"method.{k}", v)])
        return TorchreidModel(build_method(cfg, num_classes, 1, pretrained), loss)

    return build_occplug_model


def _our_models() -> dict:
    methods = {name: registry.get(registry.METHODS, name) for name in registry.names(registry.METHODS)}
    return {
        f"{name}_{suffix}": _model_builder(name, backbone)
        for name, method in methods.items()
        for suffix, backbone in method.backbones.items()
    }


# ---- functions that stand in for torchreid's while registered


def _build_transforms(height, width, transforms="random_flip", norm_mean=None, norm_std=None, **kwargs):
    """torchreid's builder, which silently ignores names it does not know; a list with a name of ours goes to ours."""
    wanted = [transforms] if isinstance(transforms, str) else transforms or []
    wanted = [name.lower() for name in wanted if isinstance(name, str)]
    ours = set(registry.names(registry.TRANSFORMS)) - set(STOCK_TRANSFORMS)
    if ours.intersection(wanted):
        from occplug.transforms import compose_for_stock

        _unbound[:] = built = compose_for_stock(wanted, height, width, norm_mean, norm_std)
        return built
    for name in set(wanted) - set(STOCK_TRANSFORMS):
        _log.warning("torchreid ignores the transform %r, which it does not know", name)
    return _stock_build_transforms(height, width, transforms, norm_mean, norm_std, **kwargs)


def _build_train_sampler(data_source, train_sampler, batch_size=32, num_instances=4, **kwargs):
    """torchreid's builder, with our samplers beside its own; ours are seeded with torch's initial seed."""
    while _unbound:  # a data manager calls this next after `_build_transforms`, with the images that some need
        _unbound.pop().bind(data_source, _reader.read_image)
    sizes = {"batch_size": batch_size, "num_instances": num_instances}
    if train_sampler in _attribute(sub("data.sampler"), "AVAI_SAMPLERS") or train_sampler not in registry.names(
        registry.SAMPLERS
    ):
        return _stock_build_sampler(data_source, train_sampler, **sizes, **kwargs)
    sampler = registry.build(registry.SAMPLERS, train_sampler, data_source, **sizes, seed=torch.initial_seed() % 2**32)
    return _EpochByEpoch(sampler) if hasattr(sampler, "set_epoch") else sampler


class _EpochByEpoch(Sampler):
    """`sampler`, in its next epoch at every pass: torchreid's engines never call `set_epoch`."""

    def __init__(self, sampler):
        self.sampler, self.epoch = sampler, 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        indices = list(self.sampler)
        self.epoch += 1
        self.sampler.set_epoch(self.epoch)  # already now: torchreid asks for the length before it iterates
        return iter(indices)


def _evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=50, use_metric_cuhk03=False, use_cython=True):
    """Our ranking; the CUHK03 metric stays torchreid's."""
    from occplug.evaluation import evaluate_rank

    case = (distmat, q_pids, g_pids, q_camids, g_camids, max_rank)
    return _cuhk03(*case, use_cython=use_cython) if use_metric_cuhk03 else evaluate_rank(*case)


def _compute_distance_matrix(input1, input2, metric="euclidean"):
    """torchreid's distances, and those of our methods by their names."""
    return packed_distances(input1, input2, metric, _stock_distances)


@functools.wraps(_stock_run)
def _run(engine, *args, **kwargs):
    """torchreid's `Engine.run`, which would find out after training only that its distance does not fit our model."""
    given = inspect.signature(_stock_run).bind(engine, *args, **kwargs)
    given.apply_defaults()
    for whole in engine._models.values():
        model = getattr(whole, "module", whole)  # of a DataParallel
        if isinstance(model, TorchreidModel):
            images = next(iter(engine.test_loader.values()))["query"].dataset[0]["img"]
            images = images if images.ndim == 4 else images[None]  # a video is a batch already
            seen = model.eval()(images.to(model.device)).cpu()
            seen = nn.functional.normalize(seen) if given.arguments["normalize_feature"] else seen
            _compute_distance_matrix(seen, seen, given.arguments["dist_metric"])
            if len(getattr(whole, "device_ids", ())) > 1 and given.arguments["dist_metric"] not in (
                "euclidean",
                "cosine",
            ):
                raise ConfigError(
                    "DataParallel over several GPUs gathers plain tensors; give the engine the model itself"
                )
    return _stock_run(*given.args, **given.kwargs)


def _load_pretrained_weights(model, weight_path) -> None:
    """torchreid's, which takes what fits and calls that a success however little it is; ours must mostly fit."""
    if isinstance(model, TorchreidModel):
        state, where = read_tensors(weight_path)
        own = model.state_dict()
        fitting = [name for name, value in state.items() if name in own and own[name].shape == value.shape]
        if 2 * len(fitting) < len(own):
            kind = f"{type(model.method).__name__} on {type(model.method.backbone).__name__}"
            raise CheckpointError(
                f"{where}: it fills {len(fitting)} of the {len(own)} tensors of {kind}, so it is of another model (on "
                "a hybrid backbone?); occplug.load reads weights with the config they were trained with"
            )
    _stock_load_pretrained(model, weight_path)


def _our_functions() -> list[tuple]:
    from occplug.imagefile import read_image

    loads = [sub("utils.torchtools"), sub("utils"), sub("utils.feature_extractor")]
    return [
        *((module, "load_pretrained_weights", _load_pretrained_weights) for module in loads),
        (_manager, "build_transforms", _build_transforms),
        (_manager, "build_train_sampler", _build_train_sampler),
        (_metrics, "evaluate_rank", _evaluate_rank),
        (_metrics, "compute_distance_matrix", _compute_distance_matrix),
        (Engine, "run", _run),
        (_reader, "read_image", read_image),
    ]


# ---- in and out

_installed: list[contextlib.ExitStack] = []  # what `unregister` undoes
_unbound: list = []  # the pipelines built last, until their training images are known
_ABSENT = object()


def _put(stack: contextlib.ExitStack, container: dict, key: str, value) -> None:
    """`container[key] = value`; closing the stack undoes it, unless somebody else has changed the entry since."""
    before = container.get(key, _ABSENT)
    if before is value:
        return

    def undo():
        if container.get(key) is value:
            container.pop(key) if before is _ABSENT else container.update({key: before})

    container[key] = value
    stack.callback(undo)


def _swap(stack: contextlib.ExitStack, owner, name: str, function) -> None:
    """As `_put`, for a function of a module or class."""
    before = getattr(owner, name)
    setattr(owner, name, function)
    stack.callback(lambda: setattr(owner, name, before) if getattr(owner, name) is function else None)


def _add(stack: contextlib.ExitStack, table: dict, entries: dict, replaceable: dict) -> None:
    """Put `entries` into `table`; an entry of that name may only be replaced if it is the one in `replaceable`."""
    for name, value in entries.items():
        present = table.get(name, value)
        if present is not value and present is not replaceable.get(name):
            raise ConfigError(f"torchreid already has a {name!r} ({present!r}); remove it before occplug.register()")
        _put(stack, table, name, value)


def register() -> None:
    """Put our models, data sets, samplers and transforms into torchreid, and cure its faults (see the top of the file).

    Calling it again adds what has entered our registries since. If it fails, torchreid is as before the call.

    Raises:
        ConfigError: somebody else has put a model or data set of the same name into torchreid.
    """
    datasets = {name: registry.get(registry.DATASETS, name) for name in registry.names(registry.DATASETS)}
    with contextlib.ExitStack() as stack:
        _add(stack, _models, _our_models(), replaceable={})
        _add(stack, _datasets, datasets, replaceable=_STOCK_DATASETS)
        if not _installed:
            stack.enter_context(safe_globals())
            for owner, name, function in _our_functions():
                _swap(stack, owner, name, function)
        _installed.append(stack.pop_all())


def unregister() -> None:
    """Take everything :func:`register` put into torchreid out again; does nothing if there is nothing."""
    while _installed:
        _installed.pop().close()
