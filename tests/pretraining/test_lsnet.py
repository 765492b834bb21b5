"""The small towers without texts: what is trained, kept and gone on from."""

import pytest
import torch
from safetensors.torch import load_file

from occplug.backbones import load_initial
from occplug.registry import BACKBONES, build
from pretraining import lsnet, pool
from pretraining.pool import Pool, render_chunks
from pretraining.render import Scene
from pretraining.texts import PHRASES, VALUES

SCENE = Scene(seed=500, cameras=3, severity=1.0, occluded=0.5)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 8)
    render_chunks(tmp_path, [0, 1], SCENE)
    made = Pool(tmp_path, 2, SCENE)
    made.refresh()
    return made


@pytest.mark.parametrize("name", ["vit_mini", "solider_swin_mini", "lsnet_mini"])
def test_a_step_trains_the_tower_and_what_is_saved_is_the_tower_alone(images, name, tmp_path):
    torch.manual_seed(0)
    before = lsnet.AttributeNet(name).state_dict()
    net, counts = lsnet.train(images, range(2), batch=2, minutes=2e-3, name=name)
    assert counts["samples"] == 2 * counts["steps"] > 0 and not net.training
    moved = [key for key, value in net.state_dict().items() if not torch.equal(before[key], value)]
    assert any(key.startswith("tower.") for key in moved) and any(key.startswith("heads.") for key in moved)
    logits = net(torch.zeros(1, 3, 128, 64))
    assert {key: value.shape[1] for key, value in logits.items()} == {key: len(VALUES[key]) for key in PHRASES}
    lsnet.save(net, tmp_path / "w.safetensors", {"world": "500"})
    if name != "lsnet_mini":
        tower = build(BACKBONES, name)
        load_initial(str(tmp_path / "w.safetensors"), tower)
        torch.testing.assert_close(tower.visual.state_dict(), net.tower.visual.state_dict(), atol=1e-3, rtol=1e-3)


def test_training_goes_on_from_a_file(images, tmp_path, monkeypatch):
    net = lsnet.AttributeNet("vit_mini")
    with torch.no_grad():
        net.tower.visual.cls_token.fill_(0.25)
    lsnet.save(net, tmp_path / "w.safetensors", {})
    monkeypatch.setitem(lsnet.NAMES, "vit_mini", (0.0, 1))
    again, _ = lsnet.train(images, range(2), 2, 2e-3, name="vit_mini", start=tmp_path / "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(value, stored[key].float()) for key, value in again.tower.visual.state_dict().items())
