"""The pretraining's parts: each shortcut against the plain computation it replaces, and resuming."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

from occplug.backbones import tiny
from pretraining import parallel
from pretraining.scoring import macro_accuracy, recalls
from pretraining.temperature import fold_logit_scale, mean_norms
from pretraining.texts import PHRASES, VALUES, RowTokenizer, encode, prompts, vocabulary
from pretraining.trainer import BlockDropout, Trainer, TrainingPlan, build_model, encode_text, to_pixels

CAPTIONS = [
    "a photo of a slim person with brown hair, wearing a red t-shirt with an orange logo, navy trousers, black shoes",
    "a pedestrian wearing a yellow vertical striped coat with grey, of heavy build",
    "a person",
]
EVEN = {name: torch.ones(len(VALUES[name])) / len(VALUES[name]) for name in PHRASES}


@pytest.fixture(scope="module")
def ids():
    return vocabulary(CAPTIONS)


@pytest.fixture(scope="module")
def compact(ids):
    torch.manual_seed(1)
    return build_model(ids).eval()


@pytest.fixture(scope="module")
def whole(compact, ids):
    """The same weights in open_clip's own, unmodified model."""
    model = CLIP(**tiny.ARCHITECTURE).eval()
    table = tiny.initial_table()
    table[ids] = compact.token_embedding.weight.data
    model.load_state_dict({**compact.state_dict(), tiny.TABLE: table}, strict=True)
    return model


def test_word_by_word_tokens_are_those_of_the_tokenizer():
    tokenizer = SimpleTokenizer()
    texts = CAPTIONS + [p for name in PHRASES for p in prompts(name, np.random.default_rng(3))]
    for text in texts:
        assert encode(text) == [49406, *tokenizer.encode(text), 49407]


def test_text_features_equal_open_clips_on_padded_text(compact, whole, ids):
    with torch.no_grad():
        ours = encode_text(compact, *RowTokenizer(ids)(CAPTIONS), chunks=2)
        reference = F.normalize(whole.encode_text(SimpleTokenizer()(CAPTIONS)), dim=1)
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=0)


def test_image_features_equal_open_clips(compact, whole):
    images = torch.randn(2, 3, 128, 64)
    with torch.no_grad():
        torch.testing.assert_close(compact.visual(images), whole.encode_image(images), atol=2e-5, rtol=0)


@pytest.mark.parametrize("keep", [1, 2])
def test_block_dropout_keeps_as_many_tokens_of_every_block(keep):
    drop = BlockDropout().train()
    drop.keep = keep
    numbers = torch.arange(129.0).view(1, 129, 1).expand(3, -1, -1)
    kept = drop(numbers)[..., 0].long()
    assert kept.shape == (3, 1 + 32 * keep) and (kept[:, 0] == 0).all()
    rows, columns = (kept[:, 1:] - 1) // 8, (kept[:, 1:] - 1) % 8
    blocks = rows // 2 * 4 + columns // 2
    for line, chosen in zip(blocks, kept[:, 1:], strict=True):
        assert (line.bincount(minlength=32) == keep).all() and len(chosen.unique()) == 32 * keep
    assert drop.eval()(numbers).shape == (3, 129, 1)


def test_prompts_of_one_attribute_differ_only_in_it_and_name_every_value():
    for name in PHRASES:
        lines = prompts(name, np.random.default_rng(5))
        assert len(set(lines)) == len(VALUES[name])
        for value, line in zip(VALUES[name], lines, strict=True):
            assert value in line or value in ("none", "plain")


def test_macro_accuracy_counts_classes_not_images():
    label = torch.tensor([0, 0, 0, 1, -100])
    assert macro_accuracy(torch.tensor([0, 0, 0, 0, 2]), label) == pytest.approx(0.5)
    assert macro_accuracy(torch.tensor([0, 1, 1, 1, 2]), label) == pytest.approx((1 / 3 + 1) / 2)


def test_recalls_are_of_the_classes_that_occur():
    label = torch.tensor([0, 0, 2, 2, 2, -100])
    assert recalls(torch.tensor([0, 1, 2, 2, 0, 1]), label) == pytest.approx({0: 1 / 2, 2: 2 / 3})


def test_folded_projections_give_the_wanted_norms_the_same_cosines_and_products_at_the_learnt_scale(compact, ids):
    images, texts = torch.randint(0, 256, (6, 128, 64, 3), dtype=torch.uint8), RowTokenizer(ids)(CAPTIONS)
    norms = mean_norms(compact, images, *texts)
    model = copy.deepcopy(compact)
    model.load_state_dict(fold_logit_scale(compact.state_dict(), *norms, image_target=10.0))
    scale = compact.logit_scale.exp().item()
    assert mean_norms(model, images, *texts) == pytest.approx((10.0, scale / 10), rel=1e-5)
    with torch.no_grad():
        raw = [encode_text(m, *texts, normalize=False) for m in (compact, model)]
        pixels = to_pixels(images)
        seen = [m.visual(pixels) for m in (compact, model)]
    torch.testing.assert_close(F.normalize(raw[0], dim=1), F.normalize(raw[1], dim=1))
    torch.testing.assert_close(F.normalize(seen[0], dim=1), F.normalize(seen[1], dim=1))
    # a product is the training's logit but for how far the two norms are from their means
    spread = seen[1].norm(dim=1)[:, None] / 10 * raw[1].norm(dim=1) * 10 / scale
    expected = scale * F.normalize(seen[0], dim=1) @ F.normalize(raw[0], dim=1).T
    torch.testing.assert_close(seen[1] @ raw[1].T / spread, expected, rtol=1e-4, atol=1e-4)


def test_a_run_may_start_from_an_earlier_file(ids):
    trainer = Trainer(ids, TrainingPlan(samples=1000, batch=8), EVEN)
    state = tiny.load()
    trainer.start_from(state)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, state[name][ids] if name == tiny.TABLE else state[name]), name


def _batch(seed, size=8):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 128, 64, 3), generator=draw, dtype=torch.uint8)
    labels = {n: torch.randint(0, len(VALUES[n]), (size,), generator=draw) for n in PHRASES}
    return images, [CAPTIONS[i % 3] for i in range(size)], labels


def test_resumed_training_equals_uninterrupted_training(ids, tmp_path):
    def fresh():
        return Trainer(ids, TrainingPlan(samples=1000, batch=8), EVEN)

    straight, first = fresh(), fresh()
    torch.manual_seed(9)
    straight.step(*_batch(0))
    torch.manual_seed(9)
    first.step(*_batch(0))
    torch.save(first.state_dict(), tmp_path / "c.pt")
    second = fresh()
    second.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True))
    for trainer in (straight, second):
        torch.manual_seed(10)
        trainer.step(*_batch(1))
    assert second.samples == straight.samples == 16
    for a, b in zip(straight.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)


def test_training_moves_only_rows_that_were_shown(ids):
    trainer = Trainer(ids, TrainingPlan(samples=1000, batch=8), EVEN)
    before = copy.deepcopy(trainer.model.token_embedding.weight.data)
    trainer.step(*_batch(0))
    moved = set(ids[(trainer.model.token_embedding.weight.data != before).any(dim=1)].tolist())
    assert moved >= set(encode(CAPTIONS[0])) and len(moved) < 150
    assert "wheelchair" in SimpleTokenizer().decode([t for t in ids.tolist() if t not in moved])


def test_schedule_ends_with_whole_images_and_a_small_step(ids):
    trainer = Trainer(ids, TrainingPlan(samples=1000, minutes=math.inf), EVEN)
    keeps, rates = [], []
    for trainer.samples in (0, 800, 999):
        trainer.steps = 100
        trainer._schedule()
        keeps.append(trainer.model.visual.patch_dropout.keep)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert keeps == [1, 2, 4] and rates[0] == pytest.approx(1.2e-3, rel=0.02) and rates[2] < 2e-5
    trainer.seconds, trainer.plan = 90.0, TrainingPlan(samples=1000, minutes=1)
    assert trainer.progress == 1


def test_one_process_needs_no_group():
    x = torch.ones(2, 3, requires_grad=True)
    assert parallel.all_gather(x) is x and parallel.broadcast([1.5]) == [1.5]
