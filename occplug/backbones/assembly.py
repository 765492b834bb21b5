"""The backbone a config describes."""

from occplug.backbones.tower import Tower
from occplug.registry import BACKBONES, build, tower_options

__all__ = ["build_backbone"]


def build_backbone(cfg, num_cameras: int, **more) -> Tower:
    """The backbone `cfg.backbone.name` with random weights, for images of `data.height` x `data.width`.

    A backbone with options of its own has them in a section of its name, `cfg.backbone.<name>`.

    Args:
        num_cameras: training cameras; used with `backbone.sie_camera`.
        more: options that a method sets, in place of the config's or beside them.

    Raises:
        ConfigError: options the backbone cannot be built with.
    """
    o = cfg.backbone
    options = {
        "image_size": (cfg.data.height, cfg.data.width),
        "stride": o.stride,
        "num_cameras": num_cameras if o.sie_camera else 0,
        "sie_coefficient": o.sie_coefficient,
    }
    options |= {name: o[key] for name, key in tower_options(o.name).items() if o[key] is not None}
    return build(BACKBONES, o.name, **options | dict(o.get(o.name, {})) | more)
