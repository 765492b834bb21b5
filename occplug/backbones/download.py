"""CLIP weights by name: where they lie on this machine, where they come from, and what OpenAI's checksums are."""

from __future__ import annotations

import http.client
import logging
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from open_clip.pretrained import get_pretrained_cfg

from occplug.backbones.licences import OPEN_CLIP
from occplug.backbones.tags import entry_of
from occplug.errors import CheckpointError, ConfigError, first_line
from occplug.utils.files import file_sha256, user_path

__all__ = ["check_sum", "is_openais", "openai_file", "weights_file"]

_log = logging.getLogger(__name__)
_OPENAI = {"clip_vit_b16": "ViT-B-16-quickgelu", "clip_vit_l14": "ViT-L-14-quickgelu", "clip_rn50": "RN50-quickgelu"}
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PATIENCE = 5  # seconds for each server to answer; the hub's own client retries for 47 s


@dataclass(frozen=True)
class _Tagged:
    """Weights of another tag, on the hub alone."""

    repository: str
    tag: str


@dataclass(frozen=True)
class _Source:
    url: str  # OpenAI's own server; the sha256 is in the path
    repository: str  # the same weights on the Hugging Face hub

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        return self.url.split("/")[-2]

    @property
    def local(self) -> Path:
        """Where OpenAI's and open_clip's own downloads put the file."""
        return user_path("~/.cache/clip") / self.name


def _sources() -> dict[str, _Source]:
    """Backbone name -> where its weights come from, as open_clip states it."""
    entries = {name: get_pretrained_cfg(model, "openai") for name, model in _OPENAI.items()}
    return {name: _Source(entry["url"], entry["hf_hub"].strip("/")) for name, entry in entries.items()}


def check_sum(path: Path, is_openais: bool = True) -> None:
    """Compare the sha256 of a file that has the name of one of OpenAI's files with the published one.

    Args:
        is_openais: the file has to be OpenAI's; where the user named it, another one of that name gets a warning.

    Raises:
        CheckpointError: they differ; names both.
    """
    expected = {source.name: source.sha256 for source in _sources().values()}.get(path.name)
    if expected is None or not path.is_file():
        return
    digest = file_sha256(path)
    if digest == expected:
        _log.info("%s: sha256 as published", path)
        return
    mismatch = f"{path}: its sha256 is {digest}, but OpenAI's {path.name} has {expected}"
    if is_openais:
        raise CheckpointError(f"{mismatch}; the download is broken: delete the file, and it is fetched again")
    _log.warning("%s; the download is broken (fetch it again), or it is another file (rename it)", mismatch)


def openai_file(backbone: str) -> Path:
    """OpenAI's weights for `backbone`: a file on this machine, or else a download.

    Looks in `~/.cache/clip`, then in the Hugging Face cache, then asks the hub, then OpenAI's server, each for at most
    a few seconds. `HF_HUB_OFFLINE=1` keeps it from asking anybody.

    Raises:
        ConfigError: OpenAI has no such model.
        CheckpointError: not on this machine and nobody answers; says which file to fetch and where to put it.
    """
    sources = _sources()
    if backbone not in sources:
        raise ConfigError(
            f"backbone.weights is 'openai', but OpenAI has no weights for {backbone}; it has for {', '.join(sources)}"
        )
    source = sources[backbone]
    file = _on_this_machine(source)
    if file is None:
        file = _fetch(source, backbone)
    return file


def weights_file(backbone: str, source: str) -> Path:
    """The file of the weights "openai" or "open_clip:TAG" for `backbone`: found on this machine, or else downloaded.

    Raises:
        ConfigError: there are none of that name.
        CheckpointError: not on this machine and nobody answers; says which file to fetch and where to put it.
    """
    if source in ("openai", f"{OPEN_CLIP}openai"):
        return openai_file(backbone)
    tagged = _Tagged(entry_of(backbone, source)["hf_hub"].strip("/"), source)
    return _in_cache(tagged.repository) or _fetch_tagged(tagged)


def is_openais(path: Path) -> bool:
    """Whether a file is in the form of OpenAI's own, a TorchScript archive, or has the name and checksum of one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return True
    expected = {source.name: source.sha256 for source in _sources().values()}.get(path.name)
    return expected is not None and file_sha256(path) == expected


def _on_this_machine(source: _Source) -> Path | None:
    return source.local if source.local.is_file() else _in_cache(source.repository)


def _in_cache(repository: str) -> Path | None:
    for name in _HUB_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _fetch_tagged(tagged: _Tagged) -> Path:
    reasons = ["HF_HUB_OFFLINE is set"] if constants.HF_HUB_OFFLINE else []
    for name in () if constants.HF_HUB_OFFLINE else _HUB_FILES:
        try:
            _check_answer(huggingface_hub.hf_hub_url(tagged.repository, name))
            _log.info("downloading %s of %s", name, tagged.repository)
            return Path(huggingface_hub.hf_hub_download(tagged.repository, name))
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            reasons.append(f"{name}: {first_line(error)}")
    raise CheckpointError(
        f"the weights {tagged.tag} are not on this machine and cannot be downloaded ({'; '.join(reasons)}).\n"
        f"  Fetch {' or '.join(_HUB_FILES)} of https://huggingface.co/{tagged.repository} elsewhere, into the cache of "
        "the hub's client, or set backbone.weights to its path and backbone.activation to the tag's."
    )


def _fetch(source: _Source, backbone: str) -> Path:
    from occplug.utils.download import download  # its libraries are only needed here

    if constants.HF_HUB_OFFLINE:
        raise _unavailable(source, backbone, "HF_HUB_OFFLINE is set")
    page = huggingface_hub.hf_hub_url(source.repository, _HUB_FILES[0])
    reasons = []
    for address, fetch in (
        (page, lambda: huggingface_hub.hf_hub_download(source.repository, _HUB_FILES[0])),
        (source.url, lambda: download(source.local, source.url, sha256=source.sha256)),
    ):
        try:
            _check_answer(address)
            _log.info("downloading %s", address)
            return Path(fetch())
        except (OSError, http.client.HTTPException, RuntimeError, CheckpointError) as error:
            reason = str(error).strip() or type(error).__name__
            reasons.append(f"{address.split('/')[2]}: {reason.splitlines()[0]}")
    raise _unavailable(source, backbone, "; ".join(reasons))


def _check_answer(address: str) -> None:
    """Return if the server has the file; raises OSError otherwise."""
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "occplug"})
    with urllib.request.urlopen(request, timeout=_PATIENCE):
        pass


def _unavailable(source: _Source, backbone: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"OpenAI's weights for {backbone} are not on this machine and cannot be downloaded ({reason}).\n"
        f"  Fetch {source.url}\n"
        f"  or open_clip_model.safetensors of https://huggingface.co/{source.repository}\n"
        f"  elsewhere. Put the .pt file at ~/.cache/clip/{source.name}, or set backbone.weights to either's path (and "
        "backbone.activation to quick_gelu for the safetensors file, which does not tell it)."
    )
