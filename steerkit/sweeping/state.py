"""How far a sweep is, as ``sweep.json`` says it: written whenever it changes, so that whoever looks in sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.artifacts.sweeps import Sweep, write_sweep
from steerkit.errors import counted
from steerkit.progress import Observer, Stage
from steerkit.sweeping.jobs import Ended


@dataclass
class State:
    """A sweep on its way.

    Args:
        folder: its directory.
        sweep: what ``sweep.json`` says.
        observer: told what begins and what failed.
    """

    folder: Path
    sweep: Sweep
    observer: Observer

    def waiting(self) -> list[int]:
        """Places of the members that are to be run."""
        return [place for place, one in enumerate(self.sweep.members) if one.state == "waiting"]

    def write(self) -> None:
        """Write it."""
        write_sweep(self.folder, self.sweep)

    def begin(self, place: int) -> None:
        """A member is handed out."""
        self._change(place, state="running")
        one = self.sweep.members[place]
        self.observer.step(Stage("run", f"run {place + 1} of {len(self.sweep.members)}: {one.label}"))

    def end(self, ended: Ended) -> None:
        """A member is there, or failed."""
        state = "failed" if ended.run is None else "finished"
        self._change(ended.number, state=state, run=ended.run, error=ended.error, traceback=ended.traceback)
        label = self.sweep.members[ended.number].label
        if ended.error is not None:
            self.observer.step(Stage("run", f"failed: {label}: {ended.error}"))
        done = len(self.sweep.members) - len(self.waiting()) - self.sweep.counted_by("running")
        self.observer.step(f"{counted(self.sweep.counted_by('running'), 'run')} under way")
        self.observer.progress(done, len(self.sweep.members))

    def _change(self, place: int, **what: Any) -> None:
        members = list(self.sweep.members)
        members[place] = members[place].model_copy(update=what)
        self.sweep = self.sweep.model_copy(update={"members": tuple(members)})
        self.write()
