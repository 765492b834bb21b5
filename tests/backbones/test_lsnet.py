"""LSNet against a plain reference, its small-kernel aggregation against loops, its sizes against the paper's."""

import pytest
import torch
from torch import nn

from occplug.backbones.lsnet import SIZES, Attention, FixedBatchNorm2d, LSNet, Perception
from occplug.backbones.ska import small_kernel_aggregation
from occplug.registry import BACKBONES, build
from tests.backbones import lsnet_reference as reference

# widths and depths with every kind of block: even and odd in each stage, odd ones in stage 1 as LSNet-B has
SMALL = ((32, 64, 32, 64), (2, 1, 2, 3))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loaded(widths, depths, **options):
    """LSNet and the state dict of random values it holds, in float64 and eval mode."""
    state = reference.random_state(reference.shapes(widths, depths), dtype=torch.float64)
    net = LSNet(widths, depths, **options).double()
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    return net.eval(), state


# ---------------------------------------------------------------- small-kernel aggregation


@pytest.mark.parametrize("channels, kernels, side", [(6, 3, 3), (4, 4, 3), (4, 1, 5), (3, 3, 1)])
def test_aggregation_is_the_sum_of_the_formula(channels, kernels, side):
    x, w = draw(2, channels, 5, 4), draw(2, kernels, side * side, 5, 4, seed=1)
    torch.testing.assert_close(small_kernel_aggregation(x, w), reference.ska(x, w), atol=1e-12, rtol=0)
    torch.testing.assert_close(reference.ska_unfold(x, w), reference.ska(x, w), atol=1e-12, rtol=0)


def test_channels_that_share_a_kernel_are_interleaved():
    x, w = torch.ones(1, 8, 1, 1), torch.zeros(1, 4, 9, 1, 1)
    w[0, :, 4, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])  # the centre tap of the four kernels
    assert small_kernel_aggregation(x, w).flatten().tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_taps_are_row_by_row_and_not_flipped():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    for tap in range(9):
        w = torch.zeros(1, 1, 9, 3, 3)
        w[0, 0, tap] = 1
        assert small_kernel_aggregation(x, w)[0, 0, 1, 1] == tap  # the neighbour of the centre that the tap names


@pytest.mark.parametrize("side", [3, 5])
def test_both_gradients_of_the_aggregation(side):
    x, w = draw(2, 4, 3, 5).requires_grad_(), draw(2, 2, side * side, 3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(small_kernel_aggregation, (x, w))
    assert torch.autograd.gradcheck(small_kernel_aggregation, (x.detach(), w))
    assert torch.autograd.gradcheck(small_kernel_aggregation, (x, w.detach()))
    strided = x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(small_kernel_aggregation, (strided, w))


@pytest.mark.parametrize("channels, kernels, taps", [(4, 4, 4), (4, 4, 8), (5, 2, 9)])
def test_kernels_that_fit_nothing_are_refused(channels, kernels, taps):
    with pytest.raises(ValueError, match=f"{taps} taps for {kernels} kernels on {channels} channels"):
        small_kernel_aggregation(torch.zeros(1, channels, 2, 2), torch.zeros(1, kernels, taps, 2, 2))


# ---------------------------------------------------------------- the whole net


@pytest.mark.parametrize("height, width", [(256, 128), (384, 128), (90, 70)])
def test_stages_are_those_of_the_reference(height, width):
    """Last grids 4x2 (within the bias table), 6x2 (beyond it), 2x2 from sides that are no multiple of 64."""
    net, state = loaded(*SMALL)
    images = draw(2, 3, height, width)
    with torch.no_grad():
        outputs, expected = net.forward_features(images), reference.forward_features(state, images, *SMALL)
    for output, wanted in zip(outputs, expected, strict=True):
        assert wanted.std() > 0.1  # the comparison is of something
        torch.testing.assert_close(output, wanted, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(net(images), expected[-1].mean((2, 3)), atol=1e-9, rtol=1e-9)


def test_a_large_net_is_that_of_the_reference():
    """LSNet-B as released, in float64: the depths of every stage and the block kinds at their numbers."""
    sizes = reference.SIZES["lsnet_b"]
    net, state = loaded(*sizes)
    images = draw(1, 3, 128, 64)
    with torch.no_grad():
        outputs, expected = net.forward_features(images), reference.forward_features(state, images, *sizes)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, atol=1e-8, rtol=1e-8)


# parameters: backbone, with a 1000-class head, fused with a fused head; tensors of a released file
COUNTS = {
    "lsnet_t": (11_024_064, 11_409_832, 11_370_488, 696),
    "lsnet_s": (15_696_408, 16_146_304, 16_098_232, 724),
    "lsnet_b": (22_799_584, 23_313_608, 23_249_320, 964),
}


@pytest.mark.parametrize("name", list(COUNTS))
def test_parameters_are_as_many_as_published(name):
    backbone, with_head, fused, tensors = COUNTS[name]
    net = build(BACKBONES, name)
    width = net.widths[-1]
    linear = 1000 * width + 1000
    assert count(net) == backbone
    assert count(net) + 2 * width + linear == with_head  # the head: a batch norm and a linear layer
    names = reference.shapes(*reference.SIZES[name])
    assert len(names) == tensors
    extra = {n for n in names if n.startswith("head.") or n.endswith("attention_bias_idxs")}
    assert {n: tuple(v.shape) for n, v in net.state_dict().items()} == {n: names[n] for n in names if n not in extra}
    assert count(net.eval().fuse()) + linear == fused


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    "size, grids",
    [
        ((224, 224), [(28, 28), (14, 14), (7, 7), (4, 4)]),
        ((256, 128), [(32, 16), (16, 8), (8, 4), (4, 2)]),
        ((384, 128), [(48, 16), (24, 8), (12, 4), (6, 2)]),
    ],
)
def test_grids_of_the_stages(size, grids):
    net = build(BACKBONES, "lsnet_mini").eval()
    with torch.no_grad():
        outputs = net.forward_features(torch.randn(1, 3, *size))
    assert [tuple(x.shape[1:]) for x in outputs] == [(c, *g) for c, g in zip((32, 64, 96, 128), grids)]


def test_fewer_stages_are_the_first_of_the_whole():
    net, state = loaded(*SMALL)
    part = LSNet(SMALL[0][:2], SMALL[1][:2]).double().eval()
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    images = draw(1, 3, 64, 64)
    for few, all_of_them in zip(part.forward_features(images), net.forward_features(images)):
        assert torch.equal(few, all_of_them)


@pytest.mark.parametrize("widths, depths", [((32, 48), (1, 1)), ((32, 64), (1,)), ((32,) * 5, (1,) * 5), ((0,), (1,))])
def test_sizes_it_cannot_be_built_with(widths, depths):
    with pytest.raises(ValueError, match="widths multiples of 32"):
        LSNet(widths, depths)


# ---------------------------------------------------------------- attention bias


@pytest.mark.parametrize("rows, columns", [(4, 2), (2, 4), (4, 4), (1, 3)])
def test_bias_is_the_entry_for_the_distance(rows, columns):
    attention = Attention(64, nn.BatchNorm2d)
    nn.init.normal_(attention.attention_biases)
    bias, table = attention.bias(rows, columns), attention.attention_biases.view(4, 4, 4)
    assert bias.shape == (4, rows * columns, rows * columns)
    for n in range(rows * columns):
        for m in range(rows * columns):
            down, across = abs(n // columns - m // columns), abs(n % columns - m % columns)
            assert torch.equal(bias[:, n, m], table[:, down, across])


def test_bias_follows_weights_loaded_in_eval_mode():
    net, state = loaded(*SMALL)
    images = draw(1, 3, 256, 128)
    before = net.forward_features(images)[-1]
    key = "blocks4.3.mixer.m.attention_biases"
    net.load_state_dict({**net.state_dict(), key: state[key].flip(0) * 3})
    expected = reference.forward_features({**state, key: state[key].flip(0) * 3}, images, *SMALL)[-1]
    after = net.forward_features(images)[-1]
    torch.testing.assert_close(after, expected, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(after, before)


def test_a_longer_grid_is_logged_once_and_trains_the_stored_table(caplog):
    caplog.set_level("INFO")
    attention = Attention(32, nn.BatchNorm2d)
    for _ in range(2):
        attention.bias(9, 2).sum().backward()
    assert caplog.text.count("a grid of 9x2: LSNet's attention bias enlarged to 9x4") == 1
    assert attention.attention_biases.shape == (4, 16) and attention.attention_biases.grad.abs().sum() > 0


# ---------------------------------------------------------------- training, fusion, precision


def test_a_grid_first_seen_in_inference_mode_can_train_later():
    attention = Attention(64, nn.BatchNorm2d)
    with torch.inference_mode():
        attention.bias(13, 5)
    attention.bias(13, 5).sum().backward()
    assert attention.attention_biases.grad is not None


def test_blocks_start_as_the_paper_says():
    """The last norm of the feed-forward and attention branches starts at zero, every other at one."""
    net = LSNet(*SMALL)
    for name, value in net.state_dict().items():
        if name.endswith("bn.weight"):
            zero = name.endswith(("ffn.m.pw2.bn.weight", "mixer.m.proj.1.bn.weight"))
            assert (value == (0 if zero else 1)).all(), name


def test_every_parameter_gets_a_gradient():
    net, _ = loaded(*SMALL)
    net.train()
    sum((output**2).mean() for output in net.forward_features(draw(3, 3, 128, 128))).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_fused_equals_unfused():
    net, state = loaded(*SMALL)
    images = draw(2, 3, 96, 64)
    with torch.no_grad():
        before = net.forward_features(images)
        after = net.fuse().forward_features(images)
    for a, b in zip(after, before):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    kept = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert kept and all(name.endswith("mixer.bn") for name in kept)  # after an aggregation: nothing to fold it into


def test_fusing_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="needs eval mode"):
        LSNet(*SMALL).fuse()


def test_fixed_norm_keeps_its_statistics_in_training_mode():
    net, state = loaded(*SMALL, norm=FixedBatchNorm2d)
    images = draw(2, 3, 64, 64)
    expected = reference.forward_features(state, images, *SMALL)[-1]
    trained = net.train().forward_features(images)[-1]
    torch.testing.assert_close(trained, expected, atol=1e-9, rtol=1e-9)
    trained.sum().backward()
    assert net.patch_embed[0].bn.weight.grad is not None
    assert torch.equal(net.patch_embed[0].bn.running_mean, state["patch_embed.0.bn.running_mean"])


def test_kernels_are_normalised_in_float32_under_autocast():
    perception = Perception(64, nn.BatchNorm2d).eval()
    x = torch.randn(1, 64, 6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert perception.cv4(perception.cv1(x)).dtype == torch.bfloat16
        kernels = perception(x)
        assert kernels.dtype == torch.float32
        half = x.bfloat16()
        assert small_kernel_aggregation(half, kernels).dtype == torch.bfloat16
    torch.testing.assert_close(kernels.mean((2, 3, 4)), torch.zeros(1, 8), atol=1e-6, rtol=0)


def test_half_precision_trains():
    net = LSNet(*SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(torch.randn(2, 3, 64, 64)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(SIZES))
def test_cpu_equals_gpu(name):
    net = build(BACKBONES, name).eval()
    images = torch.randn(2, 3, 256, 128)
    with torch.no_grad():
        on_cpu = net.forward_features(images)
        on_gpu = net.to("cuda").forward_features(images.to("cuda"))
    for a, b in zip(on_gpu, on_cpu):
        torch.testing.assert_close(a.cpu(), b, atol=1e-4, rtol=1e-4)
