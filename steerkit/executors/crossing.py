"""Errors that cross from one process to another with their type, their words and what they carry."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from steerkit.errors import SteerkitError


@dataclass(frozen=True)
class Failure:
    """An error as bytes. ``packed`` makes one.

    Args:
        content: the pickled class, arguments and attributes, or the pickled error.
        ours: whether it is the former.
        told: its traceback, where it is no error that somebody raised for a user.
    """

    content: bytes
    ours: bool
    told: str = ""


def packed(error: Exception) -> Failure:
    """An error as bytes; one that can't be any becomes a ``RuntimeError`` with its words."""
    if isinstance(error, SteerkitError):
        if not _survives((type(error), error.args)):  # of a class that only its own process can name
            error = SteerkitError(str(error))
        # Its constructor takes other arguments than its message, so that pickling it alone fails.
        state = {name: value for name, value in vars(error).items() if _survives(value)}
        return Failure(pickle.dumps((type(error), error.args, state)), True)
    told = "".join(traceback.format_exception(error))
    if not _survives(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(pickle.dumps(error), False, told)


def unpacked(failure: Failure) -> Exception:
    """The error, to be raised."""
    found: Any = pickle.loads(failure.content)
    if not failure.ours:
        error: Exception = found
        error.add_note(f"In the worker:\n{failure.told}")
        return error
    kind, arguments, state = found
    made: SteerkitError = kind.__new__(kind, *arguments)
    vars(made).update(state)
    return made


def _survives(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True
