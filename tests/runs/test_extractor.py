"""Trained weights for pictures of one's own."""

import numpy as np
import pytest
import torch
from PIL import Image

import occplug
from occplug.config import default_config, resolved_yaml
from occplug.embedding import Embedding
from occplug.engine import save_checkpoint
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.method import build_method
from occplug.zoo import read_index


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"crop {n}.png" for n in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (90, 40, 3), dtype=np.uint8)).save(path)
    return paths


PACKAGED = [entry.name for entry in read_index().entries.values() if entry.checkpoint and entry.checkpoint.file]


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_model_embeds_pictures_as_a_test_does(name, pictures):
    model = occplug.load(f"zoo://{name}")
    data = model.cfg.data
    found = model.embed(pictures, batch_size=2)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    small = [
        Image.open(p).convert("RGB").resize((data.width, data.height), filters[model.cfg.input.test_interpolation])
        for p in pictures
    ]
    images = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in small]) / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.norm_mean, data.norm_std))
    images, nobody = (images - mean) / std, torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        one, mirrored = model.method.embed(images, nobody), model.method.embed(images.flip(3), nobody)
    expected = (one.vector + mirrored.vector) / 2 if model.cfg.eval.flip else one.vector
    torch.testing.assert_close(found.vector, expected, atol=1e-4, rtol=1e-4)
    distances = model.distances(found[:2], found)
    assert distances.shape == (2, 5) and distances.argmin(dim=1).tolist() == [0, 1]
    opened = [Image.open(path) for path in pictures]
    torch.testing.assert_close(model.embed(opened).vector, found.vector, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_ones_own_brings_its_config(tmp_path, pictures):
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.weights", "none", "backbone.sie_camera", True])
    method = build_method(cfg, 4, 3).eval()
    state = {
        "state_dict": method.state_dict(),
        "pids": [1, 2, 3, 4],
        "cameras": [0, 1, 2],
        "bound_to": method.bound_to(),
    }
    save_checkpoint({**state, "config": resolved_yaml(cfg)}, tmp_path / "a.pth")
    model = occplug.load(tmp_path / "a.pth", options=["eval.flip", False])
    assert not model.cfg.eval.flip
    with pytest.raises(ConfigError, match="this model has a camera embedding .*; give camids"):
        model.embed(pictures)
    with pytest.raises(ConfigError, match="2 camids for 5 pictures"):
        model.embed(pictures, [0, 1])
    one, other = model.embed(pictures, [0] * 5), model.embed(pictures, [2] * 5)
    assert not torch.allclose(one.vector, other.vector)
    save_checkpoint(state, tmp_path / "b.pth")
    with pytest.raises(ConfigError, match="b.pth does not hold its config; name it with config_file"):
        occplug.load(tmp_path / "b.pth")


def test_mistakes_are_named(tmp_path, pictures):
    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    with pytest.raises(DataError, match="there is no picture to embed"):
        model.embed([])
    with pytest.raises(DataError, match="nobody.jpg: the image file is missing"):
        model.embed([*pictures, tmp_path / "nobody.jpg"])
    with pytest.raises(ConfigError, match="the model zoo has no entry 'clip_reid/vit/synthocc'"):
        occplug.load("zoo://clip_reid/vit/synthocc")
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        occplug.load(tmp_path / "none.pth")


def test_embeddings_travel_in_files(tmp_path):
    parts = Embedding(torch.randn(3, 4), torch.randn(3, 2, 4), torch.rand(3, 2))
    parts.save(tmp_path / "a.safetensors")
    found = Embedding.load(tmp_path / "a.safetensors")
    assert found.layout() == parts.layout() and torch.equal(found.pack(), parts.pack()) and found.mask is None
    with pytest.raises(DataError, match="none: there is no such file of embeddings"):
        Embedding.load(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"abc")
    with pytest.raises(DataError, match="b: not a file that Embedding.save wrote"):
        Embedding.load(tmp_path / "b")
