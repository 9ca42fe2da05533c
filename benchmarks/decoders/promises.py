"""The suite that adapters are proven with, check by check on one tiny model: which of its promises fail, and how."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import steerkit_architectures.auto
from steerkit.engine.tiny.models import tiny_model
from steerkit.testing import ArchitectureSuite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Decoder(ArchitectureSuite):
    plugin: ClassVar[ModuleType] = steerkit_architectures.auto

    def model(self) -> PreTrainedModel:
        return tiny_model(self.variant)


def broken_promises(name: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Checks of the suite that fail on a tiny model, and those that don't apply to it.

    Those that take no model are left out: they are of the plugin.

    Returns:
        by check, how it failed and under which arguments first; and the checks that rest on what the model doesn't do
        without steering either.
    """
    suite = _Decoder()
    suite.variant = name
    built = suite.built_from(suite.model())
    broken: dict[str, str] = {}
    not_asked: list[str] = []
    for check, arguments in _checks():
        # A copy for each, as the suite builds anew for each: a check may leave its model in another dtype.
        own = replace(built, model=copy.deepcopy(built.model))
        for chosen in arguments:
            try:
                getattr(suite, check)(own, **chosen)
            except pytest.skip.Exception:
                not_asked.append(check)
                break
            except Exception as error:
                broken[check] = _told(error, chosen)
                break
    return broken, tuple(not_asked)


def _checks() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every check that takes a model, with all that it is parametrised with."""
    for name, check in inspect.getmembers(ArchitectureSuite, inspect.isfunction):
        if not name.startswith("test_") or "built" not in inspect.signature(check).parameters:
            continue
        marks = [mark for mark in getattr(check, "pytestmark", ()) if mark.name == "parametrize"]
        values = [[(mark.args[0], value) for value in mark.args[1]] for mark in marks]
        yield name, [dict(chosen) for chosen in itertools.product(*values)]


def _told(error: Exception, arguments: Mapping[str, Any]) -> str:
    """How a check failed and under which arguments, without measured numbers, which differ by machine."""
    first = str(error).strip().partition("\n")[0].partition(": Tensor-likes")[0].partition(" Expected: ")[0]
    under = ", ".join(f"{key} {value}" for key, value in arguments.items())
    return f"{type(error).__name__}: {first[:200]}" + (f" ({under})" if under else "")
