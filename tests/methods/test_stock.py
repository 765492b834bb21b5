"""torchreid's models in the form of a method."""

import pytest
import torch
import torch.nn.functional as F

from occplug.config import default_config
from occplug.embedding import Embedding
from occplug.method import Method, build_method
from occplug.methods._stock import StockModel
from occplug.registry import METHODS, model_class, names

NAME = "osnet_x0_25"


def build(*options):
    torch.manual_seed(0)
    return build_method(default_config(NAME, None, ["model.pretrained", False, *options]), 5, 2).eval()


def test_every_model_name_has_a_class_and_the_methods_are_not_torchreids():
    assert model_class(NAME) is StockModel and StockModel.is_stock and StockModel not in METHODS.module_dict.values()
    assert all(model_class(name) is METHODS.get(name) and not model_class(name).is_stock for name in names(METHODS))
    assert all(issubclass(model_class(name), Method) for name in names(METHODS))


def test_its_state_dict_has_torchreids_names_both_ways():
    model, other = build(), build()
    state = {name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    assert state.keys() == model.net.state_dict().keys()
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.net.state_dict().items())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_it_is_compared_as_the_config_says(normalize, metric):
    model = build("test.normalize_feature", normalize, "test.dist_metric", metric)
    images = torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        raw = model.net(images)
    found = model.embed(images)
    vector = F.normalize(raw) if normalize else raw
    torch.testing.assert_close(found.vector, vector)
    if metric == "cosine":
        expected = 1 - F.normalize(raw) @ F.normalize(raw).T
    else:
        expected = (vector[:, None] - vector[None]).square().sum(2)
    torch.testing.assert_close(model.distance(found, Embedding(vector)), expected, atol=2e-4, rtol=1e-4)


def test_what_only_training_reads_is_declared():
    model = build()
    images = torch.randn(2, 3, 64, 32)
    before = model.embed(images).vector
    with torch.no_grad():
        model.net.classifier.weight.fill_(7)
    assert torch.equal(model.embed(images).vector, before)
    assert not model_class(NAME).takes_cameras(default_config(NAME))
