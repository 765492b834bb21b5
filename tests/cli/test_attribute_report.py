"""AG-ReID from the command line on SynthOcc tiny: both stages, a second run behind stage 1, the report, mistakes."""

import json
import re
from pathlib import Path

import pytest
import torch

from occplug.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/ag_reid_synthocc.yaml")
SHORT = ["synthocc.size", "tiny", "data.workers", "0", "train.batch_size", "16", "method.stage1.epochs", "2"]
SHORT += ["method.stage2.epochs", "1"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--config-file", CONFIG, "--root", str(data), *SHORT, "data.save_dir", str(folder)]) == 0
    return folder


def report(run, data, page, *options, weights=None):
    weights = weights or run / "checkpoints/stage1.pth"
    arguments = ["--root", str(data), "--weights", str(weights)]
    return main(["attribute-report", *arguments, "--output", str(page), *options])


def test_both_stages_train_and_the_mask_is_logged(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["method"] == "ag_reid" and [s["name"] for s in metrics["stages"]] == ["stage1", "stage2"]
    one, two = (torch.load(run / f"checkpoints/stage{k}.pth", weights_only=True)["state_dict"] for k in (1, 2))
    assert torch.equal(one["prompts.context"], two["prompts.context"])
    assert torch.equal(one["text.text_projection"], two["text.text_projection"])
    assert not torch.equal(one["attributes.slots"], two["attributes.slots"])
    assert not torch.equal(one["backbone.visual.proj"], two["backbone.visual.proj"])
    log = (run / "train.log").read_text()
    assert re.search(r"noise mask otsu: gamma -?0\.\d{4}, \d+\.\d % of the pairs kept, mean cosine", log)


def test_another_run_starts_behind_stage1(run, data, tmp_path):
    arguments = ["train", "--config-file", CONFIG, "--root", str(data), *SHORT, "data.save_dir", str(tmp_path)]
    arguments += ["--after", str(run / "checkpoints/stage1.pth"), "method.noise_mask.method", "p75"]
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [s["name"] for s in metrics["stages"]] == ["stage1", "stage2"]
    other = {"method.noise_mask.method": ["otsu", "p75"]}
    assert metrics["resumed"] == [{"stage": "stage1", "epoch": 2, "changed": other}], "stage1 was trained with another"
    files = (tmp_path / "checkpoints/stage2.pth", run / "checkpoints/stage1.pth")
    new, old = (torch.load(file, weights_only=True)["state_dict"]["prompts.context"] for file in files)
    assert torch.equal(new, old)
    assert not (tmp_path / "checkpoints/stage1.pth").exists()


def test_the_report_names_words_and_probes_attributes(run, data, tmp_path):
    assert report(run, data, tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert "A photo of a [1] [2] person with [3] hair and [4] posture" in page
    rows = re.findall(r"<tr><td>(\d+)</td>(.*?)</tr>", page)
    assert len(rows) == 16 and all(cells.count("<td>") == 11 for _, cells in rows)
    assert page.count("<small>") == 16 * 10 * 3 + 1
    probes = re.findall(r"<tr><td>(top color|hair|build)</td><td>(\d+)</td><td>16</td>", page)
    assert {name for name, _ in probes} == {"top color", "hair", "build"}
    assert [p for p in tmp_path.iterdir()] == [tmp_path / "page.html"]


def test_markdown_has_a_row_for_each_identity_and_no_broken_table(run, data, tmp_path):
    assert report(run, data, tmp_path / "page.md") == 0
    lines = (tmp_path / "page.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| person |"))
    table = lines[start : start + 18]
    assert all(line.startswith("|") and line.count("|") == 13 for line in table)
    assert not lines[start + 18].startswith("|")


@pytest.mark.parametrize(
    ("page", "options", "message"),
    [
        ("page.txt", [], "--output is"),
        ("page.md", ["backbone.weights", "none"], "backbone.weights is 'none', but words have no embeddings then"),
        ("page.md", ["method.template", "random"], "was trained with method.template 'A photo of a X X person"),
        ("page.md", ["model.name", "osnet_x0_25"], "osnet_x0_25 has no key method.template"),
    ],
)
def test_what_cannot_be_reported_is_refused(run, data, tmp_path, capsys, page, options, message):
    assert report(run, data, tmp_path / page, *options) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_prompts_is_refused(run, data, tmp_path, capsys):
    state = torch.load(run / "checkpoints/stage1.pth", weights_only=True)
    del state["state_dict"]["prompts.context"]
    torch.save(state, tmp_path / "none.pth")
    assert report(run, data, tmp_path / "page.md", weights=tmp_path / "none.pth") == 2
    assert "none.pth holds no prompts (a baseline?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("stage1.pth", ["method.template", "attribute_b"], "stage1.pth was trained with method.template 'A photo of"),
        ("last.pth", [], "last.pth is a state to --resume from; --after takes the file of a finished stage"),
        ("stage2.pth", [], "stage2.pth is of the last stage, so nothing is left to train"),
    ],
)
def test_a_stage_of_another_run_that_does_not_fit_is_refused(run, data, tmp_path, capsys, file, change, message):
    arguments = ["train", "--config-file", CONFIG, "--root", str(data), *SHORT]
    arguments += ["--after", str(run / "checkpoints" / file), "data.save_dir", str(tmp_path / "run"), *change]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_stage1_of_other_classes_is_refused_class_by_class(run, data, tmp_path, capsys):
    state = torch.load(run / "checkpoints/stage1.pth", weights_only=True)
    state["pids"][3] += 500
    state["data"]["synthocc"]["fingerprint"] = "of other files"  # the classes come first: they tell more
    torch.save(state, tmp_path / "other.pth")
    arguments = ["train", "--config-file", CONFIG, "--root", str(data), *SHORT, "data.save_dir", str(tmp_path / "run")]
    assert main([*arguments, "--after", str(tmp_path / "other.pth")]) == 2
    assert "class 3 is person 504 in the file and person 4 here" in capsys.readouterr().err


def test_a_resumed_run_of_another_template_is_refused(run, capsys):
    """Templates of equal length fit each other's shapes, so only the text tells."""
    text = "A photo of a X X person with X beard and X posture, wearing X X top, X X trousers and X shoes, carrying X."
    assert main(["train", "--config-file", str(run / "config.yaml"), "--resume", "method.template", text]) == 2
    assert "set method.template as in the file, or train its stage again" in capsys.readouterr().err


def test_a_refused_resume_leaves_the_run_as_it_is(run, data, capsys):
    before = (run / "config.yaml").read_text()
    arguments = ["train", "--config-file", str(run / "config.yaml"), "--root", str(data), "--resume"]
    assert main([*arguments, "method.template", "attribute_b"]) == 2
    assert "last.pth was trained with method.template" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize("command", ["train", "attribute-report"])
def test_a_converted_file_is_no_run(run, data, tmp_path, capsys, command):
    state = torch.load(run / "checkpoints/stage1.pth", weights_only=True)
    kept = {key: state[key] for key in ("format", "state_dict", "config")}
    torch.save({**kept, "source": "clip_reid", "num_classes": 16, "num_cameras": 6}, tmp_path / "other.pth")
    if command == "train":
        arguments = [*SHORT, "--after", str(tmp_path / "other.pth"), "data.save_dir", str(tmp_path / "run")]
        assert main(["train", "--config-file", CONFIG, "--root", str(data), *arguments]) == 2
    else:
        config = ["--config-file", str(run / "config.yaml")]
        assert report(run, data, tmp_path / "page.md", *config, weights=tmp_path / "other.pth") == 2
    assert "other.pth was not written by occplug train (a converted file?)" in capsys.readouterr().err


def test_tokens_of_other_people_or_of_another_clip_are_refused(run, data, tmp_path, capsys):
    state = torch.load(run / "checkpoints/stage1.pth", weights_only=True)
    other = {**state, "data": {"synthocc": {**state["data"]["synthocc"], "fingerprint": "another"}}}
    torch.save(other, tmp_path / "other.pth")
    assert report(run, data, tmp_path / "page.md", weights=tmp_path / "other.pth") == 2
    assert "other.pth was not trained on the synthocc in" in capsys.readouterr().err
    state["state_dict"]["prompts.context"] = torch.rand(*state["state_dict"]["prompts.context"].shape[:2], 64)
    torch.save(state, tmp_path / "wide.pth")
    assert report(run, data, tmp_path / "page.md", weights=tmp_path / "wide.pth") == 2
    assert "wide.pth has tokens of width 64, and clip_vit_tiny has words of width 128" in capsys.readouterr().err
