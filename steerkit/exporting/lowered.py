"""A run's condition as a program: lowered to the layout of its model, which is found without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.baking.asked import read_asked
from steerkit.catalog import Catalog
from steerkit.progress import SILENT, Observer

if TYPE_CHECKING:
    from steerkit.api.program import Program


def program_of_run(
    run: str | Path,
    condition: str,
    monitors: Sequence[str] = (),
    *,
    observer: Observer = SILENT,
    catalog: Catalog | None = None,
) -> Program:
    """A condition of a run as a program. See ``steerkit.export``."""
    asked = read_asked(run, condition, catalog, folds=False)
    raise NotImplementedError(asked)
