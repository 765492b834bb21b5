"""Cached pictures: the same batches to the bit, made once, whole or not at all, and only where there is room."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occplug.data import cache as caching
from occplug.data.cache import cached_pictures
from occplug.errors import ConfigError, DataError
from occplug.transforms import Resize
from occplug.utils.imagefile import read_image
from tests.data.test_manager import manager, market

ALL = ["random_flip", "random_crop", "color_jitter", "pad_crop", "oamn", "oia", "rwoa", "random_erase_pixel"]


def batches(data) -> list[dict]:
    data.set_epoch(3)
    loaders = [data.train_loader, data.cache_loader(4), *data.test_loader["occluded_duke"].values()]
    return [batch for loader in loaders for batch in loader]


@pytest.mark.parametrize("resize", ["pil", "tensor"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_to_the_bit(tmp_path, resize, workers):
    options = ["data.transforms", ALL, "data.resize", resize, "data.workers", workers]
    expected = batches(manager(market(tmp_path), *options))
    folder = str(tmp_path / "cache")
    for where in ("memory", folder, folder):
        data = manager(tmp_path, *options, "data.cache", where)
        for one, other in zip(batches(data), expected, strict=True):
            assert torch.equal(one["img"], other["img"]) and one["impath"] == other["impath"]
        assert len(data._caches) == (1 if where == "memory" else 4)
        data.close()
    assert len(os.listdir(folder)) == 4  # two interpolations of the training images, query, gallery


def test_a_later_run_reads_no_pictures(tmp_path, monkeypatch):
    market(tmp_path)
    options = ["data.cache", str(tmp_path / "cache")]
    expected = batches(manager(tmp_path, *options))
    data = manager(tmp_path, *options)
    monkeypatch.setattr(data, "_read", None)
    for one, other in zip(batches(data), expected, strict=True):
        assert torch.equal(one["img"], other["img"])


def paths_of(root) -> list[str]:
    return sorted(map(str, (market(root) / "Occluded_Duke" / "bounding_box_train").iterdir()))


def files(folder) -> set[str]:
    return set(os.listdir(folder))


def test_other_pictures_sizes_and_resizes_have_files_of_their_own(tmp_path):
    paths, folder = paths_of(tmp_path), tmp_path / "cache"

    def make(paths=paths, **options):
        made = cached_pictures(str(folder), "a", paths, read_image, Resize(**{"height": 8, "width": 4} | options))
        assert [np.asarray(made[n]).shape for n in (0, len(paths) - 1)] == [(made.shape[1:])] * 2
        return made.file

    first = make()
    assert make() == first
    others = [make(paths[::-1]), make(paths[1:]), make(height=16), make(interpolation="bicubic"), make(kind="tensor")]
    os.utime(paths[3], ns=(1, 1))
    others.append(make())
    assert len({first, *others}) == 7 == len(files(folder))


def test_rows_are_the_resized_pictures(tmp_path):
    paths, resize = paths_of(tmp_path), Resize(8, 4)
    for where in ("memory", str(tmp_path / "cache")):
        made = cached_pictures(where, "a", paths, read_image, resize)
        again = pickle.loads(pickle.dumps(made))  # as a worker that is spawned gets it
        assert len(made) == len(paths) and len(pickle.dumps(made)) < 1000
        for number, path in enumerate(paths):
            expected = np.asarray(resize.transform(read_image(path), {}))
            np.testing.assert_array_equal(np.asarray(made[number]), expected)
            np.testing.assert_array_equal(np.asarray(again[number]), expected)


def test_half_a_cache_is_never_read(tmp_path):
    paths, folder, resize = paths_of(tmp_path), tmp_path / "cache", Resize(8, 4)

    def read(path):
        if path == paths[-1]:
            raise KeyboardInterrupt
        return read_image(path)

    with pytest.raises(KeyboardInterrupt):
        cached_pictures(str(folder), "a", paths, read, resize)
    assert not files(folder)
    whole = cached_pictures(str(folder), "a", paths, read_image, resize)
    with open(whole.file, "r+b") as file:  # a disk that lost the end
        file.truncate(100)
    again = cached_pictures(str(folder), "a", paths, read_image, resize)
    np.testing.assert_array_equal(np.asarray(again[9]), np.asarray(resize.transform(read_image(paths[9]), {})))


@pytest.mark.parametrize("damage", ["pixel", "first", "checksum", "longer", "shorter", "empty"])
def test_a_damaged_cache_is_made_again(tmp_path, damage, caplog):
    """A changed byte would be another picture in every epoch of every run that has the folder."""
    paths, folder, resize = paths_of(tmp_path), tmp_path / "cache", Resize(8, 4)
    file = Path(cached_pictures(str(folder), "a", paths, read_image, resize).file)
    content = bytearray(file.read_bytes())
    changed = {"pixel": len(content) // 2, "first": 0, "checksum": len(content) - 1}
    if damage in changed:
        content[changed[damage]] ^= 64
    file.write_bytes({"longer": content + b"x", "shorter": content[:-1], "empty": b""}.get(damage, bytes(content)))
    with caplog.at_level("WARNING", "occplug"):
        again = cached_pictures(str(folder), "a", paths, read_image, resize)
    assert f"data.cache: {file} is damaged, and is made again" in caplog.text
    for number, path in enumerate(paths):
        np.testing.assert_array_equal(np.asarray(again[number]), np.asarray(resize.transform(read_image(path), {})))
    caplog.clear()
    cached_pictures(str(folder), "a", paths, read_image, resize)
    assert "is damaged" not in caplog.text


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_damaged_picture_is_named_and_nothing_is_left(tmp_path, where):
    paths, folder = paths_of(tmp_path), tmp_path / "cache"
    open(paths[5], "wb").close()
    with pytest.raises(DataError, match=f"{paths[5]}: the file is empty"):
        cached_pictures(where.replace("folder", str(folder)), "damaged", paths, read_image, Resize(8, 4))
    assert not folder.exists() or not files(folder)
    assert not any(
        "memfd:damaged" in str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()
    )


def test_memory_is_given_back(tmp_path):
    paths = paths_of(tmp_path)
    made = cached_pictures("memory", "a", paths, read_image, Resize(8, 4))
    assert os.path.exists(made.file)
    file = made.file
    del made
    assert not os.path.exists(file)


def test_what_does_not_fit_is_refused_in_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "free_memory", lambda: 0.001)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1500))
    paths = paths_of(tmp_path)
    for where, free in (("memory", "of memory; name a folder"), (str(tmp_path / "c"), f"in {tmp_path / 'c'}; name")):
        with pytest.raises(ConfigError, match=f"pictures of a would take 0.00 GB, more than 80 % of .* free {free}"):
            cached_pictures(where, "a", paths, read_image, Resize(8, 4))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("where, place", [("memory", "of memory"), ("c", "in ")])
def test_the_size_is_said_before_it_is_made(tmp_path, caplog, where, place):
    paths, where = paths_of(tmp_path), where if where == "memory" else str(tmp_path / where)
    with caplog.at_level("INFO", "occplug"), pytest.raises(AttributeError):
        cached_pictures(where, "market-train", paths, lambda path: None, Resize(512, 256))
    assert f"market-train takes 0.01 GB {place}" in caplog.text
