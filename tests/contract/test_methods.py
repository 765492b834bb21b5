"""What every registered method does, whoever wrote it: the contract of `occplug.method`, on the smallest sizes.

A method that is registered is tested without any further word: `CASES` has each with the smallest backbone it names,
and where it has one, with a small one of each kind that is no CLIP. What a kind lacks for a method is left out of its
config; what cannot be left out is refused when the config is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from occplug.config import default_config
from occplug.config.checks import declared_keys
from occplug.config.files import flatten
from occplug.data.manager import GeneratedDataManager
from occplug.embedding import Embedding
from occplug.engine import MethodEngine, load_checkpoint, seed_everything
from occplug.method import Method, build_method, parameter_groups
from occplug.registry import METHODS, TRANSFORMS, get, names
from occplug.runs.candidates import load_trained
from occplug.zoo.combinations import refusal

CLASSES, CAMERAS, SIZE = 8, 2, (64, 32)  # two batches an epoch
SMALLEST = {"clip_vit_tiny": {"backbone.stride": 8}}  # CLIPs small enough for here -> what they need
# a small one of every other kind -> what it needs; timm's in a run of the slow tests
FOREIGN: dict[str, dict] = {
    "vit_mini": {},
    "solider_swin_mini": {"data.height": 128, "data.width": 64},  # levels of 64x32 are too coarse for masks
    "timm:test_vit": {"data.width": 48, "backbone.stride": 8},  # masks need a grid of 4 x 4
    "timm:eva02_tiny_patch14_224": {"data.height": 112, "data.width": 56, "backbone.stride": 14},
    "timm:test_convnext": {"backbone.stride": 16},
}
# keys of a method that ask for what not every tower has -> what turns them off
OPTIONAL = {"hem": False, "spt": False, "mask": "none"}
# What takes time and is the same for each: sizes, epochs (the last stage has two, so that it can be interrupted)
USUAL = {
    "data.height": SIZE[0],
    "data.width": SIZE[1],
    "data.workers": 0,
    "train.batch_size": 8,
    "sampler.train_sampler": "identity",
    "sampler.num_instances": 2,
    "masks.source": "stripes",
    "run.deterministic": True,
}
SHORT = {"epochs": 1, "warmup_epochs": 0, "batch_size": 8}
LEVELS = {"clip_vit_tiny": [1, 2, 5, 6], "timm:eva02_tiny_patch14_224": [1, 2, 11, 12], "timm:test_vit": [1, 2, 5, 6]}


@dataclass(frozen=True)
class Case:
    """A method on a backbone (None: it has none)."""

    method: str
    backbone: str | None

    @property
    def id(self) -> str:
        return self.method if self.backbone is None else f"{self.method}-{self.backbone}"

    def config(self, folder):
        options = USUAL | {"data.save_dir": str(folder)} | self.of_backbone()
        levels = LEVELS.get(self.backbone or "", [1, 2, 3, 4])
        short = SHORT | {"levels": levels, "mask_levels": levels}
        for key, _ in flatten(get(METHODS, self.method).defaults):
            if key.split(".")[-1] in short:
                options[f"method.{key}"] = short[key.split(".")[-1]]
        options = [word for pair in options.items() for word in pair]
        cfg = default_config(self.method, self.backbone, options)
        last = self.build(cfg).stages()[-1].name
        return default_config(self.method, self.backbone, [*options, f"method.{last}.epochs", 2])

    def of_backbone(self) -> dict:
        """Keys that make the backbone fit, and those of the method that it does not allow."""
        if self.backbone is None:
            return {}
        if self.backbone in SMALLEST:
            return {"backbone.weights": "none", **SMALLEST[self.backbone]}
        weights = {"backbone.weights": "none", "prompts.clip": "clip_vit_tiny", "prompts.weights": "none"}
        options = weights | FOREIGN[self.backbone]
        if self.method == "profd":
            options["method.train.text_encoder_lr_mult"] = 0.0
        return options | self.left_out(options)

    def left_out(self, options: dict) -> dict:
        """The keys of OPTIONAL, off, whose refusal says that the backbone lacks what they need."""
        off: dict = {}
        while True:
            told = self.refused(options | off)
            named = [key for key in OPTIONAL if f"method.{key} is" in told and f"method.{key}" not in off]
            if not named:
                return off
            off[f"method.{named[0]}"] = OPTIONAL[named[0]]

    def refused(self, options: dict) -> str:
        """Why the method does not run on the backbone with the keys `options`; empty where it does."""
        return refusal(self.method, str(self.backbone), options)

    @staticmethod
    def build(cfg) -> Method:
        torch.manual_seed(0)
        return build_method(cfg, CLASSES, CAMERAS)


def _cases(name: str) -> list[Case]:
    known = get(METHODS, name).backbones
    small = [backbone for backbone in known.values() if backbone in SMALLEST]
    first = Case(name, small[0] if small else next(iter(known.values()), None))
    return [first, *(Case(name, backbone) for backbone in FOREIGN)] if small else [first]


ALL = [case for name in names(METHODS) for case in _cases(name)]
REFUSED = [case for case in ALL if case.backbone in FOREIGN and case.refused(case.of_backbone())]
CASES = [
    pytest.param(case, id=case.id, marks=pytest.mark.slow if (case.backbone or "").startswith("timm:") else ())
    for case in ALL
    if case not in REFUSED
]


def engine(cfg, folder, kind=MethodEngine):
    seed_everything(cfg.train.seed)
    data = GeneratedDataManager(cfg, CLASSES, CAMERAS)
    return kind(cfg, data, Case.build(cfg), folder, torch.device("cpu"), limit=2)


class Whole:
    """A complete run of a case."""

    def __init__(self, case: Case, folder):
        self.case, self.folder = case, folder
        self.cfg = case.config(folder)
        self.engine = engine(self.cfg, folder)
        self.engine.run_stages()
        self.method = self.engine.model
        size = (self.cfg.data.height, self.cfg.data.width) if case.backbone in FOREIGN else SIZE
        self.images = torch.randn(7, 3, *size, generator=torch.Generator().manual_seed(3))
        self.camids = torch.arange(7) % CAMERAS
        self.embedding = self.method.embed(self.images, self.camids)


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield Whole(request.param, tmp_path_factory.mktemp("run"))
    torch.use_deterministic_algorithms(before)


def test_methods_run_on_every_kind_of_backbone_but_where_they_say_what_it_lacks():
    told = {case.id: case.refused(case.of_backbone()) for case in REFUSED}
    assert told.keys() == {"profd-timm:eva02_tiny_patch14_224", "profd-timm:test_convnext"}
    assert "with part masks it must be a multiple of 4" in told["profd-timm:eva02_tiny_patch14_224"]
    assert "needs patch tokens" in told["profd-timm:test_convnext"]


@pytest.mark.parametrize("registry", [METHODS, TRANSFORMS], ids=lambda registry: registry.name)
def test_declarations_are_of_keys_that_exist(registry):
    for name in names(registry):
        entry = get(registry, name)
        keys = {key for key, _ in flatten(getattr(entry, "defaults", {}))}
        assert declared_keys(entry) <= {part for key in keys for part in _sections(key)}, name


def _sections(key: str) -> list[str]:
    words = key.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def test_it_trains_every_stage_and_is_tested(run):
    stages = run.method.stages()
    assert [record.name for record in run.engine.records] == [stage.name for stage in stages]
    assert len({stage.name for stage in stages}) == len(stages) > 0
    (result,) = run.engine.results.values()
    assert 0 <= result.mAP <= 1


def test_every_trained_parameter_has_a_finite_gradient(run, tmp_path):
    fresh = engine(run.cfg, tmp_path)
    method, data = fresh.model, fresh.datamanager
    for stage in fresh.stages:
        groups = [*stage.groups, *(group for extra in stage.extra_optimizers for group in extra.groups)]
        trained = [name for group in parameter_groups(method, groups) for name in group["names"]]
        assert trained and len(set(trained)) == len(trained)
        method.eval()
        stage.prepare(data, torch.device("cpu"))
        method.train()
        data.set_epoch(0)
        batch = next(iter(stage.loader(data) if stage.loader else data.train_loader)) | {"epoch": 1}
        losses = stage.losses(batch)
        assert set(losses) == set(stage.weights)
        assert all(loss.ndim == 0 and math.isfinite(loss.detach()) for loss in losses.values()), losses
        method.zero_grad()
        sum(stage.weights[name] * loss for name, loss in losses.items()).backward()
        gradients = {name: p.grad for name, p in method.named_parameters()}
        without = [name for name in trained if gradients[name] is None or not gradients[name].isfinite().all()]
        assert without == [], stage.name
        assert [name for name, gradient in gradients.items() if gradient is not None and name not in trained] == []


def test_training_moves_what_it_trains_and_nothing_else(run):
    before, after = Case.build(run.cfg).state_dict(), run.method.state_dict()
    groups = [g for stage in run.method.stages() for part in (stage, *stage.extra_optimizers) for g in part.groups]
    trained = {name for group in parameter_groups(run.method, groups) for name in group["names"]}
    parameters = {name for name, _ in run.method.named_parameters()}
    moved = {name for name in parameters if not torch.equal(before[name], after[name])}
    assert moved <= trained and len(moved) > 0.5 * len(trained)


def test_embeddings_are_finite_and_do_not_depend_on_the_batch(run):
    whole = run.embedding
    assert len(whole) == len(run.images) and whole.vector.dtype == torch.float32
    assert all(value is None or value.isfinite().all() for value in (whole.vector, whole.parts, whole.visibility))
    halves = [run.method.embed(run.images[rows], run.camids[rows]) for rows in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(Embedding.cat(halves).pack(), whole.pack(), rtol=1e-4, atol=1e-5)
    run.method.train()
    assert torch.equal(run.method.embed(run.images, run.camids).pack(), whole.pack()) and run.method.training


def test_pack_and_unpack_give_the_same(run):
    packed = run.embedding.pack()
    assert packed.ndim == 2 and len(packed) == len(run.embedding)
    again = Embedding.unpack(packed, run.embedding)
    for name in ("vector", "parts", "visibility", "mask"):
        one, other = getattr(run.embedding, name), getattr(again, name)
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other)), name


def test_distances_by_blocks_are_those_of_the_whole(run):
    query, gallery = run.embedding[:3], run.embedding
    whole = run.method.distance(query, gallery)
    assert whole.shape == (3, 7) and whole.dtype == torch.float32 and whole.isfinite().all()
    blocks = [[run.method.distance(query[[i]], gallery[rows]) for rows in (slice(0, 4), slice(4, 7))] for i in range(3)]
    blockwise = torch.cat([torch.cat(row, dim=1) for row in blocks])
    # near 0 a root or an arc cosine has the square root of the rounding error, so squares are compared
    torch.testing.assert_close(blockwise.square(), whole.square(), rtol=1e-4, atol=1e-5)
    own = whole[torch.arange(3), torch.arange(3)]
    assert (own <= whole.min(dim=1).values + 1e-3).all(), "nothing is nearer to an image than itself"
    named = run.method.named_distance()
    if named is not None:
        torch.testing.assert_close(named(query, gallery), whole)
    assert torch.equal(run.method.matcher(query, gallery), whole)


def test_saved_and_loaded_it_embeds_the_same(run):
    loaded = load_trained(run.cfg, str(run.folder / "checkpoints" / f"{run.method.stages()[-1].name}.pth"))
    assert torch.equal(loaded.embed(run.images, run.camids).pack(), run.embedding.pack())


def test_an_interrupted_run_ends_bit_equal(run, tmp_path):
    stages = run.method.stages()

    class Stop(MethodEngine):
        def forward_backward(self, data):
            if self.stage.name == stages[-1].name and (self.epoch, self.batch_idx) == (1, 1):
                raise KeyboardInterrupt
            return super().forward_backward(data)

    with pytest.raises(KeyboardInterrupt):
        engine(run.cfg, tmp_path, Stop).run_stages()
    again = engine(run.cfg, tmp_path)
    again.run_stages(load_checkpoint(tmp_path / "checkpoints" / "last.pth"))
    whole, resumed = run.method.state_dict(), again.model.state_dict()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_torchreids_engines_get_logits_and_features(run):
    logits, features = run.method.train().outputs(run.images, run.camids)
    assert logits and all(each.shape == (7, CLASSES) for each in logits)
    assert features and all(each.ndim == 2 and len(each) == 7 for each in features)
