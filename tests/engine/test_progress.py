"""The panel of a training: what it shows on a terminal, and that elsewhere it shows nothing."""

import io

import torch
from rich.console import Console

from occplug.engine.progress import Progress, _clock


def batches(count, size=4):
    return [{"img": torch.zeros(size, 3, 2, 2)} for _ in range(count)]


def test_the_panel_names_stage_losses_speed_time_and_memory():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    progress = Progress(batches(6), "stage1 2/10", epochs_left=8, console=console)
    for number, _ in enumerate(progress):
        progress.show({"loss_id": 1.5, "loss": 2.25})
        if number == 4:
            with console.capture() as capture:
                console.print(progress.panel())
    text = capture.get()
    for word in ("stage1 2/10", "loss_id", "1.5000", "2.2500", "images/s", "left", "stage", "MiB", "batch 4 of 6"):
        assert word in text, word


def test_the_time_that_is_left_counts_the_epochs_to_come():
    progress = Progress(batches(10), "x", epochs_left=2)
    progress._batches = 5
    assert progress._of_stage(50.0) == 10.0 * (5 + 20)
    assert _clock(65) == "1:05" and _clock(3725) == "1:02:05"


def test_without_a_terminal_nothing_is_shown(capsys):
    assert len(list(Progress(batches(6), "x", limit=4))) == 4
    assert capsys.readouterr() == ("", "")
