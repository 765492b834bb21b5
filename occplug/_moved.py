"""Modules and names of version 0.1 under their old names, for one version: using one warns and gives the new one.

Both tables are those of docs/moved.md. A module that went to one module is that module; where a file was split, the old
module looks a name up in each of its parts. A module that holds renamed names ends its head with
`__getattr__ = _moved.older_names(__name__)`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable

__all__ = ["MEMBERS", "MOVED", "RENAMED", "install", "older_names", "page"]

# old module -> new modules
MOVED: dict[str, tuple[str, ...]] = {
    "occplug.config_keys": ("occplug.config.defaults",),
    "occplug.config_checks": ("occplug.config.checks",),
    "occplug.config_files": ("occplug.config.files",),
    "occplug.torchreid_bridge": (
        "occplug.plugin.register",
        "occplug.torchreid_host",
        "occplug.plugin.model",
        "occplug.engine.freezing",
        "occplug.evaluation.cuhk03",
    ),
    "occplug.torchreid_models": ("occplug.plugin.model", "occplug.engine.freezing"),
    "occplug.datamanager": ("occplug.data.manager",),
    "occplug.extras": ("occplug.data.extras",),
    "occplug.clip_method": ("occplug.methods._clip",),
    "occplug.download": ("occplug.utils.download",),
    "occplug.files": ("occplug.utils.files",),
    "occplug.imagefile": ("occplug.utils.imagefile",),
    "occplug.measuring": ("occplug.utils.measuring",),
    "occplug.extractor": ("occplug.serving.extractor",),
    "occplug.runs.extractor": ("occplug.serving.extractor",),
    "occplug.stages.masked_metric": ("occplug.heads.masked_metric",),
    "occplug.backbones.unpickling": ("occplug.utils.unpickling",),
    "occplug.backbones.torchscript": ("occplug.utils.torchscript",),
    "occplug.backbones.keys": ("occplug.utils.keys",),
    "occplug.backbones.files": ("occplug.utils.tensors",),
    "occplug.cli.session": ("occplug.runs.session",),
    "occplug.cli.record": ("occplug.runs.record",),
    "occplug.cli.testing": ("occplug.runs.candidates",),
    "occplug.cli.mixing": ("occplug.runs.ensemble",),
    "occplug.evaluation.mixing": ("occplug.evaluation.ensemble",),
    "occplug.cli.trainings": ("occplug.experiments.trainings",),
    "occplug.cli.ablations": ("occplug.experiments.ablations",),
    "occplug.cli.tables": ("occplug.experiments.tables",),
    "occplug.cli.kept": ("occplug.experiments.kept",),
    "occplug.cli.markdown": ("occplug.experiments.markdown",),
    "occplug.masks.schemes": ("occplug.utils.body_parts",),
    "occplug.cli.sheets": ("occplug.reports.sheets",),
}

# old name -> new name, each with its module; both modules exist
RENAMED: dict[str, str] = {
    "occplug.method.Companion": "occplug.method.ExtraOptimizer",
    "occplug.engine.demand_run": "occplug.engine.check_run",
    "occplug.engine.demand_same_meaning": "occplug.engine.check_same_meaning",
    "occplug.engine.demand_same_run": "occplug.engine.check_same_run",
    "occplug.engine.checkpoint.demand_run": "occplug.engine.checkpoint.check_run",
    "occplug.engine.checkpoint.demand_same_meaning": "occplug.engine.checkpoint.check_same_meaning",
    "occplug.engine.checkpoint.demand_same_run": "occplug.engine.checkpoint.check_same_run",
    **{
        f"{where}.{old}": f"{where}.{new}"
        for where in ("occplug.evaluation", "occplug.evaluation.ensemble")
        for old, new in {
            "MixedEmbedding": "EnsembleEmbedding",
            "Mixture": "Ensemble",
            "choose_weights": "choose_ensemble",
        }.items()
    },
    "occplug.plugin.model.PackedEmbeddings": "occplug.embedding.Embedding",
    "occplug.stages.MaskedMetric": "occplug.heads.MaskedMetric",
    "occplug.engine.write_atomically": "occplug.utils.files.write_atomically",
    "occplug.cli.ablate.choose_table": "occplug.experiments.ablating.choose_table",
    "occplug.cli.ablate.plan_rows": "occplug.experiments.ablating.plan_rows",
    "occplug.utils.keys.demand_fit": "occplug.utils.keys.check_fit",
    "occplug.experiments.markdown.demand_marks": "occplug.experiments.markdown.check_marks",
    **{f"occplug.cli.convert.{name}": f"occplug.importers.converting.{name}" for name in ("Outcome", "convert")},
    "occplug.cli.show_mixing.check_masks": "occplug.reports.mixing.check_masks",
    "occplug.cli.show_mixing.demand_masks": "occplug.reports.mixing.check_masks",
    **{
        f"occplug.cli.mask_report.{name}": f"occplug.reports.masks.{name}"
        for name in ("mask_figures", "saliency_figures", "twin_figures")
    },
    "occplug.cli.show_augment.sheet": "occplug.reports.augmentation.augmentation_sheet",
    **{
        f"occplug.runs.session.{name}": f"occplug.runs.candidates.{name}"
        for name in ("load_trained", "load_trained_for")
    },
}

# old member -> new member of the same class; the class itself keeps the old one for one version, `matcher` for good
MEMBERS: dict[str, str] = {
    "occplug.method.Method.matcher": "distance",
    "occplug.method.Stage.companions": "extra_optimizers",
    "occplug.engine.base.RunMixin.matcher": "distance",
    "occplug.methods.profd.ProFD.see": "forward_features",
    "occplug.methods._clip.CLIPMethod.learn_texts": "add_prompts",
    "occplug.evaluation.ensemble.Ensemble.matcher": "distance",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the old names."""

    def find_spec(self, name: str, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec) -> types.ModuleType:
        targets = MOVED[spec.name]
        where = " and ".join(targets)
        warnings.warn(
            f"{spec.name} is {where} now; the old name will be removed in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        module = types.ModuleType(spec.name)
        module.__dict__["__getattr__"] = _looking_in(spec.name, targets)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        targets = MOVED[module.__name__]
        if len(targets) == 1:
            sys.modules[module.__name__] = importlib.import_module(targets[0])


def _looking_in(old: str, targets: tuple[str, ...]):
    def __getattr__(name: str):
        for target in targets:
            module = importlib.import_module(target)
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"{old} has no {name!r}; it is {' and '.join(targets)} now")

    return __getattr__


def older_names(module: str) -> Callable[[str], object]:
    """The `__getattr__` of `module` that gives its renamed names, each with a warning that says the new one."""

    def __getattr__(name: str):
        new = RENAMED.get(f"{module}.{name}")
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, renamed = new.rpartition(".")
        warnings.warn(
            f"{module}.{name} is {new} now; the old name will be removed in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(where), renamed)

    return __getattr__


def page() -> str:
    """docs/moved.md: every module and name that has moved, old -> new."""
    names = {**RENAMED, **{old: f"{old.rpartition('.')[0]}.{new}" for old, new in MEMBERS.items()}}
    modules = [f"| `{old}` | {', '.join(f'`{new}`' for new in news)} |" for old, news in MOVED.items()]
    renamed = [f"| `{old}` | `{new}` |" for old, new in names.items()]
    return "\n".join(
        [
            "# What has moved since version 0.1",
            "",
            "Old names work for one version and warn (`DeprecationWarning`); `Method.matcher` stays beside `distance`.",
            "Written by `python -c 'from occplug import _moved; print(_moved.page(), end=\"\")' > docs/moved.md`.",
            "",
            "## Modules",
            "",
            "| old | new |",
            "|---|---|",
            *modules,
            "",
            "## Names",
            "",
            "| old | new |",
            "|---|---|",
            *renamed,
            "",
        ]
    )


def install() -> None:
    """Let the old names be imported; calling it again does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
