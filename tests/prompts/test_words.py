"""Nearest words against a plain search."""

import torch

from occplug.prompts import nearest_words, tokenise, vocabulary


def test_the_vocabulary_is_whole_words():
    words = vocabulary()
    assert words[tokenise("person")[1]] == "person" and words[tokenise("red")[1]] == "red"
    assert all(len(word) > 1 and word.isalpha() for word in words.values())
    assert vocabulary([2533, 343, 0]) == {2533: "person"}


def test_nearest_words_against_a_plain_search():
    words, table = {5: "red", 2: "blue", 7: "grey"}, torch.randn(9, 4)
    tokens = torch.randn(600, 4)  # more than one chunk
    found = nearest_words(tokens, table, words, 2)
    for token, near in zip(tokens, found):
        cosines = {w: float(token @ table[i] / (token.norm() * table[i].norm())) for i, w in words.items()}
        ranked = sorted(cosines, key=cosines.get, reverse=True)[:2]
        assert [word for word, _ in near] == ranked
        assert all(abs(value - cosines[word]) < 1e-5 for word, value in near)
