"""Loggers: what each is given, several at once, a resumed run, packages that are not there."""

import csv
import sys
from types import ModuleType

import numpy as np
import pytest

from occplug.config import default_config
from occplug.engine.loggers import LOGGERS, check_loggers, stage_writer
from occplug.errors import ConfigError
from occplug.reports.curves import read_curves


@pytest.fixture(scope="module")
def cfg():
    return default_config("resnet50")


def logged(folder, cfg, names, steps=(0, 1, 2)):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.run.logger = names
    writer = stage_writer(folder, "stage1", cfg)
    for step in steps:
        writer.add_scalar("Train/loss", 1.0 / (step + 1), step)
        writer.add_scalar("Train/lr", 0.1, step)
    writer.add_scalar("Test/synthocc/mAP", 0.5, 1)  # torchreid counts epochs here
    writer.close()


@pytest.mark.parametrize("names", ["tensorboard", "csv", "csv, tensorboard"])
def test_curves_are_read_as_they_were_logged(tmp_path, cfg, names):
    logged(tmp_path, cfg, names)
    (stage,) = read_curves(tmp_path)
    assert stage.stage == "stage1"
    steps, values = stage.losses["loss"]
    assert steps.tolist() == [0, 1, 2] and values == pytest.approx([1, 1 / 2, 1 / 3])
    assert stage.rates["lr"][1] == pytest.approx([0.1] * 3) and list(stage.losses) == ["loss"]


def test_a_resumed_run_goes_on_in_its_csv(tmp_path, cfg):
    logged(tmp_path, cfg, "csv")
    logged(tmp_path, cfg, "csv", (3, 4))
    with (tmp_path / "logs" / "stage1.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["name"] == "Train/loss"]
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
    assert np.isclose(float(rows[4]["value"]), 0.2)


class Recorder(ModuleType):
    """A module whose functions note their calls."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.fixture
def installed(monkeypatch):
    from importlib.machinery import ModuleSpec

    modules = {}
    for name in ("wandb", "mlflow", "trackio"):
        modules[name] = Recorder(name)
        modules[name].__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, modules[name])
    return modules


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_a_step_at_a_time(tmp_path, cfg, installed, name):
    logged(tmp_path / "run7", cfg, name)
    calls = installed[name].calls
    assert [call[0] for call in calls] == ["init", *["log"] * 4, "finish"]
    begun = calls[0][2]
    assert begun["name"] == "run7-stage1" and begun["group"] == str(tmp_path / "run7")
    assert begun["config"]["model.name"] == "resnet50"
    assert calls[1][1:] == (({"Train/loss": 1.0, "Train/lr": 0.1},), {"step": 0})
    assert calls[4][1] == ({"Test/synthocc/mAP": 0.5},)
    steps = [call[2]["step"] for call in calls[1:5]]
    assert steps == sorted(steps)  # W&B drops what is behind its last step, and tests are counted in epochs


def test_mlflow_gets_parameters_and_metrics(tmp_path, cfg, installed):
    logged(tmp_path, cfg, "mlflow")
    calls = {call[0]: call for call in installed["mlflow"].calls}
    assert list(calls) == ["set_experiment", "start_run", "set_tag", "log_params", "log_metrics", "end_run"]
    assert calls["log_params"][1][0]["train.seed"] == "1"


def test_none_logs_nothing(tmp_path, cfg):
    logged(tmp_path, cfg, "none")
    assert list(tmp_path.iterdir()) == [] and read_curves(tmp_path) == []


def test_unknown_loggers_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="run.logger has 'tensorbord'; there are: none, tensorboard, csv, wandb"):
        check_loggers("csv,tensorbord")
    monkeypatch.setitem(LOGGERS, "wandb", (LOGGERS["wandb"][0], "a_package_nobody_has"))
    with pytest.raises(ConfigError, match="not installed: pip install a_package_nobody_has"):
        check_loggers("wandb")


def test_a_csv_that_was_cut_off_goes_on_and_steps_made_again_count_once(tmp_path, cfg):
    """As a kill or a full disk leaves it: half a line, and steps after the state that a resumed run goes on from."""
    chosen = cfg.clone()
    chosen.defrost()
    chosen.run.logger = "csv"
    for values in ({0: 5.0, 1: 4.0, 2: 9.0}, {1: 3.0, 2: 2.0}):
        writer = stage_writer(tmp_path, "train", chosen)
        for step, value in values.items():
            writer.add_scalar("Train/loss", value, step)
        writer.close()
        with (tmp_path / "logs/train.csv").open("a") as stream:
            stream.write("3,Train/lo")
    [curves] = read_curves(tmp_path)
    steps, losses = curves.losses["loss"]
    assert steps.tolist() == [0, 1, 2] and losses.tolist() == [5.0, 3.0, 2.0]
