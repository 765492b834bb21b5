"""What goes wrong on the way from a folder of images to ranked lists, and what each command says of it.

Every row is a command that a user gives, in a folder with `crops/` (a folder a person), `people.csv`, `boxes.json`,
`g.safetensors` (crops, embedded) and some broken things, and the message that comes. All end with status 2, before
anything is trained or written.
"""

import csv
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.serving.extractor import Extractor

MODEL = "zoo://clip_reid/vit_tiny/synthocc"
TRAIN = "train --config-file clip_reid_synthocc data.workers 0 use_gpu False data.height 64 data.width 32 -s {0} -t {0}"
SMALL = " train.batch_size 4 sampler.num_instances 2"
EMBED = f"embed --weights {MODEL} -o new.safetensors "
SEARCH = "search crops/ann/0.png --gallery "

# what happened, the command, what it says
MISTAKES = [
    ("a folder that is not there", TRAIN.format("folder:corps"), "folder:corps: there is no folder .*corps; check the"),
    ("a kind that is not known", TRAIN.format("zip:crops"), "not named by 'zip'; there are: folder:PATH, csv:"),
    ("no path behind the colon", TRAIN.format("csv:"), "csv: has no path; write csv:PATH"),
    ("images of one person", TRAIN.format("folder:alone"), "folder:alone: all images are of one person"),
    ("names without an identity", TRAIN.format("folder:flat"), "x.png have names without an identity.*data.pattern"),
    ("images beside the folders of persons", TRAIN.format("folder:mixed"), "stray.png lie beside folders with images"),
    (
        "a pattern without a person",
        TRAIN.format("folder:crops") + r" --pattern '(?P<camid>\d)'",
        r"data.pattern is .*; it must have the group \(\?P<pid>",
    ),
    ("a header without pid", TRAIN.format("csv:headless.csv"), "the header is 'path,person' and lacks pid"),
    ("semicolons between columns", TRAIN.format("csv:semicolons.csv"), "with semicolons; put commas between"),
    ("tabs between columns", TRAIN.format("csv:tabs.csv"), "with tabs; put commas between the columns"),
    ("metadata with semicolons", EMBED + "crops --metadata semicolons.csv", "with semicolons; put commas"),
    ("a folder without its kind", TRAIN.format("crops"), "your own images at crops, write folder:crops"),
    ("a folder below --root", TRAIN.format("ann") + " --root crops", "your own images at ann, write folder:ann"),
    ("a table without its kind", TRAIN.format("people.csv"), "your own images at people.csv, write csv:people.csv"),
    ("boxes without their kind", "doctor nobody.json", "your own images at nobody.json, write coco:nobody.json"),
    ("a path that leads nowhere", TRAIN.format("csv:lost.csv"), r"lost.csv: crops/nobody.png \(line 3\) do not exist"),
    ("a split that is none", TRAIN.format("csv:split.csv"), "line 2 has the split 'dev'; there are: train"),
    ("a person on both sides", TRAIN.format("csv:both.csv"), "1 person in both the train and the query"),
    ("all images of one camera", TRAIN.format("csv:onecam.csv") + SMALL, "queries have no match.*leave camid out"),
    ("too few people for a batch", TRAIN.format("csv:people.csv"), "training set has 6 images, which do not make one"),
    ("a damaged image", TRAIN.format("folder:damaged") + SMALL, "of 12 images cannot be read: .*0.png.*occplug doctor"),
    ("boxes without persons", TRAIN.format("coco:nobody.json"), r"annotations\[0\] has no person_id \(or pid\); name"),
    ("a box outside its frame", EMBED + "coco:outside.json", r"annotations\[0\].bbox is \[900, 0, 5, 5\] and holds no"),
    ("an image that is not there", EMBED + "crops/nobody.png", "nobody.png: the image file is missing; check the path"),
    ("a data set where images belong", EMBED + "folder:crops", "for data sets .*; give the folder.s path alone"),
    ("a table where images belong", EMBED + "csv:people.csv", "people.csv: .*; give the images. folder, and the"),
    ("an image that is none", EMBED + "damaged/ann/0.png", "damaged/ann/0.png: the file is not an image"),
    ("nothing but damaged images", EMBED + "damaged/ann/0.png --on-error skip", "none of the 1 images could be read"),
    ("a folder without images", EMBED + "empty", r"empty: there is no image in this folder or below it \(looked for"),
    ("a model that is not known", "embed crops --weights zoo://clip_reid/vit -o e.safetensors", "no entry"),
    ("a folder without weights", "embed crops --weights empty -o e.safetensors", "this folder holds no w"),
    (
        "another kind of output",
        f"embed crops --weights {MODEL} -o g.pt",
        "g.pt; files of embeddings end in .safetensors, so write -o g.safetensors",
    ),
    ("an output that is a folder", f"cluster crops --weights {MODEL} -o crops", "crops is a folder; name a file"),
    ("an output below a file", EMBED.replace("-o ", "-o people.csv/") + "crops", "people.csv is no folder that"),
    ("a sheet that is a folder", SEARCH + "g.safetensors --sheet crops", "crops is a folder; name a file to write"),
    ("metadata of other images", EMBED + "crops --metadata lost.csv", "no line is about .*crops/.*images have none"),
    ("a gallery that is not there", SEARCH + "h.safetensors", "h.safetensors: there is no such gallery"),
    ("a gallery that is cut off", SEARCH + "cut.safetensors", "cut.safetensors: (not a file that|.*damaged)"),
    (
        "a gallery of another model",
        SEARCH + "g.safetensors --weights zoo://dpl_reid/vit_tiny/synthocc",
        "embeddings of different weights mean nothing to each other",
    ),
    ("a condition on what is not kept", SEARCH + "g.safetensors --where 'cam != 3'", "no metadata 'cam'; this gallery"),
    ("no hits asked for", SEARCH + "g.safetensors --top 0", "top is 0; it must be at least 1"),
    ("an engine that is not known", "gallery build g.safetensors -o g --engine fais", "engine is 'fais'; there are"),
    ("an option of another engine", "gallery build g.safetensors -o g --set effort=3", "'exact' has no option"),
    ("no effort", "gallery build g.safetensors -o g --engine faiss --set effort=0", "the engine 'faiss' is 0; it must"),
    ("effort in words", "gallery build g.safetensors -o g --engine faiss --set effort=a", "must be a whole number"),
    ("a gallery over another", "gallery build g.safetensors -o g.safetensors", "is already; name another, or.*--force"),
    ("a gallery among images", "gallery build g.safetensors -o crops", r"crops: this folder holds other files \(ann\)"),
    ("a gallery over a table", "gallery build g.safetensors -o people.csv", "people.csv: not a file that"),
    ("queries without persons", "gallery build g.safetensors -o g --queries g.safetensors", "the gallery has no pid"),
    ("a word of conditions", "gallery add g.safetensors crops/ann --set class=1", "'class': names are .*another name"),
    ("a name of hits", "gallery add g.safetensors crops/ann --set id=1", "hits have a value of that name"),
    ("ids that are not there", "gallery remove g.safetensors --ids 99", "the gallery has no image with id 99"),
    (
        "a threshold that nobody has set",
        f"cluster crops --weights {MODEL} -o c.csv --way agglomerative",
        "these weights are not calibrated, .*; run: occplug calibrate --weights",
    ),
    ("a calibration without a place", f"calibrate --weights {MODEL} --root .", "is not a file of yours; name one"),
    ("a device that torch does not know", EMBED + "crops --device foo", r"'foo', a name that .*; here there are: cpu"),
    ("a GPU that is not there", EMBED + "crops --device cuda:99", r"device is 'cuda:99', and torch cannot use it \("),
    ("a backend that is not there", SEARCH + "g.safetensors --device mps:99", "'mps:99', .*here there are: cpu"),
    ("a device number that is none", "gallery add g.safetensors crops --device cuda:x", "'cuda:x', a name that torch"),
    (
        "a device of another make",
        f"cluster crops --weights {MODEL} -o c.csv --device hpu",
        "device is 'hpu', and torch cannot use it",
    ),
    (
        "a device to calibrate on that is not there",
        f"calibrate --weights {MODEL} --root . -o c.safetensors --device cuda:99",
        "device is 'cuda:99', and torch cannot use it",
    ),
    ("an export of another kind", f"export --weights {MODEL} -o m.pb", "files are onnx"),
    ("an exported file that is cut off", "test --weights cut.onnx", "cut.onnx: not a readable ONNX file"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for name in ("crops", "damaged", "mixed"):
        for person in ("ann", "bob", "cy", "dee"):
            (folder / name / person).mkdir(parents=True)
            for number in range(3):
                picture = rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)
                Image.fromarray(picture).save(folder / name / person / f"{number}.png")
    (folder / "damaged/ann/0.png").write_bytes(b"no image")
    for name in ("mixed/stray.png", "flat/x.png", "alone/ann/0.png", "alone/ann/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 40)).save(folder / name)
    (folder / "empty").mkdir()
    _write_tables(folder, sorted(str(path.relative_to(folder)) for path in (folder / "crops").rglob("*.png")))
    box = {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 20]}
    for name, row in (("nobody", box), ("outside", {**box, "person_id": 1, "bbox": [900, 0, 5, 5]})):
        images = [{"id": 1, "file_name": "crops/ann/0.png", "width": 20, "height": 40}]
        (folder / f"{name}.json").write_text(json.dumps({"images": images, "annotations": [row]}))
    (folder / "cut.onnx").write_bytes(b"abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["embed", "crops", "--weights", MODEL, "-o", "g.safetensors", "--no-flip"]) == 0
    (folder / "cut.safetensors").write_bytes((folder / "g.safetensors").read_bytes()[:-40])
    return folder


def _write_tables(folder, paths):
    tables = {
        "people": [["path", "pid"], *([path, path.split("/")[1]] for path in paths)],
        "headless": [["path", "person"], [paths[0], "ann"]],
        "lost": [["path", "pid"], [paths[0], "ann"], ["crops/nobody.png", "bob"]],
        "split": [["path", "pid", "split"], [paths[0], 1, "dev"]],
        "both": [["path", "pid", "split"], [paths[0], 1, "train"], [paths[1], 1, "query"], [paths[2], 2, "gallery"]],
        "onecam": [["path", "pid", "camid", "split"]],
    }
    for name, sign in (("semicolons", ";"), ("tabs", "\t")):
        (folder / f"{name}.csv").write_text("\n".join(sign.join(map(str, row)) for row in tables["people"]))
    for place, path in enumerate(paths):
        tables["onecam"].append([path, place // 3, 4, "train" if place < 6 else ("gallery", "query")[place % 3 == 0]])
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


@pytest.mark.parametrize(("happened", "command", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_named_with_its_cure(happened, command, message, place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    before = {path.name for path in place.iterdir()}
    words = shlex.split(command)
    if words[0] in ("train", "test"):
        words += ["data.save_dir", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"occplug {words[0]}: "), said
    assert re.search(message, said.replace("\n", " ")), said
    assert {path.name for path in place.iterdir()} - before <= {"g.safetensors.lock", "nobody.json.crops"}
    assert not list((tmp_path / "run").glob("checkpoints/*"))


ADD = "gallery add g.safetensors crops "
EARLY = [  # command, what it says
    (EMBED + "crops --metadata lost.csv", "lost.csv: no line is about .*11 of 12 images have none"),
    (EMBED + "crops --metadata nothing.csv", "nothing.csv cannot be read as a CSV"),
    (f"embed crops --weights {MODEL} -o g.pt", "files of embeddings end in .safetensors, so write -o g.safetensors"),
    (SEARCH + "g.safetensors --where 'cam != 3'", "no metadata 'cam'; this gallery"),
    (SEARCH + "g.safetensors --where 'path > 3'", "text stands in quotes, numbers do not"),
    (SEARCH + "g.safetensors --top 0", "top is 0; it must be at least 1"),
    (SEARCH + "g.safetensors --weights zoo://dpl_reid/vit_tiny/synthocc", "embeddings of different weights mean"),
    (SEARCH + "g.safetensors --sheet crops", "crops is a folder; name a file to write"),
    (ADD + "--metadata lost.csv", "lost.csv: no line is about"),
    (ADD + "--set 'a b=1'", "--set: metadata 'a b': names are letters, digits and _"),
    (ADD + "--weights zoo://dpl_reid/vit_tiny/synthocc", "embeddings of different weights mean"),
    (ADD + "--flip", r"of images as they are .no flip., those to be added averaged with .*; embed both alike"),
    (f"cluster crops --weights {MODEL} -o c.csv --threshold -1", "threshold is -1.0; it is a distance"),
    (f"cluster crops --weights {MODEL} -o c.csv --threshold nan", "threshold is nan; it is a distance"),
    (f"cluster crops --weights {MODEL} -o c.csv --way hdbscan --threshold 1", "hdbscan takes none; leave it out"),
    (f"cluster crops --weights {MODEL} -o c.csv --way agglomerative", "these weights are not calibrated"),
    (f"cluster crops --weights {MODEL} -o people.csv/c.csv", "people.csv is no folder that may be written to"),
]


@pytest.mark.parametrize(("command", "message"), EARLY, ids=[row[0] for row in EARLY])
def test_what_can_be_checked_is_checked_before_images_are_embedded(command, message, place, monkeypatch, capsys):
    embed = Extractor.embed

    def embed_none(self, pictures, *args, **options):
        assert not pictures, "images were embedded"
        return embed(self, pictures, *args, **options)

    monkeypatch.setattr(Extractor, "embed", embed_none)
    monkeypatch.chdir(place)
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, said), said


def test_there_are_more_than_twenty():
    assert len(MISTAKES) > 20 and len({row[0] for row in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "embed crops --weights w -o e.safetensors --batch-size 0",
            "argument --batch-size: 0 is too small",
        ),
        ("search a.png --gallery g --workers -1", "argument --workers: -1 is too small, it must be at least 0"),
        ("cluster crops --weights w -o c.csv --batch-size -3", "--batch-size: -3 is too small"),
        ("gallery add g crops --camid -1", "--camid: -1 is too small, it must be at least 0"),
        ("calibrate --weights w --root d --workers two", "--workers: 'two' is no whole number"),
        ("doctor --workers -1", "--workers: -1 is too small, it must be at least 0"),
        ("export --weights w -o m.onnx --camera -1", "--camera: -1 is too small"),
        ("synthocc --root d --workers 0", "--workers: 0 is too small, it must be at least 1"),
        ("synthocc --root d --seed 1.5", "--seed: '1.5' is no whole number"),
        ("robustness --weights w --root d --queries -1", "--queries: -1 is too small"),
        ("convert --source clip_reid a b --height 0", "--height: 0 is too small"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_flags(command, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert ended.value.code == 2 and message in capsys.readouterr().err
