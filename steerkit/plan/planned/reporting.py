"""What readers of the report are told and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.recipe.data import DataRef
from steerkit.recipe.document import write_document
from steerkit.recipe.reporting import PublishedRecipe


@dataclass(frozen=True)
class PlannedSamples:
    """Completions for the reader of the report."""

    data: DataRef
    n: int
    max_new_tokens: int


@dataclass(frozen=True)
class PlannedTradeoff:
    """One value of an evaluator on data where it should be high, against data where it should be low."""

    evaluator: str
    should: tuple[str, ...]
    should_not: tuple[str, ...]


@dataclass(frozen=True)
class PlannedReport:
    """What readers are told that no number depends on.

    Args:
        name: names the run directory.
        title: heading, or None.
        description: a line on what is asked.
        resolved: the recipe's plain values, every key with its value.
        folder: where the recipe lies, for the state of its checkout; None where it was never written.
        published: what others chose and measured on the model that is run.
        tradeoff: two rates that are plotted against each other, or None.
        compared_with: the direction whose cosine with every other one is told; None for each with each.
    """

    name: str
    title: str | None
    description: str
    resolved: Mapping[str, Any]
    folder: Path | None = None
    published: tuple[PublishedRecipe, ...] = ()
    tradeoff: PlannedTradeoff | None = None
    compared_with: str | None = None

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML. Writing it takes longer than most of a check, which has no use for it."""
        return write_document(self.resolved)
