"""A method as torchreid's own engines want a model: one module, one tensor out, one distance by name.

Nothing here imports torchreid; `occplug.plugin.register` puts it in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug import registry
from occplug.embedding import Embedding
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.evaluation import masked_distance
from occplug.method import Method, parameter_groups
from occplug.utils.keys import hide_child

__all__ = ["PackedEmbeddings", "TorchreidModel", "packed_distances"]


class TorchreidModel(nn.Module):
    """A method in the form torchreid's own engines, FeatureExtractor and checkpoints expect.

    In train mode `forward` returns what the loss needs: a list of logits [B, C] for "softmax", a tuple of that list and
    a list of features [B, D] for "triplet". In eval mode it returns :class:`PackedEmbeddings`.

    torchreid runs one joint training, so what trains is what the method's *last* stage trains; the rest stays closed
    although torchreid opens all layers every epoch. Direct children and checkpoint keys are the method's own, so
    `open_layers` and `new_layers` take its names (e.g. `classifier`) and its checkpoints are interchangeable.
    """

    def __init__(self, method: nn.Module, loss: str):
        super().__init__()
        if loss not in ("softmax", "triplet"):
            raise ConfigError(f"loss is {loss!r}; torchreid's engines know 'softmax' and 'triplet'")
        self.loss = loss
        # (height, width), where the backbone was built for one size
        self.image_size = getattr(getattr(method, "backbone", None), "image_size", None)
        self.method = method
        last = method.stages()[-1]
        parameter_groups(method, [*last.groups, *(group for each in last.extra_optimizers for group in each.groups)])
        self._frozen = tuple(parameter for parameter in method.parameters() if not parameter.requires_grad)
        close_layers(method)
        self._closed = tuple(module for module in method.modules() if not module.training)
        hide_child(self, "method")

    def forward(self, images: Tensor):
        """As torchreid's engines expect: embeddings in eval mode, else logits (and features for loss "triplet").

        Raises ConfigError for images of another size than the model was built for.
        """
        given = tuple(images.shape[-2:])
        if self.image_size is not None and given != tuple(self.image_size):
            height, width = self.image_size
            raise ConfigError(
                f"the images are {given[0]} x {given[1]}, and this model takes {height} x {width} (height x width): "
                f"give ImageDataManager(height={height}, width={width}), or FeatureExtractor image_size=({height}, "
                f"{width})"
            )
        if not self.training:
            return PackedEmbeddings.of(self.method.embed(images), self.method)
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        logits, features = self.method.outputs(images)
        return (list(logits), list(features)) if self.loss == "triplet" else list(logits)

    def train(self, mode: bool = True):
        """Train or eval mode; modules that the method keeps frozen stay in eval mode."""
        super().train(mode)
        for module in self._closed:
            module.training = False
        return self

    def children(self):
        """The method alone."""
        yield self.method

    def named_children(self):
        """The method's direct children: torchreid picks the layers to open and their learning rates from these."""
        return self.method.named_children()

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("method"), name)


class PackedEmbeddings(Tensor):
    """Embeddings [B, K] float32 with all fields side by side, that know how they are told apart and compared.

    They still do after what engines do with features: moving, putting batches together, taking rows. Any other result
    is a plain tensor. Several fields side by side cannot be normalised as if they were one vector.

    Attributes:
        method: whose they are.   fields: as `Embedding.layout`.
    """

    method: Method
    fields: tuple

    @classmethod
    def of(cls, embedding: Embedding, method: Method) -> PackedEmbeddings:
        """All fields of `embedding` as one tensor [B, K] that `method` can compare."""
        return cls._made(embedding.pack(), method, embedding.layout())

    @classmethod
    def _made(cls, packed: Tensor, method: Method, layout: tuple) -> PackedEmbeddings:
        made = packed.as_subclass(cls)
        made.method, made.fields = method, layout
        return made

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        first = given[0][0] if isinstance(given[0], (list, tuple)) else given[0]
        if function is F.normalize and isinstance(first, cls) and len(first.fields) > 1:
            raise ConfigError(
                f"{first.told()} side by side, which are not normalised as if they were one vector; set "
                "normalize_feature to False"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
            if not isinstance(result, Tensor):
                return result
            whole = isinstance(first, cls) and result.ndim == 2 and result.shape[1:] == first.shape[1:]
            if function not in _KEEPING or not whole:
                return result.as_subclass(Tensor)
            return cls._made(result, first.method, first.fields)

    def __reduce_ex__(self, protocol):
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # a file of features holds no model

    def unpack(self) -> Embedding:
        """The embeddings they were packed from."""
        return Embedding.unpack(self.as_subclass(Tensor), self.fields)

    def told(self) -> str:
        """What they hold, for messages."""
        return f"these embeddings hold {', '.join(name for name, _ in self.fields)}"

    def metrics(self) -> list[str]:
        """Names of the distance they are made for: the method's, and for vectors with masks DPM's."""
        known = registry.names(registry.METHODS)
        own = [name for name in known if registry.get(registry.METHODS, name) is type(self.method)]
        return own + ["dpm"] * ([name for name, _ in self.fields] == ["vector", "mask"] and "dpm" not in own)


_KEEPING = (Tensor.cpu, Tensor.cuda, Tensor.to, Tensor.detach, Tensor.clone, Tensor.__getitem__, torch.cat)


def packed_distances(one: Tensor, other: Tensor, metric: str, stock: Callable) -> Tensor:
    """Distances [Q, G] by name: a method's name is that method's own distance; other names are `stock`'s.

    Args:
        one, other: [Q, K] and [G, K]; for methods' names as our models return them. "dpm" also takes plain tensors of
            a feature and its mask side by side.

    Raises:
        ConfigError: a stock distance for embeddings that hold more than a vector, another method's, or a method's for
            plain tensors.
    """
    known = [each for each in (one, other) if isinstance(each, PackedEmbeddings)]
    packed = len(known) == 2
    is_stock = metric not in registry.names(registry.METHODS)
    if (packed and not is_stock and metric not in one.metrics()) or (
        is_stock and any(len(each.fields) > 1 for each in known)
    ):
        raise ConfigError(
            f"dist_metric is {metric!r}, but {known[0].told()}, and their method's own distance is "
            f"dist_metric={known[0].metrics()[0]!r}"
        )
    if is_stock:
        return stock(one, other, metric)
    if packed:
        return one.method.distance(one.unpack(), other.unpack())
    if metric == "dpm" and one.shape[1] % 2 == 0:
        (query, mask), (gallery, _) = one.chunk(2, dim=1), other.chunk(2, dim=1)
        return masked_distance(query, mask, gallery)
    raise ConfigError(
        f"dist_metric is {metric!r}, which compares embeddings as occplug's models return them; these are plain "
        "tensors: set normalize_feature to False, and keep embeddings in files by Embedding.save"
    )
