"""The comparison, with clocks that the tests move: no second of this machine counts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from steerkit.bench.measure import (
    SAME,
    Clocks,
    MeasurementError,
    Pairs,
    Sample,
    Subject,
    bootstrap_median,
    compare,
    frozen,
    measure_pairs,
    ratio_of,
    time_once,
)


class Time:
    """A clock that stands still until a case says how long it takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.clocks = Clocks(cpu=lambda: self.now, wall=lambda: 2 * self.now)

    def takes(self, name: str, *seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def call() -> None:
            self.ran.append(name)
            self.now += next(left) if len(seconds) > 1 else seconds[0]

        return call

    def subject(self, name: str, *seconds: float) -> Subject:
        call = self.takes(name, *seconds)
        return lambda: nullcontext(call)


def samples(*seconds: float) -> tuple[Sample, ...]:
    return tuple(Sample(value, 2 * value) for value in seconds)


def test_ratios_and_differences_are_taken_pair_by_pair_and_per_call() -> None:
    # The medians of both columns are 2 and 4, but no pair has the ratio 2.
    pairs = Pairs("case", samples(1, 2, 4), samples(4, 3, 5))
    found = ratio_of(pairs, "cpu", calls=10)
    assert (found.ratio, found.least, found.most, found.n) == (pytest.approx(1.5), 1.25, 4.0, 3)
    assert found.extra_seconds == pytest.approx(0.1) and found.seconds == pytest.approx(0.4)
    assert found.reference_seconds == pytest.approx(0.2)
    assert ratio_of(pairs, "wall", calls=10).extra_seconds == pytest.approx(0.2)


def test_the_interval_of_a_median_is_the_same_each_time_and_holds_it() -> None:
    values = [1.0, 1.01, 0.99, 1.02, 1.03, 0.98, 1.0, 1.01, 1.5]
    low, high = bootstrap_median(values)
    assert 0.98 <= low <= 1.01 <= high < 1.5, "one outlier of nine doesn't move a median"
    assert bootstrap_median(values) == (low, high)
    assert bootstrap_median([1.25] * 9) == (1.25, 1.25)


def test_who_goes_first_alternates_for_each_case_and_every_case_is_beside_the_reference() -> None:
    time = Time()
    found = measure_pairs(
        time.subject("reference", 1.0),
        {"a": time.subject("a", 1.5), "b": time.subject("b", 2.0)},
        repeats=4,
        warm_up=0,
        clocks=time.clocks,
    )
    assert [ratio_of(found[name], "cpu").ratio for name in ("a", "b", SAME)] == pytest.approx([1.5, 2.0, 1.0])
    assert all(len(pairs.own) == len(pairs.reference) == 4 for pairs in found.values())
    beside = list(zip(time.ran[::2], time.ran[1::2], strict=True))
    assert all("reference" in pair for pair in beside)
    for name in ("a", "b"):
        assert [pair[0] == name for pair in beside if name in pair].count(True) == 2, name


def test_rounds_that_warm_up_are_thrown_away() -> None:
    time = Time()
    found = measure_pairs(
        time.subject("reference", 1.0), {"a": time.subject("a", 100.0, 3.0, 3.0)}, repeats=2, clocks=time.clocks
    )
    assert ratio_of(found["a"], "cpu").most == 3.0


def test_a_case_is_made_ready_and_taken_off_outside_the_timed_part() -> None:
    time = Time()

    @contextmanager
    def subject() -> Iterator[Callable[[], None]]:
        time.now += 50
        yield time.takes("run", 1.0)
        time.now += 50

    assert time_once(subject, "case", time.clocks) == Sample(1.0, 2.0)


def test_the_device_is_waited_for_before_and_after() -> None:
    time = Time()
    clocks = Clocks(time.clocks.cpu, time.clocks.wall, synchronise=time.takes("wait", 0.25))
    assert time_once(time.subject("run", 1.0), "case", clocks).cpu == 1.25
    assert time.ran == ["wait", "run", "wait"]


def test_a_failure_names_its_case_and_nothing_is_recorded() -> None:
    def fails() -> None:
        raise ValueError("no such thing")

    time = Time()
    subject: Subject = lambda: nullcontext(fails)  # noqa: E731
    with pytest.raises(MeasurementError, match=r"'ablate_all, fold' failed: ValueError: no such thing"):
        measure_pairs(time.subject("reference", 1.0), {"ablate_all, fold": subject}, 3, clocks=time.clocks)
    with pytest.raises(MeasurementError, match="'slow' failed: ValueError"):
        compare({"plain": time.takes("plain", 1.0), "slow": fails}, 1, clocks=time.clocks)


@pytest.mark.parametrize("seconds", [0.0, float("nan"), float("inf"), -1.0])
def test_a_clock_that_stood_still_is_no_measurement(seconds: float) -> None:
    time = Time()
    with pytest.raises(MeasurementError, match="'case' took"):
        time_once(time.subject("case", seconds), "case", time.clocks)


def test_the_collector_is_off_while_a_case_runs_and_as_before_afterwards() -> None:
    seen: list[bool] = []
    time = Time()
    with frozen():
        time_once(lambda: nullcontext(lambda: (seen.append(gc.isenabled()), time.takes("", 1.0)())), "x", time.clocks)
    assert seen == [False] and gc.isenabled() and gc.get_freeze_count() == 0


def test_plain_calls_share_the_reference_of_their_round() -> None:
    time = Time()
    found, raw = compare(
        {"plain": time.takes("plain", 2.0), "slow": time.takes("slow", 3.0)}, rounds=5, clocks=time.clocks
    )
    assert {(one.case, one.clock): one.ratio for one in found} == {
        ("slow", "cpu"): 1.5, ("slow", "wall"): 1.5, (SAME, "cpu"): 1.0, (SAME, "wall"): 1.0,
    }  # fmt: skip
    assert raw["slow"]["wall"] == [6.0] * 5
