"""Mask files beside a data set: where they are looked for, what is wrong with them, the cache."""

import logging
import os
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from occplug.errors import ConfigError, DataError
from occplug.masks import NUM_CHANNELS, SCHEMES, FileMasks, cache
from occplug.masks.files import check_mask_file, find_mask_files, read_mask_file

OPTIONS = {
    "source": "files", "root": "", "directory": "pifpaf_maskrcnn_filtering", "scheme": "five_v", "interp": "bicubic",
    "missing": "error", "cache": "", "noise": "none", "noise_strength": 0.05,
}  # fmt: skip


def options(**changed):
    return SimpleNamespace(**{**OPTIONS, **changed})


def maps(seed=0, shape=(NUM_CHANNELS, 17, 9)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def save(path, array=None, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, maps() if array is None else array, **kwargs)
    return path


def dataset(folder, images, masks=None, masks_of="pifpaf_maskrcnn_filtering", suffix=".npy"):
    """A data set's folder with masks of the images `masks`, or of all."""
    for number, image in enumerate(images if masks is None else masks):
        save((folder / "masks" / masks_of / image).with_suffix(suffix), maps(number))
    return SimpleNamespace(name="market1501", root=str(folder.parent), dataset_dir=str(folder)), [
        str(folder / image) for image in images
    ]


NAMES = [f"bounding_box_train/{n:04d}_c1s1_000151_01.jpg" for n in range(5)]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("bounding_box_train/0001_c1.jpg", "bounding_box_train/0001_c1.npy"),
        ("bounding_box_train/0001_c1.jpg", "bounding_box_train/0001_c1.jpg.npy"),
        ("bounding_box_train/0001_c1.jpg", "bounding_box_train/0001_c1.jpg.confidence_fields.npy"),
        ("bounding_box_train/0001_c1.jpg", "bounding_box_train_resize/0001_c1.npy"),
        ("occluded_body_images/001/001_01.tif", "occluded_body_images/001_01.npy"),
        ("occluded_body_images/001/001_01.tif", "occluded_body_images/001/001_01.npy"),
        ("train/whole_body_images/0003/0003_c1.jpg", "train/whole_body_images/0003_c1.npy"),
        ("train/whole_body_images/0003/0003_c1.jpg", "train/whole_body_images_resize/0003_c1.jpg.npy"),
        ("train/whole_body_images/0003/0003_c1.jpg", "train_resize/whole_body_images/0003_c1.npy"),
        ("train/occluded_body_images/0003/0003_c1.jpg", "train_resize/occluded_body_images/0003/0003_c1.npy"),
    ],
)
def test_every_published_layout_is_found(tmp_path, image, mask):
    save(tmp_path / mask)
    assert find_mask_files(str(tmp_path), [image])[image].path == str(tmp_path / mask)


def test_names_are_tried_in_the_documented_order(tmp_path):
    names = ["a/x.npy", "a/x.jpg.npy", "a/x.jpg.confidence_fields.npy", "a_resize/x.npy"]
    for name in names:
        save(tmp_path / name)
    for name in names:
        assert find_mask_files(str(tmp_path), ["a/x.jpg"])["a/x.jpg"].path == str(tmp_path / name)
        (tmp_path / name).unlink()
    assert find_mask_files(str(tmp_path), ["a/x.jpg"]) == {"a/x.jpg": None}


def test_masks_are_read_as_they_are(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    source = FileMasks(options(), data, images)
    for number, image in enumerate(images):
        assert torch.equal(source.maps(image), torch.from_numpy(maps(number)))
    assert source.groups == list(SCHEMES["five_v"].values())


def test_another_root_may_hold_a_folder_per_data_set(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    for place in ("elsewhere", "elsewhere/market1501"):
        shutil.copytree(tmp_path / "Market-1501/masks", tmp_path / place, dirs_exist_ok=True)
        source = FileMasks(options(root=str(tmp_path / "elsewhere")), data, images)
        assert source.folder == str(tmp_path / place / "pifpaf_maskrcnn_filtering")


def test_missing_masks_are_counted_and_named(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES, NAMES[:1])
    with pytest.raises(DataError) as caught:
        FileMasks(options(), data, images)
    assert str(caught.value) == (
        f"market1501: 4 of 5 training images have no part masks in {tmp_path}/Market-1501/masks/"
        f"pifpaf_maskrcnn_filtering: {NAMES[1]}, {NAMES[2]}, {NAMES[3]}, ...; make them with `"
        f"occplug make-masks --set market1501 --root {tmp_path} --directory pifpaf_maskrcnn_filtering`, or set "
        "masks.missing to background"
    )


def test_without_a_mask_folder_all_are_missing(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES[:2], [])
    with pytest.raises(DataError, match=f"2 of 2 training images have no part masks .*: {NAMES[0]}, {NAMES[1]}; make"):
        FileMasks(options(), data, images)


def test_missing_masks_may_count_as_background(tmp_path, caplog):
    data, images = dataset(tmp_path / "Market-1501", NAMES, NAMES[:1])
    with caplog.at_level(logging.WARNING):
        source = FileMasks(options(missing="background"), data, images)
    assert "4 of 5 training images have no part masks" in caplog.text and NAMES[1] in caplog.text
    assert source.maps(images[0]).any() and not source.maps(images[1]).any()


def test_masks_of_other_images_are_told_apart_from_missing_ones(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES, ["bounding_box_train/0001_c9_f0001.jpg"])
    with pytest.raises(DataError) as caught:
        FileMasks(options(), data, images)
    folder = tmp_path / "Market-1501/masks/pifpaf_maskrcnn_filtering"
    assert str(caught.value) == (
        f"market1501: {folder} holds masks such as bounding_box_train/0001_c9_f0001.npy, and none belongs to one of "
        f"the 5 training images, such as {NAMES[0]}: these are masks of other images; set masks.root and "
        f"masks.directory, or make them with `occplug make-masks --set market1501 --root {tmp_path} "
        "--directory pifpaf_maskrcnn_filtering`"
    )


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path(self.path).touch, ()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


CURE = "copy it again, or delete it and make it with occplug make-masks"
KIND = (
    "expected [36, h, w]: PifPaf's confidences of 17 keypoints and 19 limbs; masks of another kind cannot be grouped "
    "into parts"
)
BAD = {
    "cut": (lambda p: cut(save(p)), f"{{p}}: the mask file is cut off, 100 bytes are missing; {CURE}"),
    "cut header": (lambda p: p.write_bytes(save(p).read_bytes()[:30]), "{p}: not a readable .npy file (EOF"),
    "empty": (lambda p: p.write_bytes(b""), "{p}: not a readable .npy file (EOF"),
    "text": (lambda p: p.write_text("no numbers here"), "{p}: not a readable .npy file (the magic string is not"),
    "channels": (lambda p: save(p, maps(shape=(17, 17, 9))), f"{{p}}: the array is [17, 17, 9], {KIND}"),
    "flat": (lambda p: save(p, maps(shape=(36, 9))), f"{{p}}: the array is [36, 9], {KIND}"),
    "type": (lambda p: save(p, maps().astype(int)), "{p}: the array is of type int64, expected float32 confidences"),
    "nan": (lambda p: save(p, np.full((36, 2, 2), np.nan, "f4")), "{p}: the mask holds values that are not finite"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("cached", [False, True])
def test_a_faulty_file_is_named_with_its_fault(tmp_path, kind, cached):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    bad = tmp_path / "Market-1501/masks/pifpaf_maskrcnn_filtering/bounding_box_train/0003_c1s1_000151_01.npy"
    make, message = BAD[kind]
    make(bad)
    with pytest.raises(DataError) as caught:
        source = FileMasks(options(cache=str(tmp_path / "cache") if cached else ""), data, images)
        assert kind == "nan" and not cached, "all but values show at the start"
        source.maps(images[3])
    assert str(caught.value).startswith(message.format(p=bad))
    assert not (tmp_path / "cache").exists() or not os.listdir(tmp_path / "cache")


@pytest.mark.parametrize("raw", [False, True])
def test_pickles_are_refused_and_never_run(tmp_path, raw):
    bad, sprung = tmp_path / "x.npy", tmp_path / "sprung"
    if raw:
        bad.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        save(bad, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    for read in (check_mask_file, read_mask_file):
        with pytest.raises(DataError) as caught:
            read(bad)
        refused = "not a readable .npy file" if raw else "refused, because it holds pickled Python objects and reading"
        assert str(caught.value).startswith(f"{bad}: {refused}")
    assert not sprung.exists()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_numpy_layouts_are_read(tmp_path, version, order):
    path = tmp_path / "x.npy"
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, np.asarray(maps(), order=order), version=version)
    assert check_mask_file(path) == (17, 9) and torch.equal(read_mask_file(path), torch.from_numpy(maps()))


# ---------------------------------------------------------------------- cache


def cached(tmp_path, data, images):
    return FileMasks(options(cache=str(tmp_path / "cache")), data, images)


def test_the_cache_is_one_file_of_rounded_bytes(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    save(
        tmp_path / "Market-1501/masks/pifpaf_maskrcnn_filtering" / NAMES[2].replace("jpg", "npy"),
        2 * maps(7, (36, 5, 3)),
    )
    source = cached(tmp_path, data, images)
    (file,) = (tmp_path / "cache").iterdir()
    assert re.fullmatch(r"market1501_pifpaf_maskrcnn_filtering_[0-9a-f]{8}.safetensors", file.name)
    assert load_file(file)["maps"].dtype == torch.uint8
    for number, image in enumerate(images):
        exact = torch.from_numpy(maps(number) if number != 2 else 2 * maps(7, (36, 5, 3))).clamp(0, 1)
        found = source.maps(image)
        assert found.shape == exact.shape and (found - exact).abs().max() <= 0.5 / 255 + 1e-6


def test_a_cache_that_fits_is_not_made_again(tmp_path, monkeypatch):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    first = cached(tmp_path, data, images)
    monkeypatch.setattr(cache, "_build", lambda *args: pytest.fail("built again"))
    assert torch.equal(cached(tmp_path, data, images).maps(images[3]), first.maps(images[3]))


@pytest.mark.parametrize("change", ["content", "removed", "damaged"])
def test_a_stale_or_damaged_cache_is_made_again(tmp_path, change, caplog):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    cached(tmp_path, data, images)
    mask = tmp_path / "Market-1501/masks/pifpaf_maskrcnn_filtering" / NAMES[1].replace("jpg", "npy")
    if change == "content":
        save(mask, maps(50))
        os.utime(mask, ns=(1, 10**18))
    elif change == "removed":
        mask.unlink()
        images.pop(1)
    else:
        cut(next((tmp_path / "cache").iterdir()))
    with caplog.at_level(logging.INFO, logger="occplug"):
        source = cached(tmp_path, data, images)
    assert "is out of date or damaged, and is made again" in caplog.text
    seeds = {"content": [0, 50, 2, 3, 4], "removed": [0, 2, 3, 4], "damaged": range(5)}[change]
    for seed, image in zip(seeds, images, strict=True):
        assert (source.maps(image) - torch.from_numpy(maps(seed))).abs().max() <= 0.5 / 255 + 1e-6


def test_masks_too_large_for_the_cache_are_refused(tmp_path, monkeypatch):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    monkeypatch.setattr(cache, "_LIMIT", 20_000)
    with pytest.raises(ConfigError, match="masks.cache: the 5 masks would take .* leave masks.cache empty"):
        cached(tmp_path, data, images)


def test_a_copy_for_another_process_reads_too(tmp_path):
    data, images = dataset(tmp_path / "Market-1501", NAMES)
    source = cached(tmp_path, data, images)
    expected = source.maps(images[4])
    assert torch.equal(pickle.loads(pickle.dumps(source)).maps(images[4]), expected)
