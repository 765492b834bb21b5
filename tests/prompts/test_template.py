"""Templates: token ids and positions of learnable tokens against the whole text's tokenisation, and bad templates."""

import pytest

from occplug.errors import ConfigError
from occplug.prompts import TEMPLATES, parse_template, tokenise

X, Y = 343, 344  # x</w> and y</w>

# name -> tokens with start and end, positions of X (spec section 2, counted with open_clip's tokenizer)
COUNTED = {
    "default": (12, [5, 6, 7, 8]),
    "longer": (18, list(range(5, 15))),
    "random": (12, list(range(1, 11))),
    "attribute_a": (19, [7, 8, 11, 12, 15]),
    "attribute_b": (24, [5, 8, 12, 13, 16, 17, 20]),
    "attribute_c": (26, [5, 8, 12, 13, 16, 17, 22]),
    "attribute_d": (31, [5, 6, 9, 12, 16, 17, 20, 21, 24, 28]),
}


@pytest.mark.parametrize("name", COUNTED)
def test_named_templates_have_their_tokens_where_the_table_says(name):
    parsed = parse_template(name)
    length, positions = COUNTED[name]
    assert (len(parsed.ids), list(parsed.positions["X"]), parsed.eot) == (length, positions, length - 1)
    assert parsed.text == TEMPLATES[name]
    assert set(COUNTED) == set(TEMPLATES)


@pytest.mark.parametrize("text", [*TEMPLATES.values(), "(X), X; a T-shirt X!", "A man, I'm X", "x X x"])
def test_ids_are_those_of_the_whole_text(text):
    parsed = parse_template(text)
    assert list(parsed.ids) == tokenise(text)
    assert all(parsed.ids[i] == X for i in parsed.positions["X"])


def test_a_lower_case_x_is_a_word():
    assert parse_template("x X x").positions == {"X": (2,)}


def test_braces_are_short_for_letters_and_both_may_be_mixed():
    assert parse_template("A photo of a {4} person.").ids == parse_template("default").ids
    assert parse_template("{2} hair and {1} top X").positions == {"X": (1, 2, 5, 7)}


def test_groups_are_told_apart():
    parsed = parse_template("A photo of a X X person behind a Y Y, X.", groups="XY")
    assert parsed.positions == {"X": (5, 6, 13), "Y": (10, 11)}
    assert [parsed.ids[i] for i in parsed.positions["Y"]] == [Y, Y]
    assert parse_template("{3} behind Y", groups="XY").positions == {"X": (1, 2, 3), "Y": (5,)}


def test_words_are_what_stands_between_learnable_tokens():
    words = parse_template("A X person with {2} hair.").words()
    assert words == ["A ", " person with ", "", " hair."]


def test_a_template_without_learnable_tokens_is_an_error():
    with pytest.raises(ConfigError) as caught:
        parse_template("A photo of a person.")
    assert str(caught.value) == (
        "method.template is 'A photo of a person.'; it has no learnable token X; write a stand-alone X for each, "
        "or {n} for n of them, e.g. {4}"
    )
    with pytest.raises(ConfigError, match="method.occluded is 'a X'; it has no learnable token Y; write a stand-alone"):
        parse_template("a X", groups="XY", key="method.occluded")


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean the template 'attribute_[abcd]'\?"):
        parse_template("atribute_d")


@pytest.mark.parametrize("text", ["a Z person with X", "a {0} person", "{}", "{x} X", "X with Y"])
def test_an_unknown_placeholder_is_an_error(text):
    with pytest.raises(ConfigError, match=r"is no placeholder, there are: X \(one learnable token each\) and \{n\}"):
        parse_template(text)


def test_the_context_is_the_limit():
    with pytest.raises(ConfigError, match="has 78 tokens; CLIP takes at most 77"):
        parse_template("X " * 76)
    assert len(parse_template("X " * 75).ids) == 77
