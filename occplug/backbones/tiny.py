"""The embedded tiny CLIP: its architecture and the compact weight file that ships with the package.

The token table of CLIP's tokenizer (49,408 rows) would be most of the file, but captions touch a few dozen rows and the
others keep their initial noise. So the file holds all other tensors and the rows of a vocabulary, in fp16; the loader
draws the remaining rows again from the seed they were first drawn from. SynthOcc is what the weights were trained on:
they know rendered people, not photographs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from occplug.errors import CheckpointError

__all__ = [
    "ARCHITECTURE",
    "ASSET",
    "NAMES",
    "TABLE",
    "describe",
    "initial_table",
    "load",
    "load_named",
    "read_metadata",
    "save",
]

# An ordinary open_clip model config. Width and embedding differ on purpose: code that mixes them up fails on the CPU.
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": [128, 64], "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
    "quick_gelu": True,
}
ASSET = Path(__file__).resolve().parents[1] / "assets" / "clip_vit_tiny.safetensors"
# initial weights of clip_vit_tiny by name: as the file has them, and with images and texts of one norm
NAMES = ("embedded", "embedded_even")
TABLE = "token_embedding.weight"
UNUSED_ROWS = "numpy PCG64 seed 0, N(0, .02)"
FORMAT = "occplug-tiny-clip-1"


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    text = ARCHITECTURE["text_cfg"]
    draw = np.random.Generator(np.random.PCG64(0))
    return draw.normal(0.0, 0.02, (text["vocab_size"], text["width"])).astype(np.float16)


def initial_table() -> Tensor:
    """The token table before training, [49408, 128] float32 with values that fp16 holds exactly."""
    return torch.from_numpy(_noise().astype(np.float32))


def save(path, state_dict: dict[str, Tensor], token_ids: Tensor, metadata: dict[str, str]) -> None:
    """Write the compact file.

    Args:
        path: a .safetensors file; written beside and moved, so that it is whole or absent.
        state_dict: open_clip layout; the token table may be whole [49408, W] or hold just the rows of `token_ids`.
        token_ids: [K] integers, ascending, the vocabulary whose rows are stored.
        metadata: further entries, e.g. `world`, `samples`, `revision`; the architecture is added here.
    Raises:
        ValueError: token ids not ascending, or a table whose row count is neither K nor the whole vocabulary.
    """
    ids = torch.as_tensor(token_ids, dtype=torch.int32)
    if len(ids) == 0 or (ids.diff() <= 0).any():
        raise ValueError("token_ids must be ascending and not empty")
    table = state_dict[TABLE]
    if len(table) not in (len(ids), ARCHITECTURE["text_cfg"]["vocab_size"]):
        raise ValueError(f"the token table has {len(table)} rows; {len(ids)} or the whole vocabulary were expected")
    rows = table if len(table) == len(ids) else table[ids.long()]
    tensors = {key: value.detach().half().contiguous() for key, value in state_dict.items() if key != TABLE}
    tensors |= {"token_rows": rows.detach().half().contiguous(), "token_ids": ids}
    header = {"format": FORMAT, "config": json.dumps(ARCHITECTURE), "unused_rows": UNUSED_ROWS, **metadata}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(to_bytes(tensors, {key: str(value) for key, value in header.items()}))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path):
    if not Path(path).is_file():
        cure = "install occplug again, which brings its own (in a checkout tools/pretrain_clip.py makes one)"
        raise CheckpointError(f"{path}: there is no such file; {cure}")
    try:
        file = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if (file.metadata() or {}).get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a tiny CLIP of occplug; other CLIP weights are given by backbone.weights")
    return file


def read_metadata(path=ASSET) -> dict[str, str]:
    """The file's header: `format`, `config` (JSON), `unused_rows`, `world`, `samples` and so on.

    Raises:
        CheckpointError: missing, damaged, or not such a file.
    """
    with _open(path) as file:
        return file.metadata()


def load(path=ASSET) -> dict[str, Tensor]:
    """State dict in open_clip's layout, float32, with the whole token table [49408, 128].

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    with _open(path) as file:
        if json.loads(file.metadata()["config"]) != ARCHITECTURE:
            raise CheckpointError(f"{path}: its architecture is {file.metadata()['config']}, not that of clip_vit_tiny")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    table = initial_table()
    table[ids] = rows.float()
    return {key: value.float() for key, value in state.items()} | {TABLE: table}


def load_named(name: str) -> dict[str, Tensor]:
    """The package's file by one of `NAMES`, as :func:`load` gives it.

    `embedded_even` scales both projections so that image and text features have the same mean norm, the root of the
    logit scale, in place of 10 and the rest: raw products and cosines stay, but margins of triplet losses and the
    embedding of a test see images of another size.

    Raises:
        CheckpointError: as :func:`load`.
    """
    state = load()
    if name == "embedded":
        return state
    factor = state["logit_scale"].exp().sqrt() / float(read_metadata()["image_norm"])
    even = {"visual.proj": state["visual.proj"] * factor, "text_projection": state["text_projection"] / factor}
    return state | even


def describe(path=ASSET) -> dict[str, Any]:
    """What is in the file: `metadata`, and the token ids by what training did to their rows.

    Returns: `trained` (ids whose rows training moved), `stored_untrained` (in the file, still initial noise), and
        `absent`, the number of rows drawn again at load time. A prompt is worth something only where its tokens are
        in `trained`.
    """
    with _open(path) as file:
        metadata, ids, rows = file.metadata(), file.get_tensor("token_ids").long(), file.get_tensor("token_rows")
    moved = (rows.float() != initial_table()[ids]).any(dim=1)
    return {
        "metadata": metadata,
        "trained": ids[moved].tolist(),
        "stored_untrained": ids[~moved].tolist(),
        "absent": ARCHITECTURE["text_cfg"]["vocab_size"] - len(ids),
    }
