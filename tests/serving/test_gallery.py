"""Galleries: what is found, what is kept, what survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from occplug import Embedding, Gallery
from occplug.datasets.by_path import CsvImages
from occplug.embedding import Origin, save_rows
from occplug.errors import ConfigError, DataError
from occplug.evaluation import Metric
from occplug.serving.metadata import number_or_text, read_metadata, typed
from occplug.serving.where import matching
from occplug.utils.measuring import measured

ENGINES = ["exact", "faiss", "milvus"]
PACKAGES = {"faiss": "faiss", "milvus": "milvus_lite"}


def needs(engine):
    if engine in PACKAGES:
        pytest.importorskip(PACKAGES[engine])


def vectors(n=300, seed=0, width=16, model="m"):
    g = torch.Generator().manual_seed(seed)
    return Embedding(
        torch.randn(n, width, generator=g), origin=Origin(tuple(f"{seed}/{i}.jpg" for i in range(n)), model)
    )


def parted(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    normal = torch.nn.functional.normalize
    parts = normal(torch.randn(n, 4, 8, generator=g), dim=2)
    return Embedding(normal(torch.randn(n, 16, generator=g)), parts, torch.rand(n, 4, generator=g))


def masked(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Embedding(torch.randn(n, 16, generator=g), mask=torch.rand(n, 16, generator=g))


def brute(metric, query, gallery, top):
    distances = metric(query, gallery)
    best = distances.sort(dim=1, stable=True)
    return best.indices[:, :top].numpy(), best.values[:, :top].numpy()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make, metric", [(vectors, "normalised_euclidean"), (parted, "parts"), (masked, "masked")])
def test_search_ranks_by_the_methods_own_distance(engine, make, metric):
    needs(engine)
    gallery, query = make(300), make(7, seed=1)
    built = Gallery.build(gallery, engine=engine)
    hits = built.search(query, top=5, candidates=300)  # all of them: then every engine has to agree with brute force
    ids, distances = brute(Metric(metric), query, gallery, 5)
    np.testing.assert_array_equal(hits.ids, ids)
    np.testing.assert_allclose(hits.distances, distances, atol=1e-4)
    assert hits.ids.shape == (7, 5) and hits.distances.dtype == np.float32


@pytest.mark.parametrize(("engine", "index"), [("milvus", "IVF_FLAT"), ("faiss", "ivf"), ("faiss", "rabitq")])
def test_inverted_lists_are_searched_with_enough_effort(engine, index):
    needs(engine)
    gallery, query = vectors(300), vectors(7, seed=1)
    built = Gallery.build(gallery, engine=engine, index=index, effort=64)
    ids, _ = brute(Metric("normalised_euclidean"), query, gallery, 5)
    np.testing.assert_array_equal(built.search(query, 5, candidates=200).ids, ids)


def test_blocks_do_not_show(monkeypatch):
    from occplug.serving import gallery as module

    whole = Gallery.build(parted()).search(parted(9, 1), 12)
    monkeypatch.setattr(module, "BLOCK", 37)
    for a, b in zip(whole, Gallery.build(parted()).search(parted(9, 1), 12)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_equal_distances_are_in_the_order_of_ids():
    same = Embedding(torch.ones(6, 4))
    assert Gallery.build(same, ids=[5, 3, 9, 1, 7, 2]).search(same[:1], 6).ids.tolist() == [[1, 2, 3, 5, 7, 9]]


@pytest.mark.parametrize("engine", ENGINES)
def test_adding_removing_and_conditions(engine, tmp_path):
    needs(engine)
    built = Gallery.build(vectors(200), engine=engine, metadata={"camera": [i % 4 for i in range(200)]})
    new = built.add(vectors(50, seed=2), {"camera": [7] * 50, "who": ["x"] * 50})
    assert new.tolist() == list(range(200, 250)) and len(built) == 250
    everything = Embedding.cat([vectors(200), vectors(50, seed=2)])
    assert built.search(everything[[3, 220]], 1).ids.tolist() == [[3], [220]]
    hits = built.search(everything[[3]], 100, where="camera == 7")
    assert set(hits.ids[0].tolist()) == set(range(200, 250)) and hits.ids.shape == (1, 50)
    assert built.search(everything[[3]], 1, where="camera != 3 and who is None").ids[0, 0] != 3
    assert built.remove([3, 220]) == 2 and len(built) == 248
    assert not np.isin([3, 220], built.search(everything[[3, 220]], 100).ids).any()
    assert built.remove(where="camera == 7") == 49 and len(built) == 199
    assert built.describe([4, 198]) == [
        {"camera": 0, "path": "0/4.jpg", "who": None},
        {"camera": 2, "path": "0/198.jpg", "who": None},
    ]
    built.save(tmp_path / "g")
    read = Gallery.load(tmp_path / "g")
    for a, b in zip(read.search(everything, 5), built.search(everything, 5)):
        np.testing.assert_array_equal(a, b)
    assert read.add(vectors(1, seed=3)).tolist() == [250]  # ids never come back


@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize("name", ["folder", "one.safetensors"])
def test_what_is_added_is_on_the_disk(engine, name, tmp_path):
    needs(engine)
    built = Gallery.build(parted(), engine=engine)
    built.save(tmp_path / name)
    reader = Gallery.load(tmp_path / name)
    built.add(parted(40, seed=1))
    built.remove([0])
    assert len(reader) == 300  # it keeps what it has read
    assert reader.refresh() and not reader.refresh() and len(reader) == 339
    query = parted(40, seed=1)[:20]
    for other in (reader, Gallery.load(tmp_path / name)):
        assert other.search(query, 1).ids[:, 0].tolist() == list(range(300, 320))
        assert 0 not in other.search(parted(1), 100).ids
    half = Gallery.build(parted(), engine=engine, half=True)
    half.save(tmp_path / f"half-{name}")
    read = Gallery.load(tmp_path / f"half-{name}")
    assert read.embedding.vector.dtype == torch.float16
    found = read.search(query, 5, candidates=300).distances  # all of them: what an engine overlooks is another matter
    np.testing.assert_allclose(found, Gallery.build(parted()).search(query, 5).distances, atol=0.01)


# ---------------------------------------------------------------------- an index that galleries and processes share


def near(gallery, embedding):
    return gallery.search(embedding, 1, candidates=5).ids[:, 0].tolist()


def test_galleries_on_one_address_do_not_meet(tmp_path):
    needs("milvus")
    address = str(tmp_path / "m.db")
    a = Gallery.build(vectors(), engine="milvus", uri=address)
    a.save(tmp_path / "a")
    b = Gallery.build(vectors(200, seed=1), engine="milvus", uri=address)
    b.save(tmp_path / "b")
    for gallery in (a, Gallery.load(tmp_path / "a")):
        assert near(gallery, vectors()) == list(range(300))
    assert near(Gallery.load(tmp_path / "b"), vectors(200, seed=1)) == list(range(200))
    a.save(tmp_path / "c")  # a copy, which has a collection of its own
    a.add(vectors(2, seed=3))
    left = Gallery.load(tmp_path / "a")
    assert len(left) == 300 and left._engine.candidates(vectors(2, seed=3).vector, 300).max() == 299
    assert near(Gallery.load(tmp_path / "c"), vectors(2, seed=3)) == [300, 301]


def test_a_collection_of_another_gallery_is_noticed(tmp_path):
    """Ids count from 0 in every gallery, so vectors are compared, too; nothing of the other is dropped."""
    needs("milvus")
    address = str(tmp_path / "m.db")
    for name, seed in (("a", 0), ("b", 1)):
        Gallery.build(vectors(seed=seed), engine="milvus", uri=address, collection=name).save(tmp_path / name)
    with pytest.raises(ConfigError, match="m.db: there is a collection 'a' already, which is not this gallery's"):
        Gallery.build(vectors(seed=2), engine="milvus", uri=address, collection="a")
    manifest = tmp_path / "b/gallery.json"
    manifest.write_text(manifest.read_text().replace('"collection": "b"', '"collection": "a"'))
    with pytest.raises(DataError, match="m.db: the collection 'a' holds other vectors than this gallery"):
        Gallery.load(tmp_path / "b")
    assert near(Gallery.load(tmp_path / "a"), vectors()) == list(range(300))


@pytest.mark.parametrize("uri", [False, True])
def test_a_collection_that_was_changed_is_put_right(uri, tmp_path, caplog):
    """Two images gone and two others in, so that the number is as before."""
    needs("milvus")
    options = {"uri": str(tmp_path / "m.db")} if uri else {}
    built = Gallery.build(vectors(), engine="milvus", **options)
    built.save(tmp_path / "g")
    built._engine.remove(np.array([3, 4]))
    built._engine.add(vectors(2, seed=1).vector, np.array([900, 901]))
    read = Gallery.load(tmp_path / "g")
    assert near(read, vectors()) == list(range(300)) and "built again" not in caplog.text
    assert set(read._engine._ids().tolist()) == set(range(300))
    read._engine.client.drop_collection(read._engine.collection)
    assert near(Gallery.load(tmp_path / "g"), vectors()) == list(range(300)) and "built again" in caplog.text


def test_a_reader_beside_a_writer(tmp_path):
    needs("milvus")
    Gallery.build(vectors(), engine="milvus").save(tmp_path / "g")
    reader, writer = Gallery.load(tmp_path / "g"), Gallery.load(tmp_path / "g")
    writer.add(vectors(150, seed=1))  # more than are candidates
    assert near(reader, vectors(150, seed=1)) == list(range(300, 450)) and len(reader) == 450
    writer.remove([300])
    assert (
        near(reader, vectors(1)) == [0] and not reader._engine.candidates(vectors(1, seed=1).vector, 400).max() == 300
    )
    writer._engine.add(vectors(1, seed=7).vector, np.array([900]))  # of a writer that was killed before it was kept
    assert 900 not in reader.search(vectors(1, seed=7), 10, candidates=100).ids
    assert len(writer._engine._ids()) == 450 and len(Gallery.load(tmp_path / "g")._engine._ids()) == 449


def test_many_small_additions_are_put_together(tmp_path, monkeypatch):
    from occplug.serving import store

    monkeypatch.setattr(store, "SEGMENTS", 4)
    built = Gallery.build(vectors(20))
    built.save(tmp_path / "g")
    for seed in range(1, 12):
        built.add(vectors(2, seed=seed))
    built.remove([1, 25])
    assert len(list((tmp_path / "g").glob("segment-*"))) <= 5
    read = Gallery.load(tmp_path / "g")
    assert sorted(read.ids) == sorted(built.ids) and len(read) == 40
    assert read.search(vectors(2, seed=11), 1).ids[:, 0].tolist() == [40, 41]


def test_a_file_of_embeddings_is_a_gallery_and_back(tmp_path):
    vectors(5).save(tmp_path / "g.safetensors")
    gallery = Gallery.load(tmp_path / "g.safetensors")
    assert gallery.columns == {"path": [f"0/{i}.jpg" for i in range(5)]}
    gallery.add(vectors(2, seed=1), {"time": [1.5, 2]})
    read = Embedding.load(tmp_path / "g.safetensors")
    assert len(read) == 7 and read.paths[-1] == "1/1.jpg" and read.origin.model == "m"
    assert Gallery.load(tmp_path / "g.safetensors").columns["time"] == [None] * 5 + [1.5, 2]


WRITER = """
import sys, torch
from occplug import Embedding, Gallery
gallery = Gallery.load(sys.argv[1])
for number in range(10_000):
    ids = gallery.add(Embedding(torch.full((1, 16), float(number))))
    print(int(ids[0]), flush=True)
"""


@pytest.mark.parametrize(
    ("engine", "name"),
    [(engine, name) for engine in ("exact", "faiss") for name in ("folder", "one.safetensors")],
)
def test_killing_a_writer_loses_nothing_it_has_acknowledged(engine, name, tmp_path):
    needs(engine)
    Gallery.build(Embedding(vectors(10).vector), engine=engine).save(tmp_path / name)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
    said = [int(writer.stdout.readline()) for _ in range(12)]
    counts = [len(Gallery.load(tmp_path / name)) for _ in range(300 if engine == "exact" else 60)]  # readers meanwhile
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    left = Gallery.load(tmp_path / name)
    assert set(said) <= set(left.ids.tolist()) and len(left) >= 10 + len(said) and counts == sorted(counts)
    assert left.add(Embedding(vectors(1).vector)).tolist() == [int(left.ids.max())]  # the lock went with the process
    found = Gallery.load(tmp_path / name).search(left.embedding, len(left), candidates=len(left)).ids  # by the engine
    assert set(found[0].tolist()) == set(left.ids.tolist())


def test_segments_put_together_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    from occplug.serving import store

    Gallery.build(vectors(5)).save(tmp_path / "g")
    Gallery.load(tmp_path / "g").add(vectors(3, 1))
    load, put_together = store._load, []

    def late(path):
        """The file, which another process has put into a new one since its size was looked at."""
        if not put_together:
            put_together.append(path)
            folder = store.FolderStore(tmp_path / "g")
            rows, header = folder.read()
            folder.rewrite(rows, header)
        return load(path)

    monkeypatch.setattr(store, "_load", late)
    assert len(Gallery.load(tmp_path / "g")) == 8 and not put_together[0].exists()
    (tmp_path / "g" / "segment-000003.safetensors").unlink()
    with pytest.raises(DataError, match="segment-000003.safetensors is missing; restore it"):
        Gallery.load(tmp_path / "g")


def test_two_writers_take_turns(tmp_path, monkeypatch):
    from occplug.serving import store

    Gallery.build(vectors(5)).save(tmp_path / "g")
    one, two = Gallery.load(tmp_path / "g"), Gallery.load(tmp_path / "g")
    assert one.add(vectors(1, 1)).tolist() == [5] and two.add(vectors(1, 2)).tolist() == [6]
    assert one.remove([6]) == 1 and len(Gallery.load(tmp_path / "g")) == 6
    monkeypatch.setattr(store, "WAIT", 0.05)
    with one._store.writing(), pytest.raises(DataError, match="another process has been writing"):
        two.add(vectors(1, 3))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "another"])
def test_a_damaged_index_is_named_and_built_again(damage, tmp_path, caplog):
    needs("faiss")
    built = Gallery.build(vectors(), engine="faiss")
    built.save(tmp_path / "g")
    (file,) = (tmp_path / "g").glob("*.faiss")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    replaced = {"cut": bytes(content[:100]), "changed": bytes(content), "another": b"abc"}
    file.unlink() if damage == "gone" else file.write_bytes(replaced[damage])
    with caplog.at_level("WARNING", "occplug"):
        read = Gallery.load(tmp_path / "g")
    assert file.name in caplog.text and "built again from the embeddings" in caplog.text
    np.testing.assert_array_equal(read.search(vectors(), 1).ids[:, 0], np.arange(300))


@pytest.mark.parametrize("file", ["schema.json", "*.parquet", "manifest.json", "milvus.db"])
def test_a_damaged_milvus_index_is_named_and_built_again(file, tmp_path, caplog):
    needs("milvus")
    built = Gallery.build(vectors(), engine="milvus")
    built.save(tmp_path / "g")
    built._engine.client.flush(built._engine.collection)
    copy = shutil.copytree(tmp_path / "g", tmp_path / "h")  # milvus-lite holds in memory what it has read
    place = next(copy.rglob(file))
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.write_bytes(b"garbage")
    assert near(Gallery.load(copy), vectors()) == list(range(300))
    assert file == "manifest.json" or re.search("milvus.db.*built again from the embeddings", caplog.text)


@pytest.mark.parametrize("begun", ["emptied", "empty"])
@pytest.mark.parametrize("index", ["auto", "ivf", "rabitq"])
def test_an_emptied_gallery_takes_images_again(begun, index, tmp_path):
    needs("faiss")
    count = 300 if begun == "emptied" else 0
    built = Gallery.build(vectors(count), engine="faiss", index=index, effort=64)
    built.save(tmp_path / "g")
    assert built.remove(range(count)) == count and len(built) == 0
    new = built.add(vectors(200, seed=1))
    for gallery in (built, Gallery.load(tmp_path / "g")):
        assert len(gallery) == 200 and near(gallery, vectors(200, seed=1)) == new.tolist()


@pytest.mark.parametrize("engine", ["faiss", "milvus"])
@pytest.mark.parametrize("fails", ["the engine", "the disk", "the index file"])
def test_what_could_not_be_added_is_added_once_by_the_next_try(engine, fails, tmp_path, monkeypatch, caplog):
    needs(engine)
    built = Gallery.build(vectors(), engine=engine)
    built.save(tmp_path / "g")
    place = {
        "the engine": (built._engine, "add"),
        "the disk": (built._store, "append"),
        "the index file": (built, "_write_index"),
    }[fails]

    def broken(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(*place, broken)
        if fails == "the index file":  # which can be made again, so the images are kept
            monkeypatch.setattr(type(built._engine), "wants_rebuild", property(lambda _: True))
            built.add(vectors(5, seed=1))
            assert "the images are kept, but their index could not be built again: no space" in caplog.text
        else:
            with pytest.raises(OSError, match="no space left"):
                built.add(vectors(5, seed=1))
            assert len(built) == len(Gallery.load(tmp_path / "g")) == 300
    if fails != "the index file":
        built.add(vectors(5, seed=1))
    for gallery in (built, Gallery.load(tmp_path / "g")):
        assert len(gallery) == 305 and near(gallery, vectors(5, seed=1)) == gallery.ids[-5:].tolist()
        hits = gallery.search(vectors(1, seed=1), 305, candidates=305).ids[0]
        assert len(set(hits.tolist())) == 305


def test_damaged_embeddings_are_named(tmp_path):
    built = Gallery.build(vectors())
    built.save(tmp_path / "g")
    (segment,) = (tmp_path / "g").glob("segment-*")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-50])
    with pytest.raises(DataError, match=rf"{segment.name}: damaged \(cut off\)"):
        Gallery.load(tmp_path / "g")
    segment.unlink()
    with pytest.raises(DataError, match=f"{segment.name} is missing"):
        Gallery.load(tmp_path / "g")
    (tmp_path / "g" / "gallery.json").write_text("{")
    with pytest.raises(DataError, match="gallery.json: damaged"):
        Gallery.load(tmp_path / "g")


def identities(people=60, each=4, noise=0.0, seed=0):
    """Vectors of `people`, whose images lie close together; `noise` is what occlusion adds."""
    g = torch.Generator().manual_seed(7)
    centres = torch.randn(people, 32, generator=g)
    g.manual_seed(seed + 1)
    pid = torch.arange(people).repeat_interleave(each)
    spread = 0.3 * torch.randn(len(pid), 32, generator=g) + noise * torch.randn(len(pid), 32, generator=g)
    return Embedding(centres[pid] + spread), pid.tolist()


def test_what_an_engine_costs_is_measured_with_queries_and_kept(tmp_path):
    needs("faiss")
    (gallery, pids), (queries, q_pids) = identities(), identities(each=2, noise=1.2, seed=5)
    labels = {"queries": queries, "query_metadata": {"pid": q_pids}}
    built = Gallery.build(gallery, engine="faiss", metadata={"pid": pids}, **labels)
    distances = Metric("normalised_euclidean")(queries, gallery)
    by_hand = float(np.mean(np.array(pids)[distances.argmin(dim=1)] == np.array(q_pids)))
    assert built.quality["rank1_exact"] == pytest.approx(by_hand, abs=1e-4) and 0.3 < by_hand < 1
    assert built.quality["rank1_engine"] >= by_hand - 0.002 and built.quality["kind"] == "given"
    built.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").info()["quality"] == built.quality
    alone = Gallery.build(gallery, engine="faiss", metadata={"pid": pids})
    assert "not occluded" in alone.quality["kind"] and alone.quality["rank1_exact"] > by_hand


@pytest.mark.parametrize("name", ["g", "g.safetensors"])
def test_quality_says_what_has_changed_since_it_was_measured(name, tmp_path):
    gallery, pids = identities()
    built = Gallery.build(gallery, metadata={"pid": pids})
    measured_then = dict(built.quality)
    built.save(tmp_path / name)
    built.add(gallery[:3], {"pid": [1, 2, 3]})
    built.remove([0, 1])
    with pytest.raises(DataError):
        built.add(gallery[:1], ids=[5])
    for one in (built, Gallery.load(tmp_path / name)):
        assert one.info()["quality"] == {**measured_then, "images_changed_since": 5}
    without = Gallery.build(gallery)
    without.remove([0])
    assert without.quality == {}


def test_queries_are_measured_or_refused():
    gallery, pids = identities()
    with pytest.raises(DataError, match="the gallery has no pid; give it as metadata"):
        Gallery.build(gallery, queries=gallery, query_metadata={"pid": pids})
    for metadata in (None, {"camera": pids}, {"pid": [None] * len(pids)}):
        with pytest.raises(DataError, match="the queries has no pid; give it as metadata"):
            Gallery.build(gallery, metadata={"pid": pids}, queries=gallery, query_metadata=metadata)


@pytest.mark.parametrize("name", ["camera", "camera_id", "camid"])
def test_images_of_the_querys_camera_do_not_count(name):
    gallery = Embedding(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]]))
    metadata = {"pid": [1, 2, 1, 3], name: [1, 1, 2, 1]}
    query = {"queries": gallery[:1], "query_metadata": {"pid": [1], "camera": [1]}}
    built = Gallery.build(gallery, metadata=metadata, **query)
    assert built.quality["rank1_exact"] == 0  # the nearest that counts is of identity 2
    query["query_metadata"] = {"pid": [1]}
    assert Gallery.build(gallery, metadata=metadata, **query).quality["rank1_exact"] == 1


def test_mistakes_are_named(tmp_path):
    gallery = vectors(5)
    (tmp_path / "0.jpg").write_bytes(b"")
    built = Gallery.build(gallery, metadata={"camera": [1, 2, 3, 4, 5], "who": list("abcde")})
    cases = [
        (DataError, "ids are 5 whole numbers", lambda: Gallery.build(gallery, ids=[1])),
        (DataError, "each of them once", lambda: Gallery.build(gallery, ids=[1, 1, 2, 3, 4])),
        (DataError, "'camera' has 2 values for 5 images", lambda: Gallery.build(gallery, metadata={"camera": [1, 2]})),
        (DataError, "'a b': names are letters", lambda: Gallery.build(gallery, metadata={"a b": [1] * 5})),
        (ConfigError, "engine is 'fais'; there are: exact, faiss", lambda: Gallery.build(gallery, engine="fais")),
        (ConfigError, "has no option 'probes'", lambda: Gallery.build(gallery, engine="faiss", probes=3)),
        (
            ConfigError,
            "no metadata 'cam'; this gallery has: camera, who, path",
            lambda: built.search(gallery, where="cam == 1"),
        ),
        *[
            (
                DataError,
                f"metadata '{name}': .*give it another name",
                lambda name=name: built.add(gallery, {name: [1] * 5}),
            )
            for name in ("id", "distance", "class", "None", "in")
        ],
        (DataError, "holds other files .* and no gallery", lambda: built.save(tmp_path)),
        (ConfigError, "is no condition", lambda: built.search(gallery, where="camera ==")),
        (ConfigError, "neither true nor false", lambda: built.search(gallery, where="camera")),
        (ConfigError, "is not understood", lambda: built.search(gallery, where="who == open('x')")),
        (ConfigError, "text stands in quotes", lambda: built.search(gallery, where="who > 3")),
        (ConfigError, "top is 0", lambda: built.search(gallery, top=0)),
        (ConfigError, "by ids or by where", lambda: built.remove()),
        (DataError, "no image with id 77", lambda: built.remove([77])),
        (DataError, "already has an image with id 2", lambda: built.add(gallery[:1], ids=[2])),
        (DataError, "different weights", lambda: built.search(vectors(1, model="other"))),
        (DataError, "different weights", lambda: built.add(vectors(1, model="other"))),
        (DataError, "to be added hold vector", lambda: built.add(Embedding(torch.ones(1, 3)))),
        (DataError, "there is no such gallery", lambda: Gallery.load(tmp_path / "nothing")),
        (DataError, "holds no gallery", lambda: Gallery.load(tmp_path)),
    ]
    for kind, message, act in cases:
        with pytest.raises(kind, match=message):
            act()
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")) == ["0.jpg"]


@pytest.mark.parametrize("engine", ["faiss", "milvus"])
@pytest.mark.parametrize("options", [{"effort": "abc"}, {"effort": 0}, {"effort": 1.5}, {"index": 5}, {"index": None}])
def test_options_of_another_kind_are_named(engine, options):
    needs(engine)
    ((key, value),) = options.items()
    with pytest.raises(ConfigError, match=f"{key} of the engine '{engine}' is {value!r}; it must be"):
        Gallery.build(vectors(5), engine=engine, **options)


@pytest.mark.parametrize("index", ["PQ4", "IVF100,SQ8", "PQ4x8"])
def test_an_index_that_wants_more_vectors_is_named(index):
    needs("faiss")
    with pytest.raises(ConfigError, match=f"faiss cannot train the index '{index}' on 5 vectors .*use auto or hnsw"):
        Gallery.build(vectors(5), engine="faiss", index=index)


def test_what_milvus_refuses_is_told_with_the_cure():
    needs("milvus")
    built = Gallery.build(vectors(), engine="milvus")
    built._engine.client.drop_collection(built._engine.collection)
    for use in (lambda: near(built, vectors(1)), lambda: built.add(vectors(1)), lambda: built.remove([3])):
        with pytest.raises(
            DataError, match="collection occplug_.*: .*the embeddings are whole, so the gallery can be b"
        ):
            use()


def test_the_token_of_a_cluster_comes_from_the_call_or_the_environment(monkeypatch):
    needs("milvus")
    import pymilvus

    from occplug.serving.engines import build_engine

    given = []

    def refuse(address, token):
        given.append(token)
        raise pymilvus.MilvusException(message="auth check failure")

    monkeypatch.setattr(pymilvus, "MilvusClient", refuse)
    for token in ("", "a:b"):
        with pytest.raises(DataError, match=r"auth check failure.*OCCPLUG_MILVUS_TOKEN=user:password"):
            _ = build_engine("milvus", True, {"uri": "http://x:1", "token": token}).client
        monkeypatch.setenv("OCCPLUG_MILVUS_TOKEN", "c:d")
    _ = pytest.raises(DataError, lambda: build_engine("milvus", True, {"uri": "http://x:1"}).client)
    assert given == ["", "a:b", "c:d"]
    assert "token" not in build_engine("milvus", True, {"uri": "http://x:1", "token": "a:b"}).options()


def test_conditions():
    from occplug.serving.where import matching

    columns = {"n": [1, 2, 3, None], "x": [0.5, 1.5, 2.5, 3.5], "s": ["a", "b", None, "d"]}
    for condition, expected in {
        "n != 2": "1011",
        "n == None": "0001",
        "n is not None": "1110",
        "1 < n <= 3": "0110",
        "not (x > 1 and x < 3)": "1001",
        "s in ['a', 'd'] or x == 1.5": "1101",
        "s not in ('a',)": "0111",
        "n > x": "1110",
        "-1 < n": "1110",
    }.items():
        assert "".join(str(int(v)) for v in matching(condition, columns, 4)) == expected, condition


def test_information_is_plain(tmp_path):
    built = Gallery.build(parted(), metadata={"camera": [1] * 300})
    built.save(tmp_path / "g.safetensors")
    told = json.loads(json.dumps(Gallery.load(tmp_path / "g.safetensors").info()))
    assert told["images"] == 300 and told["engine"] == "exact" and told["distance"]["name"] == "parts"
    assert told["metadata"] == ["camera"]


# ---------------------------------------------------------------------- what is no number


def spoilt(value, row=2, field="vector", make=vectors, count=6):
    made = make(count)
    changed = getattr(made, field).clone()
    changed[row].view(-1)[0] = value
    return replace(made, **{field: changed})


@pytest.mark.parametrize(
    ("make", "field"), [(vectors, "vector"), (parted, "parts"), (parted, "visibility"), (masked, "mask")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_embeddings_that_are_not_finite_are_refused_not_ranked(make, field, value):
    """A query of such numbers used to find the last image of the gallery, whoever that is."""
    gallery, bad = Gallery.build(make(9)), spoilt(value, field=field, make=make)
    told = "0/2.jpg: its embedding is not finite" if make is vectors else r"\(number 2, counted from 0\): its embedding"
    for use in (lambda: Gallery.build(bad), lambda: gallery.add(bad), lambda: gallery.search(bad, 3)):
        with pytest.raises(DataError, match=told):
            use()
    assert len(gallery) == 9


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf")])
def test_metadata_that_are_no_number_are_refused(value):
    with pytest.raises(DataError, match=f"metadata hold {value}, .*give None for what is not known"):
        Gallery.build(vectors(2), metadata={"time": [1.5, value]})


def test_the_image_that_is_not_finite_is_named_wherever_it_is(monkeypatch):
    monkeypatch.setattr("occplug.embedding.CHECKED", 4)
    for row in (0, 3, 4, 8):
        with pytest.raises(DataError, match=rf"0/{row}.jpg: its embedding is not finite"):
            Gallery.build(spoilt(float("nan"), row=row, count=9))


def half_gallery():
    embedding = Embedding(torch.full((100_000, 512), 0.5, dtype=torch.float16))
    return lambda: len(Gallery.build(embedding))


def test_building_does_not_copy_a_gallery_of_half_precision():
    """In float32, as it is looked through for numbers that are not finite, it would be 195 MiB."""
    figures = measured(half_gallery)
    assert figures.output == 100_000
    assert figures.memory < 100


def test_half_precision_that_is_too_narrow_is_refused():
    with pytest.raises(DataError, match=r"not finite; the weights are diverged .*too large for half precision"):
        Gallery.build(Embedding(torch.full((3, 4), 1e5)), half=True)


def test_a_distance_that_is_no_number_is_refused_and_an_infinite_one_ranks_last():
    gallery = Gallery.build(vectors(4), distance=lambda q, g: torch.full((len(q), len(g)), torch.nan))
    with pytest.raises(DataError, match="a distance is not a number, so nothing can be ranked by it"):
        gallery.search(vectors(2, 1), 2)
    far = Gallery.build(vectors(4), distance=lambda q, g: torch.tensor([[torch.inf, 1.0, torch.inf, 2.0]]))
    assert far.search(vectors(1, 1), 4).ids.tolist() == [[1, 3, 0, 2]]


# ---------------------------------------------------------------------- manifests that were changed


def _set(content, *keys_and_value):
    *keys, last, value = keys_and_value
    for key in keys:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


CHANGES = [
    *(((part, ...), part) for part in ("segments", "removed", "header", "version")),
    *(((part, value), part) for part in ("segments", "removed", "header", "version")
      for value in (None, "x", -1, 1.5, {"a": 1}, ["a"])
      if (part, value) != ("header", {"a": 1})),
    (("segments", 0, "file", ...), "segments"),
    (("segments", 0, "file", "../victim.safetensors"), "segments"),
    (("segments", 0, "file", "/etc/hostname"), "segments"),
    (("segments", 0, "rows", "8"), "segments"),
    (("segments", 0, "bytes", None), "segments"),
    (("header", "engine", "faiss"), "engine"),
    (("header", "engine", {"index": "flat"}), "engine"),
    (("header", "metric", 5), "metric"),
    (("header", "next", "a"), "next"),
    (("header", "quality", 5), "quality"),
    (("header", "index", 5), "index"),
    (("header", "index", {"file": "../index-000001.faiss", "checksum": 1}), "index"),
    (("header", "index", {"file": "gallery.json", "checksum": 1}), "index"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "part"), CHANGES, ids=lambda value: str(value)[:60])
def test_a_changed_manifest_is_refused_by_its_part(change, part, tmp_path):
    Gallery.build(vectors(8)).save(tmp_path / "g")
    manifest = tmp_path / "g/gallery.json"
    content = json.loads(manifest.read_text())
    _set(content, *change)
    manifest.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"gallery.json: damaged or changed: {part} must be .*build the gallery again"):
        Gallery.load(tmp_path / "g")


@pytest.mark.parametrize("name", ["../victim.safetensors", "segment-000001.safetensors/../../victim.safetensors"])
def test_nothing_outside_a_gallerys_folder_is_deleted(name, tmp_path):
    """Saving over a gallery drops the segments that its manifest names."""
    victim = tmp_path / "victim.safetensors"
    victim.write_text("mine")
    Gallery.build(vectors(8)).save(tmp_path / "g")
    manifest = tmp_path / "g/gallery.json"
    content = json.loads(manifest.read_text())
    content["segments"] = [{"file": name, "rows": 1, "bytes": 4}]
    manifest.write_text(json.dumps(content))
    Gallery.build(vectors(5)).save(tmp_path / "g")
    assert victim.read_text() == "mine" and len(Gallery.load(tmp_path / "g")) == 5


@pytest.mark.parametrize("metric", [{}, {"name": "zzz"}, {"name": "parts", "foo": 1}, {"name": "masked", "place": 3}])
def test_a_distance_that_is_not_known_is_named(metric, tmp_path):
    Gallery.build(vectors(8)).save(tmp_path / "g")
    manifest = tmp_path / "g/gallery.json"
    content = json.loads(manifest.read_text())
    content["header"]["metric"] = {"name": "", **metric}
    manifest.write_text(json.dumps(content))
    with pytest.raises(DataError, match="there is no distance|has no option"):
        Gallery.load(tmp_path / "g")


@pytest.mark.parametrize("header", [[1], {"version": "x"}, {"engine": "faiss"}, {"next": None}])
def test_a_changed_header_of_a_file_is_refused(header, tmp_path):
    save_rows(tmp_path / "g.safetensors", vectors(8), header=header)
    with pytest.raises(DataError, match="g.safetensors: damaged or changed: .* must be"):
        Gallery.load(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("0", 0), ("0.5", 0.5), ("1e-05", 1e-5), (" 7 ", 7), ("", None), ("  ", None),
        ("0012", "0012"), ("12_3", "12_3"), ("nan", "nan"), ("Nan", "Nan"), ("inf", "inf"), ("1e400", "1e400"),
        ("12e3", "12e3"), ("+3", "+3"), ("00.5", "00.5"), ("٣", "٣"), ("1" * 30, "1" * 30), ("hall", "hall"),
    ],
)  # fmt: skip
def test_a_cell_is_a_number_only_if_nothing_is_lost(text, value):
    found = number_or_text(text)
    assert found == value and type(found) is type(value)


def test_columns_are_of_one_kind_and_identities_are_texts():
    assert typed("plate", ["12", "0012", ""]) == ["12", "0012", None]
    assert typed("time", ["12", "0.5", None]) == [12, 0.5, None]
    assert typed("pid", ["12", "3"]) == ["12", "3"] and typed("person_id", ["7"]) == ["7"]


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        ("camera == '1'", {"camera": [1, 2, 3]}),
        ("'1' != camera", {"camera": [1, None, 3]}),
        ("pid == 3", {"pid": ["3", "4", None]}),
        ("pid in ['3', 4]", {"pid": ["3", "4", "5"]}),
        ("camera not in ['1']", {"camera": [1, 2, 3]}),
    ],
)
def test_a_condition_that_could_never_hold_is_refused(condition, columns):
    with pytest.raises(ConfigError, match="text stands in quotes, numbers do not"):
        matching(condition, columns, 3)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_of_a_data_set_is_read_as_metadata(start, tmp_path, monkeypatch):
    for name in ("ann/0.png", "bob/1.png"):
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 40)).save(tmp_path / "crops" / name)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables/people.csv"
    text = "path, pid, camid \n ../crops/ann/0.png , 0012 , 2\n\n../crops/./ann/../bob/1.png, 12, 3\n"
    table.write_text(start + text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [row[1] for row in CsvImages(str(table), mode="train").rows] == ["0012", "12"]
    found = read_metadata("tables/people.csv", ["crops/bob/1.png", str(tmp_path / "crops/ann/0.png")])
    assert found == {"pid": ["12", "0012"], "camid": [3, 2]}
    text = "path,place\ncrops/ann/0.png,current\ncrops/bob/1.png,current\n../crops/ann/0.png,own\n"
    table.write_text(start + text, encoding="utf-8")  # the file's own folder comes first
    found = read_metadata(table, ["crops/ann/0.png", "crops/bob/1.png"])
    assert found == {"place": ["own", "current"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;pid\na.png;1\n", "t.csv: the header is 'path;pid' with semicolons; put commas"),
        ("file,pid\na.png,1\n", "t.csv: there is no column 'path'; its header is: file, pid"),
        ("path,pid,pid\na.png,1,1\n", "t.csv: two columns are called pid"),
        ("path,the place\na.png,1\n", "t.csv: metadata 'the place': names are letters, digits and _"),
        ("path,pid\na.png,1\n./a.png,2\n", "t.csv, line 3: ./a.png is listed twice"),
        ("path,pid\nb.png,1\n", "t.csv: no line is about .*a.png .1 of 1 images have none.; paths are relative"),
    ],
)
def test_mistakes_in_a_table_of_metadata_are_named(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_metadata(tmp_path / "t.csv", [str(tmp_path / "a.png")])
