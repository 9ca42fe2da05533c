"""How numbers are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.report.numbers import (
    NOT_MEASURED,
    NumberFormat,
    choose_format,
    clean,
    count,
    seconds,
    setting,
    shorten,
    significant,
)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1.236, 2, "1.24"),
        (-1.2, 1, "−1.2"),
        (-0.004, 1, "0.0"),
        (0.0, 2, "0.00"),
        (0.00001, 2, "1.00×10⁻⁵"),
        (4.2e11, 0, "4.20×10¹¹"),
        (-4.2e11, 0, "−4.20×10¹¹"),
        (None, 2, NOT_MEASURED),
    ],
)
def test_numbers(value: float | None, decimals: int, text: str) -> None:
    assert NumberFormat(decimals).number(value) == text


def test_percent_and_ascii() -> None:
    assert NumberFormat(0, percent=True).number(0.4375) == "44\u00a0%"
    assert NumberFormat(1, percent=True).plain().interval(-0.05, 0.4375) == "-5.0 to 43.8 %"
    assert NumberFormat(1).plain().number(-2e9) == "-2.00e9"


@pytest.mark.parametrize(
    ("widths", "decimals"), [([0.34], 2), ([3.4], 1), ([0.012], 3), ([120.0], 0), ([1e-9], 6), ([0.1, 0.2, 500], 2)]
)
def test_decimals_follow_the_typical_interval(widths: list[float], decimals: int) -> None:
    assert choose_format([1.0], widths, percent=False).decimals == decimals


def test_decimals_without_any_interval_follow_the_values() -> None:
    assert choose_format([12.0, 15.0], [None, None], percent=False).decimals == 1
    assert choose_format([None], [None], percent=False).decimals == 1
    assert choose_format([], [0.0], percent=True) == NumberFormat(1, percent=True)


@given(st.floats(-1e300, 1e300), st.integers(0, 6))
def test_a_written_number_is_the_number(value: float, decimals: int) -> None:
    text = NumberFormat(decimals).plain().number(value)
    assert float(text) == pytest.approx(value, rel=0.006, abs=0.5001 * 10**-decimals)
    if value and float(text) == 0:
        assert abs(value) >= 1e-3


@given(st.text())
def test_clean_text_can_be_written_and_is_clean(text: str) -> None:
    once = clean(text)
    once.encode("utf-8")
    assert clean(once) == once
    assert "\x00" not in once and "\r" not in once


def test_clean_keeps_what_is_harmless() -> None:
    assert clean("a\tb\nc שלום 🙂") == "a\tb\nc שלום 🙂"
    assert clean("a\r\nb\x00\ud800\x1b[0m") == "a\nb��\ufffd[0m"


@given(st.text(), st.integers(3, 40))
def test_shortened_text_fits_on_one_line(text: str, length: int) -> None:
    short = shorten(text, length)
    assert len(short) <= length and "\n" not in short


def test_shorten_keeps_both_ends() -> None:
    assert shorten("dose[coefficient=-8] and then some", 15) == "dose[co…en some"
    assert shorten("two\n lines", 20) == "two lines"


def test_words() -> None:
    assert [count(n, "step") for n in (0, 1, 2, 11)] == ["no steps", "one step", "two steps", "11 steps"]
    assert [significant(v) for v in (12.3456, 0.0042, None, 0.0, 2e9)] == [
        "12.3", "0.00420", NOT_MEASURED, "0", "2.00×10⁹",
    ]  # fmt: skip
    assert [setting(v) for v in (-8.0, 0.25, 1e-5)] == ["−8", "0.25", "1e−05"]
    assert [seconds(v) for v in (3.21, 59.99, 83, 3840)] == ["3.2 s", "60.0 s", "1 min 23 s", "1 h 4 min"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.26e-4, 0.1, "0.0001 to 0.10"),
        (-3.4e-5, 0.1, "\u22120.00003 to 0.10"),
        (0.0, 0.1, "0.00 to 0.10"),
        (1e-4, 2e-4, "1.00×10⁻⁴ to 2.00×10⁻⁴"),
        (0.0, 2e-4, "0.00 to 2.00×10⁻⁴"),
        (3e-9, 0.1, "3.00×10⁻⁹ to 1.00×10⁻¹"),
        (12.0, 1.13e16, "1.20×10¹ to 1.13×10¹⁶"),
    ],
)
def test_an_interval_has_one_notation(low: float, high: float, expected: str) -> None:
    numbers = NumberFormat(decimals=2)
    assert numbers.interval(low, high) == expected
    assert numbers.change(0.05, low, high) == f"+0.05 (95\u00a0% interval {expected})"
    assert NumberFormat(decimals=0, percent=True).interval(1.26e-6, 0.1) == "0.0001 to 10\u00a0%"


def test_numbers_that_are_read_together_are_alike() -> None:
    assert NumberFormat(decimals=2).alike(-0.24, 2.48e-4) == ("\u22120.24", "0.0002")
    assert NumberFormat(decimals=2, ascii=True).alike(-0.24, 2.48e-4) == ("-0.24", "0.0002")
