"""Raw products of a CLIP's features against its logit scale."""

import math
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from occplug.backbones import CLIPResNet, CLIPViT, architecture, build_text_tower, tiny
from occplug.backbones.temperature import PERSON, product_of_norms
from occplug.backbones.weights import TOKEN_TABLE, fit_clip, load_clip
from occplug.config import load_config
from occplug.errors import ConfigError
from occplug.runs.record import embedded
from tests.backbones.small import RESNET, SIZE, VIT, resnet_state, text_state, vit_state


def test_the_sentence_is_the_tokenizers():
    tokenizer = SimpleTokenizer()
    assert list(PERSON) == [tokenizer.sot_token_id, *tokenizer.encode("a photo of a person."), tokenizer.eot_token_id]


@pytest.mark.parametrize(("make", "arch", "state"), [(CLIPViT, VIT, vit_state), (CLIPResNet, RESNET, resnet_state)])
def test_products_are_those_of_the_towers_and_leave_them_as_they_were(make, arch, state):
    tower, text, weights = make(arch, SIZE), build_text_tower(arch), {**state(), **text_state()}
    fit_clip(weights, "test", tower, text)
    before, random = {k: v.clone() for k, v in tower.state_dict().items()}, torch.get_rng_state()
    tower.train()
    value = product_of_norms(tower, text, weights[TOKEN_TABLE])
    assert tower.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())
    with torch.no_grad():
        text.text_projection *= 3
    assert product_of_norms(tower, text, weights[TOKEN_TABLE]) == pytest.approx(3 * value, rel=1e-5)


@pytest.mark.parametrize(("factor", "word"), [(1, None), (1.5, None), (12, "sharp"), (1 / 12, "flat")])
def test_scaled_copies_of_the_embedded_clip_are_named(factor, word, caplog):
    state = tiny.load()
    state["text_projection"] = state["text_projection"] * factor
    arch = architecture("clip_vit_tiny")
    tower, text = CLIPViT(arch, (128, 64)), build_text_tower(arch)
    fit_clip(state, "a copy", tower, text)
    warned = [line.message for line in caplog.records if line.levelname == "WARNING"]
    assert len(warned) == (word is not None) and all(f"times too {word}" in line for line in warned)


def test_the_embedded_clip_has_openais_image_norm_and_products_at_its_temperature():
    state, arch = tiny.load(), architecture("clip_vit_tiny")
    tower, text = CLIPViT(arch, (128, 64)), build_text_tower(arch)
    fit_clip(state, "the embedded CLIP", tower, text)
    images = torch.rand(8, 3, 128, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        assert 6 < tower.eval()(images).projected.norm(dim=1).mean() < 15
    scale = math.exp(state["logit_scale"])
    assert scale / 1.7 < product_of_norms(tower, text, state[TOKEN_TABLE]) < scale * 1.7


def test_an_even_split_gives_both_sides_one_norm_and_the_same_products():
    arch, images = architecture("clip_vit_tiny"), torch.rand(8, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    words, found = torch.randint(0, 1000, (4, 8), generator=torch.Generator().manual_seed(2)), {}
    for source in tiny.NAMES:
        tower, text = CLIPViT(arch, (128, 64)).eval(), build_text_tower(arch).eval()
        load_clip(source, tower, text)
        with torch.no_grad():
            table = tiny.load_named(source)[TOKEN_TABLE]
            found[source] = tower(2 * images - 1).projected, text(table[words], 7)
    (image, text), (even_image, even_text) = found.values()
    torch.testing.assert_close(even_image @ even_text.T, image @ text.T, rtol=1e-4, atol=1e-4)
    # as far as these pictures and words have the mean norms of training: 10 and 1.92, each the root of 19.2 here
    norms = [each.norm(dim=1).mean().item() for each in (even_image, even_text)]
    expected = math.sqrt(math.exp(tiny.load()["logit_scale"]))
    assert all(expected / 1.5 < norm < expected * 1.5 for norm in norms)
    assert norms[0] / image.norm(dim=1).mean().item() == pytest.approx(expected / 10, rel=1e-3)


def test_an_even_split_is_of_the_tiny_clip_alone():
    config = Path(__file__).parents[2] / "configs/clip_reid_synthocc.yaml"
    assert load_config(config, ["backbone.weights", "embedded_even"]).backbone.weights == "embedded_even"
    even = embedded(load_config(config, ["backbone.weights", "embedded_even"]))
    assert even == embedded(load_config(config, [])) != {}
    with pytest.raises(ConfigError, match="'embedded_even', which clip_vit_b16 does not have; use 'openai'"):
        load_config(config.with_name("clip_reid_occduke.yaml"), ["backbone.weights", "embedded_even"])
