"""Commands that take weights need no config where the weights hold theirs."""

import pytest

import occplug
from occplug import build_method
from occplug.cli import COMMANDS, main
from occplug.config import default_config, resolved_yaml
from occplug.engine import save_checkpoint
from occplug.errors import CheckpointError, ConfigError
from occplug.runs.candidates import load_trained, load_trained_for
from occplug.serving.exporting import export


def written(folder, name, *options):
    """The folder of a run whose weights are random."""
    opts = ["backbone.weights", "none", "data.workers", 0, "train.batch_size", 8, "data.height", 64, "data.width", 32]
    cfg = default_config(name, "clip_vit_tiny", [*opts, *options])
    method = build_method(cfg, 8, 4)  # as generated images are
    state = {
        "state_dict": method.state_dict(),
        "pids": list(range(8)),
        "cameras": [0, 1, 2, 3],
        "bound_to": method.bound_to(),
    }
    save_checkpoint({**state, "config": resolved_yaml(cfg)}, folder / "checkpoints" / "last.pth")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_demands_a_config_beside_weights(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    usage = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    if "--weights" in usage and "--config-file" in usage:
        assert "[--config-file" in usage, usage


def test_gradients_of_a_run(tmp_path, capsys):
    run = written(tmp_path / "run", "clip_reid")
    assert main(["gradients", "--weights", str(run), "--generated", "--batches", "1"]) == 0
    assert "loss_tri" in capsys.readouterr().out
    assert main(["gradients", "--generated"]) == 2
    assert "which model? give --config-file, or --weights, which hold their config" in capsys.readouterr().err
    small = ["--weights", "zoo://clip_reid/vit_tiny/synthocc", "--generated", "train.batch_size", "8"]
    assert main(["gradients", *small]) == 2
    said = capsys.readouterr().err
    assert "holds what a test needs and lacks " in said and "give a checkpoint of occplug train" in said


def test_what_cannot_be_looked_into(tmp_path):
    model = occplug.load(written(tmp_path / "run", "clip_reid"))
    file = tmp_path / "m.onnx"
    export(model, file)
    with pytest.raises(CheckpointError, match="an exported file gives embeddings and cannot be looked into"):
        load_trained(model.cfg, str(file))
    small = "zoo://clip_reid/vit_tiny/synthocc"
    cfg = occplug.load(small).cfg
    load_trained_for(cfg, small, "synthocc", whole=False)
    with pytest.raises(CheckpointError, match=f"{small} holds what a test needs and lacks "):
        load_trained_for(cfg, small, "synthocc")
    cfg = model.cfg.clone()
    cfg.defrost()
    cfg.data.norm_mean = [0.1, 0.1, 0.1]
    with pytest.raises(ConfigError, match="was trained with"):
        load_trained(cfg, str(tmp_path / "run"))
