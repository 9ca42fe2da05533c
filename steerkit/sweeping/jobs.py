"""Whole runs as jobs: what carries them out gets plain values and gives plain values, in this process or another."""

from __future__ import annotations

import errno
import gc
import platform
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steerkit.artifacts.sweeps import load_sweep
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.executors.base import Call, Finished, Unit
from steerkit.plan import plan_recipe
from steerkit.progress import SILENT, Observer
from steerkit.report import write_report
from steerkit.run import execute

CHANGED: Final = "The recipe or its data have changed since the sweep began. Run the sweep again."
_NOWHERE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True)
class Job:
    """One run of a sweep. It survives pickling: whoever carries it out plans it anew.

    Args:
        number: its place among the members.
        recipe: path of the recipe, or the name of a shipped one.
        overrides: all settings that are laid over it.
        profile: one of its profiles, or None.
        recipe_hash: of the plan that was checked; a job whose plan has another is refused.
        out: where its run directory goes.
        store: where outputs are kept; ``.store`` in ``out`` where None.
        threads: CPU threads; as they are where None.
        argv: the command that the sweep was started with, which each run notes as what made it.
    """

    number: int
    recipe: str
    overrides: tuple[str, ...]
    profile: str | None
    recipe_hash: str
    out: Path
    store: Path | None = None
    threads: int | None = None
    argv: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))


@dataclass(frozen=True)
class Ended:
    """What became of a job: its run directory's name, or why there is none. It survives pickling.

    Args:
        number: of the job.
        run: name of the finished run directory in ``out``; None where it failed.
        error: what is wrong and what to do, in words.
        traceback: where it happened, for what no user is meant to cause.
    """

    number: int
    run: str | None = None
    error: str | None = None
    traceback: str | None = None


class ThisProcess:
    """Carries jobs out here, one after the other, as workers do elsewhere.

    Args:
        observer: told what each run does.
    """

    size = 1

    def __init__(self, observer: Observer = SILENT) -> None:
        self._observer = observer
        self._waiting: deque[Unit | Call] = deque()

    def hand(self, job: Unit | Call) -> None:
        """Take a job; it runs when it is asked for."""
        self._waiting.append(job)

    def finished(self) -> Finished:
        """Carry out the job that has waited longest."""
        call = self._waiting.popleft()
        assert isinstance(call, Call)  # a unit belongs to a run, and a run is what is handed in here
        began = time.perf_counter()
        return Finished(call, call.function(*call.arguments, self._observer), None, time.perf_counter() - began)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()


def run_job(job: Job, observer: Observer = SILENT) -> Ended:
    """Carry out a job: a run with its report. What goes wrong with it alone is told and not raised.

    Raises:
        OSError: of a full or read-only disk, which concerns all runs of a sweep.
        KeyboardInterrupt: what is finished of it is kept, as of any run.
    """
    sys.argv = list(job.argv)  # a worker's own says nothing to whoever repeats the run
    try:
        _require_shared(job)
        plan = plan_recipe(job.recipe, job.overrides, Catalog.discover(), job.profile)
        if plan.hash != job.recipe_hash:
            raise SteerkitError(CHANGED)
        path = execute(plan, job.out, observer, store=job.store, threads=job.threads, report=write_report)
        return Ended(job.number, run=path.name)
    except SteerkitError as error:
        return Ended(job.number, error=str(error))
    except Exception as error:  # a plugin's, or torch's: it costs this run, and no other
        if isinstance(error, OSError) and error.errno in _NOWHERE:
            raise
        told = f"{type(error).__name__}: {error}".rstrip(": ").partition("\n")[0]
        return Ended(job.number, error=told, traceback=traceback.format_exc())
    finally:
        gc.collect()  # a model is referred to in circles: the next one needs its memory


def _require_shared(job: Job) -> None:
    """Find out whether a worker, which may be on another machine, has the sweep's directory before it."""
    try:
        members = load_sweep(job.out).members
        if job.number < len(members) and members[job.number].recipe_hash == job.recipe_hash:
            return
    except ArtifactError:
        pass
    raise SteerkitError(
        f"The worker on {platform.node()} doesn't see the sweep in {job.out}. On several machines a sweep, its "
        "recipe and its data lie in a folder that all of them share: choose such an --out."
    )
