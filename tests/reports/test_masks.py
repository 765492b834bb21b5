"""The mask report: its figures on masks made by hand, a run on SynthOcc tiny, and mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from occplug import build_method
from occplug.cli import main
from occplug.config import default_config, load_config, save_config
from occplug.engine import load_checkpoint, save_checkpoint
from occplug.method import Method
from occplug.reports import masks as mask_report
from occplug.stages.patch_transfer import PatchTransfer


def test_mask_figures_find_the_dimension_that_follows_a_part():
    draw = np.random.default_rng(2)
    head, visible = draw.random(60), draw.random(60)
    masks = draw.random((60, 8)).astype(np.float32)
    masks[:, 3] = 0.5 - 0.3 * head
    masks += visible[:, None].astype(np.float32)
    masks[:, 3] -= visible
    told = mask_report.mask_figures(masks, visible, {"head": head, "feet": np.ones(60)})
    assert told["mean_with_visibility"]["pearson"] == pytest.approx(np.corrcoef(masks.mean(1), visible)[0, 1], abs=1e-6)
    assert told["mean_with_visibility"]["spearman"] > 0.8
    assert told["strongest_dimension"]["head"]["abs_pearson"] == pytest.approx(1, abs=1e-4)  # negative, so the size
    assert told["strongest_dimension"]["head"]["chance"] < 0.5
    assert told["strongest_dimension"]["feet"] == {"abs_pearson": None, "chance": None}


def test_saliency_figures_by_hand():
    person, occluder = np.zeros((2, 2, 4), bool), np.zeros((2, 2, 4), bool)
    person[0, :, :2] = person[1, 0] = True
    occluder[0, :, 2] = True  # the second image has none
    saliency = np.full((2, 2, 4), 0.2)
    saliency[0, :, 1:3] = 0.8
    saliency[1, 0] = 0.6
    told = mask_report.saliency_figures(saliency, saliency >= 0.5, person, occluder)
    assert told["salient_share"] == 8 / 16
    assert told["iou_person"] == pytest.approx((2 / 6 + 1) / 2)
    assert told["iou_person_of_all"] == pytest.approx((4 / 8 + 4 / 8) / 2)
    assert told["iou_occluder"] == 2 / 4 and told["iou_occluder_of_all"] == 2 / 8
    assert told["mean_saliency"] == pytest.approx(
        {"person": (2 * 0.2 + 2 * 0.8 + 4 * 0.6) / 8, "occluder": 0.8, "background": 0.2}
    )


def test_twin_figures_by_hand():
    twins = np.full((3, 2), 0.5)
    masks = twins + np.array([[0.1, -0.1], [0.0, 0.4], [-0.3, 0.3]])
    told = mask_report.twin_figures(masks, twins, np.array([0.9, 0.8, 0.7]))
    assert told["mean_change"] == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert told["change_with_occluded_share"] == pytest.approx({"pearson": 1, "spearman": 1})


def test_transfer_figures_by_hand():
    """Two images on a grid of 1 x 4 patches: each is the other's only candidate, and 4 of its 4 patches are known."""
    saliency = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.9, 0.1]])
    body = torch.tensor([[[True, True, True, False]], [[True, True, False, False]]])
    words = ["method.transfer.p_mix", 1.0, "method.transfer.alpha1", 0.0, "method.transfer.select", "random"]
    options = default_config("dpmpp", "clip_vit_tiny", [*words, "method.transfer.grow", 0]).method.transfer
    transfer = PatchTransfer(lambda images: saliency[: len(images)], (1, 4), options)
    images, occluded = torch.zeros(2, 3, 1, 4), torch.tensor([True, False])
    told = mask_report.transfer_figures(transfer, [images, images[:1]], [body, body[:1]], [occluded, occluded[:1]])
    # image 0 keeps patches 0 and 2, image 1 keeps 0 and 1; the batch of one has no candidate
    assert told["mixed"] == 2 and told["occluded_candidates"] == 0.5
    assert told["foreign_share"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert told["hidden_share"] == pytest.approx((1 / 3 + 0) / 2) and told["hidden_much"] == 0.5
    assert mask_report.transfer_figures(transfer, [], [], [])["foreign_share"] is None


def test_a_mask_file_is_read_at_the_size_of_the_images(tmp_path):
    codes = np.zeros((4, 2), np.uint8)
    codes[1, 0] = 15
    Image.fromarray(codes).save(tmp_path / "m.png")
    found = mask_report._picture(tmp_path / "m.png", (8, 4))
    assert found.dtype == bool and found.sum() == 4 and found[2:4, :2].all()
    Image.fromarray(codes > 0).save(tmp_path / "b.png")
    assert np.array_equal(mask_report._picture(tmp_path / "b.png", (4, 2)), codes > 0)
    assert not mask_report._picture(None, (4, 2)).any()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def arguments(root, folder, name="dpmpp", *options):
    opts = ["backbone.weights", "none", "data.workers", 0, "data.sources", ["synthocc"], "data.targets", ["synthocc"]]
    opts += ["synthocc.size", "tiny", "data.root", str(root), *options]
    cfg = default_config(name, "clip_vit_tiny", opts)
    save_config(cfg, folder / "c.yaml")
    torch.manual_seed(2)
    method = build_method(cfg, 20, 4)
    if name.startswith("dpm"):
        torch.nn.init.normal_(method.metric.generator.linear.weight, std=0.01)
    state = {"state_dict": method.state_dict(), "pids": list(range(20)), "cameras": list(range(4))}
    save_checkpoint(state, folder / "w.pth")
    given = ["--config-file", folder / "c.yaml", "--weights", folder / "w.pth", "--output", folder / "r.json"]
    return ["mask-report", *map(str, given)]


def test_the_report_has_both_query_sets_and_their_twins(root, tmp_path, capsys):
    assert main(arguments(root, tmp_path)) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("\n{\n") + 1 if not printed.startswith("{") else 0 :]) == report
    occluded, whole = report["sets"]["query"], report["sets"]["query_holistic"]
    assert occluded["images"] == whole["images"] > 0
    assert 0 < occluded["prototype_mask"]["mean_with_visibility"]["pearson"] ** 2 <= 1
    assert whole["prototype_mask"]["mean_with_visibility"]["pearson"] is None  # all of them are seen in full
    assert set(occluded["prototype_mask"]["strongest_dimension"]) >= {"person", "head", "torso"}
    assert occluded["saliency"]["iou_occluder"] is not None and whole["saliency"]["iou_occluder"] is None
    assert 0.05 < occluded["saliency"]["iou_person_of_all"] < whole["saliency"]["iou_person_of_all"] < 0.6
    assert report["twins"]["mean_change"] > 0
    mixed = report["patch_transfer"]  # a saliency net that knows nothing marks all or none, and gives no candidate
    assert mixed["mixed"] == 0 or 0 <= mixed["foreign_share"] <= 1


def test_mistakes_are_named(root, tmp_path, capsys):
    assert main([*arguments(root, tmp_path), "-t", "market1501"]) == 2
    assert "data.targets has market1501; true masks are known of synthocc alone" in capsys.readouterr().err
    assert main(arguments(root, tmp_path, "clip_reid")) == 2
    assert "clip_reid has neither prototype masks nor patch transfer here; dpm and dpmpp" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_cameras_of_a_second_source_are_given_by_their_rows(root, tmp_path, monkeypatch):
    words, given = arguments(root, tmp_path, "dpm", "backbone.sie_camera", True), set()
    state = load_checkpoint(tmp_path / "w.pth")
    cfg = load_config(tmp_path / "c.yaml")
    state["state_dict"] = build_method(cfg, 20, 10).state_dict()
    state |= {"cameras": [*range(6), *range(4)], "camera_rows": {"market1501": (0, 6), "synthocc": (6, 4)}}
    save_checkpoint(state, tmp_path / "w.pth")
    embed = Method.embed
    monkeypatch.setattr(
        Method, "embed", lambda m, images, camids: given.update(camids.tolist()) or embed(m, images, camids)
    )
    assert main(words) == 0
    assert given == {6, 7, 8, 9}
