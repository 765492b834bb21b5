"""All masks of a data set in one file of bytes, memory-mapped: reading one is one slice."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from occplug.errors import ConfigError
from occplug.masks.files import MaskFile, check_mask_file, read_mask_file
from occplug.utils.body_parts import NUM_CHANNELS
from occplug.utils.files import user_path, write_atomically
from occplug.utils.integrity import CHECKSUM, is_intact, save_checked

__all__ = ["MaskCache"]

log = logging.getLogger(__name__)
VERSION = "1"
_LIMIT = 8 << 30  # bytes; the cache is put together in memory


class MaskCache:
    """The masks of `masks`, 36 channels at their own size, as bytes in `file`; built if absent or out of date.

    A byte is round(255 * confidence), confidences clamped to [0, 1]. The file knows the names, sizes and times of
    change of the mask files it was made from; if any differs it is made again.

    Args:
        file: the cache.   masks: the mask files, in order.   progress: show a bar while building.

    Raises:
        ConfigError: the masks are too large to be cached.
        DataError: a mask file is faulty, as `read_mask_file`.
        TrainingError: the file cannot be written.
    """

    def __init__(self, file: Path, masks: Sequence[MaskFile], progress: bool = True):
        self.file = user_path(file)
        self._opened: Any = None
        wanted = _fingerprint(masks)
        recorded = self._recorded()
        if recorded != wanted:
            if recorded is not None:
                log.info("%s is out of date or damaged, and is made again", self.file)
            _build(self.file, masks, wanted, progress)
        with safe_open(self.file, framework="pt") as stored:
            self.starts, self.sizes = stored.get_tensor("starts").tolist(), stored.get_tensor("sizes").tolist()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> Tensor:
        """float32 [36, h, w] of mask `number`."""
        if self._opened is None:  # in each process its own
            self._opened = safe_open(self.file, framework="pt").get_slice("maps")
        maps = self._opened[self.starts[number] : self.starts[number + 1]]
        return maps.view(NUM_CHANNELS, *self.sizes[number]).float().mul_(1 / 255)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}

    def _recorded(self) -> str | None:
        """The fingerprint in the file; None if there is no such file, "" if it is damaged."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, framework="pt") as stored:
                header, tensors = stored.metadata() or {}, {name: stored.get_tensor(name) for name in stored.keys()}
            return header.get("fingerprint", "") if CHECKSUM in header and is_intact(tensors, header) else ""
        except (SafetensorError, OSError):
            return ""


def _fingerprint(masks: Sequence[MaskFile]) -> str:
    digest = hashlib.sha256(VERSION.encode())
    for mask in masks:
        name = "/".join(Path(mask.path).parts[-2:])
        digest.update(os.fsencode(f"{name} {mask.size} {mask.time}\n"))
    return digest.hexdigest()


def _build(file: Path, masks: Sequence[MaskFile], fingerprint: str, progress: bool) -> None:
    sizes = np.array([check_mask_file(mask.path) for mask in masks], np.int64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(NUM_CHANNELS * sizes.prod(axis=1))])
    if starts[-1] > _LIMIT:
        raise ConfigError(
            f"masks.cache: the {len(masks)} masks would take {starts[-1] / 2**30:.1f} GB, more than the limit of "
            f"{_LIMIT / 2**30:.0f} GB; leave masks.cache empty to read the files themselves"
        )
    maps = torch.empty(int(starts[-1]), dtype=torch.uint8)
    with tqdm(masks, f"caching masks in {os.path.basename(file)}", disable=not progress, unit="mask") as bar:
        for start, mask in zip(starts.tolist(), bar):
            one = read_mask_file(mask.path).clamp_(0, 1).mul_(255).round_().flatten()
            maps[start : start + len(one)] = one
    tensors = {"maps": maps, "starts": torch.from_numpy(starts), "sizes": torch.from_numpy(sizes)}
    write_atomically(file, lambda temporary: save_checked(tensors, temporary, {"fingerprint": fingerprint}))
