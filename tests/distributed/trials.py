"""One training step, or a short run, of small models: what every process of a test computes."""

import contextlib
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from occplug.backbones.architectures import ARCHITECTURES
from occplug.config import default_config
from occplug.data.cache import cached_pictures
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.distributed import SplitImages, Splitter, check_agreement, current_ranks
from occplug.distributed.parts import even_bounds
from occplug.distributed.split import Plan
from occplug.engine import load_checkpoint, seed_everything
from occplug.errors import ConfigError
from occplug.evaluation import extract
from occplug.method import parameter_groups
from occplug.runs.same_start import check_same_start, check_same_weights
from occplug.runs.session import build_engine
from occplug.transforms import Resize
from occplug.utils.imagefile import read_image
from tests.backbones.small import RESNET

CLASSES, CAMERAS = 12, 4
COMMON = [
    "data.height", 64, "data.width", 32, "data.workers", 0, "data.transforms", ["random_flip", "random_erase_pixel"],
    "sampler.train_sampler", "identity", "sampler.num_instances", 2, "train.batch_size", 12, "test.batch_size", 10,
]  # fmt: skip
NO_WEIGHTS = ["backbone.weights", "none"]
MASKS, NET = ["method.mask_levels", [1, 2, 5, 6]], ["method.saliency.levels", [1, 2, 5, 6]]
MIXING = ["method.spt", True, "method.transfer.p_mix", 1.0, "method.transfer.select", "random", *NET]
WGFF = ["backbone.wgff.clip", "clip_vit_tiny", "backbone.wgff.lsnet", "lsnet_mini", "backbone.stride", 8]

# name -> (model, backbone, options): every method, and each part that looks at a whole batch
MODELS = {
    "clip_reid": ("clip_reid", "clip_vit_tiny", ["backbone.sie_camera", True]),
    "clip_reid_spt": ("clip_reid", "clip_vit_tiny", MIXING),
    "dpl_reid": ("dpl_reid", "clip_vit_tiny", []),
    "dpl_reid_wgff": ("dpl_reid", "wgff", WGFF),
    "ag_reid": ("ag_reid", "clip_vit_tiny", ["method.attributes.width", 48]),
    "profd": ("profd", "clip_vit_tiny", ["masks.source", "stripes"]),
    "dpm": ("dpm", "clip_vit_tiny", MASKS),
    "dpmpp": ("dpmpp", "clip_vit_tiny", [*MASKS, *MIXING, "method.train.alternating", True]),
    "osnet_x0_25": ("osnet_x0_25", None, ["model.pretrained", False, "loss.name", "triplet", "train.max_epoch", 2]),
}
# further towers: batch norm in a CLIP, windows with stochastic depth, texts that learn beside a tower without any
TOWERS = {
    "clip_rn50": ("clip_reid", "clip_rn50", []),
    "swin": ("clip_reid", "solider_swin_mini", ["method.prompts", False, "backbone.drop_path", 0.3]),
    "joint": ("dpl_reid", "vit_mini", ["prompts.source", "joint"]),
}


def config(name, *options):
    model, backbone, own = (MODELS | TOWERS)[name]
    weights = NO_WEIGHTS if backbone else []
    cfg = default_config(model, backbone, [*COMMON, *weights, *own, *options])
    cfg.defrost()
    for stage in cfg.method.values():
        if isinstance(stage, dict) and "epochs" in stage:
            stage["epochs"] = 2
            if "batch_size" in stage:
                stage["batch_size"] = 10
    cfg.freeze()
    return cfg


def started(name, folder, *options):
    cfg = config(name, *options)
    seed_everything(1)
    data = GeneratedDataManager(cfg, CLASSES, CAMERAS)
    with mock.patch.dict(ARCHITECTURES, clip_rn50=RESNET):  # a small one
        engine = build_engine(cfg, data, Path(folder), torch.device("cpu"), pretrained=False)
    for parameter in engine.model.parameters():
        if not parameter.any():  # what starts at zero hides the gradient of what comes before it
            torch.nn.init.normal_(parameter, std=0.02)
    return engine


@contextlib.contextmanager
def double_precision():
    """float64 in place of float32 everywhere, so that a formula is right or wrong and not rounded."""
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = single


@double_precision()
def run(name, *options, folder=None, resume=False, stop_after=None):
    """Two epochs of each stage -> weights and buffers.

    Args:
        folder: of the run; None for one that goes.
        resume: from the last state in `folder`.
        stop_after: (stage, epoch) after whose state the run ends.
    """
    with tempfile.TemporaryDirectory() as other:
        engine = started(name, folder or other, *options)
        engine.test = lambda **options: 0.0
        state = load_checkpoint(Path(folder) / "checkpoints" / "last.pth") if resume else None
        if stop_after is not None:
            save = engine.save_state

            def save_and_stop(epoch, *args, **options):
                save(epoch, *args, **options)
                if (engine.stage_name, epoch) == stop_after:
                    raise KeyboardInterrupt

            engine.save_state = save_and_stop
        with contextlib.suppress(KeyboardInterrupt):
            engine.run_stages(state)
        return engine.model.state_dict()


def tested(name, *options):
    """mAP, embeddings of the gallery, and features of stage 1 of a model with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        engine = started(name, folder, *options)
        engine.model.eval()
        engine.test(**engine.test_options())
        gallery, *labels, paths = extract(engine.embed, engine.test_loader["market1501"]["gallery"], flip=True)
        cache = engine.stages[0].loader(engine.datamanager)
        engine.stages[0].prepare(engine.datamanager, engine.device)
        features = {"gallery": gallery.vector, "cache": cache.features, "cached labels": cache.labels}
        features |= {f"copies {n} {key}": value for n, copy in enumerate(cache.draws) for key, value in copy.items()}
        return engine.results["market1501"].mAP, features, paths


def batches(name, *options):
    """The first batches of two epochs, whole."""
    with tempfile.TemporaryDirectory() as folder:
        data = started(name, folder, *options).datamanager
        found = []
        for epoch in (0, 1):
            data.set_epoch(epoch)
            for batch in data.train_loader:
                images = batch["img"]
                whole = images.whole() if isinstance(images, SplitImages) else images
                found.append({key: value for key, value in batch.items() if key != "img"} | {"images": whole})
        return found


class Drawing(torch.nn.Module):
    splits = "images"

    def forward(self, images):
        return torch.nn.functional.dropout(images)


def failing(kind):
    """Each kind fails on rank 1 alone, or everywhere for a reason that only rank 0 knows."""
    ranks = current_ranks()
    if kind == "differing":
        ranks.check_same({"seed": ranks.rank, "same": 1}, "the cure")
    if kind == "main":
        with ranks.entered_by_main(refusing()):
            pass
    if kind == "not finite":
        with tempfile.TemporaryDirectory() as folder:
            engine = started("clip_reid", folder, "method.prompts", False)
            whole = engine.datamanager.train_loader

            def poisoned():
                for batch in whole:
                    if ranks.rank == ranks.world - 1:
                        batch["img"].images[0] = float("nan")
                    yield batch

            engine.stages[0].loader = lambda data: list(poisoned())
            engine.run_stages()
    if kind == "draws":  # as many on each rank, so that the generators stay alike
        tower = Drawing()
        with Splitter(ranks).installed(tower):
            tower(SplitImages(torch.ones(2, 3, 4, 2), Plan(ranks, even_bounds(2 * ranks.world, ranks.world))))
    if kind == "random":
        torch.manual_seed(ranks.rank)
        check_agreement(ranks, torch.nn.Identity())
    if kind == "apart":
        model = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(model.bias)
        model.weight.data[:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).roll(ranks.rank, 0)  # of the same sum
        check_agreement(ranks, model)


def same_start(roots, weights=False):
    """What `train` compares at its start; each rank has a root folder of its own."""
    rank = current_ranks().rank
    if weights:
        torch.manual_seed(rank)
        return check_same_weights(torch.nn.Linear(2, 2))
    options = ["data.root", roots[rank], "data.sources", ["market1501"], "data.targets", ["market1501"]]
    cfg = config("profd", *options, "masks.source", "files", "masks.directory", "parts")
    return check_same_start(cfg, DataManager(cfg))


@contextlib.contextmanager
def refusing():
    raise ConfigError("refused by rank 0")
    yield


@double_precision()
def gradients(name, *options):
    """The first step of each stage -> losses, and the gradient of everything it trains."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        engine = started(name, folder, *options)
        for stage in engine.stages:
            parts = [stage.groups, *(extra.groups for extra in stage.extra_optimizers)]
            groups = parameter_groups(engine.model, [group for part in parts for group in part])
            engine.model.eval()
            stage.prepare(engine.datamanager, engine.device)
            loader = stage.loader(engine.datamanager) if stage.loader else engine.datamanager.train_loader
            engine._models["model"] = engine.model
            engine.set_model_mode("train")
            seed_everything(3)
            batch = next(iter(loader)) | {"epoch": 1}
            batch["img"] = batch["img"].to(torch.float64) if "img" in batch else None
            with engine.splitter.installed(engine.model):
                with engine.splitter.step():
                    losses = stage.losses(batch)
                sum(stage.weights[key] * loss for key, loss in losses.items()).backward()
                engine.splitter.reduce(parameter for group in groups for parameter in group["params"])
            found |= {f"{stage.name} {key}": loss.detach() for key, loss in losses.items()}
            found |= {f"{stage.name} {n}": p.grad for n, p in engine.model.named_parameters() if p.grad is not None}
            engine.model.zero_grad()
    return found


def cached(where, paths):
    """The file that a rank reads cached pictures from, whether it has made it, and their mean."""
    made = []

    def read(path):
        made.append(path)
        return read_image(path)

    cache = cached_pictures(where, "a", paths, read, Resize(8, 4))
    rows = [np.asarray(cache[number]) for number in range(len(paths))]
    current_ranks().objects(None)  # the first process keeps the memory until all have read it
    return cache.file, bool(made), float(np.mean(rows))


TRIALS = {trial.__name__: trial for trial in (run, gradients, tested, batches, failing, cached, same_start)}
