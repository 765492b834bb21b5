"""Distances become probabilities that hold."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import occplug
from occplug import Embedding
from occplug.cli import main
from occplug.cli.calibrate import _lines
from occplug.config import resolved_yaml
from occplug.data import recognition
from occplug.data.manager import DataManager
from occplug.data.recognition import ImageMarks
from occplug.engine import load_checkpoint, save_checkpoint
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.evaluation import Metric
from occplug.runs.candidates import save_small_file
from occplug.serving.calibrating import as_markdown, unseen_images
from occplug.serving.calibration import Calibration, Pairs, answers_to, calibrate, common_visibility, pairs_of
from occplug.serving.exporting import export
from occplug.zoo.annotating import keep_calibration


def drawn(count=20_000, seed=0, slope=-6.0, shift=3.0):
    """Pairs whose P(same | distance) is a logistic curve of known slope and shift, half of them the same."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0, 1, count)
    same = rng.random(count) < 1 / (1 + np.exp(-(slope * distance + shift)))
    return Pairs(distance, same, None, rng.integers(0, 200, (count, 2)))


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_a_known_curve_is_found(kind):
    made = calibrate(drawn(), kind)
    distance = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(made.probability(distance), 1 / (1 + np.exp(6 * distance - 3)), atol=0.05)
    assert made.facts["ece"] < 0.03
    lower = made.probability(distance, prior=0.1)
    odds, other = (p / (1 - p) for p in (made.probability(distance), lower))
    np.testing.assert_allclose(other, odds / 9, rtol=1e-6)


def test_false_accepts_are_shares_of_strangers():
    pairs = drawn()
    made = calibrate(pairs)
    strangers = pairs.distance[~pairs.same]
    for distance in (0.2, 0.5, 0.8):
        assert made.false_accept_rate(distance) == pytest.approx((strangers <= distance).mean(), abs=0.003)
    for rate, distance, accepted in made.facts["rates"][:3]:
        assert (strangers <= distance).mean() == pytest.approx(rate, rel=0.1)
        assert accepted == pytest.approx((pairs.distance[pairs.same] <= distance).mean())


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_rates_are_told_as_far_as_there_are_pairs_of_strangers(kind):
    pairs = drawn(300)
    made, count = calibrate(pairs, kind), int((~pairs.same).sum())
    assert [rate for rate, *_ in made.facts["rates"]] == [0.1, 0.01] and 100 < count < 1000
    nearest = pairs.distance[~pairs.same].min()
    accepted = (pairs.distance[pairs.same] < nearest).mean()
    assert made.facts["beyond"] == {"strangers": count, "distance": nearest, "accepted": accepted}
    far = made.false_accept_rate([nearest / 2, nearest, 2.0])
    np.testing.assert_allclose(far, [1 / count, 1 / count, 1])
    facts = {**made.facts, "whose": "", "images": 1, "covered": []}
    assert f"| < 1/{count} | {nearest:.4f} | {100 * accepted:.1f} % |" in " ".join(as_markdown(facts, "made").split())
    assert any(f"< 1/{count} " in line for line in _lines(facts, kind))
    assert "<" not in as_markdown({**facts, "rates": [], "beyond": None}, "made")
    assert calibrate(drawn(), kind).facts["beyond"] is None  # all rates of the table are told


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_distances_that_rise_with_likeness_are_refused(kind):
    with pytest.raises(DataError, match="are not nearer than strangers.*; give more identities with -s, or check"):
        calibrate(drawn(2000, slope=6, shift=-3), kind)
    known = calibrate(drawn(2000), kind).as_dict()
    turned = {"slope": 44.0, "shift": 0.0} if kind == "logistic" else {"x": [0.0, 1.0], "y": [0.5, 0.5]}
    with pytest.raises(CheckpointError, match=r"damaged or of another version \(curves\)"):
        Calibration.of_dict({**known, "curves": [turned]})


def test_levels_of_common_visibility_have_their_own_curves():
    clear, dim = drawn(slope=-20, shift=10), drawn(seed=1, slope=-2, shift=1)
    both = {f: np.concatenate([getattr(clear, f), getattr(dim, f)]) for f in ("distance", "same", "identities")}
    common = np.concatenate([np.full(len(clear), 0.9), np.full(len(dim), 0.2)])
    blind = Pairs(np.array([0.1, 0.2]), np.array([True, False]), np.zeros(2), np.array([[1, 1], [1, 2]]))
    joined = {f: np.concatenate([both[f], getattr(blind, f)]) for f in both}
    made = calibrate(Pairs(joined["distance"], joined["same"], np.concatenate([common, [0, 0]]), joined["identities"]))
    assert made.edges
    near = made.probability([0.2, 0.2, 0.2], [0.9, 0.2, 0.0])
    assert near[0] > 0.95 and near[1] < 0.75 and np.isnan(near[2])
    assert 0 < made.facts["abstains"] < 0.01 and made.facts["wrong_if_it_did_not"] is not None
    low, *_, high = made.facts["levels"]
    assert low["from"] == 0 and high["from"] == made.edges[-1]
    assert sum(level["pairs"] for level in made.facts["levels"]) == pytest.approx(1, abs=1e-3)
    # a curve of slope s is wrong on 1 / (1 + exp(s |d - 1/2|)), on the mean over the distances
    for level, slope in ((low, 2), (high, 20)):
        assert level["wrong"] == pytest.approx(np.log(2 / (1 + np.exp(-slope / 2))) / (slope / 2), abs=0.02)
        assert level["ece"] < 0.05


def test_answers_to_the_same_people_in_another_state():
    """Two in three pairs have nothing in common there, and distances that say nothing; the others are as before."""
    rng = np.random.default_rng(3)
    known = drawn(slope=-20, shift=10)
    known = Pairs(known.distance, known.same, np.full(len(known), 0.5), known.identities)
    blind = rng.random(len(known)) < 2 / 3
    distance = np.where(blind, rng.uniform(0, 1, len(known)), known.distance)
    asked = Pairs(distance, known.same, np.where(blind, 0.0, 0.5), known.identities)
    before, found = (answers_to(pairs, known) for pairs in (known, asked))
    assert before["abstains"] == 0 and before["wrong_if_it_did_not"] is None and before["common"] == 0.5
    assert found["abstains"] == pytest.approx(2 / 3, abs=0.02) and found["common"] == 0
    assert found["wrong_if_it_did_not"] == pytest.approx(0.5, abs=0.03)
    assert found["wrong"] == pytest.approx(before["wrong"], abs=0.02) and 0.05 < before["wrong"] < 0.09
    with pytest.raises(DataError, match="too few identities to fit on half of them"):
        answers_to(asked, known[known.identities[:, 0] == known.identities[:, 1]][:1])


def test_common_visibility_by_hand():
    one = Embedding(torch.ones(1, 2), torch.ones(1, 2, 2), torch.tensor([[0.5, 0.05]]))
    other = Embedding(torch.ones(2, 2), torch.ones(2, 2, 2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(common_visibility(one, other), [[0.25, 0.0]])  # 0.05 is below the floor
    assert common_visibility(Embedding(torch.ones(1, 2)), other) is None


def test_pairs_are_those_evaluation_counts():
    vectors = Embedding(torch.randn(6, 4))
    pids, camids = np.array([1, 1, 1, 2, 2, 3]), np.array([1, 1, 2, 1, 2, 1])
    pairs = pairs_of(vectors, pids, camids, Metric("cosine"))
    assert pairs.same.sum() == 2 * (2 + 1) and (~pairs.same).sum() == 36 - 9 - 4 - 1
    assert pairs_of(vectors, pids, None, Metric("cosine")).same.sum() == 6 + 2
    covered = Embedding(-vectors.vector)
    crossed = pairs_of(vectors, pids, camids, Metric("cosine"), others=covered)
    np.testing.assert_array_equal(crossed.same, pairs.same)
    np.testing.assert_allclose(crossed.distance, 2 - pairs.distance, atol=1e-5)
    with pytest.raises(DataError, match="no pairs to calibrate on"):
        pairs_of(vectors, np.arange(6), camids, Metric("cosine"))


def test_it_travels_as_plain_values():
    made = calibrate(drawn(2000))
    again = Calibration(**json.loads(json.dumps(made.as_dict())))
    np.testing.assert_array_equal(again.probability([0.3]), made.probability([0.3]))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    assert main(["synthocc", "--root", str(root), "--size", "tiny", "--workers", "1"]) == 0
    return root


@pytest.fixture(scope="module")
def weights(data_root, tmp_path_factory):
    """A checkpoint that says it was trained on half of the identities."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in ("profd", "clip_reid"):
        model = occplug.load(f"zoo://{name}/vit_tiny/synthocc", options=["synthocc.size", "tiny"])
        pids = _half_of(model, data_root)
        state = dict(model.method.state_dict())
        content = {"state_dict": state, "pids": pids, "cameras": [1], "bound_to": model.method.bound_to()}
        found[name] = folder / f"{name}.pth"
        save_checkpoint({**content, "config": resolved_yaml(model.cfg)}, found[name])
    return found


def _half_of(model, root):
    """As many person numbers as the model has classes; of the data set's own only every second."""
    cfg = model.cfg.clone()
    cfg.defrost()
    cfg.data.root = str(root)
    own = DataManager(cfg, trains=False, sources=True).pids[::2]
    return own + [100_000 + n for n in range(model.method.num_classes - len(own))]


@pytest.mark.parametrize("name", ["profd", "clip_reid"])
def test_a_calibrated_model_says_same_or_not(name, weights, data_root, tmp_path, capsys):
    with pytest.raises(ConfigError, match="are not calibrated.*occplug calibrate --weights .* --root DIR"):
        occplug.load(weights[name]).same([], [])
    report, diagram = tmp_path / "r.json", tmp_path / "r.png"
    words = ["calibrate", "--weights", str(weights[name]), "--root", str(data_root)]
    words += ["--covered", "70", "30"]
    assert main([*words, "--report", str(report), "--diagram", str(diagram), "-o", str(tmp_path / "c.pth")]) == 0
    out = capsys.readouterr().out
    assert "identities held out of training" in out and "false accept rate" in out
    facts = json.loads(report.read_text())
    assert 0 <= facts["ece"] < 0.5 and diagram.stat().st_size > 1000
    some, much = facts["covered"]
    assert (some["share"], much["share"]) == (0.3, 0.7) and facts["wrong"] < some["wrong"] < much["wrong"] < 0.7
    assert (much["common"] is None) == (
        name == "clip_reid"
    ) and f"covered by 70%: wrong answers {100 * much['wrong']:.1f} %" in out
    assert f"| {100 * much['wrong']:.1f} % |" in " ".join(as_markdown(facts, "made").split())
    model = occplug.load(tmp_path / "c.pth")
    images = sorted((data_root / "synthocc" / "tiny" / "bounding_box_train").glob("*.jpg"))
    itself = model.same(images[0], images[0])
    assert itself.probability > 0.5 and itself.distance == pytest.approx(0, abs=2e-2) and not itself.abstains
    assert isinstance(itself.probability, float) and itself.false_accept_rate <= 0.02
    several = model.same(images[:3], images[-1])
    assert several.probability.shape == (3,) and (several.probability < itself.probability).all()
    with pytest.raises(DataError, match="2 and 3 images"):
        model.same(images[:2], images[:3])
    with pytest.raises(ConfigError, match="prior is 1"):
        model.same(images[0], images[1], prior=1)


def test_it_abstains_where_nothing_is_in_common(weights, data_root, tmp_path):
    main(["calibrate", "--weights", str(weights["profd"]), "--root", str(data_root), "-o", str(tmp_path / "c.pth")])
    model = occplug.load(tmp_path / "c.pth")
    images = sorted((data_root / "synthocc" / "tiny" / "bounding_box_train").glob("*.jpg"))
    one, other = model.embed(images[0]), model.embed(images[1])
    one.visibility, other.visibility = torch.zeros_like(one.visibility), torch.zeros_like(other.visibility)
    one.visibility[:, 0], other.visibility[:, 1] = 1, 1
    found = model.same(one, other)
    assert found.abstains is True and np.isnan(found.probability) and found.common_visibility == 0


def test_a_calibration_is_of_the_settings_it_was_made_with(weights, data_root, tmp_path):
    file = str(tmp_path / "c.pth")
    words = ["calibrate", "--weights", str(weights["profd"]), "--root", str(data_root), "-o", file, "--no-flip"]
    assert main([*words, "--set", "method.test_visibility=sigmoid"]) == 0
    with pytest.raises(ConfigError, match="calibrated with method.test_visibility 'sigmoid', and it is 'softmax' here"):
        occplug.load(file).same([], [])
    assert occplug.load(file, options=["method.test_visibility", "sigmoid"]).calibration.kind == "logistic"


def test_images_that_cannot_be_read_end_a_calibration_or_are_left_out(crops, tmp_path, capsys, caplog):
    shutil.copytree(crops / "people", tmp_path / "own")
    damaged = sorted((tmp_path / "own").rglob("*.jpg"))[2]
    damaged.write_bytes(b"no image")
    own = f"folder:{tmp_path / 'own'}"
    words = ["calibrate", "--weights", "zoo://clip_reid/vit_tiny/synthocc", "--root", "none", "-s", own, "--no-flip"]
    words += ["-o", str(tmp_path / "c.safetensors"), "--covered", "50"]
    assert main(words) == 2 and str(damaged) in capsys.readouterr().err
    assert main([*words, "--on-error", "skip"]) == 0
    facts = occplug.load(tmp_path / "c.safetensors").calibration.facts
    assert facts["images"] == sum(1 for _ in (tmp_path / "own").rglob("*.jpg")) - 1 == 63
    assert f"skipped: {damaged}" in caplog.text and str(tmp_path) not in str(facts["covered"])


@pytest.mark.parametrize("flip", [True, False])
def test_same_embeds_as_the_calibration_did(flip, weights, crops, data_root, tmp_path, caplog):
    file, word = str(tmp_path / "c.pth"), "--flip" if flip else "--no-flip"
    words = ["calibrate", "--weights", str(weights["clip_reid"]), "--root", str(data_root), "-o", file, word]
    assert main(words) == 0
    model = occplug.load(file, options=["eval.flip", str(not flip)])
    images = sorted((crops / "people").rglob("*.jpg"))[:2]
    one, other = (model.embed(image, flip=flip) for image in images)
    answer = model.same(*images)
    assert answer.distance == pytest.approx(model.distances(one, other).item(), abs=1e-5)
    known = "averaged with mirrored ones" if flip else "as they are, not mirrored"
    assert f"these weights were calibrated on images {known}, so same() embeds them so" in caplog.text
    assert model.same(one, images[1]).distance == pytest.approx(answer.distance, abs=1e-5)
    strange = model.embed(images[1], flip=not flip)
    for call in (lambda: model.same(one, strange), lambda: model.same(*images, flip=not flip)):
        with pytest.raises(ConfigError, match=f"calibrated on images {known}.*give flip={flip}, or calibrate again"):
            call()
    assert model.same(*images, flip=flip).distance == answer.distance


def test_images_of_ones_own_calibrate_the_zoos_weights(data_root, tmp_path, capsys, monkeypatch):
    """Neither the data sets of the training nor those of the test have to be there."""
    monkeypatch.chdir(tmp_path)
    page, weights, own = tmp_path / "p.md", "zoo://clip_reid/vit_tiny/synthocc", tmp_path / "own"
    shutil.copytree(data_root / "synthocc" / "tiny" / "bounding_box_train", own)
    page.write_text(f"before\n<!-- calibrate {weights} folder:own -->\nreplaced\n<!-- end -->\nafter\n")
    words = ["calibrate", "--weights", weights, "--root", "none", "-s", "folder:own", "-o", "c.safetensors"]
    assert main([*words, "--page", "p.md", "--no-flip"]) == 0, capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    made = occplug.load(tmp_path / "c.safetensors").calibration
    text = page.read_text()
    assert "before\n" in text and text.endswith("<!-- end -->\nafter\n") and "replaced" not in text
    assert re.search(rf"\| expected calibration error +\| {made.facts['ece']:.3f} ", text)
    shown = " ".join(text.split())
    assert all(f"| {share:.3f} |" in shown for _, share, _ in made.facts["reliability"])
    assert f"| {100 * made.facts['rates'][1][2]:.1f} % |" in shown and "`occplug calibrate --weights zoo://" in text
    assert main([*words, "--page", "none.md"]) == 2
    assert "none.md has no lines '<!-- calibrate zoo://" in capsys.readouterr().err


def test_trained_identities_are_refused(weights, data_root, tmp_path, capsys):
    words = ["calibrate", "--weights", "zoo://clip_reid/vit_tiny/synthocc", "--root", str(data_root)]
    assert main(words) == 2 and "name one to write with -o FILE" in capsys.readouterr().err
    content = load_checkpoint(weights["clip_reid"])
    model = occplug.load(weights["clip_reid"])
    everybody = {pid for _, pid, _ in unseen_images(model, str(data_root), [], "trained")[0]}
    unseen = {pid for _, pid, _ in unseen_images(model, str(data_root), [])[0]}
    assert len(unseen) == len(everybody) // 2 and unseen < everybody
    content["pids"] = list(range(len(content["pids"])))
    save_checkpoint({k: v for k, v in content.items() if k != "format"}, tmp_path / "all.pth")
    words = ["calibrate", "--weights", str(tmp_path / "all.pth"), "--root", str(data_root)]
    assert main(words) == 2
    assert "were trained on" in (said := capsys.readouterr().err) and "ensemble.held_out 0.1" in said
    assert main([*words, "--identities", "trained", "--kind", "isotonic"]) == 0
    assert "optimistic" in capsys.readouterr().out
    assert occplug.load(tmp_path / "all.pth").calibration.kind == "isotonic"


@pytest.fixture(scope="module")
def crops(data_root, tmp_path_factory):
    """Eight people of a folder each, with unknown cameras, and the weights of a run of earlier versions on them, and of
    this one."""
    folder = tmp_path_factory.mktemp("crops")
    images = sorted((data_root / "synthocc" / "tiny" / "bounding_box_train").glob("*.jpg"))
    for person in sorted({image.name[:4] for image in images})[:8]:
        (folder / "people" / person).mkdir(parents=True)
        for number, image in enumerate(image for image in images if image.name.startswith(person)):
            shutil.copy(image, folder / "people" / person / f"{number}.jpg")
    name = f"folder:{folder / 'people'}"
    options = ["data.sources", f"['{name}']", "data.targets", f"['{name}']"]
    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc", options=options)
    data = DataManager(model.cfg, trains=False, sources=True)
    pids = data.pids + [100_000 + n for n in range(model.method.num_classes - len(data.pids))]
    content = {"state_dict": dict(model.method.state_dict()), "pids": pids, "cameras": [1]}
    content |= {"config": resolved_yaml(model.cfg), "bound_to": model.method.bound_to()}
    save_checkpoint(content, folder / "earlier.pth")
    save_checkpoint({**content, "images": ImageMarks.of(data).as_dict()}, folder / "w.pth")
    listed = [f"{each['path']},{each['pid']},{each['split']}\n" for each in data.sets[name].listed()]
    (folder / "split.csv").write_text("path,pid,split\n" + "".join(listed))
    shutil.copytree(folder / "people", folder / "copied")
    for person in (folder / "copied").iterdir():
        person.rename(person.with_name(f"other-{person.name}"))
    (folder / "linked").symlink_to(folder / "people")
    return folder


SPELLINGS = ["folder:people", "folder:people/", "folder:./copied/../people", "folder:{}/people", "csv:split.csv",
             "folder:linked", "folder:copied"]  # fmt: skip


@pytest.mark.parametrize("weights", ["w.pth", "earlier.pth"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_people_of_the_training_and_the_test_are_refused_however_they_are_named(spelling, weights, crops, monkeypatch):
    monkeypatch.chdir(crops)
    model = occplug.load(weights)
    for taken, told in (("unseen", "were trained on"), ("trained", "are of the test")):
        if taken == "trained" and spelling == "csv:split.csv":
            continue  # of a set that tells its sides, the test side is not read
        name = spelling.format(crops)
        if taken == "trained":
            rows, whose = unseen_images(model, "none", [name], taken)
            assert len({pid for _, pid, _ in rows}) == 4 and "optimistic" in whose and "4 of its test" in whose
        else:
            with pytest.raises(ConfigError, match=f"all identities of {re.escape(name)} {told}"):
                unseen_images(model, "none", [name])


def test_a_test_side_by_its_folder_is_refused(crops, tmp_path):
    data = DataManager(occplug.load(crops / "w.pth").cfg, trains=False)
    for path, pid, *_ in [row for sides in data.test_dataset.values() for side in sides.values() for row in side]:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / str(pid))
    for weights in ("w.pth", "earlier.pth"):
        with pytest.raises(ConfigError, match="are of the test, .* give another data set with -s$"):
            unseen_images(occplug.load(crops / weights), "none", [f"folder:{tmp_path}"])


def test_strangers_beside_trained_people_are_taken_and_the_others_counted(crops, data_root, tmp_path):
    shutil.copytree(crops / "people", tmp_path / "all")
    for image in (data_root / "synthocc" / "tiny" / "bounding_box_test").glob("*.jpg"):
        (tmp_path / "all" / image.name[:4]).mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / "all" / image.name[:4])
    strangers = {path.name for path in (tmp_path / "all").iterdir()} - {p.name for p in (crops / "people").iterdir()}
    rows, whose = unseen_images(occplug.load(crops / "w.pth"), "none", [f"folder:{tmp_path / 'all'}"])
    assert {path.split("/")[-2] for path, *_ in rows} == strangers  # all of them: which side they were drawn to is moot
    assert "held out of training" in whose and whose.endswith("left out: 4 it was trained on and 4 of its test")
    first, others = sorted(strangers)[:2], sorted(strangers)[2:]
    images = {person: sorted((tmp_path / "all" / person).iterdir()) for person in strangers}
    lines = [f"{path},{pid},{'train' if pid in first else 'test'}" for pid in strangers for path in images[pid]]
    (tmp_path / "told.csv").write_text("\n".join(["path,pid,split", *lines]))
    rows, _ = unseen_images(occplug.load(crops / "w.pth"), "none", [f"csv:{tmp_path / 'told.csv'}"])
    assert others and {path.split("/")[-2] for path, *_ in rows} == set(first)  # the others are told to be a test


def test_marks_travel_with_weights_in_every_form(crops, tmp_path):
    model = occplug.load(crops / "w.pth")
    save_small_file(tmp_path / "small.safetensors", model.cfg, model.weights, "x")
    model.save_pretrained(tmp_path / "hub")
    export(model, tmp_path / "m.torchscript")
    keep_calibration(crops / "w.pth", {}, tmp_path / "kept.pth")
    keep_calibration(tmp_path / "small.safetensors", {}, tmp_path / "kept.safetensors")
    for name in ("small.safetensors", "hub", "m.torchscript", "kept.pth", "kept.safetensors"):
        assert occplug.load(tmp_path / name).weights.images == model.weights.images, name
    marks = ImageMarks.of_dict(model.weights.images)
    assert sum(map(len, model.weights.images.values())) == 8 * (len(marks.train) + len(marks.test))
    content = load_checkpoint(crops / "w.pth")
    for damaged in ("x", {"train": "AAAA", "test": ""}, {"train": ""}, {"train": "!", "test": ""}):
        save_checkpoint({**_without(content, "format"), "images": damaged}, tmp_path / "damaged.pth")
        with pytest.raises(CheckpointError, match="its part 'images' is not marks"):
            load_checkpoint(tmp_path / "damaged.pth")


def test_marks_are_bounded(tmp_path, monkeypatch):
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number]))
    items = [(str(tmp_path / f"{n}.jpg"), n % 3, 0) for n in range(12)] + [(str(tmp_path / "none.jpg"), 0, 0)]
    data = SimpleNamespace(train_items=items, test_dataset={})
    monkeypatch.setattr(recognition, "MOST", 7)
    marks = ImageMarks.of(data).train
    assert len(marks) == 6 and marks < {recognition.mark_of(path) for path, *_ in items}
    assert marks == ImageMarks.of(SimpleNamespace(train_items=items[::-1], test_dataset={})).train


def test_the_world_of_the_training_is_known_by_its_seed_and_nothing_is_rendered(data_root, tmp_path, capsys):
    """SynthOcc's bytes are other ones elsewhere; its people are not."""
    zoo = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    tiny = data_root / "synthocc" / "tiny"
    for folder in (tiny, tiny / "query", tiny / "bounding_box_train"):
        with pytest.raises(ConfigError, match="were trained on"):
            unseen_images(zoo, str(tmp_path / "none"), [f"folder:{folder}"])
    words = ["calibrate", "--weights", "zoo://clip_reid/vit_tiny/synthocc", "--root", str(tmp_path / "none"), "-o", "c"]
    for more in ((), ("-s", "synthocc"), ("--set", "synthocc.size=tiny")):
        assert main([*words, *more]) == 2, more
        assert not (tmp_path / "none").exists(), more
    export(zoo, tmp_path / "m.torchscript")
    words = ["calibrate", "--weights", str(tmp_path / "m.torchscript"), "--root", str(tmp_path / "none")]
    assert main([*words, "--set", "synthocc.seed=7"]) == 2 and "it was exported from" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["settings"]["seed"] += 6
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "identities held out of training" in unseen_images(zoo, str(tmp_path), [f"folder:{other}"])[1]


def test_what_weights_do_not_tell_is_said_to_be_unknown(crops, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(crops / "people", "own")
    words = ["calibrate", "--weights", "zoo://clip_reid/vit_tiny/synthocc", "--root", "none", "-s", "folder:own"]
    assert main([*words, "-o", "c.safetensors", "--no-flip"]) == 0
    said = capsys.readouterr().out
    assert "not known whether it was trained on them" in said and "held out" not in said
    assert "the weights do not say which images they were trained on" in caplog.text
    assert "calibrated on 8 identities; with fewer than 50" in caplog.text


def _without(content, *names):
    return {key: value for key, value in content.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda known: 5, "kind, edges, curves, strangers, shares"),
        (lambda known: {"a": 1, **known}, "a"),
        (lambda known: _without(known, "curves"), "curves"),
        (lambda known: known | {"kind": "linear"}, "kind"),
        (lambda known: known | {"kind": [1]}, "kind"),
        (lambda known: known | {"edges": [0.5, 0.6, 0.7, 0.8]}, "curves"),
        (lambda known: known | {"edges": "x"}, "edges"),
        (lambda known: known | {"curves": [5]}, "curves"),
        (lambda known: known | {"curves": [{"x": [], "y": []}]}, "curves"),
        (lambda known: known | {"curves": [{"slope": float("nan"), "shift": 0.0}]}, "curves"),
        (lambda known: known | {"strangers": []}, "strangers"),
        (lambda known: known | {"shares": [0.5]}, "shares"),
        (lambda known: known | {"floor": None}, "floor"),
        (lambda known: known | {"facts": {"settings": 3}}, "facts"),
    ],
)
def test_a_calibration_that_is_damaged_names_its_part(change, named):
    known = json.loads(json.dumps(calibrate(drawn(2000)).as_dict()))
    assert Calibration.of_dict(known).as_dict() == known
    message = rf"w.pth: its calibration is damaged or of another version \({named}\); run occplug calibrate again"
    with pytest.raises(CheckpointError, match=message):
        Calibration.of_dict(change(known), "w.pth")
