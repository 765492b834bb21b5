"""What does not fit between a weight file and a model, all of it in one message."""

import contextlib
import contextvars
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from occplug import _moved
from occplug.errors import CheckpointError

__all__ = ["KeyReport", "check_fit", "hide_child", "key_report", "note_found", "note_renamed", "with_current_names"]

__getattr__ = _moved.older_names(__name__)


@dataclass
class KeyReport:
    """What was in a weight file.

    Args:
        found: names in the file, and their shapes there.
        renamed: name in the file -> name in our model, where they differ.
    """

    found: dict[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


_REPORT: contextvars.ContextVar[KeyReport | None] = contextvars.ContextVar("report", default=None)


@contextlib.contextmanager
def key_report() -> Iterator[KeyReport]:
    """Inside, what files are read and how their names change is noted in the report this gives."""
    report = KeyReport()
    token = _REPORT.set(report)
    try:
        yield report
    finally:
        _REPORT.reset(token)


def note_found(state: Mapping[str, Tensor]) -> None:
    """Note the tensors of a file in the report, if somebody wants one."""
    if (report := _REPORT.get()) is not None:
        report.found |= {name: tuple(value.shape) for name, value in state.items()}


def note_renamed(names: Mapping[str, str]) -> None:
    """Note file name -> our name in the report, if somebody wants one."""
    if (report := _REPORT.get()) is not None:
        report.renamed |= names


def check_fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Collection[int]],
    where: str,
    what: str,
    unused: Collection[str] = (),
    hints: Collection[str] = (),
) -> None:
    """Check the tensors of a file against the shapes a model needs.

    Args:
        state: the file's tensors by name.
        expected: shape by name, in the file's naming.
        where: the file, for the message.
        what: the model, for the message.
        unused: names that may be in the file although the model does not need them.
        hints: likely causes, added to the message.

    Raises:
        CheckpointError: lists every wrongly shaped, missing and unknown name.
    """
    shapes = [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected and name not in unused]
    lines = [
        f"{title}: {separator.join(items)}"
        for title, separator, items in (
            ("wrong shape", "; ", shapes),
            ("missing", ", ", missing),
            ("unknown", ", ", unknown),
        )
        if items
    ]
    if lines:
        raise CheckpointError("\n  ".join([f"{where} does not fit {what}", *lines, *hints]))


def with_current_names(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Tensors of a file by the names that `module` has for them today (`Method.renamed_tensors`)."""
    renamed = getattr(module, "renamed_tensors", {})
    if not renamed:
        return state

    def current(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in renamed.items() if name.startswith(old)), name)

    return {current(name): value for name, value in state.items()}


def hide_child(module: nn.Module, name: str) -> None:
    """From now on `module`'s state dict names the tensors of its only child `name` without `name.`, both ways."""
    inner = f"{name}."

    def drop(_, state: dict, prefix: str, metadata) -> None:
        for key in [key for key in state if key.startswith(prefix + inner)]:
            state[prefix + key[len(prefix + inner) :]] = state.pop(key)

    def add(_, state: dict, prefix: str, *unused) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            state[prefix + inner + key[len(prefix) :]] = state.pop(key)

    module.register_state_dict_post_hook(drop)
    module.register_load_state_dict_pre_hook(add)
