"""How much memory the devices of this machine have."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Room:
    """A device and its memory.

    Args:
        device: ``cpu``, ``cuda:0``.
        n_bytes: all of its memory, whoever holds some of it now.
        title: what it is, in words.
    """

    device: str
    n_bytes: int
    title: str = ""


def rooms_here() -> tuple[Room, ...]:
    """Every GPU of this machine, and its main memory at the end."""
    found = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found.append(Room(f"cuda:{number}", int(facts.total_memory), str(facts.name)))
    return (*found, Room("cpu", main_memory(), "main memory"))


def main_memory() -> int:
    """Bytes of this machine's memory, or of what its control group may take, where that is less; 0 where unknown."""
    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes, default=0)
