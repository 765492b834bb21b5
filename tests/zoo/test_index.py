"""The index of the zoo: what it holds, that its form is kept, and that mistakes in it are named."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml

from occplug.config import load_config
from occplug.errors import ConfigError
from occplug.zoo import INDEX, adding, read_index
from occplug.zoo.adding import entry_of_config
from occplug.zoo.table import overview

ROOT = Path(__file__).parents[2]
TREE = """
licences: {code: {c: MIT}, weights: {w: MIT}, data: {d: CC0}}
entries:
  a/b/c:
    method: clip_reid
    config: configs/x.yaml
    data: synthocc
    published: [{mAP: 50.0, rank1: null, source: somewhere}]
    ours:
      command: make
      protocol: as usual
      config: {}
      data: {synthocc: {train: 1, query: 2, gallery: 3, train_ids: 1, fingerprint: ab}}
      made: [{seeds: [1], machine: an abacus, revision: abc, sources: def, versions: {torch: '2'}}]
      runs:
      - {seed: 1, date: 2026-01-01, minutes: 2, memory_mib: not recorded, mAP: 0.5, rank1: 0.6, rank5: 0.7, rank10: 0.8}
    checkpoint: {drive: X, format: clip_reid, sha256: unknown, bytes: unknown}
    log: {url: http://x}
    licence: {code: c, weights: w, data: d}
"""


@pytest.fixture(scope="module")
def index():
    return read_index()


def written(folder, tree):
    file = folder / "index.yaml"
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
    file.write_text(text.replace("date: 2026-01-01", "date: '2026-01-01'"))
    return file


def test_the_file_has_its_one_form(index):
    assert INDEX.read_text() == index.text()


def test_the_readme_has_the_overview_of_the_index(index):
    """Else run: python tools/zoo.py table --readme README.md"""
    assert f"<!-- methods -->\n{overview(index)}\n<!-- end -->" in (ROOT / "README.md").read_text()
    real = index.find(index.overview[1]["published"]).published[0]
    assert f"| {real.mAP:.1f} / {real.rank1:.1f} (Occluded-Duke)" in overview(index)


def test_the_overview_says_how_far_the_orders_agree(index):
    """Kendall's tau-b, counted pair by pair: what is tied in one order is left out of its number of pairs."""
    for key, name, least in (("mAP", "mAP", 8), ("rank1", "Rank-1", 7)):
        pairs = []
        for row in index.overview:
            real, ours = index.find(row["published"]).published[0], index.find(row["synthocc"]).ours
            mean = sum(run.figures[key] for run in ours.runs) / len(ours.runs)
            pairs += [] if getattr(real, key) is None else [(getattr(real, key), mean)]
        signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
        counts = [sum(sign[i] != 0 for sign in signs) for i in (0, 1)]
        tau = sum(one * other for one, other in signs) / np.sqrt(counts[0] * counts[1])
        assert len(pairs) >= least
        assert re.search(rf"by {name} {tau:.2f} \(p = 0\.\d+, {len(pairs)} methods\)", overview(index))


def test_an_overview_of_unknown_entries_is_refused(tmp_path):
    row = "overview: [{title: T, paper: P, published: a/b/c, synthocc: a/b/d}]\n"
    with pytest.raises(ConfigError, match="the model zoo has no entry 'a/b/d'; the nearest: a/b/c"):
        read_index(written(tmp_path, row + TREE))


def test_every_config_has_the_entry_its_header_makes(index):
    """A new config gets one with: python tools/zoo.py add --config-file FILE"""
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        made = entry_of_config(file)
        entry = index.find(made.name)
        assert (made.config, made.published, made.licence) == (entry.config, entry.published, entry.licence), file.name
        assert entry.notes.startswith(made.notes) and not entry.settings, file.name


def test_configs_say_whether_they_were_measured(index):
    for entry in index.entries.values():
        if Path(entry.config).name.endswith("_synthocc.yaml"):
            header = (ROOT / entry.config).read_text().partition("_base_")[0]
            assert ("# Measured here: " in header) == (entry.ours is not None), entry.name
            assert ("# Not measured here." in header) == (entry.ours is None), entry.name


def test_entries_say_what_their_configs_say(index):
    for entry in index.entries.values():
        cfg = load_config(ROOT / entry.config, entry.options)
        assert (cfg.model.name, cfg.data.targets) == (entry.method, [entry.data]), entry.name


def test_official_releases_are_there(index):
    released = [e for e in index.entries.values() if e.checkpoint and e.checkpoint.format == "clip_reid"]
    assert len(released) == 20 and all(e.log["drive"] != e.checkpoint.drive for e in released)
    one = index.find("zoo://clip_reid/vit_b16_sie_olp/occduke")
    assert one.checkpoint.drive == "18RU-3_QUr2fehUjW_RfeIllbCDUaZZvP" and one.published[0].mAP == 60.3
    assert one.config == "configs/clip_reid_sie_olp_occduke.yaml"


def test_stock_weights_are_those_torchreid_names(index):
    import torchreid

    source = (Path(torchreid.__file__).parent / "reid_model_factory.py").read_text()
    known = set(re.findall(r"uc\?id=([\w-]+)", source))
    stock = [e for e in index.entries.values() if e.name.startswith("torchreid/") and e.checkpoint]
    assert {e.checkpoint.drive for e in stock if e.checkpoint.drive} == known
    assert all(e.checkpoint.format == f"torchreid:{e.method}" for e in stock if e.checkpoint.drive)


def test_drive_ids_stand_for_one_file_each(index):
    by_id = {}
    for entry in index.entries.values():
        if entry.checkpoint and entry.checkpoint.drive:
            by_id.setdefault(entry.checkpoint.drive, []).append(entry.checkpoint.format)
    assert all(len(set(formats)) == 1 for formats in by_id.values())


def test_an_entry_is_read_whole(tmp_path):
    entry = read_index(written(tmp_path, TREE)).find("a/b/c")
    assert entry.published[0].rank1 is None and entry.checkpoint.sha256 is None and entry.checkpoint.size is None
    (run,) = entry.ours.runs
    assert entry.ours.made_of(run).machine == "an abacus" and run.date == "2026-01-01"
    assert run.memory_mib is None and run.figures == {"mAP": 0.5, "rank1": 0.6, "rank5": 0.7, "rank10": 0.8}
    again = read_index(written(tmp_path, read_index(tmp_path / "index.yaml").text()))
    assert again.find("a/b/c") == entry


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("method: clip_reid", "methode: clip_reid", r"a/b/c: there is no key 'methode' \(did you mean 'method'\?\)"),
        ("    method: clip_reid\n", "", "a/b/c: missing: method"),
        ("method: clip_reid", "method: 3", "a/b/c: method is 3, expected text"),
        ("mAP: 50.0", "mAP: 500", r"published\[0\]: mAP is 500, expected per cent"),
        ("mAP: 50.0", "mAP: '50'", r"published\[0\]: mAP is '50', expected a number or a whole number or null"),
        ("mAP: 0.5,", "mAP: 50.0,", r"a/b/c: ours: runs\[0\]: mAP is 50.0, expected a fraction"),
        (
            "memory_mib: not recorded",
            "memory_mib: much",
            "memory_mib is 'much', expected 'not recorded' or what is known",
        ),
        ("gallery: 3, ", "", "a/b/c: ours: data: synthocc: missing: gallery"),
        ("seeds: [1]", "seeds: [1, 2]", r"ours: made is about the seeds \[1, 2\], but runs has \[1\]; name each once"),
        ("machine: an abacus, ", "", r"ours: made\[0\]: missing: machine"),
        ("{drive: X, ", "{", "checkpoint: needs exactly one of file, url, drive"),
        ("{drive: X, ", "{drive: X, url: Y, ", "checkpoint: needs exactly one of file, url, drive"),
        ("{drive: X, ", "{file: x.safetensors, ", "sha256 is unknown, but x.safetensors is in the package; state it"),
        (
            "{drive: X, format: clip_reid, sha256: unknown",
            f"{{file: a/../../x.txt, format: clip_reid, sha256: {'a' * 64}",
            "a/b/c: checkpoint: file is a/../../x.txt, expected a path inside the folder of the index",
        ),
        ("sha256: unknown", "sha256: abc", "sha256 is 'abc', expected 64 hexadecimal digits"),
        ("data: d}", "data: e}", "licence.data is 'e', which licences.data does not list: d"),
        ("a/b/c:", "a/b:", "an entry is called method/variant/data"),
        ("log: {url: http://x}", "log: perhaps", "a/b/c: log is 'perhaps', expected 'none' or what is known"),
        ("    data: synthocc", "    data: synthocc\n    data: market1501", "the key 'data' is given twice"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in TREE
    with pytest.raises(ConfigError, match=message):
        read_index(written(tmp_path, TREE.replace(old, new, 1)))


def test_a_name_has_three_parts(index):
    made = entry_of_config(ROOT / "configs/clip_reid_synthocc.yaml", "Mine")
    with pytest.raises(ConfigError, match="index.yaml: Mine: an entry is called method/variant/data"):
        index.put(made)
    assert "Mine" not in index.entries


def test_no_index_and_no_entry(tmp_path, index):
    with pytest.raises(ConfigError, match="there is no such index"):
        read_index(tmp_path / "none.yaml")
    with pytest.raises(
        ConfigError, match="no entry 'clip_reid/vit_b16/ocduke'; the nearest: clip_reid/vit_b16/occduke"
    ):
        index.find("zoo://clip_reid/vit_b16/ocduke")


def test_a_config_without_a_line_of_published_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "shipped_configs", lambda: tmp_path)
    file = tmp_path / "clip_reid_x_synthocc.yaml"
    file.write_text(f"# Mine.\n_base_: {ROOT}/configs/clip_reid_synthocc.yaml\n")
    with pytest.raises(ConfigError, match="its header needs a line '# Published"):
        entry_of_config(file)
    file.write_text(f"# Published mAP / Rank-1: 1.0 / -.\n_base_: {ROOT}/configs/clip_reid_synthocc.yaml\n")
    with pytest.raises(ConfigError, match="needs a line '# Source"):
        entry_of_config(file)
    head = "# Mine.\n# Published mAP / Rank-1: 1.0 / - (of\n# mine).\n# Source: a\n# book.\n# More\n# to say.\n"
    file.write_text(f"{head}_base_: {ROOT}/configs/clip_reid_synthocc.yaml\n")
    entry = entry_of_config(file)
    assert entry.name == "clip_reid/vit_tiny_x/synthocc"
    assert [vars(p) for p in entry.published] == [{"mAP": 1.0, "rank1": None, "source": "a book"}]
    assert entry.notes == "Of mine. More to say."
