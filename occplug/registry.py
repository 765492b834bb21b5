"""The eight registries of occplug's parts, and one :func:`build` whose errors name the nearest entry."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmengine.registry import Registry

from occplug.errors import ConfigError

if TYPE_CHECKING:
    from occplug.method import Method

__all__ = [
    "BACKBONES",
    "DATASETS",
    "HEADS",
    "LOSSES",
    "METHODS",
    "PROMPTS",
    "SAMPLERS",
    "TRANSFORMS",
    "build",
    "build_part",
    "defaults_of",
    "get",
    "has_texts",
    "model_class",
    "names",
    "part_node",
    "tower_gives",
    "tower_options",
]


class _Registry(Registry):
    """One that is full whenever somebody looks: mmengine imports `locations` at a look-up by name alone."""

    @property
    def module_dict(self) -> dict:
        """Name -> what is registered under it."""
        self.import_from_location()
        return self._module_dict

    def __len__(self) -> int:
        return len(self.module_dict)


def _registry(name: str, package: str) -> Registry:
    # imported when it is needed, so that importing occplug stays cheap;
    # the scope is stated because mmengine would otherwise take the caller's top package.
    return _Registry(name, scope="occplug", locations=[f"occplug.{package}"])


BACKBONES = _registry("backbone", "backbones")
PROMPTS = _registry("prompt", "prompts")
HEADS = _registry("head", "heads")
LOSSES = _registry("loss", "losses")
TRANSFORMS = _registry("transform", "transforms")
SAMPLERS = _registry("sampler", "samplers")
DATASETS = _registry("dataset", "datasets")
METHODS = _registry("method", "methods")


def names(registry: Registry) -> list[str]:
    """Names registered in `registry`, sorted; imports the registry's package if that has not happened yet."""
    return sorted(registry.module_dict)


def get(registry: Registry, name: str):
    """The class or function registered under `name`; "timm:vit_x" is what the entry "timm:NAME" makes of that.

    Raises:
        ConfigError: nothing has that name; the message gives the nearest names and all names.
    """
    known = names(registry)
    family = f"{name.partition(':')[0]}:NAME"
    if name not in known and ":" in name and family in known:
        return registry.module_dict[family](name)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no {registry.name} is called {name!r}{hint}; there are: {', '.join(known) or 'none'}")
    return registry.module_dict[name]


def model_class(name: str) -> type[Method]:
    """The class of the models that `model.name` calls `name`: of that method, or else of torchreid's models, wrapped.

    What differs between the two is asked of the class (`occplug.method.Method`), never of the name.
    """
    if name in METHODS.module_dict:
        return get(METHODS, name)
    return importlib.import_module("occplug.methods._stock").StockModel


def part_node(registry: Registry, name: str, section: Mapping = MappingProxyType({})) -> dict:
    """The config node of the part `name`: its `type`, and each argument of its constructor with the default it has.

    Args:
        section: the keys around the node; an argument that one of them names is that key (:func:`build_part`).

    Raises:
        ConfigError: nothing has that name, or an argument has no default, so a config could not leave it out.
    """
    node: dict[str, Any] = {"type": name}
    for argument, default in _arguments(get(registry, name)).items():
        if argument in section:
            continue
        if default is inspect.Parameter.empty:
            raise ConfigError(f"the {registry.name} {name!r} has no default for its argument {argument!r}; give it one")
        node[argument] = copy.deepcopy(default)
    return node


def build_part(registry: Registry, section: Mapping, key: str):
    """Build the part that the node `section[key]` names, `{"type": NAME, argument: value, ...}`.

    An argument of the part that is a key of the section around the node, such as `margin` of a stage, has its value.

    Raises:
        ConfigError: nothing has that name; the message gives the nearest.
    """
    node = section[key]
    entry = get(registry, node["type"])
    around = {name: section[name] for name in _arguments(entry) if name in section and name != key}
    return entry(**around | {name: value for name, value in node.items() if name != "type"})


def _arguments(entry) -> dict[str, object]:
    """Named arguments of a class or function -> their defaults."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(entry).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in kinds}


def defaults_of(function, without: Collection[str] = ()) -> dict[str, Any]:
    """Arguments of `function` that have a default, as config keys: what an entry states as its `defaults`.

    Args:
        without: arguments that are no keys.
    """
    given = {name: default for name, default in _arguments(function).items() if name not in without}
    return {name: default for name, default in given.items() if default is not inspect.Parameter.empty}


def build(registry: Registry, name: str, *args, **kwargs):
    """Build the entry `name` of `registry` with the given arguments. Raises ConfigError for an unknown name."""
    return get(registry, name)(*args, **kwargs)


def tower_gives(name: str) -> frozenset[str] | None:
    """What the backbone `name` says it can give beyond features (`Method.needs`); None if it does not say.

    Its entry has that as an attribute `gives`: "patches" (embedded patches that can be changed), "levels" (outputs of
    several blocks), "tokens", "class scores" (of the class token in the last block), "cameras" (a camera embedding),
    "text" (texts in the space of `projected`).
    """
    gives = getattr(get(BACKBONES, name), "gives", None)
    return gives() if callable(gives) else gives


def has_texts(name: str) -> bool:
    """Whether the backbone `name` is a CLIP's, with texts of its own: it says so, or says nothing of what it gives."""
    gives = tower_gives(name)
    return gives is None or "text" in gives


def tower_options(name: str) -> dict[str, str]:
    """What the backbone `name` takes beside the options of all, argument -> key of the section `backbone`.

    Its entry has that as an attribute `options`.
    """
    return getattr(get(BACKBONES, name), "options", {})
