"""One run in several processes that share one model, as torchrun starts them.

The first process plans, keeps and writes, as a process alone does. The others know neither the recipe nor the store:
they load what the first one loads and carry out what it carries out, step by step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.engine.parallel.group import launched, torchrun
from steerkit.engine.parallel.steps import END, Steps, leave
from steerkit.errors import ParallelError
from steerkit.executors.base import Done, Executor, Unit
from steerkit.executors.chosen import Chosen, Note
from steerkit.executors.local import LocalExecutor, run_unit
from steerkit.progress import Observer
from steerkit.stages import Bench
from steerkit.stages.model import load_planned

if TYPE_CHECKING:
    from steerkit.plan import Plan, PlannedLoading
    from steerkit.session.model import LiveModel

LOAD: Final = "load"


@dataclass(eq=False)
class Ranks:
    """The processes of a run, as one of them sees them.

    Args:
        by: who carries the run out, in the process that leads it.
        steps: in step with the others; None for a process alone.
        path: the run directory, once it is written.
    """

    by: Chosen
    steps: Steps | None = None
    path: Path | None = None

    @property
    def follows(self) -> bool:
        """Whether another process leads: this one carries out what that one says, and says nothing itself."""
        return self.steps is not None and self.steps.rank > 0

    def follow(self) -> Path | None:
        """Carry out what the first process says, until it ends.

        Returns:
            the run directory that it wrote; None where it ended without one, and told why.
        """
        assert self.steps is not None  # of such a process alone
        bench, live = Bench(), None
        try:
            with self.steps.watched():
                while (step := self.steps.follow())[0] != END:
                    try:
                        if step[0] == LOAD:
                            live = self.steps.together(_Loading(*step[1]))
                            continue
                        if live is not None:
                            bench, live = Bench(step[1][0], live), None
                        self.steps.together(_Carrying(step[1][1], bench))
                    except ParallelError:
                        raise
                    except Exception:
                        continue  # every process raised it, and the first one tells it
        except (ParallelError, KeyboardInterrupt) as error:
            if self.steps.speaks:
                _to_stderr(str(error))
            leave()
        path: Path | None = step[1]
        return path


@dataclass(frozen=True)
class InStep(Chosen):
    """This process with others that share its model.

    Args:
        steps: in step with them.
    """

    steps: Steps = field(kw_only=True)

    def require(self, loading: PlannedLoading) -> None:
        """As of ``Chosen``; the model has to be cut over just these processes."""
        if not self.is_local:
            raise ParallelError(
                f"torchrun's processes carry a run out themselves. Leave --executor {self.name} out, or torchrun."
            )
        wanted, here = processes_of(loading), self.steps.world
        if wanted == 1:
            raise ParallelError(
                f"torchrun started {here} processes, and this recipe's model is run by one. Start it without torchrun, "
                f"or cut the model: model: {{tensor_parallel: {here}}}."
            )
        if wanted != here:
            raise ParallelError(
                f"The model is cut over {wanted} processes (model.tensor_parallel), and torchrun started {here}. "
                f"Start it as: {torchrun(wanted)}"
            )

    def load(self, plan: Plan) -> LiveModel:
        """The plan's model, loaded by all processes at once."""
        import torch

        self.steps.lead(LOAD, (plan.loading, torch.get_num_threads()))
        return self.steps.together(lambda: load_planned(plan.loading, plan.adapters))

    def open(self, bench: Bench, device: str, threads: int, observer: Observer, note: Note) -> Executor:
        """As of ``Chosen``: every process carries out every unit."""
        return _InStepExecutor(self.steps, bench)


class _InStepExecutor(LocalExecutor):
    """Carries units out one after the other, as the other processes do at the same time."""

    def __init__(self, steps: Steps, bench: Bench) -> None:
        super().__init__(bench)
        self._steps = steps

    def done(self) -> Done:
        """Carry out the unit that has waited longest; what it gives is what the first process has of it."""
        unit = self._waiting.popleft()
        self._steps.lead("unit", (self._bench.use, unit))
        return self._steps.together(_Carrying(unit, self._bench))


@dataclass(frozen=True)
class _Loading:
    loading: PlannedLoading
    threads: int

    def __call__(self) -> LiveModel:
        import torch

        from steerkit.catalog import Catalog

        torch.set_num_threads(self.threads)
        return load_planned(self.loading, Catalog.discover())


@dataclass(frozen=True)
class _Carrying:
    unit: Unit
    bench: Bench

    def __call__(self) -> Done:
        return run_unit(self.unit, self.bench)


def processes_of(loading: PlannedLoading) -> int:
    """How many processes run a model together."""
    return loading.placement.tensor_parallel or 1


@contextmanager
def ranks(by: Chosen) -> Iterator[Ranks]:
    """The processes that torchrun started, for one run; without it, this one alone.

    However the body ends in the first process, the others end too.

    Args:
        by: who was asked for.
    """
    found = launched()
    if found is None:
        yield Ranks(by)
        return
    steps = Steps(found, _to_stderr)
    here = Ranks(InStep(by.name, by.workers, by.address, steps=steps), steps)
    if here.follows:
        yield here
        return
    try:
        with steps.watched():
            yield here
    finally:
        steps.lead(END, here.path)


def _to_stderr(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
