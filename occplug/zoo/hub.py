"""Weights on the Hugging Face hub: fetching `hf://user/repo`."""

from __future__ import annotations

from pathlib import Path

from occplug.errors import CheckpointError, first_line
from occplug.zoo.addresses import HUB, MODEL_FILE

__all__ = ["fetch_from_hub", "parse_hub"]


def parse_hub(address: str) -> tuple[str, str | None, str]:
    """`hf://user/repo[@revision][/file]` as repository, revision and file. Raises CheckpointError if it is not."""
    repository, _, rest = address.removeprefix(HUB).partition("@")
    parts = (rest or repository).split("/")
    if rest:
        user_and_name, revision, inside = repository, parts[0], parts[1:]
    else:
        user_and_name, revision, inside = "/".join(parts[:2]), None, parts[2:]
    if user_and_name.count("/") != 1 or not all(user_and_name.split("/")):
        raise CheckpointError(
            f"{address}: repositories are hf://USER/REPO, hf://USER/REPO@REVISION or hf://USER/REPO/FILE"
        )
    return user_and_name, revision, "/".join(inside) or MODEL_FILE


def fetch_from_hub(address: str) -> Path:
    """The weight file at `address`, in huggingface_hub's own cache.

    Raises:
        CheckpointError: no such repository or file, or no connection and nothing in the cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, revision, file = parse_hub(address)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{address}: not in the cache, and the hub cannot be reached (no connection, or HF_HUB_OFFLINE is set); "
            "connect once, or give a folder that save_pretrained wrote"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"{address}: {file} cannot be fetched ({reason}); is the name right, and public?"
        ) from error
