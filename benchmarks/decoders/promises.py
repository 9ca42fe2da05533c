"""The suite that adapters are proven with, check by check on one tiny model: which of its promises fail, and how."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import steerkit_architectures.auto
from steerkit.engine.tiny.models import tiny_model
from steerkit.testing import ArchitectureSuite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Decoder(ArchitectureSuite):
    plugin = steerkit_architectures.auto

    def model(self) -> PreTrainedModel:
        return tiny_model(self.variant)


def broken_promises(name: str) -> dict[str, str]:
    """Checks of the suite that fail on a tiny model, each with how and with the arguments that it first fails under.

    Those that take no model are left out: they are of the plugin.
    """
    broken: dict[str, str] = {}
    for check, arguments in _checks():
        # Built anew for each, as the suite does: a check may leave its model in another dtype.
        suite = _Decoder()
        suite.variant = name
        try:
            built = suite.built_from(suite.model())
            for chosen in arguments:
                try:
                    getattr(suite, check)(built, **chosen)
                except Exception as error:
                    raise _Broken(_kind(error), chosen) from error
        except Exception as error:
            broken[check] = str(error) if isinstance(error, _Broken) else _kind(error)
    return broken


class _Broken(Exception):
    """How a check failed, and under which arguments."""

    def __init__(self, how: str, arguments: dict[str, Any]) -> None:
        under = ", ".join(f"{key} {value}" for key, value in arguments.items())
        super().__init__(f"{how} ({under})" if under else how)


def _checks() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every check that takes a model, with all that it is parametrised with."""
    for name, check in inspect.getmembers(ArchitectureSuite, inspect.isfunction):
        if not name.startswith("test_") or "built" not in inspect.signature(check).parameters:
            continue
        marks = [mark for mark in getattr(check, "pytestmark", ()) if mark.name == "parametrize"]
        values = [[(mark.args[0], value) for value in mark.args[1]] for mark in marks]
        yield name, [dict(chosen) for chosen in itertools.product(*values)]


def _kind(error: Exception) -> str:
    """What went wrong, in words that are the same on every machine: no numbers of an error."""
    first = str(error).strip().partition("\n")[0].partition(": Tensor-likes")[0]
    return f"{type(error).__name__}: {first.partition(' Expected: ')[0][:200]}"
