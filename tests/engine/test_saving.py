"""Checkpoints written while training goes on: the state of that moment, one at a time, and no failure is lost."""

import errno
import threading

import pytest
import torch

from occplug.engine import load_checkpoint, saving
from occplug.engine.saving import Saver, snapshot
from occplug.errors import OutputError, TrainingError
from tests.engine.test_method_engine import engine_for
from tests.engine.toy import ToyMethod


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until the event is set."""
    event, save = threading.Event(), saving.save_checkpoint

    def slow(state, path):
        assert event.wait(30)
        save(state, path)

    monkeypatch.setattr(saving, "save_checkpoint", slow)
    yield event
    event.set()


def test_the_file_has_the_state_of_the_moment_it_was_asked_for(tmp_path, gate):
    weights, saver, path = torch.zeros(3), Saver(), tmp_path / "a.pth"
    saver.save({"state_dict": {"w": weights}}, path, waits=False)
    weights += 1  # as training does
    assert not path.exists()
    gate.set()
    saver.join()
    assert load_checkpoint(path)["state_dict"]["w"].tolist() == [0, 0, 0]


def test_a_second_file_waits_for_the_first(tmp_path, gate):
    saver, path = Saver(), tmp_path / "a.pth"
    saver.save({"state_dict": {}, "epoch": 1}, path, waits=False)
    threading.Timer(0.1, gate.set).start()
    saver.save({"state_dict": {}, "epoch": 2}, path)
    assert load_checkpoint(path)["epoch"] == 2


def full(state, path):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_could_not_be_written_is_raised_once(tmp_path, monkeypatch):
    saver, path = Saver(), tmp_path / "a.pth"
    monkeypatch.setattr(torch, "save", full)
    saver.save({"state_dict": {}}, path, waits=False)
    with pytest.raises(OutputError, match="a.pth could not be written: no space left"):
        saver.join()
    saver.join()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_being_written_after_the_block(tmp_path, gate, fails):
    saver, path = Saver(), tmp_path / "a.pth"
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(KeyError) if fails else saver.joined():
        with saver.joined():
            saver.save({"state_dict": {}}, path, waits=False)
            if fails:
                raise KeyError
    assert path.exists()


def test_a_snapshot_shares_what_was_shared_and_nothing_else():
    tensor = torch.arange(6.0)
    state = {"a": tensor, "b": [tensor.view(6), (tensor[:3], 2, "x")], "c": None, "empty": torch.zeros(0)}
    copy = snapshot(state)
    tensor.zero_()
    assert copy["a"].tolist() == copy["b"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert copy["a"] is copy["b"][0] and copy["b"][1][0].tolist() == [0, 1, 2] and copy["b"][1][1:] == (2, "x")
    assert copy["c"] is None and copy["empty"].shape == (0,)


def test_epochs_go_on_while_the_state_is_written(tmp_path, gate):
    """The second epoch begins before the first one's file is there, and every file is there in the end."""
    engine, began = engine_for(tmp_path, ToyMethod(epochs=(0, 3))), []
    begin = engine.datamanager.set_epoch

    def set_epoch(epoch):
        began.append((epoch, engine.saver._thread is not None))
        if epoch == 1:
            gate.set()
        begin(epoch)

    engine.datamanager.set_epoch = set_epoch
    save, waiting = engine.saver.save, []

    def unlocked(state, path, waits=True):  # the first state is waited for, before any epoch
        if waits:
            gate.set()
        save(state, path, waits)
        if waits and not began:
            gate.clear()
        waiting.append(waits)

    engine.saver.save = unlocked
    engine.run_stages()
    assert began[:2] == [(0, False), (1, True)] and False in waiting
    assert load_checkpoint(tmp_path / "checkpoints/last.pth")["epoch"] == 3
    assert load_checkpoint(tmp_path / "checkpoints/all.pth")["epoch"] == 3


def test_a_disk_that_fills_up_ends_the_run(tmp_path, monkeypatch):
    engine = engine_for(tmp_path, ToyMethod(epochs=(0, 2)))
    begin = engine.datamanager.set_epoch

    def set_epoch(epoch):
        monkeypatch.setattr(torch, "save", full)
        begin(epoch)

    engine.datamanager.set_epoch = set_epoch
    with pytest.raises(OutputError, match="the previous file is untouched"):
        engine.run_stages()
    assert load_checkpoint(tmp_path / "checkpoints/last.pth")["epoch"] == 0


def test_the_message_of_a_failure_names_the_state_that_was_being_written(tmp_path, gate):
    class Diverges(ToyMethod):
        def losses(self, batch):
            factor = float("nan") if batch["epoch"] == 2 else 1.0
            return {"loss_id": super().losses(batch)["loss_id"] * factor}

    engine = engine_for(tmp_path, Diverges(epochs=(0, 3)))
    gate.set()
    with pytest.raises(TrainingError, match=r"last good state is .*last\.pth"):
        engine.run_stages()
    assert load_checkpoint(tmp_path / "checkpoints/last.pth")["epoch"] == 1
