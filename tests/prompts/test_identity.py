"""Identity prompts against prompts put together by hand from a token table."""

import pytest
import torch

from occplug.backbones import architecture, build_text_tower
from occplug.errors import ConfigError
from occplug.prompts import IdentityPrompts, tokenise
from occplug.registry import PROMPTS, get

PERSON = "A photo of a {4} person."
IDS = [49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407]


def test_token_ids_are_those_of_the_official_code():
    assert tokenise("A photo of a X X X X person.") == IDS
    prompts = IdentityPrompts(8, 3, PERSON)
    assert prompts.ids == IDS
    assert (list(prompts.slots), prompts.eot) == ([5, 6, 7, 8], 11)
    assert prompts.template.shape == (12, 8) and prompts.context.shape == (3, 4, 8)


def test_prompts_are_prefix_context_suffix():
    table = torch.randn(49408, 8)
    prompts = IdentityPrompts(8, 6, PERSON)
    prompts.fill(table)
    labels = torch.tensor([4, 0, 4])
    by_hand = torch.stack([torch.cat([table[IDS[:5]], prompts.context[i], table[IDS[9:]]]) for i in labels])
    assert torch.equal(prompts(labels), by_hand)


def test_only_the_labelled_identities_get_a_gradient_and_only_their_context():
    prompts = IdentityPrompts(8, 5, PERSON)
    (prompts(torch.tensor([1, 3, 3])) * 2).sum().backward()
    assert [name for name, _ in prompts.named_parameters()] == ["context"]
    assert prompts.context.grad[:, 0, 0].tolist() == [0, 2, 0, 4, 0]


@pytest.mark.parametrize(
    "template, slots, ids",
    [
        ("{2} person", [1, 2], [49406, 343, 343, 2533, 49407]),
        ("person {1}", [2], [49406, 2533, 343, 49407]),
        ("a {3}person", [2, 3, 4], [49406, 320, 343, 343, 343, 2533, 49407]),
        ("{1}", [1], [49406, 343, 49407]),
        ("X person X", [1, 3], [49406, 343, 2533, 343, 49407]),
    ],
)
def test_learnable_tokens_may_stand_anywhere(template, slots, ids):
    prompts = IdentityPrompts(8, 2, template)
    assert (list(prompts.slots), prompts.ids) == (slots, ids)
    row = prompts(torch.tensor([1]))[0]
    assert torch.equal(row[slots], prompts.context[1])


def test_context_starts_from_a_narrow_normal():
    values = IdentityPrompts(64, 100, PERSON).context.detach()
    assert abs(values.std() - 0.02) < 1e-3 and abs(values.mean()) < 1e-3


def test_tokens_of_a_second_group_are_their_own_parameter():
    table = torch.randn(49408, 8)
    prompts = IdentityPrompts(8, 5, "a X person occluded by Y Y")
    prompts.fill(table)
    assert prompts.context.shape == (5, 1, 8) and prompts.others.shape == (5, 2, 8)
    start, person, end = table[[49406, 320]], table[tokenise("person occluded by")[1:-1]], table[[49407]]
    by_hand = torch.cat([start, prompts.context[3], person, prompts.others[3], end])
    assert torch.equal(prompts(torch.tensor([3, 1]))[0], by_hand)
    prompts(torch.tensor([3, 1])).sum().backward()
    assert prompts.others.grad[:, 0, 0].tolist() == [0, 1, 0, 1, 0] == prompts.context.grad[:, 0, 0].tolist()


def test_dispersed_tokens_take_their_places_among_the_words():
    table = torch.randn(49408, 8)
    prompts = IdentityPrompts(8, 3, "a X person with X X hair")
    prompts.fill(table)
    ids = tokenise("a X person with X X hair")
    assert prompts.slots == [2, 5, 6]
    for label in range(3):
        rows = [table[i] for i in ids]
        for j, position in enumerate(prompts.slots):
            rows[position] = prompts.context[label, j]
        assert torch.equal(prompts(torch.tensor([label]))[0], torch.stack(rows))


def test_shared_tokens_are_one_row_for_all_identities():
    prompts = IdentityPrompts(8, 5, "a X person occluded by Y Y", shared=True)
    rows = prompts(torch.tensor([0, 4, 4]))
    assert prompts.others.shape == (1, 2, 8)
    assert torch.equal(rows[:, prompts.other_slots], prompts.others.expand(3, -1, -1))
    assert IdentityPrompts(8, 5, PERSON).others is None


def test_fixed_tokens_get_no_gradient_and_stay_when_prompts_are_made():
    prompts = IdentityPrompts(8, 2, "a X person")
    before = prompts.template.clone()
    prompts(torch.tensor([0, 1])).sum().backward()
    assert torch.equal(prompts.template, before) and not prompts.template.requires_grad


def test_a_template_too_long_for_clip_is_an_error():
    with pytest.raises(ConfigError, match="has 80 tokens; CLIP takes at most 77"):
        IdentityPrompts(8, 2, "person " * 74 + "{4}")
    assert len(IdentityPrompts(8, 2, "person " * 71 + "{4}").ids) == 77


def test_a_table_that_does_not_fit_is_an_error():
    prompts = IdentityPrompts(8, 2, PERSON)
    with pytest.raises(ValueError, match="token table is \\[49408, 9\\]; ids reach 49407 and embeddings are 8"):
        prompts.fill(torch.zeros(49408, 9))
    with pytest.raises(ValueError, match="token table is \\[100, 8\\]"):
        prompts.fill(torch.zeros(100, 8))


def test_features_equal_those_of_the_padded_text():
    arch = architecture("clip_vit_tiny")
    text, prompts = build_text_tower(arch).double(), IdentityPrompts(128, 3, PERSON).double()
    table = torch.randn(49408, 128, dtype=torch.float64) * 0.02
    prompts.fill(table)
    labels = torch.arange(3)
    cut = prompts(labels)
    padded = torch.cat([cut, table[torch.zeros(3, 65, dtype=torch.long)]], dim=1)  # id 0 is a real embedding
    features, whole = text(cut, prompts.eot), text(padded, prompts.eot)
    torch.testing.assert_close(features, whole, atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(features.sin().sum(), prompts.context, retain_graph=True)
    (expected,) = torch.autograd.grad(whole.sin().sum(), prompts.context)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_it_is_registered():
    assert get(PROMPTS, "identity") is IdentityPrompts
