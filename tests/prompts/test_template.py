"""Templates: token ids and positions by group against counts made by hand from CLIP's tokenizer, and bad templates."""

import re

import pytest

from occplug.errors import ConfigError
from occplug.prompts import TEMPLATES, parse_template, tokenise

OCCLUDED = "A photo of a X X X X person occluded by Y Y Y Y."

# name -> tokens with start and end, positions of X (counted with open_clip's tokenizer)
COUNTED = {
    "default": (12, (5, 6, 7, 8)),
    "longer": (18, tuple(range(5, 15))),
    "random": (12, tuple(range(1, 11))),
    "attribute_a": (19, (7, 8, 11, 12, 15)),
    "attribute_b": (24, (5, 8, 12, 13, 16, 17, 20)),
    "attribute_c": (26, (5, 8, 12, 13, 16, 17, 22)),
    "attribute_d": (31, (5, 6, 9, 12, 16, 17, 20, 21, 24, 28)),
}


@pytest.mark.parametrize(
    "text, length, x, y",
    [
        ("A photo of a {4} person.", 12, (5, 6, 7, 8), ()),
        ("A photo of a X X X X person.", 12, (5, 6, 7, 8), ()),
        (OCCLUDED, 20, (5, 6, 7, 8), (14, 15, 16, 17)),
        ("A photo of a X X person behind a Y Y, X.", 16, (5, 6, 13), (10, 11)),
        ("{3} behind Y", 7, (1, 2, 3), (5,)),
        ("{2} hair and {1} top X", 9, (1, 2, 5, 7), ()),
        ("{2}{1}hair{1}", 7, (1, 2, 3, 5), ()),
        ("Y X", 4, (2,), (1,)),
        ("X", 3, (1,), ()),
    ],
)
def test_positions_by_group(text, length, x, y):
    parsed = parse_template(text, "XY")
    assert len(parsed.ids) == length
    assert parsed.slots == {"X": x, "Y": y}
    assert all(parsed.ids[at] == 343 for at in x + y) and parsed.ids.count(343) == len(x + y)


@pytest.mark.parametrize("name", COUNTED)
def test_named_templates_have_their_tokens_where_the_table_says(name):
    parsed = parse_template(name)
    assert (len(parsed.ids), parsed.slots["X"]) == COUNTED[name]
    assert parsed.text == TEMPLATES[name]
    assert set(COUNTED) == set(TEMPLATES)


@pytest.mark.parametrize("text", [*TEMPLATES.values(), OCCLUDED, "(X), X; a T-shirt X!", "A man, I'm X", "x X x"])
def test_ids_are_those_of_the_whole_text(text):
    assert list(parse_template(text, "XY").ids) == tokenise(text.replace("Y", "X"))


def test_words_that_look_like_placeholders():
    assert parse_template("x X x").slots == {"X": (2,)}
    parsed = parse_template("A X-ray photo: I see X, a T-shirt, B2B and Xavier")
    assert parsed.slots == {"X": (parsed.ids.index(343, 3),)}


def test_the_text_spells_learnable_tokens_out():
    assert parse_template("A photo of a {4} person.").text == TEMPLATES["default"]
    assert parse_template("{2}hair, {1}.").text == "X X hair, X."


def test_words_are_what_stands_between_learnable_tokens():
    assert parse_template("A X person with {2} hair.").words() == ["A ", " person with ", " ", " hair."]


@pytest.mark.parametrize("text", ["A photo of a person.", "", "Y person"])
def test_a_template_without_learnable_tokens(text):
    with pytest.raises(ConfigError) as caught:
        parse_template(text, "XY", key="method.template_occ")
    assert str(caught.value) == (
        f"method.template_occ {text!r} has no learnable token; write X for each, or {{n}} for n of them"
    )


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no learnable token; .* \(did you mean the template 'attribute_[abcd]'\?\)"):
        parse_template("atribute_d")


@pytest.mark.parametrize("text", ["a {0} person", "{} X", "{x} person", "{-1}", "a { 4 } X"])
def test_braces_without_a_number(text):
    with pytest.raises(ConfigError, match=r"method.template '.* has {.*}; {n} needs a number of learnable tokens"):
        parse_template(text)


@pytest.mark.parametrize("text, letter", [("a X person by Y", "Y"), ("X and Z.", "Z")])
def test_an_unknown_placeholder(text, letter):
    with pytest.raises(ConfigError, match=f"has the placeholder '{letter}'; learnable tokens here are X$"):
        parse_template(text)


@pytest.mark.parametrize(
    "text, mark",
    [("a X {hair", "{"), ("a X hair}", "}"), ("a [X] person", "["), ("a X <hair>", "<"), ("X with %s", "%s")],
)
def test_placeholders_in_another_notation(text, mark):
    with pytest.raises(
        ConfigError, match=rf"has '{re.escape(mark)}', which marks no learnable token; write X for each"
    ):
        parse_template(text)


def test_a_text_longer_than_clip_takes():
    with pytest.raises(ConfigError, match="has 80 tokens; CLIP takes at most 77"):
        parse_template("person " * 74 + "{4}")
    assert len(parse_template("person " * 71 + "{4}").ids) == 77
    assert len(parse_template("X " * 75).ids) == 77
