"""The plugin: occplug inside torchreid's engines, data managers and model builder."""
