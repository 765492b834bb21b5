"""Configs: yaml files over declared defaults, checked before anything is built."""

from occplug.config.load import default_config, load_config, resolved_yaml, save_config

__all__ = ["default_config", "load_config", "resolved_yaml", "save_config"]
