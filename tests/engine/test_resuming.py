"""Going on from a saved state: settings are the config's, the same config changes no bit, and damage is named."""

import copy

import pytest
import torch
from torch import nn

from occplug.config import default_config, resolved_yaml
from occplug.config.changes import changed_keys, check_changes
from occplug.engine import MethodEngine, load_checkpoint, save_checkpoint, seed_everything
from occplug.engine.resuming import check_epochs, restore_moments, wind_forward
from occplug.errors import CheckpointError, ConfigError, TrainingError
from occplug.method import Group
from occplug.stages import optimiser
from occplug.torchreid_host import build_lr_scheduler, build_optimizer
from tests.engine.toy import ToyData, ToyMethod


class Recipe(ToyMethod):
    """`ToyMethod` of one stage with the rate, decay, factor and optimiser of a "config"."""

    def __init__(self, lr=0.1, decay=1e-3, power=1.0, kind="adam", epochs=4, clip=None):
        super().__init__((0, epochs))
        self.recipe, self.clip = (lr, decay, power, kind), clip

    def stages(self):
        lr, decay, power, kind = self.recipe
        stage = super().stages()[1]
        stage.groups = [Group(r"head\..*", lr, decay), Group(".*", 2 * lr, decay)]
        stage.schedule = lambda epoch: epoch**-power
        stage.optimizer = optimiser(kind)
        return [stage]


class Cut(MethodEngine):
    """Stops in the third epoch; `seen` are (epoch, rates, decays) of each step."""

    stops = True

    def forward_backward(self, data):
        if self.stops and self.epoch == 2:
            raise KeyboardInterrupt
        groups = self.optimizer.param_groups
        self.__dict__.setdefault("seen", []).append(
            (self.epoch, [g["lr"] for g in groups], [g["weight_decay"] for g in groups])
        )
        return super().forward_backward(data)


def engine(folder, method, stops=False):
    seed_everything(3)
    made = Cut(default_config("clip_reid"), ToyData(), method, folder, torch.device("cpu"))
    made.stops = stops
    return made


@pytest.fixture
def cut(tmp_path):
    """The state after two of four epochs."""
    with pytest.raises(KeyboardInterrupt):
        engine(tmp_path, Recipe(), stops=True).run_stages()
    return load_checkpoint(tmp_path / "checkpoints/last.pth")


# ---- the config wins


@pytest.mark.parametrize(
    ("changed", "rates", "decay"),
    [
        ({}, [0.1 / 3, 0.2 / 3], 1e-3),
        ({"lr": 0.03}, [0.03 / 3, 0.06 / 3], 1e-3),
        ({"decay": 0.5}, [0.1 / 3, 0.2 / 3], 0.5),
        ({"power": 2.0}, [0.1 / 9, 0.2 / 9], 1e-3),
        ({"lr": 0.01, "decay": 0.0, "power": 0.0}, [0.01, 0.02], 0.0),
    ],
)
def test_a_resumed_stage_trains_with_the_rates_decays_and_schedule_of_the_config(cut, tmp_path, changed, rates, decay):
    again = engine(tmp_path, Recipe(**changed))
    again.run_stages(cut)
    epoch, seen_rates, seen_decays = again.seen[0]
    assert epoch == 2 and seen_rates == pytest.approx(rates) and seen_decays == [decay, decay]
    saved = load_checkpoint(tmp_path / "checkpoints/last.pth")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in saved] == [decay, decay]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_the_same_config_goes_on_bit_for_bit(tmp_path, kind):
    whole = engine(tmp_path / "whole", Recipe(kind=kind, lr=0.01))
    whole.run_stages()
    with pytest.raises(KeyboardInterrupt):
        engine(tmp_path / "cut", Recipe(kind=kind, lr=0.01), stops=True).run_stages()
    again = engine(tmp_path / "cut", Recipe(kind=kind, lr=0.01))
    torch.manual_seed(99)
    again.run_stages(load_checkpoint(tmp_path / "cut/checkpoints/last.pth"))
    expected, found = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_moments_of_another_optimiser_are_refused(cut, tmp_path):
    with pytest.raises(CheckpointError, match=r"state of another optimiser \(exp_avg, exp_avg_sq, step\) than the SGD"):
        engine(tmp_path, Recipe(kind="sgd")).run_stages(cut)


def test_fewer_epochs_than_trained_are_refused_and_the_state_stays(cut, tmp_path):
    before = (tmp_path / "checkpoints/last.pth").read_bytes()
    message = "has 2 trained epochs of all, and the config wants 1, .*set the stage's epochs to 2"
    with pytest.raises(ConfigError, match=message):
        engine(tmp_path, Recipe(epochs=1)).run_stages(cut)
    assert (tmp_path / "checkpoints/last.pth").read_bytes() == before
    with pytest.raises(ConfigError, match="the config wants 7"):
        check_epochs("train", 8, 7, "last.pth")
    engine(tmp_path, Recipe(epochs=2)).run_stages(cut)  # nothing is left but the test
    assert (tmp_path / "checkpoints/all.pth").exists()


# ---- torchreid's own optimisers and schedules


def stock(optim="adam", schedule="multi_step", lr=0.1, weight_decay=1e-3, gamma=0.3, stepsize=(1, 3), max_epoch=7):
    torch.manual_seed(5)
    net = nn.Linear(3, 2)
    made = build_optimizer(net, optim=optim, lr=lr, weight_decay=weight_decay)
    step = stepsize[0] if schedule == "single_step" else list(stepsize)
    return net, made, build_lr_scheduler(made, schedule, stepsize=step, gamma=gamma, max_epoch=max_epoch)


def trained(net, optimizer, scheduler, epochs):
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["single_step", "multi_step", "cosine"])
@pytest.mark.parametrize("optim", ["adam", "amsgrad", "sgd", "rmsprop", "radam"])
def test_stock_schedules_wind_forward_to_the_last_bit(optim, schedule):
    net, optimizer, scheduler = stock(optim, schedule)
    expected = trained(net, optimizer, scheduler, 3)
    weights, saved = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    expected += trained(net, optimizer, scheduler, 3)
    again, other, later = stock(optim, schedule)
    again.load_state_dict(weights)
    wind_forward(later, 3)
    restore_moments(other, saved, "last.pth")
    assert trained(again, other, later, 3) == expected[3:]
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values()))


@pytest.mark.parametrize("schedule", ["single_step", "multi_step", "cosine"])
@pytest.mark.parametrize("changed", [{"lr": 0.02}, {"weight_decay": 0.7}, {"gamma": 0.5}, {"stepsize": (2, 4)}])
def test_stock_schedules_follow_a_changed_config(schedule, changed):
    net, optimizer, scheduler = stock(schedule=schedule)
    trained(net, optimizer, scheduler, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    _, other, later = stock(schedule=schedule, **changed)
    wind_forward(later, 3)
    restore_moments(other, saved, "last.pth")
    fresh, fresh_optimizer, fresh_scheduler = stock(schedule=schedule, **changed)
    assert trained(fresh, fresh_optimizer, fresh_scheduler, 5)[3:] == trained(_, other, later, 2)
    assert other.param_groups[0]["weight_decay"] == changed.get("weight_decay", 1e-3)


# ---- which keys may change


def config(*options):
    return default_config("clip_reid", "clip_vit_tiny", list(options))


def test_configs_are_compared_key_by_key_and_not_line_by_line():
    """`lr: 0.0005` stands elsewhere in the text, too, so a comparison of lines would not see the change."""
    before = config("method.stage1.lr", 5e-4, "method.stage2.lr", 3e-4)
    now = config("method.stage1.lr", 5e-4, "method.stage2.lr", 5e-4, "data.workers", 1, "data.save_dir", "elsewhere")
    assert changed_keys(resolved_yaml(before), now) == {"method.stage2.lr": (3e-4, 5e-4)}
    assert changed_keys(resolved_yaml(before), before) == {}


@pytest.mark.parametrize(
    ("options", "finished", "is_over", "message"),
    [
        (
            ["train.seed", 7],
            [],
            False,
            "train.seed is 7, and last.pth was trained with 1: images and their order would",
        ),
        (["data.sources", ["synthocc"]], [], False, "data.sources is .*'synthocc'.* images and their order"),
        (["ensemble.held_out", 0.2], [], False, "ensemble.held_out is 0.2, and last.pth was trained with 0.0"),
        (
            ["method.stage1.lr", 0.5],
            ["stage1"],
            False,
            "method.stage1.lr is 0.5, .*: the stage stage1 is trained already",
        ),
        (["method.stage2.lr", 0.5], ["stage1"], True, "method.stage2.lr is 0.5, .*: nothing is left to train"),
    ],
)
def test_what_cannot_change_in_the_middle_of_a_run_is_refused_by_its_key(options, finished, is_over, message):
    changes = changed_keys(resolved_yaml(config()), config(*options))
    with pytest.raises(ConfigError, match=message):
        check_changes(changes, finished, is_over, "last.pth")


@pytest.mark.parametrize(
    ("options", "is_over"),
    [(["method.stage2.lr", 0.5], False), (["train.batch_size", 16], False), (["eval.flip", True], True)],
)
def test_what_the_rest_of_the_run_can_use_may_change(options, is_over):
    check_changes(changed_keys(resolved_yaml(config()), config(*options)), ["stage1"], is_over, "last.pth")


# ---- the last good state is good


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda model, optimizer: model.head.weight.data.fill_(torch.nan), "head.weight"),
        (lambda model, optimizer: model.backbone[0].bias.data.fill_(torch.inf), "backbone.0.bias"),
        (lambda model, optimizer: model.backbone[1].running_mean.fill_(torch.nan), "backbone.1.running_mean"),
        (
            lambda model, optimizer: next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(torch.inf),
            "the optimiser's exp_avg_sq",
        ),
    ],
)
def test_a_state_that_is_not_finite_does_not_replace_the_last_good_one(tmp_path, spoil, named):
    class Spoilt(MethodEngine):
        def after_epoch(self):
            super().after_epoch()
            if self.epoch == 1:
                spoil(self.model, self.optimizer)

    seed_everything(3)
    spoilt = Spoilt(default_config("clip_reid"), ToyData(), Recipe(), tmp_path, torch.device("cpu"))
    with pytest.raises(TrainingError) as caught:
        spoilt.run_stages()
    text = str(caught.value)
    assert text.startswith(f"all, after 2 epochs: 1 tensors are not finite ({named}), so nothing is saved; Lower the")
    assert text.endswith("checkpoints/last.pth, and --resume goes on from it with the changed config")
    state = load_checkpoint(tmp_path / "checkpoints/last.pth")
    assert state["epoch"] == 1 and all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_an_infinite_buffer_of_a_method_is_no_fault(tmp_path):
    method = Recipe(epochs=1)
    method.register_buffer("threshold", torch.tensor(torch.inf))  # "there was none yet"
    engine(tmp_path, method).run_stages()
    assert load_checkpoint(tmp_path / "checkpoints/all.pth")["state_dict"]["threshold"].isinf()


def test_after_not_a_number_a_lower_rate_goes_on_from_the_last_good_state(tmp_path):
    """The advice of the message, followed."""
    with pytest.raises(TrainingError, match="is nan|are not finite"):
        engine(tmp_path, Recipe(lr=1e30, power=0.0, kind="sgd")).run_stages()
    again = engine(tmp_path, Recipe(lr=1e-3, kind="sgd"))
    again.run_stages(load_checkpoint(tmp_path / "checkpoints/last.pth"))
    assert all(torch.isfinite(value).all() for value in again.model.state_dict().values())


# ---- missing and mistyped parts


BROKEN = [None, "text", 3, -1, float("nan"), [], {}, [1, 2], {"a": 1}, torch.zeros(2), b"bytes", (1,), True]
PARTS = (
    "state_dict", "stage", "epoch", "seconds", "records", "pids", "cameras", "data", "optimizer", "scaler", "random",
    "extra_optimizers", "bound_to",
)  # fmt: skip


def resumes(path, folder):
    state = load_checkpoint(path)
    engine(folder, Recipe()).run_stages(state)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_or_of_another_kind_is_named(cut, tmp_path, part):
    path = tmp_path / "damaged.pth"
    held = 0
    for value in [..., *BROKEN]:
        state = {key: kept for key, kept in cut.items() if key != part}
        if value is not ...:
            state[part] = value
        save_checkpoint(state, path)
        try:
            resumes(path, tmp_path / "again")
        except (CheckpointError, ConfigError) as error:
            held += 1
            assert "damaged.pth" in str(error) or "last.pth" in str(error)
    # optional parts may be absent, and some values are of the kind that is wanted
    assert held >= len(BROKEN) - 4


@pytest.mark.parametrize("inside", ["state", "param_groups"])
@pytest.mark.parametrize(
    "value", [None, {}, [], {0: {}}, {0: 1}, {"a": {}}, {0: {"step": "x"}}, [{}], [{"params": [0]}]]
)
def test_an_optimisers_state_with_a_damaged_inside_is_named(cut, tmp_path, inside, value):
    cut["optimizer"][inside] = value
    save_checkpoint(cut, tmp_path / "damaged.pth")
    try:
        resumes(tmp_path / "damaged.pth", tmp_path / "again")
    except (CheckpointError, ConfigError) as error:
        assert ".pth" in str(error)
    else:
        assert inside == "state" and value == {}  # as before the first step


@pytest.mark.parametrize(("inside", "value"), [
    ("python", (3, [1], None)), ("python", 5), ("numpy", ("MT19937", torch.zeros(3), 0, 0, 0.0)), ("numpy", None),
    ("torch", torch.zeros(5)), ("torch", torch.zeros(5, dtype=torch.uint8)), ("torch", "x"),
])  # fmt: skip
def test_damaged_states_of_the_random_generators_are_named(cut, tmp_path, inside, value):
    cut["random"][inside] = value
    with pytest.raises(CheckpointError, match=r"states of the random generators are damaged"):
        engine(tmp_path / "again", Recipe()).run_stages(cut)
