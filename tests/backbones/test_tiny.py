"""The shipped tiny CLIP, and the compact file format it is stored in."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save_file

from occplug.backbones import tiny
from occplug.errors import CheckpointError

ROOT = Path(__file__).parents[2]

IDS = torch.tensor([320, 343, 2533, 49406, 49407])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CLIP(**tiny.ARCHITECTURE)


@pytest.fixture
def random_file(model, tmp_path):
    state = dict(model.state_dict())
    tiny.save(tmp_path / "tiny.safetensors", state, IDS, {"world": "500", "samples": "7"})
    return tmp_path / "tiny.safetensors", state


def test_shipped_file_loads_strictly_into_the_architecture(model):
    model.load_state_dict(tiny.load(), strict=True)
    assert model.visual.output_dim == 96 and model.visual.transformer.width == 128


def test_shipped_file_is_small_half_precision_and_says_what_it_is():
    assert tiny.ASSET.stat().st_size < 4.5e6
    metadata = tiny.read_metadata()
    assert json.loads(metadata["config"]) == tiny.ARCHITECTURE
    assert metadata["world"] == "500" and int(metadata["samples"]) > 0
    with safe_open(str(tiny.ASSET), framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys() if key != "token_ids"}  # noqa: SIM118
        rows, ids = file.get_slice("token_rows").get_shape(), file.get_tensor("token_ids")
    assert kinds == {torch.float16} and rows == [len(ids), 128] and len(ids) >= 2000


def test_shipped_file_has_trained_rows_for_caption_words_and_stored_ones_for_templates():
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    about = tiny.describe()
    trained, stored = set(about["trained"]), set(about["trained"]) | set(about["stored_untrained"])
    assert trained >= {49406, 49407, *encode("a photo of a person wearing black trousers and white shoes, red shirt")}
    template = "A photo of a X X X X person occluded by X X, head, arms and torso, legs, feet. posture backpack"
    assert stored >= set(encode(template))
    assert not trained & set(about["stored_untrained"]) and len(stored) + about["absent"] == 49408


def test_shipped_values_are_finite():
    assert all(value.isfinite().all() for value in tiny.load().values())


def test_round_trip_keeps_fp16_values_and_refills_the_other_rows(random_file):
    path, state = random_file
    loaded = tiny.load(path)
    assert loaded.keys() == state.keys()
    for key in state.keys() - {tiny.TABLE}:
        assert torch.equal(loaded[key], state[key].half().float())
    table = loaded[tiny.TABLE]
    assert table.shape == (49408, 128) and torch.equal(table[IDS], state[tiny.TABLE][IDS].half().float())
    reference = np.random.Generator(np.random.PCG64(0)).normal(0, 0.02, (49408, 128)).astype(np.float16)
    others = np.setdiff1d(np.arange(49408), IDS.numpy())
    assert np.array_equal(table.numpy()[others], reference[others].astype(np.float32))


def test_a_table_of_just_the_vocabulary_gives_the_same_file(random_file, tmp_path):
    path, state = random_file
    rows = {**state, tiny.TABLE: state[tiny.TABLE][IDS]}
    tiny.save(tmp_path / "rows.safetensors", rows, IDS, {})
    whole, part = tiny.load(path), tiny.load(tmp_path / "rows.safetensors")
    assert all(torch.equal(whole[key], part[key]) for key in whole)


def test_describe_tells_trained_rows_from_noise(model, tmp_path):
    state = dict(model.state_dict())
    state[tiny.TABLE] = tiny.initial_table()
    state[tiny.TABLE][2533] += 0.1
    tiny.save(tmp_path / "t.safetensors", state, IDS, {})
    about = tiny.describe(tmp_path / "t.safetensors")
    assert about["trained"] == [2533] and about["stored_untrained"] == [320, 343, 49406, 49407]
    assert about["absent"] == 49408 - 5


@pytest.mark.parametrize("ids", [[], [5, 3], [3, 3]])
def test_unordered_token_ids_are_refused(model, tmp_path, ids):
    with pytest.raises(ValueError, match="ascending"):
        tiny.save(tmp_path / "t.safetensors", model.state_dict(), torch.tensor(ids, dtype=torch.int32), {})
    assert not list(tmp_path.iterdir())


def test_a_table_of_the_wrong_size_is_refused(model, tmp_path):
    state = {**model.state_dict(), tiny.TABLE: torch.zeros(3, 128)}
    with pytest.raises(ValueError, match="3 rows; 5 or the whole vocabulary"):
        tiny.save(tmp_path / "t.safetensors", state, IDS, {})


def test_unusable_files_are_refused_by_name(random_file, tmp_path):
    path, _ = random_file
    with pytest.raises(CheckpointError, match="there is no such file; install occplug again"):
        tiny.load(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut.safetensors: not a readable safetensors file"):
        tiny.load(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a tiny CLIP of occplug"):
        tiny.load(tmp_path / "other.safetensors")


def test_another_architecture_is_refused(random_file, tmp_path):
    path, _ = random_file
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = {**file.metadata(), "config": json.dumps({**tiny.ARCHITECTURE, "embed_dim": 160})}
    save_file(tensors, tmp_path / "wide.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="wide.safetensors: its architecture is .*160"):
        tiny.load(tmp_path / "wide.safetensors")


def test_shipped_weights_tell_clothes_of_new_people_but_nothing_without_them(model):
    from pretraining.render import Scene
    from pretraining.scoring import score, take_sample
    from pretraining.texts import RowTokenizer

    model.load_state_dict(tiny.load())
    tokenize = RowTokenizer(torch.arange(49408))
    scene = Scene(seed=1, cameras=6, severity=0.6, occluded=0.0)
    people = score(model, tokenize, take_sample(scene, range(150, 230)))
    nobody = score(model, tokenize, take_sample(scene._replace(person=False), range(150, 230)))
    # chance is 11, 33 and 13 per cent; the bands leave room for a retrained file
    assert people.attributes["bottom_color"] > 0.3 and people.attributes["bottom_type"] > 0.45
    assert people.retrieval["image to caption R@10"] > 0.3
    assert nobody.attributes["bottom_color"] < 0.25 and nobody.retrieval["image to caption R@10"] < 0.25


def test_the_docs_say_of_occluders_what_the_card_says():
    card, docs = (ROOT / name for name in ("occplug/assets/clip_vit_tiny.md", "docs/backbones.md"))
    rows = re.findall(r"^\| ([a-z ]+) \| [\d.]+ \| ([\d.]+) \|$", card.read_text(), re.M)
    benchmark = dict(rows[next(n for n, (name, _) in enumerate(rows) if name == "car") :])
    said = docs.read_text().partition("**The tiny CLIP.**")[2].partition("**The activation")[0]
    assert re.findall(r"\d+\.\d", said) == [
        "7.7",
        *(benchmark[k] for k in ("mean of kinds", "umbrella", "sign", "nothing")),
    ]
    kinds = sorted((float(v), k) for k, v in benchmark.items() if k not in ("mean of kinds", "nothing"))
    assert len(kinds) == 12
    assert [k for _, k in kinds[:3]] == ["sign", "wall", "fence"] and [k for _, k in kinds[:-4:-1]] == [
        "umbrella",
        "box",
        "plant",
    ]
