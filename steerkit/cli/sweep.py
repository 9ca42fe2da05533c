"""``steerkit sweep``: a recipe over several values of its settings, and one comparison of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from steerkit import columns
from steerkit.cli.paths import named
from steerkit.cli.showing import Shown, bar
from steerkit.errors import SteerkitError, counted

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.api.architecture import Layout
    from steerkit.artifacts.sweeps import Sweep
    from steerkit.plan.places import Look
    from steerkit.plan.planned.model import PlannedModel
    from steerkit.sweeping.sweep import Planned

SOME_FAILED: Final = 3
"""How the command exits where a run failed: what failed is a result of the sweep, and no mistake in the command."""
FINISHED: Final = "finished"
LISTED: Final = 40
"""Runs that are listed before any begins; of more, how many there are is said."""


def sweep_command(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Path of a recipe, or the name of a shipped one; or the directory of a sweep that is to go on."
        ),
    ],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUE,VALUE…",
            help="A setting with its values, as in model.source=gpt2,opt or seed=1,2,3; repeated for several settings.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting in all runs; may be repeated."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="A profile of the recipe, such as laptop, laid over it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="DIRECTORY", help="The sweep's directory; one below sweeps if not given."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            parser=named,
            metavar="DIRECTORY",
            help="Where outputs are kept; .store in the sweep's directory if not given.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of each run; PyTorch's own choice if not given, shared among workers."),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who carries runs out: local (this process), processes, or ray."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runs at a time; one for each GPU if not given, or two on the CPU."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A Ray cluster, or auto for this machine's; started here if not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all runs and list them, and run nothing.")] = False,
) -> None:
    """Run a recipe with every combination of some settings' values, and compare the runs in one report.

    Every run is checked before any begins. One that fails costs itself alone; the same command goes on where it was.
    """
    from steerkit.executors.chosen import named as executor_named
    from steerkit.report.sweep_terminal import print_sweep
    from steerkit.run import require_places
    from steerkit.sweeping.sweep import carry_out, states

    by = executor_named(executor, workers, address)
    with columns.console(aside=True).status("checking every run"):
        planned, known = _planned(recipe, over or (), tuple(settings or ()), profile, out)
    folder = out or (Path(recipe) if known is not None else planned.folder)
    if known is not None and store is None and known.store is not None:
        store = Path(known.store)
    known_states = states(planned, folder)
    if dry_run:
        print_planned(planned, folder, known_states, columns.console())
        return
    require_places(folder, store)
    _settle_terms(planned)
    typer.echo(f"{_told(planned, known_states)}, into {folder}", err=True)

    shown = Shown(bar())
    with shown.bar:
        found = carry_out(planned, folder, store=store, threads=threads, by=by, observer=shown)
    print_sweep(found, columns.console())
    if found.failed:
        raise typer.Exit(SOME_FAILED)


def _planned(
    recipe: str, over: Sequence[str], settings: tuple[str, ...], profile: str | None, out: Path | None
) -> tuple[Planned, Sweep | None]:
    """The sweep that is asked for, with what is known of it where it is named by its directory."""
    from steerkit.artifacts.sweeps import is_sweep, load_sweep
    from steerkit.cli.looking import look as look_up
    from steerkit.sweeping.axes import read_axes
    from steerkit.sweeping.sweep import plan_again, plan_sweep

    look = _once(look_up)
    if not is_sweep(Path(recipe)):
        axes, problems = read_axes(over)
        return plan_sweep(recipe, axes, problems, settings, profile, look), None
    if over or settings or profile is not None or out is not None:
        raise SteerkitError(
            f"{recipe} is the directory of a sweep, which goes on as it was begun. Name its recipe for other values, "
            "or leave out --over, --set, --profile and --out."
        )
    return plan_again(Path(recipe), look), load_sweep(Path(recipe))


def _once(look: Look) -> Look:
    """A model's modules are built once, however many runs have it, also where that tells nothing."""
    known: dict[tuple[PlannedModel, str, bool], Layout | SteerkitError] = {}

    def looked(model: PlannedModel, adapter: str, trust_remote_code: bool) -> Layout:
        asked = (model, adapter, trust_remote_code)
        if asked not in known:
            try:
                known[asked] = look(*asked)
            except SteerkitError as error:
                known[asked] = error
        found = known[asked]
        if isinstance(found, SteerkitError):
            raise found
        return found

    return looked


def _settle_terms(planned: Planned) -> None:
    """Ask for the terms of all models now: a question in the midst of a bar can't be read or answered."""
    from steerkit.bundled import settle_terms

    for source, accepted in dict.fromkeys((one.loading.source, one.loading.accept_terms) for one in planned.members):
        settle_terms(source, accepted)


def print_planned(planned: Planned, folder: Path, known: Sequence[str], console: Console) -> None:
    """Print every run with what it costs at most and its state in the directory, and all notes."""
    from steerkit.speed import in_words
    from steerkit.sweeping.members import notes_of

    heads = ("", *(axis.key for axis in planned.axes), "forward passes", "generated tokens", "time", "state")
    rows = [
        [
            str(number),
            *one.point.texts,
            f"{one.passes:,}",
            f"{one.written:,}",
            "not known" if one.seconds is None else in_words(one.seconds),
            state,
        ]
        for number, (one, state) in enumerate(zip(planned.members, known, strict=True), start=1)
    ]
    columns.print_table(console, f"{counted(len(rows), 'run')}, each at most", heads, rows[:LISTED], right=())
    if len(rows) > LISTED:
        console.print(f"and {counted(len(rows) - LISTED, 'more run')}\n")
    console.print(f"{_told(planned, known)}, into {folder}.")
    for note in notes_of(planned.members, planned.axes):
        console.print(f"Note: {note}", markup=False)


def _told(planned: Planned, known: Sequence[str]) -> str:
    """How many runs there are, and how long those take that are to be run, as far as that is known."""
    from steerkit.speed import in_words

    left = [one for one, state in zip(planned.members, known, strict=True) if state != FINISHED]
    seconds = [one.seconds for one in left if one.seconds is not None]
    told = counted(len(planned.members), "run")
    if len(left) < len(planned.members):
        told += f", {len(planned.members) - len(left)} finished already"
    if seconds:
        told += f", {in_words(sum(seconds))} at most"
        if len(seconds) < len(left):
            told += f" for {len(seconds)} of them, not known for {len(left) - len(seconds)}"
    return told
