"""The benchmark on disk: counts, names, labels that agree with pixels, all or nothing."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from occplug.datasets.synthocc import SIZES, Knobs, benchmark, build, caption, check, files, persona, render
from occplug.datasets.synthocc.plan import GALLERY, QUERY, TRAIN, TWINS, plan
from occplug.errors import DataError, OutputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build(tmp_path_factory.mktemp("root"), "tiny", workers=1, progress=False)


@pytest.fixture(scope="module")
def lines(tiny):
    return [json.loads(line) for line in (tiny / "annotations/images.jsonl").read_text().splitlines()]


def _parts(folder: Path, line: dict) -> np.ndarray:
    return cv2.imread(str(folder / "masks/parts" / line["file"].replace(".jpg", ".png")), cv2.IMREAD_UNCHANGED)


def _histogram(image: np.ndarray) -> np.ndarray:
    """HSV histogram of six stripes after a grey-world correction, unit length."""
    image = image.astype(np.float32)
    image = np.clip(image * (image.mean() / image.mean(axis=(0, 1))), 0, 255).astype(np.uint8)
    stripes = np.array_split(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV), 6)
    counts = [cv2.calcHist([s], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256]).ravel() for s in stripes]
    feature = np.sqrt(np.concatenate(counts))
    return feature / np.linalg.norm(feature)


def _rank1(query, q_ids, gallery, g_ids) -> float:
    """Share of queries whose nearest gallery image has their pid; ids are (pid, camid)."""
    scores = np.stack([_histogram(i) for i in query]) @ np.stack([_histogram(i) for i in gallery]).T
    hits = 0
    for row, own in zip(scores, q_ids):
        row[[other == own for other in g_ids]] = -1
        hits += g_ids[int(row.argmax())][0] == own[0]
    return hits / len(q_ids)


# ---- the plan ----------------------------------------------------------------------------------------------------

COUNTS = {
    "tiny": (128, 24, 96, 34), "small": (1_800, 600, 1_600, 400), "tune": (1_200, 200, 400, 150),
    "medium": (15_618, 2_210, 17_661, 1_812),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_plans_of_all_sizes(name):
    size = SIZES[name]
    shots = plan(size, Knobs(num_cameras=size.cameras))
    by_split = {split: [s for s in shots if s.split == split] for split in (TRAIN, QUERY, GALLERY, TWINS)}
    train, queries, gallery, identities = COUNTS[name]
    assert [len(s) for s in by_split.values()] == [train, queries, gallery, queries]
    assert sorted({s.pid for s in shots}) == list(range(identities))
    assert {s.camid for s in shots} == set(range(size.cameras))
    assert len({s.frame for s in shots}) == len(shots)
    keys = {split: [(s.pid, s.camid, s.k) for s in part] for split, part in by_split.items()}
    assert all(len(set(k)) == len(k) for k in keys.values()) and keys[QUERY] == keys[TWINS]
    assert not {s.pid for s in by_split[TRAIN]} & {s.pid for s in by_split[GALLERY] + by_split[QUERY]}
    cameras = {(s.pid, s.camid) for s in by_split[GALLERY]}
    for pid, camid, k in keys[QUERY]:
        assert k == 100 and any((pid, other) in cameras for other in range(size.cameras) if other != camid)
    assert len(set(zip(*zip(*[k[:2] for k in keys[QUERY]])))) == queries  # one per identity and camera
    assert sum(s.is_occluded for s in by_split[TRAIN]) == round(0.1 * train)
    assert sum(s.is_occluded for s in by_split[GALLERY]) == round(0.1 * gallery)
    assert all(s.is_occluded for s in by_split[QUERY]) and not any(s.is_occluded for s in by_split[TWINS])


def test_recipes_are_chosen_by_training_identities_of_small_alone():
    trained = {shot.pid for shot in plan(SIZES["small"], Knobs()) if shot.split == TRAIN}
    shots = plan(SIZES["tune"], Knobs())
    assert {shot.pid for shot in shots} == trained
    assert not {s.pid for s in shots if s.split == TRAIN} & {s.pid for s in shots if s.split != TRAIN}


def test_remainders_go_to_the_first_identities():
    size = SIZES["medium"]
    shots = plan(size, Knobs(num_cameras=8))
    train = Counter(s.pid for s in shots if s.split == TRAIN)
    assert [train[pid] for pid in (0, 173, 174, 701)] == [23, 23, 22, 22]
    gallery = Counter(s.pid for s in shots if s.split == GALLERY)
    assert sorted(Counter(gallery.values()).items()) == [(15, 99), (16, 1_011)]


def test_a_plan_depends_on_the_seed_alone():
    size = SIZES["tiny"]
    assert plan(size, Knobs(num_cameras=4)) == plan(size, Knobs(num_cameras=4, severity=1.0))
    assert plan(size, Knobs(num_cameras=4)) != plan(size, Knobs(num_cameras=4, seed=2))


def test_too_few_cameras():
    with pytest.raises(DataError, match="synthocc: num_cameras must be at least 6 for this size, not 5"):
        plan(SIZES["small"], Knobs(num_cameras=5))


# ---- the files ---------------------------------------------------------------------------------------------------


def test_files_and_names(tiny, lines):
    manifest = check(tiny)
    assert manifest["counts"] == {TRAIN: 128, QUERY: 24, GALLERY: 96, TWINS: 24}
    for split in manifest["counts"]:
        on_disk = {path.name for path in (tiny / split).iterdir()}
        assert on_disk == {line["file"].split("/")[1] for line in lines if line["split"] == split}
    for line in lines:
        pid, cam, frame = Path(line["file"]).stem.split("_")
        assert (int(pid), int(cam[1:]) - 1, int(frame[1:])) == (line["pid"], line["camid"], line["frame"])
    image = cv2.imread(str(tiny / lines[0]["file"]))
    assert image.shape == (128, 64, 3)
    occluded = {line["file"].replace(".jpg", "") for line in lines if line["occluder"]}
    folder = tiny / "masks/occluder"
    assert {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.png")} == occluded
    assert "no person shown is real" in (tiny / "LICENSE.txt").read_text().lower()


def test_identities_tell_their_attributes(tiny):
    told = json.loads((tiny / "annotations/identities.json").read_text())
    assert list(map(int, told)) == list(range(1, 35))
    assert told["20"]["caption"] == caption(persona(1, 19, 2)) and told["20"]["group"] == 9


def test_files_hold_what_render_gives(tiny, lines):
    line = next(line for line in lines if line["split"] == QUERY)
    made = render(Knobs(num_cameras=4), line["pid"] - 1, line["camid"], line["k"], occluded=True)
    image = cv2.cvtColor(cv2.imread(str(tiny / line["file"])), cv2.COLOR_BGR2RGB)
    assert np.abs(image.astype(int) - made.image).mean() < 4  # JPEG
    assert (_parts(tiny, line) == made.parts).all()
    mask = cv2.imread(str(tiny / "masks/occluder" / line["file"].replace(".jpg", ".png")), cv2.IMREAD_GRAYSCALE)
    assert ((mask > 0) == made.occluder).all()


def test_queries_agree_with_their_twins(tiny, lines):
    queries, twins = ([line for line in lines if line["split"] == split] for split in (QUERY, TWINS))
    error = []
    for query, twin in zip(queries, twins):
        assert [query[key] for key in ("pid", "camid", "k")] == [twin[key] for key in ("pid", "camid", "k")]
        assert 0.2 <= query["occlusion_ratio"] <= 0.6 and twin["occlusion_ratio"] == 0
        seen, full = _parts(tiny, query) > 0, _parts(tiny, twin) > 0
        assert 0.12 < full.mean() < 0.50 and not (seen & ~full).any()
        error.append(abs(1 - seen.sum() / full.sum() - query["occlusion_ratio"]))
    # the annotation is taken before the crop error, which may cut off part of the person
    assert np.mean(error) < 0.01 and np.quantile(error, 0.9) < 0.02 and max(error) < 0.06


def test_the_occluder_bank(tiny):
    names = sorted(path.name for path in (tiny / "occluders").iterdir())
    assert len(names) == 120 and names[0] == "bicycle_00.png"
    for name in names[::7]:
        picture = cv2.imread(str(tiny / "occluders" / name), cv2.IMREAD_UNCHANGED)
        assert picture.shape[2] == 4 and picture[..., 3].max() == 255 and (picture[..., 3] > 128).mean() > 0.08, name
    held_out = Knobs(heldout_occluders=("umbrella",))
    assert len(files.bank_names(held_out)) == 110 and "umbrella_00.png" not in files.bank_names(held_out)


def test_backgrounds_tell_nothing_about_identities():
    """Without the people, a histogram finds no identity (40 identities: chance 2.5 %)."""

    def empty(pid, camid, k):
        return render(Knobs(), pid, camid, k, occluded=False, persons=False).image

    q_ids = [(pid, pid % 6) for pid in range(40)]
    g_ids = [(pid, (pid + step) % 6) for pid in range(40) for step in (0, 1, 2)]
    assert _rank1([empty(*i, 100) for i in q_ids], q_ids, [empty(*i, 0) for i in g_ids], g_ids) <= 0.125


# ---- building ----------------------------------------------------------------------------------------------------


def test_a_second_call_does_nothing(tiny, monkeypatch):
    before = (tiny / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr(benchmark, "_write", None)
    assert build(tiny.parents[1], "tiny") == tiny
    assert (tiny / "manifest.json").stat().st_mtime_ns == before


def test_processes_give_the_same_content(tiny, tmp_path):
    other = build(tmp_path, "tiny", workers=2, progress=False)
    assert check(other)["content"] == check(tiny)["content"]
    name = next((tiny / QUERY).iterdir()).name
    assert (other / QUERY / name).read_bytes() == (tiny / QUERY / name).read_bytes()
    assert [path.name for path in _left(tmp_path)] == ["tiny"]


def test_other_settings_are_refused(tiny):
    with pytest.raises(DataError, match="made with other settings: severity is 0.6, not 1.0; take another root"):
        build(tiny.parents[1], "tiny", severity=1.0)


def test_unknown_size(tmp_path):
    with pytest.raises(DataError) as caught:
        build(tmp_path, "huge")
    assert str(caught.value) == "synthocc: unknown size 'huge'; sizes are tiny, small, tune, medium"


def test_impossible_ratio_leaves_nothing(tmp_path):
    with pytest.raises(DataError) as caught:
        build(tmp_path, "tiny", ratio=(0.7, 0.2))
    assert str(caught.value) == "synthocc: ratio must be [low, high] with 0 <= low < high <= 1, not [0.7, 0.2]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bounding_box_train", "masks/parts/query", "masks/occluder/query", "occluders"])
def test_a_missing_file_is_named(tiny, kind):
    victim = sorted((tiny / kind).iterdir())[3]
    content = victim.read_bytes()
    victim.unlink()
    try:
        with pytest.raises(DataError) as caught:
            build(tiny.parents[1], "tiny")
        assert f"{kind}/{victim.name} is missing" in str(caught.value)
        assert f"occplug synthocc --root {tiny.parents[1]} --size tiny" in str(caught.value)
    finally:
        victim.write_bytes(content)


def test_a_missing_manifest_or_folder(tmp_path):
    folder = tmp_path / "synthocc" / "small"
    folder.mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        check(folder)
    assert str(caught.value) == (
        f"{folder} is not a complete SynthOcc: manifest.json is missing; delete the folder and run "
        f"`occplug synthocc --root {tmp_path} --size small`"
    )
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest.json cannot be read"):
        check(folder)


def test_another_version_is_refused(tiny):
    path = tiny / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace("synthocc-1", "synthocc-0"))
    try:
        with pytest.raises(DataError, match="it was made by synthocc-0, this is synthocc-1; delete the folder"):
            check(tiny)
    finally:
        path.write_text(content)


def _left(root: Path) -> list[Path]:
    """Everything in the data folder but the empty file that processes lock."""
    return [path for path in (root / "synthocc").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, failure):
    original, calls = files.write_shots, []

    def fails_later(*args):
        calls.append(args)
        if len(calls) == 3:
            raise failure
        return original(*args)

    monkeypatch.setattr(benchmark, "write_shots", fails_later)
    with pytest.raises((KeyboardInterrupt, OutputError)) as caught:
        build(tmp_path, "tiny", workers=1, progress=False)
    assert _left(tmp_path) == []
    if isinstance(failure, OSError):
        assert "could not be written: No space left on device; nothing was left behind" in str(caught.value)


def test_of_two_runs_at_once_one_renders_and_the_other_waits(tmp_path, monkeypatch):
    original, calls = benchmark._write, []

    def slow_write(*args):
        calls.append(args)
        time.sleep(0.5)  # the other one has started by then
        original(*args)

    monkeypatch.setattr(benchmark, "_write", slow_write)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(build, tmp_path, "tiny", workers=1, progress=False) for _ in range(2))
    assert len(calls) == 1 and first.result() == second.result() == tmp_path / "synthocc/tiny"


def test_ctrl_c_ends_the_processes_and_leaves_nothing(tmp_path):
    code = (  # a test run in the background of a shell hands an ignored SIGINT down
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from occplug.datasets.synthocc import build; build({str(tmp_path)!r}, 'small', workers=2, progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("synthocc/.small*/query/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=120)
    assert child.returncode != 0 and "KeyboardInterrupt" in stderr
    assert _left(tmp_path) == []


@pytest.mark.slow
def test_bands_of_small(tmp_path):
    """The task is no matter of colour statistics, and queries are occluded by a third on average."""
    folder = build(tmp_path, "small", progress=False)
    started = time.monotonic()
    check(folder)
    assert time.monotonic() - started < 0.5
    told = [json.loads(line) for line in (folder / "annotations/images.jsonl").read_text().splitlines()]
    ids = {s: [(line["pid"], line["camid"]) for line in told if line["split"] == s] for s in (QUERY, GALLERY)}
    pictures = {
        s: [cv2.imread(str(folder / line["file"]))[..., ::-1] for line in told if line["split"] == s]
        for s in (QUERY, GALLERY)
    }
    assert _rank1(pictures[QUERY], ids[QUERY], pictures[GALLERY], ids[GALLERY]) < 0.20
    ratios = [line["occlusion_ratio"] for line in told if line["split"] == QUERY]
    assert 0.30 < np.mean(ratios) < 0.42 and min(ratios) >= 0.2 and max(ratios) <= 0.6
