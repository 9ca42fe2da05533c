"""``steerkit capability``: tasks of lm-evaluation-harness on conditions of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.paths import named, required
from steerkit.columns import console, print_table
from steerkit.progress import Silent

if TYPE_CHECKING:
    from rich.status import Status

    from steerkit.capability import Capability, TaskScore


def capability_command(
    run: Annotated[Path, typer.Argument(parser=required, metavar="RUN", help="A finished run directory.")],
    condition: Annotated[
        list[str], typer.Option("--condition", metavar="NAME", help="A condition, as results name it; again for more.")
    ],
    tasks: Annotated[str, typer.Option("--tasks", metavar="A,B", help="Tasks, groups or tags of the harness.")],
    include: Annotated[
        Path | None,
        typer.Option("--include", parser=named, metavar="FOLDER", help="A folder with tasks of your own (YAML)."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Most examples of each task.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", metavar="N", help="Examples before each question.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Contexts go through the model's chat template.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", parser=named, metavar="FILE", help="Where to write; capability.json of the run if not."),
    ] = None,
) -> None:
    """Evaluate capability tasks (lm-evaluation-harness) on conditions of a run, beside the baseline."""
    from steerkit.capability import capability_of_run

    with console(aside=True).status("reading the run") as status:
        found = capability_of_run(
            run,
            condition,
            [name for name in (part.strip() for part in tasks.split(",")) if name],
            limit=limit,
            include=include,
            num_fewshot=num_fewshot,
            chat_template=chat_template,
            file=json_file,
            observer=_Said(status),
        )
    plain, head = console(), ("task", "metric", "condition", "n", "score", "against baseline")
    print_table(plain, "", head, _rows(found))
    plain.print("± standard error; of a difference, that of the differences by example")
    typer.echo(str(found.file))


def _rows(found: Capability) -> list[tuple[str, ...]]:
    """Conditions and tasks, a row for each metric."""
    rows: list[tuple[str, ...]] = []
    for first in found.scores["baseline"]:
        for name, scores in found.scores.items():
            score = next((one for one in scores if one.key == first.key), None)
            if score is None:
                continue
            apart = found.difference(name, score)
            rows.append(
                (
                    score.task,
                    _metric(score),
                    name,
                    "" if score.n is None else str(score.n),
                    _number(score.value, score.standard_error),
                    "" if apart is None else _number(apart.value, apart.standard_error, "+"),
                )
            )
    return rows


def _metric(score: TaskScore) -> str:
    filtered = "" if score.filter == "none" else f" ({score.filter})"
    better = {True: " ↑", False: " ↓", None: ""}[score.higher_is_better]
    return f"{score.metric}{filtered}{better}"


def _number(value: float, error: float | None, sign: str = "") -> str:
    shown = f"{value:{sign}.3f}".replace("-", "−")
    return shown if error is None else f"{shown} ± {error:.3f}"


class _Said(Silent):
    """Shows what begins."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def step(self, what: str) -> None:
        """Show it. Names may hold brackets, which are no mark-up."""
        from rich.text import Text

        self.status.update(Text(what))
