"""The processes that run one model together: as torchrun started them, joined once, with a time limit.

Every process computes the same and decides the same, since each gets the same values; what only one of them may do
(ask somebody outside, draw a number) the first one does, and tells the others.
"""

from __future__ import annotations

import os
import pickle
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from steerkit.errors import ParallelError, counted

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
LIMIT: Final = "STEERKIT_PARALLEL_LIMIT"
"""The variable that says for how many seconds processes wait for each other."""
SECONDS: Final = 600.0
LONGEST_PAUSE: Final = 0.05
"""Seconds between two looks at whether a note is there."""


@dataclass(frozen=True)
class Launched:
    """What torchrun told this process.

    Args:
        rank: which it is, from 0.
        world: how many there are, at least two.
        local: which it is on its machine.
    """

    rank: int
    world: int
    local: int


def launched() -> Launched | None:
    """What torchrun told this process; None where it was started alone.

    Raises:
        ParallelError: where the environment names processes that can't be.
    """
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if told[0] is None or told[1] is None:
        return None
    try:
        rank, world, local = (int(value) for value in (told[0], told[1], told[2] or told[0]))
    except ValueError:
        rank, world, local = 0, 0, 0
    if not 0 <= rank < world:
        raise ParallelError(
            f"The environment says RANK={told[0]} and WORLD_SIZE={told[1]}, which torchrun never does. Unset both, or "
            "start the processes with torchrun."
        )
    return Launched(rank, world, local) if world > 1 else None


def seconds_to_wait() -> float:
    """For how long processes wait for each other before they take one for stuck.

    Raises:
        ParallelError: for a variable that is no number above 0.
    """
    told = os.environ.get(LIMIT, "")
    try:
        seconds = float(told) if told else SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ParallelError(f"{LIMIT} is a number of seconds above 0, not {told!r}.")
    return seconds


def torchrun(processes: int) -> str:
    """The command that starts what runs now in so many processes."""
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("script.py")
    cli = started.name == "steerkit" or started.parent.name == "steerkit"
    script = ["-m", "steerkit"] if cli else [str(started)]
    return shlex.join(["torchrun", "--nproc-per-node", str(processes), *script, *sys.argv[1:]])


def require_processes(processes: int) -> Launched:
    """Find out, before anything is loaded, whether a model may be cut over so many processes here.

    Raises:
        ParallelError: unless torchrun started just as many, with the command that does.
    """
    found = launched()
    if found is not None and found.world == processes:
        return found
    here = "this is one process" if found is None else f"torchrun started {found.world} processes"
    raise ParallelError(
        f"The model is to be cut over {counted(processes, 'process', 'processes')} (tensor_parallel), and {here}. "
        f"Start it as: {torchrun(processes)}"
    )


class Notes(Protocol):
    """Where processes leave notes for each other: torch's ``Store``."""

    def set(self, key: str, value: Any) -> None:
        """Leave one."""
        ...

    def get(self, key: str) -> bytes:
        """Read one."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether some are there."""
        ...

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Leave one unless there is one."""
        ...


@dataclass(frozen=True, eq=False)
class Group:
    """The processes that run one model together, once they have joined.

    Args:
        rank: which this one is.
        world: how many there are.
        control: by which they tell each other bytes, on CPUs.
        store: where they leave notes for each other, for which one can wait as long as it takes.
    """

    rank: int
    world: int
    control: ProcessGroup
    store: Notes

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks, asks and writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in their order, in every process alike. It survives pickling."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.control)
        return found

    def tell(self, content: bytes | None) -> bytes:
        """Bytes of the first process, in every process alike; the others give None."""
        import torch
        import torch.distributed as dist

        size = torch.tensor(0 if content is None else len(content))
        dist.broadcast(size, 0, group=self.control)
        data = torch.empty(int(size), dtype=torch.uint8)
        if content:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if len(data):
            dist.broadcast(data, 0, group=self.control)
        return data.numpy().tobytes()


_joined: Group | None = None
_stores: list[Notes] = []
_told = count()


def current() -> Group | None:
    """The processes that this one has joined; None for a process alone."""
    return _joined


def join(processes: int, device: str = "cpu") -> Group:
    """Join the processes that torchrun started. Once for all models of a process.

    A group that somebody initialised already is used as it is, with its own time limit.

    Args:
        processes: how many there must be.
        device: what each runs its share on, ``cpu`` or ``cuda``, where it takes the GPU of its local rank.

    Raises:
        ParallelError: where there are others, where one doesn't come, or for a GPU that isn't there.
    """
    global _joined
    found = require_processes(processes)
    if _joined is None:
        _joined = _join(found, device)
    return _joined


def _join(found: Launched, device: str) -> Group:
    import torch

    dist: Any = torch.distributed
    if not dist.is_available():
        raise ParallelError("This build of torch has no torch.distributed. Install another one, or run one process.")
    limit = timedelta(seconds=seconds_to_wait())
    if device == "cuda":
        if found.local >= torch.cuda.device_count():
            raise ParallelError(
                f"Process {found.rank} would have GPU {found.local}, and this machine has "
                f"{counted(torch.cuda.device_count(), 'GPU')}. Start one process for each, or set device: cpu."
            )
        torch.cuda.set_device(found.local)
    store = store_of(found)
    try:
        if not dist.is_initialized():
            bound = {"device_id": torch.device("cuda", found.local)} if device == "cuda" else {}
            dist.init_process_group(
                "nccl" if device == "cuda" else "gloo",
                store=dist.PrefixStore("group", store),
                rank=found.rank,
                world_size=found.world,
                timeout=limit,
                **bound,
            )
        control = dist.new_group(backend="gloo", timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise ParallelError(
            f"Process {found.rank} of {found.world} can't join the others within {limit.total_seconds():g} seconds "
            f"({' '.join(str(error).split())[:160]}). Start all of them with one torchrun."
        ) from error
    return Group(found.rank, found.world, control, store)


def store_of(found: Launched) -> Notes:
    """Where the processes leave notes for each other: the same each time."""
    if not _stores:
        import torch.distributed as dist

        # torchrun serves it; where another launcher started the processes, the first of them does.
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or dist.is_initialized()
        _stores.append(connected(serve=found.rank == 0 and not served))
    return _stores[0]


def connected(*, serve: bool = False) -> Notes:
    """A connection of its own to where the processes leave notes. What waits on one keeps others from using it.

    Raises:
        ParallelError: where nobody answers there.
    """
    import torch

    dist: Any = torch.distributed
    place = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    try:
        limit = timedelta(seconds=seconds_to_wait())
        store = dist.TCPStore(place[0], int(place[1]), None, serve, limit, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        raise ParallelError(
            f"Nobody answers at MASTER_ADDR={place[0]} and MASTER_PORT={place[1]}, where processes meet. Start all of "
            "them with one torchrun."
        ) from error
    found: Notes = dist.PrefixStore(f"steerkit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return found


def wait_for(store: Notes, key: str) -> bytes:
    """A note, as soon as it is there, however long that takes: who interrupts this process meanwhile is heard."""
    pause = 0.001
    while not store.check([key]):
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return store.get(key)


def first_tells(compute: Callable[[], T]) -> T:
    """What a function gives in the first process, told to the others, which don't run it; or what it raises there.

    For what must not be done once per process: questions to somebody outside, numbers drawn by chance. Every process
    has to call it, at the same place. It may take as long as it likes.
    """
    group = current()
    if group is None:
        return compute()
    note = f"told/{next(_told)}"
    if not group.is_first:
        wait_for(group.store, note)
        value, error = pickle.loads(group.tell(None))
        if error is not None:
            raise error
        return cast(T, value)
    try:
        told: tuple[T | None, Exception | None] = (compute(), None)
    except Exception as error:
        told = (None, error)
    group.store.set(note, "")
    group.tell(pickle.dumps(told))
    if told[1] is not None:
        raise told[1]
    return cast(T, told[0])
