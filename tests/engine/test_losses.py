"""Losses read one step late: the same log and curves, and a loss that is not finite still ends the run in time."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from occplug.engine import load_checkpoint
from occplug.engine.base import RunMixin
from occplug.engine.losses import LossReader
from occplug.errors import TrainingError
from tests.engine.test_method_engine import engine_for, same
from tests.engine.toy import ToyMethod


@pytest.fixture
def late(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(RunMixin, "overlaps", True)


def test_values_come_when_the_next_step_begins():
    noted = []
    reader = LossReader(delays=True)
    assert reader.read({"a": torch.tensor(1.5), "b": torch.tensor(2, dtype=torch.float64)}, noted.append) == {}
    assert noted == []
    reader.begin()
    reader.begin()
    assert noted == [{"a": 1.5, "b": 2.0}]


def test_values_are_those_of_the_moment():
    noted, loss, reader = [], torch.tensor(1.0), LossReader(delays=True)
    reader.read({"a": loss}, noted.append)
    loss += 1
    reader.begin()
    assert noted == [{"a": 1.0}]


def test_without_delay_values_are_there_at_once():
    noted = []
    assert LossReader().read({"a": torch.tensor(0.1)}, noted.append) == noted[0]
    assert noted == [{"a": float(torch.tensor(0.1))}]


def curves(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("Train/loss")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def trained(folder):
    engine = engine_for(folder, ToyMethod(epochs=(0, 2)))
    sums = []
    after = engine.after_epoch

    def after_epoch():
        sums.append(dict(engine.sums))
        after()

    engine.after_epoch = after_epoch
    engine.run_stages()
    return engine, sums, curves(folder / "tensorboard" / "all")


def test_late_losses_train_and_log_the_same(tmp_path, monkeypatch):
    plain = trained(tmp_path / "plain")
    monkeypatch.setattr(RunMixin, "overlaps", True)
    delayed = trained(tmp_path / "late")
    assert same(plain[0].model.state_dict(), delayed[0].model.state_dict())
    assert plain[1] == delayed[1] and len(plain[1]) == 2
    assert plain[2] == delayed[2] and set(plain[2]) == {"Train/loss_id", "Train/loss"}
    assert len(plain[2]["Train/loss"]) == 6  # two epochs of three batches


@pytest.mark.parametrize(("bad", "noticed"), [(1, 2), (3, 3)])
def test_the_batch_is_named_one_step_later_and_nothing_is_saved(tmp_path, late, bad, noticed):
    """Also where it is the last one of an epoch, before its state would be saved."""

    class Diverges(ToyMethod):
        steps, named = 0, None

        def losses(self, batch):
            self.steps += 1
            if self.steps == bad:
                self.named = batch["impath"]
                return {"loss_id": super().losses(batch)["loss_id"] * float("nan")}
            return super().losses(batch)

    method = Diverges(epochs=(0, 2))
    with pytest.raises(TrainingError) as caught:
        engine_for(tmp_path, method).run_stages()
    text = str(caught.value)
    assert text.startswith(f"all, epoch 1, batch {bad}: loss_id is nan, loss is nan. Lower the learning rate")
    assert text.endswith(f"Images of the batch: {', '.join(method.named)}") and method.steps == max(bad, noticed - 1)
    state = load_checkpoint(tmp_path / "checkpoints/last.pth")
    assert state["epoch"] == 0 and all(torch.isfinite(value).all() for value in state["state_dict"].values())
