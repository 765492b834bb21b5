"""Official state dicts under our names: one rename table a source, everything that does not fit in one message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from occplug.utils.keys import check_fit, note_renamed

__all__ = ["Composed", "load_renamed", "most_common", "official_name"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Composed:
    """A tensor of ours that several official ones make up.

    Args:
        shapes: the official names it is made of, and their shapes.
        make: official state dict -> the tensor.
    """

    shapes: dict[str, tuple[int, ...]]
    make: Callable[[Mapping[str, Tensor]], Tensor]


def official_name(name: str, table: Sequence[tuple[str, str]]) -> str:
    """`name` with our prefix replaced by the official one; `table` holds (ours, official), the first match decides.

    Raises:
        KeyError: no prefix matches; the table is incomplete.
    """
    for ours, official in table:
        if name.startswith(ours):
            return official + name[len(ours) :]
    raise KeyError(name)


def load_renamed(
    module: nn.Module,
    state: Mapping[str, Tensor],
    table: Sequence[tuple[str, str]],
    where: str,
    what: str,
    composed: Mapping[str, Composed] | None = None,
    unused: Collection[str] = (),
    hints: Collection[str] = (),
) -> None:
    """Load the official `state` into `module`, all or nothing; official names without use go to the log.

    Args:
        table: (our prefix, official prefix), see :func:`official_name`.
        where, what: the file and the model, for messages.
        composed: by our names, what no single official tensor holds.
        unused: official names the module has no use for.
        hints: likely causes, added to the message of a failure.

    Raises:
        CheckpointError: lists every wrongly shaped, missing and unknown official name.
    """
    composed = composed or {}
    here = {name: value for name, value in module.state_dict().items() if name not in composed}
    names = {name: official_name(name, table) for name in here}
    expected = {names[name]: tuple(value.shape) for name, value in here.items()}
    for part in composed.values():
        expected |= part.shapes
    check_fit(state, expected, where, what, unused, hints)
    made = {name: part.make(state) for name, part in composed.items()}
    parts = {official: name for name, part in composed.items() for official in part.shapes}
    note_renamed({official: name for name, official in names.items()} | parts)
    module.load_state_dict({name: state[names[name]] for name in here} | made)
    left = [name for name in unused if name in state]
    _log.info("%s: %d tensors read into %s; not used: %s", where, len(expected), what, ", ".join(left) or "none")


def most_common(state: Mapping[str, Tensor], names: Collection[str], axis: int = 0) -> int | None:
    """The length that most of the tensors `names` have along `axis`, the first one's if even; None if none is there.

    Sizes are read by majority, so that one wrongly shaped tensor is reported and not believed.
    """
    sizes = [state[name].shape[axis] for name in names if name in state and state[name].ndim > axis]
    return max(sizes, key=sizes.count) if sizes else None
