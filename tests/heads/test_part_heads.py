"""ProFD's decoder, poolings, visibility and part norms against the formulas written out with plain matrices."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.errors import ConfigError
from occplug.heads import (
    CosinePooling,
    HybridDecoder,
    MaskPooling,
    PartNorm,
    PartVisibility,
    cosine_maps,
    weighted_average_pool,
)

D, ROWS, PATCHES, B = 16, 4, 6, 2


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


# ------------------------------------------------------------------ the decoder


def norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def mha(query, memory, state, name, heads):
    """Head by head; returns the output and the weights of each head."""
    size = query.shape[1]
    wq, wk, wv = state[f"{name}.in_proj_weight"].split(size)
    bq, bk, bv = state[f"{name}.in_proj_bias"].split(size)
    q, k, v = query @ wq.T + bq, memory @ wk.T + bk, memory @ wv.T + bv
    width, outs, maps = size // heads, [], []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = (q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(1)
        maps.append(weights)
        outs.append(weights @ v[:, part])
    return linear(torch.cat(outs, 1), state, f"{name}.out_proj"), maps


def decode(queries, image, state, layers, heads, semantic=True, spatial=True):
    """One image, [L, D]."""
    memory = norm(image, state, "memory_proj.0")
    memory = norm(linear(memory, state, "memory_proj.1"), state, "memory_proj.2")
    x = linear(norm(queries, state, "query_proj.0"), state, "query_proj.1")
    maps = []
    for i in range(layers):
        name = f"layers.{i}"
        keys = norm(memory + mha(memory, x, state, f"{name}.reverse", heads)[0], state, f"{name}.norm_keys")
        mixed = x
        if semantic:
            mixed = mixed + mha(x, memory, state, f"{name}.semantic", heads)[0]
        if spatial:
            located, (weights,) = mha(
                linear(x, state, f"{name}.spatial.query"), memory, state, f"{name}.spatial.attend", 1
            )
            mixed = mixed + located
            maps.append(weights)
        x = norm(mixed, state, f"{name}.norm_hybrid")
        x = x + mha(x, keys, state, f"{name}.final", heads)[0]
        hidden = linear(norm(x, state, f"{name}.norm_mlp"), state, f"{name}.mlp.0")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))  # exact GELU
        x = norm(x + linear(hidden, state, f"{name}.mlp.3"), state, f"{name}.norm_out")
    rows = linear(norm(x, state, "out_proj.0"), state, "out_proj.1")
    return rows, sum(maps) / layers if maps else None


@pytest.mark.parametrize("semantic, spatial", [(True, True), (True, False), (False, True)])
def test_the_decoder_against_the_formulas(semantic, spatial):
    decoder = randomised(HybridDecoder(D, layers=2, heads=4, semantic=semantic, spatial=spatial)).eval()
    queries, tokens = torch.randn(ROWS, D), torch.randn(B, PATCHES, D)
    state = decoder.state_dict()
    decoded = decoder(queries, tokens)
    for b in range(B):
        rows, attention = decode(queries, tokens[b], state, 2, 4, semantic, spatial)
        torch.testing.assert_close(decoded.rows[b], rows, rtol=1e-4, atol=1e-5)
        if spatial:
            torch.testing.assert_close(decoded.attention[b], attention, rtol=1e-4, atol=1e-6)
    assert (decoded.attention is not None) == spatial


def test_the_published_size():
    """Two layers of four attentions, two projections and an MLP of four times the width."""
    decoder = HybridDecoder(512)
    attention, line, pair = 4 * 512 * 512 + 4 * 512, 512 * 512 + 512, 2 * 512
    mlp = 2 * 512 * 2048 + 2048 + 512
    layer = 4 * attention + line + 4 * pair + mlp
    assert sum(p.numel() for p in decoder.parameters()) == 2 * layer + 3 * line + 4 * pair


def test_initial_values():
    decoder = HybridDecoder(64)
    layer = decoder.layers[0]
    for weight in (layer.mlp[0].weight, layer.final.out_proj.weight, decoder.out_proj[1].weight):
        assert 0.018 < weight.std() < 0.022 and weight.abs().max() <= 2
    xavier = math.sqrt(6 / (64 + 3 * 64))
    assert 0.9 * xavier < layer.final.in_proj_weight.abs().max() <= xavier
    assert not layer.mlp[3].bias.any()


def test_the_clean_map_is_supervised_and_the_dropped_one_only_on_request():
    queries, tokens = torch.randn(ROWS, D), torch.randn(B, 200, D)
    clean = HybridDecoder(D, layers=1, heads=4, dropout=0.5).train()(queries, tokens).attention
    torch.testing.assert_close(clean.sum(2), torch.ones(B, ROWS))
    assert (clean > 0).all()
    dropped = HybridDecoder(D, layers=1, heads=4, dropout=0.5, dropped_maps=True).train()(queries, tokens).attention
    assert 0.4 < (dropped == 0).float().mean() < 0.6


def test_dropout_acts_on_the_spatial_branch_in_training():
    decoder = HybridDecoder(D, layers=1, heads=4, dropout=0.5, semantic=False).train()
    queries, tokens = torch.randn(ROWS, D), torch.randn(B, PATCHES, D)
    layer = decoder.layers[0].spatial
    x, memory = decoder.query_proj(queries).expand(B, -1, -1), decoder.memory_proj(tokens)
    assert not torch.equal(layer(x, memory)[0], layer(x, memory)[0])
    layer.eval()
    assert torch.equal(layer(x, memory)[0], layer(x, memory)[0])


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ConfigError, match="method.decoder_heads is 8, which does not divide the width 20"):
        HybridDecoder(20)


# ------------------------------------------------------------------ poolings


def test_cosine_maps_against_loops():
    queries, tokens = torch.randn(ROWS, D), 3 * torch.randn(B, PATCHES, D)
    maps = cosine_maps(tokens, queries)
    for b in range(B):
        for r in range(ROWS):
            for n in range(PATCHES):
                expected = F.cosine_similarity(queries[r], tokens[b, n], dim=0)
                assert maps[b, r, n].item() == pytest.approx(expected.item(), abs=1e-5)


def test_weighted_average_against_loops_and_nothing_gives_zeros():
    tokens, weights = torch.randn(B, PATCHES, D), torch.rand(B, 3, PATCHES)
    weights[0, 1] = 0
    pooled = weighted_average_pool(tokens, weights)
    for b in range(B):
        for r in range(3):
            total = sum(weights[b, r, n] * tokens[b, n] for n in range(PATCHES))
            torch.testing.assert_close(pooled[b, r], total / max(float(weights[b, r].sum()), 1e-6))
    assert not pooled[0, 1].any()


def test_cosine_pooling_attends_by_ten_times_the_cosine():
    queries, tokens = torch.randn(ROWS, D), torch.randn(B, PATCHES, D)
    pooled = CosinePooling()(queries, tokens)
    for b in range(B):
        for r in range(ROWS):
            scores = torch.stack([10 * F.cosine_similarity(queries[r], token, dim=0) for token in tokens[b]])
            torch.testing.assert_close(pooled.attention[b, r], scores.softmax(0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(pooled.rows[b, r], scores.softmax(0) @ tokens[b], rtol=1e-4, atol=1e-5)


def test_mask_pooling_takes_labels_in_training_and_predicts_them_at_test():
    queries, tokens = torch.randn(ROWS, D), torch.randn(B, PATCHES, D)  # background, person, two parts
    labels = torch.rand(B, 3, PATCHES).softmax(1)
    pooled = MaskPooling(5.0)
    found = pooled(queries, tokens, labels.unflatten(2, (3, 2)))
    rows = torch.stack([labels[:, 0], 1 - labels[:, 0], labels[:, 1], labels[:, 2]], dim=1)
    torch.testing.assert_close(found.rows, weighted_average_pool(tokens, rows))
    predicted = (5.0 * cosine_maps(tokens, queries[[0, 2, 3]])).softmax(dim=1)
    torch.testing.assert_close(pooled(queries, tokens).rows, pooled(queries, tokens, predicted).rows)
    assert found.attention is None


# ------------------------------------------------------------------ visibility and norms


def test_visibility_is_one_linear_map_for_each_part():
    head, parts = PartVisibility(3, D).requires_grad_(False), torch.randn(B, 3, D)
    logits = head(parts)
    for b in range(B):
        for k in range(3):
            expected = float(head.weight[k] @ parts[b, k] + head.bias[k])
            assert logits[b, k].item() == pytest.approx(expected, abs=1e-5)


def test_each_part_is_normalised_by_its_own_statistics():
    head = PartNorm(3, 5)
    singles = [torch.nn.BatchNorm1d(5) for _ in range(3)]
    for _ in range(4):
        parts = torch.randn(8, 3, 5) * torch.tensor([1.0, 3.0, 0.5])[:, None] + 2
        out = head(parts)
        for k, single in enumerate(singles):
            torch.testing.assert_close(out[:, k], single(parts[:, k]))
    parts = torch.randn(2, 3, 5)
    out = head.eval()(parts)
    for k, single in enumerate(singles):
        torch.testing.assert_close(out[:, k], single.eval()(parts[:, k]))
    assert not list(head.parameters()), "with a frozen parameter the engine would keep it in eval mode"
