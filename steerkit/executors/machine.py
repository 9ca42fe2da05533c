"""What of a process the bytes of outputs depend on, so that one that would give others is refused."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from steerkit.stages.model import dependencies

Machine: TypeAlias = Mapping[str, str]
"""What it is, by what it is called in messages."""

_NUMPY: Final = "threads of numpy"


@dataclass(frozen=True)
class Hello:
    """What a worker is told before its first job.

    Args:
        machine: what the process is that hands jobs out.
        device: ``cpu`` or ``cuda``: where models go.
        threads: of a worker; as they are there if None.
    """

    machine: Machine
    device: str
    threads: int | None

    @property
    def numpy_threads(self) -> int | None:
        """Threads of the libraries below numpy; None where they aren't one number."""
        told = self.machine.get(_NUMPY, "")
        return int(told) if told.isdigit() else None


def machine(device: str, threads: int | None = None) -> Machine:
    """What this process is, for work on a kind of device with so many threads; None for those that it has."""
    import torch
    from threadpoolctl import threadpool_info

    known = dependencies()
    pools = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    found = {name: str(version) for name, version in known["versions"].items()}
    found["steerkit's code"] = str(known["steerkit"])[:12]
    found["processor"] = platform.machine()
    if device == "cuda":
        found["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    else:
        found["CPU capability"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = str(threads or torch.get_num_threads())
    found[_NUMPY] = ", ".join(str(number) for number in sorted(pools))
    return found


def difference(ours: Machine, theirs: Machine) -> str:
    """In what another process differs from this one, in words; empty where it doesn't."""
    told = [
        f"{name} is {theirs.get(name) or 'not there'} (here {ours.get(name) or 'not there'})"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    return ", ".join(told)
