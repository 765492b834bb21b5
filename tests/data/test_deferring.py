"""Batches that are finished on the device: the same to the bit as those finished in the data loader."""

import pickle
import random

import pytest
import torch

from occplug.engine.base import RunMixin
from occplug.runs.session import build_engine
from occplug.transforms import RawBatch, pipeline
from occplug.transforms.pipeline import PerBatch
from tests.data.test_manager import manager, market

ERASERS = [["random_erase_pixel"], ["random_erase"], ["random_erase", "random_erase_pixel"], []]


def passes(data, wanted):
    with data.deferring(wanted):
        data.set_epoch(2)
        loaders = [data.train_loader, *data.test_loader["occluded_duke"].values()]
        return [batch for loader in loaders for batch in loader]


@pytest.mark.parametrize("erasers", ERASERS)
@pytest.mark.parametrize("masks", ["none", "stripes"])
def test_the_images_are_the_same_to_the_bit(tmp_path, erasers, masks):
    model = ["model.name", "profd"] if masks == "stripes" else []
    options = ["data.transforms", ["random_flip", *erasers], "masks.source", masks, *model]
    data = manager(market(tmp_path), *options)
    expected, found = passes(data, False), passes(data, True)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one["img"], RawBatch) and one["img"].pixels.dtype == torch.uint8
        assert one["img"].shape == other["img"].shape and one.keys() == other.keys()
        assert torch.equal(one["img"].to("cpu"), other["img"])
        assert torch.equal(one["img"].to("cpu"), other["img"]), "a second pass over the same batch"
        assert "masks" not in one or torch.equal(one["masks"], other["masks"])
    assert ("masks" in found[0]) == (masks == "stripes")
    assert all(isinstance(batch["img"], torch.Tensor) for batch in passes(data, False))


@pytest.mark.parametrize("erasers", ERASERS)
def test_some_rows_of_a_batch(tmp_path, erasers):
    """What a process has of a batch that is dealt to several."""
    data = manager(market(tmp_path), "data.transforms", ["random_flip", *erasers])
    images, per_batch = torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8), data.transform_tr.per_batch
    results = []
    for kept in (None, [2, 3, 7]):
        torch.manual_seed(4)
        random.seed(4)
        results.append(per_batch.deferred(images, kept=kept)[0].to("cpu"))
    assert torch.equal(results[0][[2, 3, 7]], results[1]) and len(results[1]) == 3


def test_what_cannot_be_finished_elsewhere_is_finished_here(tmp_path):
    data = manager(market(tmp_path))
    data.transform_tr.per_batch.transforms.append(lambda images: images + 1)
    assert isinstance(passes(data, True)[0]["img"], torch.Tensor)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_run_is_the_same(tmp_path, monkeypatch, micro_batch):
    ends = []
    for overlaps in (False, True):
        monkeypatch.setattr(RunMixin, "overlaps", overlaps)
        options = ["backbone.weights", "none", "method.prompts", False, "method.stage2.epochs", 1]
        data = manager(market(tmp_path), *options, "train.micro_batch", micro_batch)
        torch.manual_seed(0)
        engine = build_engine(data.cfg, data, tmp_path / str(overlaps), torch.device("cpu"), pretrained=False)
        engine.run_stages()
        ends.append((engine.model.state_dict(), engine.results["occluded_duke"].mAP))
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items())
    assert ends[0][1] == ends[1][1]


def test_a_run_of_a_stock_model_is_the_same(tmp_path, monkeypatch):
    """torchreid's engine writes its losses itself, so none come late; it moves images with `cuda`."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(RawBatch, "cuda", lambda self: self.to("cpu"))
    ends = []
    options = ["model.name", "osnet_x0_25", "model.pretrained", False, "train.max_epoch", 1]
    for overlaps in (False, True):
        monkeypatch.setattr(RunMixin, "overlaps", overlaps)
        data = manager(market(tmp_path), *options)
        torch.manual_seed(0)
        engine = build_engine(data.cfg, data, tmp_path / str(overlaps), torch.device("cpu"), pretrained=False)
        engine.use_gpu = True
        engine.run_stages()
        ends.append(engine.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_constants_of_a_batch_from_another_process_are_those_at_hand():
    """Each batch brings its pipeline with it, and making them again would wait for a GPU."""
    batches = [pickle.loads(pickle.dumps(PerBatch([0.5, 0.4, 0.3], [0.2, 0.2, 0.1]))) for _ in range(2)]
    one, other = (pipeline._scale_and_shift(each.mean, each.std, torch.device("cpu")) for each in batches)
    assert one[0] is other[0] and one[1] is other[1]
    pixel = torch.full((1, 3, 1, 1), 51, dtype=torch.uint8)
    torch.testing.assert_close(batches[0](pixel).flatten(), torch.tensor([-1.5, -1.0, -1.0]))
