"""Under which licence initial weights come, by the name that `backbone.weights` and `backbone.name` give them.

Three classes: free ones load; restricted ones load with one warning, and the licence goes into the checkpoint; those
that forbid what re-identification is are refused before anything is fetched, and no key changes that.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass

import timm
from timm.models import get_pretrained_cfg

from occplug.errors import ConfigError
from occplug.registry import has_texts

__all__ = ["OPEN_CLIP", "TIMM", "Licence", "check_licence", "licence_of", "licences_of_run", "pass_licence"]

_log = logging.getLogger(__name__)
TIMM, OPEN_CLIP = "timm:", "open_clip:"  # prefixes of backbone.name and of backbone.weights
FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
RESTRICTIONS = {
    "cc-by-nc-4.0": "for non-commercial use alone",
    "dinov3-license": "not for military use, nor for what ITAR controls",
    "apple-ascl": "for the purposes of Apple's sample code licence",
    "apple-amlr": "for research alone",
    "fair-noncommercial-research-license": "for non-commercial research alone",
    "nvidia-open-model-license": "under NVIDIA's terms",
    "seer-license": "under the authors' own terms",
    "gemma": "under Google's terms of use",
}
REFUSED = {
    "sapiens2-license": (
        'section 1.b.vi: it must not be used "(i) for purposes of surveillance, including any research or development '
        'relating to surveillance" nor "(ii) for biometric processing"'
    )
}
NONE_STATED, UNKNOWN = "none stated", "unknown"
# Words that open_clip's tags begin with, up to the first digit or underscore
TAGS = {
    **dict.fromkeys(("openai", "laion", "datacomp", "commonpool", "merged"), "mit"),
    "dfn": "apple-amlr",
    "metaclip": "cc-by-nc-4.0",
}
# Files that `load_official` reads under the name of their authors' code
OFFICIAL = {"personvit": NONE_STATED, "transreid_ssl": "mit", "solider": "apache-2.0"}
_YOURS = "yours to check"
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Licence:
    """A licence by its name on the hub, and what it is of."""

    name: str
    of: str

    @property
    def restriction(self) -> str:
        """What is not allowed; empty for free licences and for files of the user's."""
        if self.name in (*FREE, _YOURS, ""):
            return ""
        return REFUSED.get(self.name) or RESTRICTIONS.get(self.name, "so ask its authors what is allowed")


LSNET = Licence(NONE_STATED, "LSNet's ImageNet weights")  # of WGFF


def licence_of(backbone: str, source) -> Licence:
    """The licence of the weights that `backbone.weights` `source` names for `backbone.name` `backbone`.

    Args:
        source: as `backbone.weights`, a path, or a state dict.

    Returns: its name is empty for "none", and "yours to check" for a file or a state dict.
    """
    if not isinstance(source, str):
        return Licence(_YOURS, str(source) if isinstance(source, os.PathLike) else "a state dict")
    if source == "none":
        return Licence("", "random weights")
    if source in ("embedded", "embedded_even"):
        return Licence("cc0-1.0", "weights of this package")
    if source.startswith(OPEN_CLIP):
        tag = source.removeprefix(OPEN_CLIP)
        return Licence(TAGS.get(re.split(r"[\d_]", tag)[0], UNKNOWN), source)
    if source == "openai":
        return Licence("mit", "OpenAI's CLIP")
    if source == "timm":
        name = backbone.removeprefix(TIMM) if backbone.startswith(TIMM) else "vit_base_patch16_224"
        return Licence(_of_timm(name), f"{TIMM}{name}")
    return Licence(_YOURS, source)


def licences_of_run(cfg) -> list[Licence]:
    """What a model trained with `cfg` is bound by: its backbone's licence, and a restricted one of what is beside it.

    Args:
        cfg: resolved config; reads `backbone` and, of a backbone without texts, `prompts`.
    """
    own = licence_of(cfg.backbone.name, cfg.backbone.weights)
    beside = []
    if not has_texts(cfg.backbone.name):
        beside.append(licence_of(cfg.prompts.clip, cfg.prompts.weights))
    if cfg.backbone.name == "wgff" and cfg.backbone.wgff.weights == "released":
        beside.append(LSNET)
    return [own, *(licence for licence in beside if licence.restriction)]


@functools.lru_cache(maxsize=256)
def _of_timm(name: str) -> str:
    cfg = get_pretrained_cfg(name) if timm.is_model(name) else None
    return (cfg and cfg.license) or NONE_STATED


def check_licence(backbone: str) -> None:
    """Raise ConfigError for a backbone whose published weights forbid surveillance or biometric use; quotes the clause.

    Its architecture alone is refused too: it is of use with those weights alone.
    """
    if backbone.startswith(TIMM):
        _check(Licence(_of_timm(backbone.removeprefix(TIMM)), backbone))


def _check(licence: Licence) -> None:
    if licence.name in REFUSED:
        raise ConfigError(
            f"{licence.of} is under the {licence.name}, which forbids what re-identification is: "
            f"{REFUSED[licence.name]}. occplug does not load it; choose another backbone"
        )


def pass_licence(licence: Licence) -> None:
    """Let weights of this licence be loaded: refuse, warn once, or say nothing.

    Raises:
        ConfigError: the licence forbids surveillance or biometric use; quotes the clause.
    """
    _check(licence)
    if licence.name == _YOURS:
        _log.info("%s: its licence is %s", licence.of, _YOURS)
    elif licence.restriction and (licence.of, licence.name) not in _warned:
        _warned.add((licence.of, licence.name))
        _log.warning("%s: licence %s, %s; what is trained from it is bound too", licence.of, licence.name,
                     licence.restriction)  # fmt: skip
