"""Words for pretraining: short attribute captions, the stored vocabulary, and a tokeniser onto its rows."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from occplug.datasets.synthocc import ATTRIBUTES, CATEGORIES

__all__ = ["CLAUSES", "OPENINGS", "PHRASES", "VALUES", "RowTokenizer", "prompts", "vocabulary"]

OPENINGS = ("a photo of a person", "a person", "a pedestrian", "an image of a person walking")
COMMON_WORDS = 2000

# What the five methods' prompt templates, body parts and usual attribute words need beside the captions' own words.
EXTRA_WORDS = """
a photo of x person . , wearing top trousers and shoes with hair posture carrying bag occluded by an object partially
vehicle man woman male female young old adult child gender age people head face neck upper lower middle body torso
chest arm arms hand hands leg legs foot feet knee waist shoulder back front side left right background foreground full
half visible hidden behind covered occlusion occluder obstacle no not without any nothing hat cap helmet backpack
handbag shoulder suitcase umbrella bicycle car plant box pole wall fence sign bin tree wheelchair sleeve sleeves long
short dress skirt shorts jeans coat jacket shirt hoodie sweater suit scarf glasses boots sneakers black white grey
gray red orange yellow green blue navy purple pink brown beige dark light striped checked dotted plain logo two-tone
vertical horizontal slim average heavy thin tall standing walking running sitting riding turning facing camera image
picture pedestrian blurry cropped street synthetic rendered
"""


def article(words: str) -> str:
    """`words` with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _hair(style: str, colour: str) -> str:
    return {"ponytail": f"a {colour} ponytail", "bald": "a bald head"}.get(style, f"{style} {colour} hair")


def _pattern(name: str, colour: str, kind: str, second: str) -> str:
    if name == "plain":
        return f"{article(f'{colour} {kind}')}"
    if name == "logo":
        return f"{article(f'{colour} {kind}')} with {article(second)} logo"
    return f"{article(f'{colour} {name} {kind}')} with {second}"


def _bottom(kind: str, colour: str) -> str:
    return article(f"{colour} skirt") if kind == "skirt" else f"{colour} {kind}"


# attribute -> value -> phrase; `w` holds one value per attribute for the words the attribute does not decide, the same
# for all its values, so that the phrases of one attribute differ in nothing else
PHRASES = {
    "top_color": lambda v, w: "wearing " + article(f"{v} {w['top_type']}"),
    "top_type": lambda v, w: "wearing " + article(f"{w['top_color']} {v}"),
    "top_pattern": lambda v, w: "wearing " + _pattern(v, w["top_color"], w["top_type"], w["second_color"]),
    "bottom_color": lambda v, w: "wearing " + _bottom(w["bottom_type"], v),
    "bottom_type": lambda v, w: "wearing " + _bottom(v, w["bottom_color"]),
    "hair": lambda v, w: "with " + _hair(v, w["hair_color"]),
    "hair_color": lambda v, w: f"with {v} hair",
    "hat": lambda v, w: "without a hat" if v == "none" else "with " + article(f"{w['hat_color']} {v}"),
    "bag": lambda v, w: "without a bag" if v == "none" else "carrying " + article(f"{w['bag_color']} {v}"),
    "shoe_color": lambda v, w: f"wearing {v} shoes",
    "build": lambda v, w: f"of {v} build",
    "occluder": lambda v, w: "not occluded" if v == "none" else "occluded by " + article(v),
}
VALUES = ATTRIBUTES | {"occluder": ("none", *CATEGORIES)}

# attribute -> the clause of a caption that tells it, and that an occluder may hide
CLAUSES = {name: name.split("_")[0] for name in PHRASES if name.startswith(("top", "bottom"))}
CLAUSES |= {"hair": "head", "hair_color": "head", "hat": "head", "bag": "bag", "shoe_color": "shoes", "build": "build"}


def prompts(attribute: str, draw: np.random.Generator) -> list[str]:
    """One short caption per value of `attribute`; opening and undecided words are drawn once for all values."""
    words = {name: values[draw.integers(len(values))] for name, values in ATTRIBUTES.items()}
    opening = OPENINGS[draw.integers(len(OPENINGS))]
    return [f"{opening} {PHRASES[attribute](value, words)}" for value in VALUES[attribute]]


@lru_cache(maxsize=1)
def _bpe():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(maxsize=100_000)
def _pieces(word: str) -> tuple[int, ...]:
    return tuple(_bpe().encode(word))


def encode(text: str) -> list[int]:
    """CLIP's token ids of `text` with start and end; word by word, so that a caption costs a few look-ups."""
    words = re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())
    bpe = _bpe()
    return [bpe.sot_token_id, *(piece for word in words for piece in _pieces(word)), bpe.eot_token_id]


def vocabulary(captions) -> Tensor:
    """Ascending token ids whose rows the file stores: captions, attribute prompts, method templates, common words."""
    draw = np.random.default_rng(0)
    texts = list(captions) + [p for name in PHRASES for _ in range(60) for p in prompts(name, draw)]
    texts += [EXTRA_WORDS, *(word for values in VALUES.values() for word in values)]
    ids = {token for text in texts for token in encode(text)}
    # CLIP's merges are ordered by frequency, so its first whole words are the common ones
    common = sorted(i for piece, i in _bpe().encoder.items() if re.fullmatch("[a-z]{2,}</w>", piece))
    return torch.tensor(sorted(ids | set(common[:COMMON_WORDS])))


class RowTokenizer:
    """Texts -> rows of the stored vocabulary, cut to the longest text of the call."""

    def __init__(self, token_ids: Tensor):
        self.row = {int(token): row for row, token in enumerate(token_ids)}

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """-> (rows [n, L] int64 padded with 0, position of the end token [n])."""
        encoded = [[self.row[token] for token in encode(text)] for text in texts]
        longest = max(map(len, encoded))
        rows = torch.tensor([line + [0] * (longest - len(line)) for line in encoded])
        return rows, torch.tensor([len(line) - 1 for line in encoded])
