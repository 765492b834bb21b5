"""The backbone a config describes."""

from torch import nn

from occplug.registry import BACKBONES, build

__all__ = ["build_backbone"]


def build_backbone(cfg, num_cameras: int) -> nn.Module:
    """The backbone `cfg.backbone.name` with random weights, for images of `data.height` x `data.width`.

    A backbone with options of its own has them in a section of its name, `cfg.backbone.<name>`.

    Args:
        num_cameras: training cameras; used with `backbone.sie_camera`.

    Raises:
        ConfigError: options the backbone cannot be built with.
    """
    options = cfg.backbone
    return build(
        BACKBONES,
        options.name,
        image_size=(cfg.data.height, cfg.data.width),
        stride=options.stride,
        num_cameras=num_cameras if options.sie_camera else 0,
        sie_coefficient=options.sie_coefficient,
        **options.get(options.name, {}),
    )
