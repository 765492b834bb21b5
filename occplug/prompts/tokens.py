"""Text to token ids, with CLIP's own tokenizer (in open_clip's package, so offline)."""

from functools import cache

from open_clip import SimpleTokenizer

__all__ = ["CONTEXT_LENGTH", "tokenise"]

CONTEXT_LENGTH = 77  # positions of every CLIP text tower


def tokenise(text: str) -> list[int]:
    """Ids of `text` from start-of-text (49406) to end-of-text (49407), neither cut nor padded."""
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
