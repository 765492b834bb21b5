"""Configs: yaml files over declared defaults, checked before anything is built."""

from occplug.config.load import default_config, load_config, resolved_yaml, save_config
from occplug.config.places import find_config, shipped_configs

__all__ = ["default_config", "find_config", "load_config", "resolved_yaml", "save_config", "shipped_configs"]
