"""Text to token ids, with CLIP's own tokenizer (in open_clip's package, so offline)."""

from functools import cache

from open_clip import SimpleTokenizer

__all__ = ["CONTEXT_LENGTH", "tokenise", "whole_words"]

CONTEXT_LENGTH = 77  # positions of every CLIP text tower


def tokenise(text: str) -> list[int]:
    """Ids of `text` from start-of-text (49406) to end-of-text (49407), neither cut nor padded."""
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@cache
def whole_words() -> dict[int, str]:
    """Token id -> word, for the tokens of CLIP's vocabulary that are a whole word of two letters or more."""
    decoder = _tokenizer().decoder
    words = {i: token.removesuffix("</w>") for i, token in decoder.items() if token.endswith("</w>")}
    return {i: word for i, word in words.items() if len(word) > 1 and word.isascii() and word.isalpha()}
