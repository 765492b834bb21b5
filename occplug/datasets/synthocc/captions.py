"""Captions: the benchmark's one sentence per identity, its parser, and the variants used in pretraining."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from occplug.datasets.synthocc.persona import ATTRIBUTES, Persona

__all__ = ["OPENINGS", "caption", "parse_caption", "training_caption", "visible_clauses"]

OPENINGS = ("a photo of a person", "a person", "a pedestrian", "an image of a person walking")
_DROP = 0.25  # probability of leaving a clause out
_DROP_OCCLUDER = 0.1  # the same for what stands in front
_SEEN = 0.3  # a part that shows less of itself than this is not described

# Clause -> the groups of parts (`parts.GROUPS`) that show it.
_SHOWN_BY = {
    "build": ("torso",),
    "head": ("head",),
    "top": ("torso", "left_arm", "right_arm"),
    "bottom": ("left_leg", "right_leg"),
    "shoes": ("left_foot", "right_foot"),
    "bag": ("torso",),
}


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _head(person: Persona) -> str:
    if person.hat != "none":
        return _article(f"{person.hat_color} {person.hat}")
    if person.hair == "bald":
        return "a bald head"
    if person.hair == "ponytail":
        return _article(f"{person.hair_color} ponytail")
    return f"{person.hair} {person.hair_color} hair"


def _top(person: Persona) -> str:
    if person.top_pattern == "plain":
        return _article(f"{person.top_color} {person.top_type}")
    if person.top_pattern == "logo":
        return f"{_article(f'{person.top_color} {person.top_type}')} with {_article(person.second_color)} logo"
    return f"{_article(f'{person.top_color} {person.top_pattern} {person.top_type}')} with {person.second_color}"


def _bottom(person: Persona) -> str:
    words = f"{person.bottom_color} {person.bottom_type}"
    return _article(words) if person.bottom_type == "skirt" else words


def _occlusion(occluder: str) -> str:
    return f"occluded by {_article(occluder)}"


def caption(person: Persona, occluder: str = "none") -> str:
    """The full description, lower case; `parse_caption` reads it back where nothing stands in front.

    Args:
        occluder: what hides a part of the person; "none" is not mentioned.
    """
    carried = "" if person.bag == "none" else f", carrying {_article(f'{person.bag_color} {person.bag}')}"
    hidden = "" if occluder == "none" else f", {_occlusion(occluder)}"
    return (
        f"a photo of {_article(person.build)} person with {_head(person)}, wearing {_top(person)}, {_bottom(person)}, "
        f"and {person.shoe_color} shoes{carried}{hidden}"
    )


def visible_clauses(visibility: Mapping[str, float]) -> set[str]:
    """Clauses (build, head, top, bottom, shoes, bag) whose parts show, from the share of each group that does."""
    return {name for name, groups in _SHOWN_BY.items() if max(visibility[group] for group in groups) >= _SEEN}


def training_caption(
    person: Persona,
    draw: np.random.Generator,
    visibility: Mapping[str, float] | None = None,
    occluder: str = "none",
) -> str:
    """A shuffled, incomplete description: one of four openings, clauses in random order, each dropped with p = .25.

    Args:
        visibility: share of each of the eight groups of parts that shows (`Rendered.visibility`); with it, what the
            occluder hides is left out too.
        occluder: what stands in front, dropped with p = .1; "none" is not mentioned.
    """
    clauses = {
        "build": f"of {person.build} build",
        "head": f"with {_head(person)}",
        "top": f"wearing {_top(person)}",
        "bottom": f"wearing {_bottom(person)}",
        "shoes": f"wearing {person.shoe_color} shoes",
    }
    if person.bag != "none":
        clauses["bag"] = f"carrying {_article(f'{person.bag_color} {person.bag}')}"
    opening = OPENINGS[draw.integers(len(OPENINGS))]
    names = [name for name in clauses if draw.random() >= _DROP]
    if visibility is not None:
        shown = visible_clauses(visibility)
        names = [name for name in names if name in shown]
    if occluder != "none" and draw.random() >= _DROP_OCCLUDER:
        clauses["occluder"] = _occlusion(occluder)
        names.append("occluder")
    chosen = [clauses[names[i]] for i in draw.permutation(len(names))]
    return f"{opening} {', '.join(chosen)}" if chosen else opening


def _any(attribute: str, name: str | None = None, leave_out: tuple[str, ...] = ()) -> str:
    # longest first: "vertical striped" before "striped"
    values = sorted((v for v in ATTRIBUTES[attribute] if v not in leave_out), key=len, reverse=True)
    return f"(?P<{name or attribute}>{'|'.join(map(re.escape, values))})"


_CAPTION = re.compile(
    rf"a photo of an? {_any('build')} person with "
    rf"(?:an? {_any('hat_color')} {_any('hat', leave_out=('none',))}|(?P<bald>a bald head)"
    rf"|an? {_any('hair_color', 'tail_color')} ponytail|(?P<hair>short|long) {_any('hair_color')} hair), "
    rf"wearing an? {_any('top_color')} (?:{_any('top_pattern', leave_out=('plain', 'logo'))} )?{_any('top_type')}"
    rf"(?: with an? {_any('second_color', 'logo_color')} logo| with {_any('second_color')})?, "
    rf"(?:a )?{_any('bottom_color')} {_any('bottom_type')}, and {_any('shoe_color')} shoes"
    rf"(?:, carrying an? {_any('bag_color')} {_any('bag', leave_out=('none',))})?"
)


def parse_caption(text: str) -> dict[str, str]:
    """Attributes in a `caption` (equal to `Persona.captioned`).

    Raises:
        ValueError: not a sentence of the grammar.
    """
    match = _CAPTION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a SynthOcc caption: {text!r}")
    attributes = {name: value for name, value in match.groupdict().items() if value is not None}
    attributes.setdefault("bag", "none")
    if "hat" not in attributes:
        attributes["hat"] = "none"
        if attributes.pop("bald", None):
            attributes["hair"] = "bald"
        elif "tail_color" in attributes:
            attributes["hair"], attributes["hair_color"] = "ponytail", attributes.pop("tail_color")
    if "logo_color" in attributes:
        attributes["top_pattern"], attributes["second_color"] = "logo", attributes.pop("logo_color")
    attributes.setdefault("top_pattern", "plain")
    return attributes
