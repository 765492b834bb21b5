"""Checkpoint files: safe to read, and a misfit is explained."""

import os

import pytest
import torch
from torch import nn

from occplug.engine import load_checkpoint, load_weights, save_checkpoint
from occplug.errors import CheckpointError


class Evil:
    def __reduce__(self):
        return os.system, ("touch should-not-exist",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="refused, because reading it would run code stored in the file"):
        load_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "should-not-exist").exists()


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"PK\x03\x04 cut off"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint file"):
        load_checkpoint(tmp_path / "none.pth")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of occplug; official files are read by"):
        load_checkpoint(tmp_path / "foreign.pth")


def test_half_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "cut.pth"
    save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(path)


class Net(nn.Module):
    def __init__(self, classes=3, tokens=5):
        super().__init__()
        self.classifier = nn.Linear(2, classes, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, 2))


def test_every_misfit_is_listed_with_its_cause():
    weights = Net(classes=4).state_dict()
    with pytest.raises(CheckpointError) as caught:
        load_weights(Net(), weights, "a.pth")
    assert str(caught.value) == (
        "a.pth does not fit Net: it was trained with another number of identities (another data set?)\n"
        "  classifier.weight is [4, 2] in the file and [3, 2] in the model"
    )
    with pytest.raises(CheckpointError, match="another image size or backbone.stride"):
        load_weights(Net(), Net(tokens=9).state_dict(), "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_weights(Net(), {"extra": torch.zeros(1), "classifier.weight": torch.zeros(3, 2)}, "a.pth")
    text = str(caught.value)
    assert "missing in the file: positional_embedding" in text and "unknown to the model: extra" in text


def test_a_misfit_changes_nothing():
    net = Net()
    before = net.classifier.weight.clone()
    with pytest.raises(CheckpointError):
        load_weights(net, {"classifier.weight": torch.ones(3, 2)}, "a.pth")
    assert torch.equal(net.classifier.weight, before)
