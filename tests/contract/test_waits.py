"""Nothing in a training step asks the device for a number, which would stop the program until a GPU has caught up.

On a CPU nobody waits, so the operations that would are looked for: those whose result or its size depends on values
(`item`, `nonzero`, `unique`, an index of booleans), and numbers from Python made a tensor, which on their way to a GPU
are waited for.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from occplug.engine import MethodEngine
from occplug.registry import METHODS, names
from tests.contract.test_methods import Case, _cases, engine

ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# places that may -> why
ALLOWED = {
    "torch/optim/adam.py:_init_group": "an optimiser's count of steps lies on the CPU",
    "torch/optim/optimizer.py:_get_value": "an optimiser's count of steps lies on the CPU",
    "occplug/stages/patch_transfer.py:plan": "samples to mix are drawn on the CPU",
    "occplug/stages/patch_transfer.py:_mixed": "one wait: a batch in which nothing is mixed trains without a transfer",
    "occplug/losses/prototype_memory.py:update": "one wait, with `bank_update: all` alone: how many turns there are",
}
# keys that bring in a part that the defaults leave out
VARIANTS = {
    "dpl_reid": [{"method.stage1.pairing": "split"}],
    "profd": [{"method.bank_update": "all"}],
    "clip_reid": [{"method.spt": True}],
    "dpm": [{"method.transfer.person": "masks", "method.spt": True}],
}


class Waits(TorchDispatchMode):
    """Within it, operations that would wait for a GPU are noted in `found`: (operation, file:function) -> times."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in INDEXING:
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        else:
            waits = name == "lift_fresh" or bool(ASKING & set(func.tags))
        if waits:
            self.found[name, _place()] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """file:function of the innermost frame of occplug or of an optimiser."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename).as_posix()
        for part in ("/occplug/", "/torch/optim/", "/torch/amp/"):
            if part in path:
                return f"{part[1:]}{path.rpartition(part)[2]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "here"


class Watched(MethodEngine):
    """Reads losses as on a GPU, and watches each step."""

    overlaps = True

    def run_stages(self, *args):
        self.waits = {}
        super().run_stages(*args)

    def forward_backward(self, data):
        with Waits() as seen:
            values = super().forward_backward(data)
        self.waits.setdefault(self.stage_name, Counter()).update(seen.found)
        return values

    def test(self, *args, **kwargs):
        """Nothing: only steps are watched."""
        self.results = {"": None}
        return 0.0


def watched(case, folder, options=(), scaler=None):
    """The steps of a run -> what would wait in each stage."""
    cfg = case.config(folder)
    cfg.defrost()
    cfg.merge_from_list([word for pair in dict(options).items() for word in pair])
    run = engine(cfg, folder, Watched)
    run.scaler = scaler or run.scaler
    run.run_stages()
    return run.waits


SMALLEST = [_cases(name)[0] for name in names(METHODS)]
SWIN = Case("clip_reid", "solider_swin_mini")
ALL = [
    *((case, {}) for case in (*SMALLEST, SWIN)),
    *((case, options) for case in SMALLEST for options in VARIANTS.get(case.method, [])),
]


@pytest.mark.parametrize("case, options", ALL, ids=[" ".join((case.id, *options)) for case, options in ALL])
def test_no_step_waits_for_the_device(case, options, tmp_path):
    waits = watched(case, tmp_path, options)
    assert len(waits) >= 1
    found = {stage: {key: n for key, n in each.items() if key[1] not in ALLOWED} for stage, each in waits.items()}
    assert not any(found.values()), found


@pytest.mark.parametrize("is_fused", [False, True])
def test_fused_optimisers_do_not_wait_for_the_loss_scale(is_fused, tmp_path):
    """Without them torch's scaler asks at each step of each optimiser whether a gradient is infinite."""
    options = {"run.fused": is_fused, "method.spt": True}  # the saliency stage has two optimisers
    waits = watched(Case("clip_reid", "clip_vit_tiny"), tmp_path, options, torch.amp.GradScaler("cpu"))
    asked = [sum(n for (_, place), n in each.items() if place.startswith("torch/amp")) for each in waits.values()]
    assert len(asked) == 3 and (not any(asked) if is_fused else all(asked)), waits


def test_what_waits_is_seen():
    x = torch.randn(4, requires_grad=True)
    waiting = {
        "index": lambda: x[x > 0],
        "nonzero": lambda: x.nonzero(),
        "_unique2": lambda: torch.tensor(1) if x.unique() is None else 0,
        "_local_scalar_dense": lambda: x.sum().item(),
        "lift_fresh": lambda: torch.tensor([1.0]),
        "masked_select": lambda: x.masked_select(x > 0),
    }
    for name, what in waiting.items():
        with Waits() as seen:
            what()
        assert seen.found == {(name, "here"): 1}, name
    with Waits() as seen:
        (torch.where(x > 0, x, 0.0).sum() + x[torch.arange(2)].sum()).backward()
    assert not seen.found
    chosen = x[x > 0].sum()
    with Waits() as seen:
        chosen.backward()
    assert {name for name, _ in seen.found} == {"index_put"}
