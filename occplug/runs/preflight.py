"""What would end a run hours later, looked for in its first seconds; each fault is an error with its cure.

Elsewhere, and also before the first epoch: batches of P identities with K images (`occplug.samplers`), part masks
(`occplug.masks`), rows of the camera embedding (`occplug.data.cameras`).
"""

from __future__ import annotations

import csv
import functools
import logging
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from occplug.backbones.tower import MEAN_CAMERA
from occplug.data.manager import DataManager
from occplug.datasets.by_path import OwnImages
from occplug.distributed import current_ranks
from occplug.errors import ConfigError, DataError, OutputError
from occplug.method import Method
from occplug.utils.files import plain_name, write_atomically
from occplug.utils.imagefile import check_header
from occplug.utils.measuring import MIB, free_memory

__all__ = ["check_disk", "check_images", "check_matches", "check_memory", "write_splits"]

log = logging.getLogger(__name__)
_SHOWN = 5


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def check_matches(data: DataManager) -> None:
    """Every query has a gallery image of its person that the rule of cameras leaves in.

    Of a published set some may have none, which the log says.

    Raises:
        DataError: none has; or a user's own images have no queries, or one without.
    """
    for target, sides in data.test_dataset.items():
        cameras = defaultdict(set)
        for _, pid, camid, *_ in sides["gallery"]:
            cameras[pid].add(camid)
        dataset = data.sets[target]
        if isinstance(dataset, OwnImages) and not (sides["query"] and sides["gallery"]):
            raise DataError(dataset.untestable(bool(sides["query"])))
        lost = [path for path, pid, camid, *_ in sides["query"] if not cameras[pid] - {camid}]
        if not lost:
            continue
        problem = f"{target}: {len(lost)} of {len(sides['query'])} queries have no match in the gallery: {_first(lost)}"
        known = getattr(dataset, "has_cameras", True)
        rule = "an image of the same person and another camera" if known else "an image of the same person"
        if isinstance(dataset, OwnImages):
            hint = "; or leave camid out, so that images of one camera count" if known else ""
            raise DataError(f"{problem}; each query needs {rule} there: add it, or leave such queries out{hint}")
        if len(lost) == len(sides["query"]):
            raise DataError(f"{problem}; each query needs {rule} there: check that query and gallery belong together")
        log.warning("%s; they are left out of all averages", problem)


def check_images(data: DataManager) -> None:
    """The first bytes of a user's own images, all of them, are those of pictures.

    Logs how many training identities have one image.

    Raises:
        DataError: some are not; counts them and names the first.
    """
    for name, dataset in data.sets.items():
        if not isinstance(dataset, OwnImages):
            continue
        damaged = []
        for path, *_ in dataset.rows:
            try:
                check_header(path)
            except DataError as error:
                damaged.append(str(error))
        if damaged:
            listed = "; ".join(damaged[:3]) + ("; ..." if len(damaged) > 3 else "")
            raise DataError(
                f"{name}: {len(damaged)} of {len(dataset.rows)} images cannot be read: {listed} (occplug doctor {name} "
                "lists all)"
            )
        counts: dict[int, int] = defaultdict(int)
        for _, label, *_ in dataset.train:
            counts[label] += 1
        single = [str(dataset.pids[label]) for label, count in counts.items() if count == 1]
        if single:
            log.info("%s: %d training identities have one image: %s", name, len(single), _first(single))


def write_splits(data: DataManager, folder: Path) -> None:
    """Write `splits/NAME.csv` below `folder` for each set of a user's own images, to be given again as `csv:FILE`."""
    for name, dataset in data.sets.items():
        if not isinstance(dataset, OwnImages):
            continue
        file = Path(folder) / "splits" / f"{plain_name(name)}.csv"
        write_atomically(file, functools.partial(_write_rows, dataset.listed()))
        log.info("%s: the split is written to %s (csv:%s is the same split)", name, file, file)


def _write_rows(rows: list[dict], file: Path) -> None:
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def check_disk(model: nn.Module, stages: int, folder: Path) -> None:
    """The disk of `folder` has room for one file a stage, the state to resume from, and the one that replaces it.

    A lower bound: the optimizer's moments come on top.

    Raises:
        OutputError: it has not.
    """
    size = sum(value.nbytes for value in model.state_dict().values())
    checkpoints = Path(folder) / "checkpoints"
    present = sum(file.stat().st_size for file in checkpoints.glob("*.pth")) if checkpoints.is_dir() else 0
    needed = (stages + 2) * size - present
    place = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{folder}: the checkpoints of a run take at least {_size(needed)} ({stages + 2} files of {_size(size)}), "
            f"and its disk has {_size(free)} left; free some, or set data.save_dir to another disk"
        )


def check_memory(engine, cfg) -> None:
    """What a backward pass over one batch keeps of its images fits into the memory that is free.

    Measured on one image through the model's test-time embedding, without what losses and prompts need: a lower bound.

    Raises:
        ConfigError: it does not.
    """
    device = engine.device
    per_image = _kept_for_backward(engine.method, (3, cfg.data.height, cfg.data.width), device)
    if device.type == "cuda" and cfg.amp.dtype != "fp32":
        per_image //= 2
    batch = cfg.train.batch_size // current_ranks().world
    at_once = min(cfg.train.micro_batch or batch, batch)
    needed = at_once * per_image
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory() * MIB
    if needed > free:
        fits = max(1, int(free / per_image / 2))
        raise ConfigError(
            f"a backward pass over {at_once} images of {cfg.data.height} x {cfg.data.width} keeps at least "
            f"{_size(needed)}, and {_size(free)} of memory are free; lower train.batch_size, or set train.micro_batch "
            f"to {fits}"
        )


def _kept_for_backward(method: Method, shape: tuple[int, int, int], device: torch.device) -> int:
    """Bytes that autograd keeps for one image, parameters aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    modes = {module: module.training for module in method.modules()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    method.eval()  # statistics of batch norm stay as they are
    camids = torch.full((1,), MEAN_CAMERA, device=device)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            embedding = method.features(torch.zeros(1, *shape, device=device), camids)
        del embedding  # only now: what is kept must not be freed, or its place would count once for several
    finally:
        for module, training in modes.items():
            module.training = training
    return sum(kept.values())


def _size(count: float) -> str:
    unit = next((n for n, power in (("GiB", 30), ("MiB", 20)) if count >= 1 << power), "KiB")
    return f"{count / {'GiB': 1 << 30, 'MiB': 1 << 20, 'KiB': 1 << 10}[unit]:.1f} {unit}"
