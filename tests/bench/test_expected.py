"""How long a study takes, as it is told beforehand: every call that it makes is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steerkit.bench.expected import ATTACH_SECONDS, LITERALLY, PROCESS_SECONDS, PlainCall, expected_seconds, plain_call
from steerkit.bench.study import Settings
from steerkit.bench.workloads import Phase, Workload

SETTINGS = Settings(
    "tiny", cases=("idle", "add_all"), modes=("fold", "hook"), repeats=9, sample_seconds=1.0, memory=False
)


def test_checks_and_pairs_of_every_part() -> None:
    # A sample is 4 calls of a quarter of a second; 2 cases in 2 modes and the reference, 10 rounds, both sides.
    pairs = 10 * 5 * 2 * (0.5 + 1.0)
    checks = 2 * (LITERALLY + 1 + 2 * 2)
    decode: dict[tuple[Phase, int], PlainCall] = {("decode", 1): PlainCall(ready=0.5, call=0.25)}
    prefill: dict[tuple[Phase, int], PlainCall] = {("prefill", 8): PlainCall(ready=0.0, call=2.0)}
    of_decode = expected_seconds(SETTINGS, decode, 3.0, processes=False)
    attached = 1 * 2 * 10 * 5 * ATTACH_SECONDS  # add_all in 2 modes, 10 samples of 5 times
    assert of_decode == pytest.approx(pairs + checks * (0.5 + 4 * 0.25) + attached)
    of_prefill = 10 * 5 * 2 * 2.0 + checks * 2.0
    whole = expected_seconds(SETTINGS, {**decode, **prefill}, 3.0, processes=False)
    assert whole == pytest.approx(of_decode + of_prefill)
    apart = expected_seconds(SETTINGS, {**decode, **prefill}, 3.0, processes=True)
    assert apart == pytest.approx(whole + 5 * (PROCESS_SECONDS + 3.0 + 3 * 2.0))
    cold = replace(SETTINGS, cold_start=True)
    assert expected_seconds(cold, decode, 3.0, processes=False) == pytest.approx(
        of_decode + 12 * (PROCESS_SECONDS + 3.0)
    )


def test_a_call_is_timed_behind_one_that_warms_up() -> None:
    class Slow:
        """Takes 2 s to get ready and 3 s for a call; the first one of each takes a hundred more."""

        now, calls = 0.0, 0

        def ready(self) -> Any:
            from contextlib import contextmanager

            @contextmanager
            def there() -> Any:
                self.now += 2 if self.calls else 102
                yield self.call

            return there()

        def call(self) -> None:
            self.now += 3 if self.calls else 103
            self.calls += 1

    slow: Any = Slow()
    work: Workload = slow
    assert plain_call(work, lambda: float(slow.now)) == PlainCall(ready=2.0, call=3.0)
