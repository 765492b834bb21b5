"""Text templates with learnable tokens: where they stand, and the ids of the fixed words around them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from occplug.errors import ConfigError
from occplug.prompts.tokens import CONTEXT_LENGTH, tokenise

__all__ = ["TEMPLATES", "Template", "parse_template"]

# Templates with a name. `default` is CLIP-ReID's (arXiv 2211.13977). The others are AG-ReID's (arXiv 2508.04998, table
# 5), whose wording the paper leaves to a supplement that is not public: the words are ours, after its description.
TEMPLATES = {
    "default": "A photo of a X X X X person.",
    "longer": "A photo of a X X X X X X X X X X person.",
    "random": "X X X X X X X X X X",
    "attribute_a": "A photo of a person wearing X X top, X X trousers and X shoes.",
    "attribute_b": "A photo of a X person with X hair, wearing X X top, X X trousers and X shoes.",
    "attribute_c": "A photo of a X person with X hair, wearing X X top and X X trousers, carrying a X bag.",
    "attribute_d": (
        "A photo of a X X person with X hair and X posture, wearing X X top, X X trousers and X shoes, carrying X."
    ),
}
_COUNT = re.compile(r"\{(.*?)\}")
_MARKS = re.compile(r"[{}\[\]<>]|%[sd]")  # of placeholders in other notations
_GLUED = re.compile(r"(?<=[\w}])(?=\{)|(?<=\})(?=\w)")  # where a brace touches a word or another brace
_PLACEHOLDER = re.compile(r"(?<![\w'’-])([B-HJ-Z])(?![\w'’-])")  # "A" and "I" are words, and so is the T of a T-shirt


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        text: the template with each learnable token a letter.
        ids: token ids from start to end of text, those of `x` (343) at each learnable token.
        slots: group letter -> positions in `ids` of its learnable tokens, ascending.
    """

    text: str
    ids: tuple[int, ...]
    slots: dict[str, tuple[int, ...]]

    def words(self) -> list[str]:
        """The text cut at its learnable tokens, one piece more than there are of those."""
        return _PLACEHOLDER.split(self.text)[::2]


def parse_template(
    text: str,
    groups: Collection[str] = "X",
    tokenizer: Callable[[str], list[int]] = tokenise,
    key: str = "method.template",
) -> Template:
    """Ids and positions of `text`, in which every stand-alone letter of `groups` is one learnable token.

    `{n}` is short for n tokens of the group X: "A photo of a {4} person." is "A photo of a X X X X person.".

    Args:
        text: a template, or a name in `TEMPLATES`.
        groups: capital letters other than A and I, X among them.
        tokenizer: text -> token ids including start and end.
        key: config key that error messages name.

    Raises:
        ConfigError: no X, a `{}` without a number of at least 1, a placeholder of no group or in another notation, or a
            text longer than CLIP takes.
    """
    named = f"{key} {text!r}"
    whole = _GLUED.sub(" ", TEMPLATES.get(text, text))
    whole = _COUNT.sub(lambda match: _spell(match[1], named), whole)
    if mark := _MARKS.search(whole):
        raise ConfigError(f"{named} has {mark[0]!r}, which marks no learnable token; write X for each, or {{n}} for n")
    pieces = _PLACEHOLDER.split(whole)  # fixed words and letters in turn
    letters = pieces[1::2]
    for letter in letters:
        if letter not in groups:
            raise ConfigError(f"{named} has the placeholder {letter!r}; learnable tokens here are {', '.join(groups)}")
    if "X" not in letters:
        raise ConfigError(f"{named} has no learnable token; write X for each, or {{n}} for n of them{_hint(text)}")
    start, end = tokenizer("")
    ids: list[int] = [start]
    slots: dict[str, list[int]] = {group: [] for group in groups}
    for at, piece in enumerate(pieces):
        is_letter = at % 2
        if is_letter:
            slots[piece].append(len(ids))
        ids += tokenizer("X" if is_letter else piece)[1:-1]  # byte-pair encoding never crosses words
    ids.append(end)
    if len(ids) > CONTEXT_LENGTH:
        raise ConfigError(f"{named} has {len(ids)} tokens; CLIP takes at most {CONTEXT_LENGTH}")
    return Template(whole, tuple(ids), {group: tuple(positions) for group, positions in slots.items()})


def _spell(count: str, named: str) -> str:
    if not count.isdecimal() or int(count) == 0:
        raise ConfigError(f"{named} has {{{count}}}; {{n}} needs a number of learnable tokens, e.g. {{4}}")
    return " ".join("X" * int(count))


def _hint(text: str) -> str:
    near = difflib.get_close_matches(text, TEMPLATES, n=1)
    return f" (did you mean the template {near[0]!r}?)" if near else ""
