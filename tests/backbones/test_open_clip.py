"""CLIP weights by open_clip's tags: activation, download, strict loading, and features equal to open_clip's own."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file

from occplug.backbones import EvaCLIP, build_text_tower, download, licences
from occplug.backbones.architectures import ARCHITECTURES, architecture
from occplug.backbones.tags import MODELS
from occplug.backbones.weights import load_clip, read_clip
from occplug.config import default_config, load_config
from occplug.errors import CheckpointError, ConfigError
from occplug.registry import BACKBONES, build, has_texts

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
QUICK = {
    "ViT-B-16": {"openai", "dfn2b", "metaclip_400m", "metaclip_fullcc"},
    "ViT-L-14": {"openai", "dfn2b", "metaclip_400m", "metaclip_fullcc"},
    "EVA02-B-16": set(),
}


def write(model, path):
    """As open_clip's published files: without the text mask, which is a constant."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if "attn_mask" not in k}, path)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "clip_vit_b16", SMALL)


@pytest.mark.parametrize("backbone", list(MODELS))
def test_the_activation_of_every_tag_is_open_clips(backbone):
    model = MODELS[backbone]
    for tag in open_clip.list_pretrained_tags_by_model(model):
        assert architecture(backbone, f"open_clip:{tag}")["quick_gelu"] is (tag in QUICK[model]), tag


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b88k"])
def test_a_tag_gives_the_features_of_open_clip(small, tag, tmp_path, monkeypatch):
    torch.manual_seed(0)
    quick = tag == "openai"
    theirs = CLIP(24, SMALL["vision_cfg"], TEXT, quick_gelu=quick).eval()
    save_file(
        {k: v.contiguous() for k, v in theirs.state_dict().items() if k != "attn_mask"}, tmp_path / "w.safetensors"
    )
    monkeypatch.setattr("occplug.backbones.weights.weights_file", lambda name, source: tmp_path / "w.safetensors")
    ours = build(BACKBONES, "clip_vit_b16", image_size=(64, 64), weights=f"open_clip:{tag}").eval()
    text = build_text_tower(ours.arch)
    load_clip(f"open_clip:{tag}", ours, text)
    images, tokens = torch.randn(2, 3, 64, 64), open_clip.tokenize(["a photo of a person.", "blue"])
    with torch.no_grad():
        torch.testing.assert_close(ours(images).projected, theirs.encode_image(images), atol=1e-5, rtol=0)
        embedded = theirs.token_embedding(tokens)
        torch.testing.assert_close(text(embedded, tokens.argmax(1)), theirs.encode_text(tokens), atol=1e-5, rtol=0)
    assert ours.bound_to()["backbone.activation"] == ("quick_gelu" if quick else "gelu")


def test_eva02_gives_the_features_of_open_clip_with_its_text_tower(monkeypatch, tmp_path):
    torch.manual_seed(0)
    timm_name = "eva02_tiny_patch14_224"
    vision = {"image_size": 224, "timm_model_name": timm_name, "timm_pool": "token", "timm_proj": None}
    theirs = CustomTextCLIP(24, vision, TEXT).eval()
    sizes = {"embed_dim": 24, "vision_cfg": {"timm": timm_name}, "text_cfg": TEXT, "quick_gelu": False}
    monkeypatch.setitem(ARCHITECTURES, "eva02_clip_b16", sizes)
    save_file(
        {k: v.contiguous() for k, v in theirs.state_dict().items() if "attn_mask" not in k}, tmp_path / "w.safetensors"
    )
    ours = build(BACKBONES, "eva02_clip_b16", image_size=(224, 224), stride=14).eval()
    assert isinstance(ours, EvaCLIP) and has_texts("eva02_clip_b16")
    text = build_text_tower(ours.arch)
    load_clip(tmp_path / "w.safetensors", ours, text)
    images, tokens = torch.randn(2, 3, 224, 224), open_clip.tokenize(["a photo of a person.", "blue"])
    with torch.no_grad():
        seen = ours(images, tokens=True)
        torch.testing.assert_close(seen.projected, theirs.encode_image(images), atol=1e-5, rtol=1e-4)
        embedded = theirs.text.token_embedding(tokens)
        torch.testing.assert_close(text(embedded, tokens.argmax(1)), theirs.encode_text(tokens), atol=1e-5, rtol=1e-4)
        assert seen.tokens.shape == (2, 256, 192) and seen.projected_tokens.shape == (2, 256, 24)
        tall = build(BACKBONES, "eva02_clip_b16", image_size=(56, 28), stride=14).eval()
        load_clip(tmp_path / "w.safetensors", tall)
        assert tall.grid == (4, 2) and tall(torch.randn(1, 3, 56, 28)).projected.isfinite().all()
        with pytest.raises(ConfigError, match=r"method\.hem"):
            tall(torch.randn(1, 3, 56, 28), class_scores=True)


def test_a_file_that_does_not_tell_its_activation_is_refused_and_the_key_named(small, tmp_path):
    theirs = CLIP(24, SMALL["vision_cfg"], TEXT).state_dict()
    torch.save({k: v for k, v in theirs.items() if k != "attn_mask"}, tmp_path / "clip.pt")
    with pytest.raises(ConfigError, match=r"clip\.pt.*backbone\.activation"):
        load_clip(tmp_path / "clip.pt", build(BACKBONES, "clip_vit_b16", image_size=(64, 32), weights="clip.pt"))
    stated = build(BACKBONES, "clip_vit_b16", image_size=(64, 32), weights="clip.pt", activation="gelu")
    load_clip(tmp_path / "clip.pt", stated)
    assert not stated.arch["quick_gelu"]


def test_tags_that_do_not_exist_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean open_clip:laion2b_s34b_b88k"):
        read_clip("open_clip:laion2b_s34b_b88", "clip_vit_b16")
    with pytest.raises(ConfigError, match="tags are for"):
        read_clip("open_clip:laion400m_e32", "clip_vit_tiny")
    with pytest.raises(ConfigError, match=r"backbone\.activation"):
        default_config("clip_reid", "clip_vit_b16", ["backbone.activation", "gelu"])


def test_offline_the_message_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(download.huggingface_hub, "try_to_load_from_cache", lambda *a: None)
    with pytest.raises(CheckpointError) as caught:
        download.weights_file("clip_vit_b16", "open_clip:datacomp_xl_s13b_b90k")
    assert "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K" in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    found = tmp_path / "f.safetensors"
    monkeypatch.setattr(download.huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(found))
    assert download.weights_file("clip_vit_l14", "open_clip:dfn2b_s39b") == found


# ---------------------------------------------------------------------- licences


def test_sapiens2_is_refused_with_its_clause_before_anything_is_fetched():
    with pytest.raises(ConfigError, match="for purposes of surveillance.*for biometric processing"):
        default_config("dpm", "timm:vit_base_patch16_sapiens2.fb")
    with pytest.raises(ConfigError, match="sapiens2-license"):
        load_config(text="model: {name: dpm}\nbackbone: {name: 'timm:vit_large_patch16_sapiens2.fb'}")


@pytest.mark.parametrize(
    "backbone, source, name",
    [
        ("clip_vit_b16", "openai", "mit"),
        ("clip_vit_b16", "open_clip:metaclip_400m", "cc-by-nc-4.0"),
        ("clip_vit_b16", "open_clip:dfn2b", "apple-amlr"),
        ("clip_vit_l14", "open_clip:laion2b_s32b_b82k", "mit"),
        ("clip_vit_l14", "open_clip:openai", "mit"),
        ("eva02_clip_b16", "open_clip:merged2b_s8b_b131k", "mit"),
        ("clip_vit_b16", "open_clip:someone_new_s1b", "unknown"),
        ("timm:vit_base_patch16_224.mae", "timm", "cc-by-nc-4.0"),
        ("timm:vit_base_patch16_dinov3.lvd1689m", "timm", "dinov3-license"),
        ("vit_b16", "timm", "apache-2.0"),
        ("vit_b16", "file.pth", "yours to check"),
        ("solider_swin_t", "none", ""),
    ],
)
def test_every_named_source_has_a_licence(backbone, source, name):
    assert licences.licence_of(backbone, source).name == name


def test_all_tags_of_today_are_of_a_known_family_and_another_one_warns(caplog, monkeypatch):
    known = [f"open_clip:{tag}" for model in MODELS.values() for tag in open_clip.list_pretrained_tags_by_model(model)]
    assert len(known) > 25
    assert not [tag for tag in known if licences.licence_of("clip_vit_b16", tag).name == "unknown"]
    monkeypatch.setattr(licences, "_warned", set())
    licences.pass_licence(licences.licence_of("clip_vit_b16", "open_clip:someone_new_s1b"))
    assert "open_clip:someone_new_s1b: licence unknown, so ask its authors what is allowed" in caplog.text


def test_the_released_lsnet_states_no_licence():
    options = ["backbone.weights", "none", "backbone.wgff.weights", "released"]
    found = licences.licences_of_run(default_config("clip_reid", "wgff", options))
    assert [licence.name for licence in found] == ["", "none stated"]


def test_a_restricted_licence_warns_once_and_a_free_one_never(caplog, monkeypatch):
    monkeypatch.setattr(licences, "_warned", set())
    for _ in range(2):
        licences.pass_licence(licences.licence_of("clip_vit_b16", "open_clip:metaclip_400m"))
        licences.pass_licence(licences.licence_of("clip_vit_b16", "openai"))
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "open_clip:metaclip_400m: licence cc-by-nc-4.0, for non-commercial use alone; what is trained from it is bound "
        "too"
    ]
