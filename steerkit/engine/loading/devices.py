"""The device that a recipe names, as far as this machine has it."""

from __future__ import annotations

import torch

from steerkit.errors import ModelError


def device_to_load_on(name: str) -> torch.device:
    """The device that a name means, ``auto`` the first GPU or else the CPU.

    Raises:
        ModelError: for what is no device, or none of this machine's.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ModelError(f"{name!r} is not a device. Write auto, cpu, cuda or cuda:1.") from None
    if device.type == "mps":
        raise ModelError("Device mps has no float64, in which statistics are summed. Use device cpu.")
    if not _is_here(device):
        raise ModelError(f"This machine (or this build of torch) has no device {name}. Use device auto or cpu.")
    return device


def _is_here(device: torch.device) -> bool:
    """Whether anything can be computed on a device. What torch has no build for it says in many ways."""
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    try:
        return torch.zeros(1, device=device).item() == 0
    except Exception:
        return False


def device_fault(name: str) -> str:
    """Why nothing can be loaded on a device here, as a sentence; empty where it can."""
    try:
        device_to_load_on(name)
    except ModelError as error:
        return str(error)
    return ""
