"""The main path of a sweep: every run of it planned, then carried out, then compared."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from steerkit.artifacts.rundir import RESULTS
from steerkit.artifacts.store import STORE, Store
from steerkit.artifacts.sweeps import Sweep, SweepMember, is_sweep, load_sweep
from steerkit.catalog import Catalog
from steerkit.errors import ParallelError, Problem, RecipeError, SteerkitError, counted, known_keywords
from steerkit.executors.base import Call, Workers
from steerkit.executors.chosen import THIS_PROCESS, Chosen, named
from steerkit.progress import SILENT, Observer, Stage
from steerkit.recipe.problems import in_order
from steerkit.recipe.shipped import find_recipe, shipped_recipes
from steerkit.report.sweep import ReadSweep, read_sweep
from steerkit.report.sweep_page import write_sweep_report
from steerkit.run import require_places, with_threads
from steerkit.sweeping.axes import Axis, axes_of, faults, points_of
from steerkit.sweeping.jobs import Ended, Job, ThisProcess, run_job
from steerkit.sweeping.members import Member, plan_members
from steerkit.sweeping.state import State

if TYPE_CHECKING:
    from steerkit.plan import PlannedLoading
    from steerkit.plan.places import Look

SWEEPS: Final = "sweeps"
LOCK: Final = ".lock"
_ONE_AT_A_TIME: Final = (
    "Models that are cut over several processes are run one recipe at a time, with torchrun and `steerkit run`, and "
    "put side by side with `steerkit compare`."
)


@dataclass(frozen=True)
class Planned:
    """A sweep that can be run: what was asked for, and every run of it.

    Args:
        recipe: the recipe's path, or the name of a shipped one.
        axes: what is swept.
        overrides: settings of all runs.
        profile: one of the recipe's profiles, or None.
        members: the runs, in order.
    """

    recipe: str
    axes: tuple[Axis, ...]
    overrides: tuple[str, ...]
    profile: str | None
    members: tuple[Member, ...] = field(default=(), compare=False)

    @property
    def folder(self) -> Path:
        """The directory of this sweep where none is named. More values of the same settings go there too."""
        told = json.dumps([self.recipe, sorted(axis.key for axis in self.axes), self.overrides, self.profile])
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.members[0].name).strip("-.") or "sweep"
        return Path(SWEEPS) / f"{name}-{sha256(told.encode()).hexdigest()[:8]}"


@known_keywords
def sweep(
    recipe: str | Path,
    over: Mapping[str, Iterable[Any]],
    *,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    threads: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> ReadSweep:
    """Run a recipe with every combination of some settings' values, and compare the runs.

    Every run is planned before any begins. One that fails costs itself alone: the others go on, and the next call of
    the same sweep runs it again, and none that is finished.

    Args:
        recipe: path of a recipe, or the name of a shipped one.
        over: values by setting, such as ``{"model.source": ["gpt2", "Qwen/Qwen3-0.6B"], "seed": [1, 2, 3]}``. Of
            several seeds the comparison has the mean and how far apart they are.
        overrides: settings of all runs, such as ``"model.dtype=bfloat16"``.
        profile: name of one of the recipe's profiles.
        out: the sweep's directory, with a run directory for each run; below ``sweeps`` if not given.
        store: where outputs are kept; ``.store`` in ``out`` if not given. What several runs share is computed once.
        threads: CPU threads of each run; as they are if not given, shared among workers where there are any.
        executor: who carries runs out: ``local``, this process, one after the other; ``processes``, processes of this
            machine; ``ray``, actors of a Ray cluster whose machines share the directory.
        workers: how many runs at a time; one for each GPU if not given, or two on the CPU.
        address: of a Ray cluster; one is started for this sweep if not given.
        observer: told what is done; nobody by default.

    Returns:
        what the sweep's directory holds, as ``steerkit.read_sweep`` has it.

    Raises:
        RecipeError: with every problem of every run; nothing was run.
        SteerkitError: where another process runs a sweep in this directory, or nothing can be written there.
    """
    axes, problems = axes_of(over)
    if not isinstance(recipe, (str, Path)):
        raise SteerkitError(
            f"A recipe is the path of a file or the name of a shipped one, not a {type(recipe).__name__}."
        )
    if isinstance(overrides, str):
        raise SteerkitError(f"overrides is a list of settings: write [{overrides!r}].")
    by = named(executor, workers, address)
    planned = plan_sweep(str(recipe), axes, problems, tuple(overrides), profile)
    folder = planned.folder if out is None else Path(out)
    kept = None if store is None else Path(store)
    return carry_out(planned, folder, store=kept, threads=threads, by=by, observer=observer or SILENT)


def plan_sweep(
    recipe: str,
    axes: Sequence[Axis],
    problems: Sequence[Problem],
    overrides: tuple[str, ...] = (),
    profile: str | None = None,
    look: Look | None = None,
) -> Planned:
    """Plan every run of a sweep.

    Args:
        recipe: as of ``sweep``, like ``overrides`` and ``profile``.
        axes: what is swept.
        problems: what was found to be wrong with them.
        look: as of ``make_plan``.

    Raises:
        RecipeError: with every problem of every run.
    """
    wrong = [*problems, *faults(axes, overrides)]
    if wrong:
        raise RecipeError(in_order(wrong), recipe)
    named = recipe if recipe in shipped_recipes() and not os.path.isfile(recipe) else str(find_recipe(recipe).resolve())
    members = plan_members(named, axes, points_of(axes), overrides, profile, Catalog.discover(), look)
    return Planned(named, tuple(axes), overrides, profile, tuple(members))


def plan_again(folder: Path, look: Look | None = None) -> Planned:
    """Plan the sweep of a directory as its last call had it.

    Raises:
        ArtifactError: where the directory holds none.
        RecipeError: with every problem of every run.
    """
    known = load_sweep(folder)
    axes, problems = axes_of(known.over)
    return plan_sweep(known.recipe, axes, problems, known.overrides, known.profile, look)


def carry_out(
    planned: Planned,
    folder: Path,
    *,
    store: Path | None = None,
    threads: int | None = None,
    by: Chosen = THIS_PROCESS,
    observer: Observer = SILENT,
) -> ReadSweep:
    """Carry out a sweep that was planned: whatever of it isn't finished in its directory.

    Args:
        planned: the sweep.
        folder: its directory.
        store: where outputs are kept; ``.store`` in the directory if not given.
        threads: CPU threads of each run.
        by: who carries runs out.
        observer: told what is done.

    Raises:
        SteerkitError: where another process runs a sweep in this directory, nothing can be written there, or there
            are no such workers.
    """
    _require_one_process()
    require_places(folder, store)
    _require_carried(planned, by)
    with _held(folder):
        state = State(folder, _merged(planned, folder, store), observer)
        state.write()
        Store(store or folder / STORE).remove_halves()
        left = state.waiting()
        if len(left) < len(planned.members):
            said = f"{len(planned.members) - len(left)} of {counted(len(planned.members), 'run')} finished already"
            observer.step(Stage("kept", said))
        threads = by.threads(threads, planned.members[0].loading.device)
        jobs = {place: _call(planned, place, folder, store, threads) for place in left}
        if jobs:
            with with_threads(threads), closing(_workers(planned, by, threads, observer)) as workers:
                _run_all(jobs, workers, state)
        observer.step(Stage("report", "writing the comparison"))
        write_sweep_report(folder)
        return read_sweep(folder)


def _workers(planned: Planned, by: Chosen, threads: int | None, observer: Observer) -> Workers:
    """Who carries runs out: all of them have the same number of threads, so that each gives the bytes that it gives
    alone."""
    if by.is_local:
        return ThisProcess(observer)
    device = planned.members[0].loading.device.partition(":")[0]

    def note(said: str) -> None:
        observer.step(Stage("run", said))

    return by.open_workers(device, threads, note=note)


def _run_all(jobs: Mapping[int, Call], workers: Workers, state: State) -> None:
    """Hand runs to workers, as many as these are, and note what becomes of each."""
    waiting, running = deque(jobs), 0
    while waiting or running:
        while waiting and running < workers.size:
            place = waiting.popleft()
            state.begin(place)
            workers.hand(jobs[place])
            running += 1
        finished = workers.finished()
        place = next(place for place, job in jobs.items() if job is finished.job)
        state.end(finished.value or Ended(place, error=str(finished.error)))
        running -= 1


def states(planned: Planned, folder: Path) -> list[str]:
    """What would become of every run in a directory: ``finished`` already, or ``to run``."""
    merged = _merged(planned, folder, None)
    return [one.state if one.state == "finished" else "to run" for one in merged.members]


def _call(planned: Planned, place: int, folder: Path, store: Path | None, threads: int | None) -> Call:
    member = planned.members[place]
    overrides = (*planned.overrides, *member.point.overrides)
    where = None if store is None else store.resolve()
    job = Job(place, planned.recipe, overrides, planned.profile, member.hash, folder.resolve(), where, threads)
    return Call(member.label, run_job, (job,))


def _require_one_process() -> None:
    """Find out whether several processes were started to run one model: each of them would run the whole sweep."""
    if os.environ.get("RANK") is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise SteerkitError(f"A sweep isn't started with torchrun. {_ONE_AT_A_TIME}")


def _require_carried(planned: Planned, by: Chosen) -> None:
    """Find out, of each device and placement once, whether runs can be carried out by whom they are handed to."""
    kinds: dict[tuple[str, bool], PlannedLoading] = {}
    for one in planned.members:
        placement = one.loading.placement
        if placement.tensor_parallel is not None:
            raise ParallelError(
                f"A sweep has no run over {placement.tensor_parallel} processes (model.tensor_parallel). "
                f"{_ONE_AT_A_TIME}"
            )
        kinds.setdefault((one.loading.device, placement.device_map is None), one.loading)
    devices = sorted({device.partition(":")[0] for device, _ in kinds})
    if not by.is_local and len(devices) > 1:
        raise SteerkitError(
            f"Workers have one kind of device each, and the sweep's runs name {' and '.join(devices)} (model.device). "
            "Sweep over one of them at a time, or leave out --executor."
        )
    for loading in kinds.values():
        by.require(loading)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a sweep's directory: two processes would run the same members twice and write over each other's list."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise SteerkitError(
            f"Another process runs the sweep in {folder}. Wait for it, or choose another directory with --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _merged(planned: Planned, folder: Path, store: Path | None) -> Sweep:
    """What ``sweep.json`` says now: members that are finished stay so, all others are to be run.

    Raises:
        SteerkitError: where the directory holds the sweep of another recipe.
    """
    before = load_sweep(folder) if is_sweep(folder) else None
    if before is not None and before.recipe != planned.recipe:
        raise SteerkitError(
            f"{folder} holds a sweep of another recipe ({before.recipe}). Choose another directory with --out."
        )
    known = {} if before is None else {_told(one.settings): one for one in (*before.members, *before.others)}
    members = []
    for one in planned.members:
        new = SweepMember(settings=one.point.settings, model=one.loading.source, recipe_hash=one.hash)
        old = known.pop(_told(one.point.settings), None)
        members.append(old if old is not None and _is_finished(old, new, folder) else new)
    others = tuple(one for one in known.values() if one.state == "finished")
    first = planned.members[0]
    return Sweep(
        recipe=planned.recipe,
        name=first.name,
        title=first.title,
        over={axis.key: axis.values for axis in planned.axes},
        overrides=planned.overrides,
        profile=planned.profile,
        store=None if store is None else str(store.resolve()),
        members=tuple(members),
        others=others,
    )


def _is_finished(old: SweepMember, new: SweepMember, folder: Path) -> bool:
    """Whether a member is there as it would be run now."""
    if old.state != "finished" or old.run is None or old.recipe_hash != new.recipe_hash:
        return False
    return (folder / old.run / RESULTS).is_file()


def _told(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
