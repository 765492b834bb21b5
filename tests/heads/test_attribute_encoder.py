"""The attribute encoder: size, the written formula, slots."""

import pytest
import torch

from occplug.errors import ConfigError
from occplug.heads import AttributeEncoder
from occplug.registry import HEADS, get


@pytest.mark.parametrize(("feature", "expected"), [(512, 2_759_552), (1024, 2_956_160)])
@pytest.mark.parametrize("slots", [4, 10])
def test_parameter_count(feature, expected, slots):
    """About 2.76 M at ViT-B/16 (paper, section 4.1.2), counted by hand in the specification."""
    encoder = AttributeEncoder(feature, 512, slots)
    assert sum(p.numel() for p in encoder.parameters()) == expected + 384 * slots
    assert len(encoder.layers) == 4 and encoder.layers[0].num_heads == 6


def test_it_is_the_written_formula():
    """Attention written out head by head."""
    encoder = AttributeEncoder(7, 5, 3, width=8, heads=2, layers=2).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    f = torch.randn(4, 7, dtype=torch.float64)

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    for i in range(4):
        z = torch.stack([encoder.enter.weight @ f[i] + encoder.enter.bias + e for e in encoder.slots])
        for layer in encoder.layers:
            q, k, v = (norm(z) @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, dim=-1)
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                weights = (q[:, h] @ k[:, h].T / 2).softmax(-1)
                heads.append(weights @ v[:, h])
            z = z + torch.cat(heads, -1) @ layer.out_proj.weight.T + layer.out_proj.bias
        expected = norm(z) @ encoder.leave.weight.T + encoder.leave.bias
        torch.testing.assert_close(encoder(f)[i], expected)


def test_permuting_the_slots_permutes_the_tokens():
    encoder, f = AttributeEncoder(6, 5, 4, width=8, heads=2), torch.randn(3, 6)
    before = encoder(f)
    order = torch.tensor([2, 0, 3, 1])
    encoder.slots.data = encoder.slots.data[order]
    torch.testing.assert_close(encoder(f), before[:, order])
    assert not torch.allclose(before[:, 0], before[:, 1], atol=1e-4)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="the attribute encoder's width 10 is no multiple of its 4 heads"):
        AttributeEncoder(6, 5, 4, width=10, heads=4)


def test_it_is_registered():
    assert get(HEADS, "attribute_encoder") is AttributeEncoder
