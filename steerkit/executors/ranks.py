"""One run in several processes that share one model, as torchrun starts them.

The first process plans, keeps and writes, as a process alone does. The others know neither the recipe nor the store:
they load what the first one loads, and carry out what it carries out, step by step.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from steerkit.catalog import Catalog
from steerkit.engine.parallel.group import Launched, launched, torchrun
from steerkit.engine.parallel.steps import END, Steps, leave
from steerkit.errors import ParallelError
from steerkit.executors.base import Done, Executor, Unit
from steerkit.executors.local import LocalExecutor, run_unit
from steerkit.progress import SILENT
from steerkit.stages import Bench, ModelUse
from steerkit.stages.model import load_planned

if TYPE_CHECKING:
    from steerkit.plan import Plan, PlannedLoading
    from steerkit.session.model import LiveModel

LOAD: Final = "load"
UNIT: Final = "unit"


class Ranks:
    """The processes of a run. Of a process alone there is one, and everything is as if there were none of this.

    Args:
        launched: what torchrun told this process; None for a process alone.
    """

    def __init__(self, found: Launched | None = None) -> None:
        self._launched = found
        self._steps = None if found is None else Steps(found, _to_stderr)
        self.path: Path | None = None

    @property
    def follows(self) -> bool:
        """Whether another process leads: this one only carries out what that one says."""
        return self._launched is not None and self._launched.rank > 0

    def require(self, plan: Plan) -> None:
        """Find out whether a plan's model is run by just these processes.

        Raises:
            ParallelError: where it is run by others, with the command that starts them.
        """
        wanted, here = processes_of(plan), 1 if self._launched is None else self._launched.world
        if wanted == here:
            return
        if wanted == 1:
            raise ParallelError(
                f"torchrun started {here} processes, and this recipe's model is run by one. Start it without torchrun, "
                f"or cut the model: model: {{tensor_parallel: {here}}}."
            )
        found = "this is one process" if here == 1 else f"torchrun started {here} processes"
        raise ParallelError(
            f"The model is cut over {wanted} processes (model.tensor_parallel), and {found}. Start it as: "
            f"{torchrun(wanted)}"
        )

    def load(self, plan: Plan) -> LiveModel:
        """The plan's model, loaded by all processes at once."""
        if self._steps is None:
            return load_planned(plan.loading, plan.adapters)
        import torch

        self._steps.lead(LOAD, (plan.loading, torch.get_num_threads()))
        return self._steps.together(lambda: load_planned(plan.loading, plan.adapters))

    def executor(self, use: ModelUse, live: LiveModel, bench: Bench) -> Executor:
        """Who carries out the tasks of a run: this process, with the others where there are some."""
        return LocalExecutor(bench) if self._steps is None else _InStep(self._steps, use, live, bench)

    def follow(self) -> Path:
        """Carry out what the first process says, until it ends; the run directory that it wrote."""
        steps = cast(Steps, self._steps)
        live: LiveModel | None = None
        bench = Bench()
        with steps.watched():
            while True:
                name, content = steps.follow()
                if name == END:
                    if content is None:
                        raise ParallelError("The first process ended without a run directory.")
                    return cast(Path, content)
                try:
                    if name == LOAD:
                        live = steps.together(_Loading(*content))
                    else:
                        use, unit = content
                        if live is not None:
                            bench, live = Bench(use, live), None
                        steps.together(_Carrying(unit, bench))
                except ParallelError:
                    leave()
                except Exception:
                    continue  # it is everybody's, and the first process tells it


@dataclass(frozen=True)
class _Loading:
    loading: PlannedLoading
    threads: int

    def __call__(self) -> LiveModel:
        import torch

        torch.set_num_threads(self.threads)
        return load_planned(self.loading, Catalog.discover())


@dataclass(frozen=True)
class _Carrying:
    unit: Unit
    bench: Bench

    def __call__(self) -> Done:
        return run_unit(self.unit, self.bench)


class _InStep(LocalExecutor):
    """Carries units out one after the other, as the other processes do at the same time.

    Args:
        steps: of this process.
        use: the model, as tasks name it.
        live: that model, which is loaded before a unit is handed out: all processes load at once.
        bench: of this process.
    """

    def __init__(self, steps: Steps, use: ModelUse, live: LiveModel, bench: Bench) -> None:
        super().__init__(bench)
        self._steps, self._use, self._live = steps, use, live

    def done(self) -> Done:
        """Carry out the unit that has waited longest; what it gives is what the first process has."""
        unit = self._waiting.popleft()
        _ = self._live.model
        self._steps.lead(UNIT, (self._use, unit))
        return self._steps.together(_Carrying(unit, self._bench))


ALONE: Final = Ranks()


def processes_of(plan: Plan) -> int:
    """How many processes run a plan's model."""
    placement: Any = getattr(plan.loading, "placement", None)
    return getattr(placement, "tensor_parallel", None) or 1


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, for one run; in a process alone that one.

    However the body ends in the first process, the others end too.
    """
    found = launched()
    if found is None:
        yield ALONE
        return
    here = Ranks(found)
    if here.follows:
        yield here
        return
    steps = cast(Steps, here._steps)
    try:
        with steps.watched():
            yield here
    finally:
        steps.lead(END, here.path)


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
