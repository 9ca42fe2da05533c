"""Directions, interventions and provenance in words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from steerkit.artifacts.provenance import GitState, Provenance
from steerkit.artifacts.reading import DirectionEntry, InterventionEntry, Run
from steerkit.artifacts.results import Timings
from steerkit.errors import counted
from steerkit.report.numbers import seconds, setting, significant

HEADLINE: Final = ("steerkit-torch", "torch", "transformers", "python")
"""Versions that a reader looks for first."""


def describe_direction(entry: DirectionEntry) -> str:
    """A direction in one line: from what, where, how long."""
    if entry.positive and entry.negative:
        what = f"{entry.estimator or 'estimated'}: {entry.positive} minus {entry.negative}"
    elif entry.classes:
        what = f"{entry.estimator or 'estimated'}: {', '.join(entry.classes.values())}"
    else:
        what = entry.estimator or "read from a file"
    where = [f"read at {entry.site}"] if entry.site else []
    where += [_positions(entry.positions)] if entry.positions else []
    norms = [significant(norm) for norm in entry.norms]
    size = [f"norm {norms[0]}" if len(norms) == 1 else f"norms {', '.join(norms)}"] if norms else []
    spread = [norm for norms_there in entry.norms_by_site.values() for norm in norms_there if norm is not None]
    if spread:
        size = [f"norms from {significant(min(spread))} to {significant(max(spread))}"]
    rank = [f"rank {entry.rank}"] if entry.rank != 1 else []
    return ", ".join([what, *where, *rank, *size])


def describe_intervention(entry: InterventionEntry) -> str:
    """An intervention in one line: what, with which options, where."""
    head = f"{entry.name} {entry.direction}" if entry.direction else entry.name
    options = [f"{name} {_option(value)}" for name, value in entry.options.items() if value is not None]
    sites = list(entry.sites or ())
    more = f" and {counted(len(sites) - 2, 'more site')}" if len(sites) > 3 else ""
    where = [f"at {', '.join(sites[:2] if more else sites)}{more}"] if sites else []
    positions = [_positions(entry.positions)] if entry.positions else []
    schedule = [f"times {entry.schedule}"] if entry.schedule else []
    gate = [_gate(entry.gate)] if entry.gate else []
    return ", ".join([head, *options, *where, *positions, *schedule, *gate])


def _gate(gate: Mapping[str, Any]) -> str:
    side = "below" if "below" in gate else "above"
    decides = (
        f"the prompt's {_positions(str(gate.get('positions', 'last')))}" if gate.get("at") == "prompt" else "the token"
    )
    extra = " in an extra pass" if gate.get("prepass") else ""
    return f"where {decides} projects on {gate['direction']} {side} {gate.get(side)} at {gate.get('site')}{extra}"


def _option(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return setting(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _positions(text: str) -> str:
    number = text.removeprefix("-").isdigit()
    return f"position {setting(float(text))}" if number else f"positions {text}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as ``("versions.torch", "2.13.0")``; a null says that it is unknown."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            yield from flatten(item, f"{name}.")
        elif isinstance(item, list) and all(isinstance(part, str) for part in item):
            yield name, shlex.join(item) if key == "argv" else ", ".join(item) or "none"
        elif isinstance(item, list) and all(isinstance(part, Mapping) for part in item):
            yield name, ", ".join(" ".join(str(word) for word in part.values() if word) for part in item)
        elif item is None:
            yield name, "not known"
        else:
            yield name, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def command_line(origin: Provenance) -> str | None:
    """The command as it was typed, without the folder of the program."""
    if not origin.argv:
        return None
    program, *words = origin.argv
    return shlex.join([program.replace("\\", "/").rsplit("/", 1)[-1], *words])


def made_with(run: Run) -> list[tuple[str, str]]:
    """What a reader looks for first; the rest is in the table of everything."""
    origin = run.origin
    packages = [f"{name} {origin.versions[name]}" for name in HEADLINE if origin.versions.get(name)]
    place = [
        str(part) for part in (origin.model.get("device"), origin.platform.system, origin.platform.machine) if part
    ]
    rows = [
        ("Versions", ", ".join(packages)),
        ("Device", ", ".join(place)),
        ("Commit of the recipe", _commit(origin.git.recipe)),
        ("Commit of steerkit", _commit(origin.git.steerkit)),
    ]
    return [(name, text) for name, text in rows if text]


def _commit(state: GitState | None) -> str:
    if state is None:
        return ""
    return state.commit[:12] + (" with uncommitted changes" if state.dirty else "")


def duration(times: Timings) -> str | None:
    """The sum of the stages' times, or None where they are not known."""
    numbers = [float(item) for item in times.seconds.values() if item is not None]
    return seconds(sum(numbers)) if numbers else None
