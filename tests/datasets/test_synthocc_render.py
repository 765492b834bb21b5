"""One image: same key, same pixels; people who look like people; occluders within the range."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from occplug.datasets.synthocc import CATEGORIES, CODES, GROUPS, Knobs, group_parts, image, persona, render
from occplug.datasets.synthocc.camera import camera
from occplug.datasets.synthocc.parts import part_visibility
from occplug.datasets.synthocc.pose import KEYPOINTS
from occplug.errors import DataError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "synthocc_images.npz"
KEYS = ((3, 0, 0), (20, 2, 1), (41, 5, 100))


def _digest(picture) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


@pytest.fixture
def turned(monkeypatch):
    """Render with a yaw of one's own (degrees)."""

    def make(pid: int, degrees: float, **options):
        original = image.draw_yaw
        monkeypatch.setattr(image, "draw_yaw", lambda cam, draw: (original(cam, draw), np.deg2rad(degrees))[1])
        made = render(Knobs(**options), pid, 0, 0, occluded=False)
        monkeypatch.setattr(image, "draw_yaw", original)
        return made

    return make


def test_same_key_same_pixels_in_another_process_and_order():
    code = (
        "import hashlib; from occplug.datasets.synthocc import Knobs, render\n"
        f"for key in {KEYS[::-1]}:\n"
        "    print(hashlib.sha256(render(Knobs(), *key, occluded=True).image.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    here = [_digest(render(Knobs(), *key, occluded=True).image) for key in KEYS]
    assert done.stdout.split()[::-1] == here


def test_other_key_other_pixels():
    keys = [(3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 1)]
    assert len({_digest(render(Knobs(), *key, occluded=False).image) for key in keys}) == 4
    assert _digest(render(Knobs(seed=2), 3, 0, 0, occluded=False).image) != _digest(
        render(Knobs(), 3, 0, 0, occluded=False).image
    )


def test_pixels_are_those_of_this_version():
    golden = np.load(GOLDEN)
    for number, key in enumerate(KEYS):
        made = render(Knobs(), *key, occluded=number > 0)
        difference = np.abs(made.image.astype(int) - golden[f"image{number}"]).mean()
        assert difference < 2, f"{key}: {difference:.2f} grey levels; a change of pixels needs a new version"
        assert (made.parts != golden[f"parts{number}"]).mean() < 0.01


@pytest.mark.parametrize("size", [(128, 64), (256, 128)])
def test_shapes_and_types(size):
    made = render(Knobs(size=size), 0, 0, 0, occluded=True)
    assert made.image.shape == (*size, 3) and made.image.dtype == np.uint8
    assert made.parts.shape == made.occluder.shape == size
    assert made.parts.dtype == np.uint8 and made.occluder.dtype == bool
    assert made.keypoints.shape == (17, 3) and set(made.visibility) == set(GROUPS["eight"])
    assert not made.parts[made.occluder].any()


def test_twins_differ_only_by_the_occluder():
    for pid in range(6):
        query, twin = (render(Knobs(), pid, pid, 100, occluded=flag) for flag in (True, False))
        assert twin.occluder is None and twin.category is None and twin.ratio == 0
        # a margin around the occluder: the camera blurs
        far = ~np.asarray(query.occluder)
        for axis in (0, 1):
            for step in range(-4, 5):
                far &= ~np.roll(query.occluder, step, axis)
        assert far.sum() == 0 or np.abs(query.image.astype(int) - twin.image)[far].mean() < 2
        assert (query.parts == np.where(query.occluder, 0, twin.parts)).all()
        assert query.yaw_deg == twin.yaw_deg
        assert (query.keypoints[:, :2] == twin.keypoints[:, :2]).all()
        assert (query.keypoints[:, 2] <= twin.keypoints[:, 2]).all()


def test_people_fill_a_sensible_part_of_the_frame_and_stand_upright():
    shares = []
    for pid in range(60):
        parts = render(Knobs(), pid, pid % 6, 0, occluded=False).parts
        shares.append((parts > 0).mean())
        rows = {name: np.nonzero(np.isin(parts, codes))[0] for name, codes in GROUPS["five_v"].items()}
        assert rows["head"].mean() < rows["upper_torso"].mean() < rows["legs"].mean()
        assert rows["feet"].size == 0 or rows["feet"].mean() > rows["legs"].mean()
    assert min(shares) > 0.12 and max(shares) < 0.50 and 0.2 < np.median(shares) < 0.36


def test_left_is_on_the_right_when_facing_the_camera(turned):
    for degrees, sign in ((0, 1), (180, -1)):
        made = turned(4, degrees)
        for left, right in (("left_upper_arm", "right_upper_arm"), ("left_shank", "right_shank")):
            x_left, x_right = (np.nonzero(made.parts == CODES[name])[1].mean() for name in (left, right))
            assert sign * (x_left - x_right) > 0
        x = dict(zip(KEYPOINTS, made.keypoints[:, 0]))
        assert sign * (x["left_shoulder"] - x["right_shoulder"]) > 5


def test_a_walker_facing_right_has_the_nose_there(turned):
    made = turned(4, 90)
    x = dict(zip(KEYPOINTS, made.keypoints[:, 0]))
    assert x["nose"] > x["left_ear"] + 1


def test_backpacks_are_on_the_back(turned):
    pid = next(p for p in range(100) if persona(1, p, 2).bag == "backpack")
    carried = [(turned(pid, degrees).parts == CODES["carried"]).sum() for degrees in (0, 180)]
    assert carried[1] > 250 > 3 * carried[0]


def test_logos_are_on_the_chest_only(turned):
    wanted = {"top_pattern": "logo", "top_type": "t-shirt", "second_color": "red", "bag": "none", "hair": "short"}
    cool = ("black", "white", "grey", "blue", "navy")
    pid = next(
        p for p in range(5000)
        if persona(1, p, 2).top_color in cool and wanted.items() <= persona(1, p, 2).attributes().items()
    )  # fmt: skip
    redness = []
    for degrees in (0, 180):
        made = turned(pid, degrees, severity=0.0)
        chest = made.image[made.parts == CODES["upper_torso"]].astype(int)
        redness.append((chest[:, 0] - chest[:, 1] > 60).sum())
    assert redness[0] > 25 and redness[1] <= 2


def test_ratio_lies_in_the_range_and_matches_the_masks():
    for low, high in ((0.2, 0.6), (0.25, 0.65), (0.4, 0.45)):
        for pid in range(12):
            made = render(Knobs(ratio=(low, high)), pid, pid % 6, 100, occluded=True)
            assert low <= made.ratio <= high
            twin = render(Knobs(ratio=(low, high)), pid, pid % 6, 100, occluded=False)
            hidden = 1 - (made.parts > 0).sum() / (twin.parts > 0).sum()
            assert abs(hidden - made.ratio) < 0.06  # the crop error moves a little of the person out


def test_a_range_that_nothing_drawn_fits_is_met_by_a_wall():
    made = render(Knobs(ratio=(0.4999, 0.5101)), 0, 0, 0, occluded=True)
    assert 0.4999 <= made.ratio <= 0.5101


def test_every_category_appears():
    # a wide range takes nearly every draw, so that the prior decides
    seen = {render(Knobs(ratio=(0.02, 0.95)), pid, pid % 6, 0, occluded=True).category for pid in range(120)}
    assert seen == set(CATEGORIES)


def test_heldout_occluders_never_appear_where_only_seen_ones_may():
    knobs = Knobs(heldout_occluders=("car", "plant", "box", "person"))
    seen = {render(knobs, pid, 0, 0, occluded=True, seen_only=True).category for pid in range(30)}
    assert not seen & set(knobs.heldout_occluders)
    assert {render(knobs, pid, 0, 0, occluded=True).category for pid in range(30)} & set(knobs.heldout_occluders)


def test_severity_changes_the_camera_and_not_the_scene():
    plain, harsh = (render(Knobs(severity=s), 5, 1, 0, occluded=False) for s in (0.0, 1.0))
    assert (plain.parts == harsh.parts).all() and (plain.image != harsh.image).any()
    gentle = camera(1, 1, 0.0, (192, 96))
    assert gentle.gain == gentle.gamma == gentle.saturation == gentle.resolution == 1 and gentle.haze == 0


def test_any_camera_of_any_world_can_be_rendered_alone():
    made = render(Knobs(seed=500, severity=1.0), 12345, 199, 1, occluded=False)
    assert made.image.std() > 5


def test_groupings_cover_every_part_once():
    codes = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for grouping, groups in GROUPS.items():
        grouped = group_parts(codes, grouping)
        assert (grouped[codes == 0] == 0).all() and (grouped[codes > 0] > 0).all(), grouping
        for number, members in enumerate(groups.values(), start=1):
            assert all(grouped[codes == code] == number for code in members)


def test_a_skirt_is_split_between_the_nearer_legs():
    parts = np.zeros((4, 8), np.uint8)
    parts[0] = CODES["skirt"]
    parts[2, :2], parts[2, 6:] = CODES["right_shank"], CODES["left_shank"]
    names = list(GROUPS["eight"])
    grouped = group_parts(parts, "eight")
    assert (grouped[0, :3] == names.index("right_leg") + 1).all()
    assert (grouped[0, 5:] == names.index("left_leg") + 1).all()


def test_visibility_is_visible_over_full():
    full = np.zeros((4, 4), np.uint8)
    full[:2], full[2:] = CODES["head"], CODES["left_foot"]
    visible = full.copy()
    visible[0, :2], visible[2:] = 0, 0
    told = part_visibility(full, visible)
    assert told["head"] == 0.75 and told["left_foot"] == 0 and told["right_arm"] == 0


@pytest.mark.parametrize(
    "knob, message",
    [
        ({"ratio": (0.6, 0.2)}, r"synthocc: ratio must be \[low, high\] with 0 <= low < high <= 1, not \[0.6, 0.2\]"),
        ({"ratio": (0.3, 0.3)}, r"not \[0.3, 0.3\]$"),
        ({"ratio": (0.2, 1.2)}, r"not \[0.2, 1.2\]$"),
        ({"ratio": (0.2,)}, r"not \[0.2\]$"),
        ({"severity": 1.5}, r"synthocc: severity must lie in \[0, 1\], not 1.5$"),
        ({"group_size": 0}, r"synthocc: group_size must be at least 1, not 0$"),
        ({"heldout_occluders": ("cat",)}, r"synthocc: heldout_occluders: unknown \['cat'\]; categories are car, "),
        ({"heldout_occluders": tuple(CATEGORIES)}, "none is left for training"),
    ],
)
def test_impossible_knobs(knob, message):
    with pytest.raises(DataError, match=message):
        Knobs(**knob)
