"""`tools/gpu_check.py`: what a GPU gains, and that its results are those of plain code, in under ten minutes.

Images are random and in memory, so that the disk has no part in it. docs/speed.md says what the files hold.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks import CHECKS
from occplug.config import default_config
from occplug.data.manager import GeneratedDataManager
from occplug.engine import MethodEngine, seed_everything
from occplug.engine.speeding import compiled
from occplug.errors import OccplugError
from occplug.evaluation.extract import HALF, extract
from occplug.method import build_method, parameter_groups
from occplug.utils.files import user_path, write_atomically
from occplug.utils.measuring import MIB, machine, peak_memory, reset_peak

__all__ = ["SIDES", "Bench", "main", "plainly_trained", "tiny_bench", "trained"]

FORMAT = "occplug-gpu-1"
IDENTITIES, CAMERAS, INSTANCES = 64, 4, 4
SIDES = ("plain loop", "occplug", "occplug, compiled", "occplug, fused")
HEADS = ("part", "precision", "side", "images/s", "of the plain loop", "memory MiB")


class _Repeated:
    """`count` batches of memory, again and again."""

    def __init__(self, batches: list[dict], count: int):
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict]:
        for number in range(self.count):
            yield dict(self.batches[number % len(self.batches)])


class Bench:
    """A device, and sizes of the model, of batches and of runs on it.

    Args:
        device: on a CPU training is in float32 whatever the precision, and speeds are per second of processor time.
        backbone: with random weights.
        batch: images of a training step; tests embed twice as many at once.
        warm, steps: that are not counted, and that are.
        curve: steps of a loss curve.
        backend: of `torch.compile`.
        options: further ones of the config.
    """

    def __init__(
        self, device: str, backbone: str, batch: int, warm: int, steps: int, curve: int, backend="inductor", options=()
    ):
        self.device, self.backbone, self.batch, self.backend = torch.device(device), backbone, batch, backend
        self.warm, self.steps, self.curve, self.options = warm, steps, curve, list(options)

    @property
    def name(self) -> str:
        """Of the device, with all sizes."""
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {platform.machine()}"
        return f"{device}; {self.backbone}, batches of {self.batch}, {self.steps} steps"

    def config(self, dtype: str, *options):
        """Of CLIP-ReID, one epoch a stage."""
        return default_config("clip_reid", self.backbone, [
            "backbone.weights", "none", "train.batch_size", self.batch, "sampler.num_instances", INSTANCES,
            "sampler.train_sampler", "identity", "data.workers", 0, "amp.dtype", dtype, "method.stage1.epochs", 1,
            "data.transforms", ["random_flip", "pad_crop", "random_erase_pixel"], "test.batch_size", 2 * self.batch,
            "method.stage2.epochs", 1, "method.stage1.batch_size", self.batch,
            *self.options, *options,
        ])  # fmt: skip

    def data(self, cfg) -> GeneratedDataManager:
        """Random images of some batches; of one on a CPU."""
        few = self.device.type == "cpu"
        return GeneratedDataManager(cfg, self.batch // INSTANCES if few else IDENTITIES, CAMERAS)

    def reset(self) -> None:
        """Wait for the device, free memory, and start to record its peak."""
        gc.collect()
        reset_peak()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def now(self) -> float:
        """Seconds, when the device has done all its work: of the clock, on a CPU of the processor."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def memory(self) -> float:
        """MiB at the peak: of the GPU, or of the process."""
        return (torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak_memory()) / MIB


def _gpu_bench(backend: str) -> Bench:
    return Bench("cuda", "clip_vit_b16", 64, 5, 40, 200, backend)


def tiny_bench(backend: str) -> Bench:
    """What a CPU does in a minute."""
    return Bench("cpu", "clip_vit_tiny", 8, 1, 2, 3, backend, ["data.height", 64, "data.width", 32])


# ---------------------------------------------------------------------- training


class _Measured(MethodEngine):
    """Steps from memory, timed by stage after the first few; nothing is tested or saved."""

    bench: Bench
    speeds: dict[str, tuple[float, float]]
    losses: list[float]

    def train(self, *args, **kwargs) -> None:
        batches = [self._pinned(batch) for batch in self.train_loader]
        self.train_loader, self.clock, self.done = _Repeated(batches, self.limit), 0.0, 0
        self.bench.reset()
        super().train(*args, **kwargs)
        spent = self.bench.now() - self.clock
        images = (self.done - self.bench.warm) * len(batches[0]["pid"])
        self.speeds[self.stage_name] = (images / spent, self.bench.memory())

    def _pinned(self, batch: dict) -> dict:
        pins = self.device.type == "cuda"
        return {
            key: value.pin_memory() if pins and hasattr(value, "pin_memory") else value for key, value in batch.items()
        }

    def forward_backward(self, data: dict) -> dict[str, float]:
        if self.done == self.bench.warm:
            self.clock = self.bench.now()
        self.done += 1
        return super().forward_backward(data)

    def note_losses(self, values: dict[str, float], batch: dict) -> None:
        super().note_losses(values, batch)
        self.losses.append(values["loss"])

    def test(self, *args, **kwargs) -> float:
        return 0.0

    def save_state(self, *args, **kwargs) -> None:
        """Nothing."""

    def save_model(self, *args, **kwargs) -> None:
        """Nothing."""


def _engine(bench: Bench, dtype: str, folder: str, steps: int, *options) -> _Measured:
    seed_everything(1)
    cfg = bench.config(dtype, *options)
    data = bench.data(cfg)
    method = build_method(cfg, data.num_train_pids, CAMERAS, pretrained=False).to(bench.device)
    engine = _Measured(cfg, data, method, Path(folder), bench.device, limit=steps)
    engine.bench, engine.speeds, engine.losses = bench, {}, []
    return engine


def trained(bench: Bench, dtype: str, is_compiled: bool, *options) -> dict[str, tuple[float, float]]:
    """Stage -> images a second and MiB, through the engine; `options` are keys and values of the config."""
    with tempfile.TemporaryDirectory() as folder:
        engine = _engine(bench, dtype, folder, bench.warm + bench.steps, *options)
        with compiled(engine.model, is_compiled, bench.backend):
            engine.run_stages()
        return engine.speeds


def plainly_trained(bench: Bench, dtype: str) -> dict[str, tuple[float, float]]:
    """The same steps in a loop as one writes it: floats to the device, a loss asked for after each step."""
    seed_everything(1)
    cfg = bench.config(dtype)
    data, speeds = bench.data(cfg), {}
    method = build_method(cfg, data.num_train_pids, CAMERAS, pretrained=False).to(bench.device)
    half = {**HALF, "fp32": None}[dtype if bench.device.type == "cuda" else "fp32"]
    for stage in method.stages():
        groups = parameter_groups(method, stage.groups)
        method.eval()
        stage.prepare(data, bench.device)
        optimizer = stage.optimizer([{key: g[key] for key in ("params", "lr", "weight_decay")} for g in groups])
        batches = list(stage.loader(data) if stage.loader else data.train_loader)
        scaler = torch.amp.GradScaler(bench.device.type, enabled=half == torch.float16)
        bench.reset()
        start = 0.0
        for number, batch in enumerate(_Repeated(batches, bench.warm + bench.steps)):
            start = bench.now() if number == bench.warm else start
            batch = {key: v.to(bench.device) if isinstance(v, Tensor) else v for key, v in batch.items()} | {"epoch": 1}
            with torch.autocast(bench.device.type, dtype=half, enabled=half is not None):
                losses = stage.losses(batch)
                total: Any = sum(stage.weights[name] * loss for name, loss in losses.items())
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()
            float(total.detach())
        images = bench.steps * len(batches[0]["pid"])
        speeds[stage.name] = (images / (bench.now() - start), bench.memory())
    return speeds


# ---------------------------------------------------------------------- test


@torch.no_grad()
def _tested(bench: Bench, dtype: str, side: str) -> tuple[float, float]:
    """Images a second and MiB of embeddings."""
    cfg = bench.config("fp32")
    data = bench.data(cfg)
    method = build_method(cfg, data.num_train_pids, CAMERAS, pretrained=False).to(bench.device).eval()
    with data.deferring(side != "plain loop" and bench.device.type == "cuda"):
        batches = list(data.loader_of(data.train_items)) if side == "plain loop" else list(_test_loader(data))
    amp = dtype if dtype in HALF else "none"

    def work(count: int) -> None:
        if side == "plain loop":
            for batch in _Repeated(batches, count):
                with torch.autocast(bench.device.type, dtype=HALF.get(amp), enabled=amp != "none"):
                    method.embed(batch["img"].to(bench.device), batch["camid"].to(bench.device)).to("cpu")
        else:
            extract(method.embed, _Repeated(batches, count), bench.device, progress=False, amp=amp)

    with compiled(method, side == SIDES[2], bench.backend):
        work(bench.warm)
        bench.reset()
        start = bench.now()
        work(bench.steps)
        seconds = bench.now() - start
    images = sum(len(batch["pid"]) for batch in _Repeated(batches, bench.steps))
    return images / seconds, bench.memory()


def _test_loader(data: GeneratedDataManager):
    return data.test_loader[data.targets[0]]["gallery"]


# ---------------------------------------------------------------------- everything


def _checked(bench: Bench) -> list[dict]:
    """Results of all checks; one that cannot be done has failed."""
    found = []
    for check in CHECKS:
        try:
            found.append(check(bench.device, bench.backend))
        except Exception as error:  # whatever a GPU's libraries raise
            found.append({"name": check.__name__, "result": _first_line(error), "passed": False})
        print(f"{found[-1]['name']}: {found[-1]['result']}{'' if found[-1]['passed'] else ' (NOT passed)'}", flush=True)
    return found


def _speeds(bench: Bench, dtype: str, side: str) -> list[dict]:
    """Rows of one side in one precision: both stages and the test, or what keeps this machine from measuring them."""
    torch.compiler.reset()  # or graphs of the sides before count towards its limit, after which it compiles nothing
    about = {"precision": dtype, "side": side}
    try:
        options = ("run.fused", side == SIDES[3])
        found = plainly_trained(bench, dtype) if side == SIDES[0] else trained(bench, dtype, side == SIDES[2], *options)
        found["test"] = _tested(bench, dtype, side)
    except RuntimeError as error:  # too little memory, or a compiler that is not there
        print(f"{dtype}, {side}: {_first_line(error)}", flush=True)
        return [{"part": "all", **about, "error": _first_line(error)}]
    rows = [
        {"part": part, **about, "images_per_s": speed, "memory_MiB": memory} for part, (speed, memory) in found.items()
    ]
    print(f"{dtype}, {side}: " + ", ".join(f"{r['part']} {r['images_per_s']:,.0f} images/s" for r in rows), flush=True)
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _curve(bench: Bench, dtype: str) -> list[float]:
    """Losses of the last stage, step by step, from the same start on the same batches in each precision."""
    with tempfile.TemporaryDirectory() as folder:
        engine = _engine(bench, dtype, folder, bench.curve, "method.stage1.epochs", 0)
        engine.run_stages()
        return engine.losses


def _write(result: dict, output: Path) -> None:
    """FILE.json and FILE.md of what there is so far."""
    for ending, text in {".json": json.dumps(result, indent=2) + "\n", ".md": _markdown(result)}.items():
        file = output.with_name(output.name + ending)
        write_atomically(file, lambda temporary, text=text: temporary.write_text(text))


def _markdown(result: dict) -> str:
    first = {(r["part"], r["precision"]): r.get("images_per_s") for r in result["speeds"] if r["side"] == SIDES[0]}
    lines = [result["machine"], result["device"], "", "| " + " | ".join(HEADS) + " |", "|---|---|---|---|---|---|"]
    for row in result["speeds"]:
        about = f"| {row['part']} | {row['precision']} | {row['side']} |"
        if "error" in row:
            lines.append(f"{about} {row['error']} | | |")
            continue
        plain = first.get((row["part"], row["precision"]))
        ratio = f"x{row['images_per_s'] / plain:.2f}" if plain else "-"
        lines.append(f"{about} {row['images_per_s']:,.1f} | {ratio} | {row['memory_MiB']:,.0f} |")
    lines += ["", "| check | result | passed |", "|---|---|---|"]
    lines += [f"| {c['name']} | {c['result']} | {'yes' if c['passed'] else 'NO'} |" for c in result["checks"]]
    lines += ["", "| step | loss in fp16 | loss in fp32 |", "|---|---|---|"]
    pairs = list(zip(*result["curves"].values()))
    step = max(1, len(pairs) // 20)
    lines += [f"| {number + 1} | {a:.4f} | {b:.4f} |" for number, (a, b) in enumerate(pairs) if number % step == 0]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Parse `argv`, measure and check, write FILE.json and FILE.md after each part.

    Raises:
        OccplugError: there is no GPU.
        SystemExit: 1 if a check failed or a part could not be measured.
    """
    parser = argparse.ArgumentParser(
        "gpu_check", description="Speed, memory and equality on a GPU, against a plain loop of the same model."
    )
    parser.add_argument("-o", "--output", type=user_path, default=Path("gpu_check"), metavar="FILE",
                        help="writes FILE.json and FILE.md (gpu_check)")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a tiny model for a minute on the CPU: whether it runs")
    text = "of torch.compile (inductor); eager compiles nothing"
    parser.add_argument("--backend", default="inductor", metavar="NAME", help=text)
    args = parser.parse_args(argv)
    if not (args.tiny or torch.cuda.is_available()):
        raise OccplugError("torch sees no GPU; --tiny tries the script on the CPU, and `occplug doctor` says more")
    bench, start = tiny_bench(args.backend) if args.tiny else _gpu_bench(args.backend), time.perf_counter()
    result: dict[str, Any] = {
        "format": FORMAT, "machine": machine(), "device": bench.name, "tiny": args.tiny,
        "checks": [], "speeds": [], "curves": {},
    }  # fmt: skip
    print(f"{result['machine']}\n{result['device']}", flush=True)

    def finish() -> None:
        result["seconds"] = round(time.perf_counter() - start, 1)
        _write(result, args.output)

    result["checks"] = _checked(bench)
    finish()
    for dtype in ("fp16", "bf16"):
        for side in SIDES:
            result["speeds"] += _speeds(bench, dtype, side)
            finish()
    for dtype in ("fp16", "fp32"):
        result["curves"][dtype] = _curve(bench, dtype)
    finish()
    print(f"{args.output}.json and {args.output}.md, after {result['seconds']:.0f} s")
    if not all(check["passed"] for check in result["checks"]) or any("error" in row for row in result["speeds"]):
        raise SystemExit(1)
