"""Reading CLIP weights: every format, every tensor, every way it can go wrong."""

import contextlib
import io
import pickle
import random
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from occplug.backbones import CLIPResNet, CLIPViT, architecture, build_text_tower, download
from occplug.backbones.weights import fit_clip, load_clip
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from occplug.prompts import IdentityPrompts
from occplug.utils import unpickling
from occplug.utils.tensors import read_tensors
from tests import clip_reference as reference
from tests.backbones.small import RESNET, SIZE, VIT, resnet_state, text_state, vit_state

POSITIONS = "visual.positional_embedding"
SIZES = {"input_resolution": 80, "context_length": 77, "vocab_size": 49408}


class _Archive(nn.Module):
    """Anything whose state dict has the given dotted names, to be scripted as OpenAI's archives are."""

    def __init__(self, state):
        super().__init__()
        children = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest:
                children.setdefault(first, {})[rest] = value
            else:
                self.register_buffer(name, value)
        for name, part in children.items():
            self.add_module(name, _Archive(part))

    def forward(self, x: torch.Tensor):
        return x


def save_archive(state, path):
    sizes = {name: torch.tensor(value) for name, value in SIZES.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        torch.jit.script(_Archive({**state, **sizes})).save(str(path))


def half(state):
    """As OpenAI stores them: matrices in fp16; the values are then fp16's."""
    return {name: value.half() if value.ndim >= 2 else value for name, value in state.items()}


def save(state, kind, folder):
    path = folder / {"archive": "clip.pt", "state": "clip.pt", "wrapped": "clip.pth"}.get(kind, "clip.safetensors")
    if kind == "archive":
        save_archive(state, path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        prefixed = {f"module.{name}": value for name, value in state.items()}
        torch.save({**state, **SIZES} if kind == "state" else {"epoch": 3, "state_dict": prefixed}, path)
    return path


@pytest.mark.parametrize("kind", ["archive", "state", "wrapped", "safetensors"])
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_every_format_fills_both_towers_and_the_prompts(kind, tower, tmp_path, caplog):
    caplog.set_level("INFO")
    arch, vision = (VIT, vit_state()) if tower == "vit" else (RESNET, resnet_state())
    state = half({**vision, **text_state()})
    backbone = (CLIPViT if tower == "vit" else CLIPResNet)(arch, SIZE)
    text, prompts = build_text_tower(arch), IdentityPrompts(32, 2, "a {1} person")
    path = save(state, kind, tmp_path)
    load_clip(str(path), backbone, text, [prompts])
    grid = (5, 5) if tower == "vit" else (3, 3)
    for name, value in backbone.visual.state_dict().items():
        expected = state[f"visual.{name}"]
        if name.endswith("positional_embedding"):
            expected = reference.resize(expected.float(), grid, (4, 3))
        torch.testing.assert_close(value, expected.to(value.dtype), atol=1e-6, rtol=0, msg=name)
    for name, value in text.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[name].float()), name
    assert torch.equal(prompts.template, state["token_embedding.weight"][prompts.ids].float())
    assert f"{path}: " in caplog.text and "1 not needed here" in caplog.text


def test_without_text_its_tensors_are_named_as_unused(caplog):
    caplog.set_level("DEBUG")
    fit_clip({**vit_state(), **text_state()}, "clip.pt", CLIPViT(VIT, SIZE))
    for name in text_state():
        assert name in caplog.text


def test_stored_positions_of_the_towers_own_grid_are_taken_as_they_are():
    tower = CLIPViT(VIT, SIZE, stride=12)  # 5 x 3
    state = vit_state(rows=16)
    fit_clip(state, "test", tower)
    assert torch.equal(tower.visual.positional_embedding, state[POSITIONS])


def test_stored_grid_of_a_non_square_clip_is_kept():
    tall = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": [64, 48]}}
    tower, state = CLIPViT(tall, (48, 64)), vit_state(rows=13)  # stored 4 x 3, wanted 3 x 4: as many patches
    fit_clip(state, "test", tower)
    expected = reference.resize(state[POSITIONS], (4, 3), (3, 4))
    torch.testing.assert_close(tower.visual.positional_embedding.detach(), expected, atol=1e-6, rtol=0)


def test_all_that_does_not_fit_is_listed_and_nothing_is_changed():
    state = {
        **vit_state(),
        **text_state(),
        "visual.extra": torch.zeros(2),
        "transformer.resblocks.3.ln_1.weight": torch.zeros(32),
    }
    state["visual.proj"] = state["visual.proj"][:, :20]
    state["ln_final.bias"] = torch.zeros(31)
    for name in ("visual.conv1.weight", "text_projection", "token_embedding.weight"):
        del state[name]
    tower, text = CLIPViT(VIT, SIZE), build_text_tower(VIT)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fit_clip(state, "clip.pt", tower, text, [IdentityPrompts(32, 2, "{1}")])
    assert str(caught.value).splitlines() == [
        "clip.pt does not fit the CLIP with these sizes",
        "  wrong shape: visual.proj is [64, 20], expected [64, 24]; ln_final.bias is [31], expected [32]",
        "  missing: visual.conv1.weight, text_projection, token_embedding.weight",
        "  unknown: visual.extra, transformer.resblocks.3.ln_1.weight",
    ]
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_positions_of_no_known_grid_are_a_wrong_shape():
    with pytest.raises(CheckpointError, match="visual.positional_embedding is \\[27, 64\\], expected \\[13, 64\\]"):
        fit_clip(vit_state(rows=27), "clip.pt", CLIPViT(VIT, SIZE))


def test_old_files_without_batch_norm_counters_are_read():
    state = {name: value for name, value in resnet_state().items() if not name.endswith("num_batches_tracked")}
    tower = CLIPResNet(RESNET, SIZE)
    fit_clip(state, "test", tower)
    assert tower.visual.bn1.num_batches_tracked == 0
    assert torch.equal(tower.visual.bn1.running_mean, state["visual.bn1.running_mean"])


def test_none_leaves_the_initial_weights():
    tower = CLIPViT(VIT, SIZE)
    before = tower.visual.proj.clone()
    load_clip("none", tower)
    assert torch.equal(tower.visual.proj, before)


def test_embedded_weights_fill_the_tiny_clip_alone():
    arch = architecture("clip_vit_tiny")
    tower, text, prompts = CLIPViT(arch, (128, 64)), build_text_tower(arch), IdentityPrompts(128, 2, "a {1} person")
    load_clip("embedded", tower, text, [prompts])
    with torch.no_grad():
        feature = tower(torch.rand(1, 3, 128, 64) * 2 - 1).projected
    assert feature.isfinite().all()
    with pytest.raises(ConfigError, match="only clip_vit_tiny has weights in the package, not clip_vit_b16"):
        with torch.device("meta"):
            big = CLIPViT(architecture("clip_vit_b16"))
        load_clip("embedded", big)
    with pytest.raises(
        ConfigError, match="OpenAI has no weights for clip_vit_tiny; it has for clip_vit_b16, clip_vit_l14, clip_rn50"
    ):
        load_clip("openai", tower)


# ---------------------------------------------------------------- files that are not what they should be


class _Command:
    """Pickles into a call."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_clip(path, CLIPViT(VIT, SIZE))
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    marker, path = tmp_path / "ran", tmp_path / "clip.pt"
    torch.save({"visual.proj": _Command(marker)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert message.startswith(f"{path}: refused: it is damaged, or reading it would run code stored in the file")
    assert not marker.exists()


def test_a_bare_pickle_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "clip.pt"
    path.write_bytes(pickle.dumps(_Command(marker)))
    assert "refused" in refusal(path)
    assert not marker.exists()


def test_a_pickled_module_is_refused(tmp_path):
    path = tmp_path / "clip.pt"
    torch.save(nn.Linear(2, 2), path)
    assert "only tensors and plain values are accepted" in refusal(path)


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors", "clip.bin"])
@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"PK\x03\x04 not a zip", b"\x80\x02."])
def test_files_that_are_no_weights(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ")


class _Writer(torch.nn.Module):
    """Writes a file when torch's own loader reads it."""

    def __init__(self, path: str):
        super().__init__()
        self.visual, self.path = torch.nn.Parameter(torch.ones(2)), path

    def forward(self, x: torch.Tensor):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.visual, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.visual, self.path, self.training = state[0], state[1], state[2]
        torch.save(state[0], state[1])


def _changing(name: bytes) -> bytes:
    """A pickle that names a class or function, and sets an attribute of it."""
    return b"\x80\x02c" + name + b"\nN}U\x03zzzU\x03abcs\x86b."  # GLOBAL, (None, {zzz: abc}), BUILD


@pytest.mark.parametrize(
    "name",
    [
        "collections\nCounter",
        "torch._utils\n_rebuild_tensor_v2",
        "yacs.config\nCfgNode",
        "numpy\ndtype",
        "_codecs\nencode",
    ],
)
def test_a_file_changes_nothing_it_names(name):
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        unpickling._Unpickler(io.BytesIO(_changing(name.encode()))).load()
    for each in (Counter, torch._utils._rebuild_tensor_v2, unpickling.Settings, unpickling.Inert, unpickling._latin1):
        assert not hasattr(each, "zzz")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_a_wrong_byte_or_cut_off_are_refused(tmp_path, zipped):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=zipped)
    content, rng = path.read_bytes(), random.Random(0)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="weights.pth"):
            read_tensors(path)
    for _ in range(60):
        at = rng.randrange(len(content))
        path.write_bytes(content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :])
        with contextlib.suppress(CheckpointError):
            read_tensors(path)


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(1).half().expand(10**13),  # 40 TB as float32
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        2**64,
    ],
    ids=["claims more than is there", "meta", "sparse", "complex", "too large"],
)
def test_tensors_must_be_plain(odd):
    with pytest.raises(CheckpointError, match="a.pth: these entries are no plain tensors of numbers: odd"):
        read_tensors({"plain": torch.zeros(2, 3).T, "odd": odd}, "a.pth")


def test_code_in_an_archive_is_not_run(tmp_path):
    path, written = tmp_path / "clip.pt", tmp_path / "written"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Writer(str(written))).save(str(path))
        torch.jit.load(str(path))
        assert written.exists()  # so it is a trap
        written.unlink()
    with pytest.raises(CheckpointError, match="clip.pt"):
        read_tensors(path)
    assert not written.exists()


def test_a_truncated_archive(tmp_path):
    path = tmp_path / "clip.pt"
    save_archive(vit_state(), path)
    path.write_bytes(path.read_bytes()[:20000])
    assert refusal(path).startswith(f"{path}: ")


def test_entries_that_are_no_tensors_are_listed(tmp_path):
    path = tmp_path / "clip.pt"
    torch.save({**vit_state(), "note": "hello", "rates": [0.1]}, path)
    assert refusal(path) == f"{path}: these entries are no plain tensors of numbers: note, rates"


def test_something_else_than_a_dict(tmp_path):
    path = tmp_path / "clip.pt"
    torch.save(torch.zeros(3), path)
    assert refusal(path) == f"{path}: holds a Tensor, expected tensors by name"


def test_a_path_that_is_not_there():
    assert refusal("nowhere/clip.pt") == (
        "backbone.weights is 'nowhere/clip.pt': there is no such file; give a path, or one of openai, "
        "open_clip:TAG, embedded, none"
    )


@pytest.mark.parametrize("name, start", [("ViT-B-16.pt", "5806e77c"), ("RN50.pt", "afeb0e10")])
def test_of_a_file_with_a_published_name_the_checksum_is_compared(tmp_path, name, start, caplog):
    path = tmp_path / name
    path.write_bytes(b"abc")
    refusal(path)  # it is no CLIP at all
    with caplog.at_level("WARNING"), pytest.raises(CheckpointError):
        load_official("openai_clip", path)
    message = caplog.text
    assert message.count("its sha256") == 2
    assert "its sha256 is ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in message
    assert f"but OpenAI's {name} has {start}" in message and str(path) in message


# ---------------------------------------------------------------- OpenAI's own weights


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and hub cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(download.huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    return tmp_path


@pytest.mark.parametrize("backbone, name", [("clip_vit_b16", "ViT-B-16.pt"), ("clip_rn50", "RN50.pt")])
@pytest.mark.parametrize("offline", [True, False])
def test_offline_says_quickly_what_to_fetch_and_where_to_put_it(home, monkeypatch, backbone, name, offline):
    def no_network(request, timeout):
        assert timeout <= 5
        raise OSError("Name or service not known")

    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        download.openai_file(backbone)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    for part in (
        f"/{name}",
        "openaipublic.azureedge.net/clip/models/",
        "https://huggingface.co/timm/",
        f"~/.cache/clip/{name}",
        "backbone.weights",
        "HF_HUB_OFFLINE is set" if offline else "huggingface.co: Name or service not known; openaipublic",
    ):
        assert part in message


def test_a_file_in_the_clip_cache_is_used_and_its_checksum_checked(home):
    path = home / ".cache" / "clip" / "ViT-B-16.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    assert download.openai_file("clip_vit_b16") == path
    tower = CLIPViT({**VIT, "name": "clip_vit_b16"}, SIZE)
    with pytest.raises(CheckpointError, match="sha256"):
        load_clip("openai", tower)


def test_a_file_in_the_hub_cache_is_used(tmp_path, monkeypatch):
    path = tmp_path / "open_clip_model.safetensors"
    save_file({**vit_state(), **text_state()}, path)
    monkeypatch.setenv("HOME", str(tmp_path))
    known = {("timm/vit_base_patch16_clip_224.openai", path.name): str(path)}
    monkeypatch.setattr(
        download.huggingface_hub, "try_to_load_from_cache", lambda repository, name: known.get((repository, name))
    )
    tower = CLIPViT({**VIT, "name": "clip_vit_b16"}, SIZE)
    load_clip("openai", tower)
    assert torch.equal(tower.visual.proj, vit_state()["visual.proj"])


def test_what_answers_is_downloaded(home, monkeypatch):
    asked = []
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "_check_answer", lambda address: asked.append(address))
    monkeypatch.setattr(
        download.huggingface_hub, "hf_hub_download", lambda repository, name: f"/hub/{repository}/{name}"
    )
    found = download.openai_file("clip_rn50")
    assert str(found) == "/hub/timm/resnet50_clip.openai/open_clip_model.safetensors"
    assert asked == ["https://huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors"]
