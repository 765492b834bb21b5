"""A method as torchreid's engines want a model: one module, one tensor out, a distance by name.

Nothing here imports torchreid; `occplug.plugin.register` puts it in place.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from occplug import _moved, registry
from occplug.embedding import Embedding
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.evaluation import masked_distance
from occplug.method import Method, parameter_groups
from occplug.utils.keys import hide_child

__all__ = ["TorchreidModel", "packed_distances"]

__getattr__ = _moved.older_names(__name__)


class TorchreidModel(nn.Module):
    """A method in the form torchreid's own engines, FeatureExtractor and checkpoints expect.

    In train mode `forward` returns what the loss needs: a list of logits [B, C] for "softmax", a tuple of that list and
    a list of features [B, D] for "triplet". In eval mode it returns all fields of the embeddings side by side, [B, K]
    (`Embedding.pack`), and keeps their layout in `layout`, with which an engine's test compares them.

    torchreid runs one joint training, so what trains is what the method's *last* stage trains; the rest stays closed
    although torchreid opens all layers every epoch. Direct children and checkpoint keys are the method's own, so
    `open_layers` and `new_layers` take its names (e.g. `classifier`) and its checkpoints are interchangeable.
    """

    def __init__(self, method: Method, loss: str):
        super().__init__()
        if loss not in ("softmax", "triplet"):
            raise ConfigError(f"loss is {loss!r}; torchreid's engines know 'softmax' and 'triplet'")
        self.method: Method
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
            embedding = self.method.embed(images)
            self.layout = embedding.layout()
            return embedding.pack()
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

    def metrics(self) -> list[str]:
        """Names of the distances of its embeddings: the method's, and for vectors with masks DPM's."""
        known = registry.names(registry.METHODS)
        names = [name for name in known if registry.get(registry.METHODS, name) is type(self.method)]
        has_masks = [name for name, _ in self.layout] == ["vector", "mask"]
        return names + ["dpm"] * (has_masks and "dpm" not in names)

    def check_metric(self, metric: str, normalize: bool = False) -> None:
        """Check how a test wants to compare embeddings of the present `layout`.

        Args:
            metric: a method's name, or one of torchreid's distances.
            normalize: whether rows are divided by their length before.

        Raises:
            ConfigError: rows of several fields taken for one vector, or another method's distance.
        """
        hold = f"these embeddings hold {', '.join(name for name, _ in self.layout)}"
        if normalize and len(self.layout) > 1:
            raise ConfigError(
                f"{hold} side by side, which are not normalised as if they were one vector; set normalize_feature to "
                "False"
            )
        is_methods = metric in registry.names(registry.METHODS)
        if metric not in self.metrics() if is_methods else len(self.layout) > 1:
            raise ConfigError(
                f"dist_metric is {metric!r}, but {hold}, and their method's distance is "
                f"dist_metric={self.metrics()[0]!r}"
            )

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


def packed_distances(
    one: Tensor, other: Tensor, metric: str, stock: Callable, model: TorchreidModel | None = None
) -> Tensor:
    """Distances [Q, G] by name: a method's name is that method's distance; other names are `stock`'s.

    Args:
        one, other: [Q, K] and [G, K].
        model: whose embeddings they are; None outside an engine's test, where only DPM's distance can be computed: of
            a feature and its mask side by side.

    Raises:
        ConfigError: as `TorchreidModel.check_metric`, or a method's distance for tensors of no known model.
    """
    if model is not None:
        model.check_metric(metric)
    if metric not in registry.names(registry.METHODS):
        return stock(one, other, metric)
    if model is not None:
        return model.method.distance(*(Embedding.unpack(each, model.layout) for each in (one, other)))
    if metric == "dpm" and one.shape[1] % 2 == 0:
        (query, mask), (gallery, _) = one.chunk(2, dim=1), other.chunk(2, dim=1)
        return masked_distance(query, mask, gallery)
    raise ConfigError(
        f"dist_metric is {metric!r}, which compares embeddings as occplug's models return them; outside torchreid's "
        "engines they are plain tensors without a layout: call Method.distance, and keep embeddings in files by "
        "Embedding.save"
    )
