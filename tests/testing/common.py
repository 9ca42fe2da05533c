"""Plugins that are made up for tests of the suites."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from steerkit.api.hookspecs import (
    CONTRACT,
)


def module(hook: str, spec: Any) -> ModuleType:
    """A plugin's module, as an entry point would name it."""
    made = ModuleType("made_up")
    made.STEERKIT_CONTRACT = CONTRACT  # type: ignore[attr-defined]
    setattr(made, hook, lambda: [spec])
    return made
