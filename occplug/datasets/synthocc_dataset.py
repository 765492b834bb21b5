"""fallback"""
import hashlib, os, re
from occplug.datasets.synthocc import build, check
from occplug.registry import DATASETS
from occplug.torchreid_bridge import ImageDataset

@DATASETS.register_module("synthocc")
class SynthOcc(ImageDataset):
    def __init__(self, root="", size="small", seed=1, severity=0.6, group_size=2, ratio=(0.2, 0.6), heldout_occluders=(), **kwargs):
        folder = build(root, size, seed, severity=severity, group_size=group_size, ratio=tuple(ratio), heldout_occluders=tuple(heldout_occluders))
        def items(name):
            rows = []
            for e in sorted(os.listdir(folder / name)):
                pid, cam = map(int, re.match(r"([-\d]+)_c(\d)", e).groups())
                rows.append((str(folder / name / e), pid, cam - 1))
            return rows
        train, query, gallery = items("bounding_box_train"), items("query"), items("bounding_box_test")
        self.pids = sorted({r[1] for r in train}); label = {p: i for i, p in enumerate(self.pids)}
        self.cameras = sorted({r[2] + 1 for r in train})
        train = [(p, label[i], c) for p, i, c in train]
        self.fingerprint = hashlib.sha256(str([len(train), len(query)]).encode()).hexdigest()
        kwargs = {k: v for k, v in kwargs.items() if k in ("transform", "k_tfm", "mode", "combineall", "verbose")}
        super().__init__(train, query, gallery, **kwargs)
