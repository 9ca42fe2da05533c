"""``steerkit run``: a recipe to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def run_command(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one, such as quickstart.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run directories go.")] = Path("runs"),
) -> None:
    """Run a recipe: estimate directions, measure conditions and controls, write a report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from steerkit.report import summary, write_report
    from steerkit.run import run_recipe

    # Progress is for the person at the terminal; what is piped on is the summary alone.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = _Shown(bar)
        path = run_recipe(recipe, overrides=settings or (), out=out, observer=shown)
        shown.step("writing the report")
        write_report(path)
    summary(path)


class _Shown:
    """One bar for the present step, and a line for each stage that was begun."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("checking the recipe", total=None)

    def step(self, what: str) -> None:
        """Name what begins."""
        self.bar.reset(self.task, description=what, total=None)
        if what.startswith(("writing", "continuing", "loading", "direction", "separation", "condition")):
            self.bar.console.print(what, highlight=False, markup=False, style="dim")

    def progress(self, done: int, of: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=of)
