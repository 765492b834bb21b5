"""Conditions on the metadata of a gallery: `camera != 3 and time >= 100 and name in ["a", "b"]`.

A small part of Python's own grammar, evaluated over columns; nothing in it is run as code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from occplug.errors import ConfigError

__all__ = ["matching", "values_asked"]

_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CURE = 'conditions are like: camera != 3 and time >= 100 and name in ["a", "b"] (also or, not, brackets, None)'


def matching(condition: str, columns: Mapping[str, Sequence], count: int) -> np.ndarray:
    """[count] bool, which rows of `columns` (name -> `count` values) the `condition` holds for.

    A value that is missing (None) equals None alone; every other comparison with it is false, `!=` is true.

    Raises:
        ConfigError: not a condition, a column that does not exist, or values that cannot be compared.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"where is {condition!r}, which is no condition; {_CURE}") from error
    try:
        return _truth(tree, columns, count, condition)
    except RecursionError as error:
        raise ConfigError(f"where is {condition[:40]!r}..., which is nested too deeply") from error


def _truth(node: ast.expr, columns: Mapping, count: int, condition: str) -> np.ndarray:
    if isinstance(node, ast.BoolOp):
        parts = [_truth(value, columns, count, condition) for value in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, columns, count, condition)
    if not isinstance(node, ast.Compare):
        raise ConfigError(f"where is {condition!r}: {ast.unparse(node)!r} is neither true nor false; {_CURE}")
    result = np.ones(count, bool)
    sides = [node.left, *node.comparators]
    for left, how, right in zip(sides, node.ops, sides[1:]):
        result &= _compared(left, how, right, columns, count, condition)
    return result


def _compared(left, how, right, columns: Mapping, count: int, condition: str) -> np.ndarray:
    one, other = (_values(side, columns, condition) for side in (left, right))
    if isinstance(how, ast.In | ast.NotIn):
        if not isinstance(other, (list, tuple)):
            raise ConfigError(f"where is {condition!r}: after 'in' comes a list such as [1, 2]")
        for each in other:
            _check_kinds(one, each, condition)
        chosen = np.array([value in other for value in _spread(one, count)], bool)
        return chosen if isinstance(how, ast.In) else ~chosen
    function = ast.Eq if isinstance(how, ast.Is) else ast.NotEq if isinstance(how, ast.IsNot) else type(how)
    compare = _COMPARE[function]
    _check_kinds(one, other, condition)
    if isinstance(one, np.ndarray) and one.dtype != object and isinstance(other, int | float):
        return compare(one, other)
    missing = {ast.Eq: lambda a, b: a is b, ast.NotEq: lambda a, b: a is not b}.get(function, lambda a, b: False)
    pairs = zip(_spread(one, count), _spread(other, count))
    try:
        return np.array([(missing if a is None or b is None else compare)(a, b) for a, b in pairs], bool)
    except TypeError as error:
        raise ConfigError(f"where is {condition!r}: {error}; text stands in quotes, numbers do not") from error


def _check_kinds(one, other, condition: str) -> None:
    """Raise ConfigError for a column of texts beside a number, or of numbers beside a text: it would never be equal."""
    column, value = (one, other) if isinstance(one, np.ndarray) else (other, one)
    if not isinstance(column, np.ndarray) or not isinstance(value, (int, float, str)):
        return
    values = column.tolist() if column.dtype == object else column[:1].tolist()
    is_text = {isinstance(each, str) for each in values if each is not None}
    if is_text == {not isinstance(value, str)}:
        kind = "numbers" if isinstance(value, str) else "texts"
        raise ConfigError(
            f"where is {condition!r}: the metadata beside {value!r} are {kind}; text stands in quotes, numbers do not"
        )


def _spread(values, count: int):
    return values if isinstance(values, np.ndarray) else [values] * count


def _values(node: ast.expr, columns: Mapping, condition: str):
    """A column as an array, or a constant."""
    if isinstance(node, ast.Name):
        if node.id not in columns:
            known = ", ".join(columns) or "none"
            raise ConfigError(f"where is {condition!r}: there is no metadata {node.id!r}; this gallery has: {known}")
        return column_array(columns[node.id])
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise ConfigError(f"where is {condition!r}: {ast.unparse(node)!r} is not understood; {_CURE}") from None


def values_asked(condition: str, columns: Mapping[str, Sequence]) -> str:
    """What the columns that `condition` names hold, some values of each as they stand in a condition."""
    names = [node.id for node in ast.walk(ast.parse(condition.strip(), mode="eval")) if isinstance(node, ast.Name)]
    told = []
    for name in dict.fromkeys(name for name in names if name in columns):
        values = list(dict.fromkeys(columns[name]))
        told.append(f"{name} is {', '.join(map(repr, values[:5]))}{', ...' if len(values) > 5 else ''}")
    return "; ".join(told)


def column_array(values: Sequence) -> np.ndarray:
    """`values` as numbers, if all of them are, else as objects."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float} and kinds:
        return np.asarray(values)
    made = np.empty(len(values), object)
    made[:] = values
    return made
