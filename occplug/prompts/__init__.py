"""Prompts: texts with learnable tokens, as token embeddings for a text tower."""

from occplug.prompts.identity import IdentityPrompts
from occplug.prompts.parts import PART_SCHEMES, PartPrompts
from occplug.prompts.template import TEMPLATES, Template, parse_template
from occplug.prompts.tokens import tokenise
from occplug.prompts.words import nearest_words, vocabulary

__all__ = [
    "PART_SCHEMES",
    "TEMPLATES",
    "IdentityPrompts",
    "PartPrompts",
    "Template",
    "nearest_words",
    "parse_template",
    "tokenise",
    "vocabulary",
]
