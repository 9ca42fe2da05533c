"""``steerkit run``: a recipe to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run_command(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one, such as quickstart.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run directories go.")] = Path("runs"),
) -> None:
    """Run a recipe: estimate directions, measure conditions and controls, write a report."""
    from rich.console import Console
    from rich.markup import escape

    from steerkit.report import summary, write_report
    from steerkit.run import run_recipe

    # Progress is for the person at the terminal; what is piped on is the summary alone.
    aside = Console(stderr=True)
    with aside.status("starting") as status:

        def step(what: str) -> None:
            status.update(escape(what))  # a sweep's brackets are no markup
            if not aside.is_terminal or what.startswith(("writing", "continuing", "loading", "condition")):
                aside.print(what, highlight=False, markup=False, style="dim")

        path = run_recipe(recipe, overrides=settings or (), out=out, step=step)
        step("writing the report")
        write_report(path)
    summary(path)
