"""Libraries from COCO annotations, folders of cut-outs and a detector: what is taken, what is left out, mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from occplug.cli import main
from occplug.errors import CheckpointError, DataError
from occplug.occluders import read_library
from occplug.occluders.annotations import AnnotatedObjects
from occplug.occluders.detector import DetectedObjects, mask_rcnn
from occplug.occluders.pictures import CutoutPictures
from tests.occluders.libraries import disc

WIDTH, HEIGHT = 400, 300
NAMES = {1: "person", 2: "bicycle", 3: "car", 27: "backpack", 99: "giraffe"}


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(folder, *rows, images=1, present=True):
    """Photographs of a diagonal gradient and annotations (category id, polygons, further keys)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x // 2, y // 2, (x + y) // 4], -1).astype(np.uint8)
    (folder / "images").mkdir()
    for number in range(images if present else 0):
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    annotations = [
        {"id": number, "image_id": number % images, "category_id": category, "segmentation": polygons, "iscrowd": 0,
         "bbox": [0, 0, 1, 1], "area": 1, **more}
        for number, (category, polygons, more) in enumerate(rows)
    ]  # fmt: skip
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT, "license": 4} for n in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in NAMES.items()],
        "licenses": [{"id": 4, "name": "CC BY 2.0"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json", folder / "images"


def test_an_object_is_cut_along_its_polygon(tmp_path):
    triangle = [[100, 50, 220, 200, 80, 240]]
    (piece,) = AnnotatedObjects(*coco(tmp_path, (1, triangle, {})))
    y, x = np.mgrid[50:241, 80:221]
    assert piece.rgba.shape == (191, 141, 4) and piece.category == "person" and piece.licence == "CC BY 2.0"
    assert np.array_equal(piece.rgba[..., 0], x // 2) and np.array_equal(piece.rgba[..., 1], y // 2)

    def side(ax, ay, bx, by):
        return (bx - ax) * (y - ay) - (by - ay) * (x - ax)

    distance = np.minimum.reduce([side(100, 50, 220, 200), side(220, 200, 80, 240), side(80, 240, 100, 50)])
    alpha = piece.rgba[..., 3]
    assert (alpha[distance > 300] == 255).all() and (alpha[distance < -300] == 0).all()
    assert set(np.unique(alpha)) == {0, 255}
    assert piece.source == {"dataset": "a.json", "image": 0, "annotation": 0}


GOOD = (2, rectangle(50, 50, 150, 130), {})


@pytest.mark.parametrize(
    "row, reason",
    [
        ((3, rectangle(50, 50, 200, 96), {}), "too small"),  # 47 pixels high
        ((3, [[50, 50, 110, 50, 110, 110]], {}), "too small"),  # half of 61 x 61
        ((3, rectangle(10, 50, 390, 110), {}), "too long or too thin"),
        ((3, rectangle(0, 50, 90, 150), {}), "cut by the border of the image"),
        ((3, rectangle(50, 1, 150, 100), {}), "cut by the border of the image"),
        ((3, rectangle(300, 50, 399, 150), {}), "cut by the border of the image"),
        ((27, rectangle(100, 200, 200, 299), {}), "cut by the border of the image"),  # a bag, below
        ((1, [[50, 50, 66, 50, 300, 280, 284, 280]] + rectangle(50, 260, 90, 280), {}), "fills too little of its box"),
        ((1, rectangle(50, 50, 150, 150), {"iscrowd": 1}), "a crowd, or without polygons"),
        ((1, {"counts": "x", "size": [1, 1]}, {}), "a crowd, or without polygons"),
        ((99, rectangle(50, 50, 150, 150), {}), "of a category that is not in the table"),
    ],
)
def test_filters(tmp_path, row, reason):
    objects = AnnotatedObjects(*coco(tmp_path, GOOD, row))
    assert dict(objects.left_out) == {reason: 1} and [piece.category for piece in objects] == ["bicycle"]


def test_what_stands_may_be_cut_below_and_a_bicycle_may_be_thin(tmp_path):
    bars = rectangle(100, 40, 300, 52) + rectangle(100, 200, 300, 212) + rectangle(100, 40, 112, 212)
    rows = [(3, rectangle(50, 150, 150, 299), {}), (1, rectangle(200, 100, 260, 299), {}), (2, bars, {})]
    assert sorted(piece.category for piece in AnnotatedObjects(*coco(tmp_path, *rows))) == ["bicycle", "car", "person"]


def test_the_largest_of_a_category_are_kept(tmp_path):
    rows = [(3, rectangle(50, 50, 150 + n, 150 + n), {}) for n in (0, 40, 20, 60)] + [GOOD]
    objects = AnnotatedObjects(*coco(tmp_path, *rows, images=2), per_category=2)
    assert sorted(piece.source["annotation"] for piece in objects) == [1, 3, 4] and len(objects) == 3


def test_large_objects_are_shrunk(tmp_path):
    (piece,) = AnnotatedObjects(*coco(tmp_path, (3, rectangle(20, 60, 378, 239), {})))
    assert piece.rgba.shape[:2] == (128, 256)


def test_the_command_makes_a_library(tmp_path, capsys):
    file, images = coco(tmp_path, GOOD, (3, rectangle(60, 60, 200, 160), {}))
    arguments = ["--annotations", str(file), "--images", str(images), "--output", str(tmp_path / "lib")]
    assert main(["build-occluders", "coco", *arguments]) == 0
    assert "lib: 2 cut-outs of 2 categories, split 'train'" in capsys.readouterr().out
    assert set(read_library(tmp_path / "lib").by_category) == {"bicycle", "car"}
    assert main(["build-occluders", "coco", *arguments]) == 2
    assert "exists already" in capsys.readouterr().err


def test_absent_images(tmp_path):
    with pytest.raises(
        DataError, match=r"images: 4 of the 4 images of .*a.json are absent: 0.png, 1.png, 2.png, ...; name"
    ):
        AnnotatedObjects(*coco(tmp_path, GOOD, GOOD, GOOD, GOOD, images=4, present=False))


def test_a_picture_of_another_size_is_left_out(tmp_path, caplog):
    """Its polygons would cut out whatever is there."""
    file, images = coco(tmp_path, GOOD, GOOD, images=2)
    with Image.open(images / "1.png") as picture:
        picture.resize((2 * WIDTH, 2 * HEIGHT)).save(images / "1.png")
    (piece,) = AnnotatedObjects(file, images)
    assert piece.source["image"] == 0
    assert f"1.png: {2 * WIDTH} x {2 * HEIGHT} pixels, not the size that a.json states; left out" in caplog.text


def test_boxes_without_polygons_are_left_out(tmp_path):
    (piece,) = AnnotatedObjects(*coco(tmp_path, GOOD, (3, [], {})))
    assert piece.source["annotation"] == 0


@pytest.mark.parametrize("option", [["--per-category", "0"], ["--seed", "-1"]])
def test_counts_and_seeds_below_the_least(tmp_path, option, capsys):
    assert main(["build-occluders", "procedural", "--output", str(tmp_path / "l"), *option]) == 2
    assert "--per-category must be at least 1, and --seed at least 0" in capsys.readouterr().err


def test_no_object_left(tmp_path):
    small = (3, rectangle(50, 50, 60, 60), {})
    with pytest.raises(
        DataError, match="no object is left after the filters: 2 too small, 1 of a category that is not"
    ):
        AnnotatedObjects(*coco(tmp_path, small, small, (99, rectangle(50, 50, 150, 150), {})))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{broken", "a.json: the annotation file is not json .* download it again"),
        (
            '{"images": []}',
            "a.json: not COCO instance annotations, which have the lists images, annotations, categories",
        ),
        ('{"images": [], "categories": [], "annotations": [{"id": 5}]}', "a.json: annotation 5 is not COCO's form"),
        ('{"images": [], "categories": [], "annotations": [7]}', "a.json: annotation 0 is not COCO's form"),
        ('{"images": [{}], "categories": [], "annotations": []}', "a.json: an image, a category or a licence is not"),
        (
            '{"images": [], "categories": [{"id": 1}], "annotations": []}',
            "a licence is not COCO's form .KeyError..name",
        ),
        ('{"images": [], "categories": [], "annotations": [], "licenses": [1]}', "an image, a category or a licence"),
        (
            '{"images": [], "categories": [], "annotations": [], "licenses": null}',
            "no object is left after the filters",
        ),
    ],
)
def test_bad_annotation_files(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        AnnotatedObjects(tmp_path / "a.json", tmp_path)


def test_a_missing_annotation_file(tmp_path):
    with pytest.raises(DataError, match="no.json: the annotation file cannot be read \\(No such file"):
        AnnotatedObjects(tmp_path / "no.json", tmp_path)


# ---- a folder of cut-outs


def write(path, rgba):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path)


def test_categories_come_from_names(tmp_path):
    for name in ("bicycle_07.png", "car/a.png", "fire_hydrant_1.png", "pole_00.png"):
        write(tmp_path / "in" / name, disc(41))
    found = CutoutPictures(tmp_path / "in", licence="CC0-1.0", rename={"pole": "post"})
    assert [piece.category for piece in found] == ["bicycle", "car", "fire hydrant", "post"]
    assert all(piece.licence == "CC0-1.0" and piece.rgba.shape == (41, 41, 4) for piece in found)


def test_the_folder_command(tmp_path, capsys):
    write(tmp_path / "in" / "pole_00.png", disc(41))
    arguments = ["--pictures", str(tmp_path / "in"), "--output", str(tmp_path / "lib")]
    assert main(["build-occluders", "folder", *arguments]) == 2
    assert "its category 'pole' is unknown; known are: person" in capsys.readouterr().err
    assert main(["build-occluders", "folder", *arguments, "--rename", "pole"]) == 2
    assert "--rename takes pairs such as pole=post; it got pole" in capsys.readouterr().err
    assert main(["build-occluders", "folder", *arguments, "--rename", "pole=post"]) == 0
    assert set(read_library(tmp_path / "lib").by_category) == {"post"}


@pytest.mark.parametrize(
    "rgba, message",
    [
        (np.zeros((9, 9, 3), np.uint8), "car_1.png: the picture has no alpha channel .mode RGB.; cut-outs are RGBA"),
        (
            np.zeros((9, 9, 4), np.uint8),
            "car_1.png: the alpha channel is empty, so nothing would be visible; delete the file",
        ),
    ],
)
def test_pictures_that_are_no_cutouts(tmp_path, rgba, message):
    write(tmp_path / "car_1.png", rgba)
    with pytest.raises(DataError, match=message):
        list(CutoutPictures(tmp_path))


def test_damaged_pictures_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="the folder has no picture"):
        CutoutPictures(tmp_path)
    with pytest.raises(DataError, match="there is no such folder of cut-outs"):
        CutoutPictures(tmp_path / "no")
    (tmp_path / "car_1.png").write_bytes(b"x")
    with pytest.raises(DataError, match="car_1.png: the file is not an image"):
        list(CutoutPictures(tmp_path))


# ---- a detector


def detector(batch):
    """A car with a certain mask, one with a low score, a small one, and something outside the table."""
    masks = torch.zeros(4, 1, *batch[0].shape[1:])
    masks[0, 0, 50:150, 60:200] = 0.51
    masks[0, 0, 50:60, 60:70] = 0.49
    masks[1, 0, 50:150, 60:200] = 1
    masks[2, 0, 50:60, 60:90] = 1
    masks[3, 0, 50:150, 60:200] = 1
    return [{"labels": torch.tensor([3, 3, 3, 0]), "scores": torch.tensor([0.95, 0.89, 0.99, 0.99]), "masks": masks}]


def test_detected_objects(tmp_path):
    _, images = coco(tmp_path)
    (piece,) = DetectedObjects(images, detector, ["sky", "person", "bicycle", "car"])
    assert piece.category == "car" and piece.rgba.shape == (100, 140, 4)
    assert not piece.rgba[:10, :10, 3].any() and (piece.rgba[10:, :, 3] == 255).all()
    assert np.array_equal(piece.rgba[50, :, 0], np.arange(60, 200) // 2)


def test_detector_mistakes(tmp_path):
    with pytest.raises(DataError, match="there is no image in the folder"):
        DetectedObjects(tmp_path, detector, [])
    _, images = coco(tmp_path)
    with pytest.raises(DataError, match="no object is left in 1 images after the filters"):
        list(DetectedObjects(images, detector, ["nothing"] * 4))
    for content in (b"no weights", b""):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(
            CheckpointError, match="Mask R-CNN has no weights: .*w.pth: not a state dict.* give the file with --weights"
        ):
            mask_rcnn(str(tmp_path / "w.pth"))


def test_no_network_is_said_so(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match="Mask R-CNN has no weights: the download of https://.* --weights"):
        mask_rcnn()


# ---- drawn


def test_the_procedural_command_is_deterministic(tmp_path):
    for name in ("a", "b"):
        options = ["--per-category", "1", "--side", "32", "--output", str(tmp_path / name)]
        assert main(["build-occluders", "procedural", *options]) == 0
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second and len(first) == 25
    assert main(["build-occluders", "procedural", "--side", "3", "--output", str(tmp_path / "c")]) == 2
