"""How numbers and texts are written: as many digits as the intervals carry, and nothing made up."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from steerkit.errors import counted

NOT_MEASURED: Final = "not measured"
NOT_JUDGED: Final = "not judged"
NOT_ALL_JUDGED: Final = "not all judged"
MINUS: Final = "\u2212"
NO_BREAK: Final = "\u00a0"

_WORDS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of one table are written.

    Args:
        decimals: digits after the point.
        percent: written as percentages, for proportions.
        ascii: plain minus and ``1.2e+09``, for terminals.
    """

    decimals: int = 2
    percent: bool = False
    ascii: bool = False

    def plain(self) -> NumberFormat:
        """The same in ASCII."""
        return replace(self, ascii=True)

    def number(self, value: float | None, absent: str = NOT_MEASURED) -> str:
        """``value`` with a percent sign where it is a proportion; ``absent`` for None."""
        if value is None:
            return absent
        return self._digits(value) + self._sign

    @property
    def _sign(self) -> str:
        if not self.percent:
            return ""
        return " %" if self.ascii else f"{NO_BREAK}%"

    def interval(self, low: float | None, high: float | None) -> str | None:
        """``low to high``, or None where there is no interval."""
        if low is None or high is None:
            return None
        first, last = self.alike(low, high)
        return f"{first} to {last}{self._sign}"

    def change(self, value: float, low: float, high: float) -> str:
        """A difference with its interval: ``+1.2 (95 % interval 0.9 to 1.5)``; proportions in percentage points."""
        sign = "+" if value > 0 else ""
        unit = " percentage points" if self.percent else ""
        space = " " if self.ascii else NO_BREAK
        first, last = self.alike(low, high)
        return f"{sign}{self._digits(value)}{unit} (95{space}% interval {first} to {last})"

    def alike(self, *values: float) -> tuple[str, ...]:
        """The digits of numbers that are read together, all in one notation and without a percent sign.

        One that would vanish beside plain ones has as many decimals as show it: ``0.0001 to 0.10``. Where that is many,
        or a number is large, all of them are written with a power of ten.
        """
        shown = [value * 100 if self.percent else value for value in values]
        kinds = {self._is_scientific(one) for one in shown if one}
        if len(kinds) < 2:
            return tuple(map(self._digits, values))
        odd = [abs(one) for one in shown if one and self._is_scientific(one)]
        if min(odd) < 1e-6 or max(odd) >= 1e6:
            return tuple(self._scientific(one) if one else self._digits(0.0) for one in shown)
        return tuple(
            replace(self, decimals=-math.floor(math.log10(abs(one))), percent=False)._digits(one)
            if one and self._is_scientific(one)
            else self._digits(value)
            for one, value in zip(shown, values, strict=True)
        )

    def _digits(self, value: float) -> str:
        shown = value * 100 if self.percent else value
        text = f"{shown:.{self.decimals}f}"
        if self._is_scientific(shown):
            return self._scientific(shown)
        if float(text) == 0:
            text = text.removeprefix("-")
        return text if self.ascii else text.replace("-", MINUS)

    def _is_scientific(self, shown: float) -> bool:
        """Whether a number is too large for plain digits, or would vanish in them."""
        vanishes = shown != 0 and float(f"{shown:.{self.decimals}f}") == 0 and abs(shown) < 1e-3
        return abs(shown) >= 1e6 or vanishes

    def _scientific(self, value: float) -> str:
        mantissa, exponent = f"{value:.2e}".split("e")
        if self.ascii:
            return f"{mantissa}e{int(exponent)}"
        return f"{mantissa.replace('-', MINUS)}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def choose_format(
    values: Iterable[float | None], half_widths: Iterable[float | None], *, percent: bool
) -> NumberFormat:
    """The format of a table: two digits of the typical interval's half width, or three of the values.

    Args:
        values: the numbers to be written; None where not measured.
        half_widths: of their intervals, in the same unit; None where there is none.
        percent: whether they are proportions.
    """
    factor = 100.0 if percent else 1.0
    widths = [width * factor for width in half_widths if width]
    sizes = [abs(value) * factor for value in values if value]
    reference = median(widths) if widths else median(sizes) / 10 if sizes else 1.0
    if not 0 < reference < math.inf:
        reference = 1.0
    decimals = 1 - math.floor(math.log10(reference))
    return NumberFormat(decimals=min(max(decimals, 0), 1 if percent else 6), percent=percent)


def significant(value: float | None, digits: int = 3) -> str:
    """A lone number with that many significant digits: ``12.3``, ``0.0042``, ``1.20×10⁹``."""
    if value is None:
        return NOT_MEASURED
    if value == 0 or not math.isfinite(value):
        return "0"
    return NumberFormat(decimals=min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 12)).number(value)


def setting(value: float) -> str:
    """A number that somebody chose, such as a coefficient: all of its digits, no trailing zeros."""
    return f"{value:.12g}".replace("-", MINUS)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``five prompts``, ``one prompt``, ``32 prompts``: as ``errors.counted``, with small numbers as a sentence of the
    report's prose writes them. Messages keep the digits, which are found at a glance and searched for."""
    told = counted(number, noun, plural)
    return f"{_WORDS[number]} {told.partition(' ')[2]}" if 0 <= number < len(_WORDS) else told


def sentence_case(text: str) -> str:
    """The first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def seconds(value: float) -> str:
    """A duration that was measured: ``3.2 s``, ``2 min 5 s``, ``1 h 4 min``.

    One that is estimated is ``speed.in_words``, which says so and has no digits that nobody knows.
    """
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def joined(names: Iterable[str]) -> str:
    """``a, b and c``."""
    listed = list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)


def breakable_parts(name: str) -> list[str]:
    """A name cut where its parts meet: before ``[`` and ``/``, behind a dot between words. Never in a word."""
    return re.split(r"(?=[\[/])|(?<=[^\W\d]\.)(?=[^\W\d])", clean(name))


def clean(text: str) -> str:
    """Text that every file can hold: control characters and lone surrogates become U+FFFD; line ends ``\\n``."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def shorten(text: str, length: int) -> str:
    """One line of at most ``length`` characters, cut in the middle, where names differ least."""
    line = " ".join(clean(text).split())
    if len(line) <= length:
        return line
    tail = (length - 1) // 2
    return f"{line[: length - 1 - tail]}…{line[-tail:]}"
