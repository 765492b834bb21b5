"""The plugin: occplug inside torchreid's own engines, data managers and model builder."""
