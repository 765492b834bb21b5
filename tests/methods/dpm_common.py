"""Small DPM and DPM++ models on the embedded tiny CLIP's sizes, with random weights."""

import torch

from occplug import build_method
from occplug.config import default_config
from occplug.method import parameter_groups

SIZE = (64, 32)  # grid 8 x 4
OPTIONS = [
    "data.height", SIZE[0], "data.width", SIZE[1], "backbone.weights", "none",
    "method.mask_levels", [1, 2, 5, 6], "method.saliency.levels", [1, 2, 5, 6],
]  # fmt: skip


def config(name, *options):
    return default_config(name, "clip_vit_tiny", [*OPTIONS, *options])


def tiny(name, *options, classes=5, cameras=3):
    torch.manual_seed(1)
    return build_method(config(name, *options), classes, cameras)


def batch(n=8, classes=5, cameras=3):
    return {
        "img": torch.randn(n, 3, *SIZE),
        "pid": torch.arange(n) // 2 % classes,
        "camid": torch.arange(n) % cameras,
        "epoch": 1,
    }


def stage(method, name):
    return next(s for s in method.stages() if s.name == name)


def trained(method, one):
    """Names of what a stage trains -> learning rate."""
    groups = parameter_groups(method, [*one.groups, *(g for c in one.extra_optimizers for g in c.groups)])
    return {name: group["lr"] for group in groups for name in group["names"]}


def wake_mask(method):
    """A mask generator whose masks are not all one half."""
    torch.nn.init.normal_(method.metric.generator.linear.weight)


class Data:
    """A data manager of a few random images, for the engine."""

    data_type, height, width = "image", *SIZE

    def __init__(self, fingerprint="f", pids=(0, 1, 2, 3, 4), name="toy"):
        draw = torch.Generator().manual_seed(4)
        rows = [
            {"img": torch.randn(3, *SIZE, generator=draw), "pid": i // 4 % 5, "camid": i % 3, "impath": f"{i}.jpg"}
            for i in range(16)
        ]
        self.sources = self.targets = [name]
        self.name, self.fingerprint, self.pids, self.cameras = name, fingerprint, list(pids), [0, 1, 2]
        self.rows = rows
        self.train_loader = torch.utils.data.DataLoader(rows, batch_size=8)
        self.test_loader = {name: {k: torch.utils.data.DataLoader(rows, batch_size=8) for k in ("query", "gallery")}}

    def cache_loader(self, batch_size):
        return torch.utils.data.DataLoader(self.rows, batch_size=batch_size)

    def summary(self):
        counts = {"train": 16, "query": 16, "gallery": 16, "train_ids": 5, "fingerprint": self.fingerprint}
        return {self.name: counts}
