"""What the configs resolve to is what was committed; a change says which rows it moves."""

import copy

import pytest

from tests.config.snapshots import FILE, HEAD, moved, read, resolved, text_of


@pytest.fixture(scope="module")
def now():
    return resolved()


def test_no_config_has_moved(now):
    """Rows that are new are not asked for: a method that is added edits no file of ours."""
    lines = [line for line in moved(read(FILE.read_text(encoding="utf-8")), now) if not line.startswith("new  in")]
    assert not lines, "configs have moved; if that is meant, run `make snapshots` and commit it:\n" + "\n".join(lines)


def test_the_file_is_as_the_command_writes_it_and_small(now):
    stored = read(FILE.read_text(encoding="utf-8"))
    text = text_of({name: now[name] for name in stored})
    assert FILE.read_text(encoding="utf-8") == text and len(text) < 300_000 and text.startswith(HEAD)
    assert read(text_of(now)) == now


def test_a_change_names_key_values_and_rows(now):
    changed = copy.deepcopy(now)
    for name in ("clip_reid_duke", "clip_reid_market"):
        changed[name]["method.stage2.margin"] = None
    changed["clip_reid_duke"]["train.batch_size"] = 64.0
    changed["mine"] = changed.pop("dpm_duke")
    lines = moved(now, changed)
    assert "method.stage2.margin: 0.3 -> None  in 2: clip_reid_duke, clip_reid_market" in lines
    assert "train.batch_size: 64 -> 64.0  in 1: clip_reid_duke" in lines
    assert {"new  in 1: mine", "gone  in 1: dpm_duke"} < set(lines) and len(lines) == 4
    assert moved(now, now) == []


def test_a_default_that_moves_names_every_row_that_relied_on_it(now):
    changed = copy.deepcopy(now)
    for values in changed.values():
        values["test.visrank_topk"] = 11
    (line,) = moved(read(text_of(now)), changed)
    assert line.startswith(f"test.visrank_topk: 10 -> 11  in {len(now)}: default resnet50, default ag_reid, ")
