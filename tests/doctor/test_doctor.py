"""What `occplug doctor` finds: planted faults, all of them and no others."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.datasets.by_path import dataset_class
from occplug.doctor import examine, near_pairs
from occplug.doctor.report import BROKEN, MINIMUM, _problems
from occplug.errors import ConfigError, DataError
from tests.datasets.trees import market_tree, put

ROOT = Path(__file__).parents[2]


def scene(seed: int) -> Image.Image:
    """A random picture with detail as fine as a person's."""
    small = np.random.default_rng(seed).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((64, 128), Image.Resampling.BICUBIC)


@pytest.fixture
def crops(tmp_path):
    """Four persons with three different images each, of two cameras."""
    for pid in range(1, 5):
        for number in range(3):
            file = tmp_path / "crops" / f"{pid:04d}_c{1 + number % 2}_{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            scene(10 * pid + number).save(file)
    return tmp_path / "crops"


def found(folder):
    return examine(dataset_class(f"folder:{folder}")(mode="train", verbose=False))


def test_nothing_is_found_where_nothing_is_wrong(crops):
    told = found(crops)
    assert told["images"] == 12
    labels = told.pop("labels")
    near = told.pop("near_duplicates")
    assert [value["count"] for value in (*labels.values(), *near.values())] == [0] * 6
    assert [told[kind]["count"] for kind in ("damaged", "blank", "small")] == [0, 0, 0]


def test_planted_faults_are_found(crops):
    scene(10).resize((48, 96)).save(crops / "0002_c1_7.jpg", quality=70)  # person 1's, smaller and compressed again
    (crops / "0003_c1_8.jpg").write_bytes(b"%PDF-1.4")
    Image.new("RGB", (64, 128), (9, 9, 9)).save(crops / "0003_c1_9.jpg")
    scene(99).resize((8, 16)).save(crops / "0005_c1_1.jpg")
    told = found(crops)
    (pair,) = told["near_duplicates"]["other_persons"]["first"]
    assert {Path(path).name for path in pair[:2]} == {"0001_c1_0.jpg", "0002_c1_7.jpg"} and pair[2] <= 15
    assert "PDF" in told["damaged"]["first"][0] and told["damaged"]["count"] == 1
    assert [Path(path).name for path in told["blank"]["first"]] == ["0003_c1_9.jpg"]
    assert [Path(path).name for path in told["small"]["first"]] == ["0005_c1_1.jpg"]
    assert told["labels"]["persons_with_one_image"] == {"count": 1, "first": [5]}


def test_near_duplicates_of_training_and_test_are_found(tmp_path):
    for split, pid in (("train", 1), ("train", 2), ("query", 3), ("gallery", 3)):
        (tmp_path / split).mkdir(exist_ok=True)
        scene(pid if split != "query" else 1).save(tmp_path / split / f"{pid:04d}_c{len(split) % 2 + 1}_1.jpg")
    near = found(tmp_path)["near_duplicates"]
    assert near["train_and_test"]["count"] == near["other_persons"]["count"] == 1


def test_no_near_pair_is_missed():
    """Against every pair compared, on hashes with all numbers of differing bits."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, 256), dtype=np.uint8)
    for row in range(100, 300):  # copies of the first hundred, with 0 to 24 bits changed
        bits[row] = bits[row % 100]
        bits[row, rng.choice(256, row % 25, replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1).view(np.uint16)
    everybody = near_pairs(hashes, lambda a, b: np.ones((len(a), len(b)), bool))
    differ = (bits[:, None] != bits[None]).sum(2)
    first, second = np.nonzero(np.triu(differ <= 15, 1))
    assert {(a, b) for a, b, _ in everybody} == set(zip(first.tolist(), second.tolist()))
    assert all(differ[a, b] == count for a, b, count in everybody)
    with pytest.raises(DataError, match="at most 15 bits"):
        near_pairs(hashes, lambda a, b: None, 16)


def test_the_report_names_sets_counts_and_what_is_missing(tmp_path, capsys):
    market_tree(tmp_path / "market1501")
    (tmp_path / "market1501/query/notes.txt").write_text("x")
    assert main(["doctor", "--root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"NOT AS PUBLISHED: train: 4 images, not 12936, 2 ids, not 751", text)
    assert "1 ending .txt" in text and "blank: " in text
    assert re.search("not there: .*occluded_duke", text) and re.search(r"torch +2\.", text)
    assert main(["doctor", "--root", str(tmp_path), "--json", "--no-images"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sets"]["market1501"]["train"] == {"images": 4, "persons": 2, "cameras": 2}
    assert told["installed"]["torchreid modules"] in ("torchreid.reid.*", "torchreid.*")


def test_what_is_asked_for_and_cannot_be_read_is_status_2(tmp_path, capsys, crops):
    assert main(["doctor", "--root", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder; name the folder that holds the data sets" in capsys.readouterr().err
    assert main(["doctor", f"csv:{tmp_path / 'no.csv'}"]) == 2
    assert "there is no file" in capsys.readouterr().err
    market_tree(tmp_path / "market1501", train=(1, 3), test=(1, 2))  # person 1 on both sides
    assert main(["doctor", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "PROBLEM: market1501: 1 person in both" in said.out and "market1501 cannot be read" in said.err
    assert main(["doctor", f"folder:{crops}"]) == 0
    assert "read              12 images" in capsys.readouterr().out


def test_one_image_under_two_persons_is_named(tmp_path, capsys, monkeypatch):
    put(tmp_path, *(f"crops/{person}/{n}.jpg" for person in ("ann", "bob") for n in range(2)))
    (tmp_path / "tables").mkdir()
    lines = [f"../crops/{person}/{n}.jpg,{person}" for person in ("ann", "bob") for n in range(2)]
    (tmp_path / "tables/p.csv").write_text("\n".join(["path,pid", *lines, "../crops/./ann/../ann/0.jpg,zoe"]))
    assert main(["doctor", f"csv:{tmp_path}/tables/p.csv"]) == 2
    said = "".join(capsys.readouterr())
    assert "lines 2 and 6 name the same image ../crops/./ann/../ann/0.jpg" in said
    (tmp_path / "crops/bob/2.jpg").symlink_to(tmp_path / "crops/ann/0.jpg")
    assert main(["doctor", f"folder:{tmp_path}/crops"]) == 2
    said = "".join(capsys.readouterr())
    assert "are the same image, under the identities ann and bob; remove the wrong one" in said


def test_minimum_versions_are_those_of_setup():
    asked = dict(re.findall(r'^\s+"([\w-]+)>=([\d.]+)"', (ROOT / "setup.py").read_text(), re.M))
    assert {name: asked[name] for name in MINIMUM} == MINIMUM


def test_versions_that_do_not_work_are_named():
    assert _problems({"torch": "2.4.1+cu121"}) == ["torch 2.4.1+cu121 is older than 2.10: pip install -U torch"]
    assert "known not to work" in _problems({"torchreid": "1.0.9"})[0] and BROKEN
    assert _problems({"torchreid": "1.4.0", "numpy": "2.3.0", "timm": "not installed by pip"}) == []


def duke(folder: Path) -> Path:
    put(folder / "DukeMTMC-reID/bounding_box_train", "0001_c1_f0000001.jpg", "0001_c2_f0000002.jpg", "0009_c1_f1.jpg")
    put(folder / "DukeMTMC-reID/query", "0002_c1_f0000003.jpg")
    put(folder / "DukeMTMC-reID/bounding_box_test", "0002_c2_f0000004.jpg", "0002_c3_f0000005.jpg")
    (folder / "lists").mkdir()
    lists = {"train": "0001_c1_f0000001.jpg\n0001_c2_f0000002.jpg\n", "query": "0002_c2_f0000004.jpg\n",
             "gallery": "0002_c3_f0000005.jpg"}  # fmt: skip
    for split, text in lists.items():
        (folder / f"lists/{split}.list").write_text(text)
    return folder


def test_occluded_duke_is_built_from_the_lists(tmp_path, capsys):
    duke(tmp_path)
    words = ["doctor", "--build-occluded-duke", str(tmp_path), str(tmp_path / "lists"), str(tmp_path / "out")]
    assert main(words) == 0
    built = tmp_path / "out/Occluded_Duke"
    files = sorted(str(path.relative_to(built)) for path in built.rglob("*.jpg"))
    assert files == ["bounding_box_test/0002_c3_f0000005.jpg", "bounding_box_train/0001_c1_f0000001.jpg",
                     "bounding_box_train/0001_c2_f0000002.jpg", "query/0002_c2_f0000004.jpg"]  # fmt: skip
    assert "NOT AS PUBLISHED: train: 2 images, not 15618" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    shutil.rmtree(built)
    (tmp_path / "lists/query.list").write_text("0404_c1_f1.jpg\n")
    assert main(words) == 2
    assert "lacks 1 images of the lists: 0404_c1_f1.jpg" in capsys.readouterr().err and not built.exists()
    (tmp_path / "lists/query.list").unlink()
    assert main(words) == 2
    assert "query.list is missing; the authors" in capsys.readouterr().err


def test_synthocc_is_listed_as_it_was_rendered_and_never_rendered(tmp_path, capsys, monkeypatch):
    from occplug.datasets import synthocc_dataset
    from occplug.datasets.synthocc import build

    build(tmp_path, "tiny", seed=7, workers=1, progress=False)
    (tmp_path / "synthocc/small").mkdir()  # of an interrupted copy

    def renders(root, size, seed, **knobs):
        assert (Path(root) / "synthocc" / size).is_dir()
        return build(root, size, seed, **knobs)

    monkeypatch.setattr(synthocc_dataset, "build", renders)
    assert main(["doctor", "--root", str(tmp_path), "--no-images", "--json"]) == 2
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["sets"]["synthocc/tiny"]["query"]["images"] == 24 and "synthocc" not in told["missing"]
    assert "manifest.json is missing" in told["unreadable"]["synthocc/small"] and "synthocc/small cannot be" in said.err
    (tmp_path / "synthocc/small").rmdir()
    assert main(["doctor", "synthocc", "--root", str(tmp_path), "--no-images"]) == 0
    assert re.search(r"synthocc/tiny\n  folder +.*tiny", capsys.readouterr().out)
    shutil.rmtree(tmp_path / "synthocc")
    assert main(["doctor", "synthocc", "--root", str(tmp_path), "--no-images"]) == 2
    assert f"render it: occplug synthocc --root {tmp_path} --size small" in capsys.readouterr().err
    assert main(["doctor", "--root", str(tmp_path)]) == 0
    assert re.search("not there: .*synthocc", capsys.readouterr().out) and not list(tmp_path.iterdir())


def test_no_thread_is_needed_to_read(crops, capsys):
    one, none = (examine(dataset_class(f"folder:{crops}")(mode="train", verbose=False), workers) for workers in (1, 0))
    assert one == none
    with pytest.raises(ConfigError, match="workers is -1; it must be at least 0"):
        examine(dataset_class(f"folder:{crops}")(mode="train", verbose=False), -1)
