"""``steerkit run``: a recipe to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.paths import named
from steerkit.cli.showing import Shown, bar
from steerkit.progress import Stage

if TYPE_CHECKING:
    from steerkit.executors.chosen import Chosen


def run_command(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one, such as quickstart.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="A profile of the recipe, such as laptop, laid over it.")
    ] = None,
    out: Annotated[Path, typer.Option(parser=named, metavar="DIRECTORY", help="Where run directories go.")] = Path(
        "runs"
    ),
    store: Annotated[
        Path | None,
        typer.Option(
            parser=named,
            metavar="DIRECTORY",
            help="Where outputs are kept for later runs; .store beside the runs if not given.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads of each process; PyTorch's own choice if not given, shared among workers."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who carries it out: local (this process), processes, or ray."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes or actors; one for each GPU if not given, or two on the CPU."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A Ray cluster, or auto for this machine's; started here if not given."),
    ] = None,
) -> None:
    """Run a recipe: estimate directions, measure conditions and controls, write a report."""
    from steerkit.executors.chosen import named as executor_named
    from steerkit.executors.ranks import ranks
    from steerkit.report import summary

    with ranks(executor_named(executor, workers, address)) as here:
        if here.follows:
            here.follow()
            return
        shown = Shown(bar())
        try:
            here.path = _run(recipe, settings or (), profile, out, shown, store=store, threads=threads, by=here.by)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(shown.kept) from None
    summary(here.path)


def _run(
    recipe: str,
    settings: Sequence[str],
    profile: str | None,
    out: Path,
    shown: Shown,
    *,
    store: Path | None,
    threads: int | None,
    by: Chosen,
) -> Path:
    from steerkit.bundled import settle_terms
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe
    from steerkit.report import write_report
    from steerkit.run import execute, require_places

    def reported(path: Path) -> None:
        shown.step(Stage("report", "writing the report"))
        shown.kept = f"The measurements are kept: `steerkit report {path}` makes the report of them."
        write_report(path)

    with shown.bar.console.status("checking the recipe"):
        plan = plan_recipe(recipe, settings, Catalog.discover(), profile)
    require_places(out, store)
    by.require(plan.loading)
    settle_terms(plan.loading.source, plan.loading.accept_terms)  # may ask, which a bar would garble
    with shown.bar:
        return execute(plan, out, shown, store=store, threads=threads, by=by, report=reported)
