"""Models are passed on as folders and by way of a stand-in for the hub."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image

import occplug
from occplug.errors import CheckpointError
from occplug.zoo import read_index
from occplug.zoo.hub import parse_hub


@pytest.fixture(scope="module")
def model():
    return occplug.load("zoo://clip_reid/vit_tiny/synthocc")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("pretrained") / "m"
    figures = {"synthocc": {"mAP": 0.5, "rank1": 0.25, "protocol": "as tested"}}
    return model.save_pretrained(place, licence="mit", figures=figures)


def test_a_folder_is_the_model(model, folder):
    read = occplug.load(folder)
    picture = Image.new("RGB", (30, 60), "red")
    assert torch.equal(read.embed(picture).vector, model.embed(picture).vector)
    assert read.fingerprint == model.fingerprint and read.preprocessing() == model.preprocessing()
    card = (folder / "README.md").read_text()
    assert "license: mit" in card and "| synthocc | 50.0 | 25.0 | as tested |" in card and model.fingerprint in card
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.yaml",
        "model.safetensors",
        "preprocessing.json",
    ]


def test_the_card_says_what_the_towers_licences_forbid(model, tmp_path, monkeypatch):
    cfg = model.cfg.clone()
    cfg.defrost()
    cfg.backbone.name, cfg.backbone.weights = "clip_vit_b16", "open_clip:metaclip_400m"
    monkeypatch.setattr(model, "cfg", cfg)
    card = (model.save_pretrained(tmp_path / "m") / "README.md").read_text()
    assert "(open_clip:metaclip_400m: cc-by-nc-4.0, for non-commercial use alone)" in card


def test_the_card_has_the_figures_of_the_run_that_made_the_weights(model, folder, tmp_path):
    card = (model.save_pretrained(tmp_path / "of_zoo") / "README.md").read_text()
    entry = read_index().find("clip_reid/vit_tiny/synthocc")
    (run,) = (run for run in entry.ours.runs if run.seed == entry.checkpoint.seed)
    row = f"| synthocc | {100 * run.figures['mAP']:.1f} | {100 * run.figures['rank1']:.1f} | {entry.ours.protocol} |"
    assert row in card
    metrics = {"seed": 1, "protocol": "as tested", "stages": [], "data": {}}
    targets = {"folder:own": {"mAP": 0.25, "rank1": 0.5, "rank5": 1.0}}
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text(json.dumps({**metrics, "targets": targets}))
    again = occplug.load(tmp_path / "run")
    assert (
        "| folder:own | 25.0 | 50.0 | as tested |"
        in (again.save_pretrained(tmp_path / "of_run") / "README.md").read_text()
    )
    assert "Not measured here." in (again.save_pretrained(tmp_path / "none", figures={}) / "README.md").read_text()


def test_addresses():
    assert parse_hub("hf://u/r") == ("u/r", None, "model.safetensors")
    assert parse_hub("hf://u/r@v1") == ("u/r", "v1", "model.safetensors")
    assert parse_hub("hf://u/r@v1/a/b.pth") == ("u/r", "v1", "a/b.pth")
    assert parse_hub("hf://u/r/b.pth") == ("u/r", None, "b.pth")
    with pytest.raises(CheckpointError, match="repositories are hf://USER/REPO"):
        parse_hub("hf://r")


def test_without_a_connection_the_message_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="hf://nobody/nothing: not in the cache, and the hub cannot be reached"):
        occplug.load("hf://nobody/nothing")


@pytest.fixture
def hub(folder):
    """A server that answers for files of one repository as the hub does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self, send):
            name = self.path.split("/resolve/main/")[-1].split("?")[0]
            file = folder / name
            if not self.path.startswith("/someone/model/") or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", hashlib.sha256(content).hexdigest())
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if send:
                self.wfile.write(content)

        def do_HEAD(self):
            self._answer(False)

        def do_GET(self):
            self._answer(True)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_model_is_fetched_from_the_hub(hub, model, tmp_path):
    code = "import occplug; print(occplug.load('hf://someone/model').fingerprint)"
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == model.fingerprint


def test_push_uploads_what_is_saved(model, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repository, **options):
            calls.append((repository, options))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append((repo_id, sorted(os.listdir(folder_path))))
            return "done"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push("someone/model") == "done"
    assert calls[0] == ("someone/model", {"private": True, "exist_ok": True})
    assert calls[1][0] == "someone/model" and "model.safetensors" in calls[1][1]


def test_what_keeps_a_model_from_the_hub_is_said_with_its_cure(model, monkeypatch):
    import huggingface_hub

    with pytest.raises(CheckpointError, match="someone/model: the hub did not take .*offline.*; connect, or pass on"):
        model.push("someone/model")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match="someone/model: the hub did not take it .*; connect, or pass on"):
        model.push("someone/model")

    def refused(self, *args, **options):
        raise ValueError("401 unauthorized")

    monkeypatch.setattr(api, "create_repo", refused)
    with pytest.raises(CheckpointError, match=r"did not take it \(401 unauthorized\); log in with: hf auth login"):
        model.push("someone/model")
