"""Stripes, SynthOcc's true masks in every grouping, and their degraded versions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from occplug.datasets.synthocc import CODES, GROUPS, group_parts
from occplug.errors import ConfigError
from occplug.masks import SCHEMES, PartMasks, RenderedMasks, Stripes, build_source
from occplug.masks.degrade import degraded


def options(**changed):
    return SimpleNamespace(
        **{"source": "stripes", "scheme": "five_v", "noise": "none", "noise_strength": 0.1, **changed}
    )


def rendered(folder, codes):
    file = folder / "0001_c1.png"
    Image.fromarray(np.asarray(codes, np.uint8)).save(file)
    return SimpleNamespace(name="synthocc", part_mask_path=lambda image: str(file))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stripes_are_equal_and_in_order(scheme):
    parts = len(SCHEMES[scheme])
    masks = PartMasks([Stripes(scheme, (256, 128))], 256, 128)
    labels = masks.labels([("any", 0)], masks.places[None])[0]
    assert labels.shape == (parts + 1, 64, 32)
    expected = 1 + (torch.arange(0, 256, 4) * parts // 256)
    assert torch.equal(labels.argmax(0), expected[:, None].expand(-1, 32)) and labels.amax(0).min() > 0.999


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_part_code_belongs_to_one_part_of_every_scheme(scheme):
    codes = sorted(code for group in GROUPS[scheme].values() for code in group)
    assert codes == [code for code in range(1, 16) if scheme != "eight" or code != CODES["skirt"]]


# the part number of each of the 15 codes (head, torso 2, arms 4, thighs 2, shanks 2, feet 2, carried, skirt)
PARTS = {
    "five_v": [1, 2, 3, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5, 3, 4],
    "four_v": [1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 2, 3],
    "three_v": [1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 2, 3],
    "two_v": [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 2],
}


@pytest.mark.parametrize("scheme", PARTS)
def test_rendered_masks_are_grouped_pixel_by_pixel(tmp_path, scheme):
    codes = np.random.default_rng(0).integers(0, 16, (64, 32))
    source = RenderedMasks(scheme, rendered(tmp_path, codes))
    maps = source.maps("query/0001_c1.jpg")
    expected = np.array([0, *PARTS[scheme]])[codes]
    assert torch.equal(maps, torch.stack([torch.from_numpy(expected == k).float() for k in range(1, len(maps) + 1)]))
    masks = PartMasks([source], 64, 32)
    labels = masks.labels([("query/0001_c1.jpg", 0)], masks.places[None])[0]
    assert np.array_equal(labels.argmax(0).numpy(), expected[::4, ::4])


def test_rendered_masks_at_another_image_size_take_the_nearest_pixel(tmp_path):
    codes = np.random.default_rng(0).integers(0, 16, (64, 32))
    masks = PartMasks([RenderedMasks("five_v", rendered(tmp_path, codes))], 128, 64)
    labels = masks.labels([("q/0001_c1.jpg", 0)], masks.places[None])[0]
    assert np.array_equal(labels.argmax(0).numpy(), group_parts(codes.astype(np.uint8), "five_v")[::2, ::2])


def test_only_rendered_sets_have_rendered_masks():
    with pytest.raises(ConfigError) as caught:
        build_source(options(source="synthocc"), SimpleNamespace(name="market1501"), [], (64, 32))
    assert str(caught.value) == (
        "masks.source is 'synthocc', but the data set market1501 has no rendered masks; set it to files or stripes"
    )


def test_noise_on_files_is_refused():
    with pytest.raises(ConfigError, match="masks.noise is 'eroded', but masks.source is 'files'; noise is put on"):
        build_source(options(source="files", noise="eroded"), SimpleNamespace(name="market1501"), [], (64, 32))


def test_sizes_that_cells_do_not_fill_are_refused():
    with pytest.raises(ConfigError, match="data.height and data.width are 66 and 32; .* multiples of 4"):
        PartMasks([], 66, 32)


# ---------------------------------------------------------------------- noise


def blocks(parts=5, height=40, width=20):
    return Stripes("five_v", (height, width)).maps("")[:parts].clone()


def test_erosion_takes_a_border_but_not_at_the_frame():
    eroded = degraded(blocks(), "eroded", 0.05, "a/b.jpg")  # 2 of 40 pixels
    rows = [row.nonzero()[:, 0].tolist() for row in eroded[:, :, 0]]
    assert rows == [
        list(range(0, 6)),
        list(range(10, 14)),
        list(range(18, 22)),
        list(range(26, 30)),
        list(range(34, 40)),
    ]
    assert torch.equal(eroded, eroded[:, :, :1].expand(-1, -1, 20))


def test_a_shift_moves_all_parts_alike_by_the_given_length():
    maps = torch.zeros(2, 41, 41)
    maps[0, 20, 20] = maps[1, 22, 18] = 1
    moves = set()
    for number in range(40):
        moved = degraded(maps, "shifted", 0.2, f"a/{number}.jpg")
        (_, y0, x0), (_, y1, x1) = moved.nonzero().tolist()
        assert (y1 - y0, x1 - x0) == (2, -2) and abs(np.hypot(y0 - 20, x0 - 20) - 8.2) < 0.75
        moves.add((y0 > 20, x0 > 20))
    assert len(moves) == 4


def test_a_shift_out_of_the_image_leaves_nothing():
    far = [degraded(torch.ones(1, 10, 3), "shifted", 1.0, f"a/{n}.jpg").sum() for n in range(20)]
    assert min(far) == 0


def test_swaps_exchange_pairs_of_parts_at_the_given_rate():
    maps, moved = blocks(), []
    for number in range(400):
        order = degraded(maps, "swapped", 0.4, f"a/{number}.jpg").argmax(1)[:, 0] // 8
        assert sorted(order.tolist()) == list(range(5))
        assert torch.equal(order[order], torch.arange(5)), "pairs"
        moved.append((order != torch.arange(5)).sum().item())
    assert set(moved) == {2}  # 0.4 * 5 / 2 = 1 pair
    rates = [
        (degraded(maps, "swapped", 0.2, f"a/{n}.jpg").argmax(1)[:, 0] // 8 != torch.arange(5)).sum() for n in range(400)
    ]
    assert 0.8 <= np.mean(rates) <= 1.2


@pytest.mark.parametrize("noise", ["eroded", "shifted", "swapped"])
def test_noise_is_the_same_for_an_image_wherever_it_lies(noise):
    source = build_source(options(noise=noise, noise_strength=0.5), None, [], (40, 20))
    one, other = source.maps("/data/synthocc/query/0001.jpg"), source.maps("/elsewhere/query/0001.jpg")
    assert torch.equal(one, other)
    assert torch.equal(degraded(blocks(), noise, 0.0, "a/b.jpg"), blocks())
