"""`tools/gpu_check.py --tiny`: every part of it runs on a CPU, and what it writes is what docs/speed.md says."""

import contextlib
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_checks
from occplug.cli import run

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Compiled by a backend that compiles nothing, so that no compiler is needed."""
    output = tmp_path_factory.mktemp("gpu") / "check"
    gpu.main(["--tiny", "--backend", "eager", "--output", str(output)])
    return json.loads(output.with_suffix(".json").read_text()), output.with_suffix(".md").read_text()


def test_every_part_is_measured_on_every_side(result):
    rows = [(r["precision"], r["side"], r["part"]) for r in result[0]["speeds"]]
    parts = ("stage1", "stage2", "test")
    assert rows == [(dtype, side, part) for dtype in ("fp16", "bf16") for side in gpu.SIDES for part in parts]
    assert all(row["images_per_s"] > 0 and row["memory_MiB"] > 0 for row in result[0]["speeds"])
    assert result[0]["format"] == gpu.FORMAT and result[0]["tiny"] and "clip_vit_tiny" in result[0]["device"]


def test_all_checks_pass_on_a_cpu(result):
    assert len(result[0]["checks"]) == len(gpu_checks.CHECKS)
    assert [check for check in result[0]["checks"] if not check["passed"]] == []


def test_curves_have_a_loss_for_each_step_and_start_alike(result):
    curves = result[0]["curves"]
    assert [len(curve) for curve in curves.values()] == [3, 3] and list(curves) == ["fp16", "fp32"]
    assert curves["fp16"] == curves["fp32"]  # on a CPU training is in float32
    assert len(set(curves["fp32"])) == 3


def test_the_page_has_every_key_and_column(result):
    (block,) = re.findall(r"```json\n(\{.*?\n\})\n```", PAGE.read_text(), re.DOTALL)
    example = json.loads(block)
    assert example.keys() == result[0].keys() and example["format"] == gpu.FORMAT
    assert example["speeds"][0].keys() == result[0]["speeds"][0].keys()
    assert example["checks"][0].keys() == result[0]["checks"][0].keys()
    assert example["curves"].keys() == result[0]["curves"].keys()
    assert f"| {' | '.join(gpu.HEADS)} |" in result[1]


def test_the_table_has_the_speed_of_each_part_as_a_ratio(result):
    row = next(row for row in result[0]["speeds"] if row["side"] == gpu.SIDES[1])
    plain = next(r for r in result[0]["speeds"] if r["side"] == gpu.SIDES[0] and r["part"] == row["part"])
    ratio = row["images_per_s"] / plain["images_per_s"]
    assert f"| {row['part']} | fp16 | occplug | {row['images_per_s']:,.1f} | x{ratio:.2f} |" in result[1]


def test_what_cannot_be_measured_is_a_row_and_the_rest_goes_on(monkeypatch, capsys):
    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")

    monkeypatch.setattr(gpu, "trained", fails)
    rows = gpu._speeds(gpu.tiny_bench("eager"), "bf16", "occplug")
    message = "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
    assert rows == [{"part": "all", "precision": "bf16", "side": "occplug", "error": message}]
    result = {"machine": "m", "device": "d", "speeds": rows, "checks": [], "curves": {}}
    assert f"| all | bf16 | occplug | {message} | | |" in gpu._markdown(result)


@pytest.mark.parametrize("kind", [RuntimeError, ImportError, AttributeError])
def test_a_check_that_cannot_be_done_has_failed(monkeypatch, capsys, kind):
    def check(device, backend):
        raise kind("no compiler")

    monkeypatch.setattr(gpu, "CHECKS", [check])
    assert gpu._checked(gpu.tiny_bench("eager")) == [
        {"name": "check", "result": f"{kind.__name__}: no compiler", "passed": False}
    ]


@contextlib.contextmanager
def shrinking(model, backend):
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(0.9)
    yield


@pytest.mark.parametrize(
    "name, other, check",
    [
        ("fused", lambda optimizer: torch.optim.SGD(optimizer.param_groups, lr=1e-2), gpu_checks.fused_optimizer),
        ("compiled", shrinking, gpu_checks.compiled_tower),
        ("normalised", lambda module, images, part: 0.9 * module(images), gpu_checks.batch_norm),
        ("SplitImages", lambda images, plan: 0.9 * images, gpu_checks.micro_batches),
    ],
)
def test_checks_notice_other_results(monkeypatch, name, other, check):
    monkeypatch.setattr(gpu_checks, name, other)
    assert not check(torch.device("cpu"), "eager")["passed"]


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("gpu_check", gpu.main, []) == 2
    assert "torch sees no GPU; --tiny tries the script on the CPU" in capsys.readouterr().err
