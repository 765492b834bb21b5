"""Templates: positions by group against counts made by hand from CLIP's tokenizer."""

import pytest

from occplug.errors import ConfigError
from occplug.prompts import parse_template, tokenise

OCCLUDED = "A photo of a X X X X person occluded by Y Y Y Y."
DISPERSED = "A photo of a X X person with X hair and X posture, wearing X X top, X X trousers and X shoes, carrying X."


@pytest.mark.parametrize(
    "text, length, x, y",
    [
        ("A photo of a {4} person.", 12, (5, 6, 7, 8), ()),
        ("A photo of a X X X X person.", 12, (5, 6, 7, 8), ()),
        (OCCLUDED, 20, (5, 6, 7, 8), (14, 15, 16, 17)),
        (DISPERSED, 31, (5, 6, 9, 12, 16, 17, 20, 21, 24, 28), ()),
        ("A photo of a person wearing X X top, X X trousers and X shoes.", 19, (7, 8, 11, 12, 15), ()),
        ("X X X X X X X X X X", 12, tuple(range(1, 11)), ()),
        ("Y X", 4, (2,), (1,)),
        ("X", 3, (1,), ()),
    ],
)
def test_positions_by_group(text, length, x, y):
    parsed = parse_template(text, "XY")
    assert len(parsed.ids) == length
    assert parsed.slots == {"X": x, "Y": y}
    assert all(parsed.ids[at] == 343 for at in x + y) and parsed.ids.count(343) == len(x + y)


def test_fixed_ids_are_the_tokenizers():
    assert list(parse_template(OCCLUDED, "XY").ids) == tokenise(OCCLUDED.replace("Y", "X"))


@pytest.mark.parametrize("text", ["A photo of a person.", "", "Y person"])
def test_a_template_without_learnable_tokens(text):
    with pytest.raises(ConfigError, match="has no learnable token; write X for each"):
        parse_template(text, "XY")


@pytest.mark.parametrize("text", ["a {0} person", "{} X", "{x} person", "{-1}", "a { 4 } X"])
def test_braces_without_a_number(text):
    with pytest.raises(ConfigError, match=r"needs a number of learnable tokens, e.g. \{4\}"):
        parse_template(text)


@pytest.mark.parametrize("text, letter", [("a X person by Y", "Y"), ("X and Z.", "Z")])
def test_an_unknown_placeholder(text, letter):
    with pytest.raises(ConfigError, match=f"has the placeholder '{letter}'; learnable tokens here are X"):
        parse_template(text)


def test_words_that_look_like_placeholders():
    parsed = parse_template("A X-ray photo: I see X, B2B and Xavier")
    assert parsed.slots["X"][0] == 2 and len(parsed.slots["X"]) == 2
    with pytest.raises(ConfigError, match="has a small x as a word"):
        parse_template("an x and X")


def test_a_text_longer_than_clip_takes():
    with pytest.raises(ConfigError, match="has 80 tokens; CLIP takes at most 77"):
        parse_template("person " * 74 + "{4}")
    assert len(parse_template("person " * 71 + "{4}").ids) == 77
