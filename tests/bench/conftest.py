"""A study with made-up times, for everything that only reads one."""

from __future__ import annotations

import pytest

from steerkit.bench.attaching import Attaching
from steerkit.bench.checks import Checked
from steerkit.bench.coldstart import summarise
from steerkit.bench.conditions import CASES
from steerkit.bench.machine import machine
from steerkit.bench.measure import SAME, Pairs, Sample
from steerkit.bench.study import Key, Part, Settings, Study

ONE = tuple(Sample(0.1, 0.1) for _ in range(9))


def made_pairs(name: str, ratio: float) -> Pairs:
    return Pairs(name, ONE, tuple(Sample(0.1 * ratio, 0.1 * ratio) for _ in range(9)))


def made_study(
    ratios: dict[Key, float], *, same: float = 1.0, model: str = "tiny", device: str = "cpu", batch: int = 1
) -> Study:
    pairs = {key: made_pairs(f"{key[0]}, {key[1]}", ratio) for key, ratio in ratios.items()}
    checked = tuple(
        Checked(case, mode, 1e-7, 1e-5, 0.5, 0 if case == "idle" else 30, case == "idle") for case, mode in ratios
    )
    part = Part("decode", batch, 20, pairs, made_pairs(SAME, same), checked)
    attached = (
        Attaching("add_all", "hook", 0.0015, 0.3, ONE),
        Attaching("add_all", "fold", 0.0300, 6.0, ONE),
    )
    start = summarise([(Sample(3.0, 4.0), Sample(3.1, 4.3))] * 5)
    memory = {("none", ""): 30.0, **dict.fromkeys(ratios, 30.5)}
    cases = tuple(dict.fromkeys(case for case, _ in ratios))
    return Study(Settings(model, device, cases=cases), device, "float32", machine(), (part,), attached, memory, start)


@pytest.fixture
def study() -> Study:
    """Every case in both modes, 5 % on top."""
    return made_study({(case, mode): 1.05 for case in CASES for mode in ("fold", "hook")})
