"""Workers that are actors of a Ray cluster: one that runs already, or one that is started on this machine for a run.

What several workers need is put into Ray's object store once, and each node fetches it once. Ray is imported here,
when it is asked for, and told to keep its own words and its usage statistics to itself.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any, Final

from steerkit.errors import ExecutorError, counted
from steerkit.executors.machine import Hello
from steerkit.executors.worker import Answered, Gone, Message, Ready, Sent, Worker

ON_A_CPU: Final = 2
"""Actors of a cluster of our own, where nobody says how many and there is no GPU."""
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SILENCE: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # whose default Ray warns of
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
_CONNECT: Final = 10.0
"""Seconds that a cluster has to answer."""
_BEGIN: Final = 300.0
"""Seconds that an actor has to begin: it may have to wait for others' to end, and imports what runs models."""


class Cluster:
    """A line to actors. ``join`` makes one.

    Args:
        size: how many.
        gpus: of each, 0 or 1.
        threads: CPU threads of each.
        ours: whether the cluster ends with the line.
    """

    def __init__(self, size: int, gpus: int, threads: int, ours: bool) -> None:
        self.size, self._ours = size, ours
        self._options = _options(gpus, threads)
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._pending: dict[Any, int] = {}  # what actors owe, by place; of a place in the order in which it is owed
        self._due: dict[int, float] = {}  # until when one that was started has to begin
        self._said: list[tuple[int, Message]] = []
        self._stored: dict[str, Any] = {}

    @classmethod
    def join(cls, address: str | None, workers: int | None, device: str, threads: int | None) -> Cluster:
        """Connect to a cluster, or start one.

        Args:
            address: ``auto``, or host and port of the head; None for a cluster of this machine's own.
            workers: how many; as many as there are GPUs, or nodes, if None.
            device: ``cpu`` or ``cuda``.
            threads: of each actor; 1 if None.

        Raises:
            ExecutorError: where there is none, or none with so much room.
        """
        threads = threads or 1
        ours = _connect(address, (workers or ON_A_CPU) * threads)
        try:
            size = _room(workers, device, threads, ours)
        except BaseException:
            _leave(ours)
            raise
        return cls(size, int(device == "cuda"), threads, ours)

    def where(self, place: int) -> str:
        """What a worker is called in messages."""
        node = self._nodes.get(place)
        return f"Worker {place + 1}{f' on node {node}' if node else ''}"

    def start(self, place: int, hello: Hello) -> None:
        """Start an actor."""
        import ray

        actor = ray.remote(_Actor).options(**self._options).remote()
        self._actors[place] = actor
        self._owe(place, actor.begin.remote(hello))
        self._due[place] = time.monotonic() + _BEGIN

    def send(self, place: int, sent: Sent) -> None:
        """Send a job; its inputs lie in the object store, each of them once."""
        import ray

        for key, value in (sent.fresh or {}).items():
            if key not in self._stored:
                self._stored[key] = ray.put(value)
        stored = {key: self._stored[key] for key in sent.fresh or {}}
        try:
            content = ray.cloudpickle.dumps(Sent(sent.job, sent.keys))
        except Exception as error:  # pickle raises whatever it likes
            raise ExecutorError(
                f"A task can't be sent to another process ({error}). Run it without --executor."
            ) from error
        self._owe(place, self._actors[place].carry.remote(content, stored))

    def receive(self) -> tuple[int, Message]:
        """Wait for what any actor says next."""
        import ray
        from ray.exceptions import RayError

        while not self._said:
            done, _ = ray.wait(list(self._pending), num_returns=1, timeout=1.0)
            for reference in done:
                place = self._pending.pop(reference)
                try:
                    said = ray.get(reference)
                except RayError as error:
                    self._end(place)
                    said = [Gone(_why(error))]
                self._said += [(place, self._noted(place, message)) for message in said]
            self._require_begun()
        return self._said.pop(0)

    def close(self) -> None:
        """End all actors, and the cluster if it is this line's."""
        import ray

        for actor in self._actors.values():
            with suppress(Exception):  # gone already, or the cluster is
                ray.kill(actor)
        self._actors.clear()
        self._pending.clear()
        self._stored.clear()
        _leave(self._ours)

    def _owe(self, place: int, reference: Any) -> None:
        self._pending[reference] = place

    def _end(self, place: int) -> None:
        """Expect nothing more of a place."""
        self._pending = {reference: other for reference, other in self._pending.items() if other != place}
        self._actors.pop(place, None)
        self._due.pop(place, None)

    def _noted(self, place: int, message: Any) -> Message:
        """A message; of an actor that begins, where that is, is kept."""
        if isinstance(message, tuple):
            self._nodes[place], message = message
            self._due.pop(place, None)
        found: Message = message
        return found

    def _require_begun(self) -> None:
        if any(time.monotonic() > due for due in self._due.values()):
            raise ExecutorError(
                f"A worker of the Ray cluster didn't begin in {_BEGIN:.0f} s: others may have its room. Wait for them, "
                "or take fewer workers."
            )


class _Actor:
    """A worker in an actor: what it says on its way is given back with what it was asked for."""

    def __init__(self) -> None:
        if not os.environ.get("STEERKIT_THREADS_TOLD"):
            # Ray's own choice, where the process that hands jobs out has made none. Libraries look here when loaded.
            os.environ.pop("OMP_NUM_THREADS", None)
        self._said: list[Message] = []
        self._worker = Worker(self._said.append)

    def begin(self, hello: Hello) -> list[tuple[str, Ready]]:
        """Where it is, and what."""
        import ray

        node = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
        return [(node, self._worker.begin(hello))]

    def carry(self, content: bytes, stored: dict[str, Any]) -> list[Message]:
        """Carry a job out."""
        self._said.clear()
        answered: Answered = self._worker.carry(partial(_sent, content, stored))
        return [*self._said, answered]


def _sent(content: bytes, stored: dict[str, Any]) -> Sent:
    """A job with those of its inputs that lie in the object store."""
    import ray

    sent: Sent = ray.cloudpickle.loads(content)
    return Sent(sent.job, sent.keys, dict(zip(stored, ray.get(list(stored.values())), strict=True)))


def _options(gpus: int, threads: int) -> dict[str, Any]:
    told = {name: os.environ[name] for name in _THREADS if os.environ.get(name)}
    return {
        "num_cpus": threads,
        "num_gpus": gpus,
        "scheduling_strategy": "SPREAD",
        "runtime_env": {"env_vars": {**told, "STEERKIT_THREADS_TOLD": "1" if told else ""}},
    }


def _connect(address: str | None, cpus: int) -> bool:
    """Be connected to a cluster; says whether it ends with us."""
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        # Left out, the address would be that of whatever cluster runs here already.
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        _hush(True)
        return True
    require_answer(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # of many kinds
        told = str(error).strip().partition("\n")[0].rstrip(". ")
        raise ExecutorError(
            f"Can't connect to a Ray cluster at {address}: {told}. Begin one there with `ray start --head`, or leave "
            "the address out for one of this run's own."
        ) from error
    _hush(True)
    return True


def _hush(quiet: bool) -> None:
    """Keep off the terminal what Ray says of workers that die: no setting does, and we say it ourselves."""
    import ray

    ray._private.worker._worker_logs_enabled = not quiet


def require_answer(address: str) -> None:
    """Find out whether anything listens at an address: Ray itself tries for minutes.

    Raises:
        ExecutorError: where nothing does, or where it is no address.
    """
    if address.startswith("ray://"):
        raise ExecutorError(
            f"{address} is an address for Ray's client. Start the run on a node of the cluster, with the address auto."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise ExecutorError(f"{address} is no address of a Ray cluster. Write auto, or host and port: 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise ExecutorError(
            f"No Ray cluster answers at {address} ({told}). Begin one there with `ray start --head`, or leave the "
            "address out for one of this run's own."
        ) from None


def _leave(ours: bool) -> None:
    if ours:
        import ray

        ray.shutdown()
        _hush(False)


def _room(workers: int | None, device: str, threads: int, ours: bool) -> int:
    """How many actors there will be."""
    import ray

    there = ray.cluster_resources()
    if device == "cuda":
        size = workers or int(there.get("GPU", 0))
        if not 1 <= size <= there.get("GPU", 0):
            raise ExecutorError(
                f"The Ray cluster has {counted(int(there.get('GPU', 0)), 'GPU')}, one for each worker: take as many "
                "workers, or device cpu."
            )
        return size
    size = workers or ON_A_CPU
    if size * threads > there.get("CPU", 0):
        raise ExecutorError(
            f"The Ray cluster has {counted(int(there.get('CPU', 0)), 'CPU')}, and {counted(size, 'worker')} of "
            f"{counted(threads, 'thread')} would take {size * threads}. Take fewer of either."
        )
    return size


def _why(error: Exception) -> str:
    """Of what an actor died, in a few words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    caused = [line for line in lines if "Error:" in line or "exit" in line.lower()]
    return (caused or lines or [type(error).__name__])[-1][:200].rstrip(".")
