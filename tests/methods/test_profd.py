"""ProFD: the total loss against the written formula, what trains, the banks' life, and the test features."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug import Embedding, build_method
from occplug.config import default_config
from occplug.engine import MethodEngine, load_checkpoint, seed_everything
from occplug.errors import ConfigError, DataError
from occplug.evaluation import part_distance
from occplug.losses import BatchHardTriplet, patch_labels, visible_parts
from occplug.method import parameter_groups

H, W, CLASSES = 64, 32, 4
SMALL = ["data.height", H, "data.width", W, "train.batch_size", 8]
NO_MASKS = [f"method.train.weights.loss_{name}=0" for name in ("align", "attn", "vis")] + ["method.bank=global"]
PLAIN = ["backbone.weights", "none"]


def config(*options):
    return default_config("profd", "clip_vit_tiny", [*SMALL, *options])


def tiny(*options, classes=CLASSES, cameras=3):
    torch.manual_seed(1)
    return build_method(config(*PLAIN, *options), classes, cameras)


def batch(n=8, parts=5, classes=CLASSES):
    return {
        "img": torch.randn(n, 3, H, W),
        "pid": torch.arange(n) // 2 % classes,
        "camid": torch.arange(n) % 3,
        "masks": torch.randn(n, parts + 1, H // 4, W // 4).mul(4).softmax(1),
    }


class Loader(list):
    """Batches; iterating counts."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


class Data:
    """A data manager of a few fixed batches."""

    def __init__(self, *batches):
        self.plain, self.train_loader = Loader(batches), Loader(batches[::-1])

    def cache_loader(self, batch_size):
        return self.plain


def prepared(method, *batches):
    (stage,) = method.stages()
    stage.prepare(Data(*(batches or (batch(),))), torch.device("cpu"))
    return stage


# ------------------------------------------------------------------ losses


def smoothed(scores, labels, smoothing=0.1):
    total = 0.0
    for row, y in zip(scores, labels.tolist()):
        log_p = row - row.logsumexp(0)
        total = total - (1 - smoothing) * log_p[y] - smoothing * log_p.mean()
    return total / len(scores)


def test_the_losses_are_those_of_the_specification():
    method = tiny().eval()
    stage, b = prepared(method), batch()
    losses = stage.losses(b)
    y, masks, labels = b["pid"], b["masks"], patch_labels(b["masks"], 2, 2)
    tower = method.backbone(b["img"], b["camid"], tokens=True)
    g, tokens = tower.projected, tower.projected_tokens
    queries = torch.cat([method.background, method.text(method.prompts(), method.prompts.eot)])
    decoded = method.decoder(queries, tokens)
    parts = decoded.rows[:, 2:]
    joint = torch.cat(list(parts.unbind(1)), dim=1)
    g_bn, c_bn = method.neck.norm(g), method.neck_parts.norm(joint)
    expected = {
        "loss_id": smoothed(method.neck.classifier(g_bn), y) + smoothed(method.neck_parts.classifier(c_bn), y),
        "loss_tri": BatchHardTriplet(0.3)(g, y) + BatchHardTriplet(0.3)(joint, y),
    }
    rows = [0, 2, 3, 4, 5, 6]  # without the whole person
    cosines = F.cosine_similarity(tokens[:, None], queries[rows][None, :, None], dim=3).unflatten(2, (8, 4))
    up = [F.interpolate(x, (16, 8), mode="bilinear", align_corners=True) for x in (5 * cosines, labels)]
    expected["loss_align"] = smoothed(up[0].permute(0, 2, 3, 1).flatten(0, 2), up[1].argmax(1).flatten())
    flat = labels.flatten(2)
    target = (torch.cat([flat[:, :1], 1 - flat[:, :1], flat[:, 1:]], 1) / 0.01).softmax(2)
    expected["loss_attn"] = -(target * (decoded.attention + 1e-5).log()).sum(2).mean()
    for name, x in (("loss_pcl_g", g_bn), ("loss_pcl_p", c_bn)):
        scores = F.cosine_similarity(x[:, None], method.banks[name].bank[None], dim=2) / 0.05
        expected[name] = smoothed(scores, y, 0.0)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    d = torch.stack([F.cosine_similarity(parts[:, i], parts[:, j]).abs() for i, j in pairs], 1)
    expected["loss_div"] = (d.softmax(1) * d).sum(1).mean()
    v = torch.stack([(parts[:, k] @ method.visibility.weight[k] + method.visibility.bias[k]) for k in range(5)], 1)
    v, t = v.sigmoid(), visible_parts(masks)
    expected["loss_vis"] = -(0.65 * (1 - v) ** 2 * t * v.log() + 0.35 * v**2 * (1 - t) * (1 - v).log()).mean()
    assert losses.keys() == expected.keys() == stage.weights.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert stage.weights == {
        "loss_id": 1.0,
        "loss_tri": 1.0,
        "loss_align": 0.35,
        "loss_attn": 1.0,
        "loss_pcl_g": 1.0,
        "loss_pcl_p": 1.0,
        "loss_div": 1.0,
        "loss_vis": 10.0,
    }


def test_the_contrast_may_be_about_the_features_before_the_necks():
    method = tiny("method.pcl_on", "raw").eval()
    method.neck.norm.running_mean.fill_(0.5)
    stage, b = prepared(method), batch()
    g = method.backbone(b["img"], tokens=True).projected
    scores = F.cosine_similarity(g[:, None], method.banks["loss_pcl_g"].bank[None], dim=2) / 0.05
    assert stage.losses(b)["loss_pcl_g"].item() == pytest.approx(smoothed(scores, b["pid"], 0.0).item(), rel=1e-4)


@pytest.mark.parametrize(
    "options, gone",
    [
        (["method.bank=none"], {"loss_pcl_g", "loss_pcl_p"}),
        (["method.bank=global"], {"loss_pcl_p"}),
        (["method.bank=part"], {"loss_pcl_g"}),
        (["method.train.weights.loss_align=0"], {"loss_align"}),
        (["method.train.weights.loss_id=0"], {"loss_id"}),
        (["method.train.weights.loss_div=0", "method.train.weights.loss_vis=0"], {"loss_div", "loss_vis"}),
        (["method.decoder=sea"], {"loss_attn"}),
        (["method.decoder=spa"], set()),
        (["method.decoder=wap"], set()),
        (["method.decoder=mask"], {"loss_attn"}),
        (["method.decoder=mask", "method.train.weights.loss_align=0"], {"loss_attn", "loss_align"}),
        (["method.prompt=learned"], set()),
        (["method.background_query=learned"], set()),
        (["method.ctx_shared=True", "method.train.text_encoder_lr_mult=0"], set()),
        (["method.attn_loss_on=dropped", "method.div_weighting=paper", "method.bank_update=all"], set()),
        (NO_MASKS, {"loss_align", "loss_attn", "loss_vis", "loss_pcl_p"}),
        (["method.parts=eight"], set()),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_every_ablation_takes_a_step_that_reaches_all_it_trains(options, gone):
    method = tiny(*options)
    b = batch(parts=method.num_parts)
    stage = prepared(method, b)
    all_names = set(method.options.train.weights)
    assert set(stage.weights) == all_names - gone
    parameter_groups(method, stage.groups)
    method.train()
    losses = stage.losses(b)
    assert set(losses) == all_names - gone
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    stage.after_step(b)
    assert method.embed(b["img"]).parts.shape == (8, method.num_parts, 96)


# ------------------------------------------------------------------ what trains


def test_the_groups_are_the_official_ones():
    method = tiny("backbone.sie_camera=True")
    groups = parameter_groups(method, method.stages()[0].groups)
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert frozen == {"background", "backbone.camera_embedding", "neck.norm.bias", "neck_parts.norm.bias"}
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    for name, rate in rates.items():
        assert rate == pytest.approx(5e-6 if name.startswith("backbone.visual.") else 5e-5), name
    assert {group["weight_decay"] for group in groups} == {1e-4}
    assert isinstance(method.stages()[0].optimizer(groups), torch.optim.AdamW)


def test_the_paper_freezes_the_text_tower_and_may_learn_the_background():
    method = tiny("method.train.text_encoder_lr_mult=0", "method.background_query=learned")
    parameter_groups(method, method.stages()[0].groups)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert not any(name.startswith("text.") for name in trained)
    assert {"prompts.context", "background"} <= trained


def test_the_rate_starts_at_a_tenth_and_drops_after_thirty_epochs():
    factor = tiny().stages()[0].schedule
    assert [factor(epoch) for epoch in (1, 2, 10, 11, 30, 31, 50, 51)] == pytest.approx(
        [0.1, 0.19, 0.91, 1, 1, 0.1, 0.1, 0.01]
    )


def test_the_statistics_of_the_part_norms_follow_the_training_batches():
    """No loss reads them, and a test feature is nothing without them."""
    method, b = tiny("method.dropout=0"), batch()
    stage = prepared(method.eval())
    method.train()
    with torch.no_grad():
        parts = method.forward_features(b["img"]).parts.flatten(1)
    stage.losses(b)
    torch.testing.assert_close(method.part_norm.norm.running_mean, 0.1 * parts.mean(0), rtol=1e-4, atol=1e-6)
    assert method.neck_parts.norm.num_batches_tracked == 1, "the concat norm sees each batch once"
    method.outputs(b["img"])
    assert method.part_norm.norm.num_batches_tracked == 2
    method.embed(b["img"])
    assert method.part_norm.norm.num_batches_tracked == 2


# ------------------------------------------------------------------ memory banks


def test_the_banks_start_from_clip_pooled_by_the_masks():
    method = tiny().eval()
    first, second = batch(6), batch(4)
    prepared(method, first, second)
    scale = (1 + 1e-5) ** -0.5
    whole, joint = {y: [] for y in range(CLASSES)}, {y: [] for y in range(CLASSES)}
    with torch.no_grad():
        for b in (first, second):
            tower = method.backbone(b["img"], tokens=True)
            labels = patch_labels(b["masks"], 2, 2).flatten(2)
            for i, y in enumerate(b["pid"].tolist()):
                whole[y].append(F.normalize(tower.projected[i] * scale, dim=0))
                means = []
                for k in range(1, 6):
                    weights = labels[i, k]
                    means.append(
                        (weights[:, None] * tower.projected_tokens[i]).sum(0) / max(float(weights.sum()), 1e-6)
                    )
                joint[y].append(torch.cat(means) * scale)
    for name, features in (("loss_pcl_g", whole), ("loss_pcl_p", joint)):
        bank = method.banks[name].bank
        for y in range(3):
            torch.testing.assert_close(
                bank[y], F.normalize(torch.stack(features[y]).mean(0), dim=0), atol=1e-5, rtol=1e-4
            )


def test_the_pass_is_plain_or_the_training_loaders():
    for init, passes in (("plain", (1, 0)), ("loader", (0, 1))):
        data = Data(batch())
        (stage,) = tiny(f"method.bank_init={init}").stages()
        stage.prepare(data, torch.device("cpu"))
        assert (data.plain.passes, data.train_loader.passes) == passes


def test_filled_banks_are_kept():
    method = tiny().eval()
    stage = prepared(method)
    stage.after_step({**batch(), "remembered": {n: torch.randn(8, b.bank.shape[1]) for n, b in method.banks.items()}})
    before = {name: bank.bank.clone() for name, bank in method.banks.items()}
    prepared(method, batch())
    assert all(torch.equal(before[name], bank.bank) for name, bank in method.banks.items())
    assert "banks.loss_pcl_p.bank" in method.state_dict()


def test_after_the_step_the_banks_move_by_the_features_of_the_step():
    method = tiny("method.m_g=0.7").train()
    stage, b = prepared(method), batch()
    before = method.banks["loss_pcl_g"].bank.clone()
    stage.losses(b)
    assert torch.equal(method.banks["loss_pcl_g"].bank, before), "not before the gradient is taken"
    stage.after_step(b)
    x = F.normalize(b["remembered"]["loss_pcl_g"], dim=1)
    for y in range(CLASSES):
        hardest = min((x[i] for i in range(8) if b["pid"][i] == y), key=lambda v: float(v @ before[y]))
        expected = F.normalize(0.7 * before[y] + 0.3 * hardest, dim=0)
        torch.testing.assert_close(method.banks["loss_pcl_g"].bank[y], expected)
    assert (method.banks["loss_pcl_g"].momentum, method.banks["loss_pcl_p"].momentum) == (0.7, 0.2)


# ------------------------------------------------------------------ testing


def embedded(method, images):
    with torch.no_grad():
        method.eval()
        seen = method.forward_features(images)
        return seen, method.embed(images)


def test_the_embedding_is_the_normed_features_at_unit_length_and_needs_no_masks():
    method = tiny()
    method.neck.norm.running_mean.fill_(0.3)
    method.part_norm.norm.running_var.uniform_(0.5, 2.0)
    images = batch()["img"]
    seen, embedding = embedded(method, images)
    g = F.normalize((seen.whole - 0.3) / (1 + 1e-5) ** 0.5, dim=1)
    torch.testing.assert_close(embedding.vector, g, atol=1e-5, rtol=0)
    variance = method.part_norm.norm.running_var.view(5, 96)
    for k in range(5):
        part = F.normalize(seen.parts[:, k] / (variance[k] + 1e-5).sqrt(), dim=1)
        torch.testing.assert_close(embedding.parts[:, k], part, atol=1e-5, rtol=0)
    raw = tiny("method.test_embeddings=raw")
    raw.load_state_dict(method.state_dict())
    seen, embedding = embedded(raw, images)
    torch.testing.assert_close(embedding.vector, F.normalize(seen.whole, dim=1))
    torch.testing.assert_close(embedding.parts, F.normalize(seen.parts, dim=2))
    assert not embedding.vector.requires_grad


def test_visibility_at_test():
    images = batch()["img"]
    found = {}
    for kind in ("softmax", "sigmoid", "binary", "none", "even"):
        method = tiny(f"method.test_visibility={kind}")
        with torch.no_grad():
            method.visibility.weight.mul_(30)
        seen, embedding = embedded(method, images)
        v = torch.stack([method.visibility.weight[k] @ seen.parts[:, k].T for k in range(5)], 1)
        v = (v + method.visibility.bias).detach().sigmoid()
        found[kind] = embedding.visibility
    exponents = [[math.exp(x / 0.1) for x in row] for row in v.tolist()]
    torch.testing.assert_close(found["softmax"], torch.tensor([[e / sum(row) for e in row] for row in exponents]))
    torch.testing.assert_close(found["sigmoid"], v)
    assert torch.equal(found["binary"], (v >= 0.5).float()) and 0 < found["binary"].mean() < 1
    assert torch.equal(found["none"], torch.ones(8, 5)) and torch.equal(found["even"], torch.full((8, 5), 0.2))


@pytest.mark.parametrize("metric, floor", [("euclidean", 0.1), ("cosine", 0.0)])
def test_the_distance_is_the_part_distance(metric, floor):
    method = tiny(f"method.dist_metric={metric}", f"method.vis_floor={floor}")

    def side(n):
        return Embedding(F.normalize(torch.randn(n, 96)), F.normalize(torch.randn(n, 5, 96), dim=2), torch.rand(n, 5))

    q, g = side(3), side(4)
    expected = part_distance(q.vector, q.parts, q.visibility, g.vector, g.parts, g.visibility, metric, floor)
    torch.testing.assert_close(method.distance(q, g), expected)
    shorter = Embedding(0.7 * q.vector, 0.5 * q.parts, q.visibility)
    torch.testing.assert_close(method.distance(shorter, g), expected)


def test_texts_are_encoded_once_at_test_and_again_after_training():
    method, calls = tiny(), []
    method.text.register_forward_hook(lambda *_: calls.append(1))
    images = batch()["img"]
    method.embed(images)
    method.embed(images)
    assert len(calls) == 1
    stage, b = prepared(method), batch()
    before = method.embed(images).parts
    method.train()
    sum(stage.losses(b).values()).backward()
    torch.optim.SGD([method.prompts.context], 5.0).step()
    assert not torch.allclose(method.embed(images).parts, before)


# ------------------------------------------------------------------ the user's mistakes


def test_a_batch_without_masks_says_what_to_do():
    method = tiny()
    b = batch()
    del b["masks"]
    with pytest.raises(
        DataError, match="the batch has no part masks; .* method.bank global or none, and 0 for loss_al"
    ):
        method.stages()[0].losses(b)


def test_masks_of_another_grouping_are_named():
    method = tiny()
    with pytest.raises(DataError) as caught:
        method.stages()[0].losses({**batch(), "masks": torch.zeros(8, 9, 16, 8)})
    assert str(caught.value) == (
        "masks are [8, 9, 16, 8], method.parts 'five_v' needs [B, 6, 16, 8]: background and 5 parts; group the masks "
        "the same way"
    )


@pytest.mark.parametrize(
    "option, message",
    [
        ("method.decoder=transformer", "method.decoder is 'transformer'; there are: hybrid, sea, spa, wap, mask"),
        ("method.parts=six", "method.parts is 'six'; there are: five_v, eight, four_v, three_v, two_v"),
        ("method.test_visibility=hard", "method.test_visibility is 'hard'; there are: softmax, sigmoid, binary, none"),
        ("method.train.optimizer=lion", "method.train.optimizer is 'lion'; there are: adam, adamw, sgd"),
        ("method.decoder_layers=0", "method.decoder_layers is 0; it must be from 1 to 64"),
        ("method.decoder_heads=-8", "method.decoder_heads is -8; it must be from 1 to 64"),
        ("method.pcl_temperature=0", "method.pcl_temperature is 0.0; it must be above 0"),
        ("method.vis_floor=2", "method.vis_floor is 2.0; it must be from 0 to 1"),
        ("method.m_p=1.5", "method.m_p is 1.5; it must be at least 0 and below 1"),
        ("backbone.stride=7", "backbone.stride is 7; with part masks it must be a multiple of 4"),
        ("data.height=66", "data.height is 66; with part masks it must be a multiple of 4"),
    ],
)
def test_wrong_keys_are_errors_before_anything_is_built(option, message):
    with pytest.raises(ConfigError) as caught:
        config(option)
    assert message in str(caught.value)


def test_masks_have_the_scheme_of_the_parts_unless_they_are_given_one():
    assert config("method.parts=eight").masks.scheme == "eight" and config().masks.scheme == "five_v"
    assert config("method.parts=eight", "masks.scheme=eight").masks.scheme == "eight"


def test_masks_of_another_scheme_than_the_parts_are_refused():
    with pytest.raises(ConfigError, match="method.parts is 'five_v', but masks.scheme is 'two_v'; both name the same"):
        config("masks.scheme=two_v")


def test_a_backbone_without_patch_tokens_is_refused():
    with pytest.raises(ConfigError, match="backbone.name is 'clip_rn50', but profd needs patch tokens"):
        default_config("profd", "clip_rn50")


def test_masks_are_asked_for_only_by_what_they_teach():
    from occplug.methods.profd import ProFD

    assert ProFD.extras(config()) == ("masks",)
    assert ProFD.extras(config(*NO_MASKS)) == ()
    assert ProFD.extras(config(*NO_MASKS, "method.decoder=mask")) == ("masks",)
    assert ProFD.extras(config("method.bank=part", *NO_MASKS[:3])) == ("masks",)
    config(*NO_MASKS, "backbone.stride=7")  # no masks, any stride


# ------------------------------------------------------------------ training from end to end


class Stripes:
    """Persons in bands of their own colours, with masks made by hand; every fourth has hidden legs."""

    data_type, height, width = "image", H, W

    def __init__(self, batch_size=8):
        draw = torch.Generator().manual_seed(3)
        colours = torch.randn(CLASSES, 3, 3, generator=draw)
        bands = [(0, 2), (2, 10), (10, 16)]
        rows = []
        for n in range(32):
            image, groups = torch.zeros(3, H, W), torch.zeros(16, 8, dtype=torch.long)
            shown = bands[:2] if n % 4 == 3 else bands
            for part, (top, bottom) in enumerate(shown):
                image[:, 4 * top : 4 * bottom, 8:24] = colours[n % CLASSES, part][:, None, None]
                groups[top:bottom, 2:6] = part + 1
            image += 0.3 * torch.randn(3, H, W, generator=draw)
            masks = (15 * F.one_hot(groups, 4).float()).softmax(2).permute(2, 0, 1)
            rows.append({"img": image, "pid": n % CLASSES, "camid": n // 4 % 2, "impath": f"{n}.png", "masks": masks})
        self.sources = self.targets = ["stripes"]
        self.pids, self.cameras = list(range(CLASSES)), [0, 1]
        self.rows = rows
        self.train_loader = self._loader(rows[:16], batch_size, shuffle=True)
        plain = [{k: v for k, v in row.items() if k != "masks"} for row in rows]
        self.test_loader = {"stripes": {"query": self._loader(plain[16:24], 4), "gallery": self._loader(plain[24:], 4)}}

    @staticmethod
    def _loader(rows, batch_size, **options):
        return torch.utils.data.DataLoader(rows, batch_size=batch_size, **options)

    def cache_loader(self, batch_size):
        return self._loader(self.rows[:16], batch_size)

    def summary(self):
        return {"stripes": {"train": 16, "query": 8, "gallery": 8, "train_ids": CLASSES, "fingerprint": "stripes"}}


def stripes_engine(folder, *options):
    cfg = config("method.parts=three_v", "method.train.epochs=3", "method.train.lr=5e-4", *options)
    seed_everything(5)
    method = build_method(cfg, CLASSES, 2)
    return MethodEngine(cfg, Stripes(), method, folder, torch.device("cpu"))


def test_training_learns_what_the_masks_teach(tmp_path):
    engine = stripes_engine(tmp_path / "whole", "method.train.epochs=8", "method.train.warmup_epochs=1")
    method, rows = engine.model, engine.datamanager.rows
    images, masks = (torch.stack([row[key] for row in rows[:16]]) for key in ("img", "masks"))
    b = {"img": images, "masks": masks, "pid": torch.tensor([r["pid"] for r in rows[:16]]), "camid": torch.zeros(16)}

    def figures():
        method.eval()
        with torch.no_grad():
            return method.stages()[0].losses({**b, "camid": None})

    engine.stages[0].prepare(engine.datamanager, torch.device("cpu"))
    before = figures()
    engine.run_stages()
    after = figures()
    for name in ("loss_id", "loss_align", "loss_attn", "loss_vis"):
        assert after[name] < before[name], name
    assert engine.results["stripes"].mAP > 0.5
    with torch.no_grad():
        visibility = method.visibility(method.forward_features(images).parts)[:, 2]
    hidden = torch.arange(16) % 4 == 3
    assert visibility[hidden].mean() < visibility[~hidden].mean(), "hidden legs are seen less"


def test_a_resumed_run_keeps_the_banks_and_equals_an_unbroken_one(tmp_path):
    whole = stripes_engine(tmp_path / "whole")
    whole.run_stages()

    class Stop(MethodEngine):
        def forward_backward(self, data):
            if (self.epoch, self.batch_idx) == (1, 1):
                raise KeyboardInterrupt
            return super().forward_backward(data)

    broken = stripes_engine(tmp_path / "broken")
    broken.__class__ = Stop
    with pytest.raises(KeyboardInterrupt):
        broken.run_stages()
    again = stripes_engine(tmp_path / "broken")
    again.run_stages(load_checkpoint(tmp_path / "broken" / "checkpoints" / "last.pth"))
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("where", ["bn", "raw"])
def test_a_model_in_half_precision_embeds(where):
    method = tiny("method.test_embeddings", where).eval()
    images = torch.randn(2, 3, H, W)
    full, half = method.embed(images), method.half().embed(images.half())
    assert half.vector.dtype == half.parts.dtype == torch.float32
    torch.testing.assert_close(half.vector, full.vector, atol=0.02, rtol=0)
