"""The device that a user names, tried before anything is put on it."""

from __future__ import annotations

import torch

from occplug.errors import ConfigError, first_line

__all__ = ["device_named", "devices_here"]


def devices_here() -> list[str]:
    """Names of the devices that torch can compute on here, "cpu" first."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu", *(f"{kind.type}:{n}" for n in range(torch.accelerator.device_count()) if kind is not None)]


def device_named(name: str | torch.device) -> torch.device:
    """The torch device `name`, e.g. "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ConfigError: torch knows no such device, or can put nothing on it: no driver, no GPU of that number, no memory.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device is {str(name)!r}, a name that torch does not know; {_cure()}") from error
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # backends that are not there raise errors of no class in common
        reason = first_line(error).split(". ")[0]
        raise ConfigError(f"device is {str(name)!r}, and torch cannot use it ({reason}); {_cure()}") from error
    return device


def _cure() -> str:
    return f"here there are: {', '.join(devices_here())} (occplug doctor says what torch is built for)"
