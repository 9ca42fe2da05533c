"""Which executor somebody asked for: checked before anything is loaded, opened when there is something to do."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from steerkit.engine.parallel.group import torchrun
from steerkit.errors import ExecutorError, ParallelError, UnknownNameError, agreeing, counted, nearest
from steerkit.executors.base import Executor
from steerkit.executors.local import LocalExecutor
from steerkit.progress import SILENT, Observer
from steerkit.stages import Bench, load

if TYPE_CHECKING:
    from steerkit.executors.crew import Crew, Line
    from steerkit.plan import Plan, PlannedLoading
    from steerkit.session.model import LiveModel

LOCAL: Final = "local"
NAMES: Final = {
    LOCAL: "this process, one task after the other",
    "processes": "processes of this machine, one for each GPU, or two on its CPU",
    "ray": "actors of a Ray cluster",
}
"""The executors, each with what it runs tasks in."""

MOST_WORKERS: Final = 1024
ON_A_CPU: Final = 2
"""Workers where nobody says how many and there is no GPU: each holds the model."""
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

Note = Callable[[str], None]


def _nowhere(said: str) -> None:
    """Notes of nobody's."""


@dataclass(frozen=True)
class Chosen:
    """An executor as it was asked for. ``named`` makes one.

    To carry out whole recipes, hand calls to ``open_workers``::

        with closing(named("processes", workers=2).open_workers("cpu", threads=1)) as workers:
            for recipe in recipes:
                workers.hand(Call(recipe, run_one, (recipe, out)))
            for _ in recipes:
                finished = workers.finished()  # .job, .value, .error

    A worker of ``processes`` shares this machine's files. One of ``ray`` may be on a machine that doesn't: there a
    function gives back what it made.

    Args:
        name: one of ``NAMES``.
        workers: how many, or None for the executor's own choice.
        address: of a Ray cluster; None for one that is started for this run.
    """

    name: str = LOCAL
    workers: int | None = None
    address: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether tasks run in this process."""
        return self.name == LOCAL

    def require(self, loading: PlannedLoading) -> None:
        """Find out, before anything is loaded, whether it can carry out tasks with this model.

        Raises:
            ExecutorError: where it can't, with what to do.
            ParallelError: for a model that several processes run together, of which this is none.
        """
        processes = loading.placement.tensor_parallel or 1
        if self.is_local and processes > 1:
            raise ParallelError(
                f"The model is cut over {processes} processes (model.tensor_parallel), and this is one. Start it as: "
                f"{torchrun(processes)}"
            )
        if self.is_local:
            return
        _require_one_device(loading)
        if self.name == "ray":
            if find_spec("ray") is None:
                raise ExecutorError("Ray isn't installed. Install steerkit-torch[ray], or use --executor processes.")
            if self.address is not None:
                from steerkit.executors.clusters import require_answer

                require_answer(self.address)
        kind, _, index = loading.device.partition(":")
        if index:
            raise ExecutorError(
                f"model.device {loading.device} is one device, and each worker has one of its own. Write device {kind}."
            )
        if kind not in ("auto", "cpu", "cuda") and (self.workers or 1) > 1:
            raise ExecutorError(f"Device {kind} can't be told from another one of its kind: take 1 worker.")
        if self.name == "processes":
            _require_devices(self.workers, _device(kind))

    def load(self, plan: Plan) -> LiveModel:
        """The model of a run."""
        return load(plan)

    def threads(self, asked: int | None, device: str = "auto") -> int | None:
        """CPU threads of each process: those that were asked for, or a worker's share of this process's own.

        Args:
            asked: by the user, or None.
            device: of the model, as a recipe names it: there is a worker for each GPU that it may mean.
        """
        if asked is not None or self.is_local:
            return asked
        import torch

        workers = self.workers or (0 if device == "cpu" else len(_gpus())) or ON_A_CPU
        return max(1, torch.get_num_threads() // workers)

    def open(self, bench: Bench, device: str, threads: int, observer: Observer, note: Note) -> Executor:
        """The executor of a run.

        Args:
            bench: what a process has that carries tasks out itself.
            device: kind of the model's device, ``cpu`` or ``cuda``.
            threads: of each process.
            observer: told of passes.
            note: told of workers that died.
        """
        if self.is_local:
            return LocalExecutor(bench)
        from steerkit.executors.crew import CrewExecutor

        _free(device)  # of the model that planned the run
        workers = self.open_workers(device, threads, observer, note)
        note(f"executor {self.name}: {counted(workers.size, 'worker')}, {counted(threads, 'thread')} each")
        return CrewExecutor(workers)

    def open_workers(
        self, device: str = "auto", threads: int | None = None, observer: Observer = SILENT, note: Note = _nowhere
    ) -> Crew:
        """Workers that carry out units and calls. None is started before it has something to do.

        Args:
            device: what each has one of: ``cpu``, ``cuda``, or ``auto`` for GPUs where there are any.
            threads: of each; None for those that PyTorch chooses.
            observer: told of passes.
            note: told of workers that died.

        Raises:
            ExecutorError: where there can't be so many.
        """
        from steerkit.executors.crew import Crew
        from steerkit.executors.machine import Hello, machine

        device = _device(device)
        return Crew(self._line(device, threads), Hello(machine(device, threads), device, threads), observer, note)

    def _line(self, device: str, threads: int | None) -> Line:
        if self.name == "ray":
            from steerkit.executors.clusters import Cluster

            return Cluster.join(self.address, self.workers, device, threads)
        from steerkit.executors.processes import Processes

        _require_devices(self.workers, device)
        if device != "cuda":
            return Processes([{} for _ in range(self.workers or ON_A_CPU)])
        gpus = _gpus()
        return Processes([{_VISIBLE: gpu} for gpu in gpus[: self.workers]])


THIS_PROCESS: Final = Chosen()


def named(name: str | None = None, workers: int | None = None, address: str | None = None) -> Chosen:
    """An executor by its name.

    Args:
        name: one of ``NAMES``; None for this process.
        workers: how many, for those that have workers.
        address: of a Ray cluster that runs already, as in ``"auto"`` or ``"10.0.0.1:6379"``.

    Raises:
        UnknownNameError: for another name.
        ExecutorError: for what it can't have.
    """
    name = LOCAL if name is None else name
    if name not in NAMES:
        raise UnknownNameError(f"Unknown executor {name!r}. {nearest(name, NAMES, 'executor')}")
    if workers is not None:
        if name == LOCAL:
            raise ExecutorError("The executor local has no workers. Choose processes or ray, or leave workers out.")
        if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST_WORKERS:
            raise ExecutorError(f"An executor has 1 to {MOST_WORKERS} workers, not {workers!r}.")
    if address is not None:
        if name != "ray":
            raise ExecutorError(f"The executor {name} has no address. Choose ray, or leave address out.")
        if not isinstance(address, str) or not address.strip():
            raise ExecutorError("The address of a Ray cluster is a text such as auto or 10.0.0.1:6379.")
    return Chosen(name, workers, address)


def _require_one_device(loading: PlannedLoading) -> None:
    """Raise for a model that is spread over devices: a worker has one, with a model of its own."""
    placement = loading.placement
    spread = {"tensor_parallel": placement.tensor_parallel, "device_map": placement.device_map}
    named = next((name for name, value in spread.items() if value is not None), None)
    if named is not None:
        raise ExecutorError(
            f"model.{named} spreads one model over devices, and a worker has one device with a model of its own: leave "
            "one of both out."
        )


def _free(device: str) -> None:
    """Have the memory of a model that nobody holds any more: it is referred to in circles."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _device(kind: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if kind == "auto" else kind


def _gpus() -> list[str]:
    """The GPUs that this process may use, as the variable that says so calls them."""
    import torch

    told = os.environ.get(_VISIBLE)
    number = torch.cuda.device_count()
    listed = [one.strip() for one in told.split(",")] if told else [str(one) for one in range(number)]
    return listed[:number]


def _require_devices(workers: int | None, device: str) -> None:
    if device == "cuda":
        there, what = len(_gpus()), "GPU"
    else:
        there, what = max(os.cpu_count() or 1, ON_A_CPU), "CPU core"
    if there == 0:
        raise ExecutorError("No GPU is here for a worker. Use device cpu.")
    if (workers or 1) > there:
        raise ExecutorError(
            f"{counted(workers or 1, 'worker')} {agreeing(workers or 1, 'is', 'are')} more than this machine has "
            f"devices for: take {there} at most, one for each {what}."
        )
