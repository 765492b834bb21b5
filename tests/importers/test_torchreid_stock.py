"""Checkpoints of torchreid's own models."""

import numpy as np
import pytest
import torch

from occplug.errors import CheckpointError, ConfigError
from occplug.importers import SOURCES, load_official
from occplug.torchreid_host import build_stock_model

NAME = "osnet_x0_25"


@pytest.fixture(scope="module")
def stock():
    torch.manual_seed(3)
    return build_stock_model(NAME, 11, "softmax", pretrained=False, use_gpu=False).eval()


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_saved_model_embeds_as_before(stock, tmp_path, wrapped, prefix):
    state = {prefix + name: value for name, value in stock.state_dict().items()}
    content = {"state_dict": state, "epoch": 60, "rank1": np.float64(0.5)} if wrapped else state
    torch.save(content, tmp_path / "model.pth.tar-60")
    found = load_official(f"torchreid:{NAME}", tmp_path / "model.pth.tar-60")
    images = torch.randn(2, 3, 64, 32)
    assert not found.training and found.net.classifier.weight.shape[0] == 11
    with torch.no_grad():
        torch.testing.assert_close(found.embed(images).vector, stock(images), atol=1e-6, rtol=0)


def test_a_state_dict_in_memory_is_taken(stock):
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = stock(images)
    found = load_official(f"torchreid:{NAME}", stock.state_dict()).embed(images)
    torch.testing.assert_close(found.vector, expected, atol=1e-6, rtol=0)


def test_all_that_does_not_fit_is_listed(stock):
    state = {**stock.state_dict(), "fc.0.bias": torch.zeros(3), "extra": torch.zeros(1)}
    del state["conv1.conv.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_official(f"torchreid:{NAME}", state)
    assert str(caught.value).splitlines() == [
        "the state dict does not fit torchreid's osnet_x0_25",
        "  wrong shape: fc.0.bias is [3], expected [512]",
        "  missing: conv1.conv.weight",
        "  unknown: extra",
    ]


@pytest.mark.parametrize("weights", [[1, 2], "/etc/hostname"])
def test_a_file_whose_weights_are_none_is_refused(weights, tmp_path):
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth: these entries are no plain tensors of numbers: state_dict"):
        load_official(f"torchreid:{NAME}", tmp_path / "a.pth")


def test_unknown_models_and_necks_are_errors():
    with pytest.raises(ConfigError, match="torchreid has no model called 'osnet'"):
        load_official("torchreid:osnet", {"a": torch.zeros(1)})
    with pytest.raises(ConfigError, match=f"there are: {', '.join(SOURCES)}, torchreid:<model name>"):
        load_official("torchreid", {})
    with pytest.raises(ConfigError, match="stock torchreid models have no such choice"):
        load_official(f"torchreid:{NAME}", {}, neck="after")
