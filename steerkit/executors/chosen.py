"""Which executor somebody asked for: checked before anything is loaded, opened when there is something to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from steerkit.errors import ExecutorError, UnknownNameError, nearest
from steerkit.executors.base import Executor, Workers
from steerkit.executors.local import LocalExecutor
from steerkit.progress import SILENT, Observer
from steerkit.stages import Bench

LOCAL: Final = "local"
NAMES: Final = {
    LOCAL: "this process, one task after the other",
    "processes": "processes of this machine, one for each device",
    "ray": "actors of a Ray cluster",
}
"""The executors, each with what it runs tasks in."""

Note = Callable[[str], None]


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
