"""Exported files compute what the model computes, for any number of images."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import occplug
from occplug import Gallery
from occplug.cli import main
from occplug.config import default_config
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.importers.exported import ENDINGS, read_exported
from occplug.method import build_method
from occplug.registry import METHODS, names
from occplug.runs.candidates import candidates
from occplug.runs.session import describe_protocol
from occplug.serving.exporting import compare, export
from occplug.serving.extractor import Extractor
from occplug.zoo import read_index

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PACKAGED = [entry.name for entry in read_index().entries.values() if entry.checkpoint and entry.checkpoint.file]


def test_every_method_is_exported_here():
    made = {name.split("/")[0] for name in PACKAGED}
    assert set(names(METHODS)) <= made


def images(model, count):
    data = model.cfg.data
    return torch.randn(count, 3, data.height, data.width, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("name", PACKAGED)
def test_every_method_agrees_through_onnx_at_any_batch_size(name, tmp_path):
    model = occplug.load(f"zoo://{name}")
    made = export(model, tmp_path / "m.onnx")
    for count in (1, 5):
        one, other = model.method.embed(images(model, count)), made.embed(images(model, count))
        assert other.layout() == one.layout()
        torch.testing.assert_close(other.pack(), one.pack(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made.distance(other, other), model.method.distance(one, one), atol=1e-3, rtol=1e-3)
    graph = onnx.load(str(tmp_path / "m.onnx"))
    assert [output.name for output in graph.graph.output] == [field for field, _ in one.layout()]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    about = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert about["mean"] == list(model.cfg.data.norm_mean) and about["height"] == model.cfg.data.height
    assert about["distance"] == model.method.named_distance().as_dict()
    assert made.squared_distance == model.method.squared_distance  # what re-ranking makes of it


@pytest.mark.parametrize("name", ["clip_reid/vit_tiny/synthocc", "profd/vit_tiny/synthocc", "dpm/vit_tiny/synthocc"])
def test_torchscript_agrees_too(name, tmp_path):
    model = occplug.load(f"zoo://{name}")
    made = export(model, tmp_path / "m.torchscript")
    one, other = model.method.embed(images(model, 3)), made.embed(images(model, 3))
    torch.testing.assert_close(other.pack(), one.pack(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["clip_rn50", "wgff"])
def test_other_backbones(backbone, tmp_path):
    small = ["data.height", 64, "data.width", 32, "backbone.weights", "none"]
    hybrid = ["backbone.wgff.clip", "clip_vit_tiny", "backbone.wgff.weights", "none", "backbone.stride", 8]
    hybrid = hybrid if backbone == "wgff" else []
    cfg = default_config("clip_reid", backbone, [*small, *hybrid])
    method = build_method(cfg, 3, 1, pretrained=False).eval()
    model = Extractor(method, cfg, torch.device("cpu"))
    made = export(model, tmp_path / "m.onnx")
    one, other = method.embed(images(model, 3)), made.embed(images(model, 3))
    torch.testing.assert_close(other.pack(), one.pack(), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def sie():
    options = ["backbone.weights", "none", "backbone.sie_camera", True, "eval.flip", False]
    cfg = default_config("clip_reid", "clip_vit_tiny", options)
    method = build_method(cfg, 4, 3, pretrained=False).eval()
    with torch.no_grad():
        method.backbone.camera_embedding.mul_(50)
    return Extractor(method, cfg, torch.device("cpu"))


def test_a_camera_is_folded_in(sie, tmp_path):
    made = export(sie, tmp_path / "two.onnx", camera=2)
    batch = images(sie, 3)
    torch.testing.assert_close(
        made.embed(batch).vector, sie.method.embed(batch, torch.full((3,), 2)).vector, atol=1e-5, rtol=1e-5
    )
    mean = export(sie, tmp_path / "mean.onnx").embed(batch).vector
    with torch.no_grad():
        kept = sie.method.backbone.camera_embedding.clone()
        sie.method.backbone.camera_embedding.copy_(kept.mean(0).expand_as(kept))
        expected = sie.method.embed(batch, torch.zeros(3, dtype=torch.long)).vector
        sie.method.backbone.camera_embedding.copy_(kept)
    torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    assert occplug.load(tmp_path / "mean.onnx").embed([Image.new("RGB", (9, 9))]).vector.shape == mean[:1].shape
    with pytest.raises(ConfigError, match="camera is 3; the model knows cameras 0 to 2"):
        export(sie, tmp_path / "a.onnx", camera=3)


@pytest.fixture(scope="module")
def model():
    return occplug.load("zoo://profd/vit_tiny/synthocc")


@pytest.mark.parametrize("input", ["imagenet", "unit"])
def test_other_inputs_are_converted_inside(model, input, tmp_path):
    import onnxruntime

    made = export(model, tmp_path / "m.onnx", input=input, vector_only=True)
    batch = images(model, 2)
    torch.testing.assert_close(made.embed(batch).vector, model.method.embed(batch).vector, atol=1e-5, rtol=1e-5)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [output.name for output in session.get_outputs()] == ["vector"]
    unit = torch.rand(2, *batch.shape[1:])
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.cfg.data.norm_mean, model.cfg.data.norm_std))
    expected = model.method.embed((unit - mean) / std).vector
    if input == "imagenet":
        unit = (unit - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
    (found,) = session.run(None, {"images": unit.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["profd/vit_tiny/synthocc", "dpm/vit_tiny/synthocc"])
def test_a_file_without_what_the_distance_reads_is_a_model_of_its_own(name, tmp_path):
    whole = occplug.load(f"zoo://{name}")
    whole.weights = replace(whole.weights, calibration={"kind": "logistic"})
    assert export(whole, tmp_path / "w.onnx").about["calibration"] == {"kind": "logistic"}
    assert export(whole, tmp_path / "v.onnx", vector_only=True).about["calibration"] is None
    reduced, again = occplug.load(tmp_path / "v.onnx"), occplug.load(tmp_path / "v.onnx")
    assert reduced.fingerprint == again.fingerprint != whole.fingerprint
    pictures = [Image.new("RGB", (40, 90), (number, 0, 0)) for number in (0, 99)]
    one, other = whole.embed(pictures, flip=False), reduced.embed(pictures, flip=False)
    for model, queries, gallery in ((reduced, one, other), (whole, other, one)):
        with pytest.raises(DataError, match="embeddings of different weights mean nothing to each other"):
            model.distances(queries, gallery)
        with pytest.raises(DataError, match="embeddings of different weights mean nothing to each other"):
            Gallery.build(gallery).search(queries, 1)
    assert reduced.distances(other, other).shape == (2, 2)


def test_one_output_of_a_method_that_has_one_is_the_whole_model(tmp_path):
    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    export(model, tmp_path / "v.onnx", vector_only=True)
    assert occplug.load(tmp_path / "v.onnx").fingerprint == model.fingerprint


def test_half_precision_is_near(tmp_path):
    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    made = export(model, tmp_path / "half.onnx", half=True)
    export(model, tmp_path / "whole.onnx")
    found = compare(model, made)
    assert 0 < found["max_difference"] < 0.05 and found["cosine"] > 0.999
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * (tmp_path / "whole.onnx").stat().st_size


def test_the_file_stands_for_the_model(model, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, 40, 3), dtype=np.uint8)) for _ in range(3)]
    export(model, tmp_path / "m.onnx")
    read = occplug.load(tmp_path / "m.onnx")
    assert read.fingerprint == model.fingerprint and read.preprocessing() == model.preprocessing()
    one, other = model.embed(pictures), read.embed(pictures)
    torch.testing.assert_close(other.pack(), one.pack(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.distances(other, one), model.distances(one, one), atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="is an exported file already"):
        export(read, tmp_path / "n.onnx")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    assert main(["synthocc", "--root", str(root), "--size", "tiny", "--workers", "1"]) == 0
    return root


def test_test_goes_through_the_file(data_root, tmp_path, capsys):
    small = ["synthocc.size", "tiny"]
    weights = "zoo://clip_reid/vit_tiny/synthocc"
    file, report = tmp_path / "m.onnx", tmp_path / "report.json"
    words = ["export", "--weights", weights, "--format", "onnx", "-o", str(file), "--report", str(report)]
    own = f"folder:{data_root}/synthocc/tiny"
    assert main([*words, "-t", own]) == 0
    said, told = capsys.readouterr().out, json.loads(report.read_text())
    assert "largest difference from the model" in said
    assert told["target"] == own and 0 < told["model"]["rank1"] < 1
    assert told["file"] == pytest.approx(told["model"], abs=1e-3)
    assert f"{own}: model mAP {100 * told['model']['mAP']:.2f}" in said and told["milliseconds"]["file"] > 0
    found = {}
    for name, each in (("model", weights), ("file", str(file))):
        folder = tmp_path / name
        options = [
            "--root",
            str(data_root),
            *small,
            "data.save_dir",
            str(folder),
            "data.workers",
            "0",
            "use_gpu",
            "False",
        ]
        assert main(["test", "--weights", each, *options]) == 0
        found[name] = json.loads((folder / "test" / "metrics.json").read_text())
    one, other = found["model"]["targets"]["synthocc"], found["file"]["targets"]["synthocc"]
    assert other == pytest.approx(one, abs=1e-3)
    assert found["file"]["protocol"] == f"{found['model']['protocol']}; through an exported onnx file"
    assert json.loads(report.read_text())["max_difference"] < 1e-5


@pytest.mark.parametrize(
    ("name", "vector_only", "distance"),
    [
        ("dpm/vit_tiny/synthocc", True, "normalised_euclidean distance"),
        ("dpm/vit_tiny/synthocc", False, "distance of the method"),
        ("clip_reid/vit_tiny/synthocc", True, "distance of the method"),
    ],
)
def test_the_protocol_line_names_the_distance_of_the_file(name, vector_only, distance, tmp_path):
    export(occplug.load(f"zoo://{name}"), tmp_path / "m.torchscript", vector_only=vector_only)
    (candidate,) = candidates([], [str(tmp_path / "m.torchscript")], [])
    line = describe_protocol(candidate.cfg, metric=candidate.weights.metric)
    assert f"; {distance}; re-ranking no" in line


def test_mistakes_are_named(model, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"abc")
    (tmp_path / "bad.torchscript").write_bytes(b"abc")
    cases = [
        (ConfigError, "the file is .*m.pb; by their ending, files are onnx", lambda: export(model, tmp_path / "m.pb")),
        (ConfigError, "files are onnx", lambda: export(model, tmp_path / "m.onnx", "torchscript")),
        (ConfigError, "input is 'bgr'", lambda: export(model, tmp_path / "m.onnx", input="bgr")),
        (ConfigError, "no camera embedding", lambda: export(model, tmp_path / "m.onnx", camera=1)),
        (CheckpointError, "not a readable ONNX file", lambda: occplug.load(tmp_path / "bad.onnx")),
        (CheckpointError, "not a readable TorchScript file", lambda: occplug.load(tmp_path / "bad.torchscript")),
        (CheckpointError, "no such file", lambda: occplug.load(tmp_path / "none.onnx")),
    ]
    for kind, message, act in cases:
        with pytest.raises(kind, match=message):
            act()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    model, folder = occplug.load("zoo://clip_reid/vit_tiny/synthocc"), tmp_path_factory.mktemp("whole")
    for ending in ENDINGS:
        export(model, folder / f"m{ending}")
    return folder, images(model, 2)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_changed_byte_gives_other_numbers(ending, whole, tmp_path):
    """ONNX has no checksum of its own: without ours most changed bytes were accepted as other weights."""
    folder, pictures = whole
    content, draw, damaged = (folder / f"m{ending}").read_bytes(), random.Random(0), tmp_path / f"d{ending}"
    wanted, refused = read_exported(folder / f"m{ending}").embed(pictures).pack(), 0
    for number in range(40):
        data = bytearray(content)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        damaged.write_bytes(data[: draw.randrange(len(data))] if number % 5 == 0 else data)
        try:
            found = read_exported(damaged).embed(pictures).pack()
        except CheckpointError as error:
            assert str(error).startswith(f"{damaged}: ")
            refused += 1
        else:
            assert torch.equal(found, wanted)
    assert refused > 30


def test_a_sealed_onnx_file_is_one_for_everybody_and_says_when_it_was_changed(whole, tmp_path):
    folder, _ = whole
    made = onnx.load(str(folder / "m.onnx"))
    onnx.checker.check_model(made)
    entries = {entry.key: json.loads(entry.value) for entry in made.metadata_props}
    assert len(entries["occplug_crc32"]) == 8
    made.producer_name = "somebody"
    onnx.save(made, str(tmp_path / "m.onnx"))
    with pytest.raises(
        CheckpointError, match=r"m.onnx: it is damaged, or was changed since its export.* takes the entry"
    ):
        read_exported(tmp_path / "m.onnx")
    for entry in list(made.metadata_props):
        if entry.key == "occplug_crc32":
            made.metadata_props.remove(entry)
    onnx.save(made, str(tmp_path / "m.onnx"))
    assert read_exported(tmp_path / "m.onnx").about["format"]
