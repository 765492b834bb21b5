"""Who is who: look-alikes that can be told apart, captions that can be read back."""

import importlib
import re

import numpy as np
import pytest

from occplug.datasets.synthocc import ATTRIBUTES, caption, parse_caption, persona, training_caption
from occplug.datasets.synthocc.captions import OPENINGS

# the package's `persona` is the function
persona_module = importlib.import_module("occplug.datasets.synthocc.persona")
TABLES = persona_module.TABLES


def test_tables_are_probabilities():
    for name, table in TABLES.items():
        assert sum(table.values()) == pytest.approx(1), name


def test_attributes_come_from_the_closed_vocabularies():
    for pid in range(200):
        for name, value in persona(1, pid, 2).attributes().items():
            assert value is None or value in ATTRIBUTES[name], name


def test_what_does_not_apply_is_none():
    for pid in range(200):
        person = persona(1, pid, 2)
        told = person.attributes()
        assert (told["hair_color"] is None) == (person.hair == "bald")
        assert (told["bag_color"] is None) == (person.bag == "none")
        assert (told["second_color"] is None) == (person.top_pattern == "plain")


@pytest.mark.parametrize("group_size", [2, 3])
def test_look_alikes_share_the_outfit_and_differ_in_the_caption(group_size):
    for group in range(60):
        members = [persona(1, group * group_size + i, group_size) for i in range(group_size)]
        assert len({(m.top_type, m.top_color, m.bottom_type, m.bottom_color) for m in members}) == 1
        assert len({caption(m) for m in members}) == group_size


def test_a_look_alike_equal_in_all_captioned_attributes_is_drawn_again(monkeypatch):
    # a world where people differ in nothing but three builds: three members must have all three
    narrow = {name: {next(iter(table)): 1.0} for name, table in TABLES.items()}
    narrow |= {"build": TABLES["build"], "second_color": {"black": 0.5, "white": 0.5}}
    monkeypatch.setattr(persona_module, "TABLES", narrow)
    persona.cache_clear()
    try:
        assert all(len({persona(9, 3 * g + i, 3).build for i in range(3)}) == 3 for g in range(20))
    finally:
        persona.cache_clear()


def test_a_persona_depends_on_group_size_and_world():
    assert persona(1, 7, 2) == persona(1, 7, 2)
    assert persona(1, 7, 2).captioned() != persona(1, 7, 3).captioned()
    assert persona(1, 7, 2).captioned() != persona(500, 7, 2).captioned()


def test_frequencies_follow_the_table():
    tops = [persona(1, pid, 1).top_type for pid in range(1500)]
    assert abs(tops.count("t-shirt") / len(tops) - 0.30) < 0.04


def test_captions_can_be_read_back():
    for pid in range(500):
        person = persona(1, pid, 2)
        assert parse_caption(caption(person)) == person.captioned(), caption(person)


def test_caption_grammar():
    text = (
        "a photo of an average person with a bald head, wearing an orange vertical striped shirt with navy, "
        "a black skirt, and red shoes"
    )
    told = parse_caption(text)
    assert told["top_pattern"] == "vertical striped" and told["bag"] == "none" and told["hair"] == "bald"
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", caption(persona(1, pid, 2))) for pid in range(300))
    with pytest.raises(ValueError, match="not a SynthOcc caption: 'a dog'"):
        parse_caption("a dog")


def test_training_captions_shuffle_and_drop():
    person = next(p for p in (persona(1, i, 2) for i in range(50)) if p.bag != "none")
    draw = np.random.default_rng(0)
    texts = [training_caption(person, draw) for _ in range(800)]
    assert {t for t in OPENINGS if any(text.startswith(t) for text in texts)} == set(OPENINGS)
    shoes = sum(f"{person.shoe_color} shoes" in text for text in texts) / len(texts)
    assert abs(shoes - 0.75) < 0.05
    assert len(set(texts)) > 300


def test_training_captions_leave_out_what_is_hidden():
    person = next(p for p in (persona(1, i, 2) for i in range(50)) if p.bag != "none")
    names = ("head", "left_arm", "right_arm", "torso", "left_leg", "right_leg", "left_foot", "right_foot")
    seen = dict.fromkeys(names, 1.0) | {"left_foot": 0.0, "right_foot": 0.1, "head": 0.0}
    draw = np.random.default_rng(0)
    for _ in range(50):
        text = training_caption(person, draw, seen)
        assert "shoes" not in text and "hair" not in text and "head" not in text
