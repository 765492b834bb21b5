"""From a folder of images to ranked lists, by commands alone."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import occplug
from occplug import Embedding, Gallery
from occplug.cli import main
from tests.serving.test_extractor import with_cameras

MODEL = "zoo://clip_reid/vit_tiny/synthocc"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for person in range(3):
        (folder / f"p{person}").mkdir()
        coarse = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        for number in range(3):
            noisy = np.clip(coarse.astype(int) + rng.integers(-12, 12, coarse.shape), 0, 255).astype(np.uint8)
            picture = Image.fromarray(noisy).resize((40, 90), Image.Resampling.BICUBIC)
            picture.save(folder / f"p{person}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def embedded(crops, tmp_path_factory):
    file = tmp_path_factory.mktemp("galleries") / "g.safetensors"
    assert main(["embed", str(crops), "--weights", MODEL, "-o", str(file)]) == 0
    return file


def test_a_folder_becomes_a_ranked_list(crops, embedded, tmp_path, capsys):
    found = Embedding.load(embedded)
    assert len(found) == 9 and found.paths == tuple(str(p) for p in sorted(crops.rglob("*.png")))
    queries = [str(crops / "p1" / "0.png"), str(crops / "p2" / "1.png")]
    sheet = tmp_path / "sheet.png"
    assert main(["search", *queries, "--gallery", str(embedded), "--top", "4", "--json", "--sheet", str(sheet)]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [len(answer) for answer in answers] == [4, 4]
    for query, answer in zip(queries, answers):
        assert answer[0]["path"] == query and answer[0]["distance"] == pytest.approx(0, abs=1e-5)
        assert [hit["distance"] for hit in answer] == sorted(hit["distance"] for hit in answer)
    assert Image.open(sheet).size[0] > 5 * 96
    assert main(["search", queries[0], "--gallery", str(embedded), "--top", "2"]) == 0
    assert "    1  0.0000  " + queries[0] in capsys.readouterr().out


def test_galleries_grow_and_shrink(crops, embedded, tmp_path, capsys):
    table = tmp_path / "who.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "pid", "camera", "place"])
        rows.writerows([path, path.parent.name[1:], path.stem, "hall"] for path in sorted(crops.rglob("*.png")))
    folder = tmp_path / "g"
    assert main(["gallery", "build", str(embedded), "-o", str(folder), "--metadata", str(table)]) == 0
    gallery = Gallery.load(folder)
    assert gallery.columns["pid"] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3 and gallery.columns["place"] == ["hall"] * 9
    assert "rank1_exact" in gallery.quality
    new = str(crops / "p0" / "0.png")
    assert main(["gallery", "add", str(folder), new, "--set", "camera=7", "place=yard"]) == 0
    capsys.readouterr()
    assert main(["search", new, "--gallery", str(folder), "--where", 'place == "yard"', "--json"]) == 0
    ((hit,),) = json.loads(capsys.readouterr().out)
    assert hit["camera"] == 7 and hit["id"] == 9 and hit["pid"] is None
    assert main(["gallery", "remove", str(folder), "--where", "camera == 7"]) == 0
    assert "1 images removed, 9 left" in capsys.readouterr().out
    assert main(["gallery", "info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9
    assert main(["gallery", "info", str(folder)]) == 0
    assert "quality was measured before 2 images were added or removed" in capsys.readouterr().out


def test_nothing_found_is_said_beside_the_answer(crops, embedded, tmp_path, capsys):
    folder, query = str(tmp_path / "g"), str(crops / "p0" / "0.png")
    table = tmp_path / "who.csv"
    table.write_text("path,camera\n" + "".join(f"{path},{path.stem}\n" for path in sorted(crops.rglob("*.png"))))
    assert main(["gallery", "build", str(embedded), "-o", folder, "--metadata", str(table)]) == 0
    search = ["search", query, "--gallery", folder, "--json"]
    for condition in ("camera == 77", "2 < camera < 9"):
        capsys.readouterr()
        assert main([*search, "--where", condition]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out) == [[]]
        assert f"no image fulfils the condition {condition}; in {folder}, camera is 0, 1, 2\n" in said.err
    assert main([*search, "--where", "camera == 1"]) == 0 and "nothing" not in capsys.readouterr().err
    assert main(["gallery", "remove", folder, "--where", "camera >= 0"]) == 0
    assert main(search) == 0 and f"nothing found: {folder} is empty" in capsys.readouterr().err


def test_an_image_that_is_there_already_is_said(crops, tmp_path, caplog):
    file, twice = str(tmp_path / "g.safetensors"), str(crops / "p0" / "0.png")
    with caplog.at_level("WARNING", "occplug"):
        assert main(["embed", str(crops / "p0"), twice, "--weights", MODEL, "-o", file]) == 0
        assert f"1 of the images are there already, e.g. {twice}; each is found as often" in caplog.text
        caplog.clear()
        assert main(["gallery", "add", file, str(crops / "p1")]) == 0 and not caplog.text
        assert main(["gallery", "add", file, str(crops / "p1"), twice]) == 0
    assert f"4 of the images are there already, e.g. {crops / 'p1' / '0.png'}" in caplog.text


def test_a_gallery_is_replaced_by_force_alone(embedded, tmp_path, capsys):
    folder = str(tmp_path / "g")
    assert main(["gallery", "build", str(embedded), "-o", folder]) == 0
    assert main(["gallery", "remove", folder, "--ids", "0"]) == 0
    assert main(["gallery", "build", str(embedded), "-o", folder]) == 2 and len(Gallery.load(folder)) == 8
    assert "name another, or replace it with --force" in capsys.readouterr().err
    assert main(["gallery", "build", str(embedded), "-o", folder, "--force"]) == 0 and len(Gallery.load(folder)) == 9


def test_sheets_of_many_images_are_limited_and_say_so(crops, tmp_path, caplog, monkeypatch):
    from occplug.serving import sheet

    for name, most in (("ROWS", 3), ("COLUMNS", 4)):
        monkeypatch.setattr(sheet, name, most)
    cell = (str(crops / "p0" / "0.png"), "a")
    images = [[cell] * 9, *[[cell]] * 5]
    sheet.draw_ranked(images, tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size == (6 + 4 * 102, 6 + 3 * 212)
    assert "s.png: a sheet has at most 3 rows of 4 images; 8 images are left out, with 3 rows" in caplog.text
    caplog.clear()
    sheet.draw_ranked([row[:4] for row in images[:3]], tmp_path / "s.png")
    assert not caplog.text


def test_metadata_go_from_the_file_of_embeddings_into_what_is_built_of_it(crops, tmp_path):
    table, file, folder = tmp_path / "who.csv", str(tmp_path / "g.safetensors"), str(tmp_path / "g")
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "pid", "camid"])
        rows.writerows([path, path.parent.name[1:], path.stem] for path in sorted(crops.rglob("*.png")))
    assert main(["embed", str(crops), "--weights", MODEL, "-o", file, "--metadata", str(table), "--no-flip"]) == 0
    assert main(["gallery", "remove", file, "--ids", "0", "4"]) == 0
    assert main(["gallery", "build", file, "-o", folder, "--queries", file]) == 0
    built = Gallery.load(folder)
    assert built.ids.tolist() == [1, 2, 3, 5, 6, 7, 8] and built.quality["kind"] == "given"
    assert built.columns["camid"] == [1, 2, 0, 2, 0, 1, 2] and built.columns["pid"] == list("0011222")
    assert built.columns["path"] == Gallery.load(file).columns["path"]
    assert main(["gallery", "build", file, folder, "-o", f"{folder}2"]) == 0
    assert (
        len(Gallery.load(f"{folder}2")) == 14 and Gallery.load(f"{folder}2").columns["pid"][7:] == built.columns["pid"]
    )


def test_boxes_of_frames_become_a_gallery_with_persons_and_cameras(crops, tmp_path, capsys):
    images, rows = [], []
    for place, folder in enumerate(sorted(crops.iterdir())):
        parts = [np.array(Image.open(path)) for path in sorted(folder.iterdir())]
        Image.fromarray(np.concatenate(parts, axis=1)).save(tmp_path / f"{folder.name}.png")
        images.append({"id": place, "file_name": f"{folder.name}.png", "camera": place})
        rows += [{"image_id": place, "bbox": [40 * n, 0, 40, 90], "person_id": folder.name} for n in range(3)]
    (tmp_path / "b.json").write_text(json.dumps({"images": images, "annotations": rows}))
    file, sheet = tmp_path / "g.safetensors", tmp_path / "s.png"
    given = f"coco:{tmp_path / 'b.json'}"
    assert main(["embed", given, "--weights", MODEL, "-o", str(file)]) == 0, capsys.readouterr().err
    gallery = Gallery.load(file)
    assert gallery.columns["pid"] == ["p0"] * 3 + ["p1"] * 3 + ["p2"] * 3
    assert gallery.columns["camera"] == [0] * 3 + [1] * 3 + [2] * 3
    query = ["search", str(crops / "p1" / "2.png"), "--gallery", str(file), "--top", "1", "--json"]
    capsys.readouterr()
    assert main([*query, "--sheet", str(sheet)]) == 0
    ((hit,),) = json.loads(capsys.readouterr().out)
    assert hit["path"] == f"{tmp_path}/p1.png[80,0,120,90]" and hit["distance"] == pytest.approx(0, abs=1e-4)
    middle = np.array(Image.open(sheet))[6:198, 108:204]  # where the found part of the frame is drawn
    assert len(np.unique(middle)) > 50  # and not the grey field of what cannot be read
    assert main([*query, "--where", "camera != 1"]) == 0
    assert json.loads(capsys.readouterr().out)[0][0]["camera"] != 1


def test_rank1_of_a_gallery_is_that_of_the_test(data, tmp_path, capsys):
    """SynthOcc's queries and gallery, embedded and searched as a user's own images."""
    root, files = data / "synthocc" / "tiny", {}
    for side in ("query", "bounding_box_test"):
        files[side] = str(tmp_path / f"{side}.safetensors"), str(tmp_path / f"{side}.csv")
        with open(files[side][1], "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "pid", "camera"])
            images = sorted((root / side).glob("*.jpg"))
            rows.writerows([image, int(image.name[:4]), image.name.split("_")[1][1:]] for image in images)
        assert main(["embed", str(root / side), "--weights", MODEL, "-o", files[side][0]]) == 0
    (queries, q_table), (gallery, table) = files["query"], files["bounding_box_test"]
    words = ["--metadata", table, "--queries", queries, "--query-metadata", q_table]
    assert main(["gallery", "build", gallery, "-o", str(tmp_path / "g"), *words]) == 0
    found = Gallery.load(tmp_path / "g").quality
    options = ["--root", str(data), "synthocc.size", "tiny", "data.workers", "0", "data.save_dir", str(tmp_path / "t")]
    assert main(["test", "--weights", MODEL, *options]) == 0
    expected = json.loads((tmp_path / "t/test/metrics.json").read_text())["targets"]["synthocc"]
    assert found["queries"] == expected["num_query_valid"]
    assert found["rank1_exact"] == pytest.approx(expected["rank1"], abs=1e-4)


def test_skipped_images_are_listed(crops, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    file = tmp_path / "g.safetensors"
    words = ["embed", str(crops / "p0"), str(tmp_path / "bad.jpg"), "--weights", MODEL, "-o", str(file)]
    assert main(words) == 2 and "bad.jpg" in capsys.readouterr().err and not file.exists()
    assert main([*words, "--on-error", "skip", "--no-flip"]) == 0
    out = capsys.readouterr().out
    assert (
        "skipped " + str(tmp_path / "bad.jpg") in out
        and out.count("bad.jpg") == 1
        and "3 images, 1 skipped, as they are (no flip)" in out
    )
    assert list(Embedding.load(file).skipped) == [str(tmp_path / "bad.jpg")]


@pytest.mark.parametrize("way", [["--way", "hdbscan"], ["--threshold", "0.05"]])
def test_images_are_grouped_by_person(way, crops, tmp_path, capsys):
    table, sheet = tmp_path / "groups.csv", tmp_path / "groups.png"
    assert main(["cluster", str(crops), "--weights", MODEL, "-o", str(table), "--sheet", str(sheet), *way]) == 0
    assert "9 images in 3 groups" in capsys.readouterr().out
    groups = {row["path"]: row["group"] for row in csv.DictReader(table.open())}
    for person in range(3):
        assert len({groups[str(crops / f"p{person}" / f"{n}.png")] for n in range(3)}) == 1
    assert sheet.stat().st_size > 1000


def test_a_gallery_says_whether_mirror_images_count(crops, tmp_path, capsys, caplog):
    file, image = str(tmp_path / "g.safetensors"), str(crops / "p1" / "0.png")
    assert main(["embed", str(crops / "p0"), str(crops / "p1"), "--weights", MODEL, "-o", file, "--no-flip"]) == 0
    capsys.readouterr()
    assert main(["search", image, "--gallery", file, "--top", "1", "--json"]) == 0
    ((hit,),) = json.loads(capsys.readouterr().out)
    assert hit["path"] == image and hit["distance"] == pytest.approx(0, abs=1e-5)
    assert "as in the gallery, embeddings are not averaged with mirror images" in caplog.text
    assert main(["gallery", "add", file, str(crops / "p2")]) == 0
    assert not Gallery.load(file).embedding.origin.preprocessing["flip"]
    assert main(["search", image, "--gallery", file, "--flip"]) == 0
    assert "the queries are averaged with their mirror images, the gallery of images as they are" in caplog.text
    other = str(tmp_path / "other.safetensors")
    assert main(["embed", str(crops / "p2"), "--weights", MODEL, "-o", other, "--flip"]) == 0
    assert main(["gallery", "build", file, other, "-o", str(tmp_path / "both")]) == 2
    assert "embed both alike (--flip or --no-flip, flip= in Python)" in capsys.readouterr().err


def test_a_gallery_is_found_from_every_folder_and_sheets_say_what_is_missing(crops, tmp_path, monkeypatch, caplog):
    shutil.copytree(crops, tmp_path / "crops")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "crops", "--weights", MODEL, "-o", "g.safetensors", "--no-flip"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["search", "../crops/p1/0.png", "--gallery", "../g.safetensors", "--top", "3", "--sheet", "s.png"]
    assert main(words) == 0 and "cannot be read" not in caplog.text
    drawn = np.array(Image.open("s.png"))
    assert all(len(np.unique(drawn[6:198, 6 + 102 * n : 102 + 102 * n])) > 50 for n in range(4))
    (tmp_path / "crops/p1/1.png").unlink()
    assert main(words) == 0
    assert f"s.png: 1 of 4 images cannot be read and are grey, e.g. {tmp_path}/crops/p1/1.png" in caplog.text


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        (["0", "2", "1"], "the column camera is taken as the cameras of training, counted from 0 (0 to 2)"),
        (["1", "2", "3"], "the column camera does not hold the cameras of training, 0 to 2"),
        (["hall", "yard", "hall"], "the column camera does not hold the cameras of training, 0 to 2"),
        (["0", "", "1"], "the column camera does not hold the cameras of training, 0 to 2"),
        (None, "cameras are not given, so the mean of the camera embedding's 3 rows"),
    ],
)
def test_cameras_come_from_metadata_where_they_fit(cameras, said, crops, tmp_path, caplog):
    with_cameras(tmp_path)
    images = sorted((crops / "p0").iterdir())
    table, file = tmp_path / "t.csv", tmp_path / "e.safetensors"
    cells = cameras or ["0", "0", "0"]
    head = "path,camera\n" if cameras else "path,place\n"
    table.write_text(head + "".join(f"{image},{cell}\n" for image, cell in zip(images, cells)))
    words = ["embed", str(crops / "p0"), "--weights", str(tmp_path / "a.pth"), "-o", str(file), "--no-flip"]
    assert main([*words, "--metadata", str(table)]) == 0
    assert said in caplog.text
    model = occplug.load(tmp_path / "a.pth")
    expected = model.embed(images, [0, 2, 1] if "is taken" in said else None, flip=False)
    torch.testing.assert_close(Embedding.load(file).vector, expected.vector)


def test_metadata_of_skipped_images_are_left_out(crops, tmp_path):
    shutil.copytree(crops / "p0", tmp_path / "p0")
    (tmp_path / "p0/1.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("path,place\np0/0.png,a\np0/1.png,b\np0/2.png,c\n")
    file = str(tmp_path / "e.safetensors")
    words = ["embed", str(tmp_path / "p0"), "--weights", MODEL, "-o", file, "--no-flip", "--on-error", "skip"]
    assert main([*words, "--metadata", str(tmp_path / "t.csv")]) == 0
    assert Gallery.load(file).columns["place"] == ["a", "c"]
