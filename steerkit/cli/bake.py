"""``steerkit bake``: a condition of a run as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.paths import named, required
from steerkit.columns import console
from steerkit.errors import agreeing, counted
from steerkit.progress import Silent

if TYPE_CHECKING:
    from rich.status import Status


def bake_command(
    run: Annotated[Path, typer.Argument(parser=required, metavar="RUN", help="A finished run directory.")],
    condition: Annotated[str, typer.Option("--condition", metavar="NAME", help="Which condition, as results name it.")],
    out: Annotated[
        Path, typer.Option("--out", parser=named, metavar="FOLDER", help="The folder to write: new, or empty.")
    ],
) -> None:
    """Write a checkpoint with a condition folded into its weights, and compare it with the hooked model."""
    from steerkit.baking import bake

    with console(aside=True).status("reading the run") as status:
        baked = bake(run, condition, out, observer=_Said(status))
    typer.echo(
        f"{baked.folder}: a checkpoint with {condition} in its weights ({counted(len(baked.changed), 'parameter')} "
        f"{agreeing(len(baked.changed))} other or "
        f"new).\nOn {counted(baked.prompts, 'prompt')} ({', '.join(baked.data)}) its next-token logits differ from "
        f"the hooked "
        f"model's by at most {baked.largest_difference:.3g}; the largest logit is {baked.largest_logit:.3g}, and "
        f"{baked.tolerance:.3g} was allowed ({baked.rule}).\nIts README.md says what was changed."
    )
    for note in baked.notes:
        typer.echo(note)


class _Said(Silent):
    """Shows what begins."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def step(self, what: str) -> None:
        """Show it. Names may hold brackets, which are no mark-up."""
        from rich.text import Text

        self.status.update(Text(what))
