"""Checks of yaml nodes against the keys and types they may have."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from occplug.errors import ConfigError

__all__ = ["checked", "choice"]

WORDS = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number", type(None): "null"}


def checked(node, where: str, needed: dict, optional: dict | None = None) -> dict:
    """`node`, if it is a mapping with all keys of `needed`, perhaps of `optional`, no other, and values of their types.

    Args:
        where: file and place, for messages.
        needed, optional: key -> type or types.

    Raises:
        ConfigError: names the place, the key and what was expected.
    """
    if not isinstance(node, dict):
        raise ConfigError(f"{where}: it is a {type(node).__name__}, expected a mapping with {', '.join(needed)}")
    known = {**needed, **(optional or {})}
    for key in node:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{where}: there is no key {key!r}{hint}; there are: {', '.join(known)}")
    missing = [key for key in needed if key not in node]
    if missing:
        raise ConfigError(f"{where}: missing: {', '.join(missing)}")
    for key, value in node.items():
        types = known[key] if isinstance(known[key], tuple) else (known[key],)
        if not isinstance(value, types) or isinstance(value, bool):
            wanted = " or ".join(WORDS[kind] for kind in types)
            raise ConfigError(f"{where}: {key} is {value!r}, expected {wanted}")
    return node


def choice(value, word: str, where: str, read: Callable):
    """None if `value` is the text `word`, else `read(value, where)`. Raises ConfigError for any other text."""
    if value == word:
        return None
    if isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}, expected {word!r} or what is known")
    return read(value, where)
