"""Raw products of a CLIP's features against its logit scale."""

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from occplug.backbones import CLIPResNet, CLIPViT, build_text_tower
from occplug.backbones.temperature import PERSON, product_of_norms
from occplug.backbones.weights import TOKEN_TABLE, fit_clip
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
