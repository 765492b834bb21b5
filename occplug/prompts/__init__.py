"""Prompts: texts with learnable tokens, as token embeddings for a text tower."""

from occplug.prompts.identity import IdentityPrompts
from occplug.prompts.parts import PART_SCHEMES, PartPrompts
from occplug.prompts.template import Template, parse_template
from occplug.prompts.tokens import tokenise

__all__ = ["PART_SCHEMES", "IdentityPrompts", "PartPrompts", "Template", "parse_template", "tokenise"]
