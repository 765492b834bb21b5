"""A two-stage method of a few numbers and a data manager in memory, to test the engine itself."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from occplug.embedding import Embedding
from occplug.method import Group, Method, Stage
from occplug.stages import optimiser

CLASSES = 4


class ToyData:
    """Identities are Gaussian blobs in an 8-dimensional "image"."""

    data_type, width, height = "image", 1, 8

    def __init__(self, batch_size=8):
        g = torch.Generator().manual_seed(7)
        centres = torch.randn(CLASSES, 8, generator=g)
        pids = torch.arange(48) % CLASSES
        images = centres[pids] + 0.3 * torch.randn(48, 8, generator=g)
        rows = [
            {"img": images[i], "pid": int(pids[i]), "camid": i // 4 % 2, "impath": f"{i:03d}.jpg"} for i in range(48)
        ]
        self.sources = self.targets = ["toy"]
        self.pids, self.cameras = list(range(CLASSES)), [0, 1]
        self.train_loader = DataLoader(rows[:24], batch_size=batch_size, shuffle=True)
        self.test_loader = {
            "toy": {"query": DataLoader(rows[24:32], batch_size=3), "gallery": DataLoader(rows[32:], batch_size=5)}
        }
        self.epochs_seen = []

    def set_epoch(self, epoch):
        self.epochs_seen.append(epoch)

    def cache_loader(self, batch_size):
        return DataLoader(self.train_loader.dataset, batch_size=batch_size)

    def summary(self):
        return {"toy": {"train": 24, "query": 8, "gallery": 16, "train_ids": CLASSES, "fingerprint": "toy"}}

    def close(self):
        pass


class ToyMethod(Method):
    """Stage "head" trains a classifier on a frozen backbone (with batch norm), stage "all" trains everything."""

    def __init__(self, epochs=(2, 3), seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.epochs = epochs
        self.backbone = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))
        self.head = nn.Linear(6, CLASSES)
        self.prepared = []

    def losses(self, batch):
        return {"loss_id": F.cross_entropy(self.head(self.backbone(batch["img"])), batch["pid"])}

    def stages(self):
        def stage(name, epochs, pattern):
            return Stage(
                name=name,
                epochs=epochs,
                groups=[Group(pattern, lr=0.1, weight_decay=1e-3)],
                losses=self.losses,
                weights={"loss_id": 1.0},
                schedule=lambda epoch: 1 / epoch,
                optimizer=optimiser("adam"),
                prepare=lambda data, device: self.prepared.append((name, torch.rand(1).item())),
            )

        return [stage("head", self.epochs[0], r"head\..*"), stage("all", self.epochs[1], ".*")]

    def features(self, images, camids=None):
        return Embedding(self.backbone(images))

    def distance(self, query, gallery):
        return torch.cdist(query.vector, gallery.vector)
