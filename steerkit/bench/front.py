"""From what was asked on a command line to a table and files. The command and ``benchmarks.overhead`` share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.bench.measure import MeasurementError
from steerkit.columns import console
from steerkit.speed import in_words, left_in_words

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from steerkit.bench.study import Settings, Study

REPEATS = 25


@dataclass(frozen=True)
class Asked:
    """The options, as they were typed. Lists are separated by commas; None stands for all.

    Args:
        device: auto, cpu, cuda or cuda:1.
        dtype: of the weights.
        cases: names of cases.
        modes: ``fold,hook,by_hand``; the first two for None.
        phases: ``decode,prefill``.
        batches: rows when decoding.
        repeats: pairs of each case; None for ``REPEATS``.
        quick: a look, not a measurement: small batches, short samples, no memory.
        compiled: compiled calls in place of eager ones.
        memory: measure peak memory too.
        cold_start: measure the time to the first steered token too.
    """

    device: str = "auto"
    dtype: str = "auto"
    cases: str | None = None
    modes: str | None = None
    phases: str | None = None
    batches: str | None = None
    repeats: int | None = None
    quick: bool = False
    compiled: bool = False
    memory: bool = True
    cold_start: bool = False

    def settings(self, model: str) -> Settings:
        """Validated, for one model.

        Raises:
            MeasurementError: for a name or a number that can't be; says what can.
        """
        from steerkit.bench.by_hand import BY_HAND
        from steerkit.bench.conditions import COMPILED_CASES, known_cases, known_modes, known_names
        from steerkit.bench.study import Settings
        from steerkit.bench.workloads import PHASES

        asked = known_names(_words(self.phases), PHASES, "phase")
        modes = known_modes(_words(self.modes))
        if self.compiled and BY_HAND in modes:
            raise MeasurementError(
                f"--modes {BY_HAND} is measured in eager calls. Leave it out, or leave out --compiled."
            )
        repeats = (3 if self.quick else REPEATS) if self.repeats is None else self.repeats
        if repeats < 1:
            raise MeasurementError(f"--repeats {repeats}: at least one pair is needed, and 9 or more mean something.")
        return Settings(
            model,
            self.device,
            self.dtype,
            known_cases(_words(self.cases) or (COMPILED_CASES if self.compiled else None)),
            modes,
            tuple(phase for phase in PHASES if phase in asked),
            _sizes(self.batches) or ((1,) if self.quick else (1, 8)),
            (2, 32) if self.quick else (8, 256),
            repeats,
            0.02 if self.quick else 0.06,
            self.compiled,
            self.memory and not self.quick,
            self.cold_start,
        )


def measure(models: Sequence[str], asked: Asked, keep: Callable[[Study], Path | None]) -> list[Study]:
    """Measure models one after the other, show each, and keep it.

    Args:
        models: sources.
        asked: the options.
        keep: where a study goes; None for nowhere. Called before a study is shown, so that nothing is lost.

    Raises:
        SteerkitError: as ``run_study``. Studies that were finished before are kept.
    """
    from steerkit.bench.records import write
    from steerkit.bench.study import run_study
    from steerkit.bench.table import print_study

    out = console()
    settings = [asked.settings(model) for model in models]
    found: list[Study] = []
    for one in settings:
        with _Shown(one) as shown:
            study = run_study(one, shown.say, shown.expect)
        found.append(study)
        path = keep(study)
        together = [earlier for earlier in found if path is not None and keep(earlier) == path]
        files = write(together, path) if path is not None else ()
        print_study(study, out)
        for file in files[:2]:
            out.print(str(file), soft_wrap=True)
    return found


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else ()


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        sizes = tuple(int(word) for word in _words(text))
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise MeasurementError(f"--batches {text!r}: write numbers of rows, as in 1,8.")
    return sizes


class _Shown:
    """A bar on standard error, for the person at the terminal, with how much of the whole study is left."""

    def __init__(self, settings: Settings) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._settings, self._last = settings, ""
        self._ends: float | None = None
        self._bar: Progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=20),
            # Redrawn when something is said, never by a thread of its own, whose CPU time would count.
            MofNCompleteColumn(), TextColumn("{task.fields[left]}", markup=False),
            console=console(aside=True), transient=True, auto_refresh=False,
        )  # fmt: skip
        self._task: TaskID = self._bar.add_task("beginning", total=None, left="")

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def expect(self, seconds: float) -> None:
        """Say how long all will take."""
        self._ends = time.monotonic() + seconds
        more = ", and what compiling takes" if self._settings.compiled else ""
        told = f"{self._settings.model}: {in_words(seconds)} in all{more}"
        self._bar.console.print(told)

    def say(self, what: str, done: int, of: int) -> None:
        """Show what is done. Away from a terminal, a line when something else begins."""
        left = "" if self._ends is None else left_in_words(self._ends - time.monotonic())
        self._bar.update(self._task, description=what, completed=done, total=of or None, left=left)
        self._bar.refresh()
        if what != self._last and not self._bar.console.is_terminal:
            told = f"{what} ({left})" if left else what
            self._bar.console.print(told)
        self._last = what
