"""The two small towers without texts in the package: what is in their files and cards, and what they know."""

import re

import pytest
import torch
from safetensors import safe_open

from occplug.backbones import load_initial, swin, vit
from occplug.errors import ConfigError
from occplug.evaluation.linear_probe import linear_probe
from occplug.registry import BACKBONES, build
from pretraining.lsnet import NAMES
from pretraining.render import Scene
from pretraining.scoring import take_sample
from pretraining.texts import PHRASES, VALUES
from pretraining.trainer import to_pixels

FILES = {"vit_mini": vit.EMBEDDED, "solider_swin_mini": swin.EMBEDDED}


@pytest.mark.parametrize("name", list(FILES))
def test_the_file_is_small_half_precision_and_fills_the_tower(name):
    file, tower = FILES[name], build(BACKBONES, name)
    assert file.stat().st_size < 3e6
    load_initial("embedded", tower)
    with safe_open(str(file), framework="pt") as content:
        assert content.metadata()["world"] == "500" and int(content.metadata()["samples"]) > 0
        stored = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - not a dict
    here = tower.visual.state_dict()
    assert stored.keys() == here.keys()
    for key, value in stored.items():
        assert value.dtype == torch.float16 and torch.equal(here[key], value.float()) and value.isfinite().all()


@pytest.mark.parametrize("name", list(FILES))
def test_the_card_has_the_command_and_five_attributes_are_well_above_chance(name):
    card = FILES[name].with_suffix(".md").read_text()
    assert re.search(rf"tools/pretrain_lsnet.py --tower {name} (--start \S+ )?--out occplug/assets/{name}\.", card)
    assert "CC0-1.0" in card and "not photographs" in card and name in NAMES
    millions = sum(p.numel() for p in build(BACKBONES, name).parameters()) / 1e6
    assert f"{millions:.2f} M parameters" in card
    rows = {name: (float(chance), float(found)) for name, chance, found in re.findall(
        r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)}  # fmt: skip
    assert rows.keys() == set(PHRASES)
    assert all(chance == round(100 / len(VALUES[name]), 1) for name, (chance, _) in rows.items())
    assert sum(found > chance + 5 for chance, found in rows.values()) >= 5


@pytest.mark.parametrize("name", list(FILES))
def test_its_features_tell_the_colour_of_trousers_which_a_random_tower_tells_worse(name):
    sample = take_sample(Scene(seed=500, cameras=200, severity=1.0, occluded=0.0), range(40_000, 40_160))
    pixels, label = to_pixels(torch.from_numpy(sample.images)), sample.labels["bottom_color"]
    scores = []
    for weights in ("embedded", "none"):
        torch.manual_seed(0)
        tower = build(BACKBONES, name)
        load_initial(weights, tower)
        with torch.no_grad():
            features = tower.eval()(pixels).feature
        scores.append(linear_probe(features, label, torch.arange(len(label)) // 2, shuffles=0).accuracy)
    assert scores[0] > scores[1] + 0.1, scores


def test_other_towers_have_no_weights_in_the_package():
    for name in ("vit_s16", "solider_swin_t"):
        with pytest.raises(ConfigError, match="'embedded', which"):
            load_initial("embedded", build(BACKBONES, name))
