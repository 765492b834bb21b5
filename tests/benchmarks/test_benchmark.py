"""The benchmark command: names, table, and that measuring measures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import BENCHMARKS, Comparison, Rows, galleries, hybrid, machine, table, testing
from benchmarks import command as benchmark
from benchmarks.towers import tower_step
from occplug import registry
from occplug.cli import run
from occplug.utils.measuring import Figures, measured


def busy(seconds, mebibytes):
    """Work that uses about so much."""
    import time

    kept = np.ones(2**20)  # held before the work begins: must not count

    def work():
        filled = np.ones(mebibytes * 2**17)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return float(filled[-1] + kept[0])

    return work


def test_time_and_memory_are_those_of_the_work_alone():
    figures = measured(busy, 0.2, 100)
    assert 0.2 <= figures.cpu < 1 and figures.wall >= 0.2
    assert 95 < figures.memory < 110
    assert figures.output == 2


def test_an_unknown_name_is_an_error_that_lists_all(capsys):
    assert run("benchmark", benchmark.main, ["rankings"]) == 2
    assert capsys.readouterr().err == (
        "occplug benchmark: no benchmark is called 'rankings' (did you mean 'ranking'?); "
        f"there are: {', '.join(BENCHMARKS)}\n"
    )


def test_names_choose_what_runs(monkeypatch, capsys):
    seen = []

    def stub(name):
        def run(quick):
            seen.append((name, quick))
            return Comparison(name, "them", Figures(3, 4, 30, None), Figures(1.5, 1, 0, None), "same values")

        return run

    for name in BENCHMARKS:
        monkeypatch.setitem(BENCHMARKS, name, stub(name))
    benchmark.main(["loading", "ranking", "--quick"])
    benchmark.main([])
    assert seen[:2] == [("loading", True), ("ranking", True)]
    assert seen[2:] == [(name, False) for name in BENCHMARKS]
    assert "| ratio   |      x2 |       x4 |            - |" in capsys.readouterr().out


def test_the_line_about_the_machine():
    assert "cores" in machine() and "torch" in machine() and "numpy" in machine()


def test_both_sides_of_the_aggregation_do_the_same_work():
    ours, theirs = (hybrid._aggregation(whose, 2)() for whose in ("occplug", "unfold"))
    assert len(ours) == 3 and ours[0].shape == (2, 128, 16, 8)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_ag_reid_is_measured_with_the_weights_of_clip_reid():
    theirs, ours = (testing._embedding(name, "clip_vit_tiny", 2)() for name in ("clip_reid", "ag_reid"))
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_each_benchmark_runs_and_its_sides_agree(name):
    result = BENCHMARKS[name](quick=True)
    assert "NOT" not in table(result)
    if isinstance(result, Comparison):
        assert result.ours.cpu > 0 and result.theirs.cpu > 0
    else:
        assert result.rows and all(len(row) == len(result.heads) for row in result.rows)


def test_a_tower_is_measured_by_a_step_that_moves_its_weights(monkeypatch):
    built, build = [], registry.build

    def recorded(*args, **options):
        built.append(build(*args, **options))
        return built[-1]

    monkeypatch.setattr(registry, "build", recorded)
    step = tower_step("vit_mini", (128, 64), 8, 2)
    before = built[0].visual.blocks[0].attn.qkv.weight.clone()
    assert step() == pytest.approx(sum(p.numel() for p in built[0].parameters()) / 1e6)
    assert not torch.equal(before, built[0].visual.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(("engine", "options"), [("exact", {}), ("faiss", {}), ("faiss", {"index": "rabitq"})])
def test_engines_are_asked_for_known_identities(engine, options):
    if engine == "faiss":
        pytest.importorskip("faiss")
    found = galleries._searching(engine, options, 4000)()
    assert found["rank1"] > 0.9 and found["rate"] > 0 and (found["effort"] == "-") == (engine == "exact")


def test_more_effort_gives_back_identities():
    pytest.importorskip("faiss")
    found = galleries._trying("hnsw", 4000)()
    assert [tried for tried, *_ in found] == list(galleries.EFFORTS)
    ranks = [rank1 for _, _, rank1, _ in found]
    assert ranks[-1] >= ranks[0] and ranks[-1] == pytest.approx(found[0][3], abs=0.02)


def test_a_table_of_several_sides_and_its_place_in_a_page(monkeypatch, tmp_path, capsys):
    rows = Rows(
        "engines: 2 x 512", ("", "build", "Rank-1, %"), [["exact", "-", "95.0"], ["faiss", "1.5", "94.5"]], "as is"
    )
    monkeypatch.setitem(BENCHMARKS, "engines", lambda quick: rows)
    page = tmp_path / "p.md"
    page.write_text("a\n<!-- benchmark engines -->\n<!-- end -->\nb\n")
    benchmark.main(["engines", "--page", str(page)])
    text = page.read_text()
    assert text.startswith("a\n<!-- benchmark engines -->\n") and text.endswith("as is\n<!-- end -->\nb\n")
    assert "| faiss |     1.5 |        94.5 |" in text and "engines: 2 x 512" in text
    assert run("benchmark", benchmark.main, ["embed", "--page", str(page)]) == 2
    assert "has no lines '<!-- benchmark embed -->'" in capsys.readouterr().err


def test_without_names_a_page_gets_the_tables_it_has_places_for(monkeypatch, tmp_path, capsys):
    for name in BENCHMARKS:
        monkeypatch.setitem(BENCHMARKS, name, lambda quick, name=name: Rows(f"{name}: a", ("",), [["b"]], "c"))
    page = tmp_path / "p.md"
    page.write_text("".join(f"<!-- benchmark {name} -->\nold\n<!-- end -->\n" for name in ("loading", "ranking")))
    benchmark.main(["--page", str(page)])
    text = page.read_text()
    assert "loading: a" in text and "ranking: a" in text and "old" not in text and "reranking" not in text


def test_every_table_has_a_place_in_the_docs():
    """So that none is measured and never shown."""
    docs = Path(__file__).parents[2] / "docs"
    shown = [name for page in docs.glob("*.md") for name in benchmark.marked_names(page, BENCHMARKS)]
    assert sorted(shown) == sorted(set(BENCHMARKS) - {"ag_reid_test"})  # a check
