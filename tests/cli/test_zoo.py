"""The zoo's commands: finished runs become entries that verify, and what differs is attributed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from occplug.cli import main
from occplug.config import load_config
from occplug.data.manager import GeneratedDataManager
from occplug.runs import record
from occplug.runs.candidates import Candidate, config_of, config_path, engine_of
from occplug.runs.record import run_record
from occplug.runs.session import describe_protocol
from occplug.utils.files import file_sha256
from occplug.zoo import INDEX, Checkpoint, adding, read_index
from occplug.zoo.exporting import LIMIT, LIMIT_TOGETHER
from occplug.zoo.table import markdown
from occplug.zoo.verifying import Spread, _rounding, compare, spread_over_seeds
from occplug.zoo.weights import read_test_weights

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/clip_reid_synthocc.yaml")
NAME = "clip_reid/vit_tiny/synthocc"
BRIEF = ["synthocc.size", "tiny", "data.workers", "0", "train.batch_size", "16"]
BRIEF += ["method.stage1.epochs", "0", "method.stage2.epochs", "0"]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        words = ["train", "--config-file", CONFIG, "--root", str(data), *BRIEF, "train.seed", str(seed)]
        assert main([*words, "data.save_dir", str(folder / f"seed{seed}")]) == 0
    return folder


def _bare_index(folder):
    """The package's index as it would be without runs of ours."""
    index = read_index()
    for name, entry in index.entries.items():
        kept = None if index.path_of(entry) else entry.checkpoint
        index.entries[name] = dataclasses.replace(entry, ours=None, checkpoint=kept)
    dataclasses.replace(index, file=folder / "index.yaml").write()


@pytest.fixture(scope="module")
def exported(runs, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    _bare_index(folder)
    words = ["export", NAME, "--index", str(folder / "index.yaml"), "--root", str(data), "--trained-by", "make it"]
    assert main(["zoo", *words, "--seed", "2", "--runs", str(runs / "seed2"), str(runs / "seed1")]) == 0
    return folder


@pytest.fixture
def zoo(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_the_document_is_that_of_the_index():
    """Else run: python tools/zoo.py table"""
    assert (ROOT / "model_zoo.md").read_text() == markdown(read_index())


def test_checkpoints_in_the_repository_are_small():
    index = read_index()
    sizes = [path.stat().st_size for entry in index.entries.values() if (path := index.path_of(entry))]
    assert max(sizes, default=0) <= LIMIT == 8_000_000 and sum(sizes) <= LIMIT_TOGETHER == 60_000_000
    listed = {index.path_of(entry) for entry in index.entries.values() if index.path_of(entry)}
    assert set((INDEX.parent / "checkpoints").glob("*.safetensors")) == listed
    for entry in index.entries.values():
        path = index.path_of(entry)
        assert path is None or path.stat().st_size == entry.checkpoint.size, entry.name


PACKAGED = [name for name, entry in read_index().entries.items() if read_index().path_of(entry)]


@pytest.mark.parametrize("name", PACKAGED)
def test_checkpoints_in_the_repository_are_those_of_the_index_and_fit_their_configs(name, tmp_path):
    index = read_index()
    entry = index.find(name)
    path, settings = index.path_of(entry), [word for setting in entry.settings.items() for word in setting]
    assert file_sha256(path) == entry.checkpoint.sha256
    cfg = load_config(config_path(entry), [*settings, "train.batch_size", 8, "data.workers", 0])
    candidate = Candidate(cfg, entry.config, read_test_weights(path))
    engine = engine_of(candidate, GeneratedDataManager(cfg), tmp_path, torch.device("cpu"))
    images = torch.rand(1, 3, cfg.data.height, cfg.data.width)
    assert engine.embed(images, torch.zeros(1, dtype=torch.long)).vector.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGED)
def test_checkpoints_in_the_repository_give_their_figures(name, tmp_path):
    """Renders SynthOcc small into the folder `data` of the checkout, unless it is there."""
    assert main(["zoo", "verify", name, "--root", str(ROOT / "data"), "--save-dir", str(tmp_path)]) == 0


def test_a_run_records_when_and_on_what_it_was_made(runs):
    record = json.loads((runs / "seed1/metrics.json").read_text())["record"]
    assert set(record) == {"date", "machine", "versions", "revision", "sources", "memory_mib", "embedded"}
    assert set(record["embedded"]) == {"clip_vit_tiny.safetensors"}
    assert record["versions"]["torch"] == torch.__version__ and 50 < record["memory_mib"] < 20_000


def test_an_exported_entry_holds_what_the_runs_say(exported, runs):
    entry = read_index(exported / "index.yaml").find(NAME)
    ours, metrics = entry.ours, json.loads((runs / "seed2/metrics.json").read_text())
    assert [run.seed for run in ours.runs] == [1, 2] and entry.checkpoint.seed == 2
    figures = metrics["targets"]["synthocc"]
    assert ours.runs[1].figures == {key: round(figures[key], 6) for key in ("mAP", "rank1", "rank5", "rank10")}
    assert (ours.command, ours.data, ours.protocol) == ("make it", metrics["data"], metrics["protocol"])
    assert ours.config["synthocc.size"] == "tiny" and "train.seed" not in ours.config
    assert ours.runs[0].memory_mib > 0 and ours.runs[0].date == metrics["record"]["date"]
    (made,) = ours.made
    assert (
        made.seeds == (1, 2)
        and vars(made).items()
        >= {key: metrics["record"][key] for key in ("machine", "revision", "sources", "versions")}.items()
    )
    assert entry.checkpoint.size < 0.35 * (runs / "seed2/checkpoints/last.pth").stat().st_size
    table = markdown(read_index(exported / "index.yaml"))
    assert f"| `{NAME}`" in table and "in the package (seed 2, 2.5 MB)" in table and "`make it`" in table


def test_the_document_shows_the_settings_of_our_runs(exported):
    table = markdown(read_index(exported / "index.yaml"))
    (how,) = [line for line in table.splitlines() if line.startswith(f"- `{NAME}`: `make it`")]
    assert "; with `" in how and "synthocc.size tiny" in how and "train.batch_size 16" in how
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{NAME}`")]
    assert " † " in row and "\n† marks figures of runs with other settings" in table
    assert "## SynthOcc\n" in table  # whatever its size, which is a setting


def with_map(run, value):
    return dataclasses.replace(run, figures={**run.figures, "mAP": value})


def verify(zoo, data, *options):
    words = [NAME, "--index", str(zoo / "index.yaml"), "--root", str(data), "--save-dir", str(zoo / "log")]
    return main(["zoo", "verify", *words, *options])


def test_an_exported_entry_verifies(zoo, data, capsys):
    assert verify(zoo, data, "data.workers", "0") == 0
    told = capsys.readouterr().out
    assert "mAP: recorded" in told and "1 entries give their figures" in told and "not the same data" not in told


def test_a_change_of_figures_is_told_with_status_2(zoo, data, capsys):
    index = read_index(zoo / "index.yaml")
    entry = index.find(NAME)
    moved = [with_map(run, run.figures["mAP"] / 2) for run in entry.ours.runs]
    index.put(dataclasses.replace(entry, ours=dataclasses.replace(entry.ours, runs=tuple(moved))))
    index.write()
    assert verify(zoo, data, "data.workers", "0") == 2
    out, err = capsys.readouterr()
    assert "DIFFERS" in out and f"1 of 1 entries do not give their figures: {NAME}" in err


def test_other_weights_are_refused(zoo, data, capsys):
    path = next((zoo / "checkpoints").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert verify(zoo, data) == 2
    assert "its sha256 is" in capsys.readouterr().err


def change(zoo, **values):
    """The entry in `zoo` with other `values`."""
    index = read_index(zoo / "index.yaml")
    index.put(dataclasses.replace(index.find(NAME), **values))
    index.write()
    return index


def test_one_entry_that_cannot_be_verified_stops_no_other(zoo, data, capsys):
    other = "clip_reid/vit_tiny_baseline/synthocc"
    words = ["verify", other, NAME, "--index", str(zoo / "index.yaml"), "--root", str(data), "data.workers", "0"]
    assert main(["zoo", *words, "--save-dir", str(zoo / "log")]) == 2
    out, err = capsys.readouterr()
    assert f"{other}\n  could not be verified: " in out and f"{NAME}\n  mAP: recorded" in out
    assert f"1 of 2 entries do not give their figures: {other} ({other} has no figures of ours" in err
    words[1] = "clip_reid/vit_tiny/synthoc"
    assert main(["zoo", *words]) == 2
    assert "mAP: recorded" not in capsys.readouterr().out  # a misspelt name is told before the first replay


def test_nothing_to_verify_is_no_success(zoo, capsys):
    change(zoo, checkpoint=None)
    status, told = zoo_command(zoo, capsys, "verify")
    assert status == 2 and "no entry has weights in the package; name entries, or fill some with" in told


def test_weights_without_figures_of_their_run(zoo, data, capsys):
    entry = read_index(zoo / "index.yaml").find(NAME)
    change(zoo, checkpoint=dataclasses.replace(entry.checkpoint, seed=7))
    assert verify(zoo, data) == 2
    assert "its checkpoint is of seed 7, but ours has runs of 1, 2 alone; export figures and" in capsys.readouterr().err
    change(zoo, checkpoint=Checkpoint("clip_reid", drive="ID"))
    assert verify(zoo, data) == 2  # others' weights, our figures
    assert "has no weights of our runs to evaluate; --train trains it again" in capsys.readouterr().err


def test_an_entry_is_trained_again_each_time(zoo, data, capsys):
    assert verify(zoo, data, "--train", "data.workers", "0") == 0
    assert "mAP: recorded" in capsys.readouterr().out
    folder = zoo / "log" / NAME / "train"
    assert json.loads((folder / "metrics.json").read_text())["seed"] == 2
    state = folder / "checkpoints/last.pth"
    state.write_bytes(b"what a finished replay left is not gone on with")
    assert verify(zoo, data, "--train", "data.workers", "0") == 0 and state.stat().st_size > 1e6
    state.write_bytes(b"but what an interrupted one left is")
    (folder / "metrics.json").unlink()
    assert verify(zoo, data, "--train", "data.workers", "0") == 2
    assert "last.pth: not a readable checkpoint" in capsys.readouterr().err
    assert verify(zoo, data, "--train", "data.workers", "0", "train.batch_size", "8") == 0  # that is another training


def test_what_a_replay_sets_itself_cannot_be_given(zoo, data, capsys):
    assert verify(zoo, data, "--train", "data.save_dir", "x", "train.seed", "3") == 2
    assert "zoo verify sets data.save_dir, train.seed itself; leave it out" in capsys.readouterr().err


# ---------------------------------------------------------------------- attribution, without a replay


@pytest.fixture
def replay(exported, runs):
    """An entry, and a replay's metrics and config that are the same."""
    entry = read_index(exported / "index.yaml").find(NAME)
    metrics = json.loads((runs / "seed2/metrics.json").read_text())
    return entry, metrics, load_config(runs / "seed2/config.yaml")


def without_sources(replay):
    """The entry as it would be of runs that recorded the revision abc alone, and a replay at that revision."""
    entry, metrics, cfg = replay
    made = tuple(dataclasses.replace(m, revision="abc", sources="not recorded") for m in entry.ours.made)
    metrics["record"]["revision"] = "abc"
    return dataclasses.replace(entry, ours=dataclasses.replace(entry.ours, made=made)), metrics, cfg


def found(replay, before=None):
    entry, metrics, cfg = replay
    return compare(entry, entry.ours.runs[1], metrics, cfg, before or cfg)


def move(replay, by):
    replay[1]["targets"]["synthocc"]["mAP"] += by


def test_nothing_changed(replay):
    finding = found(replay)
    assert finding.passed and finding.causes == {} and finding.verdict() == "passed"


def test_the_tolerance_is_a_fifth_of_a_point_and_three_queries(replay):
    move(replay, 0.0019)
    assert found(replay).passed
    move(replay, 0.0002)
    assert not found(replay).passed
    move(replay, -0.0021)
    queries = replay[0].ours.data["synthocc"]["query"]
    recorded = replay[1]["targets"]["synthocc"]["rank1"]
    replay[1]["targets"]["synthocc"]["rank1"] = recorded + 3 / queries
    assert found(replay).passed
    replay[1]["targets"]["synthocc"]["rank1"] = recorded + 4 / queries
    assert not found(replay).passed


@pytest.mark.parametrize("queries", [600, 1000, 2210])
def test_three_queries_are_within_the_tolerance_from_any_figure(queries):
    """Figures are recorded with six digits."""
    allowed = _rounding("rank1", queries)
    assert allowed == 0.002 or allowed < 4 / queries
    assert all((hits + 3) / queries - round(hits / queries, 6) < allowed for hits in range(queries - 2))


def test_a_new_training_may_move_with_the_seeds(replay):
    entry, metrics, cfg = replay
    second = entry.ours.runs[1].figures["mAP"]
    runs = [with_map(run, second + more) for run, more in zip(entry.ours.runs, (0.04, 0))]
    entry = dataclasses.replace(entry, ours=dataclasses.replace(entry.ours, runs=tuple(runs)))
    spread = {"mAP": Spread(0.01, 10)}
    metrics["targets"]["synthocc"]["mAP"] = second + 0.02 + 0.038  # t(0.995, 10) = 3.169, times sqrt(1.5)
    finding = compare(entry, entry.ours.runs[1], metrics, cfg, retrained=spread)
    assert finding.figures["mAP"][0] == pytest.approx(second + 0.02) and finding.passed
    assert finding.figures["mAP"][2] == pytest.approx(0.03881, abs=1e-4)
    metrics["targets"]["synthocc"]["mAP"] += 0.002
    assert not compare(entry, entry.ours.runs[1], metrics, cfg, retrained=spread).passed
    assert compare(entry, entry.ours.runs[1], metrics, cfg, retrained={}).figures["mAP"][2] == 0.002
    assert not compare(entry, entry.ours.runs[1], metrics, cfg).passed


def test_the_spread_is_pooled_over_entries_of_the_data_set(replay):
    entry = replay[0]

    def of(*values, data="synthocc"):
        runs = tuple(with_map(entry.ours.runs[0], value) for value in values)
        return dataclasses.replace(entry, data=data, ours=dataclasses.replace(entry.ours, runs=runs))

    entries = [of(0.1, 0.3), of(0.4, 0.5, 0.6), of(0.9), of(0.1, 0.9, data="market1501")]
    pooled = spread_over_seeds([*entries, dataclasses.replace(entry, ours=None)], "synthocc")["mAP"]
    assert pooled.freedom == 3 and pooled.deviation == pytest.approx(((0.02 + 0.02) / 3) ** 0.5)
    assert spread_over_seeds([of(0.9)], "synthocc") == {}


def test_a_difference_is_put_down_to_the_data_first(replay):
    move(replay, 0.1)
    replay[1]["data"]["synthocc"] |= {"fingerprint": "other", "query": 23}
    replay[1]["record"]["sources"] = "changed"
    finding = found(replay)
    assert "query 24 then, 23 now" in finding.causes["data"] and "fingerprint" in finding.causes["data"]
    assert finding.verdict().startswith("failed: due to data")


def test_then_to_the_config(replay, runs):
    move(replay, 0.1)
    other = load_config(runs / "seed2/config.yaml", ["method.stage2.lr", 0.1, "data.workers", 3, "data.root", "x"])
    finding = found(replay, before=other)
    assert finding.causes == {"config": "method.stage2.lr 0.1 then, 0.0003 now"}
    assert finding.verdict().startswith("failed: due to config")


def test_then_to_the_code_and_last_to_numerics(replay):
    move(replay, 0.1)
    replay[1]["record"]["revision"] = "another"  # of texts, say: the sources are the same
    assert found(replay).causes == {} and "due to numerics" in found(replay).verdict()
    replay[1]["record"]["versions"]["torch"] = "9.9"
    finding = found(replay)
    assert "torch" in finding.causes["versions"] and "due to numerics" in finding.verdict()
    before, replay[1]["record"]["sources"] = replay[1]["record"]["sources"], "changed"
    finding = found(replay)
    assert finding.causes["code"].startswith(f"sources {before} then, changed now; revision ")
    assert "due to the code" in finding.verdict()


def test_without_the_runs_config_its_file_may_be_to_blame(replay):
    entry, metrics, cfg = replay
    move(replay, 0.1)
    verdict = compare(entry, entry.ours.runs[1], metrics, cfg, retrained={}).verdict()
    assert "due to a change of that file or to numerics" in verdict and "training amplifies" in verdict
    verdict = compare(entry, entry.ours.runs[1], metrics, cfg, cfg, retrained={}).verdict()
    assert verdict.startswith("failed: data (names and numbers of images; pixels are not compared) and config are the")
    assert "the code is the same" in verdict
    made = tuple(dataclasses.replace(m, revision="not recorded", sources="not recorded") for m in entry.ours.made)
    entry = dataclasses.replace(entry, ours=dataclasses.replace(entry.ours, made=made))
    verdict = compare(entry, entry.ours.runs[1], metrics, cfg, cfg, retrained={}).verdict()
    assert "the code was not recorded" in verdict


def test_packaged_entries_differ_in_no_config_from_today():
    """Else every later failure would be put down to a config that nobody can make the same."""
    index = read_index()
    packaged = [entry for entry in index.entries.values() if entry.ours and index.path_of(entry)]
    assert len(packaged) >= 5
    for entry in packaged:
        seed = entry.checkpoint.seed
        changed = [
            word for pair in {**entry.settings, **entry.ours.config, "train.seed": seed}.items() for word in pair
        ]
        cfg = load_config(config_path(entry), changed)
        before = config_of(read_test_weights(index.path_of(entry)).config)
        run = next(run for run in entry.ours.runs if run.seed == seed)
        metrics = {"data": entry.ours.data, "protocol": describe_protocol(cfg), "record": run_record()}
        metrics["targets"] = {entry.data: run.figures}
        assert "config" not in compare(entry, run, metrics, cfg, before).causes, entry.name


def test_of_early_runs_the_revision_tells_the_code(replay):
    move(replay, 0.1)
    replay = without_sources(replay)
    assert "due to numerics" in found(replay).verdict()
    replay[1]["record"]["revision"] = "def"
    finding = found(replay)
    assert finding.causes["code"].startswith("revision abc then, def now") and "due to the code" in finding.verdict()
    replay[1]["record"]["revision"] = "abc+"
    assert "due to the code" in found(replay).verdict()


def test_sources_are_what_computes_figures(tmp_path):
    def written(name, text="x = 1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return record._hash(tmp_path)

    first = written("losses/triplet.py")
    assert {written(name) for name in ("cli/zoo.py", "zoo/table.py", "reports/figures.py", "losses/a.md")} == {first}
    changed = [written("losses/triplet.py", "x = 2"), written("runs/train.py"), written("assets/tiny.safetensors")]
    assert len({first, *changed}) == 4


# ---------------------------------------------------------------------- mistakes, and the small commands


def zoo_command(zoo, capsys, *words):
    status = main(["zoo", *words, "--index", str(zoo / "index.yaml")])
    return status, "".join(capsys.readouterr())


def test_list_and_show(zoo, capsys):
    status, told = zoo_command(zoo, capsys, "list", "vit_tiny")
    assert status == 0 and NAME in told and "in the package" in told and "occduke" not in told
    status, told = zoo_command(zoo, capsys, "show", f"zoo://{NAME}")
    assert status == 0 and "licence of data: CC0-1.0" in told and "runs:" in told
    status, told = zoo_command(zoo, capsys, "list", "nonsense")
    assert status == 2 and "no entry's name holds 'nonsense'" in told
    status, told = zoo_command(zoo, capsys, "download", NAME)
    assert status == 0 and told.strip().endswith("clip_reid-vit_tiny-synthocc.safetensors")
    status, told = zoo_command(zoo, capsys, "verify", "dpl_reid/vit_b16/occduke")
    assert status == 2 and "has no figures of ours to compare with" in told
    status, told = zoo_command(zoo, capsys, "verify", "dpl_reid/vit_b16/occduke", "data.workers", "0")  # not two names
    assert status == 2 and "has no figures of ours to compare with" in told
    status, told = zoo_command(zoo, capsys, "list", "x", "train.seed", "3")
    assert status == 2 and "takes no config keys" in told


def test_add_keeps_what_is_measured(zoo, capsys, tmp_path, monkeypatch):
    before = (zoo / "index.yaml").read_text()
    status, told = zoo_command(zoo, capsys, "add", "--config-file", CONFIG)
    assert status == 0 and "as its config says now" in told and (zoo / "index.yaml").read_text() == before
    file = tmp_path / "clip_reid_mine_synthocc.yaml"
    file.write_text(f"# Published mAP / Rank-1: not published.\n_base_: {CONFIG}\n")
    status, told = zoo_command(zoo, capsys, "add", "--config-file", str(file))
    assert status == 2 and "the zoo's configs are in" in told and (zoo / "index.yaml").read_text() == before
    monkeypatch.setattr(adding, "shipped_configs", lambda: tmp_path)
    status, told = zoo_command(zoo, capsys, "add", "--config-file", str(file))
    assert status == 0 and "clip_reid/vit_tiny_mine/synthocc: added" in told
    assert read_index(zoo / "index.yaml").find("clip_reid/vit_tiny_mine/synthocc").ours is None


def test_a_name_is_of_one_entry_and_free(zoo, capsys):
    baseline = str(ROOT / "configs/clip_reid_baseline_synthocc.yaml")
    before = (zoo / "index.yaml").read_text()

    def add(*words):
        status, told = zoo_command(zoo, capsys, "add", "--config-file", *words)
        assert status == 2 and (zoo / "index.yaml").read_text() == before
        return told

    assert "--name is of one entry, but 2 config files are given" in add(CONFIG, baseline, "--name", "a/b/c")
    assert "Mine: an entry is called method/variant/data, of small letters" in add(CONFIG, "--name", "Mine")
    told = add(baseline, "--name", NAME)
    assert f"{NAME} is already the entry of configs/clip_reid_synthocc.yaml; choose another --name" in told


@pytest.fixture
def export(zoo, capsys):
    """Export of runs without weights -> what it told."""

    def export(*folders, name=NAME, words=("--no-weights",)):
        return zoo_command(zoo, capsys, "export", name, "--runs", *map(str, folders), *words)[1]

    return export


def changed(run, folder, **values):
    """A copy of `run` in `folder` with other values in its metrics.json, None for none."""
    shutil.copytree(run, folder)
    metrics = json.loads((folder / "metrics.json").read_text()) | values
    (folder / "metrics.json").write_text(json.dumps({key: v for key, v in metrics.items() if v is not None}))
    return folder


def test_runs_that_do_not_belong_together_are_refused(zoo, export, runs, tmp_path):
    before = (zoo / "index.yaml").read_text()
    other = tmp_path / "other"
    shutil.copytree(runs / "seed1", other)
    assert "two runs have the same train.seed" in export(runs / "seed1", other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        text.replace("seed: 1\n  micro", "seed: 3\n  micro").replace("\n    lr: 0.0003", "\n    lr: 0.5")
    )
    assert "are runs of different configs: method.stage2.lr" in export(runs / "seed1", other)
    assert "is a run of clip_reid on synthocc, not clip_reid/vit_b16/occduke" in export(
        runs / "seed1", name="clip_reid/vit_b16/occduke"
    )
    (other / "metrics.json").unlink()
    assert "other holds no finished run" in export(other)
    data = json.loads((runs / "seed2/metrics.json").read_text())["data"]
    data["synthocc"]["fingerprint"] = "another"
    other = changed(runs / "seed2", tmp_path / "data", data=data)
    told = export(runs / "seed1", other)
    assert f"{other} and {runs / 'seed1'} used different versions of synthocc" in told
    assert (zoo / "index.yaml").read_text() == before


@pytest.mark.parametrize("values", [{"tested": "ab"}, {"stages": []}])
def test_a_mere_test_is_no_run_of_its_own(export, runs, tmp_path, values):
    other = changed(runs / "seed1", tmp_path / "other", **values)
    for words in ((), ("--no-weights",)):
        told = export(other, words=words)
        assert f"{other} only tested weights of another run; export the run that trained them" in told


def test_every_machine_and_code_of_the_runs_is_kept(zoo, export, runs, tmp_path):
    made = json.loads((runs / "seed1/metrics.json").read_text())["record"]
    later = made | {"machine": "an abacus", "date": "2030-01-02", "revision": "def", "versions": {"torch": "9"}}
    export(changed(runs / "seed1", tmp_path / "a", record=later), runs / "seed2")
    ours = read_index(zoo / "index.yaml").find(NAME).ours
    first, second = ours.made
    assert (first.seeds, first.machine, first.revision, first.versions) == ((1,), "an abacus", "def", {"torch": "9"})
    assert (second.seeds, second.machine) == ((2,), made["machine"])
    assert [run.date for run in ours.runs] == ["2030-01-02", made["date"]]
    table = markdown(read_index(zoo / "index.yaml"))
    assert f"{made['date']}, 2030-01-02; seed 1: machine an abacus, revision def, torch 9; seed 2: machine" in table


def test_a_run_that_recorded_nothing_says_so(zoo, export, runs, tmp_path):
    export(runs / "seed1", changed(runs / "seed2", tmp_path / "b", record=None))
    ours = read_index(zoo / "index.yaml").find(NAME).ours
    assert ours.made[0].machine != "not recorded" and ours.runs[0].memory_mib > 0
    assert vars(ours.made[1]) == {"seeds": (2,), **dict.fromkeys(("machine", "revision", "sources"), "not recorded"),
                                  "versions": {}}  # fmt: skip
    assert ours.runs[1].date == "not recorded" and ours.runs[1].memory_mib is None


def test_figures_alone_take_an_older_file_of_ours_away(zoo, export, runs):
    assert list((zoo / "checkpoints").iterdir())
    assert "1 seeds" in export(runs / "seed1")
    entry = read_index(zoo / "index.yaml").find(NAME)
    assert entry.checkpoint is None and [run.seed for run in entry.ours.runs] == [1]
    assert list((zoo / "checkpoints").iterdir()) == []
    official = Checkpoint("clip_reid", drive="ID")
    change(zoo, checkpoint=official)
    export(runs / "seed1")
    assert read_index(zoo / "index.yaml").find(NAME).checkpoint == official


def test_a_file_too_large_is_not_kept(zoo, runs, data, monkeypatch, capsys):
    monkeypatch.setattr("occplug.zoo.exporting.LIMIT", 1000)
    before = {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    words = ["export", NAME, "--unchecked", "--runs", str(runs / "seed1")]
    status, told = zoo_command(zoo, capsys, *words)
    assert status == 2 and "more than the 0 MB the repository allows; leave the weights out with --no-weights" in told
    assert {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()} == before
