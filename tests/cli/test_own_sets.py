"""Images by path in commands: trained and tested, written down, and every mistake before the first epoch."""

import collections
import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from occplug.cli import main
from occplug.config import load_config
from occplug.data.manager import DataManager
from occplug.data.recognition import ImageMarks, mark_of
from occplug.engine import load_checkpoint
from occplug.runs import preflight
from occplug.torchreid_host import ImageDataManager

SHORT = ["method.stage1.epochs", "1", "method.stage2.epochs", "1", "train.batch_size", "8", "data.workers", "0"]
SHORT += ["sampler.num_instances", "2", "data.height", "64", "data.width", "32"]


@pytest.fixture(scope="module")
def people(data, tmp_path_factory):
    """Ten persons of SynthOcc tiny, a folder each, whose names tell no camera."""
    target, chosen = tmp_path_factory.mktemp("people"), collections.defaultdict(list)
    for image in sorted(Path(data, "synthocc/tiny/bounding_box_train").glob("*.jpg")):
        chosen[image.name[:4]].append(image)
    for person in sorted(chosen)[:10]:
        (target / person).mkdir()
        for number, image in enumerate(chosen[person][:6]):
            shutil.copy(image, target / person / f"{number}.jpg")
    return target


def listed(people: Path, file: Path, change=lambda row: row) -> Path:
    """A CSV of `people`, half train, then a query and gallery images of two cameras for each person."""
    rows = []
    for place, folder in enumerate(sorted(people.iterdir())):
        for number, image in enumerate(sorted(folder.iterdir())):
            side = "train" if place < 5 else "gallery" if number else "query"
            rows.append({"path": str(image), "pid": place, "camid": number % 2, "split": side})
    rows = [row for row in map(change, rows) if row]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def train(save: Path, *words: str) -> int:
    return main(["train", "--config-file", "clip_reid_synthocc", *words, "data.save_dir", str(save), *SHORT])


def test_a_folder_is_trained_on_and_its_written_split_gives_the_same_figures(people, tmp_path):
    name = f"folder:{people}"
    assert train(tmp_path / "run", "-s", name, "-t", name) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert "camera filter no" in metrics["protocol"] and "left out" not in metrics["protocol"]
    (split,) = (tmp_path / "run/splits").iterdir()
    with split.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60 and rows[0].keys() == {"path", "pid", "split"}
    assert collections.Counter(row["split"] for row in rows) == {"train": 30, "query": 5, "gallery": 25}
    (figures,) = (tmp_path / "run/per_query").iterdir()
    assert figures.suffix == ".npz"
    target = f"csv:{split}"
    assert main(["test", "--weights", str(tmp_path / "run"), "-t", target, "data.save_dir", str(tmp_path / "t")]) == 0
    tested = json.loads((tmp_path / "t/test/metrics.json").read_text())
    assert tested["targets"][target] == metrics["targets"][name]
    assert tested["protocol"] == metrics["protocol"]
    marks = ImageMarks.of_dict(load_checkpoint(tmp_path / "run/checkpoints/last.pth")["images"])
    kinds = {row["path"]: row["split"] for row in rows}
    assert {mark_of(path) for path, kind in kinds.items() if kind == "train"} == marks.train
    assert {mark_of(path) for path, kind in kinds.items() if kind != "train"} == marks.test


def sides_of(cfg, name: str, **options) -> dict[str, set[str]]:
    """The people on each side of the target `name`."""
    data = DataManager(cfg, trains=False, **options)
    rows = data.sets[name].listed()
    return {side: {row["pid"] for row in rows if row["split"] == side} for side in ("train", "query", "gallery")}


def test_a_set_that_is_tested_on_alone_is_tested_whole(people, tmp_path, monkeypatch):
    monkeypatch.chdir(people.parent)
    everybody = {folder.name for folder in people.iterdir()}
    name, other = f"folder:{people.name}", tmp_path / "other"
    shutil.copytree(people, other)
    (other.parent / "link").symlink_to(people)

    def config(source):
        return load_config("clip_reid_synthocc", ["data.sources", f"['{source}']", "data.targets", f"['{name}']"])

    whole = sides_of(config("market1501"), name)
    assert whole == {"train": set(), "query": everybody, "gallery": everybody}
    halves = [
        sides_of(config(source), name)
        for source in (name, f"{name}/", f"folder:{people}", f"folder:./{people.name}/", f"folder:{tmp_path / 'link'}")
    ]
    halves.append(sides_of(config(f"folder:{other}"), name, sources=True))  # a copy, which is known by its content
    marks = {mark_of(path) for path in map(str, next(iter(sorted(people.iterdir()))).iterdir())}
    halves.append(sides_of(config("market1501"), name, trained=marks))  # as weights have them
    assert all(half == halves[0] for half in halves)
    assert len(halves[0]["train"]) == 5 and halves[0]["query"] == everybody - halves[0]["train"]
    given = listed(people, tmp_path / "p.csv")
    alone = load_config("clip_reid_synthocc", ["data.sources", "['market1501']", "data.targets", f"['csv:{given}']"])
    assert len(sides_of(alone, f"csv:{given}")["train"]) == 5  # sides that are told stay


def test_weights_are_tested_on_all_of_a_set_they_were_not_trained_on(people, tmp_path):
    words = ["test", "--weights", "zoo://clip_reid/vit_tiny/synthocc", "-t", f"folder:{people}", "data.workers", "0"]
    assert main([*words, "data.save_dir", str(tmp_path)]) == 0
    (figures,) = json.loads((tmp_path / "test/metrics.json").read_text())["targets"].values()
    assert (figures["num_query"], figures["num_gallery"]) == (10, 50)


def test_images_by_path_mix_with_named_sets_in_a_config(people, data, tmp_path):
    file = listed(people, tmp_path / "p.csv")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"_base_: {Path(__file__).parents[2]}/configs/clip_reid_synthocc.yaml\n"
        f"data: {{root: {data}, sources: [synthocc, 'csv:{file}'], targets: ['csv:{file}', synthocc], workers: 0}}\n"
        "synthocc: {size: tiny}\n"
    )
    manager = DataManager(load_config(config))
    own, named = manager.sets[f"csv:{file}"], manager.sets["synthocc"]
    assert manager.num_train_pids == len(own.pids) + len(named.pids) == 5 + len(named.pids)
    assert manager.camera_rows[f"csv:{file}"] == (len(named.cameras), 2)
    assert {row[3] for row in manager.train_items} == {0, 1}
    assert len(manager.test_dataset[f"csv:{file}"]["query"]) == 5
    preflight.check_matches(manager)
    preflight.check_images(manager)


def test_torchreids_own_data_manager_takes_paths_while_registered(people):
    import occplug

    occplug.register()
    try:
        manager = ImageDataManager(sources=f"folder:{people}", height=32, width=16, use_gpu=False, workers=0,
                                   batch_size_train=4)  # fmt: skip
        batch = next(iter(manager.train_loader))
        assert manager.num_train_pids == 5 and batch["img"].shape == (4, 3, 32, 16)
        query = next(iter(manager.test_loader[f"folder:{people}"]["query"]))
        assert (query["camid"] == -1).all()
    finally:
        occplug.unregister()


def one_camera(row):
    return {**row, "camid": 3}


def lone_query(row):
    return None if row["pid"] == 7 and row["split"] == "gallery" else row


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (one_camera, (), "5 of 5 queries have no match.*another camera.*leave camid out"),
        (lone_query, (), "1 of 5 queries have no match"),
        (lambda row: row, ("train.batch_size", "512"), "training set has 30 images, which do not make one batch"),
        (lambda row: row, ("train.batch_size", "12"), "a batch needs 6 identities.*the training set has 5"),
        (lambda row: None if row["split"] == "query" else row, (), "has no query images"),
        (lambda row: row, ("masks.source", "synthocc", "model.name", "profd"), "has no rendered masks"),
    ],
)
def test_mistakes_end_before_the_first_epoch(people, tmp_path, capsys, change, options, message):
    name = f"csv:{listed(people, tmp_path / 'p.csv', change)}"
    words = [*SHORT, *options] if "model.name" not in options else [*SHORT[4:], *options]
    status = main(["train", "--config-file", "clip_reid_synthocc", "-s", name, "-t", name,
                   "data.save_dir", str(tmp_path / "run"), *words])  # fmt: skip
    assert_refused(status, capsys.readouterr(), message, tmp_path / "run")


def assert_refused(status, said, message, run):
    import re

    assert status == 2, said
    assert re.search(message, said.err.replace("\n", " ")), said.err
    assert not list(Path(run).glob("checkpoints/*"))


def test_damage_a_short_disk_and_little_memory_end_in_time(people, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(people, copy)
    broken = next(copy.glob("*/0.jpg"))
    broken.write_bytes(b"GIF89a")
    name = f"folder:{copy}"
    assert_refused(train(tmp_path / "a", "-s", name, "-t", name), capsys.readouterr(),
                   "1 of 60 images cannot be read: .*0.jpg.*GIF.*occplug doctor", tmp_path / "a")  # fmt: skip
    Image.new("RGB", (8, 16)).save(broken)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(preflight.shutil, "disk_usage", lambda path: free)
        assert_refused(train(tmp_path / "b", "-s", name, "-t", name), capsys.readouterr(),
                       "take at least .* its disk has 1.0 KiB left.*data.save_dir", tmp_path / "b")  # fmt: skip
    monkeypatch.setattr(preflight, "free_memory", lambda: 0.01)
    assert_refused(train(tmp_path / "c", "-s", name, "-t", name), capsys.readouterr(),
                   "8 images of 64 x 32 keeps at least .* 10.2 KiB of memory.*micro_batch", tmp_path / "c")  # fmt: skip


def test_what_a_backward_pass_keeps_is_what_autograd_saves():
    """A linear layer keeps its input, and a ReLU its output."""

    class Small(torch.nn.Sequential):
        def features(self, images, camids):
            return self(images)

    model = Small(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 2, 10), torch.nn.ReLU())
    assert preflight._kept_for_backward(model, (3, 4, 2), torch.device("cpu")) == 4 * (24 + 10)
    assert model.training
