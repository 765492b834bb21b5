"""The Swin of SOLIDER: its levels at any semantic weight, what can be changed on the way, and what it refuses."""

import pytest
import torch

from occplug.backbones.swin import Swin
from occplug.engine.checkpoint import check_same_meaning
from occplug.errors import CheckpointError, ConfigError
from tests import swin_reference

SIZES = {"width": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 4, 8)}
IMAGES = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(2))


def tower(**options):
    made = Swin(SIZES, (64, 32), **options).eval()
    made.visual.load_state_dict(swin_reference.state(**SIZES), strict=False)
    return made


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_levels_and_means_are_those_of_the_reference_at_each_semantic_weight(weight):
    expected = swin_reference.levels(swin_reference.state(**SIZES), IMAGES, SIZES["heads"], weight=weight)
    seen = tower(semantic_weight=weight)(IMAGES, tokens=True, blocks=[1, 2, 3, 4])
    for number, level in enumerate(expected, start=1):
        torch.testing.assert_close(seen.blocks[number], level.float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(seen.feature, expected[3].flatten(2).mean(2).float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(seen.last, expected[2].flatten(2).mean(2).float(), atol=2e-5, rtol=1e-5)
    assert torch.equal(seen.tokens, seen.blocks[4].flatten(2).transpose(1, 2)) and seen.grid == (2, 1)


def test_a_checkpoint_of_another_semantic_weight_is_refused():
    state = {"bound_to": tower(semantic_weight=1.0).bound_to()}
    with pytest.raises(CheckpointError, match=r"backbone\.semantic_weight '1\.0', and this run has '0\.2'"):
        check_same_meaning(state, tower().bound_to(), "x.pth")


def test_patches_are_changed_on_their_own_grid_after_the_embedding():
    made = tower()
    assert made.patch_grid == (16, 8) and made.level_grid == (4, 2) and made.grid == (2, 1)
    given = []

    def change(patches):
        given.append(patches)
        return 2 * patches

    changed = made(IMAGES, change=change, blocks=[1])
    assert torch.equal(given[0], made.embed_patches(IMAGES)) and given[0].shape == (1, 16 * 8, 8)
    edited = made(IMAGES, edits={0: lambda x: 2 * x}, blocks=[1])
    assert torch.equal(changed.blocks[1], edited.blocks[1])
    assert not torch.equal(changed.blocks[1], made(IMAGES, blocks=[1]).blocks[1])


@pytest.mark.parametrize("number, shape", [(1, (16, 8, 4)), (2, (32, 4, 2)), (3, (64, 2, 1))])
def test_edits_get_the_map_that_enters_the_next_stage_and_leave_earlier_levels_alone(number, shape):
    seen = []

    def edit(x):
        seen.append(x.shape[1:])
        return torch.zeros_like(x)

    made = tower()
    plain, edited = made(IMAGES, blocks=[1, 2, 3, 4]), made(IMAGES, edits={number: edit}, blocks=[1, 2, 3, 4])
    assert seen == [shape] and made.point_widths[number] == shape[0]
    same = [torch.equal(plain.blocks[n], edited.blocks[n]) for n in (1, 2, 3, 4)]
    assert same == [n <= number for n in (1, 2, 3, 4)]


def test_what_a_swin_does_not_have_is_refused():
    made = tower()
    for asked in ({"attention": [1]}, {"class_scores": True}, {"blocks": [0]}, {"blocks": [5]}, {"edits": {4: abs}}):
        with pytest.raises(ValueError, match=r"a Swin has|edits of a Swin"):
            made(IMAGES, **asked)
    with pytest.raises(ConfigError, match=r"backbone\.stride is 8"):
        Swin(SIZES, (64, 32), stride=8)
    with pytest.raises(ConfigError, match="no class token for a camera embedding"):
        Swin(SIZES, (64, 32), num_cameras=2)


def test_only_training_drops_paths_and_the_controller_is_not_trained():
    made = tower(drop_path=0.9)
    torch.testing.assert_close(made(IMAGES).feature, tower()(IMAGES).feature)
    assert made.train() is made
    trained = {name for name, _ in made.named_parameters()}
    assert trained and not any("semantic_embed" in name for name in trained)
    assert sum("semantic_embed" in name for name in made.state_dict()) == 16
