"""One damaged input after the other through a door of steerkit's, and what became of it."""

from __future__ import annotations

import contextlib
import io
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from steerkit.cli.main import main
from steerkit.errors import SteerkitError

LIMIT: Final = 30.0
"""Seconds that one input may take, on a machine with much else to do."""
CODES: Final = (0, 2, 3)
"""Exit codes of success and of a refusal: 3 is one of the model's, such as a failed self-test."""
_LONGEST: Final = 20_000
"""Characters of a refusal, which may be of a hundred problems."""


@dataclass
class Tally:
    """What became of the inputs of one kind.

    Args:
        kind: of input.
        seed: that drew them.
        inputs: how many.
        refused: those that a sentence was said of.
        faults: those that broke something, each with what.
        slowest: seconds.
        outcomes: how often each exit code came.
    """

    kind: str
    seed: int
    inputs: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    outcomes: Counter[int] = field(default_factory=Counter)

    def note(self, name: str, code: int, fault: str, seconds: float) -> None:
        """What became of one more input: with which exit code, what is wrong with that, and how long it took."""
        self.slowest = max(self.slowest, seconds)
        self.inputs += 1
        self.outcomes[code] += 1
        if fault:
            self.faults.append(f"{name}: {fault}")
        elif code:
            self.refused += 1

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "inputs": self.inputs,
            "seed": self.seed,
            "refused": self.refused,
            "accepted": self.inputs - self.refused - len(self.faults),
            "faults": self.faults,
            "slowest_seconds": round(self.slowest, 2),
            "limit_seconds": LIMIT,
        }


class TooSlowError(BaseException):
    """An input that takes too long. No handler of errors catches it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(_: int, frame: FrameType | None) -> None:
        raise TooSlowError("".join(traceback.format_stack(frame)[-3:]))

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments: str | Path) -> tuple[int, str]:
    """A command of the command line: its exit code, and what it said on stderr."""
    said = io.StringIO()
    code: int | str | None = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main([str(one) for one in arguments])
        except SystemExit as leaving:
            code = leaving.code
    return int(code or 0), said.getvalue()


def call(function: Callable[[], object]) -> tuple[int, str]:
    """A call of Python's door, as the command line would end with it."""
    try:
        function()
    except SteerkitError as error:
        return error.exit_code, str(error)
    return 0, ""


def attempt(
    tally: Tally, name: str, what: Callable[[], tuple[int, str]], folder: Path, may_write: bool = False
) -> None:
    """Do one thing with one input, and note what is wrong with the outcome.

    Args:
        tally: notes it.
        name: of the input, for messages.
        what: gives an exit code and what was said.
        folder: where the input lies: nothing is left there that wasn't there before.
        may_write: whether files may be written there, whole and without leftovers.
    """
    before = _files(folder)
    began = time.monotonic()
    fault = ""
    code, said = 0, ""
    try:
        with _limited(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code, said = what()
    except TooSlowError as error:
        fault = f"takes more than {LIMIT:g} s: {error}"
    except BaseException as error:  # a traceback is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
    seconds = time.monotonic() - began
    left = [file for file in _files(folder) if file not in before]
    if not fault and code not in CODES:
        fault = f"exit code {code}: {said[:200]}"
    if not fault and code and (not said.strip() or "Traceback" in said or len(said) > _LONGEST):
        fault = f"exit code {code} without a sentence: {said[:200]!r}"
    if not fault and ((left and not may_write) or any(_is_half(file) for file in left)):
        fault = f"left {', '.join(left[:3])}"
    tally.note(name, code, fault, seconds)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _is_half(file: str) -> bool:
    return file.endswith(".tmp") or ".tmp." in file
