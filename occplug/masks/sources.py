"""Where part maps come from: published or generated files, SynthOcc's renderer, or plain stripes."""

from __future__ import annotations

import logging
import os
import shlex
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from occplug.errors import ConfigError, DataError
from occplug.masks.cache import MaskCache
from occplug.masks.degrade import degraded
from occplug.masks.files import check_mask_file, find_mask_files, read_mask_file
from occplug.utils.body_parts import NUM_CHANNELS, SCHEMES
from occplug.utils.files import plain_name, user_path
from occplug.utils.imagefile import open_picture

__all__ = ["FileMasks", "MaskSource", "RenderedMasks", "Stripes", "build_source"]

log = logging.getLogger(__name__)


class MaskSource(Protocol):
    """Maps of an image's parts.

    Attributes:
        groups: per part the channels of `maps` that make it.
        interpolation: how `maps` are brought to the image's size.
    """

    groups: Sequence[Sequence[int]]
    interpolation: str

    def maps(self, image: str) -> Tensor:
        """float32 [C, h, w] of the image file `image`, over its whole extent, at any size."""


def build_source(options, data, images: Sequence[str], size: tuple[int, int]) -> MaskSource:
    """The masks of `images` (paths) of the data set `data`, as the config section `masks` says.

    Args:
        options: `cfg.masks`.   data: has `dataset_dir`, and `name` and `root` for messages.   size: (H, W) in pixels.

    Raises:
        ConfigError: the source cannot serve this data set, or noise on masks from files.
        DataError: masks are missing or faulty.
    """
    if options.source == "files":
        if options.noise != "none":
            raise ConfigError(
                f"masks.noise is {options.noise!r}, but masks.source is 'files'; noise is put on the masks of "
                "'synthocc' and 'stripes' only"
            )
        return FileMasks(options, data, images)
    source: MaskSource
    if options.source == "stripes":
        source = Stripes(options.scheme, size)
    else:
        source = RenderedMasks(options.scheme, data)
    return source if options.noise == "none" else Noisy(source, options.noise, options.noise_strength)


class _PartMaps:
    """A source whose maps are the parts themselves; nearest pixel, as they are labels."""

    interpolation: str = "nearest"

    def __init__(self, scheme: str):
        self.groups: Sequence[Sequence[int]] = [(number,) for number in range(len(SCHEMES[scheme]))]


class Stripes(_PartMaps):
    """Horizontal stripes of equal height, the first part above: for images without any masks.

    Args:
        scheme: gives the number of stripes.   size: (H, W) of the maps.
    """

    def __init__(self, scheme: str, size: tuple[int, int]):
        super().__init__(scheme)
        height, width = size
        part_of = torch.arange(height) * len(self.groups) // height  # [H]
        stripes = torch.nn.functional.one_hot(part_of, len(self.groups)).T.float()  # [K, H]
        self.stripes = stripes[:, :, None].expand(-1, -1, width)

    def maps(self, image: str) -> Tensor:
        """[K, H, W], 1 where a stripe is; the same for every image."""
        return self.stripes


class RenderedMasks(_PartMaps):
    """SynthOcc's true masks: the visible pixels of each part, 1 or 0.

    Args:
        scheme: a grouping of `SCHEMES`.   data: the data set.

    Raises:
        ConfigError: the data set is not rendered.
    """

    def __init__(self, scheme: str, data):
        super().__init__(scheme)
        if not hasattr(data, "part_mask_path"):
            raise ConfigError(
                f"masks.source is 'synthocc', but the data set {_name(data)} has no rendered masks; set it to files or "
                "stripes"
            )
        self.path_of, self.scheme = data.part_mask_path, scheme

    def maps(self, image: str) -> Tensor:
        """[K, H, W], 1 where a part is visible; H and W are the file's."""
        from occplug.datasets.synthocc import group_parts  # imports torchreid, which takes seconds

        codes = np.asarray(open_picture(self.path_of(image), "L"))
        grouped = torch.from_numpy(group_parts(codes, self.scheme).astype(np.int64))
        return (grouped == torch.arange(1, len(self.groups) + 1)[:, None, None]).float()


class Noisy:
    """Another source's part maps, made worse; see `degraded`."""

    def __init__(self, source: MaskSource, noise: str, strength: float):
        self.source, self.noise, self.strength = source, noise, strength
        self.groups: Sequence[Sequence[int]] = source.groups
        self.interpolation: str = source.interpolation

    def maps(self, image: str) -> Tensor:
        """The source's maps after the noise, [K, H, W]; the same noise for the same image."""
        return degraded(self.source.maps(image), self.noise, self.strength, image)


class FileMasks:
    """Confidences of keypoints and limbs in `.npy` files, one per image.

    They lie in `<data set>/masks/<masks.directory>/` (or below `masks.root` in place of `<data set>/masks`, where a
    folder of the data set's name may come between), under the names of `find_mask_files`. All are looked for, and their
    headers checked, at the start.

    Args:
        options: `cfg.masks`.   data: the data set.   images: paths of its training images.

    Raises:
        DataError: masks are missing (unless `masks.missing` is "background"), none belongs to these images, or one is
            faulty.
    """

    def __init__(self, options, data, images: Sequence[str]):
        self.groups: Sequence[Sequence[int]] = list(SCHEMES[options.scheme].values())
        self.interpolation: str = options.interp
        self.folder = _folder(options, data)
        below = {image: os.path.relpath(image, data.dataset_dir) for image in images}
        mask_of = find_mask_files(self.folder, below.values())
        self.files = {image: file for image, name in below.items() if (file := mask_of[name]) is not None}
        missing = [name for name in below.values() if mask_of[name] is None]
        if missing:
            _report_missing(options, self.folder, data, missing, len(below))
        self.numbers = {image: number for number, image in enumerate(self.files)}
        self.cache: MaskCache | None = None
        if options.cache and self.files:
            place = zlib.crc32(os.fsencode(os.path.abspath(self.folder)))  # runs with other masks have another file
            cache = user_path(options.cache) / f"{plain_name(_name(data))}_{options.directory}_{place:08x}.safetensors"
            self.cache = MaskCache(cache, list(self.files.values()))
        else:
            for file in self.files.values():
                check_mask_file(file.path)

    def maps(self, image: str) -> Tensor:
        """Confidences [36, h, w] of the file; zeros [36, 1, 1] where an image has none."""
        if image not in self.numbers:
            return torch.zeros(NUM_CHANNELS, 1, 1)
        return read_mask_file(self.files[image].path) if self.cache is None else self.cache[self.numbers[image]]


def _name(data) -> str:
    return getattr(data, "name", type(data).__name__.lower())


def _folder(options, data) -> str:
    if not options.root:
        return os.path.join(data.dataset_dir, "masks", options.directory)
    root = str(user_path(options.root))
    of_set = os.path.join(root, plain_name(_name(data)), options.directory)
    return of_set if os.path.isdir(of_set) else os.path.join(root, options.directory)


def _report_missing(options, folder: str, data, missing: list[str], total: int) -> None:
    first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    what = f"{_name(data)}: {len(missing)} of {total} training images have no part masks in {folder}: {first}"
    if options.missing == "background":
        log.warning("%s; they train as background alone (masks.missing: background)", what)
        return
    words = ["occplug", "make-masks", "--set", _name(data), "--root", data.root]
    words += ["--out", folder] if options.root else ["--directory", options.directory]
    words += ["--all"] if getattr(data, "combineall", False) else []
    command = shlex.join(words)
    example = _any_mask(folder)
    if len(missing) == total and example is not None:
        raise DataError(
            f"{_name(data)}: {folder} holds masks such as {example}, and none belongs to one of the {total} training "
            f"images, such as {missing[0]}: these are masks of other images; set masks.root and masks.directory, or "
            f"make them with `{command}`"
        )
    raise DataError(f"{what}; make them with `{command}`, or set masks.missing to background")


def _any_mask(folder: str) -> str | None:
    for path, _, files in os.walk(folder):
        masks = sorted(name for name in files if name.endswith(".npy"))
        if masks:
            return os.path.relpath(os.path.join(path, masks[0]), folder)
    return None
