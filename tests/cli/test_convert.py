"""Official files as ours, with every key told."""

import pytest
import torch

from occplug.backbones import tiny, vit
from occplug.backbones.architectures import ARCHITECTURES
from occplug.cli import main
from occplug.config import default_config
from occplug.errors import CheckpointError
from occplug.importers import load_official
from occplug.method import build_method
from occplug.registry import BACKBONES, build
from occplug.torchreid_host import build_stock_model
from occplug.zoo.weights import fill, read_test_weights
from tests.importers.official import clip_reid_feature, clip_reid_state
from tests.importers.test_vit_family import official

SIZES = {"width": 64, "layers": 3, "embed": 24, "heads": 4, "text": 32, "text_layers": 2}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    vision = {"image_size": 224, "patch_size": 16, "width": 64, "layers": 3, "head_width": 16}
    sizes = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": True}
    monkeypatch.setitem(ARCHITECTURES, "clip_vit_b16", sizes)


def convert(folder, state, source="clip_reid", *more):
    torch.save(state, folder / "official.pth")
    return main(["convert", "--source", source, str(folder / "official.pth"), str(folder / "ours.pth"), *more])


def test_a_converted_file_embeds_as_the_official_code_and_every_key_is_told(tmp_path, capsys):
    state = clip_reid_state(SIZES, 129, cameras=3)
    assert convert(tmp_path, {f"module.{name}": value for name, value in state.items()}) == 0
    told = capsys.readouterr().out
    lines = {line.split()[1]: line for line in told.splitlines() if line.startswith(("read", "left"))}
    assert lines.keys() == state.keys()
    assert lines["cv_embed"] == "read     cv_embed [3, 64] -> backbone.camera_embedding"
    assert lines["prompt_learner.token_suffix"].endswith("-> prompts.template")
    assert f"{len(state)} tensors read, 0 left, none missing" in told
    cfg = default_config("clip_reid", "clip_vit_b16", ["backbone.sie_camera", True])
    weights = read_test_weights(tmp_path / "ours.pth")
    assert (weights.num_classes, weights.num_cameras) == (5, 3)
    method = build_method(cfg, 5, 3, pretrained=False).eval()
    images, camids = torch.randn(2, 3, 256, 128), torch.tensor([2, 0])
    fill(method, weights, method.training_only)
    expected = clip_reid_feature(state, SIZES, images, 16, camids)
    torch.testing.assert_close(method.embed(images, camids).vector, expected, atol=1e-5, rtol=1e-5)


def test_a_stock_model_and_another_image_size(tmp_path, capsys):
    net = build_stock_model("osnet_x0_25", 9, "softmax", pretrained=False, use_gpu=False)
    assert convert(tmp_path, net.state_dict(), "torchreid:osnet_x0_25") == 0
    weights = read_test_weights(tmp_path / "ours.pth")
    assert weights.num_classes == 9 and all(torch.equal(v, weights.state[k]) for k, v in net.state_dict().items())
    assert convert(tmp_path, clip_reid_state(SIZES, 13), "clip_reid", "--height", "64", "--width", "48") == 0


def test_a_mask_model_of_spt_is_a_stage_for_dpm(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        vit.SIZES, "vit_b16", {"image_size": 80, "patch_size": 16, "width": 32, "layers": 4, "heads": 4}
    )
    state = official("spt_sps")
    assert convert(tmp_path, state, "spt_sps", "--height", "96", "--width", "64") == 0
    options = ["data.height", 96, "data.width", 64, "backbone.weights", "none", "backbone.stride", 16]
    options += ["method.mask", "none", "method.spt", True, "method.start", "train"]
    options += ["method.earlier", str(tmp_path / "ours.pth"), "method.saliency.levels"]
    method = build_method(default_config("dpm", "vit_b16", [*options, [2, 4]]), 5, 2).eval()
    images = torch.randn(2, 3, 96, 64)
    expected = load_official("spt_sps", state, image_size=(96, 64)).saliency(images)
    assert torch.equal(method.saliency.saliency(images), expected)
    method.stages()[0].prepare(None, torch.device("cpu"))
    assert "ours.pth does not say on which data it was trained" in "".join(capsys.readouterr())
    with pytest.raises(CheckpointError, match=r"method.saliency.levels '\[2, 4\]', and this run has '\[1, 4\]'"):
        build_method(default_config("dpm", "vit_b16", [*options, [1, 4]]), 5, 2)
    assert convert(tmp_path, official("dpm"), "dpm", "--height", "96", "--width", "64") == 0
    with pytest.raises(CheckpointError, match=r"the stage 'saliency' is not finished in it \(finished: none\)"):
        build_method(default_config("dpm", "vit_b16", [*options, [2, 4]]), 5, 2)


@pytest.mark.parametrize("source", ["openai_clip", "spt_sps", "lsnet"])
def test_the_report_is_of_what_is_in_both_files(source, tmp_path, capsys, monkeypatch):
    sizes = {"image_size": 80, "patch_size": 16, "width": 32, "layers": 4, "heads": 4}
    monkeypatch.setitem(vit.SIZES, "vit_b16", sizes)
    state, left, filled = {}, set(), set()
    if source == "openai_clip":
        state = tiny.load()
        left = {name for name in state if not name.startswith("visual.")}
        more = ("--height", "128", "--width", "64")
    elif source == "spt_sps":
        state, more = official("spt_sps"), ("--height", "96", "--width", "64")
        left = {name for name in state if name.startswith("base.fc.")}
    else:
        state = build(BACKBONES, "lsnet_b").state_dict()
        filled = {name for name in state if ".mixer.conv1." in name}
        state, more = {name: value for name, value in state.items() if name not in filled}, ()
    assert convert(tmp_path, state, source, *more) == 0
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    told = {kind: {} for kind in ("read", "left", "filled")}
    for line in capsys.readouterr().out.splitlines():
        kind, _, rest = line.partition(" ")
        if kind in told:
            told[kind][rest.split()[0]] = rest.split()
    assert told["read"].keys() | told["left"].keys() == state.keys() and told["left"].keys() == left
    for name, words in told["read"].items():
        assert " ".join(words[1:]).split(" -> ")[0] == str(list(state[name].shape))
    assert {words[-1] if "->" in words else name for name, words in told["read"].items()} == ours.keys() - filled
    assert told["filled"].keys() == filled


def test_a_missing_key_and_other_mistakes_leave_no_file(tmp_path, capsys):
    state = clip_reid_state(SIZES, 129)
    del state["bottleneck.bias"]
    assert convert(tmp_path, state) == 2
    assert "missing: bottleneck.bias" in capsys.readouterr().err and not (tmp_path / "ours.pth").exists()
    assert convert(tmp_path, state, "clipreid") == 2
    assert "did you mean 'clip_reid'" in capsys.readouterr().err
    assert main(["convert", "--source", "clip_reid", "a", "b.bin"]) == 2
    assert "checkpoints of ours end in .pth" in capsys.readouterr().err
    official = tmp_path / "official.pth"
    before = official.read_bytes()
    assert main(["convert", "--source", "clip_reid", str(official), f"{tmp_path}/../{tmp_path.name}/official.pth"]) == 2
    assert "which would be lost; name another file" in capsys.readouterr().err and official.read_bytes() == before
