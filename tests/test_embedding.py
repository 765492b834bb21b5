"""Embedding: slicing, joining, packing."""

import numpy as np
import pytest
import torch

from occplug import Embedding
from occplug.embedding import Origin
from occplug.errors import DataError


def full(n=5):
    g = torch.Generator().manual_seed(0)
    return Embedding(
        vector=torch.randn(n, 4, generator=g),
        parts=torch.randn(n, 3, 2, generator=g),
        visibility=torch.rand(n, 3, generator=g),
        mask=torch.rand(n, 4, generator=g),
    )


def equal(a, b):
    fields = ("vector", "parts", "visibility", "mask")
    pairs = [(getattr(a, f), getattr(b, f)) for f in fields]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def test_slicing_acts_on_every_field():
    item = full()
    assert len(item[1:3]) == 2 and torch.equal(item[1:3].parts, item.parts[1:3])
    for two in (2, np.int64(2), torch.tensor(2)):
        assert torch.equal(item[two].vector, item.vector[2:3])
    assert torch.equal(item[torch.tensor([4, 0])].mask, item.mask[[4, 0]])


def test_cat_undoes_slicing():
    item = full()
    assert equal(Embedding.cat([item[:2], item[2:]]), item)


def test_pack_round_trip():
    item = full()
    packed = item.pack()
    assert packed.shape == (5, 4 + 6 + 3 + 4)
    assert equal(Embedding.unpack(packed, item.layout()), item)
    plain = Embedding(torch.ones(2, 3))
    assert equal(Embedding.unpack(plain.pack(), plain.layout()), plain)
    assert equal(Embedding.unpack(packed, item), item)
    assert equal(Embedding.unpack(item[:0].pack(), item.layout()), item[:0])


def test_type_conversion():
    assert full().to(torch.float64).visibility.dtype == torch.float64


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"vector is \[B, D\], got shape \(3,\)"):
        Embedding(torch.zeros(3))
    with pytest.raises(ValueError, match="parts has 2 rows, vector has 3"):
        Embedding(torch.zeros(3, 1), parts=torch.zeros(2, 1, 1))
    with pytest.raises(ValueError, match="differ in what they carry"):
        Embedding.cat([full(), Embedding(torch.zeros(2, 4))])
    with pytest.raises(ValueError, match=r"is \[B, 17\], got \(5, 16\)"):
        Embedding.unpack(torch.zeros(5, 16), full().layout())


def test_embeddings_for_another_distance_are_not_mixed():
    one, other = (
        Embedding(torch.zeros(1, 2), origin=Origin(model="m", metric={"name": "parts", "vis_floor": floor}))
        for floor in (0.1, 0.2)
    )
    with pytest.raises(DataError, match=r"the others are made otherwise .distance vis_floor 0.1 and 0.2.; embed both"):
        one.check_same_model(other)
    one.check_same_model(Embedding(torch.zeros(1, 2), origin=Origin(model="m")))  # of a file that does not say
