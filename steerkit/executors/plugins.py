"""Whether the plugins of a task are here what they were where it was planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from steerkit.artifacts.provenance import code_hash
from steerkit.errors import PluginError
from steerkit.stages.tasks import GroupUse, ModelUse, Plugin, ScoreUse, Task


def require_same_plugins(tasks: Iterable[Task]) -> None:
    """Raise for a plugin whose code isn't that by which a task's key was made.

    Raises:
        PluginError: which names it.
    """
    for kind, name, implementation, code in dict.fromkeys(one for task in tasks for one in _used(task.payload)):
        there = _code(implementation.partition(":")[0])
        # Of one without a source nobody can tell.
        if there is not None and len(code) == len(there) and there != code:
            raise PluginError(
                f"The code of {kind} {name!r} ({implementation}) is another one in this worker than in the process "
                "that planned the run. Install the same version on every machine."
            )


@cache
def _code(module: str) -> str | None:
    return code_hash(module)


def _used(value: Any) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, implementation and hash of each plugin in a payload or a part of it."""
    if isinstance(value, Plugin):
        yield value.kind, value.name, value.implementation, value.code or ""
    elif isinstance(value, GroupUse):
        placed = () if value.condition is None else value.condition.interventions
        for one, code in zip(placed, value.code, strict=False):
            yield one.spec.kind, one.spec.name, one.spec.implementation, code or ""
    elif isinstance(value, ModelUse):
        yield from _used(value.adapter)
    elif isinstance(value, ScoreUse):
        yield from _used(value.evaluator)
        for one, code in zip(value.under, value.code, strict=False):
            yield one.spec.kind, one.spec.name, one.spec.implementation, code or ""
    elif isinstance(value, tuple):
        if value and isinstance(value[0], ScoreUse):
            for score in value:
                yield from _used(score)
    elif hasattr(value, "__dataclass_fields__"):
        for part in vars(value).values():
            if isinstance(part, (Plugin, GroupUse, ModelUse, tuple)):
                yield from _used(part)
