"""The text tower against a plain reading of the formulas, and its cut at end-of-text."""

import pytest
import torch

from occplug.backbones import architecture, build_text_tower
from tests import clip_reference as reference
from tests.backbones.small import VIT, text_state


def tower_and_state():
    tower, state = build_text_tower(VIT), text_state()
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return tower, state


def test_features_are_those_of_the_formulas():
    tower, state = tower_and_state()
    embeddings = torch.randn(5, 9, 32)
    torch.testing.assert_close(tower(embeddings, 8), reference.text(state, embeddings, 2, 8), atol=1e-5, rtol=0)
    each = tower(embeddings, torch.tensor([3, 8, 0, 8, 5]))
    torch.testing.assert_close(each[0], reference.text(state, embeddings, 2, 3)[0], atol=1e-5, rtol=0)


def test_what_follows_end_of_text_changes_neither_values_nor_gradients():
    tower, _ = tower_and_state()
    whole = torch.randn(4, 77, 32, requires_grad=True)
    cut = whole.detach()[:, :12].clone().requires_grad_()
    features, cut_features = tower(whole, 11), tower(cut, 11)
    torch.testing.assert_close(cut_features, features, atol=1e-6, rtol=0)
    features.sin().sum().backward()
    cut_features.sin().sum().backward()
    torch.testing.assert_close(cut.grad, whole.grad[:, :12], atol=1e-6, rtol=0)
    assert not whole.grad[:, 12:].any()


def test_too_many_tokens_are_an_error():
    tower, _ = tower_and_state()
    with pytest.raises(ValueError, match="78 tokens, the text tower takes at most 77"):
        tower(torch.zeros(1, 78, 32), 77)


@pytest.mark.parametrize("name, embed", [("clip_vit_b16", 512), ("clip_rn50", 1024)])
def test_full_size_has_the_published_names_and_shapes(name, embed):
    with torch.device("meta"):
        tower = build_text_tower(architecture(name))
    shapes = {key: tuple(value.shape) for key, value in tower.state_dict().items()}
    assert shapes == reference.text_shapes(embed=embed)
    assert tower.transformer.resblocks[0].attn.num_heads == 8
