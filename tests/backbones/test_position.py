"""Grids, and the resize of position embeddings."""

import pytest
import torch

from occplug.backbones.position import patch_grid, resize_positions, stored_grid
from tests import clip_reference as reference


@pytest.mark.parametrize(
    "stored, grid", [((14, 14), (16, 8)), ((14, 14), (21, 10)), ((7, 7), (16, 8)), ((4, 6), (5, 3)), ((16, 8), (8, 16))]
)
def test_resize_is_bilinear_without_antialiasing(stored, grid):
    positions = torch.randn(1 + stored[0] * stored[1], 5)
    torch.testing.assert_close(
        resize_positions(positions, stored, grid), reference.resize(positions, stored, grid), atol=5e-6, rtol=0
    )


def test_the_same_grid_is_left_alone_and_copied():
    positions = torch.randn(13, 5)
    same = resize_positions(positions, (4, 3), (4, 3))
    assert torch.equal(same, positions) and same.data_ptr() != positions.data_ptr()


def test_hand_computed_resize():
    positions = torch.tensor([[9.0], [0.0], [4.0]])  # class token, then a grid of 1 row and 2 columns
    assert resize_positions(positions, (1, 2), (1, 4)).flatten().tolist() == [9, 0, 1, 3, 4]


@pytest.mark.parametrize("stride, grid", [(16, (16, 8)), (12, (21, 10))])
def test_patch_grid_at_published_sizes(stride, grid):
    assert patch_grid((256, 128), 16, stride) == grid


def test_stored_grid_prefers_the_known_grids_over_a_square():
    assert stored_grid(197, [(16, 8)]) == (14, 14)
    assert stored_grid(129, [(7, 7), (16, 8)]) == (16, 8)
    assert stored_grid(65, [(16, 4)]) == (16, 4)
    assert stored_grid(65, []) == (8, 8)
    assert stored_grid(131, [(16, 8)]) is None
    assert stored_grid(1, [(16, 8)]) is None and stored_grid(0, []) is None
