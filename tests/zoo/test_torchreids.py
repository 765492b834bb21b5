"""What torchreid's own engine makes of our models: its checkpoints are tested by our commands, its sizes are said."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import occplug
from occplug import torchreid_host as host
from occplug.config import default_config
from occplug.data.manager import GeneratedDataManager
from occplug.errors import CheckpointError, ConfigError
from occplug.runs.candidates import Candidate, engine_of
from occplug.zoo.weights import read_test_weights

CLASSES = 5


@pytest.fixture
def registered():
    occplug.register()
    yield
    occplug.unregister()


def saved(model, folder):
    """As torchreid's engine writes it after an epoch."""
    state = {"state_dict": model.state_dict(), "epoch": 1, "rank1": np.float64(0.5), "optimizer": {}, "scheduler": {}}
    host.sub("utils.torchtools").save_checkpoint(state, str(folder))
    return folder / "model.pth.tar-1"


@pytest.mark.parametrize("name", ["clip_reid_vit_tiny", "dpm_vit_tiny", "profd_vit_tiny"])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_checkpoint_of_torchreids_engine_is_tested_by_ours(registered, tmp_path, name, parallel):
    model = host.MODELS[name](num_classes=CLASSES, pretrained=False).eval()
    path = saved(nn.DataParallel(model) if parallel else model, tmp_path)
    weights = read_test_weights(path)
    assert weights.num_classes == CLASSES
    method = name.removesuffix("_vit_tiny")
    settings = [x for k, v in type(model.method).in_one_stage.items() for x in (f"method.{k}", v)]
    options = [*settings, "data.workers", 0, "data.targets", ["synthocc"], "data.sources", ["synthocc"]]
    cfg = default_config(method, "clip_vit_tiny", options)
    data = GeneratedDataManager(cfg, trains=False)
    engine = engine_of(Candidate(cfg, "", weights), data, tmp_path, torch.device("cpu"))
    images = torch.rand(2, 3, 128, 64)
    torch.testing.assert_close(engine.model.embed(images).pack(), model.method.embed(images).pack())


@pytest.mark.parametrize("content", [{"epoch": 1}, {"state_dict": {}}, {"state_dict": {"a": [1]}, "epoch": 2}, [1]])
def test_other_files_are_refused_as_before(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth: (not a checkpoint of occplug|its part 'state_dict' is not)"):
        read_test_weights(tmp_path / "a.pth")


def test_a_model_says_its_input_when_it_is_built(registered, caplog):
    caplog.set_level(logging.INFO, "occplug")
    host.MODELS["clip_reid_vit_tiny"](num_classes=CLASSES, pretrained=False)
    (record,) = [r for r in caplog.records if "takes images of" in r.getMessage()]
    assert record.levelno == logging.WARNING  # torchreid's default size does not fit
    assert (
        "ImageDataManager(height=128, width=64, norm_mean=[0.5, 0.5, 0.5], norm_std=[0.5, 0.5, 0.5])" in record.message
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_another_size_are_named_with_the_cure(registered, mode):
    model = host.MODELS["clip_reid_vit_tiny"](num_classes=CLASSES, pretrained=False)
    getattr(model, mode)()
    message = r"the images are 256 x 128, and this model takes 128 x 64 .*give ImageDataManager\(height=128, width=64\)"
    with pytest.raises(ConfigError, match=message):
        model(torch.rand(2, 3, 256, 128))
    assert tuple(model.image_size) == (128, 64)
