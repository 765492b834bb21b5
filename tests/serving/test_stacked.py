"""Parts one after the other are one embedding, and are not copied."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from occplug import Embedding, Gallery
from occplug.embedding import Origin
from occplug.serving import stacked as module
from occplug.serving.stacked import Stacked, stacked, without


def parts(*counts):
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(count, 3, 2, generator=g) for count in counts]
    return [Embedding(p.mean(dim=1), p, p[..., 0].sigmoid(), origin=Origin(model="m")) for p in made]


@pytest.fixture
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 1)


INDICES = [
    slice(None), slice(2, 4), slice(1, 9), slice(None, None, 3), slice(20, 30), [3, 0, 9, 3], [-1, 4], [],
    torch.tensor([5, 4]), torch.arange(11) % 2 == 0, np.array([True] + [False] * 10),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_rows_are_those_of_a_copy(nothing_is_small, index):
    items = parts(4, 1, 6)
    one, whole = stacked(items), Embedding.cat(items)
    assert isinstance(one, Stacked) and len(one) == 11 and one.layout() == whole.layout()
    expected = index if not isinstance(index, np.ndarray) else torch.from_numpy(index)
    expected = torch.tensor(index, dtype=torch.long) if isinstance(index, list) else expected
    for name in ("vector", "parts", "visibility"):
        assert torch.equal(getattr(one[index], name), getattr(whole, name)[expected])
        assert torch.equal(getattr(one, name)[index], getattr(whole, name)[expected])
    assert one[index].mask is None and type(one[index]) is Embedding


def test_removed_rows_are_passed_over(nothing_is_small):
    items = parts(4, 1, 6)
    whole, gone = Embedding.cat(items), torch.zeros(11, dtype=torch.bool)
    gone[[0, 4, 7, 8]] = True
    once = stacked(items).without(gone)
    assert torch.equal(once.vector[:], whole.vector[~gone]) and len(once.pieces) == 2
    again = stacked([once, *parts(2)]).without(torch.arange(9) == 4)
    assert torch.equal(again.vector[:], torch.cat([whole.vector[~gone], parts(2)[0].vector])[torch.arange(9) != 4])
    assert len(once.without(torch.ones(7, dtype=torch.bool))) == 0
    assert torch.equal(without(items[2], torch.arange(6) < 2).vector[:], items[2].vector[2:])


def test_small_parts_are_copied_together():
    assert type(stacked(parts(4, 1, 6))) is Embedding
    assert torch.equal(Embedding.cat([stacked(parts(4, 1)), parts(3)[0]]).vector[:5], stacked(parts(4, 1)).vector)


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_a_gallery_of_parts_does_as_one_of_one_part(nothing_is_small, engine, tmp_path):
    if engine == "faiss":
        pytest.importorskip("faiss")
    first, second, queries = (item for item in parts(150, 40, 20))
    built = Gallery.build(first, engine=engine, metadata={"camera": [n % 3 for n in range(150)]}, half=True)
    built.save(tmp_path / "g")
    built.add(second, {"camera": [5] * 40})
    built.remove([3, 151])
    read = Gallery.load(tmp_path / "g")
    whole = Embedding.cat([first, second]).to(torch.float16)
    kept = np.setdiff1d(np.arange(190), [3, 151])
    expected = Gallery.build(whole[torch.from_numpy(kept)], ids=kept)
    for gallery in (built, read):
        assert isinstance(gallery.embedding, Stacked) and len(gallery) == 188
        for condition in (None, "camera == 5"):
            hits = gallery.search(queries, 5, where=condition, candidates=188)
            if condition is None:
                np.testing.assert_array_equal(hits.ids, expected.search(queries, 5).ids)
            else:
                assert (hits.ids >= 150).all()
    read.save(tmp_path / "h")
    assert len(list((tmp_path / "h").glob("segment-*"))) == 1
    np.testing.assert_array_equal(Gallery.load(tmp_path / "h").embedding.vector[:], read.embedding.vector[:])


def anonymous():
    """KiB of memory that no file stands behind."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is mapped")
def test_segments_of_a_gallery_stay_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 1000)
    Gallery.build(Embedding(torch.randn(20_000, 256)), half=True).save(tmp_path / "g")
    gallery = Gallery.load(tmp_path / "g")
    gallery.add(Embedding(torch.randn(20_000, 256)))
    gallery.remove([5, 30_000])
    del gallery
    before = anonymous()
    gallery = Gallery.load(tmp_path / "g")
    assert len(gallery) == 39_998 and anonymous() - before < 20_000 * 256 * 2 / 2**10 / 2  # of one segment, half
    assert gallery.search(Embedding(torch.randn(2, 256)), 3).ids.shape == (2, 3)
