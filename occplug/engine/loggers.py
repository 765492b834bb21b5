"""Where losses, learning rates and test figures are logged, by the key `run.logger`: one place, or several."""

from __future__ import annotations

import csv
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from occplug.config.files import flatten
from occplug.errors import ConfigError

__all__ = ["LOGGERS", "check_loggers", "stage_writer"]

PROJECT = "occplug"  # of runs on W&B and trackio, and experiment of MLflow


class _Scalars(ABC):
    """What torchreid writes to: one value at a time. Subclasses get all values of a step together."""

    def __init__(self) -> None:
        self._step, self._values = 0, {}  # type: ignore[var-annotated]

    def add_scalar(self, name: str, value, step: int) -> None:
        """One value of `step`, batches for training and epochs for tests; those of a step come together."""
        if step != self._step:
            self._send()
        self._step = step
        self._values[name] = float(value)

    def close(self) -> None:
        """Write what is left, and end."""
        self._send()
        self._end()

    def _send(self) -> None:
        if self._values:
            self._write(self._values, self._step)
            self._values = {}

    @abstractmethod
    def _write(self, values: dict[str, float], step: int) -> None:
        """Log the values of one step."""

    @abstractmethod
    def _end(self) -> None:
        """Close what is open."""


class _Csv(_Scalars):
    """`logs/STAGE.csv` in the run's folder: step, name, value; a resumed run goes on in it."""

    def __init__(self, folder: Path, stage: str, cfg):
        super().__init__()
        file = folder / "logs" / f"{stage}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_bytes() if file.exists() else b""
        self._stream = file.open("a", newline="", encoding="utf-8", buffering=1)
        self._rows = csv.writer(self._stream)
        if not before:
            self._rows.writerow(["step", "name", "value"])
        elif not before.endswith(b"\n"):  # cut off by a full disk or a kill
            self._rows.writerow([])

    def _write(self, values: dict[str, float], step: int) -> None:
        self._rows.writerows([step, name, value] for name, value in values.items())

    def _end(self) -> None:
        self._stream.close()


class _LikeWandb(_Scalars):
    """W&B, and trackio, whose functions have the same names: a run a stage, those of one folder in a group."""

    def __init__(self, module: str, folder: Path, stage: str, cfg):
        super().__init__()
        self._module: Any = importlib.import_module(module)
        self._last = 0
        options: dict[str, Any] = {"project": PROJECT, "name": f"{folder.name}-{stage}", "group": str(folder)}
        if module == "wandb":
            options |= {"dir": str(folder), "reinit": True}
        self._module.init(config=dict(flatten(cfg)), **options)

    def _write(self, values: dict[str, float], step: int) -> None:
        # torchreid counts training in batches and tests in epochs; W&B drops a step that is behind its last one
        self._last = max(self._last, step)
        self._module.log(values, step=self._last)

    def _end(self) -> None:
        self._module.finish()


class _Mlflow(_Scalars):
    """MLflow, where `MLFLOW_TRACKING_URI` says, or its own default: a run a stage."""

    def __init__(self, folder: Path, stage: str, cfg):
        super().__init__()
        self._module: Any = importlib.import_module("mlflow")
        self._module.set_experiment(PROJECT)
        self._module.start_run(run_name=f"{folder.name}-{stage}")
        self._module.set_tag("folder", str(folder))
        self._module.log_params({key: str(value)[:500] for key, value in flatten(cfg)})

    def _write(self, values: dict[str, float], step: int) -> None:
        self._module.log_metrics(values, step=step)

    def _end(self) -> None:
        self._module.end_run()


def _tensorboard(folder: Path, stage: str, cfg):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder / "tensorboard" / stage))


# name -> (folder of the run, stage, config) -> writer, and the module that must be installed
LOGGERS: dict[str, tuple[Callable[..., Any], str]] = {
    "tensorboard": (_tensorboard, "tensorboard"),
    "csv": (_Csv, "csv"),
    "wandb": (lambda *args: _LikeWandb("wandb", *args), "wandb"),
    "mlflow": (_Mlflow, "mlflow"),
    "trackio": (lambda *args: _LikeWandb("trackio", *args), "trackio"),
}


class _Several:
    """Writers as one, also for data sets whose name is not text: torchreid makes names of values of it."""

    def __init__(self, writers: list):
        self.writers = writers

    def add_scalar(self, name: str, value, step: int) -> None:
        """To each."""
        name = name.encode(errors="backslashreplace").decode()
        for writer in self.writers:
            writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Each."""
        for writer in self.writers:
            writer.close()


def check_loggers(text: str) -> list[str]:
    """The names in `text`, the value of `run.logger`: separated by commas; `none` for none.

    Raises:
        ConfigError: a name that is none, or whose package is not installed; says how to install it.
    """
    named = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in named:
        if name not in LOGGERS:
            raise ConfigError(f"run.logger has {name!r}; there are: none, {', '.join(LOGGERS)}, or several with commas")
        if importlib.util.find_spec(LOGGERS[name][1]) is None:
            raise ConfigError(
                f"run.logger {name} needs a package that is not installed: pip install {LOGGERS[name][1]}"
            )
    return list(dict.fromkeys(named))


def stage_writer(folder: Path, stage: str, cfg):
    """What `stage` of the run in `folder` logs to, as `run.logger` says. Raises ConfigError as `check_loggers`."""
    return _Several([LOGGERS[name][0](folder, stage, cfg) for name in check_loggers(cfg.run.logger)])
