"""What a person at the terminal sees of something that runs: one bar, and a line for each stage that began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.columns import console
from steerkit.progress import Stage

if TYPE_CHECKING:
    from rich.progress import Progress


def bar() -> Progress:
    """A bar on standard error, which is gone when it is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    # For the person at the terminal; what is piped on is the summary alone.
    return Progress(*columns, console=console(aside=True), transient=True)


class Shown:
    """One bar for the present step, and a line for each stage that was begun."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("beginning", total=None, left="")
        self.kept = "Nothing was run."
        """What to say of an interrupt now; empty for what the command says of itself."""

    def step(self, what: str) -> None:
        """Name what begins."""
        if isinstance(what, Stage) and what.kind == "directory":  # from here on, what is done is kept
            self.kept = ""
        self.bar.reset(self.task, description=str(what), total=None)
        if isinstance(what, Stage):
            self.bar.console.print(what, style="dim")

    def left(self, seconds: float) -> None:
        """Show how much of the whole run is left, by what was measured of the model before."""
        from steerkit.speed import left_in_words

        self.bar.update(self.task, left=left_in_words(seconds))

    def progress(self, done: int, of: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=of)
