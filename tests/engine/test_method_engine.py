"""The engine: what trains, what is left behind, and that a resumed run equals an unbroken one."""

import errno

import numpy as np
import pytest
import torch

from occplug.config import default_config
from occplug.engine import MethodEngine, load_checkpoint, seed_everything
from occplug.errors import ConfigError, OutputError, TrainingError
from occplug.evaluation import re_ranking, reranking_inputs
from occplug.method import ExtraOptimizer, Group
from occplug.stages import optimiser
from tests.engine.toy import ToyData, ToyMethod


def engine_for(tmp_path, method=None, **options):
    cfg = default_config("clip_reid")
    seed_everything(11)
    method = ToyMethod() if method is None else method
    return MethodEngine(cfg, ToyData(), method, tmp_path, torch.device("cpu"), **options)


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b, prefix=""):
    return all(torch.equal(a[k], b[k]) for k in a if k.startswith(prefix))


def test_frozen_stays_frozen_over_epochs(tmp_path):
    """Stock torchreid would reopen the backbone and its batch norm at every epoch."""
    method = ToyMethod(epochs=(3, 0))
    before = snapshot(method)
    engine_for(tmp_path, method).run_stages()
    after = snapshot(method)
    assert same(before, after, "backbone.") and not torch.equal(before["head.weight"], after["head.weight"])


def test_everything_trains_in_the_second_stage(tmp_path):
    method = ToyMethod(epochs=(0, 1))
    before = snapshot(method)
    engine_for(tmp_path, method).run_stages()
    after = snapshot(method)
    assert all(not torch.equal(before[k], after[k]) for k in before)


def test_a_run_leaves_checkpoints_results_and_events(tmp_path):
    engine = engine_for(tmp_path)
    engine.run_stages()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["all.pth", "head.pth", "last.pth"]
    assert [(r.name, r.epochs) for r in engine.records] == [("head", 2), ("all", 3)]
    assert 0 <= engine.results["toy"].mAP <= 1 and engine.results["toy"].summary()["num_query"] == 8
    assert list((tmp_path / "tensorboard" / "all").glob("events*"))
    assert engine.datamanager.epochs_seen == [0, 1, 2, 3, 4]


def test_the_hook_after_a_step_sees_the_stepped_weights_and_what_the_losses_left(tmp_path):
    method, seen = ToyMethod(epochs=(0, 1)), []
    stages = method.stages()
    losses = stages[1].losses

    def leaving(batch):
        batch["before"] = method.head.weight.detach().clone()
        return losses(batch)

    def after(batch):
        assert not torch.is_grad_enabled()
        seen.append(torch.equal(batch["before"], method.head.weight))

    stages[1].losses, stages[1].after_step = leaving, after
    method.stages = lambda: stages
    engine_for(tmp_path, method).run_stages()
    assert seen == [False] * 3, "once a step, after it"


def test_after_epoch_follows_its_last_step_and_is_in_the_state(tmp_path):
    method = ToyMethod(epochs=(0, 2))
    method.register_buffer("mark", torch.zeros(()))
    stages = method.stages()
    weights = []

    def after():
        assert not torch.is_grad_enabled()
        weights.append(method.head.weight.clone())
        method.mark += 1

    stages[1].after_epoch = after
    method.stages = lambda: stages
    engine_for(tmp_path, method).run_stages()
    assert len(weights) == 2 and torch.equal(weights[1], method.head.weight)
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pth")
    assert state["state_dict"]["mark"] == 2


def test_learning_rate_is_set_before_the_first_step_of_each_epoch(tmp_path):
    seen = []

    class Spy(MethodEngine):
        def forward_backward(self, data):
            seen.append((self.stage_name, self.epoch, self.optimizer.param_groups[0]["lr"]))
            return super().forward_backward(data)

    seed_everything(0)
    Spy(default_config("clip_reid"), ToyData(), ToyMethod(), tmp_path, torch.device("cpu")).run_stages()
    rates = [rate for name, _, rate in seen if name == "all"]
    assert rates == pytest.approx([0.1] * 3 + [0.1 / 2] * 3 + [0.1 / 3] * 3)


@pytest.mark.parametrize("stop_at", [("head", 1), ("all", 0), ("all", 2)])
def test_interrupted_and_resumed_equals_unbroken(tmp_path, stop_at):
    """Bit for bit, weights and batch statistics, wherever Ctrl-C strikes inside an epoch."""
    whole = engine_for(tmp_path / "whole")
    whole.run_stages()

    class Interrupted(MethodEngine):
        def forward_backward(self, data):
            if (self.stage_name, self.epoch) == stop_at and self.batch_idx == 1:
                raise KeyboardInterrupt
            return super().forward_backward(data)

    seed_everything(11)
    first = Interrupted(default_config("clip_reid"), ToyData(), ToyMethod(), tmp_path / "cut", torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        first.run_stages()
    state = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last.pth")
    assert (state["stage"], state["epoch"]) == stop_at

    torch.manual_seed(999)  # a new process starts with other random states
    second = engine_for(tmp_path / "cut", ToyMethod(seed=5))
    torch.manual_seed(1234)
    second.run_stages(state)
    assert same(whole.model.state_dict(), second.model.state_dict())
    assert second.results["toy"].mAP == whole.results["toy"].mAP
    assert [(r.name, r.epochs) for r in second.records] == [("head", 2), ("all", 3)]


def test_a_checkpoint_is_read_by_torchreid_too(tmp_path):
    from occplug.torchreid_host import sub

    engine_for(tmp_path).run_stages()
    other = ToyMethod(seed=3)
    path = tmp_path / "checkpoints" / "all.pth"
    sub("utils.torchtools").load_pretrained_weights(other, str(path))
    assert same(other.state_dict(), torch.load(path, weights_only=True)["state_dict"])


def test_not_a_number_stops_the_run_and_names_the_images(tmp_path):
    class Diverges(ToyMethod):
        def losses(self, batch):
            return {"loss_id": super().losses(batch)["loss_id"] * float("nan")}

    with pytest.raises(TrainingError) as caught:
        engine_for(tmp_path, Diverges()).run_stages()
    text = str(caught.value)
    assert text.startswith("head, epoch 1, batch 1: loss_id is nan, loss is nan. Lower the learning rate")
    assert ".jpg" in text and "checkpoints/last.pth" in text


def test_wrong_loss_names_are_refused(tmp_path):
    class Misspelt(ToyMethod):
        def losses(self, batch):
            return {"loss_di": super().losses(batch)["loss_id"]}

    with pytest.raises(TrainingError, match=r"head returns \['loss_di'\] and weighs \['loss_id'\]"):
        engine_for(tmp_path, Misspelt()).run_stages()


def test_a_trained_parameter_without_gradient_is_refused(tmp_path):
    method = ToyMethod(epochs=(0, 1))
    method.unused = torch.nn.Linear(2, 2)
    with pytest.raises(
        TrainingError, match="all trains parameters its losses do not reach: unused.weight, unused.bias"
    ):
        engine_for(tmp_path, method).run_stages()


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    method = ToyMethod()
    stages = method.stages()
    stages[0].groups.append(Group(r"neck\..*", 0.1))
    method.stages = lambda: stages
    with pytest.raises(ConfigError, match=r"the pattern 'neck\\\\..\*' matches no parameter of ToyMethod"):
        engine_for(tmp_path, method).run_stages()


def test_disk_full_keeps_the_previous_state(tmp_path, monkeypatch):
    engine = engine_for(tmp_path)
    engine.run_stages()
    last = tmp_path / "checkpoints" / "last.pth"
    before = last.read_bytes()

    def full(state, path):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError) as caught:
        engine.save_state(3)
    assert (
        str(caught.value) == f"{last} could not be written: no space left on the disk; the previous file is untouched"
    )
    assert last.read_bytes() == before
    assert sorted(p.name for p in last.parent.iterdir()) == ["all.pth", "head.pth", "last.pth"]


class TwoOptimisers(ToyMethod):
    """One stage: Adam on the backbone, and SGD at a constant rate on the head as an extra optimizer."""

    def __init__(self, own_pass, epochs=(2, 0), schedule=lambda epoch: 1.0):
        super().__init__(epochs)
        self.own_pass, self.schedule, self.passes = own_pass, schedule, []
        self.backbone[2].p = 0.0

    def losses(self, batch):
        trained = {name.split(".")[0] for name, p in self.named_parameters() if p.requires_grad}
        self.passes.append((trained, batch["epoch"], batch.setdefault("first", len(self.passes))))
        return super().losses(batch)

    def stages(self):
        stage = super().stages()[0]
        stage.groups = [Group(r"backbone\..*", 0.05)]
        head = [Group(r"head\.weight", 0.2, schedule=self.schedule), Group(r"head\.bias", 0.4)]
        stage.extra_optimizers = [ExtraOptimizer(head, optimiser("sgd"), self.own_pass)]
        return [stage]


def test_extra_optimizers_on_the_same_gradients_take_one_pass(tmp_path):
    method = TwoOptimisers(own_pass=False, epochs=(1, 0))
    twin = TwoOptimisers(own_pass=False)
    engine = engine_for(tmp_path, method)
    batches = []
    forward_backward = engine.forward_backward
    engine.forward_backward = lambda data: (batches.append(data), forward_backward(data))[1]
    engine.run_stages()
    assert [p[0] for p in method.passes] == [{"backbone", "head"}] * 3
    adam = torch.optim.Adam(twin.backbone.parameters(), 0.05)
    sgd = torch.optim.SGD(
        [{"params": [twin.head.weight], "lr": 0.2}, {"params": [twin.head.bias], "lr": 0.4}], momentum=0.9
    )
    for batch in batches:
        adam.zero_grad()
        sgd.zero_grad()
        ToyMethod.losses(twin, batch)["loss_id"].backward()
        adam.step()
        sgd.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(method.parameters(), twin.parameters()))


def test_an_extra_optimizer_with_its_own_pass_steps_on_the_updated_weights(tmp_path):
    method, twin = TwoOptimisers(own_pass=True, epochs=(1, 0)), TwoOptimisers(own_pass=True)
    engine = engine_for(tmp_path, method)
    batches = []
    forward_backward = engine.forward_backward
    engine.forward_backward = lambda data: (batches.append(data), forward_backward(data))[1]
    engine.run_stages()
    assert [p[0] for p in method.passes] == [{"backbone"}, {"head"}] * 3
    assert [p[2] for p in method.passes] == [0, 0, 2, 2, 4, 4], "both passes see one dict"
    adam = torch.optim.Adam(twin.backbone.parameters(), 0.05)
    sgd = torch.optim.SGD(
        [{"params": [twin.head.weight], "lr": 0.2}, {"params": [twin.head.bias], "lr": 0.4}], momentum=0.9
    )
    for batch in batches:
        for optimizer in (adam, sgd):
            twin.zero_grad()
            ToyMethod.losses(twin, batch)["loss_id"].backward()
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(method.parameters(), twin.parameters()))
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_groups_may_have_their_own_schedule(tmp_path):
    seen = []

    class Spy(MethodEngine):
        def forward_backward(self, data):
            seen.append([g["lr"] for s in self.steppers for g in s.optimizer.param_groups])
            return super().forward_backward(data)

    method = TwoOptimisers(own_pass=True, schedule=lambda epoch: 1.0)
    Spy(default_config("clip_reid"), ToyData(), method, tmp_path, torch.device("cpu")).run_stages()
    assert [seen[0], seen[3]] == [pytest.approx([0.05, 0.2, 0.4]), pytest.approx([0.025, 0.2, 0.2])]
    assert [p[1] for p in method.passes] == [1] * 6 + [2] * 6


@pytest.mark.parametrize("own_pass", [False, True])
def test_extra_optimizers_resume_where_they_stopped(tmp_path, own_pass):
    whole = engine_for(tmp_path / "whole", TwoOptimisers(own_pass, epochs=(3, 0)))
    whole.run_stages()

    class Interrupted(MethodEngine):
        def forward_backward(self, data):
            if self.epoch == 2:
                raise KeyboardInterrupt
            return super().forward_backward(data)

    seed_everything(11)
    method = TwoOptimisers(own_pass, epochs=(3, 0))
    seed_everything(11)
    cut = Interrupted(default_config("clip_reid"), ToyData(), method, tmp_path / "cut", torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        cut.run_stages()
    state = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last.pth")
    again = engine_for(tmp_path / "cut", TwoOptimisers(own_pass, epochs=(3, 0)))
    again.run_stages(state)
    assert same(whole.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize("squared", [False, True])
def test_reranking_squares_plain_distances_and_no_others(tmp_path, squared):
    method = ToyMethod()
    method.squared_distance = squared
    engine = engine_for(tmp_path, method)
    sides = []
    for side in ("query", "gallery"):
        images = torch.stack([row["img"] for row in engine.datamanager.test_loader["toy"][side].dataset])
        sides.append(method.eval().embed(images))
    query, gallery = sides
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    given = [method.distance(a, b).numpy() for a, b in pairs]
    expected = re_ranking(*(reranking_inputs(*given) if squared else given))
    np.testing.assert_allclose(np.concatenate(list(engine._reranked(query, gallery))), expected, atol=1e-5)
    other = re_ranking(*(given if squared else reranking_inputs(*given)))
    assert np.abs(expected - other).max() > 0.01
