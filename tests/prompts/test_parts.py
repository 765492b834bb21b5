"""Part prompts: the words, where the learnable tokens stand, and that texts are computed once at test."""

import pytest
import torch

from occplug.backbones import architecture, build_text_tower
from occplug.errors import ConfigError
from occplug.prompts import PART_SCHEMES, PartPrompts, tokenise

WIDTH = 128


def table():
    return torch.arange(49408.0)[:, None].expand(-1, 4).contiguous()  # the embedding of a token is its id


def test_five_parts_end_where_the_official_texts_end():
    assert PartPrompts(4).eot.tolist() == [19, 19, 22, 22, 19, 19]


@pytest.mark.parametrize("scheme, parts", [("five_v", 5), ("eight", 8), ("four_v", 4), ("three_v", 3), ("two_v", 2)])
def test_each_row_is_start_context_name_full_stop_end(scheme, parts):
    prompts = PartPrompts(4, scheme, context_tokens=3)
    prompts.fill(table())
    rows = prompts()
    assert len(rows) == parts + 1 and prompts.context.shape == (parts + 1, 3, 4)
    for row, context, end, name in zip(rows, prompts.context, prompts.eot, PART_SCHEMES[scheme]):
        assert torch.equal(row[1:4], context)
        fixed = torch.cat([row[:1], row[4 : end + 1]])[:, 0].long().tolist()
        assert fixed == tokenise(f"{name}.")


def test_a_shared_context_stands_in_every_row():
    prompts = PartPrompts(4, context_tokens=3, shared=True)
    assert prompts.context.shape == (3, 4)
    assert all(torch.equal(row[1:4], prompts.context) for row in prompts())
    prompts()[:, 1].sum().backward()
    assert torch.equal(prompts.context.grad[0], torch.full((4,), 6.0))


def test_what_follows_the_end_does_not_matter():
    text, prompts = build_text_tower(architecture("clip_vit_tiny")), PartPrompts(WIDTH)
    with torch.no_grad():
        before = text(prompts(), prompts.eot)
        shortest = int(prompts.eot.min())
        prompts.template[prompts.eot == shortest, shortest + 1 :] += 5.0
        torch.testing.assert_close(text(prompts(), prompts.eot), before)


def test_texts_are_computed_once_without_gradient_and_again_after_any_change():
    tower, prompts, calls = build_text_tower(architecture("clip_vit_tiny")), PartPrompts(WIDTH), []
    tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = prompts.encode(tower)
        assert prompts.encode(tower) is first and len(calls) == 1
        tower.text_projection.mul_(2.0)
        torch.testing.assert_close(prompts.encode(tower), 2 * first)
        prompts.load_state_dict({key: value + 1 for key, value in prompts.state_dict().items()})
        assert not torch.allclose(prompts.encode(tower), 2 * first) and len(calls) == 3
    trained = prompts.encode(tower)
    assert trained.requires_grad and len(calls) == 4
    with torch.no_grad():
        prompts.encode(tower)
    assert len(calls) == 5, "an optimiser may have stepped after the call with gradient"


def test_wrong_arguments_are_errors():
    with pytest.raises(ConfigError, match="method.parts is 'six'; prompts exist for: five_v, eight"):
        PartPrompts(4, "six")
    for count in (0, 71):
        with pytest.raises(ConfigError, match=f"method.context_tokens is {count}; .* from 1 to 70"):
            PartPrompts(4, context_tokens=count)
    with pytest.raises(ValueError, match=r"token table is \[49408, 5\]"):
        PartPrompts(4).fill(torch.zeros(49408, 5))
