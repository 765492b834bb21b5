"""Prompt templates: texts in which stand-alone capital letters stand for learnable tokens."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
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
_WORDS = "AI"  # capital letters that are English words
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|(?<![\w'’-])[A-Z](?![\w'’-])")  # not the T of a T-shirt
_REPEATED = re.compile(r"\{([1-9]\d*)\}")


@dataclass(frozen=True)
class Template:
    """A tokenised template.

    Attributes:
        text: the template, a name replaced by its text.
        ids: token ids from start-of-text to end-of-text; learnable positions hold the id of their letter.
        positions: group letter -> positions of its learnable tokens in `ids`, ascending.
    """

    text: str
    ids: tuple[int, ...]
    positions: dict[str, tuple[int, ...]]

    @property
    def eot(self) -> int:
        """Position of the end-of-text token, the last."""
        return len(self.ids) - 1

    def words(self) -> list[str]:
        """The template's text cut at its learnable tokens, one piece more than there are of those."""
        return [fixed for fixed, _ in _cut(self.text, "".join(self.positions))]


def parse_template(
    text: str,
    groups: str = "X",
    tokenizer: Callable[[str], list[int]] = tokenise,
    key: str = "method.template",
) -> Template:
    """Tokenise a template in which each stand-alone letter of `groups` is one learnable token of that group.

    `{n}` is short for n tokens of the first group: "A photo of a {4} person." is "A photo of a X X X X person.".

    Args:
        text: a template, or a name in `TEMPLATES`.
        groups: capital letters, e.g. "XY"; each must occur.
        tokenizer: text -> token ids including start and end.
        key: config key that error messages name.

    Raises:
        ConfigError: a group without learnable token, a placeholder that is none of these, or more tokens than a CLIP
            takes.
    """
    given, text = text, TEMPLATES.get(text, text)
    start, end = tokenizer("")
    ids, positions = [start], {letter: [] for letter in groups}
    for fixed, letter in _cut(text, groups, key):
        ids += tokenizer(fixed)[1:-1]  # byte-pair encoding never crosses words, so pieces can be encoded alone
        if letter:
            positions[letter].append(len(ids))
            ids += tokenizer(letter)[1:-1]
    ids.append(end)
    missing = [letter for letter in groups if not positions[letter]]
    if missing:
        raise ConfigError(f"{key} is {given!r}; {_cure(given, missing[0], groups)}")
    if len(ids) > CONTEXT_LENGTH:
        raise ConfigError(f"{key} {given!r} has {len(ids)} tokens; CLIP takes at most {CONTEXT_LENGTH}")
    return Template(text, tuple(ids), {letter: tuple(found) for letter, found in positions.items()})


def _cut(text: str, groups: str, key: str = "method.template") -> list[tuple[str, str]]:
    """(fixed text, letter of the learnable token behind it) in order; the last letter is empty."""
    pieces, done = [], 0
    for found in _PLACEHOLDER.finditer(text):
        repeated = _REPEATED.fullmatch(found[0])
        if found[0] not in groups and not repeated:
            if found[0] in _WORDS:
                continue
            known = f"{', '.join(groups)} (one learnable token each) and {{n}}, n at least 1 (n tokens {groups[0]})"
            raise ConfigError(f"{key} is {text!r}; {found[0]!r} is no placeholder, there are: {known}")
        pieces.append((text[done : found.start()], groups[0] if repeated else found[0]))
        pieces += [("", groups[0])] * (int(repeated[1]) - 1 if repeated else 0)
        done = found.end()
    return [*pieces, (text[done:], "")]


def _cure(given: str, letter: str, groups: str) -> str:
    short = ", or {n} for n of them, e.g. {4}" if letter == groups[0] else ""
    near = difflib.get_close_matches(given, TEMPLATES, n=1)
    hint = f" (did you mean the template {near[0]!r}?)" if near else ""
    return f"it has no learnable token {letter}; write a stand-alone {letter} for each{short}{hint}"
