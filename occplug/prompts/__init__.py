"""Prompts: texts with learnable tokens, as token embeddings for a text tower."""

from occplug.prompts.identity import IdentityPrompts
from occplug.prompts.template import Template, parse_template
from occplug.prompts.tokens import tokenise

__all__ = ["IdentityPrompts", "Template", "parse_template", "tokenise"]
