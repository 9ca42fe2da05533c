"""One model's study, from the checks to the last sample. Knows the order; everything else knows one thing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.bench.attaching import Attaching, attaching
from steerkit.bench.checks import Checked, ask, check
from steerkit.bench.coldstart import ColdStart, cold_start
from steerkit.bench.compiled import Compiled, static_cache
from steerkit.bench.conditions import ATTACHED_CASES, CASES, MODES, Case, build, measured, observe, steered
from steerkit.bench.expected import cold_starts, expected_seconds, plain_call
from steerkit.bench.machine import machine, pinned
from steerkit.bench.measure import (
    REAL,
    SAME,
    Clock,
    Clocks,
    MeasurementError,
    Pairs,
    Subject,
    measure_pairs,
    ratio_of,
    time_once,
)
from steerkit.bench.memory import PLAIN, MemoryQuestion, can_measure, peak, peak_in_process_of_its_own
from steerkit.bench.models import load_subject
from steerkit.bench.workloads import PHASES, PROMPT, Phase, Workload, calls_for, prompts

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

Key = tuple[str, str]
"""Case and mode."""

Progress = Callable[[str, int, int], object]
"""Told what is being done, how much of it is, and of how much."""

Expect = Callable[[float], object]
"""Told about how many seconds all of it takes from now on."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        model: ``tiny``, or any source that ``load_model`` takes.
        device: auto, cpu, cuda or cuda:1.
        dtype: of the weights.
        cases: names of ``CASES``.
        modes: of ``ALL_MODES``.
        phases: ``decode`` and ``prefill``, or one of them.
        batches: rows when decoding.
        prefill: rows and tokens of a prefill.
        repeats: pairs of each case.
        sample_seconds: how long a sample lasts, at least.
        compiled: with ``torch.compile`` and a static cache, in place of eager calls.
        memory: measure peak memory too, a process for each case.
        cold_start: measure the time to the first steered token too.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    cases: tuple[str, ...] = tuple(CASES)
    modes: tuple[str, ...] = MODES
    phases: tuple[Phase, ...] = PHASES
    batches: tuple[int, ...] = (1, 8)
    prefill: tuple[int, int] = (8, 256)
    repeats: int = 25
    sample_seconds: float = 0.06
    compiled: bool = False
    memory: bool = True
    cold_start: bool = False


@dataclass(frozen=True)
class Part:
    """One phase at one batch size.

    Args:
        phase: ``decode`` or ``prefill``.
        batch: rows.
        calls: how many calls a sample holds.
        pairs: the samples of every case and mode.
        same: those of the reference against itself.
        checked: what the correctness checks found.
    """

    phase: Phase
    batch: int
    calls: int
    pairs: Mapping[Key, Pairs]
    same: Pairs
    checked: tuple[Checked, ...]


@dataclass(frozen=True)
class Study:
    """Everything that was measured of a model; None for what was not.

    Args:
        settings: what was asked.
        device: where it ran, resolved.
        dtype: of the weights, resolved.
        machine: what it ran on.
        parts: the comparisons.
        attached: times to attach and detach.
        memory: peak memory in MB by case and mode; ``("none", "")`` is the plain model.
        cold_start: time to the first token.
    """

    settings: Settings
    device: str
    dtype: str
    machine: Mapping[str, Any]
    parts: tuple[Part, ...]
    attached: tuple[Attaching, ...]
    memory: Mapping[Key, float] | None
    cold_start: ColdStart | None

    @property
    def clock(self) -> Clock:
        """What ratios are taken by: CPU time, or wall time where the work is a GPU's."""
        return "wall" if self.device.startswith("cuda") else "cpu"


def run_study(
    settings: Settings,
    progress: Progress = lambda what, done, of: None,
    expect: Expect = lambda seconds: None,
) -> Study:
    """Load, check, time. One pinned thread; the process's own settings are put back after.

    Args:
        settings: what is measured.
        progress: told what is being done.
        expect: told, once the model is loaded, about how long all takes; what is compiled takes longer.

    Raises:
        SteerkitError: where the model can't be loaded, a case is wrong, or a measurement fails.
    """
    if settings.repeats < 1:
        raise MeasurementError(f"At least one repeat is needed, not {settings.repeats}.")
    with pinned():
        progress("loading the model", 0, 0)
        began = time.perf_counter()
        live = load_subject(settings.model, device=settings.device, dtype=settings.dtype)
        runner = _Runner(live, settings, progress)
        expect(runner.expected(time.perf_counter() - began))
        return runner.run()


class _Runner:
    def __init__(self, live: LiveModel, settings: Settings, progress: Progress) -> None:
        self.live, self.settings, self.progress = live, settings, progress
        self.device = str(live.device)
        self.clocks = _clocks(live)
        self.clock: Clock = "wall" if live.device.type == "cuda" else "cpu"
        self.step_seconds: float | None = None

    def places(self) -> list[tuple[Phase, int]]:
        """Each phase at each of its batch sizes."""
        batches = {"decode": self.settings.batches, "prefill": (self.settings.prefill[0],)}
        return [(phase, batch) for phase in self.settings.phases for batch in batches[phase]]

    def expected(self, loading: float) -> float:
        """Seconds of all that follows."""
        plain = {place: plain_call(self.workload(*place)) for place in self.places()}
        apart = self.settings.memory and not self.device.startswith("cuda") and can_measure(self.device)
        return expected_seconds(self.settings, plain, loading, processes=apart)

    def run(self) -> Study:
        settings = self.settings
        described = machine(self.device)
        parts = [self.part(*place) for place in self.places()]
        attached = self.attach_times()
        memory = self.memory() if settings.memory and can_measure(self.device) else None
        start = None
        if settings.cold_start:
            start = cold_start(self.live, cold_starts(settings), self._said("cold start"))
        dtype = str(self.live.hf_model.dtype).removeprefix("torch.")
        return Study(settings, self.device, dtype, described, tuple(parts), attached, memory, start)

    def workload(self, phase: Phase, batch: int, compiled: Compiled | None = None) -> Workload:
        live, length = self.live, PROMPT if phase == "decode" else self.settings.prefill[1]
        vocabulary = int(live.hf_model.get_output_embeddings().weight.shape[0])
        ids = prompts(batch, length, vocabulary, live.device)
        if compiled is None:
            return Workload(phase, live.hf_model, ids)
        return Workload(phase, compiled.call(PLAIN), ids, cache=static_cache(live, length), first=live.hf_model)

    def part(self, phase: Phase, batch: int) -> Part:
        what = f"{phase}, batch {batch}"
        compiled = Compiled(self.live) if self.settings.compiled else None
        plain = self.workload(phase, batch, compiled)
        stream = observe(self.live, plain)
        conditions = {case: build(case, self.live, stream, batch) for case in self.settings.cases}
        works = {
            (case, mode): plain if compiled is None else plain.with_call(compiled.call(f"{case}, {mode}"))
            for case, mode in measured(self.settings.cases, self.settings.modes)
        }
        checked = self.check(conditions, works, plain, what, compiled)
        one = time_once(plain.ready, f"reference, {what}", self.clocks)
        calls = calls_for(one.of(self.clock), self.settings.sample_seconds)
        keys = {f"{case}, {mode}": (case, mode) for case, mode in works}
        subjects = {
            name: _subject(works[key].with_calls(calls), self.live, conditions[key[0]], key[1], compiled)
            for name, key in keys.items()
        }
        said = self._said(what)
        reference = plain.with_calls(calls).ready
        found = measure_pairs(reference, subjects, self.settings.repeats, clocks=self.clocks, progress=said)
        same = found.pop(SAME)
        if phase == "decode" and batch == 1:
            self.step_seconds = ratio_of(same, self.clock, calls).reference_seconds
        return Part(phase, batch, calls, {keys[name]: found[name] for name in found}, same, checked)

    def check(
        self,
        conditions: Mapping[str, Case],
        works: Mapping[Key, Workload],
        plain: Workload,
        what: str,
        compiled: Compiled | None,
    ) -> tuple[Checked, ...]:
        found = []
        for number, (case, condition) in enumerate(conditions.items()):
            self.progress(f"checking {what}", number, len(conditions))
            oracle = ask(self.live, condition, plain)
            for mode in (mode for one, mode in works if one == case):
                found.append(check(self.live, condition, mode, works[case, mode], plain, oracle, compiled))
        return tuple(found)

    def attach_times(self) -> tuple[Attaching, ...]:
        stream = observe(self.live, self.workload("decode", 1))
        cases = [case for case in ATTACHED_CASES if case in self.settings.cases]
        keys = [(build(case, self.live, stream, 1), mode) for case, mode in measured(cases, self.settings.modes)]
        found = []
        for number, (condition, mode) in enumerate(keys):
            self.progress("attaching and detaching", number, len(keys))
            repeats, step = max(3, self.settings.repeats), self.step_seconds
            taken = attaching(
                self.live, condition, mode, repeats, clock=self.clock, step_seconds=step, clocks=self.clocks
            )
            found.append(taken)
        return tuple(found)

    def memory(self) -> dict[Key, float]:
        keys = [(PLAIN, ""), *measured(self.settings.cases, self.settings.modes)]
        batch, length = self.settings.prefill
        found = {}
        for number, (case, mode) in enumerate(keys):
            self.progress("peak memory", number, len(keys))
            question = MemoryQuestion(
                self.settings.model, self.settings.device, self.settings.dtype, case, mode, batch, length
            )
            on_gpu = self.live.device.type == "cuda"
            found[case, mode] = peak(self.live, question) if on_gpu else peak_in_process_of_its_own(question)
        return found

    def _said(self, what: str) -> Callable[[int, int], object]:
        return lambda done, of: self.progress(what, done, of)


def _clocks(live: LiveModel) -> Clocks:
    if live.device.type != "cuda":
        return REAL
    import torch

    return Clocks(synchronise=lambda: torch.cuda.synchronize(live.device))


def _subject(workload: Workload, live: LiveModel, condition: Case, mode: str, compiled: Compiled | None) -> Subject:
    """The workload's calls with a condition on the model while they are made ready and run."""

    @contextmanager
    def ready() -> Iterator[Callable[[], object]]:
        on = steered(live, condition, mode) if compiled is None else compiled.steered(condition, mode)
        with on, workload.ready() as call:
            yield call

    return ready
