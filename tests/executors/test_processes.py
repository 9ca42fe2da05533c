"""Workers that are processes: what they give, raise and print, and what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from steerkit.errors import ExecutorError, RecipeError, TryAgainError, UnsupportedModelError
from steerkit.executors.base import Call, Finished
from steerkit.executors.chosen import named
from steerkit.executors.crew import Crew
from tests.executors import jobs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")

NOTES: list[str] = []
WAITING = """\
import sys
from pathlib import Path
from tests.executors import jobs
jobs.begin_and_wait(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Crew]:
    with closing(named("processes", 1).open_workers("cpu", 1, note=NOTES.append)) as crew:
        yield crew


def asked(crew: Crew, function: object, *arguments: object) -> Finished:
    assert callable(function)
    crew.hand(Call(function.__name__, function, arguments))
    return crew.finished()


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be seen doesn't."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def gone(pid: int) -> bool:
    """Whether a process ends in good time."""
    for _ in range(200):
        if not is_there(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_worker_is_another_process_and_stays(workers: Crew) -> None:
    first, second = (asked(workers, jobs.process) for _ in range(2))
    assert first.value == second.value != os.getpid() and first.error is None


def test_what_a_job_prints_is_not_taken_for_an_answer(workers: Crew) -> None:
    assert asked(workers, jobs.noisy, "a value").value == "a value"


def test_warnings_reach_the_user(workers: Crew) -> None:
    with pytest.warns(UserWarning, match="Seen in a worker"):
        asked(workers, jobs.warned)


def test_errors_cross_with_their_type_words_and_what_they_carry(workers: Crew) -> None:
    refused = asked(workers, jobs.refused).error
    assert isinstance(refused, UnsupportedModelError) and str(refused) == "Not this one."
    assert (refused.model_type, refused.cause, refused.layer, refused.exit_code) == ("odd", "a cause", 3, 3)
    later = asked(workers, jobs.impolite).error
    assert isinstance(later, TryAgainError) and (later.after, later.answers) == (2.5, ("yes", None))
    recipe = asked(workers, jobs.unfinished).error
    assert isinstance(recipe, RecipeError) and recipe.problems[0].where == "model.sourse"
    assert str(recipe) == "r.yaml: 1 problem\n  line 3, model.sourse: no such key\nNothing was run."
    broken = asked(workers, jobs.broken).error
    assert isinstance(broken, KeyError) and 'jobs.py"' in broken.__notes__[0]
    assert str(asked(workers, jobs.exits).error) == "It asked the process to exit (4)."


def test_what_cant_be_sent_is_an_error_of_its_own_job(workers: Crew) -> None:
    error = asked(workers, jobs.local_value).error
    assert error is not None and "lambda" in str(error)
    unsent = asked(workers, lambda: None).error
    assert isinstance(unsent, ExecutorError) and "has to be something of its module" in str(unsent)
    assert asked(workers, jobs.noisy, "and the next").value == "and the next"


def test_a_job_whose_worker_is_killed_runs_again(tmp_path: Path) -> None:
    told: list[str] = []
    with closing(named("processes", 1).open_workers("cpu", 1, note=told.append)) as crew:
        again = asked(crew, jobs.dies_once, tmp_path / "mark")
        killed = int((tmp_path / "mark").read_text())
        assert again.error is None and again.value not in (killed, os.getpid())
        assert told == [
            "Worker 1 ended (killed by SIGKILL) while it carried out dies_once: that is begun again",
        ]
        alive = asked(crew, jobs.process).value
    assert gone(alive)


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    driver = subprocess.Popen([sys.executable, "-c", WAITING, str(mark)])
    try:
        while not mark.exists() or not mark.read_text():
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert gone(int(mark.read_text()))
