"""Prompts: texts with learnable tokens, as token embeddings for a text tower."""

from occplug.prompts.identity import IdentityPrompts
from occplug.prompts.template import TEMPLATES, Template, parse_template
from occplug.prompts.tokens import tokenise
from occplug.prompts.words import nearest_words, vocabulary

__all__ = ["TEMPLATES", "IdentityPrompts", "Template", "nearest_words", "parse_template", "tokenise", "vocabulary"]
