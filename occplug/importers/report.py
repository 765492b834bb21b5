"""Official state dicts under our names: one rename table a source, everything that does not fit in one message."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from occplug.backbones.keys import demand_fit

__all__ = ["load_renamed", "official_name", "rows_of"]

_log = logging.getLogger(__name__)


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
    computed: Mapping[str, Tensor] | None = None,
    unused: Collection[str] = (),
    hints: Collection[str] = (),
) -> None:
    """Load the official `state` into `module`, all or nothing; unused official names go to the log.

    Args:
        table: (our prefix, official prefix), see :func:`official_name`.
        computed: tensors of `module`, by our names, that no single official tensor holds.
        unused: official names the module has no use for.
        hints: likely causes, added to the message of a failure.

    Raises:
        CheckpointError: lists every wrongly shaped, missing and unknown official name.
    """
    computed = computed or {}
    own = {name: value for name, value in module.state_dict().items() if name not in computed}
    names = {name: official_name(name, table) for name in own}
    demand_fit(state, {names[name]: value.shape for name, value in own.items()}, where, what, unused, hints)
    module.load_state_dict({name: state[names[name]] for name in own} | dict(computed))
    left = [name for name in unused if name in state]
    _log.info("%s: %d tensors read into %s; not used: %s", where, len(own), what, ", ".join(left) or "none")


def rows_of(state: Mapping[str, Tensor], names: Sequence[str], axis: int = 0) -> int | None:
    """The length most of the tensors `names` have along `axis` (the first of them if even), None if none is there."""
    found = [state[name].shape[axis] for name in names if name in state and state[name].ndim > axis]
    return max(found, key=found.count) if found else None
