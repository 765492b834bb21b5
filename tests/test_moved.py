"""Old names of version 0.1: each gives the new thing and warns."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

from occplug import _moved
from occplug.method import ExtraOptimizer, Group, Method, Stage
from occplug.stages import optimiser


@pytest.mark.parametrize("old", _moved.MOVED)
def test_a_moved_module_is_there_under_its_old_name(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=old.replace(".", r"\.")):
        module = importlib.import_module(old)
    targets = [importlib.import_module(new) for new in _moved.MOVED[old]]
    for target in targets:
        for name in target.__all__:
            assert any(getattr(module, name) is getattr(each, name, None) for each in targets), name


@pytest.mark.parametrize(("old", "new"), _moved.RENAMED.items())
def test_a_renamed_name_is_there_under_its_old_name(old, new):
    (old_module, old_name), (new_module, new_name) = (name.rsplit(".", 1) for name in (old, new))
    module, target = importlib.import_module(old_module), importlib.import_module(new_module)
    assert old_name not in vars(module), "an old name that is still defined is no old name"
    with pytest.warns(DeprecationWarning, match=new.replace(".", r"\.")):
        assert getattr(module, old_name) is getattr(target, new_name)


def test_a_name_that_never_was_is_not_there():
    from occplug import method

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        method.Nothing  # noqa: B018


def test_stages_know_their_extra_optimizers_under_the_older_name():
    extra = ExtraOptimizer([Group(".*", 1.0)], optimiser("sgd"))
    common = dict(name="s", epochs=1, groups=[], losses=dict, weights={}, schedule=float, optimizer=optimiser("sgd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Stage(**common, companions=[extra]).extra_optimizers == [extra]
        stage = Stage(**common)
        assert stage.companions == []
        stage.companions = [extra]
    assert stage.extra_optimizers == [extra] == stage.companions


class Base(Method):
    def distance(self, query, gallery):
        return "base"


class Older(Base):
    def matcher(self, query, gallery):
        return "older"


class Newer(Older):
    def distance(self, query, gallery):
        return "newer than " + super().matcher(query, gallery)


@pytest.mark.parametrize(("kind", "expected"), [(Base, "base"), (Older, "older"), (Newer, "newer than older")])
def test_a_distance_has_two_names_whichever_a_class_defines(kind, expected):
    method = kind()
    assert method.distance(None, None) == method.matcher(None, None) == expected


def test_a_method_without_a_distance_says_so_under_both_names():
    for call in (Method().distance, Method().matcher):
        with pytest.raises(TypeError, match="Method does not state its distance"):
            call(None, None)


@pytest.mark.parametrize(("old", "new"), _moved.MEMBERS.items())
def test_a_renamed_member_has_both_names(old, new):
    where, kind, member = old.rsplit(".", 2)
    owner = getattr(importlib.import_module(where), kind)
    assert hasattr(owner, member), "the old name is gone"
    assert hasattr(owner, new) or new in owner.__dataclass_fields__


def test_the_page_of_moved_names_is_that_of_the_tables():
    file = Path(__file__).parents[1] / "docs/moved.md"
    assert file.read_text() == _moved.page(), "write it again with the command that it names"
