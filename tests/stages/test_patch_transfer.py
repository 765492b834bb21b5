"""Patch transfer against loops: overlap, rolling, ranking, mixing, ignoring, and its guards."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.stages import PatchTransfer, Transfer
from occplug.stages.patch_transfer import (
    DEFAULTS,
    choose_candidates,
    foreign_share,
    grown,
    rolled_overlap,
)


class Options(SimpleNamespace):
    __getitem__ = SimpleNamespace.__getattribute__


def options(**changes):
    return Options(**{**DEFAULTS, **changes})


def random_masks(count, share=0.5, grid=(6, 4), seed=0):
    return torch.rand(count, *grid, generator=torch.Generator().manual_seed(seed)) < share


def plain_overlap(target, candidate, shift):
    """|roll(M_i) and M_j| / |M_j| cell by cell; the target's mask moves right and comes back on the left."""
    height, width = target.shape
    both = sum(
        bool(target[y, (x - shift) % width]) and bool(candidate[y, x]) for y in range(height) for x in range(width)
    )
    return both / int(candidate.sum())


def test_overlap_divides_by_the_candidate_and_rolls_the_target_with_wrap_around():
    masks = random_masks(5)
    found = rolled_overlap(masks)
    assert found.shape == (4, 5, 5)
    for r in range(4):
        for i in range(5):
            for j in range(5):
                assert found[r, i, j].item() == pytest.approx(plain_overlap(masks[i], masks[j], r), abs=1e-6)
    assert torch.allclose(found[0].diagonal(), torch.ones(5))
    corner, shifted = torch.zeros(2, 6, 4, dtype=torch.bool).unbind()
    corner[0, 3], shifted[0, 0] = True, True
    assert rolled_overlap(torch.stack([corner, shifted]))[:, 0, 1].tolist() == [0, 1, 0, 0]


def plain_candidates(masks, o):
    """The set of qualified candidates of each target, by sorting one list of (overlap, r, j) after the other."""
    count, result = len(masks), []
    shares = [float(m.float().mean()) for m in masks]
    for i in range(count):
        entries = []
        for r in range(masks.shape[2] if o.roll else 1):
            entries += [
                (plain_overlap(masks[i], masks[j], r), r * count + j, j) for j in range(count) if 0 < shares[j] < 1
            ]
        entries.sort(key=lambda e: (-e[0], e[1]))
        qualified = set()
        for score, _, j in entries[1 : max(int(o.alpha2 * count), 2)]:
            if j != i and plain_overlap(masks[i], masks[j], 0) > o.alpha1:
                if o.alpha2_abs is None or score > o.alpha2_abs:
                    qualified.add(j)
        result.append(qualified)
    return result


@pytest.mark.parametrize("roll", [True, False])
@pytest.mark.parametrize("alpha2_abs", [None, 0.9])
def test_flat_ranking_draws_from_the_official_list(roll, alpha2_abs):
    masks = random_masks(30, 0.75)
    masks[3], masks[7] = False, True  # empty and full: no candidates
    o = options(roll=roll, alpha2=0.3, alpha2_abs=alpha2_abs)
    expected = plain_candidates(masks, o)
    assert sum(map(bool, expected)) > 5 and not all(expected)
    drawn = [set() for _ in range(30)]
    for _ in range(150):
        for i, j in enumerate(choose_candidates(masks, o).tolist()):
            drawn[i].add(j)
    assert drawn == [candidates or {-1} for candidates in expected]


def test_overlap_under_autocast_counts_every_patch():
    """31 x 15 patches, as with `saliency.stride` 8: bfloat16 has no odd number beyond 256."""
    masks = torch.rand(4, 31, 15) < 0.7
    expected = rolled_overlap(masks)
    with torch.autocast("cpu", torch.bfloat16):
        found = rolled_overlap(masks)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_per_candidate_ranking_takes_each_candidates_best_shift():
    masks = random_masks(21, 0.75, seed=1)
    o = options(rank="per_candidate", alpha2=0.2, alpha2_abs=0.8)
    overlap = [[[plain_overlap(a, b, r) for r in range(4)] for b in masks] for a in masks]
    expected = []
    for i in range(21):
        ranked = sorted(
            (j for j in range(21) if j != i and overlap[i][j][0] > 0.7), key=lambda j: (-max(overlap[i][j]), j)
        )[:4]
        expected.append({j for j in ranked if max(overlap[i][j]) > 0.8})
    drawn = [set() for _ in range(21)]
    for _ in range(150):
        for i, j in enumerate(choose_candidates(masks, o).tolist()):
            drawn[i].add(j)
    assert drawn == [candidates or {-1} for candidates in expected] and any(expected)


def test_random_selection_is_uniform_over_the_others_with_a_mask():
    masks = random_masks(6)
    masks[2] = False
    counts = torch.zeros(6, 6)
    for _ in range(400):
        counts[torch.arange(6), choose_candidates(masks, options(select="random"))] += 1
    assert (counts.diagonal() == 0).all() and (counts[:, 2] == 0).all()
    assert (counts[0, [1, 3, 4, 5]] > 60).all()


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("rank", ["flat", "per_candidate"])
@pytest.mark.parametrize("select", ["oiou", "random"])
def test_small_batches_and_empty_masks_give_no_candidate_and_no_error(count, rank, select):
    masks = torch.zeros(count, 6, 4, dtype=torch.bool)
    assert choose_candidates(masks, options(rank=rank, select=select)).tolist() == [-1] * count
    masks[:, :3] = True
    found = choose_candidates(masks, options(rank=rank, select=select))
    assert (found != torch.arange(count)).all() and (found >= 0).any() == (count > 1)


def test_mixing_keeps_the_target_where_the_candidate_shows_its_person():
    patches = torch.randn(3, 24, 5)
    mask = random_masks(3)
    mask[1] = True
    transfer = Transfer(torch.tensor([2, 1, 0]), mask, options())
    found = transfer.change((6, 4))(patches)
    for i, j in enumerate([2, 1, 0]):
        for n in range(24):
            assert torch.equal(found[i, n], patches[i if mask[i, n // 4, n % 4] else j, n])
    assert transfer.mixed.tolist() == [True, False, True]  # 0 and 2 swap: both read unmixed patches


def test_the_mix_in_pixels_has_the_patches_of_the_mix():
    images, mask = torch.randn(3, 3, 12, 8), random_masks(3)
    transfer = Transfer(torch.tensor([2, 1, 0]), mask, options())
    patches, mixed = (F.unfold(x, 2, stride=2).transpose(1, 2) for x in (images, transfer.pixels(images)))
    assert torch.equal(mixed, transfer.change((6, 4))(patches))


def test_masks_go_to_another_grid_by_the_floor_of_the_scaled_index():
    mask = random_masks(2, grid=(16, 8))
    found = Transfer(torch.tensor([1, 0]), mask, options()).on_grid((21, 10)).unflatten(1, (21, 10))
    for y in range(21):
        for x in range(10):
            assert torch.equal(found[:, y, x], mask[:, y * 16 // 21, x * 8 // 10])


def test_the_candidates_identity_is_ignored_only_where_it_is_another():
    labels = torch.tensor([0, 0, 1, 2])
    transfer = Transfer(torch.tensor([1, 2, 2, 0]), torch.ones(4, 6, 4, dtype=torch.bool), options())
    assert transfer.ignored(labels).tolist() == [-1, 1, -1, 0]
    pairs = transfer.ineligible(labels)
    expected = {(1, 2), (3, 0), (3, 1)}
    assert {(i, j) for i in range(4) for j in range(4) if pairs[i, j]} == expected
    transfer.options = options(ignore_pairs="symmetric")
    both = transfer.ineligible(labels)
    assert {(i, j) for i in range(4) for j in range(4) if both[i, j]} == expected | {(j, i) for i, j in expected}
    transfer.options = options(ignore=False)
    assert transfer.ignored(labels).tolist() == [-1] * 4 and not transfer.ineligible(labels).any()


def halves(images):
    """Saliency 0.9 on the upper half of a 6 x 4 grid."""
    return torch.cat([torch.full((len(images), 12), 0.9), torch.full((len(images), 12), 0.1)], dim=1)


def test_a_plan_mixes_the_drawn_samples_and_counts():
    transfer = PatchTransfer(halves, (6, 4), options(p_mix=0.5, select="random"))
    plans = [transfer.plan(torch.zeros(8, 3, 4, 4)) for _ in range(20)]
    mixed = [0 if plan is None else int(plan.mixed.sum()) for plan in plans]
    assert transfer.counts == {"seen": 160, "drawn": sum(mixed), "no_candidate": 0} and 50 < sum(mixed) < 110
    for plan in plans:
        assert (plan.mask[~plan.mixed]).all() and (plan.mask[plan.mixed].float().mean() == 0.5)


def test_without_probability_nothing_is_computed():
    def never(images):
        raise AssertionError("saliency of a batch that is not mixed")

    assert PatchTransfer(never, (6, 4), options(p_mix=0.0)).plan(torch.zeros(8, 3, 4, 4)) is None


def test_a_batch_without_candidates_trains_unmixed_and_says_so_once(caplog):
    transfer = PatchTransfer(halves, (6, 4), options(p_mix=1.0))
    with caplog.at_level(logging.WARNING):
        assert transfer.plan(torch.zeros(1, 3, 4, 4)) is None
        assert transfer.plan(torch.zeros(1, 3, 4, 4)) is None
    assert transfer.counts == {"seen": 2, "drawn": 2, "no_candidate": 2}
    assert caplog.text.count("none of the 1 samples drawn in a batch of 1 has a candidate, so they train unmixed") == 1


def test_counts_are_reset_each_epoch(caplog):
    transfer = PatchTransfer(halves, (6, 4), options(p_mix=1.0))
    transfer.plan(torch.zeros(1, 3, 4, 4))
    with caplog.at_level(logging.INFO):
        transfer.close_epoch()
    assert "patch transfer: of 1 samples 1 drawn, 1 of them without a candidate" in caplog.text
    assert transfer.counts == {"seen": 0, "drawn": 0, "no_candidate": 0}


def test_plans_repeat_with_the_seed():
    transfer, images = PatchTransfer(halves, (6, 4), options()), torch.zeros(16, 3, 4, 4)
    torch.manual_seed(5)
    first = transfer.plan(images)
    torch.manual_seed(5)
    assert torch.equal(first.source, transfer.plan(images).source)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"select": "iou"}, "method.transfer.select is 'iou'; there are: oiou, random"),
        ({"rank": "best"}, "method.transfer.rank is 'best'; there are: flat, per_candidate"),
        ({"p_mix": 1.5}, "method.transfer.p_mix is 1.5; it must be from 0 to 1"),
        ({"person": "body"}, "method.transfer.person is 'body'; there are: saliency, masks"),
        ({"grow": -1}, "method.transfer.grow is -1; it must be at least 0"),
        ({"alpha2_abs": -0.1}, "method.transfer.alpha2_abs is -0.1; it must be from 0 to 1"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        (item,) = change.items()
        default_config("clip_reid", "clip_vit_tiny", [f"method.transfer.{item[0]}", item[1]])


# ---- what of a candidate is its person


def plain_growth(mask, patches):
    """True where a patch within `patches` rows and columns is True."""
    height, width = mask.shape
    grown_mask = torch.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = mask[max(0, y - patches) : y + patches + 1, max(0, x - patches) : x + patches + 1]
            grown_mask[y, x] = near.any()
    return grown_mask


@pytest.mark.parametrize("patches", [0, 1, 2])
def test_masks_grow_on_all_sides_without_wrap_around(patches):
    masks = random_masks(12, 0.1)
    assert torch.equal(grown(masks, patches), torch.stack([plain_growth(mask, patches) for mask in masks]))


def part_labels(body):
    """Labels [B, 3, h, w] of two parts, background first, with the body in one part above and the other below."""
    labels = torch.zeros(len(body), 3, *body.shape[1:])
    labels[:, 0] = (~body).float() * 0.9 + 0.05
    labels[:, 1] = 1 - labels[:, 0]
    return labels


def test_the_foreign_share_is_what_of_the_body_the_mask_leaves():
    body = torch.zeros(3, 12, 8, dtype=torch.bool)
    body[0, 2:10, 2:6] = True  # 32 cells
    body[1, :, :4] = True
    mask = torch.zeros(3, 6, 4, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True  # cells 2:6 x 2:6, half of the body
    mask[1, :, :2] = True
    share = foreign_share(body, mask)
    assert share[0] == 0.5 and share[1] == 0 and share[2].isnan()


@pytest.mark.parametrize("person", ["saliency", "masks"])
@pytest.mark.parametrize("grow", [0, 1])
def test_the_candidates_person_is_salient_or_its_true_body(person, grow, caplog):
    """Salient patches choose the pairs either way; what is taken of a candidate, and what stays of it, follows."""
    salient, body = random_masks(16, 0.75), random_masks(16, 0.4, grid=(24, 16), seed=3)
    transfer = PatchTransfer(
        lambda images: salient.flatten(1).float(), (6, 4), options(p_mix=1.0, alpha2=0.5, person=person, grow=grow)
    )
    torch.manual_seed(2)
    plan = transfer.plan(torch.zeros(16, 3, 4, 4), part_labels(body))
    torch.manual_seed(2)
    plain = PatchTransfer(lambda images: salient.flatten(1).float(), (6, 4), options(p_mix=1.0, alpha2=0.5))
    assert torch.equal(plan.source, plain.plan(torch.zeros(16, 3, 4, 4)).source) and plan.mixed.any()
    shares = []
    for i in plan.mixed.nonzero()[:, 0].tolist():
        j = int(plan.source[i])
        cells = body[j].view(6, 4, 4, 4)
        true = torch.tensor([[bool(cells[y, :, x].any()) for x in range(4)] for y in range(6)])
        expected = plain_growth(salient[j] if person == "saliency" else true, grow)
        assert torch.equal(plan.mask[i], expected)
        stays = sum(bool(body[j, y, x]) and not bool(expected[y // 4, x // 4]) for y in range(24) for x in range(16))
        shares.append(stays / int(body[j].sum()))
    with caplog.at_level(logging.INFO):
        transfer.close_epoch()
    mean = round(100 * sum(shares) / len(shares))
    assert f"patch transfer: {mean} % of a candidate's body stays in a mixed image on average" in caplog.text
    assert (mean > 0) == (person == "saliency" and grow == 0)  # three quarters salient: grown, all of it
    assert not transfer.foreign


def test_a_candidate_without_a_body_is_none():
    transfer = PatchTransfer(halves, (6, 4), options(p_mix=1.0, person="masks", select="random"))
    assert transfer.plan(torch.zeros(8, 3, 4, 4), part_labels(torch.zeros(8, 12, 8, dtype=torch.bool))) is None
    assert transfer.counts["no_candidate"] == 8
