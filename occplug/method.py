"""The contract between a method and the engine: a method states its stages, a stage states what it trains and how.

Nothing here knows a particular method, and the engine knows methods only through this file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occplug import _moved
from occplug.embedding import Embedding
from occplug.errors import ConfigError
from occplug.registry import model_class
from occplug.utils.keys import with_current_names

if TYPE_CHECKING:
    from occplug.evaluation.metric import Metric

__all__ = ["ExtraOptimizer", "Group", "Method", "Stage", "build_method", "parameter_groups"]

__getattr__ = _moved.older_names(__name__)


@dataclass(frozen=True)
class Group:
    """Parameters trained alike.

    Args:
        pattern: regular expression matched against the *whole* parameter name; the first group that matches wins.
        lr: base learning rate; the stage's schedule multiplies it.
        weight_decay: as the optimiser understands it.
        schedule: epoch (1-based) -> factor on the rate, in place of the stage's.
    """

    pattern: str
    lr: float
    weight_decay: float = 0.0
    schedule: Callable[[int], float] | None = None


@dataclass(frozen=True)
class ExtraOptimizer:
    """One more optimizer of a stage.

    Args:
        groups: what it trains; patterns of the stage's own groups match first.
        optimizer: parameter groups -> torch optimiser.
        own_pass: False: it steps on the same gradients as the stage's optimiser. True: after that step the batch goes
            through the losses again, with the updated weights, and this optimiser alone steps (alternating updates).
    """

    groups: list[Group]
    optimizer: Callable[[list[dict]], torch.optim.Optimizer]
    own_pass: bool = False


@dataclass
class Stage:
    """One training stage: data plus one function.

    Args:
        name: unique within the method; part of checkpoint names, log keys and `metrics.json`.
        epochs: how many epochs it trains.
        groups: what trains; a parameter that no group matches is frozen, and a module without any trained parameter
            is kept in eval mode (so frozen batch norm stays frozen).
        losses: batch (dict of tensors on the method's device, and its `epoch`, 1-based) -> dict of unweighted scalar
            losses. An extra optimizer with a separate pass gets the same dict, with what the first pass added to it.
        weights: weight of each loss; must have the same names as `losses` returns.
        schedule: epoch (1-based) -> factor on every group's learning rate, set before the epoch's first step.
        optimizer: parameter groups -> torch optimiser.
        loader: data manager -> iterable with a length that yields batches; None for the identity batches of the
            training set (`data.train_loader`).
        prepare: (data manager, device) -> None, run at the start of the stage and again on resume, e.g. to cache
            features; must leave the same state both times.
        after_step: batch -> None, run without gradient after all optimisers have stepped, e.g. to update a memory; the
            batch is the dict that `losses` was given, with what it has added there.
        after_epoch: run without gradient after each epoch's last step, before the resumable state is written; what a
            later epoch needs of this one belongs in a buffer.
        extra_optimizers: more optimizers, on the same gradients or in a separate pass.
    """

    name: str
    epochs: int
    groups: list[Group]
    losses: Callable[[dict], dict[str, Tensor]]
    weights: dict[str, float]
    schedule: Callable[[int], float]
    optimizer: Callable[[list[dict]], torch.optim.Optimizer]
    loader: Callable[[object], Iterable] | None = None
    prepare: Callable[[object, torch.device], None] = field(default=lambda data, device: None)
    after_step: Callable[[dict], None] = field(default=lambda batch: None)
    after_epoch: Callable[[], None] = field(default=lambda: None)
    extra_optimizers: list[ExtraOptimizer] = field(default_factory=list)

    @property
    def companions(self) -> list[ExtraOptimizer]:
        """The older name of `extra_optimizers`; removed in the next version."""
        return self.extra_optimizers

    @companions.setter
    def companions(self, extra_optimizers: list[ExtraOptimizer]) -> None:
        self.extra_optimizers = extra_optimizers


def _with_older_keyword(init):
    """`Stage.__init__` that takes `companions` for `extra_optimizers`, too."""

    @functools.wraps(init)
    def __init__(self, *args, companions: list[ExtraOptimizer] | None = None, **kwargs):
        if companions is not None:
            kwargs["extra_optimizers"] = companions
        init(self, *args, **kwargs)

    return __init__


Stage.__init__ = _with_older_keyword(Stage.__init__)  # type: ignore[method-assign]


class Method(nn.Module):
    """Base class of all methods; subclasses are registered in METHODS and live in one file each.

    Class attributes:
        constant_in_tests: names of methods without arguments whose results no test image changes, for exports to keep.
        defaults: nested dict, the method's keys under `cfg.method`.
        nullable: keys of `defaults` (dotted) that may be null.
        choices: key of `defaults` (dotted) -> its allowed values, or a function that lists them.
        ranges: key or section of `defaults` -> (lowest, highest) number or a `config.ranges.Range`; None: no end.
        parts: key of `defaults` (dotted) that holds `{"type": NAME}` -> the registry NAME is looked up in. A config
            may name another part, with that part's arguments as keys beside `type` (`occplug.registry.build_part`).
        follows: key of the core -> key of `defaults`; unless a config sets the former, it has the value of the latter.
        backbones: torchreid name suffix -> name of a backbone the method works with.
        part_names: what the embedding's parts are called, for people; empty: they have no names, or there are none.
        in_one_stage: keys of `defaults` with the values that leave one stage, which is all torchreid's engines run.
        squared_distance: whether the method's distance is a squared one, or the cosine distance, which is half of one
            (a property where a key decides it). Re-ranking squares plain distances and takes squared ones as they are.
        renamed_tensors: what names of tensors begin with in files of version 0.1 -> what they begin with today.
        is_stock: whether it is torchreid's own model, wrapped, which torchreid's engines train in one stage.
    """

    constant_in_tests: tuple[str, ...] = ()
    defaults: dict = {}
    nullable: tuple[str, ...] = ()
    choices: dict = {}
    ranges: dict = {}
    parts: dict = {}
    follows: dict[str, str] = {}
    backbones: dict[str, str] = {}
    in_one_stage: dict[str, object] = {}
    part_names: tuple[str, ...] = ()
    squared_distance: bool = False
    renamed_tensors: dict[str, str] = {}
    is_stock: bool = False

    def __init_subclass__(cls, **kwargs):
        """`matcher` is the public name of `distance`: a class that defines one of them has both."""
        super().__init_subclass__(**kwargs)
        defined = vars(cls)
        if "distance" in defined and "matcher" not in defined:
            cls.matcher = cls.distance
        elif "matcher" in defined and "distance" not in defined:
            cls.distance = cls.matcher  # type: ignore[method-assign]

    @classmethod
    def build(cls, cfg, num_classes: int, num_cameras: int, pretrained: bool = True) -> Method:
        """See :func:`build_method`."""
        method = cls(cfg, num_classes, num_cameras)
        if pretrained:
            method.load_pretrained()
        return method

    @staticmethod
    def check(cfg) -> None:
        """Raise ConfigError for a combination of keys this method cannot train; called before anything is built."""

    def bound_to(self) -> dict[str, str]:
        """Config key -> text without which the trained weights mean nothing; a checkpoint of another one is refused."""
        return {}

    # cfg -> what the tower has to give beyond features (see `occplug.registry.tower_gives`), and the key that asks for
    # it; None: the method takes the towers of `backbones` alone
    needs: Callable[[Any], dict[str, str]] | None = None
    # cfg -> the keys of the section `prompts` that it reads on a backbone without texts of its own; None: not stated
    prompt_keys: Callable[[Any], tuple[str, ...]] | None = None

    @staticmethod
    def extras(cfg) -> tuple[str, ...]:
        """Names of batch entries beyond img, pid and camid that the losses need.

        "masks": part labels [B, K + 1, H/4, W/4], from the source that `cfg.masks` names; "occlusion", uint8 [B, 1, H,
        W], and "occluder", int64 [B], from a transform that puts something before the person.
        """
        return ()

    @staticmethod
    def takes_cameras(cfg) -> bool:
        """Whether `embed` reads the camera of a test image."""
        return bool(cfg.backbone.sie_camera and cfg.method.get("test_cameras", True))

    @staticmethod
    def protocol(cfg) -> dict:
        """How test features are made and compared, as arguments of `occplug.evaluation.protocol_line`."""
        return {"neck": cfg.method.get("neck"), "stride": cfg.backbone.stride, "metric": "method"}

    @property
    def training_only(self) -> tuple[str, ...]:
        """Regular expressions for whole names of tensors that `embed` never reads; small files leave them out."""
        return ()

    @classmethod
    def explain_mismatch(cls, absent: list[str], reshaped: list[str]) -> str:
        """What usually causes a checkpoint not to fit; a method adds the causes of its own tensors.

        Args:
            absent: names that only the file or only the model has.
            reshaped: names that both have with different shapes.
        """
        causes = {
            "classifier": "another number of identities (another data set?)",
            "context": "another number of identities (another data set?)",
            "positional_embedding": "another image size or backbone.stride",
            "pos_embed": "another image size or backbone.stride",
            "camera": "another number of cameras",
        }
        for part, cause in causes.items():
            if any(part in name for name in reshaped):
                return f"it was trained with {cause}"
        return "it belongs to another method, backbone or configuration"

    def stages(self) -> list[Stage]:
        """The training stages, in order."""
        raise TypeError(f"{type(self).__name__} does not state its stages")

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """What `embed` returns for `images`; called in eval mode without gradient."""
        raise TypeError(f"{type(self).__name__} does not state its embedding")

    @torch.no_grad()
    def embed(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """Test-time embedding of `images` [B, 3, H, W] (normalised), cameras `camids` [B] (0-based) where known.

        Always computed in eval mode without gradient, in float32; the module's mode is left as it was.
        """
        if not self.training:
            return self.features(images, camids)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            return self.features(images, camids)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G] float32 distances, smaller is closer."""
        raise TypeError(f"{type(self).__name__} does not state its distance")

    matcher = distance

    def named_distance(self) -> Metric | None:
        """The distance as data (`occplug.evaluation.Metric`), for files, galleries and exports; None if it has no name.

        Calling it gives the values of the method's distance.
        """
        return None

    def outputs(self, images: Tensor, camids: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Training outputs for torchreid's engines: logits [B, C] and features [B, D], one or more of each."""
        raise TypeError(f"{type(self).__name__} does not state its outputs")

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As of any module; names of version 0.1 are taken for those of today."""
        return super().load_state_dict(with_current_names(state_dict, self), *args, **kwargs)

    def load_pretrained(self) -> None:
        """Read what the config names as weights to start from; `build_method` calls it after construction."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


def parameter_groups(module: nn.Module, groups: list[Group]) -> list[dict]:
    """Optimiser groups of `module` by first matching pattern; sets `requires_grad` accordingly.

    Each is a dict of `params`, their `names`, `lr`, `weight_decay`, and the :class:`Group` it is `of`.

    One optimiser group per (pattern, lr, weight decay); parameters keep their order of `named_parameters`.

    Raises:
        ConfigError: a pattern that matches no parameter (most likely a name that has changed).
    """
    collected: list[dict[str, Any]] = [
        {"params": [], "names": [], "lr": g.lr, "weight_decay": g.weight_decay, "of": g} for g in groups
    ]
    matched = [False] * len(groups)
    for name, parameter in module.named_parameters():
        hits = [i for i, group in enumerate(groups) if re.fullmatch(group.pattern, name)]
        for i in hits:
            matched[i] = True
        parameter.requires_grad_(bool(hits))
        if hits:
            collected[hits[0]]["params"].append(parameter)
            collected[hits[0]]["names"].append(name)
    for group, hit in zip(groups, matched):
        if not hit:
            raise ConfigError(f"the pattern {group.pattern!r} matches no parameter of {type(module).__name__}")
    return [group for group in collected if group["params"]]


def build_method(cfg, num_classes: int, num_cameras: int, pretrained: bool = True) -> Method:
    """The model `cfg.model.name` with `num_classes` training identities and `num_cameras` training cameras.

    A torchreid model comes wrapped as a method (:class:`occplug.methods._stock.StockModel`).

    Args:
        pretrained: read the initial weights that the config names; False leaves random ones.

    Raises:
        ConfigError: unknown model; CheckpointError: initial weights missing or of another shape.
    """
    return model_class(cfg.model.name).build(cfg, num_classes, num_cameras, pretrained)
