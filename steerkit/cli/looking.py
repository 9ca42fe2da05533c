"""A look at a model's modules without its weights, as commands that check a recipe take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from steerkit.api.architecture import Layout
    from steerkit.plan.planned.model import PlannedModel


def look(model: PlannedModel, adapter: str, trust_remote_code: bool) -> Layout:
    """Build a model's modules without weights, and say so: that takes a few seconds, which a check otherwise doesn't.

    Raises:
        SteerkitError: where the layout can't be known so.
    """
    from steerkit.catalog import implementation, installed

    typer.echo(f"building {model.source} without its weights, to look its sites up", err=True)
    from steerkit.engine.sites.weightless import layout_without_weights

    chosen = implementation(installed().get("architecture", adapter))()
    return layout_without_weights(model.source, model.folder, chosen, trust_remote_code=trust_remote_code)
