"""What the parts of DPL-ReID cost: parameters, operations and time."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import Rows
from occplug.utils.measuring import measured

__all__ = ["components", "flops", "parts"]

CONFIGS = Path(__file__).parents[1] / "configs"
# config, its training identities, sizes of LSNet
FULL = ("dpl_reid_occduke", 702, ("lsnet_t", "lsnet_s", "lsnet_b"))
TINY = ("dpl_reid_synthocc", 150, ("lsnet_mini",))
TURNS = 5  # in which all sides embed, one after the other


def components(quick: bool) -> Rows:
    """Parameters, operations and time of DPL-ReID's parts, the rows of its table `components`."""
    rows, turns = [], 2 if quick else TURNS
    for name, identities, sizes in (TINY,) if quick else (FULL, TINY):
        rows += measured(_costs, name, identities, sizes, turns).output
    heads = (
        "",
        "learnt in stage 1, M",
        "trained in stage 2, M",
        "at test, M",
        "GFLOPs an image",
        "ms an image",
        "time",
    )
    note = (
        "M: million parameters that a stage trains, and of the image tower at test; GFLOPs: of embedding one image "
        "without flip, two for a multiply-add, so papers that count multiply-adds have half; products and convolutions "
        f"alone, as torch counts; ms: of the processor, median of {turns} turns of a batch of 4 in one process, random "
        "weights; time: of the first row's. RWOA works while images are loaded, and texts are learnt and used in "
        "training alone"
    )
    return Rows("components: what the parts of DPL-ReID cost", heads, rows, note)


def parts(name: str, sizes: tuple[str, ...]) -> dict[str, list]:
    """Title -> config options of CLIP-ReID, of its parts, and of the whole with each size of LSNet."""
    from occplug.experiments.ablations import find_tables, settings_of

    file = CONFIGS / f"{name}.yaml"
    rows = find_tables(file, "dpl_reid")["components"].rows
    chosen = {"CLIP-ReID": "base", "+ Dual-PL + RWOA": "dual_rwoa"}
    settings = {title: settings_of(rows[row], file, [])[1] for title, row in chosen.items()}
    whole = settings_of(rows["all"], file, [])[1]
    random = ["backbone.wgff.weights", "none", "backbone.wgff.lsnet"]
    return settings | {f"+ WGFF ({size}): DPL-ReID": [*whole, *random, size] for size in sizes}


def _costs(name: str, identities: int, sizes: tuple[str, ...], turns: int):
    from occplug.config import load_config
    from occplug.method import build_method

    cfgs = {
        title: load_config(CONFIGS / f"{name}.yaml", ["backbone.weights", "none", *options])
        for title, options in parts(name, sizes).items()
    }
    methods = {title: build_method(cfg, identities, 8, pretrained=False).eval() for title, cfg in cfgs.items()}
    cfg = next(iter(cfgs.values()))
    images = torch.randn(4, 3, cfg.data.height, cfg.data.width, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def work() -> list[list[str]]:
        seconds: dict[str, list[float]] = {title: [] for title in methods}
        for _ in range(1 + turns):  # the first does not count
            for title, method in methods.items():
                start = time.process_time()
                method.features(images, None)
                seconds[title].append(time.process_time() - start)
        medians = {title: statistics.median(each[1:]) / len(images) for title, each in seconds.items()}
        first = next(iter(medians.values()))
        kind = f"{cfg.backbone.wgff.clip}, {cfg.data.height}x{cfg.data.width}"
        rows = []
        for title, method in methods.items():
            counts = [*_trained(method), sum(p.numel() for p in method.backbone.parameters())]
            figures = [*(f"{count / 1e6:.2f}" for count in counts), f"{flops(method, images[:1]) / 1e9:.3g}"]
            rows.append([f"{kind}: {title}", *figures, f"{1e3 * medians[title]:.3g}", f"x{medians[title] / first:.2f}"])
        return rows

    return work


def flops(method, images: torch.Tensor) -> int:
    """Floating-point operations of embedding `images` [B, 3, H, W], as torch counts them."""
    # the fused kernels of a CPU are not among those that are counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method.features(images, None)
    return counter.get_total_flops()


def _trained(method) -> list[int]:
    """Numbers that the first and the last stage train."""
    from occplug.method import parameter_groups

    counts = []
    stages = method.stages()
    for stage in (stages[0], stages[-1]):
        parameter_groups(method, stage.groups)
        counts.append(sum(p.numel() for p in method.parameters() if p.requires_grad))
    return counts
