"""The memory bank: first prototypes, contrast, and both update rules, one sample at a time."""

import math

import pytest
import torch

from occplug.errors import ConfigError
from occplug.losses import PrototypeMemory


def unit(x):
    return x / x.norm()


def filled(**options):
    memory = PrototypeMemory(4, 6, **options)
    memory.fill(torch.randn(4, 6), torch.arange(4))
    return memory


LABELS = torch.tensor([2, 0, 2, 2, 0])


def test_fill_takes_the_unit_mean_of_each_identity():
    memory = PrototypeMemory(3, 5)
    assert not memory.is_filled
    features, labels = torch.randn(7, 5), torch.tensor([0, 1, 2, 1, 1, 0, 2])
    memory.fill(features, labels)
    assert memory.is_filled
    for identity in range(3):
        mean = features[labels == identity].mean(0)
        torch.testing.assert_close(memory.bank[identity], unit(mean))


@pytest.mark.parametrize("update", PrototypeMemory.UPDATES)
def test_other_integers_and_no_images(update):
    memory = filled(update=update)
    twin, features, before = filled(update=update), torch.randn(5, 6), memory.bank.clone()
    twin.bank.copy_(memory.bank)
    memory.update(features[:0], LABELS[:0])
    assert torch.equal(memory.bank, before)
    assert torch.equal(memory(features, LABELS.int()), memory(features, LABELS))
    memory.update(features, LABELS.int())
    twin.update(features, LABELS)
    assert torch.equal(memory.bank, twin.bank)


def test_an_identity_without_images_is_counted_and_starts_at_zero(caplog):
    memory = PrototypeMemory(3, 5)
    memory.fill(torch.randn(2, 5), torch.tensor([0, 2]))
    assert "1 of 3 identities have no image in the pass that fills the bank" in caplog.text
    assert not memory.bank[1].any()
    new = torch.randn(1, 5)
    memory.update(new, torch.tensor([1]))
    torch.testing.assert_close(memory.bank[1], unit(new[0]))


def test_the_contrast_against_loops_and_its_gradient():
    memory = filled(temperature=0.05)
    features = torch.randn(5, 6, requires_grad=True)
    total = 0.0
    for x, y in zip(features, LABELS.tolist()):
        scores = [unit(x) @ k / 0.05 for k in memory.bank]
        total = total - scores[y] + torch.stack(scores).exp().sum().log()
    loss = memory(features, LABELS)
    assert loss.item() == pytest.approx(total.item() / 5, rel=1e-5)
    (got,), (expected,) = (torch.autograd.grad(value, features) for value in (loss, total / 5))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_uses_the_bank_before_the_update():
    memory = filled()
    features = torch.randn(5, 6, requires_grad=True)
    (before,) = torch.autograd.grad(memory(features, LABELS), features)
    loss = memory(features, LABELS)
    memory.update(features.detach(), LABELS)
    (after,) = torch.autograd.grad(loss, features)
    assert torch.equal(before, after)


def test_a_loss_without_an_update_leaves_the_bank():
    memory = filled()
    before = memory.bank.clone()
    memory(torch.randn(5, 6, requires_grad=True), LABELS).backward()
    assert torch.equal(memory.bank, before) and not memory.bank.requires_grad


def test_hard_updates_with_the_farthest_of_each_identity():
    memory, features = filled(momentum=0.3), torch.randn(5, 6)
    expected = memory.bank.clone()
    for identity in (0, 2):
        candidates = [unit(x) for x, y in zip(features, LABELS.tolist()) if y == identity]
        hardest = min(candidates, key=lambda x: float(x @ memory.bank[identity]))
        expected[identity] = unit(0.3 * memory.bank[identity] + 0.7 * hardest)
    memory.update(features, LABELS)
    torch.testing.assert_close(memory.bank, expected)


def test_all_updates_with_each_sample_in_turn():
    memory, features = filled(momentum=0.3, update="all"), torch.randn(5, 6)
    expected = memory.bank.clone()
    for x, y in zip(features, LABELS.tolist()):
        expected[y] = unit(0.3 * expected[y] + 0.7 * unit(x))
    memory.update(features, LABELS)
    torch.testing.assert_close(memory.bank, expected)


@pytest.mark.parametrize("update", PrototypeMemory.UPDATES)
@pytest.mark.parametrize("width", [6, 768])
def test_rows_that_write_the_same_write_what_one_of_them_would(update, width):
    """To the bit, against rounds in which each identity is written once."""
    memory = PrototypeMemory(9, width, update=update)
    memory.fill(torch.randn(9, width), torch.arange(9))
    for count in (1, 7, 64):
        features, labels, bank = torch.randn(count, width), torch.randint(0, 9, (count,)), memory.bank.clone()
        x = torch.nn.functional.normalize(features)
        same = labels[:, None] == labels[None, :]
        cosines = (x * bank[labels]).sum(dim=1).expand(count, -1).masked_fill(~same, float("inf"))
        earlier = same.tril(-1).sum(dim=1)
        in_turn = [(earlier == turn).nonzero()[:, 0] for turn in range(count)]
        for rows in [cosines.argmin(dim=1).unique()] if update == "hard" else in_turn:
            moved = memory.momentum * bank[labels[rows]] + (1 - memory.momentum) * x[rows]
            bank[labels[rows]] = torch.nn.functional.normalize(moved)
        memory.update(features, labels)
        assert torch.equal(memory.bank, bank)


def test_momentum_is_the_share_that_stays():
    memory = filled(momentum=1.0)
    before = memory.bank.clone()
    memory.update(torch.randn(5, 6), LABELS)
    torch.testing.assert_close(memory.bank, before)
    memory.momentum = 0.0
    memory.update(10 * torch.eye(6)[:1], torch.tensor([3]))
    torch.testing.assert_close(memory.bank[3], torch.eye(6)[0])


def test_a_checkpoint_brings_the_bank():
    memory, other = filled(), PrototypeMemory(4, 6)
    other.load_state_dict(memory.state_dict())
    assert other.is_filled and torch.equal(other.bank, memory.bank)


def test_temperature_scales_the_cosines():
    memory = PrototypeMemory(2, 2, temperature=0.5)
    memory.fill(torch.eye(2), torch.arange(2))
    loss = memory(torch.tensor([[7.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2.0)), rel=1e-5)


def test_an_unknown_update_is_refused():
    with pytest.raises(ConfigError, match="bank_update is 'soft'; there are: hard, all"):
        PrototypeMemory(2, 2, update="soft")
