"""Text templates with learnable tokens: where they stand, and the ids of the fixed words around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from occplug.errors import ConfigError
from occplug.prompts.tokens import CONTEXT_LENGTH, tokenise

__all__ = ["Template", "parse_template"]

_COUNT = re.compile(r"\{(.*?)\}")
_PLACEHOLDER = re.compile(r"\b([B-HJ-Z])\b")  # "A" and "I" are words
_ID = 343  # of "x", which stands for every learnable token in the tokenised text


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        ids: token ids from start to end of text, `x` (343) at each learnable token.
        slots: group letter -> positions in `ids` of its learnable tokens, ascending.
    """

    ids: tuple[int, ...]
    slots: dict[str, tuple[int, ...]]


def parse_template(
    text: str, groups: Collection[str] = "X", tokenizer: Callable[[str], list[int]] = tokenise
) -> Template:
    """Ids and positions of `text`, in which every stand-alone letter of `groups` is one learnable token.

    `{n}` is short for n tokens of the group X: "A photo of a {4} person." is "A photo of a X X X X person.".

    Args:
        groups: capital letters other than A and I, X among them.

    Raises:
        ConfigError: no X, a `{}` without a number of at least 1, a placeholder of no group, or a text longer than CLIP
            takes.
    """
    spelled = _COUNT.sub(lambda found: f" {_spell(found[1], text)} ", text)
    letters = _PLACEHOLDER.findall(spelled)
    for letter in letters:
        if letter not in groups:
            raise ConfigError(
                f"the template {text!r} has the placeholder {letter!r}; learnable tokens here are {', '.join(groups)}"
            )
    if "X" not in letters:
        raise ConfigError(f"the template {text!r} has no learnable token; write X for each, or {{n}} for n of them")
    ids = tokenizer(_PLACEHOLDER.sub("X", spelled))
    if len(ids) > CONTEXT_LENGTH:
        raise ConfigError(f"the template {text!r} has {len(ids)} tokens; CLIP takes at most {CONTEXT_LENGTH}")
    positions = [position for position, token in enumerate(ids) if token == _ID]
    if len(positions) != len(letters):
        raise ConfigError(f"the template {text!r} has a small x as a word; learnable tokens are capital letters")
    pairs = list(zip(letters, positions))
    return Template(tuple(ids), {group: tuple(at for letter, at in pairs if letter == group) for group in groups})


def _spell(count: str, text: str) -> str:
    if not count.isdecimal() or int(count) == 0:
        complaint = f"the template {text!r} has {{{count}}}"
        raise ConfigError(f"{complaint}; {{n}} needs a number of learnable tokens, e.g. {{4}}")
    return " ".join("X" * int(count))
