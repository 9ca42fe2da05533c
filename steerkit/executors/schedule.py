"""Which tasks are carried out, and when: what is asked for and isn't kept, as soon as its inputs are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from steerkit.artifacts.store import Store
from steerkit.executors.base import Done, Executor, Unit
from steerkit.stages.tasks import Task

Began = Callable[[Task], None]
Ended = Callable[[Done], None]


class Outputs:
    """Outputs by key: given, read from the store, or carried out and kept there.

    Args:
        tasks: every task that may be needed, inputs before what needs them.
        given: outputs that no task makes.
        store: where they are kept.
        executor: who carries tasks out.
        began: told of the first task of each unit before it is handed in.
        ended: told of each unit that is done.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        given: Mapping[str, bytes],
        store: Store,
        executor: Executor,
        began: Began = lambda task: None,
        ended: Ended = lambda done: None,
    ) -> None:
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            self._tasks.setdefault(task.key, task)
        self._values = dict(given)
        self._store, self._executor, self._began, self._ended = store, executor, began, ended

    def kept(self, tasks: Iterable[Task]) -> int:
        """How many of some tasks are there already."""
        return sum(self._known(task.key) for task in tasks)

    def want(self, tasks: Sequence[Task]) -> dict[str, bytes]:
        """The outputs of some tasks. Tasks that only others need are carried out only where those are."""
        waiting = self._units(self._missing(tasks))
        running = 0
        while waiting or running:
            room = self._executor.width - running
            ready = [unit for unit in waiting if all(self._known(key) for key in _inputs(unit))][:room]
            for unit in ready:
                waiting.remove(unit)
                running += self._hand_in(unit)
            if running:
                self._take(self._executor.done())
                running -= 1
            elif not ready:
                raise RuntimeError("Tasks wait for outputs that no task gives.")
        return {task.key: self._values[task.key] for task in tasks}

    def _hand_in(self, unit: Sequence[Task]) -> int:
        """Hand in what isn't there yet: another process may have been there in the meantime. Returns 1, or 0."""
        left = tuple(task for task in unit if not self._known(task.key))
        if not left:
            return 0
        self._began(left[0])
        self._executor.submit(Unit(left, {key: self._values[key] for key in _inputs(left)}))
        return 1

    def _take(self, done: Done) -> None:
        """Keep what came back."""
        for key, content in done.outputs.items():
            if key not in done.passing:
                self._store.put(key, content)
            self._values[key] = content
        self._ended(done)

    def _known(self, key: str) -> bool:
        """Whether an output is there; it is read from the store once."""
        if key not in self._values:
            content = self._store.get(key)
            if content is None:
                return False
            self._values[key] = content
        return True

    def _missing(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that have to be carried out, in the order of the graph."""
        needed: set[str] = set()
        asked = [task.key for task in tasks]
        while asked:
            key = asked.pop()
            if key not in needed and not self._known(key):
                needed.add(key)
                asked += self._tasks[key].inputs.values()
        return [task for key, task in self._tasks.items() if key in needed]

    @staticmethod
    def _units(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
        """Tasks by what they are carried out with, in the order of the first of each."""
        units: dict[str, list[Task]] = {}
        for task in tasks:
            units.setdefault(task.together, []).append(task)
        return [tuple(unit) for unit in units.values()]


def _inputs(tasks: Sequence[Task]) -> list[str]:
    return list(dict.fromkeys(key for task in tasks for key in task.inputs.values()))
