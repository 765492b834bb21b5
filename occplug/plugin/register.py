"""The plugin: what occplug puts into torchreid, and takes out again.

Importing this file changes nothing; :func:`register` changes table entries and functions of torchreid,
:func:`unregister` puts back what was there.

Faults of torchreid that are cured while registered, each with a test that shows the fault:

* a checkpoint torchreid saved cannot be read on torch >= 2.6: `torchreid_host.safe_globals`;
* `read_image` tries a broken file for ever: ours raises DataError; ranked galleries are drawn through it too;
* re-ranking squares distances that are squared already: those of our methods are not;
* ranking is a Python loop: `metrics.evaluate_rank` is ours;
* the CUHK03 metric uses `np.bool`, which numpy 1.24 to 1.26 do not have;
* labels depend on the order of a Python set: our Market, Duke and MSMT17 replace torchreid's;
* every epoch opens frozen layers and their batch norm: :class:`TorchreidModel` keeps them closed;
* `FeatureExtractor` goes on with other weights where the file is not there: an error; it takes `zoo://NAME`, too.

Data loading workers that are spawned (not forked) import torchreid again and see none of this.
"""

import contextlib
import contextvars
import functools
import inspect
import logging
import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from occplug import registry
from occplug import torchreid_host as host
from occplug.errors import CheckpointError, ConfigError
from occplug.evaluation import re_ranking, reranking_inputs
from occplug.method import build_method
from occplug.plugin.model import TorchreidModel, packed_distances
from occplug.runs.candidates import candidates
from occplug.torchreid_host import STOCK_TRANSFORMS, Engine, safe_globals, sub
from occplug.utils.tensors import read_tensors
from occplug.zoo.addresses import ZOO

__all__ = ["register", "unregister"]

_log = logging.getLogger(__name__)


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
        model = TorchreidModel(build_method(cfg, num_classes, 1, pretrained), loss)
        if model.image_size is not None:
            _say_input(f"{method_name} on {backbone_name}", model, model.image_size)
        return model

    return build_occplug_model


def _say_input(name: str, model: TorchreidModel, size: tuple[int, int]) -> None:
    """What a data manager must be given for this model; a warning where torchreid's default size does not fit."""
    height, width = size
    tower: Any = model.method.backbone
    stock = inspect.signature(host.ImageDataManager.__init__).parameters
    fits = (height, width) == (stock["height"].default, stock["width"].default)
    given = f"height={height}, width={width}"
    if hasattr(tower, "mean"):  # a tower of a user need not have stated its constants
        given += f", norm_mean={list(tower.mean)}, norm_std={list(tower.std)}"
    _log.log(logging.INFO if fits else logging.WARNING, "%s takes images of ImageDataManager(%s)", name, given)


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
    return host.stock_build_transforms(height, width, transforms, norm_mean, norm_std, **kwargs)


def _init_image_dataset(name, **kwargs):
    """torchreid's, which knows names alone; a name with a colon is a path to a user's own images."""
    from occplug.datasets.by_path import dataset_class

    return dataset_class(name)(**kwargs) if ":" in name else host.stock_init_dataset(name, **kwargs)


def _build_train_sampler(data_source, train_sampler, batch_size=32, num_instances=4, **kwargs):
    """torchreid's builder, with our samplers beside its own; ours are seeded with torch's initial seed."""
    while _unbound:  # a data manager calls this next after `_build_transforms`, with the images that some need
        _unbound.pop().bind(data_source, host.reader.read_image)
    sizes = {"batch_size": batch_size, "num_instances": num_instances}
    if train_sampler in host.attribute(sub("data.sampler"), "AVAI_SAMPLERS") or train_sampler not in registry.names(
        registry.SAMPLERS
    ):
        return host.stock_build_sampler(data_source, train_sampler, **sizes, **kwargs)
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
    return host.stock_cuhk03(*case, use_cython=use_cython) if use_metric_cuhk03 else evaluate_rank(*case)


# the model of ours in an engine's test, and the name of the distance there
_tested: contextvars.ContextVar[tuple[TorchreidModel | None, str]] = contextvars.ContextVar(
    "tested", default=(None, "")
)


def _compute_distance_matrix(input1, input2, metric="euclidean"):
    """torchreid's distances, and inside an engine's test those of our methods by their names."""
    return packed_distances(input1, input2, metric, host.stock_distances, _tested.get()[0])


def _re_ranking(q_g, q_q, g_g, *args, **kwargs):
    """torchreid's, which squares what it is given; a method of ours may give squared distances already."""
    model, metric = _tested.get()
    if model is None or metric not in model.metrics():
        return host.stock_re_ranking(q_g, q_q, g_g, *args, **kwargs)
    given = [np.asarray(distances) for distances in (q_g, q_q, g_g)]
    return re_ranking(*(reranking_inputs(*given) if model.method.squared_distance else given), *args, **kwargs)


@contextlib.contextmanager
def _comparing(engine, metric: str, normalize: bool):
    """Inside, distances are those of the engine's model, if it is ours. Raises ConfigError for one that does not fit.

    One image is embedded before, so that a wrong distance is not noticed only after all of them.
    """
    models = [(whole, getattr(whole, "module", whole)) for whole in engine._models.values()]  # of a DataParallel
    ours = [(whole, model) for whole, model in models if isinstance(model, TorchreidModel)]
    if not ours:
        yield
        return
    whole, model = ours[0]
    images = next(iter(engine.test_loader.values()))["query"].dataset[0]["img"]
    images = images if images.ndim == 4 else images[None]  # a video is a batch already
    packed = model.eval()(images.to(model.device)).cpu()
    model.check_metric(metric, normalize)
    if len(getattr(whole, "device_ids", ())) > 1 and metric in model.metrics():
        raise ConfigError(
            "DataParallel over several GPUs gathers plain tensors of copies that keep their layout to themselves; give "
            "the engine the model itself"
        )
    token = _tested.set((model, metric))
    try:
        _compute_distance_matrix(packed, packed, metric)
        yield
    finally:
        _tested.reset(token)


def _call_comparing(function, engine, args: tuple, kwargs: dict):
    given = inspect.signature(function).bind(engine, *args, **kwargs)
    given.apply_defaults()
    with _comparing(engine, given.arguments["dist_metric"], given.arguments["normalize_feature"]):
        return function(*given.args, **given.kwargs)


@functools.wraps(host.stock_run)
def _run(engine, *args, **kwargs):
    """torchreid's `Engine.run`, which would find out after training only that its distance does not fit our model."""
    return _call_comparing(host.stock_run, engine, args, kwargs)


@functools.wraps(host.stock_test)
def _test(engine, *args, **kwargs):
    """torchreid's `Engine.test`, which `run` calls, and users do."""
    return _call_comparing(host.stock_test, engine, args, kwargs)


def _load_pretrained_weights(model, weight_path) -> None:
    """torchreid's, which takes what fits and calls that a success however little it is; ours must mostly fit."""
    from_zoo = str(weight_path).startswith(ZOO)
    if from_zoo or isinstance(model, TorchreidModel):
        state, where = _zoo_tensors(str(weight_path)) if from_zoo else read_tensors(weight_path)
        here = model.state_dict()
        fitting = [name for name, value in state.items() if name in here and here[name].shape == value.shape]
        if 2 * len(fitting) < len(here):
            kind = type(model).__name__
            if isinstance(model, TorchreidModel):
                kind = f"{type(model.method).__name__} on {type(model.method.backbone).__name__}"
            raise CheckpointError(
                f"{where}: it fills {len(fitting)} of the {len(here)} tensors of {kind}, so it is of another model (on "
                "a hybrid backbone?); occplug.load reads weights with the config they were trained with"
            )
        model.load_state_dict({**here, **{name: state[name] for name in fitting}})
        return
    host.stock_load_pretrained(model, weight_path)


def _zoo_tensors(address: str) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by our names of the zoo entry `address`, and their file. Raises ConfigError if there is no such entry."""
    weights = candidates([], [address], [])[0].weights
    return weights.state, weights.where


def _check_isfile(path) -> bool:
    """For `FeatureExtractor`, which goes on with other weights where torchreid's own finds no file."""
    if str(path).startswith(ZOO) or os.path.isfile(path):
        return True
    raise CheckpointError(f"{path}: there is no such weight file")


def _our_functions() -> list[tuple]:
    from occplug.utils.imagefile import read_image

    loads = [sub("utils.torchtools"), sub("utils"), sub("utils.feature_extractor")]
    return [
        *((module, "load_pretrained_weights", _load_pretrained_weights) for module in loads),
        (sub("utils.feature_extractor"), "check_isfile", _check_isfile),
        (host.manager, "build_transforms", _build_transforms),
        (host.manager, "build_train_sampler", _build_train_sampler),
        (host.manager, "init_image_dataset", _init_image_dataset),
        (host.metrics, "evaluate_rank", _evaluate_rank),
        (host.metrics, "compute_distance_matrix", _compute_distance_matrix),
        (host.engines, "re_ranking", _re_ranking),
        (Engine, "run", _run),
        (Engine, "test", _test),
        (host.reader, "read_image", read_image),
        (host.drawing, "cv2", host.CvWithOurPictures()),
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
        _add(stack, host.MODELS, _our_models(), replaceable={})
        _add(stack, host.IMAGE_DATASETS, datasets, replaceable=host.STOCK_DATASETS)
        if not _installed:
            stack.enter_context(safe_globals())
            for owner, name, function in _our_functions():
                _swap(stack, owner, name, function)
        _installed.append(stack.pop_all())


def unregister() -> None:
    """Take everything :func:`register` put into torchreid out again; does nothing if there is nothing."""
    while _installed:
        _installed.pop().close()
