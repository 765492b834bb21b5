"""Devices that users name."""

import pytest
import torch

import occplug
from occplug.errors import ConfigError
from occplug.evaluation import extract
from occplug.utils.devices import device_named, devices_here


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_a_device_that_is_there_is_taken(name):
    assert device_named(name) == torch.device("cpu") and devices_here()[0] == "cpu"


@pytest.mark.parametrize("name", ["foo", "", "cuda:x", "cuda:-1", None])
def test_a_name_that_is_none_is_named_with_what_is_there(name):
    with pytest.raises(ConfigError, match=f"device is '{name}', a name that torch does not know; here there are: cpu"):
        device_named(name)


@pytest.mark.parametrize("name", ["cuda:99", "mps:99", "xpu:99", "hpu", "xla", "meta", torch.device("cuda:99")])
def test_a_device_that_cannot_be_used_is_named_with_the_reason(name):
    with pytest.raises(ConfigError, match=rf"device is '{name}', and torch cannot use it \(.+\); here there are: cpu"):
        device_named(name)


def test_devices_that_are_there_are_listed_by_number(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert devices_here() == ["cpu", "cuda:0", "cuda:1"]


def test_a_wrong_device_is_said_before_weights_are_looked_for():
    with pytest.raises(ConfigError, match="device is 'foo'"):
        occplug.load("zoo://there is/no/such", device="foo")


def test_what_embeds_batches_says_so_too():
    with pytest.raises(ConfigError, match="device is 'cuda:99', and torch cannot use it"):
        extract(lambda images, cameras: images, [], "cuda:99")
