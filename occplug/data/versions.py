"""Whether runs used the same version of their data sets, which each run's `metrics.json` and checkpoints tell."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["other_versions"]


def other_versions(before: Mapping[str, Mapping], now: Mapping[str, Mapping]) -> list[str]:
    """Names of the data sets in both summaries (`DataManager.summary`) whose files differ."""
    return [name for name in now if name in before and before[name]["fingerprint"] != now[name]["fingerprint"]]
