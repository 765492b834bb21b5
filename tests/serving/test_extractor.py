"""Trained weights for pictures of one's own."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import occplug
from occplug.config import default_config, resolved_yaml
from occplug.datasets.by_path import FolderImages
from occplug.embedding import Embedding
from occplug.engine import save_checkpoint
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.method import build_method
from occplug.serving.cluster import cluster
from occplug.serving.pictures import list_images
from occplug.zoo import read_index


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"crop {n}.png" for n in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (90, 40, 3), dtype=np.uint8)).save(path)
    return paths


PACKAGED = [entry.name for entry in read_index().entries.values() if entry.checkpoint and entry.checkpoint.file]


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_model_embeds_pictures_as_a_test_does(name, pictures):
    model = occplug.load(f"zoo://{name}")
    data = model.cfg.data
    found = model.embed(pictures, batch_size=2)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    small = [
        Image.open(p).convert("RGB").resize((data.width, data.height), filters[model.cfg.input.test_interpolation])
        for p in pictures
    ]
    images = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in small]) / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.norm_mean, data.norm_std))
    images, nobody = (images - mean) / std, torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        one, mirrored = model.method.embed(images, nobody), model.method.embed(images.flip(3), nobody)
    expected = (one.vector + mirrored.vector) / 2 if model.cfg.eval.flip else one.vector
    torch.testing.assert_close(found.vector, expected, atol=1e-4, rtol=1e-4)
    distances = model.distances(found[:2], found)
    assert distances.shape == (2, 5) and distances.argmin(dim=1).tolist() == [0, 1]
    opened = [Image.open(path) for path in pictures]
    torch.testing.assert_close(model.embed(opened).vector, found.vector, atol=1e-5, rtol=1e-5)


def with_cameras(tmp_path):
    """A checkpoint of a model with an embedding of three cameras."""
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.weights", "none", "backbone.sie_camera", True])
    method = build_method(cfg, 4, 3).eval()
    with torch.no_grad():
        for module in method.modules():
            if getattr(module, "camera_embedding", None) is not None:
                module.camera_embedding.normal_()
    state = {
        "state_dict": method.state_dict(),
        "pids": [1, 2, 3, 4],
        "cameras": [0, 1, 2],
        "bound_to": method.bound_to(),
    }
    save_checkpoint({**state, "config": resolved_yaml(cfg)}, tmp_path / "a.pth")
    return state


def test_a_checkpoint_of_ones_own_brings_its_config(tmp_path, pictures):
    state = with_cameras(tmp_path)
    model = occplug.load(tmp_path / "a.pth", options=["eval.flip", False])
    assert not model.cfg.eval.flip and model.num_cameras == 3
    one, other = model.embed(pictures, [0] * 5), model.embed(pictures, torch.full((5,), 2))
    assert not torch.allclose(one.vector, other.vector)
    torch.testing.assert_close(model.embed(pictures, np.int64(2)).vector, other.vector)
    save_checkpoint(state, tmp_path / "b.pth")
    with pytest.raises(ConfigError, match="b.pth does not hold its config; name it with config_file"):
        occplug.load(tmp_path / "b.pth")


def test_images_of_unknown_cameras_have_the_mean_of_the_rows_and_the_log_says_so_once(tmp_path, pictures, caplog):
    with_cameras(tmp_path)
    model = occplug.load(tmp_path / "a.pth")
    unknown = model.embed(pictures)
    model.embed(pictures[:1])
    assert caplog.text.count("cameras are not given, so the mean of the camera embedding's 3 rows stands for them") == 1
    module = next(m for m in model.method.modules() if getattr(m, "camera_embedding", None) is not None)
    with torch.no_grad():
        module.camera_embedding[:] = module.camera_embedding.mean(dim=0)
    torch.testing.assert_close(unknown.vector, model.embed(pictures, 1).vector)
    caplog.clear()
    assert len(model.embed([])) == 0 and not caplog.text


@pytest.mark.parametrize(
    ("camids", "message"),
    [
        ([0, 1], "2 camids for 5 pictures"),
        ([0.5] * 5, "one a picture; these are of type float"),
        (["hall"] * 5, "one a picture; these are of type"),
        ([None] * 5, "one a picture; these are of type object"),
        (1.5, "one a picture; these are of type float"),
        (iter([0] * 5), "one a picture; these are of type object"),
        ([[0], [0, 1]], "camids are whole numbers from 0, one a picture"),
        ([0, 1, 2, 3, 0], "camera 3 is none of training's, 0 to 2"),
        (-1, "camera -1 is none of training's, 0 to 2"),
    ],
)
def test_camids_that_are_none_are_refused(camids, message, tmp_path, pictures):
    with_cameras(tmp_path)
    with pytest.raises(ConfigError, match=message):
        occplug.load(tmp_path / "a.pth").embed(pictures, camids)


@pytest.fixture(scope="module")
def packaged():
    return occplug.load("zoo://clip_reid/vit_tiny/synthocc", options=["eval.flip", False])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "8"}, "batch_size is '8'; it must be at least 1, a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": None}, "workers is None; it must be at least 0"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_options_of_another_kind_are_named(options, message, packaged, pictures):
    with pytest.raises(ConfigError, match=message):
        packaged.embed(pictures, **options)


@pytest.mark.parametrize("boxes", [[["a", 0, 1, 2]], [[0, 0, 1, 2], [0, 0, 1]], {"x1": 0}, [{"x1": 0}], "boxes"])
def test_boxes_that_are_no_numbers_are_refused(boxes, packaged, pictures):
    with pytest.raises(DataError, match="boxes .*x1, y1, x2, y2"):
        packaged.embed(pictures[0], boxes=boxes)


def test_arrays_of_paths_are_paths_and_bytes_are_named(packaged, pictures):
    expected = packaged.embed(pictures[:2])
    for kind in (str, object):
        found = packaged.embed(np.array([str(path) for path in pictures[:2]], dtype=kind))
        assert found.paths == expected.paths and torch.equal(found.vector, expected.vector)
    content = pictures[0].read_bytes()
    for given, name in ((content, "a bytes is no image"), ([content], r"image\[0\] is a bytes")):
        with pytest.raises(DataError, match=f"{name}; open it with PIL.Image.open"):
            packaged.embed(given)


def test_what_is_no_embedding_is_named(packaged, pictures):
    embedding = packaged.embed(pictures[:2])
    array = embedding.vector.numpy()
    built = occplug.Gallery.build(embedding)
    wrong = [
        lambda: packaged.distances(array, array),
        lambda: packaged.distances(embedding, array),
        lambda: occplug.Gallery.build(array),
        lambda: built.search(str(pictures[0])),
        lambda: built.add(array),
        lambda: cluster(packaged, array, threshold=0.5),
    ]
    for act in wrong:
        with pytest.raises(DataError, match="a (ndarray|str); give an Embedding, which model.embed.images. makes"):
            act()
    for top in (2.5, "2", None):
        with pytest.raises(ConfigError, match="top is .*; it must be at least 1, a whole number"):
            built.search(embedding, top)


@pytest.mark.parametrize(("one", "other"), [(1, 0), (0, 1), (3, 0), (2, 3)])
def test_sides_without_an_image_are_named(one, other, packaged, pictures, monkeypatch):
    calibrated = SimpleNamespace(flip=False, check_flip=lambda flip: None)
    monkeypatch.setattr(type(packaged), "calibration", calibrated)
    with pytest.raises(DataError, match=f"there are {one} and {other} images; give equally many, or one on one side"):
        packaged.same(pictures[:one], pictures[:other])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": "agglomerative", "threshold": -1}, "threshold is -1; it is a distance, a finite number of at least 0"),
        ({"threshold": float("nan")}, "threshold is nan; it is a distance"),
        ({"threshold": float("inf")}, "threshold is inf; it is a distance"),
        ({"threshold": "0.5"}, "threshold is '0.5'; it is a distance"),
        ({"way": "hdbscan", "threshold": 0.5}, "threshold is 0.5, and hdbscan takes none; leave it out"),
        ({"way": "agglomerative"}, "these weights are not calibrated"),
        ({"way": "kmeans"}, "way is 'kmeans'; there are: agglomerative, hdbscan"),
    ],
)
def test_ways_to_cluster_that_cannot_be_are_refused(options, message, packaged, pictures):
    with pytest.raises(ConfigError, match=message):
        cluster(packaged, packaged.embed(pictures[:2]), **options)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("profd/vit_tiny/synthocc", "method.test_visibility", ("softmax", "sigmoid")),
        ("profd/vit_tiny/synthocc", "method.test_embeddings", ("bn", "raw")),
    ],
)
def test_settings_of_the_test_are_compared_and_the_key_is_named(name, key, values, pictures, tmp_path):
    models = [occplug.load(f"zoo://{name}", options=["eval.flip", False, key, value]) for value in values]
    one, other = (model.embed(pictures[:2]) for model in models)
    gallery = occplug.Gallery.build(one)
    gallery.save(tmp_path / "g")
    message = rf"are made otherwise \({key} .* and .*\); embed both alike"
    for act in (
        lambda: occplug.Gallery.load(tmp_path / "g").search(other),
        lambda: occplug.Gallery.load(tmp_path / "g").add(other),
        lambda: Embedding.cat([one, other]),
        lambda: models[0].distances(one, other),
        lambda: models[1].distances(one, one),
    ):
        with pytest.raises(DataError, match=message):
            act()
    other.origin = replace(one.origin, settings={}, metric={})  # of an older version, which did not say
    assert len(gallery.search(other).ids) == 2


def test_mirror_images_are_alike_in_one_gallery_and_said_in_a_search(packaged, pictures, caplog):
    flipped, plain = (packaged.embed(pictures[:2], flip=flip) for flip in (True, False))
    gallery = occplug.Gallery.build(flipped)
    message = "are averaged with their mirror images, .* of images as they are .no flip.; embed both alike"
    for act in (lambda: gallery.add(plain), lambda: Embedding.cat([flipped, plain])):
        with pytest.raises(DataError, match=message):
            act()
    gallery.search(plain)
    gallery.search(plain)
    assert caplog.text.count("the queries are of images as they are (no flip), the gallery averaged with their") == 1


def test_paths_are_whole_whatever_the_current_folder_was(packaged, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = (str(pictures[0]),)
    for given in (
        pictures[0].name,
        f"../{tmp_path.name}/{pictures[0].name}",
        Image.open(pictures[0].name),
        [pictures[0].name],
    ):
        assert packaged.embed(given).paths == whole
    assert packaged.embed(".").paths == tuple(map(str, pictures))
    assert packaged.embed(pictures[0].name, boxes=[[0, 0, 9, 9]]).paths == (f"{whole[0]}[0]",)


def test_a_folder_is_listed_as_a_data_set_lists_it(tmp_path):
    for name in ("real/ann/0.png", "real/ann/1.jpe", "real/bob/0.pgm", "real/bob/0.txt", "real/.hidden/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 40)).save(tmp_path / name, format={"pgm": "PPM", "jpe": "JPEG"}.get(name[-3:], "PNG"))
    (tmp_path / "links").mkdir()
    for person in ("ann", "bob"):
        (tmp_path / "links" / person).symlink_to(tmp_path / "real" / person)
    (tmp_path / "links" / "bob" / "loop").symlink_to(tmp_path / "links")
    for folder in ("real", "links"):
        rows = FolderImages(str(tmp_path / folder), mode="train").rows
        assert list_images(tmp_path / folder) == sorted(row[0] for row in rows)
        assert len(rows) == 3


def test_mistakes_are_named(tmp_path, pictures):
    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    with pytest.raises(DataError, match="nobody.jpg: the image file is missing"):
        model.embed([*pictures, tmp_path / "nobody.jpg"])
    with pytest.raises(ConfigError, match="the model zoo has no entry 'clip_reid/vit/synthocc'"):
        occplug.load("zoo://clip_reid/vit/synthocc")
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        occplug.load(tmp_path / "none.pth")


def test_embeddings_travel_in_files(tmp_path):
    parts = Embedding(torch.randn(3, 4), torch.randn(3, 2, 4), torch.rand(3, 2))
    parts.save(tmp_path / "a.safetensors")
    found = Embedding.load(tmp_path / "a.safetensors")
    assert found.layout() == parts.layout() and torch.equal(found.pack(), parts.pack()) and found.mask is None
    with pytest.raises(DataError, match="none: there is no such file of embeddings"):
        Embedding.load(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"abc")
    with pytest.raises(DataError, match="b: not a file that Embedding.save wrote"):
        Embedding.load(tmp_path / "b")


@pytest.fixture(scope="module")
def model():
    return occplug.load("zoo://profd/vit_tiny/synthocc")


def test_every_form_of_a_picture_gives_the_same_embedding(model, pictures):
    folder, wanted = pictures[0].parent, model.embed(pictures)
    opened = [Image.open(path) for path in pictures]
    arrays = np.stack([np.array(each) for each in opened])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    frame = np.concatenate(list(arrays), axis=1)  # side by side
    boxes = [[40 * n, 0, 40 * n + 40, 90] for n in range(5)]
    forms = {
        "folder": model.embed(folder),
        "str": model.embed([str(path) for path in pictures]),
        "generator": model.embed((path for path in pictures), batch_size=2),
        "pil": model.embed(opened, workers=0),
        "rgb": model.embed(arrays),
        "bgr": model.embed(list(arrays[..., ::-1]), color="bgr"),
        "tensor": model.embed(tensors),
        "tensor bgr": model.embed(tensors.flip(1), color="bgr"),
        "boxes": model.embed(frame, boxes=boxes),
        "one by one": Embedding.cat([model.embed(path) for path in pictures]),
        "mixed": model.embed([pictures[0], opened[1], arrays[2], tensors[3], str(pictures[4])]),
    }
    for name, found in forms.items():
        torch.testing.assert_close(found.pack(), wanted.pack(), atol=1e-5, rtol=1e-5, msg=name)
    assert wanted.paths == tuple(map(str, pictures)) == forms["folder"].paths == forms["generator"].paths
    assert forms["boxes"].paths == tuple(f"frame[{n}]" for n in range(5))
    assert wanted[[3, 0]].paths == (str(pictures[3]), str(pictures[0])) and wanted[-1:].paths == (str(pictures[4]),)
    clipped = model.embed(frame, boxes=torch.tensor([[-7.5, -3.0, 40.0, 95.2]]))
    torch.testing.assert_close(clipped.vector, wanted.vector[:1], atol=1e-5, rtol=1e-5)


def test_nothing_gives_no_rows(model, pictures):
    width = model.embed(pictures[0]).vector.shape[1]
    for found in (model.embed([]), model.embed(iter(())), model.embed(pictures[0], boxes=[])):
        assert found.vector.shape == (0, width) and found.parts.shape[0] == 0
    assert model.distances(model.embed([]), model.embed(pictures)).shape == (0, 5)


def test_damaged_pictures_are_skipped_and_listed(model, pictures, tmp_path):
    (tmp_path / "crop 2.png").write_bytes(pictures[2].read_bytes()[:200])
    with pytest.raises(DataError, match="crop 2.png"):
        model.embed(pictures)
    for given in (pictures, (path for path in pictures), tmp_path):
        found = model.embed(given, on_error="skip", batch_size=2)
        assert len(found) == 4 and len(found.paths) == 4
        assert list(found.skipped) == [str(pictures[2])] and "crop 2.png" in found.skipped[str(pictures[2])]


def test_files_say_whose_embeddings_they_hold(model, pictures, tmp_path):
    found = model.embed(pictures)
    found.save(tmp_path / "g.safetensors")
    read = Embedding.load(tmp_path / "g.safetensors")
    assert read.origin == found.origin and read.origin.model == model.fingerprint and len(model.fingerprint) == 16
    assert read.origin.preprocessing["height"] == model.cfg.data.height and read.origin.metric["name"] == "parts"
    other = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    assert other.fingerprint != model.fingerprint and other.config_hash != model.config_hash
    assert occplug.load("zoo://profd/vit_tiny/synthocc").fingerprint == model.fingerprint
    with pytest.raises(DataError, match="embeddings of different weights mean nothing to each other"):
        other.distances(other.embed(pictures[:1]), read)
    with pytest.raises(DataError, match="different weights"):
        other.distances(read, read)
    with pytest.raises(DataError, match="different weights"):
        Embedding.cat([read, other.embed(pictures[:1])])


@pytest.mark.parametrize("name", ["ag_reid/vit_tiny/synthocc", "torchreid/osnet_x0_25/synthocc"])
def test_the_fingerprint_reads_no_tensor_that_is_not_in_the_file(name):
    """Those stay at random initial values."""
    assert occplug.load(f"zoo://{name}").fingerprint == occplug.load(f"zoo://{name}").fingerprint


def test_flip_and_batches(model, pictures):
    plain, both = model.embed(pictures, flip=False), model.embed(pictures, flip=True, batch_size=1)
    mirrored = model.embed([Image.open(p).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures], flip=False)
    torch.testing.assert_close(both.pack(), (plain.pack() + mirrored.pack()) / 2, atol=1e-4, rtol=1e-4)
    assert both.origin.preprocessing["flip"] and not plain.origin.preprocessing["flip"]
    half = model.embed(pictures, flip=False, amp=True)
    assert half.vector.dtype == torch.float32
    assert not torch.equal(half.vector, plain.vector) and (half.vector - plain.vector).abs().max() < 0.05
    assert torch.equal(half.vector, model.embed(pictures, flip=False, amp="bf16").vector)  # on a CPU
    assert torch.equal(plain.vector, model.embed(pictures, flip=False, amp="none").vector)
    with pytest.raises(ConfigError, match="amp is 'fp8'; there are: none, bf16, fp16"):
        model.embed(pictures, amp="fp8")


def test_pictures_are_not_kept(model, tmp_path):
    """Of a long stream at most a batch and what is read ahead is alive."""
    import weakref

    alive = weakref.WeakSet()
    most = 0

    class Counted(np.ndarray):
        __hash__ = object.__hash__

    def stream():
        nonlocal most
        for _ in range(60):
            picture = np.zeros((64, 32, 3), np.uint8).view(Counted)
            alive.add(picture)
            most = max(most, len(alive))
            yield picture

    assert len(model.embed(stream(), batch_size=8, workers=2)) == 60
    assert most < 30


def test_weights_are_found_by_folder(model, pictures, tmp_path):
    run, cfg = tmp_path / "run", model.cfg
    with pytest.raises(CheckpointError, match="this folder holds no weights"):
        occplug.load(tmp_path)
    method = model.method
    state = {"state_dict": method.state_dict(), "pids": list(range(method.num_classes)), "cameras": [1]}
    content = {**state, "bound_to": method.bound_to(), "config": resolved_yaml(cfg)}
    for name in ("one", "last"):
        save_checkpoint(content, run / "checkpoints" / f"{name}.pth")
    (run / "metrics.json").write_text('{"stages": [{"name": "zero"}, {"name": "one"}]}')
    found = occplug.load(run)
    assert found.weights.where.endswith("one.pth") and found.fingerprint == model.fingerprint
    (run / "metrics.json").unlink()
    assert occplug.load(str(run)).weights.where.endswith("last.pth")
    torch.testing.assert_close(found.embed(pictures).pack(), model.embed(pictures).pack())
