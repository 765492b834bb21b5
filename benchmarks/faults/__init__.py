"""Fault injection: what a run, a config, a checkpoint and a picture stand, as "held / tried"."""
