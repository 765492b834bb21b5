"""What does not fit between a weight file and a model, all of it in one message."""

from collections.abc import Collection, Mapping

from torch import Tensor

from occplug.errors import CheckpointError

__all__ = ["demand_fit"]


def demand_fit(
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
