"""Every error that steerkit raises on purpose. A message says what is wrong and what to do next.

The command line prints the message alone, never a traceback, and exits with ``exit_code``.
"""

from __future__ import annotations

import bisect
import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class SteerkitError(Exception):
    """Base of all errors that a user can meet. ``exit_code`` is what the command line returns."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where (dotted key and line, when known) and what.

    ``file`` is named where it isn't the one that was asked for: a recipe may extend others. ``to_obtain`` says that
    nothing is wrong but that a file isn't here of which the recipe tells where it comes from.
    """

    message: str
    where: str = ""
    line: int | None = None
    file: str = ""
    to_obtain: bool = False

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line is not None else ""
        head = ", ".join(part for part in (self.file, place, self.where) if part)
        return f"{head}: {self.message}" if head else self.message


MOST_TOLD = 100
"""Problems of a recipe that a message tells, so that it can be read, and known names. An error carries all problems."""
_COMPARED = 10
"""Of more names than that so many are compared on each side of where an unknown one would stand among them."""


class RecipeError(SteerkitError):
    """A recipe that can't be run. Carries every problem that was found, not the first one."""

    def __init__(self, problems: Iterable[Problem], source: str = "recipe") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = len(self.problems)
        lines = [f"{source}: {counted(count, 'problem')}"]
        lines += [f"  {problem}" for problem in self.problems[:MOST_TOLD]]
        lines += [f"  and {count - MOST_TOLD:,} more"] if count > MOST_TOLD else []
        super().__init__("\n".join([*lines, "Nothing was run."]))


class DataError(SteerkitError):
    """Prompts or texts that are missing, empty, malformed or not disjoint."""


class PluginError(SteerkitError):
    """A plugin that can't be imported, clashes with another one or breaks its contract."""


class UnknownNameError(SteerkitError):
    """A name that nothing provides; the message gives the nearest ones."""


class ModelError(SteerkitError):
    """A model that can't be found, fetched, read or used."""


class UnsupportedModelError(ModelError):
    """No adapter claims the model, or an adapter refuses it with a reason. ``model_type`` is None where unknown.

    Where the reason was seen in a pass, ``cause`` names it in a few words, ``operation`` is torch's, ``module`` the
    path of the module in which it ran, and ``layer`` the number of its block, or None outside of the blocks.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        model_type: str | None = None,
        *,
        cause: str = "",
        operation: str = "",
        module: str = "",
        layer: int | None = None,
    ) -> None:
        self.model_type = model_type
        self.cause, self.operation, self.module, self.layer = cause, operation, module, layer
        super().__init__(message)


class SelfTestError(ModelError):
    """The live model is not what its adapter declares; carries the site and the error in numbers."""

    exit_code = 3


class DirectionError(SteerkitError, ValueError):
    """Vectors that make no direction: of a shape, at a place or with values that none has."""


class SiteError(SteerkitError):
    """A site that is malformed or that the model doesn't have."""


class PositionError(SteerkitError):
    """Positions that are malformed, or that the sequence at hand doesn't have or doesn't know."""


class ScheduleError(SteerkitError):
    """A schedule of the coefficient that is malformed."""


class AttachError(SteerkitError):
    """A program that can't be put on a model. The model is left as it was."""


class SelectionError(SteerkitError):
    """A table of candidates that can't be chosen from."""


class NoCandidateError(SteerkitError):
    """A search whose constraints no candidate meets: a result, not a mistake. What was computed is kept."""

    exit_code = 3


class TryAgainError(SteerkitError):
    """Something outside didn't answer and may do so later: a limit of requests, a timeout. ``after`` are seconds that
    it asks to wait, or None. ``answers`` are what came all the same, one per question and None for those that are to
    be asked again; empty where nothing came."""

    def __init__(self, message: str, after: float | None = None, answers: Sequence[str | None] = ()) -> None:
        self.after = after
        self.answers = tuple(answers)
        super().__init__(message)


class ParallelError(SteerkitError):
    """Processes that can't run a model together, or one of them that fails and takes the others down."""


class ExecutorError(SteerkitError):
    """Workers that can't be had, that differ from this process, or that are killed by a task each time."""


class ArtifactError(SteerkitError):
    """A file of ours that is missing, damaged or from another version."""


def nearest(name: object, known: Iterable[str], kind: str = "name") -> str:
    """Return the sentence that follows "Unknown <kind> 'x'.": nearest known names, then all of them."""
    names = sorted(set(known))
    if not names:
        return f"No {kind} is known here."
    # What isn't even a text is near to nothing, and gets the list.
    close = difflib.get_close_matches(name, _likely(name, names), n=2, cutoff=0.5) if isinstance(name, str) else []
    hint = f"Did you mean {' or '.join(repr(item) for item in close)}? " if close else ""
    return f"{hint}Available: {listed(names)}."


def listed(names: Sequence[str]) -> str:
    """Names in a row, of very many the first hundred."""
    more = f" and {len(names) - MOST_TOLD:,} more" if len(names) > MOST_TOLD else ""
    return f"{', '.join(names[:MOST_TOLD])}{more}"


def _likely(name: str, names: Sequence[str]) -> Sequence[str]:
    """Of very many names those that begin or end most like one: comparing all of them in full takes long."""
    if len(names) <= MOST_TOLD:
        return names

    def beside(text: str, listed: Sequence[str]) -> Sequence[str]:
        at = bisect.bisect(listed, text)
        return listed[max(0, at - _COMPARED) : at + _COMPARED]

    backwards = beside(name[::-1], sorted(one[::-1] for one in names))
    return sorted({*beside(name, names), *(one[::-1] for one in backwards)})


def counted(number: float, noun: str, plural: str | None = None, form: str = ",") -> str:
    """A number with its noun: ``1 token``, ``1,200 tokens``, ``1 entry``. All messages with counts say them by this.

    Args:
        number: how many.
        noun: of one.
        plural: of several; None for the noun and an s.
        form: how the number is written; its thousands apart, if not told otherwise.
    """
    return f"{number:{form}} {noun if number == 1 else plural or f'{noun}s'}"


def agreeing(number: float, one: str = "is", several: str = "are") -> str:
    """The word that goes with a number of things: ``is`` or ``are``, or any other two."""
    return one if number == 1 else several


def known_keywords(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Have a function tell of a misspelt keyword as of any other unknown name, with the nearest that it takes."""
    code = function.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    taken = frozenset(named[code.co_posonlyargcount :]) - {"self", "cls"}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        unknown = next((name for name in kwargs if name not in taken), None)
        if unknown is not None:
            called = function.__qualname__.removesuffix(".__init__")
            raise UnknownNameError(f"{called} has no argument {unknown!r}. {nearest(unknown, taken, 'argument')}")
        return function(*args, **kwargs)

    return checked
