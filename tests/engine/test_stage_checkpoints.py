"""Going on behind a finished stage of another run, and what is refused: another template, other classes."""

import pytest
import torch

from occplug.config import default_config
from occplug.engine import MethodEngine, check_same_run, load_checkpoint, seed_everything
from occplug.engine.checkpoint import check_same_meaning
from occplug.errors import CheckpointError
from occplug.method import build_method
from tests.engine.toy import ToyData, ToyMethod


class Bound(ToyMethod):
    def bound_to(self):
        return {"method.template": "a X person"}


def engine_for(folder, method=None):
    seed_everything(11)
    return MethodEngine(default_config("clip_reid"), ToyData(), method or Bound(), folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    engine_for(folder).run_stages()
    return folder / "checkpoints"


def test_a_second_run_starts_behind_the_stage(first, tmp_path):
    state = load_checkpoint(first / "head.pth")
    assert state["bound_to"] == {"method.template": "a X person"}
    engine = engine_for(tmp_path, Bound(seed=5))
    prepared = engine.model.prepared
    engine.run_stages(state, first / "head.pth")
    assert [name for name, _ in prepared] == ["all"]
    assert [(r.name, r.epochs) for r in engine.records] == [("head", 2), ("all", 3)]
    assert engine.records[0].seconds == pytest.approx(state["seconds"])
    started = load_checkpoint(tmp_path / "checkpoints" / "all.pth")
    assert started["stage_index"] == 1


def test_the_weights_are_those_of_the_stage(first, tmp_path):
    state = load_checkpoint(first / "head.pth")
    method = Bound(epochs=(2, 0), seed=5)
    engine_for(tmp_path, method).run_stages(state, first / "head.pth")
    assert all(torch.equal(value, state["state_dict"][name]) for name, value in method.state_dict().items())


def test_another_template_is_refused_and_nothing_is_loaded(first, tmp_path):
    state = load_checkpoint(first / "head.pth") | {"bound_to": {"method.template": "a person X"}}
    method = Bound(seed=5)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        engine_for(tmp_path, method).run_stages(state, "head.pth")
    assert str(caught.value) == (
        "head.pth was trained with method.template 'a person X', and this run has 'a X person'; set method.template "
        "as in the file, or train its stage again"
    )
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_other_classes_are_named_one_by_one():
    with pytest.raises(CheckpointError) as caught:
        check_same_run({"pids": [3, 7, 9]}, {}, [3, 8, 9, 12], "stage1.pth")
    assert str(caught.value).splitlines() == [
        "stage1.pth was trained for other identities (3 classes, 4 here); use the training data of the file, or train "
        "its stage again",
        "  class 1 is person 7 in the file and person 8 here",
        "  class 3 is absent in the file and person 12 here",
    ]


def test_a_long_list_is_cut():
    with pytest.raises(CheckpointError) as caught:
        check_same_run({"pids": list(range(50))}, {}, list(range(1, 51)), "stage1.pth")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 30 more" and "class 19 is person 19 in the file" in lines[20]


def test_the_same_run_passes_and_old_files_are_trusted():
    for state in (
        {"pids": [1, 2]},
        {"pids": [1, 2], "bound_to": {"k": "X"}},
        {"pids": [1, 2], "bound_to": {"other": "X"}},  # load_weights names tensors
    ):
        assert check_same_run(state, {"k": "X"}, [1, 2], "x.pth") is None
    with pytest.raises(CheckpointError):
        check_same_run({"pids": [1, 2], "bound_to": {"k": "Y"}}, {"k": "X"}, [1, 2], "x.pth")


@pytest.mark.parametrize("name", ["ag_reid", "clip_reid", "dpl_reid", "dpm", "dpmpp", "profd"])
def test_a_checkpoint_of_as_many_positions_in_another_grid_is_refused(name):
    """8 x 4 position embeddings fit 4 x 8 places."""

    def bound_to(height, width):
        options = ["data.height", height, "data.width", width, "backbone.weights", "none"]
        return build_method(default_config(name, "clip_vit_tiny", options), 2, 2, pretrained=False).bound_to()

    state = {"bound_to": bound_to(64, 32)}
    check_same_meaning(state, bound_to(64, 32), "a.pth")
    with pytest.raises(CheckpointError, match=r"backbone.stride 'for a grid of 8 x 4', and .* 'for a grid of 4 x 8'"):
        check_same_meaning(state, bound_to(32, 64), "a.pth")
