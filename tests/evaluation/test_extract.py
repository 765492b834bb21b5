"""Extraction: order, flip test, what reaches `embed`."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import occplug
from occplug.config import default_config
from occplug.embedding import Embedding
from occplug.engine import base
from occplug.errors import DataError
from occplug.evaluation import extract


def items(count):
    images = torch.randn(count, 3, 4, 2)
    return [{"img": image, "pid": 10 + i, "camid": i % 3, "impath": f"{i}.jpg"} for i, image in enumerate(images)]


def left_half(images, camids):
    """Not symmetric, so that a mirrored image has another embedding; parts and visibility too."""
    vector = images[..., 0].flatten(1)
    return Embedding(vector, parts=vector[:, None, :2], visibility=images[:, :1, 0, 0])


def test_order_ids_and_paths_are_the_loaders():
    data = items(7)
    embedding, pids, camids, paths = extract(left_half, DataLoader(data, batch_size=3))
    assert torch.equal(embedding.vector, torch.stack([item["img"] for item in data])[..., 0].flatten(1))
    assert pids.tolist() == list(range(10, 17)) and camids.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert pids.dtype == camids.dtype == np.int64
    assert paths == [f"{i}.jpg" for i in range(7)]


def test_the_flip_test_averages_every_field_with_the_mirror():
    data = items(5)
    plain, *_ = extract(left_half, DataLoader(data, batch_size=2))
    mirrored = [{**item, "img": item["img"].flip(2)} for item in data]
    mirror, *_ = extract(left_half, DataLoader(mirrored, batch_size=2))
    both, *_ = extract(left_half, DataLoader(data, batch_size=2), flip=True)
    for name, _ in both.layout():
        assert torch.equal(getattr(both, name), (getattr(plain, name) + getattr(mirror, name)) / 2), name
    assert not torch.equal(both.vector, plain.vector)


def test_embed_gets_the_camera_of_each_image_and_no_gradients():
    seen = []

    def embed(images, camids):
        seen.extend(camids.tolist())
        assert not torch.is_grad_enabled()
        return Embedding(images.flatten(1))

    extract(embed, DataLoader(items(4), batch_size=2), device=torch.device("cpu"), flip=True)
    assert seen == [0, 1, 0, 1, 2, 0, 2, 0]


def test_an_empty_loader_is_an_error():
    with pytest.raises(DataError, match="duke query: there is no image to embed"):
        extract(left_half, [], title="duke query")


def test_the_bar_is_shown_on_demand_only(capsys):
    extract(left_half, DataLoader(items(2)), progress=False)
    assert capsys.readouterr().err == ""
    extract(left_half, DataLoader(items(2)), title="gallery", progress=True)
    assert "gallery" in capsys.readouterr().err


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_is_that_of_matrix_products(amp):
    layer, dtype = torch.nn.Linear(24, 5), {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]

    def embed(images, camids):
        return Embedding(layer(images.flatten(1)).float())

    data = items(6)
    found, *_ = extract(embed, DataLoader(data, batch_size=4), amp=amp)
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        expected = layer(torch.stack([item["img"] for item in data]).flatten(1)).float()
    torch.testing.assert_close(found.vector, expected)
    plain, *_ = extract(embed, DataLoader(data, batch_size=4))
    assert found.vector.dtype == torch.float32 and not torch.equal(found.vector, plain.vector)


def test_a_batch_that_is_too_large_for_the_memory_is_embedded_in_parts(caplog):
    sizes = []

    def embed(images, camids):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return left_half(images, camids)

    data = items(23)
    expected, *_ = extract(left_half, DataLoader(data, batch_size=10))
    found, *_ = extract(embed, DataLoader(data, batch_size=10))
    assert torch.equal(found.pack(), expected.pack())
    assert sizes == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1, 3]
    assert "10 images are too many for the GPU's memory; embedding 5 at a time" in caplog.text


def test_a_cpu_embeds_large_batches_in_parts_that_stay_in_its_caches(monkeypatch):
    sizes = []

    def embed(images, camids):
        sizes.append(len(images))
        return left_half(images, camids)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    data = items(70)
    found, _, _, paths = extract(embed, DataLoader(data, batch_size=66))
    assert torch.equal(found.vector, torch.stack([item["img"] for item in data])[..., 0].flatten(1))
    assert sizes == [32, 32, 2, 4] and paths == [f"{i}.jpg" for i in range(70)]


def test_one_image_that_is_too_large_is_an_error():
    def embed(images, camids):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        extract(embed, DataLoader(items(2), batch_size=2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_names_its_image(value):
    def embed(images, camids):
        return Embedding(torch.where(torch.arange(len(images)) == 1, value, 1.0)[:, None].expand(-1, 4))

    with pytest.raises(DataError, match=r"1.jpg: its embedding is not finite; the weights are diverged or damaged"):
        extract(embed, DataLoader(items(4), batch_size=4))


def test_every_report_embeds_as_the_config_says(monkeypatch):
    """`eval.flip` and `eval.amp` for tests, averages, ranked galleries and robustness alike."""
    given = []
    monkeypatch.setattr(base, "extract", lambda embed, loader, device, **how: given.append((loader, how)))
    cfg = default_config("clip_reid", "clip_vit_tiny", ["eval.amp", "bf16", "eval.flip", False])
    engine = SimpleNamespace(cfg=cfg, device="cpu", embed=left_half, embed_for=lambda target: left_half)
    base.RunMixin.extracted(engine, "images", "synthocc", "x")
    assert given == [("images", {"title": "x", "flip": False, "amp": "bf16"})]
    root = Path(occplug.__file__).parent
    sources = [root / "experiments/robustness.py", *(root / "reports").glob("*.py"), *(root / "runs").glob("*.py")]
    assert not [path.name for path in sources if re.search(r"\bextract\(", path.read_text())]
