"""Testing with weights of the zoo and with several models, by command, on SynthOcc tiny."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from occplug.cli import main
from occplug.config import load_config
from occplug.data.manager import DataManager, held_out_labels
from occplug.errors import CheckpointError, ConfigError
from occplug.runs.candidates import config_path
from occplug.utils.files import file_sha256
from occplug.zoo import Checkpoint, Index, read_index
from occplug.zoo.fetching import CACHE_VARIABLE, cache_folder, cached_file, fetch
from tests.importers.official import FULL_VIT, clip_reid_state

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/clip_reid_synthocc.yaml")
STOCK = str(ROOT / "configs/osnet_x0_25_synthocc.yaml")
TINY = ["synthocc.size", "tiny", "data.workers", "0"]
BRIEF = [*TINY, "train.batch_size", "16", "method.stage1.epochs", "0", "method.stage2.epochs", "0"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Runs of two models whose weights are the initial ones, with a quarter of the persons held out."""
    folder = tmp_path_factory.mktemp("run")
    common = ["--root", str(data), "ensemble.held_out", "0.25"]
    assert main(["train", "--config-file", CONFIG, *common, *BRIEF, "data.save_dir", str(folder / "clip")]) == 0
    stock = [*TINY, "train.batch_size", "16", "train.max_epoch", "1", "data.save_dir", str(folder / "osnet")]
    assert main(["train", "--config-file", STOCK, *common, *stock]) == 0
    return folder


def mix(run, folder, *options):
    names = ("clip", "osnet")
    words = [w for name in names for w in ("--config-file", str(run / name / "config.yaml"), "--weights",
                                                  str(run / name / "checkpoints/last.pth"))]  # fmt: skip
    return main(["test", *words, "data.save_dir", str(folder), *options])


def test_held_out_persons_are_not_trained_on(run, data):
    cfg = load_config(run / "clip/config.yaml")
    manager = DataManager(cfg)
    left_out = held_out_labels(16, 0.25)
    assert len(left_out) == 4 and manager.num_train_pids == 12
    names = manager.sets["synthocc"].pids
    assert manager.pids == [pid for label, pid in enumerate(names) if label not in left_out]
    by_name = {Path(path).name: pid for path, pid, *_ in manager.train_items}
    assert sorted(set(by_name.values())) == list(range(12))
    assert all(manager.pids[label] == int(name.split("_")[0]) for name, label in by_name.items())
    batches = list(manager.persons_loader({"synthocc": left_out}))
    shown = {int(Path(path).name.split("_")[0]) for batch in batches for path in batch["impath"]}
    assert shown == {names[label] for label in left_out}
    assert torch.load(run / "clip/checkpoints/last.pth", weights_only=True)["pids"] == manager.pids


def test_two_models_are_one_by_weights_of_held_out_persons(run, tmp_path):
    assert mix(run, tmp_path) == 0
    metrics = json.loads((tmp_path / "test/ensemble/metrics.json").read_text())
    assert metrics["method"] == "clip_reid + osnet_x0_25" and "sum of distances" in metrics["protocol"]
    chosen = metrics["ensemble"]
    assert chosen["persons"] == 4 and chosen["seen_in_training"] == []
    assert sum(chosen["weights"]) == pytest.approx(1) and chosen["mAP"] >= max(chosen["alone"])


def test_query_and_gallery_do_not_move_the_weights(run, tmp_path, monkeypatch):
    """Another test split, with persons and order changed, gives other figures and the same mixture."""
    assert mix(run, tmp_path / "a") == 0
    real = DataManager._dataset

    def changed(self, name):
        found = real(self, name)
        found.query = found.query[: len(found.query) // 2]
        found.gallery = found.gallery[::-1][: len(found.gallery) * 2 // 3]
        return found

    monkeypatch.setattr(DataManager, "_dataset", changed)
    assert mix(run, tmp_path / "b") == 0
    a, b = (json.loads((tmp_path / name / "test/ensemble/metrics.json").read_text()) for name in "ab")
    assert a["ensemble"] == b["ensemble"] and a["targets"] != b["targets"]


def test_weights_of_models_that_know_the_persons_are_equal(run, tmp_path, capsys):
    assert mix(run, tmp_path, "ensemble.held_out", "0.0") == 0  # what counts is on whom they were trained
    chosen = json.loads((tmp_path / "test/ensemble/metrics.json").read_text())["ensemble"]
    assert chosen["seen_in_training"] == [] and chosen["persons"] == 4
    state = torch.load(run / "osnet/checkpoints/last.pth", weights_only=True)
    everybody = DataManager(load_config(run / "clip/config.yaml")).sets["synthocc"].pids
    state["pids"] = sorted(everybody, key=lambda pid: pid in state["pids"])[:12]  # those that the first did not see
    torch.save(state, tmp_path / "other.pth")
    words = ["--config-file", str(run / "clip/config.yaml"), "--weights", str(run / "clip/checkpoints/last.pth")]
    words += ["--config-file", str(run / "osnet/config.yaml"), "--weights", str(tmp_path / "other.pth")]
    assert main(["test", *words, "data.save_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert (
        "there are no training identities to choose them on: the training of clip_reid and osnet_x0_25 had all of them"
        in said
    )
    chosen = json.loads((tmp_path / "test/ensemble/metrics.json").read_text())["ensemble"]
    assert chosen["seen_in_training"] == ["clip_reid", "osnet_x0_25"] and chosen["weights"] == [0.5, 0.5]


def test_mistakes_of_ensembles(run, tmp_path, capsys):
    assert mix(run, tmp_path, "--rerank") == 2
    assert "--rerank and --visrank are for one model" in capsys.readouterr().err
    assert main(["test", "--config-file", CONFIG, "--weights", "a.pth", "--weights", "b.pth"]) == 2
    assert "2 times --weights and 1 times --config-file" in capsys.readouterr().err
    assert main(["test", "--weights", "a.pth", "--weights", "b.pth", "--config-file", CONFIG]) == 2
    assert "2 times --weights and 1 times --config-file" in capsys.readouterr().err
    assert main(["test", "--weights", "a.pth"]) == 2
    assert "a.pth: there is no such checkpoint file" in capsys.readouterr().err
    assert main(["test", "--weights", "zoo://clip_reid/vit_b16/ocduke"]) == 2
    assert "the nearest: clip_reid/vit_b16/occduke" in capsys.readouterr().err


# ---------------------------------------------------------------------- weights of the zoo


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A copy of the index in `tmp_path` in place of the package's, and an empty cache."""
    index = read_index()
    copied = Index(tmp_path / "index.yaml", index.licences, dict(index.entries))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("occplug.runs.candidates.read_index", lambda: copied)
    return copied


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "occplug/zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/occplug/zoo"


def put_in_cache(entry, state):
    path = cached_file(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def test_a_first_download_without_known_checksum_is_remembered(zoo, tmp_path):
    entry = zoo.find("clip_reid/vit_b16/occduke")
    path = put_in_cache(entry, {"x": torch.zeros(1)})
    assert fetch(zoo, entry) == path
    assert path.with_name(f"{path.name}.sha256").read_text().strip() == file_sha256(path)
    torch.save({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="its sha256 is .*, expected .*; delete it, and it is downloaded again"):
        fetch(zoo, entry)
    with pytest.raises(ConfigError, match="dpl_reid/vit_b16/occduke has no weights: train it with occplug train"):
        fetch(zoo, zoo.find("dpl_reid/vit_b16/occduke"))


def test_different_files_never_share_a_name_in_the_cache(zoo):
    """Neither two indexes with entries of one name nor an entry whose file has changed."""
    entry = zoo.find("clip_reid/vit_b16/occduke")

    def cached(**place):
        return cached_file(dataclasses.replace(entry, checkpoint=Checkpoint("occplug", **place)))

    one = {"url": "http://x/a/weights.safetensors?raw=1"}
    others = [{"url": "http://x/b/weights.safetensors"}, {"drive": "ID"}, {"drive": "ANOTHER"}]
    others += [{**one, "sha256": "0" * 64}, {**one, "sha256": "1" * 64}]
    assert len({cached(**place) for place in [one, *others]}) == 6
    assert cached(**one) == cached(**one) and entry.name in str(cached(**one))
    assert cached(**one).suffix == ".safetensors" and cached(drive="ID").suffix == ".pth"
    assert cached(url="http://x/a.pth.tar").suffix == ".tar" and cached(url="http://x/get").suffix == ".pth"


def test_what_is_in_the_way_of_the_cache_is_named(zoo, tmp_path):
    entry = zoo.find("clip_reid/vit_b16/occduke")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        CheckpointError, match=f"cache.* cannot be read or written .*, or set .{CACHE_VARIABLE} to anot"
    ):
        fetch(zoo, entry)
    (tmp_path / "cache").unlink()
    cached_file(entry).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"{cached_file(entry)} is a folder; move it out of the way"):
        fetch(zoo, entry)


def test_a_malicious_file_in_the_zoo_is_refused(zoo, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    for name in ("clip_reid/vit_b16_sie_olp/occduke", "torchreid/osnet_x1_0/market"):
        put_in_cache(zoo.find(name), {"state_dict": Evil()})
        assert main(["test", "--weights", f"zoo://{name}"]) == 2
        error = capsys.readouterr().err
        assert str(cached_file(zoo.find(name))) in error and (
            "run code stored in the file" in error or "more than tensors" in error
        )
    assert not (tmp_path / "pwned").exists()


def test_a_release_is_evaluated_by_one_command_with_its_entrys_config(zoo, data, tmp_path, monkeypatch, capsys):
    """The official layout at full size; SynthOcc stands in for Occluded-Duke, which nobody can download here."""
    monkeypatch.chdir(tmp_path)
    entry = zoo.find("clip_reid/vit_b16_sie_olp/occduke")
    state = clip_reid_state(FULL_VIT, 211, classes=7, cameras=8)
    put_in_cache(entry, state)
    few = ["-s", "synthocc", "-t", "synthocc", "--root", str(data), *TINY, "test.batch_size", "4"]
    monkeypatch.setattr(DataManager, "_dataset", _few_images(DataManager._dataset))
    assert main(["test", "--weights", f"zoo://{entry.name}", *few]) == 0
    folder = tmp_path / "log/zoo" / entry.name
    metrics = json.loads((folder / "test/metrics.json").read_text())
    assert metrics["method"] == "clip_reid" and "camera input yes; stride 12" in metrics["protocol"]
    assert metrics["config_file"] == str(config_path(entry))


def _few_images(real):
    def few(self, name):
        found = real(self, name)
        found.query, found.gallery = found.query[:2], found.gallery[:24]
        return found

    return few


def test_a_stock_release_is_evaluated_like_its_run(zoo, run, tmp_path):
    """A torchreid checkpoint of the zoo gives the figures of the run it is from."""
    state = torch.load(run / "osnet/checkpoints/last.pth", weights_only=True)
    name = "torchreid/osnet_x0_25/synthocc"
    entry = dataclasses.replace(zoo.find(name), checkpoint=Checkpoint("torchreid:osnet_x0_25", drive="ID"))
    zoo.put(entry)
    put_in_cache(entry, {"state_dict": state["state_dict"], "epoch": 1, "rank1": np.float64(0.1)})
    config = ["--config-file", str(run / "osnet/config.yaml")]
    assert main(["test", *config, "--weights", f"zoo://{name}", "data.save_dir", str(tmp_path / "t")]) == 0
    trained = json.loads((run / "osnet/metrics.json").read_text())["targets"]
    assert json.loads((tmp_path / "t/test/metrics.json").read_text())["targets"] == trained
