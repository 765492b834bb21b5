"""DPM: its weighted sum, alternating updates, masks at the start, hand-over from the saliency stage."""

import logging
import math
import re

import pytest
import torch
import torch.nn.functional as F

from occplug.config import default_config
from occplug.engine import MethodEngine, seed_everything
from occplug.errors import CheckpointError, ConfigError, TrainingError
from occplug.evaluation import MASK_PLACES, masked_cosine, masked_distance
from occplug.losses import AngularMargin, BatchHardTriplet, HeadDiversity
from occplug.method import build_method
from occplug.runs.candidates import Candidate, engine_of, load_trained
from occplug.zoo.weights import read_test_weights
from tests.methods.dpm_common import Data, batch, config, stage, tiny, trained, wake_mask


def engine(tmp_path, cfg, method, data=None):
    seed_everything(2)
    return MethodEngine(cfg, data or Data(), method, tmp_path, torch.device("cpu"))


def test_the_losses_and_weights_are_those_of_the_official_code():
    method = tiny("dpm").eval()
    wake_mask(method)
    train, b = stage(method, "train"), batch()
    found = train.losses(b)
    seen = method.backbone(b["img"], b["camid"], blocks=[1, 2, 5, 6], class_scores=True)
    f, y = seen.feature, b["pid"]
    n = f / math.sqrt(1 + 1e-5)  # batch norm at its initial statistics
    w, m = method.metric.neck.classifier.weight, method.metric.generator(seen.blocks)
    cosine = torch.stack([torch.stack([F.normalize(n[i], dim=0) @ F.normalize(m[i] * w[c], dim=0) for c in range(5)])
                          for i in range(8)])  # fmt: skip
    expected = {
        "loss_id": F.cross_entropy(n @ w.T, y),
        "loss_mask": AngularMargin(30.0, 0.5)(cosine, y),
        "loss_tri": BatchHardTriplet(None)(f, y),
        "loss_hem": HeadDiversity()(seen.class_scores),
    }
    assert {k: v.item() for k, v in found.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )
    assert train.weights == {"loss_id": 0.5, "loss_mask": 0.5, "loss_tri": 1.0, "loss_hem": 0.1}
    assert method.metric.neck.classifier.weight.abs().max() <= math.sqrt(6 / (5 + 128)) + 1e-6  # Xavier


def test_masks_are_one_half_at_the_start_and_then_ranks_are_the_plain_cosines():
    method = tiny("dpm")
    b = batch()
    embedding = method.embed(b["img"])
    assert torch.equal(embedding.mask, torch.full((8, 128), 0.5))
    found = method.distance(embedding[:3], embedding)
    cosine = F.normalize(embedding.vector[:3]) @ F.normalize(embedding.vector).T
    torch.testing.assert_close(found.cos(), cosine.clamp(-1 + 1e-5, 1 - 1e-5), atol=1e-5, rtol=0)
    wake_mask(method)
    embedding = method.embed(b["img"])
    expected = masked_distance(embedding.vector[:3], embedding.mask[:3], embedding.vector)
    assert torch.equal(method.distance(embedding[:3], embedding), expected)
    feature = method.eval().backbone(b["img"]).feature  # before the neck
    torch.testing.assert_close(embedding.vector, feature, atol=1e-5, rtol=0)


def test_the_test_after_the_neck_and_without_masks():
    method, b = tiny("dpm"), batch()
    wake_mask(method)
    method.metric.neck.norm.running_mean.normal_()
    plain = method.embed(b["img"])
    n = (plain.vector - method.metric.neck.norm.running_mean) / math.sqrt(1 + 1e-5)
    for model in ("dpm", "dpmpp"):
        other = tiny(model, "method.neck", "after", "method.test_mask", model == "dpm")
        other.load_state_dict(method.state_dict(), strict=False)
        found = other.embed(b["img"])
        distances = other.distance(found[:3], found)
        torch.testing.assert_close(found.vector, n, atol=1e-4, rtol=1e-4)
        if model == "dpm":
            assert torch.equal(found.mask, plain.mask)
            assert torch.equal(distances, masked_distance(found.vector[:3], found.mask[:3], found.vector))
        else:
            assert found.mask is None
            expected = 1 - F.normalize(found.vector[:3]) @ F.normalize(found.vector).T
            torch.testing.assert_close(distances, expected.clamp(min=0), atol=1e-5, rtol=0)


def test_the_baseline_has_no_mask_and_the_cosine_distance():
    method = tiny("dpm", "method.mask", "none", "method.hem", False)
    train = stage(method, "train")
    assert set(train.losses(batch())) == {"loss_id", "loss_tri"} == set(train.weights) and train.extra_optimizers == []
    embedding = method.embed(batch()["img"])
    assert embedding.mask is None
    expected = 1 - F.normalize(embedding.vector) @ F.normalize(embedding.vector).T
    torch.testing.assert_close(method.distance(embedding, embedding), expected.clamp(min=0), atol=1e-5, rtol=0)


def test_rates_and_schedules_of_the_alternating_optimisers():
    method = tiny("dpm", "backbone.sie_camera", True)
    train = stage(method, "train")
    rates = trained(method, train)
    assert all(rate == (0.016 if "bias" in name else 0.008) for name, rate in rates.items())
    frozen = {name for name, p in method.named_parameters() if name not in rates}
    assert frozen == {"metric.neck.norm.bias", "backbone.visual.proj"}
    assert not any(re.fullmatch(g.pattern, "metric.generator.linear.weight") for g in train.groups)
    (extra,) = train.extra_optimizers
    assert extra.own_pass and {g.schedule(e) for g in extra.groups for e in (1, 75, 150)} == {1.0}
    for group, base in ((g, g.lr) for g in train.groups):
        assert base * group.schedule(1) == pytest.approx(8e-5 + (base - 8e-5) / 5)
        assert base * group.schedule(75) == pytest.approx(1.6e-5 + 0.5 * (base - 1.6e-5))
        assert base * group.schedule(150) == pytest.approx(1.6e-5)


@pytest.mark.parametrize("alternating", [True, False])
def test_masks_and_prototypes_may_have_a_rate_of_their_own(alternating):
    own = ["method.train.module_lr", 0.1, "method.train.alternating", alternating]
    method = tiny("dpm", *own)
    rates = trained(method, stage(method, "train"))
    assert {name: rate for name, rate in rates.items() if name.startswith("metric.")} == {
        name: pytest.approx(0.1 * (2 if "bias" in name and "generator" in name else 1))
        for name in rates if name.startswith("metric.")}  # fmt: skip
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {0.008, 0.016}


def test_what_starts_from_noise_in_the_saliency_net_may_have_a_rate_of_its_own():
    method = tiny("dpm", "method.spt", True, "method.saliency.module_lr", 0.1)
    rates = trained(method, stage(method, "saliency"))
    assert {rate for name, rate in rates.items() if name.startswith("saliency.backbone.")} == {0.008, 0.016}
    others = {name: rate for name, rate in rates.items() if not name.startswith("saliency.backbone.")}
    assert others == {
        "saliency.decision.weight": 0.1,
        "saliency.decision.bias": 0.2,
        "saliency.neck.norm.weight": 0.1,
        "saliency.neck.classifier.weight": 0.1,
    }
    method = tiny("dpm", "method.spt", True, "method.saliency.module_lr", 0.1, "method.saliency.decision_lr", 0.01)
    rates = trained(method, stage(method, "saliency"))
    assert (rates["saliency.decision.weight"], rates["saliency.neck.classifier.weight"]) == (0.01, 0.1)


def test_stochastic_depth_is_the_imagenet_towers():
    with pytest.raises(ConfigError, match="method.drop_path is 0.2, and clip_vit_tiny has none; set it to null"):
        config("dpm", "method.drop_path", 0.2)
    with torch.device("meta"):
        method = build_method(default_config("dpm", "vit_b16", ["method.drop_path", 0.3]), 5, 3, pretrained=False)
    assert method.backbone.visual.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method.saliency.ratio", 30, "is 30.0; it must be from 0 to 1"),
        ("method.train.angular_margin", 28.6, r"is 28.6; it must be from 0 to pi / 2 \(radians\)"),
        ("method.train.scale", -30, "is -30.0; it must be above 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=f"{key} {message}"):
        config("dpm", key, value)


def test_the_mask_generator_steps_alone_on_the_updated_weights(tmp_path):
    """One batch through the engine equals two plain SGD steps, each on its own forward."""
    options = ["method.train.epochs", 1, "method.train.warmup_epochs", 0]
    cfg, method, twin = config("dpm", *options), tiny("dpm", *options), tiny("dpm", *options)
    for m in (method, twin):
        torch.manual_seed(8)
        wake_mask(m)
    data = Data()
    data.train_loader = torch.utils.data.DataLoader(data.rows[:8], batch_size=8)
    engine(tmp_path, cfg, method, data).run_stages()
    train = stage(twin, "train")
    trained(twin, train)  # freezes the rest
    twin.train()
    b = {**next(iter(data.train_loader)), "epoch": 1}
    for is_mask in (False, True):
        twin.zero_grad()
        sum(train.weights[k] * v for k, v in train.losses(b).items()).backward()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if p.grad is not None and (".generator." in name) == is_mask:
                    factor = 1.0
                    base = 0.016 if "bias" in name else 0.008
                    if not is_mask:
                        factor = next(g.schedule for g in train.groups if g.lr == base)(1)
                    p -= base * factor * (p.grad + 1e-4 * p)
    for (name, a), (_, c) in zip(method.state_dict().items(), twin.state_dict().items()):
        torch.testing.assert_close(a, c, atol=2e-5, rtol=1e-3, msg=name)
    assert method.metric.neck.norm.num_batches_tracked == 2  # statistics see each batch twice


def test_a_second_pass_that_is_not_finite_stops_the_run(tmp_path):
    method = tiny("dpm", "method.train.epochs", 1)
    run = engine(tmp_path, config("dpm", "method.train.epochs", 1), method)
    losses, calls = run.stages[0].losses, []

    def spoilt(batch):
        calls.append(batch)
        found = losses(batch)
        return found | {"loss_mask": found["loss_mask"] * math.nan} if len(calls) == 2 else found

    run.stages[0].losses = spoilt
    with pytest.raises(TrainingError, match="train, epoch 1, batch 1: loss_mask is nan, loss is nan"):
        run.run_stages()
    assert all(value.isfinite().all() for value in method.state_dict().values())


def test_the_saliency_losses_have_the_weights_of_equation_23():
    for model in ("dpm", "dpmpp"):
        weights = stage(tiny(model, "method.spt", True), "saliency").weights
        expected = {"loss_id": 1.0, "loss_keep": 1.0, "loss_tri": 1.0, "loss_budget": 50.0, "loss_orth": 0.1}
        assert weights == expected


def test_what_was_transferred_is_logged_every_epoch(tmp_path, caplog):
    options = [*SPT, "method.train.epochs", 2, "method.transfer.p_mix", 1.0, "method.transfer.select", "random"]
    with caplog.at_level(logging.INFO):
        engine(tmp_path, config("dpm", *options), tiny("dpm", *options)).run_stages()
    told = [re.fullmatch(COUNTS, line) for line in caplog.messages if line.startswith("patch transfer: of")]
    assert len(told) == 2 and told[0][1] == told[0][2] == told[1][1] == told[1][2] and int(told[0][1]) > 0


COUNTS = r"patch transfer: of (\d+) samples (\d+) drawn, (\d+) of them without a candidate"


def test_joint_updates_are_a_switch():
    method = tiny("dpm", "method.train.alternating", False)
    train = stage(method, "train")
    assert train.extra_optimizers == [] and any(".generator." in name for name in trained(method, train))


def snapshot(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def changed(before, method):
    return {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(before[name], value)}


SPT = ["method.spt", True, "method.saliency.epochs", 1, "method.train.epochs", 1]


def test_each_stage_trains_its_own_part_and_leaves_the_rest(tmp_path, caplog):
    cfg, method = config("dpm", *SPT), tiny("dpm", *SPT)
    seen, before = [], snapshot(method)

    class Spy(MethodEngine):
        def run_stage(self, *args):
            super().run_stage(*args)
            seen.append((self.stage_name, changed(before, method)))
            before.update(snapshot(method))

    seed_everything(2)
    with caplog.at_level(logging.INFO):
        Spy(cfg, Data(), method, tmp_path, torch.device("cpu")).run_stages()
    assert seen == [("saliency", {"saliency"}), ("train", {"backbone", "metric"})]
    assert "patch transfer: of 16 samples" in caplog.text, "each batch is planned once, though it passes twice"


def test_a_mixed_batch_changes_the_images_and_ignores_the_candidates():
    method = tiny("dpm", "method.spt", True, "method.transfer.p_mix", 1.0, "method.transfer.select", "random").eval()
    wake_mask(method)
    train, b = stage(method, "train"), batch()
    mixed = train.losses(b)
    transfer = b["transfer"]
    y, w = b["pid"], method.metric.neck.classifier.weight
    patches = method.backbone.embed_patches(b["img"])
    own = transfer.mask.flatten(1)
    rows = [[patches[i if own[i, n] else transfer.source[i], n] for n in range(32)] for i in range(8)]
    x = method.backbone.add_positions(torch.stack([torch.stack(row) for row in rows]), b["camid"])
    streams = {k: method.backbone.run_blocks(x, 0, k) for k in (1, 2, 5, 6)}
    f = method.backbone.visual.ln_post(streams[6])[:, 0]
    n = f / math.sqrt(1 + 1e-5)
    ignored = torch.tensor([y[j] if y[j] != y[i] else -1 for i, j in enumerate(transfer.source.tolist())])
    assert transfer.mixed.any() and (ignored >= 0).any()
    logits = n @ w.T
    for i, k in enumerate(ignored.tolist()):
        if k >= 0:
            logits[i, k] = float("-inf")
    cosine = masked_cosine(n, method.metric.generator(streams), w, "proto_pre")
    # a mixed anchor's negatives are the persons it does not show
    others = [[y[j] != y[i] and y[j] != ignored[i] for j in range(8)] for i in range(8)]
    distance = torch.cdist(f, f)
    hardest = [(distance[i][y == y[i]].max(), distance[i][torch.tensor(others[i])].min()) for i in range(8)]
    expected = {
        "loss_id": F.cross_entropy(logits, y),
        "loss_mask": AngularMargin(30.0, 0.5)(cosine, y, ignored),
        "loss_tri": torch.stack([F.softplus(far - near) for far, near in hardest]).mean(),
    }
    for name, value in expected.items():
        assert mixed[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert mixed["loss_mask"].item() != pytest.approx(AngularMargin(30.0, 0.5)(cosine, y).item(), rel=1e-4)
    assert mixed["loss_tri"].item() != pytest.approx(BatchHardTriplet(None)(f, y).item(), rel=1e-4)


@pytest.mark.parametrize("place", MASK_PLACES)
def test_the_place_of_the_mask_is_that_of_loss_and_test(place):
    method = tiny("dpm", "method.mask", place).eval()
    wake_mask(method)
    b = batch()
    seen = method.backbone(b["img"], b["camid"], blocks=[1, 2, 5, 6])
    n, w = seen.feature / math.sqrt(1 + 1e-5), method.metric.neck.classifier.weight
    cosine = masked_cosine(n, method.metric.generator(seen.blocks), w, place)
    found = stage(method, "train").losses(b)["loss_mask"]
    assert found.item() == pytest.approx(AngularMargin(30.0, 0.5)(cosine, b["pid"]).item(), rel=1e-4)
    embedding = method.embed(b["img"])
    expected = masked_distance(embedding.vector[:3], embedding.mask[:3], embedding.vector, place)
    assert torch.equal(method.distance(embedding[:3], embedding), expected)


def test_options_reach_the_parts():
    with torch.device("meta"):
        full = build_method(default_config("dpm", "vit_b16", ["method.spt", True]), 5, 3, pretrained=False)
    for tower in (full.backbone, full.saliency.backbone):  # stochastic depth rises to 0.1 at the last block
        assert tower.visual.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    for model in ("dpm", "dpmpp"):
        assert tiny(model, "method.mask_pool", "mean").metric.generator.pool == "mean"
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    parameter = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1}]
    for model, spt, kinds in (("dpm", True, [sgd, sgd, sgd]), ("dpmpp", True, [adam, sgd, adam])):
        method = tiny(model, "method.spt", spt)
        made = [stage(method, "saliency"), *stage(method, "saliency").extra_optimizers]
        made += [stage(method, "train"), *stage(method, "train").extra_optimizers]
        assert [type(one.optimizer(parameter)) for one in made] == kinds, model


def test_no_probability_equals_no_mixing():
    b = batch()
    without = stage(tiny("dpm").eval(), "train").losses(dict(b))
    never = tiny("dpm", "method.spt", True, "method.transfer.p_mix", 0.0).eval()
    never.load_state_dict(tiny("dpm").state_dict(), strict=False)
    found = stage(never, "train").losses(dict(b))
    assert all(torch.equal(found[k], without[k]) for k in without)


def test_half_precision_with_a_loss_scale_steps_both_optimisers(tmp_path):
    """What a GPU does with amp.dtype fp16, in bf16 on the CPU."""
    method, before = tiny("dpm", *SPT), None
    run = engine(tmp_path, config("dpm", *SPT), method)
    run.amp_dtype, run.scaler = torch.bfloat16, torch.amp.GradScaler("cpu", init_scale=64.0)
    before = snapshot(method)
    run.run_stages()
    after = method.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"metric.generator.linear.weight", "metric.neck.classifier.weight", "saliency.decision.bias"} <= moved
    assert all(value.isfinite().all() for value in after.values()) and run.scaler.get_scale() == 64.0


# ---------------------------------------------------------------------- taking over the saliency stage


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    engine(folder, config("dpm", *SPT), tiny("dpm", *SPT)).run_stages()
    return folder / "checkpoints" / "saliency.pth"


def later(earlier, *options):
    return [*SPT, "method.start", "train", "method.earlier", str(earlier), *options]


def test_the_saliency_of_an_earlier_run_is_taken_over(tmp_path, earlier):
    options = later(earlier)
    method = tiny("dpm", *options)
    weights = torch.load(earlier, weights_only=True)["state_dict"]
    own = {name: value for name, value in method.state_dict().items() if name.startswith("saliency.")}
    assert own and all(torch.equal(weights[name], value) for name, value in own.items())
    assert [s.name for s in method.stages()] == ["train"]
    engine(tmp_path, config("dpm", *options), method).run_stages()


def test_starting_late_without_the_earlier_stages_names_the_command():
    with pytest.raises(ConfigError) as caught:
        config("dpm", *SPT, "method.start", "train")
    assert str(caught.value) == (
        "method.start is 'train', but the results of saliency are not given: make them with `occplug train "
        "--config-file CONFIG` (method.start empty) and set method.earlier to the checkpoints/saliency.pth of that run"
    )
    with pytest.raises(
        ConfigError, match="method.start is 'stage3'; this configuration has the stages saliency, train"
    ):
        config("dpm", *SPT, "method.start", "stage3")


def test_a_saliency_checkpoint_of_another_grid_is_refused(earlier):
    other = later(earlier, "method.saliency.stride", 4)
    with pytest.raises(CheckpointError) as caught:
        tiny("dpm", *other)
    assert str(caught.value) == (
        f"{earlier} was trained with data.height, data.width and method.saliency.stride 'for a grid of 8 x 4', and "
        "this run has 'for a grid of 15 x 7'; set data.height, data.width and method.saliency.stride as in the file, "
        "or train its stage again"
    )
    state = torch.load(earlier, weights_only=True)
    del state["bound_to"]  # as in a file of an earlier version
    torch.save(state, earlier.with_name("silent.pth"))
    with pytest.raises(CheckpointError) as caught:
        tiny("dpm", *later(earlier.with_name("silent.pth"), "method.saliency.stride", 4))
    assert "silent.pth does not fit the stage 'saliency': it was trained on another grid of patches" in str(
        caught.value
    )
    assert "saliency.backbone.visual.positional_embedding is [33, 128] in the file and [106, 128] here" in str(
        caught.value
    )


def test_other_settings_of_the_stage_that_is_taken_over_are_named(earlier, caplog):
    tiny("dpm", *later(earlier, "method.train.lr", 0.5))
    assert "other settings" not in caplog.text, "keys of the stage to train are its own"
    tiny("dpm", *later(earlier, "method.saliency.lr", 0.5, "method.train.lr", 0.5, "sampler.num_instances", 2))
    (line,) = [line for line in caplog.messages if "other settings" in line]
    assert line.startswith(f"{earlier}: saliency had other settings, and what it trained is taken as it is: ")
    assert "method.saliency.lr 0.008, here 0.5" in line and "sampler.num_instances 4, here 2" in line
    assert "method.train.lr" not in line and "method.start" not in line


def test_a_saliency_checkpoint_of_as_many_patches_in_another_grid_is_refused(earlier):
    """8 x 4 position embeddings fit 4 x 8 places."""
    with pytest.raises(CheckpointError, match="'for a grid of 8 x 4', and this run has 'for a grid of 4 x 8'"):
        tiny("dpm", *later(earlier, "data.height", 32, "data.width", 64))


def test_a_saliency_checkpoint_of_other_blocks_is_refused(earlier):
    message = r"method.saliency.levels '\[1, 2, 5, 6\]', and this run has '\[1, 2, 4, 6\]'"
    with pytest.raises(CheckpointError, match=message):
        tiny("dpm", *later(earlier, "method.saliency.levels", [1, 2, 4, 6]))


def test_masks_from_other_blocks_are_refused_but_take_over_the_same_saliency(tmp_path, earlier):
    options = later(earlier, "method.mask_levels", [-1])
    engine(tmp_path, config("dpm", *options), tiny("dpm", *options)).run_stages()
    path = tmp_path / "checkpoints/train.pth"
    with pytest.raises(CheckpointError, match=r"method.mask_levels '\[6\]', and this run has '\[5\]'"):
        load_trained(config("dpm", *SPT, "method.mask_levels", [5]), str(path))
    candidate = Candidate(config("dpm", *SPT, "method.mask_levels", [5]), "", read_test_weights(path))
    with pytest.raises(CheckpointError, match=r"method.mask_levels '\[6\]', and this run has '\[5\]'"):
        engine_of(candidate, Data(), tmp_path, torch.device("cpu"))
    load_trained(config("dpm", *SPT, "method.mask_levels", [-1]), str(path))


def test_a_checkpoint_that_nothing_is_taken_from_is_named():
    with pytest.raises(ConfigError, match="no stage is left to take from it: set method.start to the first stage to"):
        config("dpm", *SPT, "method.earlier", "log/first/checkpoints/saliency.pth")
    with pytest.raises(ConfigError, match="no stage is left"):
        config("dpm", *SPT, "method.start", "saliency", "method.earlier", "log/first/checkpoints/saliency.pth")


def test_a_stride_of_the_saliency_net_beyond_its_patches_is_named(earlier):
    with pytest.raises(ConfigError, match="from 1 to 8, not 9 .backbone.stride; of a saliency net method.saliency.str"):
        tiny("dpm", *SPT, "method.saliency.stride", 9)


def test_a_saliency_checkpoint_of_another_data_set_is_refused(tmp_path, earlier):
    with pytest.raises(CheckpointError, match="another number of identities"):
        tiny("dpm", *later(earlier), classes=6)
    for data, what in (
        (Data(name="other"), r"another data set \(toy\), and this run trains on other"),
        (Data(fingerprint="g"), "other files of toy"),
        (Data(pids=(0, 1, 2, 3, 9)), "another data set"),
    ):
        with pytest.raises(CheckpointError, match=what):
            engine(tmp_path, config("dpm", *later(earlier)), tiny("dpm", *later(earlier)), data).run_stages()


def test_an_unfinished_saliency_stage_is_refused(tmp_path):
    options = ["method.spt", True, "method.saliency.epochs", 2, "method.train.epochs", 1]

    class Interrupted(MethodEngine):
        def forward_backward(self, data):
            if self.epoch == 1:
                raise KeyboardInterrupt
            return super().forward_backward(data)

    cut = Interrupted(config("dpm", *options), Data(), tiny("dpm", *options), tmp_path, torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        cut.run_stages()
    with pytest.raises(CheckpointError, match=r"the stage 'saliency' is not finished in it \(finished: none\)"):
        tiny("dpm", *later(tmp_path / "checkpoints" / "last.pth"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["method.mask", "both"], "method.mask is 'both'; there are: none, feat_pre"),
        (["method.transfer.rank", "x"], "method.transfer.rank is 'x'"),
        (["method.train.margin", "abc"], "method.train.margin is 'abc' .str., expected "),
        (["method.saliency.stride", "abc"], "method.saliency.stride is 'abc' .str., expected "),
        (["backbone.name", "clip_rn50"], "backbone.name is 'clip_rn50', and dpm works on vit_b16, clip_vit_tiny"),
    ],
)
def test_wrong_keys_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        config("dpm", *options, "backbone.stride", 16 if "clip_rn50" in options else 8)


def test_an_optimizer_nobody_knows_is_named():
    with pytest.raises(ConfigError, match="the optimizer 'lamb' is unknown; there are: adam, adamw, sgd"):
        tiny("dpm", "method.train.optimizer", "lamb").stages()


def test_converted_weights_know_how_many_classes_they_have():
    assert build_method(config("dpm"), 5, 2, pretrained=False).num_classes == 5


def test_levels_outside_the_backbone_are_named():
    with pytest.raises(ConfigError, match=r"method.mask_levels is \[2, 12\]; .* which has blocks 1 to 6"):
        tiny("dpm", "method.mask_levels", [2, 12])
    with pytest.raises(ConfigError, match=r"method.saliency.levels is \[7\]; .* which has blocks 1 to 6"):
        tiny("dpm", "method.spt", True, "method.saliency.levels", [7])
