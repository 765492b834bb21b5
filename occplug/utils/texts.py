"""YAML and JSON texts, read within limits: a few hundred bytes can stand for more than any memory holds.

Whatever is wrong with a text is a ValueError (a yaml.YAMLError for YAML), never a RecursionError or a hang.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

__all__ = ["parse_json", "parse_yaml_text", "read_json", "read_text"]

MAX_YAML = 16 << 20  # bytes
MAX_JSON = 2 << 30  # bytes: COCO's instances_train2017.json has 470 million
MAX_NODES = 500_000  # values of a YAML text, those that aliases repeat counted every time


if TYPE_CHECKING:
    from yaml import SafeLoader as _CLoader
    from yaml import SafeLoader as _Mixin
else:  # both loaders have these methods, from other bases
    _Mixin, _CLoader = object, getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Limited(_Mixin):
    """Mixed into yaml's safe loaders: aliases and nesting are counted before values are made."""

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None:
            _check_nodes(node)
        return node


class _NoKeyTwice(_Limited):
    """Mixed into yaml's safe loaders: a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


class _Loader(_NoKeyTwice, yaml.SafeLoader):
    """The loader in Python, whose messages say what was expected."""


class _FastLoader(_NoKeyTwice, _CLoader):
    """The loader in C, where PyYAML was built with it: the same values, eight times as fast."""


def _check_nodes(root: yaml.Node) -> None:
    """Raise YAMLError if what `root` stands for has too many values, or holds itself. Takes time in proportion to the
    text, however often its aliases repeat.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, is_done = waiting.pop()
        below = _below(node)
        if is_done:
            open_nodes.discard(id(node))
            sizes[id(node)] = size = 1 + sum(sizes[id(one)] for one in below)
            if size > MAX_NODES:
                problem = f"aliases repeat its values to more than {MAX_NODES:,}, the limit; write them out"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        elif id(node) in open_nodes:
            raise yaml.constructor.ConstructorError(None, None, "an alias makes it hold itself", node.start_mark)
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            waiting.append((node, True))
            waiting += [(one, False) for one in below if id(one) not in sizes]


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def parse_yaml_text(text: str):
    """What the YAML `text` says, by the safe loader; keys are given once.

    Raises:
        yaml.YAMLError: not YAML, deeper or larger than the limits.
        ValueError: a value that cannot be, such as a 30th of February.
    """
    if len(text) > MAX_YAML:
        raise yaml.YAMLError(f"it has {len(text):,} characters, more than the limit of {MAX_YAML:,}")
    try:
        try:
            return yaml.load(text, _FastLoader)
        except yaml.YAMLError:
            return yaml.load(text, _Loader)  # for its message
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def read_text(file: str | os.PathLike, limit: int = MAX_YAML) -> str:
    """The UTF-8 text of `file`. Raises OSError; ValueError if it is not UTF-8, or has more than `limit` bytes."""
    size = os.path.getsize(file)
    if size > limit:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {limit:,}")
    return Path(file).read_text(encoding="utf-8")


def read_json(file: str | os.PathLike, limit: int = MAX_JSON):
    """What the JSON `file` says. Raises OSError; ValueError if it is not JSON in UTF-8, too deep or too large."""
    return parse_json(read_text(file, limit))


def parse_json(text: str | bytes):
    """What the JSON `text` says. Raises ValueError if it is not JSON, or too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
