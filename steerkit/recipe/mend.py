"""From broken values to a recipe: what is wrong is told once and mended, so that the rest can be checked too.

An unknown key goes, and so does a broken value that has a default. What a recipe can't be without gets a
stand-in, since something else may refer to it, and since the keys beside it are to be checked. Every such
path is remembered as lost: what follows from it is no further problem.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from steerkit.errors import Problem
from steerkit.recipe.document import Path
from steerkit.recipe.draft import Written
from steerkit.recipe.layers import LAYER_KEYS
from steerkit.recipe.problems import BAD_KEY, EXCESS, LACKING, MISSING, UNKNOWN, Fault, find_faults
from steerkit.recipe.schema import Recipe

_ROUNDS: Final = 20
"""Mending a section lets its checks as a whole run, and so on outwards; sections nest less deeply than this."""

_UNKNOWN_NAME: Final = "?"
_DIRECTION: Final = {
    "estimator": _UNKNOWN_NAME,
    "positive": _UNKNOWN_NAME,
    "negative": _UNKNOWN_NAME,
    "site": "embed",
}
# At prompts every other key of a gate has a meaning, so none of them looks wrong beside the stand-in.
_GATE: Final = {"direction": _UNKNOWN_NAME, "above": 0.0, "at": "prompt"}
_CALIBRATION: Final = {"data": _UNKNOWN_NAME, "false_alarms": 0.0}
_STAND_INS: Final[Mapping[Path, Any]] = {
    ("name",): "recipe",
    ("model",): {"source": _UNKNOWN_NAME},
    ("model", "source"): _UNKNOWN_NAME,
    ("data", "*"): {"inline": [_UNKNOWN_NAME]},
    ("data", "*", "inline"): [_UNKNOWN_NAME],
    ("data", "*", "completions", "of"): _UNKNOWN_NAME,
    ("data", "*", "completions", "max_new_tokens"): 1,
    ("directions", "*"): _DIRECTION,
    **{("directions", "*", key): value for key, value in _DIRECTION.items()},
    ("conditions", "*", "interventions", "*", "sites", "*"): _DIRECTION["site"],
    **{("conditions", "*", "interventions", "*", "gate", key): value for key, value in _GATE.items()},
    ("monitors", "*"): {"direction": _UNKNOWN_NAME, "above": 0.0},
    ("monitors", "*", "direction"): _UNKNOWN_NAME,
    ("monitors", "*", "above"): 0.0,
    ("monitors", "*", "calibrate"): _CALIBRATION,
    **{("monitors", "*", "calibrate", key): value for key, value in _CALIBRATION.items()},
    ("monitors", "*", "sites", "*"): _DIRECTION["site"],
    ("evaluate", "*", "data"): [_UNKNOWN_NAME],
    ("evaluate", "*", "data", "*"): _UNKNOWN_NAME,
    ("evaluate", "*", "control"): True,
    ("report", "samples", "data"): _UNKNOWN_NAME,
    **{("report", "tradeoff", key): _UNKNOWN_NAME for key in ("evaluator", "should", "should_not")},
}
_NO_STAND_IN: Final = object()


class Mender:
    """Mends plain values until they are a recipe.

    Args:
        value: in the form that the schema validates. It is not changed.
        written: where it was read.
        lost: paths, as written, that are lost already.
    """

    def __init__(self, value: Mapping[str, Any], written: Written, lost: Iterable[Path]) -> None:
        self.value: dict[str, Any] = copy.deepcopy(dict(value))
        self.written = written
        self.lost = set(lost)
        self._above = {path[:length] for path in self.lost for length in range(len(path) + 1)}
        """Every path at which, or within which, something is lost."""
        self.problems: list[Problem] = []

    def mended(self) -> Recipe | None:
        """The recipe, or None where it can't be mended."""
        for _ in range(_ROUNDS):
            recipe, faults = find_faults(Recipe, self.value, LAYER_KEYS)
            if recipe is not None:
                return recipe
            # An unknown key says which known one is lost, which is then no further fault of the same round.
            unknown = [fault for fault in faults if fault.kind == UNKNOWN]
            self._tell_and_mend(unknown)
            self._tell_and_mend([fault for fault in faults if fault.kind != UNKNOWN])
        return None

    def _tell_and_mend(self, faults: list[Fault]) -> None:
        told = [fault for fault in faults if self._is_news(fault)]
        self.problems += [Problem(fault.message, *self.written.place(fault.path)) for fault in told]
        for fault in faults:
            self._mend(fault)

    def _is_news(self, fault: Fault) -> bool:
        """Whether a fault is one of the recipe, and not of what was lost."""
        written = self.written.path(fault.path)
        if any(written[:length] in self.lost for length in range(1, len(written) + 1)):
            return False
        if fault.kind == LACKING:
            return not any(self.written.path((*fault.path, key)) in self._above for key in fault.keys)
        # Of a list that lacks an item of its own nothing is known as a whole: not how long it is, nor what it repeats.
        if fault.kind == "too_short" or (fault.kind == "value_error" and _is_listed(self._at(fault.path))):
            return written not in self._above
        return True

    def _mend(self, fault: Fault) -> None:
        if fault.kind == UNKNOWN:
            self._lose(fault.path)
            if fault.meant is not None:
                self._lose((*fault.path[:-1], fault.meant))
            self._remove(fault.path)
        elif fault.kind == BAD_KEY:
            self._lose(fault.path)
            self._remove(fault.path)
        elif fault.kind == EXCESS:
            for key in fault.keys:
                self._lose((*fault.path, key))
                self._remove((*fault.path, key))
        elif fault.kind == LACKING and any(_stand_in((*fault.path, key)) is not _NO_STAND_IN for key in fault.keys):
            for key in fault.keys:
                self._replace((*fault.path, key))
        else:
            self._replace(fault.path, required=fault.kind == MISSING)

    def _replace(self, path: Path, *, required: bool = False) -> None:
        """Put a stand-in at a path; where there is none, take away the value, or what can't be without it."""
        self._lose(path)
        if path[2:3] == ("sweep",) and len(path) > 3:
            # A sweep that lacks some of its values is another sweep.
            self._replace(path[:3])
            return
        holder = self._at(path[:-1])
        stand_in = _stand_in(path, self._at(path))
        if not isinstance(holder, (dict, list)):
            return
        if stand_in is not _NO_STAND_IN:
            holder[path[-1]] = copy.deepcopy(stand_in)  # type: ignore[index]  # a key or an index, as the holder is
        elif required or isinstance(holder, list):
            self._replace(path[:-1])
        else:
            self._remove(path)

    def _lose(self, path: Path) -> None:
        lost = self.written.path(path)
        self.lost.add(lost)
        self._above |= {lost[:length] for length in range(len(lost) + 1)}

    def _remove(self, path: Path) -> None:
        holder = self._at(path[:-1])
        if isinstance(holder, dict):
            holder.pop(path[-1], None)

    def _at(self, path: Path) -> Any:
        """The value at a path; None where another fault has taken it away."""
        value: Any = self.value
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def _is_listed(value: Any) -> bool:
    """Whether a value is a list, or an option with one, as in ``{coefficient: [1, 2]}``."""
    inner = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
    return isinstance(inner, list)


def _stand_in(path: Path, value: Any = None) -> Any:
    """What can stand at a path of a recipe, or ``_NO_STAND_IN``."""
    if len(path) == 4 and (path[0], path[2]) == ("data", "inline"):
        # What is almost always meant: the same thing in quotes.
        return json.dumps(value)
    if len(path) == 3 and (path[0], path[2]) == ("evaluate", "name"):
        return f"evaluator-{path[1]}"  # no two are called the same
    for pattern, stand_in in _STAND_INS.items():
        if len(pattern) == len(path) and all(one in ("*", part) for one, part in zip(pattern, path, strict=True)):
            return stand_in
    return _NO_STAND_IN
