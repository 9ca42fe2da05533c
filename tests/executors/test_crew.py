"""The bookkeeping of workers, with a line that only notes what goes over it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from steerkit.errors import ExecutorError, SteerkitError
from steerkit.executors.base import Call, Finished, Unit
from steerkit.executors.crew import TRIES, Crew, CrewExecutor
from steerkit.executors.crossing import packed
from steerkit.executors.machine import Hello
from steerkit.executors.worker import Answered, Gone, Message, Ready, Said, Sent
from steerkit.stages import Task

HERE = {"torch": "2.8.0", "threads": "1"}


class Wire:
    """A line on which the test says what workers say."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.started: list[int] = []
        self.sent: list[tuple[int, Sent]] = []
        self.heard: deque[tuple[int, Message]] = deque()
        self.closed = False

    def where(self, place: int) -> str:
        return f"Worker {place + 1}"

    def start(self, place: int, hello: Hello) -> None:
        self.started.append(place)

    def send(self, place: int, sent: Sent) -> None:
        self.sent.append((place, sent))

    def receive(self) -> tuple[int, Message]:
        return self.heard.popleft()

    def close(self) -> None:
        self.closed = True


class Watcher:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.bars: list[tuple[int, int]] = []

    def step(self, what: str) -> None:
        self.steps.append(what)

    def progress(self, done: int, of: int) -> None:
        self.bars.append((done, of))


def job(name: str) -> Call:
    return Call(name, print)


def unit(key: str, **inputs: bytes) -> Unit:
    task = Task("scores", key, None, {}, key, "condition", f"condition {key}")  # type: ignore[arg-type]
    return Unit((task,), inputs)


def crew(line: Wire, **more: Any) -> Crew:
    return Crew(line, Hello(HERE, "cpu", 1), **more)


def answered(value: Any) -> Answered:
    return Answered(value, None, 1.5)


def test_a_worker_is_started_when_it_has_something_to_do_and_takes_what_waits() -> None:
    line = Wire()
    made = crew(line)
    assert line.started == []
    for name in "abc":
        made.hand(job(name))
    assert line.started == [0, 1] and [(place, one.job.name) for place, one in line.sent] == [(0, "a"), (1, "b")]  # type: ignore[union-attr]
    line.heard += [(1, Ready(HERE)), (0, Ready(HERE)), (1, answered("B")), (0, answered("A")), (1, answered("C"))]
    found = [made.finished() for _ in "abc"]
    assert [(one.job.name, one.value) for one in found] == [("b", "B"), ("a", "A"), ("c", "C")]  # type: ignore[union-attr]
    assert line.started == [0, 1] and line.sent[2][0] == 1
    with pytest.raises(RuntimeError, match="No job"):
        made.finished()


def test_a_job_of_dead_workers_goes_to_others_first_and_is_given_up_in_the_end() -> None:
    line, notes = Wire(3), list[str]()
    made = crew(line, note=notes.append)
    made.hand(job("heavy"))
    line.heard += [(0, Gone("killed by SIGKILL")), (1, Gone("killed by SIGKILL"))]
    line.heard += [(2, Gone("exit code 1"))]
    finished = made.finished()
    assert [place for place, _ in line.sent] == [0, 1, 2] and len(notes) == TRIES - 1
    assert isinstance(finished.error, ExecutorError)
    assert str(finished.error) == (
        "heavy: given up after 3 workers died of it (exit code 1). Where memory ran out, take fewer workers or a "
        "smaller model.batch_tokens; what is finished is kept."
    )
    made.hand(job("light"))
    line.heard.append((line.sent[-1][0], answered(1)))
    assert made.finished() == Finished(job("light"), 1, seconds=1.5)


def test_an_idle_worker_that_ends_costs_nothing() -> None:
    line, notes = Wire(1), list[str]()
    made = crew(line, note=notes.append)
    made.hand(job("a"))
    line.heard += [(0, answered(1))]
    made.finished()
    line.heard += [(0, Gone("exit code 0")), (0, answered(2))]
    made.hand(job("b"))
    # It was sent to a worker that was gone already, which nobody had seen.
    assert made.finished().value == 2 and line.started == [0, 0] and len(notes) == 1


def test_an_input_is_sent_to_each_worker_once_and_again_to_a_new_one() -> None:
    line = Wire(1)
    made = CrewExecutor(crew(line))
    made.submit(unit("1", a=b"A", b=b"B"))
    line.heard.append((0, answered(({"1": b"one"}, frozenset({"1"})))))
    done = made.done()
    assert done.outputs == {"1": b"one"} and done.passing == {"1"} and done.seconds == 1.5
    made.submit(unit("2", a=b"A", c=b"C"))
    line.heard += [(0, Gone("killed by SIGKILL")), (0, answered(({"2": b"two"}, frozenset())))]
    assert made.done().outputs == {"2": b"two"}
    assert [one.fresh for _, one in line.sent] == [{"a": b"A", "b": b"B"}, {"c": b"C"}, {"a": b"A", "c": b"C"}]
    assert [one.keys for _, one in line.sent] == [("a", "b"), ("a", "c"), ("a", "c")]
    assert all(not one.job.inputs for _, one in line.sent)  # type: ignore[union-attr]
    made.close()
    assert line.closed


def test_what_a_unit_raises_its_executor_raises() -> None:
    line = Wire()
    made = CrewExecutor(crew(line))
    assert made.width == 2
    made.submit(unit("1"))
    line.heard.append((0, Answered(None, packed(SteerkitError("No such thing.")), 0.0)))
    with pytest.raises(SteerkitError, match=r"^No such thing\.$"):
        made.done()


def test_a_worker_that_would_give_other_bytes_is_refused_by_name() -> None:
    line = Wire()
    made = crew(line)
    made.hand(job("a"))
    line.heard.append((0, Ready({**HERE, "torch": "2.7.1", "threads": "4"})))
    with pytest.raises(ExecutorError) as refused:
        made.finished()
    assert str(refused.value) == (
        "Worker 1 would give other bytes: torch is 2.7.1 (here 2.8.0), threads is 4 (here 1). Make it the same there, "
        "or leave it out."
    )


def test_progress_is_of_all_workers_together() -> None:
    line, watcher = Wire(), Watcher()
    made = crew(line, observer=watcher)
    made.hand(job("a"))
    made.hand(job("b"))
    line.heard += [(0, Said("reading")), (0, Said(None, 2, 8)), (1, Said(None, 1, 4)), (0, answered(1))]
    line.heard += [(1, Said(None, 3, 4)), (1, answered(1))]
    made.finished(), made.finished()
    assert watcher.steps == ["reading"] and watcher.bars == [(2, 8), (3, 12), (3, 4)]
