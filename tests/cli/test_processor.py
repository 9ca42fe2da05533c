"""What MKL is told of the processor, and that what is kept depends on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steerkit import processor
from steerkit.processor import VARIABLE, instructions, tell_of_wide_registers
from steerkit.run import run_recipe
from tests.small_run import RECIPE, carried

ENTRY = "processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 25\nflags\t\t: fpu avx avx2 {flags} bmi1\n"


@pytest.fixture(autouse=True)
def told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(
    ("maker", "flags", "told"),
    [
        ("AuthenticAMD", "avx512f avx512dq", ["AVX512"]),
        ("AuthenticAMD", "f16c", []),
        ("AuthenticAMD", "avx512fancy", []),
        ("GenuineIntel", "avx512f avx512dq", []),
    ],
)
def test_amd_processors_with_wide_registers_are_told_of(
    tmp_path: Path, maker: str, flags: str, told: list[str]
) -> None:
    (tmp_path / "cpuinfo").write_text(ENTRY.format(maker=maker, flags=flags))
    tell_of_wide_registers(tmp_path / "cpuinfo")
    assert instructions() == told


def test_a_setting_of_the_users_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(ENTRY.format(maker="AuthenticAMD", flags="avx512f avx512dq"))
    monkeypatch.setenv(VARIABLE, "AVX2")
    tell_of_wide_registers(tmp_path / "cpuinfo")
    assert instructions() == ["AVX2"]


def test_nothing_is_told_where_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_of_wide_registers(tmp_path / "nowhere")
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "cpuinfo").write_text(ENTRY.format(maker="AuthenticAMD", flags="avx512f avx512dq"))
    tell_of_wide_registers(tmp_path / "cpuinfo")
    assert instructions() == []


def test_what_was_computed_with_other_instructions_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs")
    done = carried(monkeypatch)
    run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs")
    assert not done
    monkeypatch.setenv(processor.VARIABLE, "AVX512")
    run = run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs")
    assert done
    assert '"instructions": "AVX512"' in (run / "provenance.json").read_text("utf-8")
