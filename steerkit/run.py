"""The main path: from a recipe to a run directory, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit import stages
from steerkit.artifacts.files import require_folder
from steerkit.artifacts.finished import fault_of, holds
from steerkit.artifacts.provenance import Provenance, describe_run
from steerkit.artifacts.rundir import RESULTS, RunDirectory, write_json, write_text
from steerkit.artifacts.store import STORE, Store
from steerkit.artifacts.unchosen import unchosen
from steerkit.catalog import Catalog
from steerkit.errors import NoCandidateError, ParallelError, SteerkitError, agreeing, counted, known_keywords
from steerkit.executors.chosen import THIS_PROCESS, Chosen, named
from steerkit.executors.ranks import ranks
from steerkit.executors.schedule import Outputs
from steerkit.plan import DataRef, Plan, PlannedCompletions, plan_recipe
from steerkit.plan.duration import duration
from steerkit.progress import SILENT, Noted, Observer, Stage
from steerkit.recipe.paths import readable_path
from steerkit.selection.written import PLAN, table_name
from steerkit.speed import Left
from steerkit.stages import Bench, Graph, ModelUse, Task

MOST_THREADS: Final = 1024
REPORT: Final = "report.html"

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.artifacts.results import CompletionsEntry, FilterEntry, Results, SearchEntry, TokensEntry
    from steerkit.artifacts.samples import Sample
    from steerkit.executors.base import Done, Executor
    from steerkit.plan.types import PlannedDirection
    from steerkit.session.model import LiveModel


@known_keywords
def run_recipe(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    out: str | Path = "runs",
    store: str | Path | None = None,
    threads: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> Path:
    """Run a recipe and return its run directory. ``steerkit.report.write_report`` makes the report from it.

    Args:
        recipe: path of a recipe, or the name of a shipped one.
        overrides: settings such as ``"seed=1"`` or ``"conditions.warmer.0.add.coefficient=2"``.
        profile: name of one of the recipe's profiles, which is laid over it before the overrides.
        out: where run directories go. An unfinished run of the same recipe there is continued.
        store: where outputs are kept by what they depend on, for this run and others; ``.store`` in ``out`` if not
            given. What is there is not computed again.
        threads: CPU threads of each process while it runs; as they are if not given, shared among workers where there
            are some. Another number gives, in the last digits, other numbers.
        executor: who carries out what is to be computed: ``local``, this process; ``processes``, processes of this
            machine; ``ray``, actors of a Ray cluster. At equal threads all give the same bytes.
        workers: how many processes or actors; one for each GPU if not given, or two on the CPU.
        address: of a Ray cluster; one is started for this run if not given.
        observer: told what is done; nobody by default.

    Raises:
        RecipeError: with every problem of the recipe; nothing was run.
        ExecutorError: for workers that can't be had.
    """
    if not isinstance(recipe, (str, Path)):
        raise SteerkitError(
            f"A recipe is the path of a file or the name of a shipped one, not a {type(recipe).__name__}."
        )
    if isinstance(overrides, str):
        raise SteerkitError(f"overrides is a list of settings: write [{overrides!r}].")
    if any(isinstance(one, str) and not one.strip() for one in (recipe, out, store)):
        raise SteerkitError("A recipe, out and store are paths, and an empty text is none. Name one, or leave it out.")
    with ranks(named(executor, workers, address)) as here:
        if here.follows:
            return _written(here.follow())
        plan = plan_recipe(recipe, overrides, Catalog.discover(), profile)
        chosen = None if store is None else Path(store)
        here.path = execute(plan, Path(out), observer or SILENT, store=chosen, threads=threads, by=here.by)
        return here.path


def _written(path: Path | None) -> Path:
    """The run directory of a process that leads this one, if it wrote one."""
    if path is None:
        raise ParallelError("The first process ended without a run directory, and says why.")
    return path


def execute(
    plan: Plan,
    out: Path,
    observer: Observer = SILENT,
    *,
    store: Path | None = None,
    threads: int | None = None,
    by: Chosen = THIS_PROCESS,
    report: Callable[[Path], object] | None = None,
) -> Path:
    """Carry out a plan. It needs nothing else: neither the recipe's file nor that its plugins are installed.

    Args:
        plan: the plan.
        out: where run directories go.
        observer: told what is done.
        store: where outputs are kept; ``.store`` in ``out`` if not given.
        threads: CPU threads of each process; as they are if not given.
        by: who carries it out.
        report: writes ``report.html`` into the directory once all is measured. The run is finished when that is there;
            a run that is finished but for it is measured no second time.
    """
    require_places(out, store)
    by.require(plan.loading)
    expected = duration(plan) if by.is_local else None  # of one process, as it was measured
    observer = left = Left(observer, None if expected is None else expected.seconds)
    with with_threads(by.threads(threads, plan.loading.device)):
        kept = Store(store or out / STORE)
        kept.remove_halves()
        model = stages.prepare(plan, kept, observer, by.load)
        if not by.is_local:
            model = stages.let_go(plan, model)
        provenance = _provenance(plan, model)
        assert provenance.run_hash is not None

        def unreported(path: Path) -> bool:
            return report is not None and not (path / REPORT).exists() and holds(path, provenance, plan.report.recipe)

        with RunDirectory.open(out, plan.report.name, provenance.run_hash, unreported) as directory:
            observer = Noted(observer, directory.note)
            began = "continuing" if directory.resumed else "writing"
            observer.step(Stage("directory", f"{began} {directory.path}"))
            for said in kept.discarded:
                directory.note(said)

            def measure() -> None:
                left.whole = left.whole and not directory.resumed
                with _told_where(directory):
                    measured = _measure(plan, model, provenance, directory, kept, observer, by)
                directory.write(*measured, left.off())

            if not _is_measured(directory, plan.report.recipe):
                measure()
            if report is not None:
                report(directory.path)
            directory.close()
            return directory.path


def _is_measured(directory: RunDirectory, recipe: str) -> bool:
    """Whether a try before has measured everything. What of it can't be read is made again."""
    if not directory.resumed or not (directory.path / RESULTS).exists():
        return False
    directory.write_times()  # where they can't be read, nothing needs to be measured again
    fault = fault_of(directory.path, recipe)
    again = f"{fault} It is discarded, and what was measured is written again"
    directory.note(again if fault else "everything is measured already")
    return fault is None


def _measure(
    plan: Plan,
    model: LiveModel,
    provenance: Provenance,
    directory: RunDirectory,
    kept: Store,
    observer: Observer,
    by: Chosen,
) -> tuple[Results, list[Sample]]:
    """What a run measures, with its samples."""
    write_text(directory.path / "recipe.yaml", plan.report.recipe)
    write_json(directory.path / PLAN, plan.to_json())
    write_json(directory.path / "provenance.json", provenance.model_dump(mode="json"))

    use = stages.model_use(plan, model)
    opened = by.open(Bench(use, model, observer), model.device.type, use.threads, observer, directory.note)
    with closing(opened) as executor:
        outputs_of = partial(_outputs, store=kept, executor=executor, directory=directory, observer=observer)
        plan, tokens = _with_tokens(plan, use, model, outputs_of)
        plan, filters = _filtered(plan, use, outputs_of)
        plan, completions = _completed(plan, use, outputs_of, model, directory.path)
        graph = stages.make_graph(plan, use)
        outputs = outputs_of(graph.tasks, graph.given, graph.wanted)
        # What can't work is found here, before hours of measuring: sites, widths and positions.
        searches = _searches(graph, outputs, directory.path)
        directions = _directions(plan, model, graph, outputs, directory.path)
        conditions = stages.conditions(plan, directions)
        stages.require_possible(conditions, plan, model)
        stages.require_monitors(plan, directions, model)
        found = outputs.want(graph.wanted)

    plan = stages.calibrated(plan, graph, outputs.want([*graph.thresholds.values()]))
    collected = stages.Collected(
        directions=directions,
        conditions=conditions,
        scores=stages.read_scores(plan, graph, found, model),
        separation=stages.read_separations(graph, found),
        searches=searches,
        filters=filters,
        tokens=tokens,
        completions=completions,
        suffixes=stages.read_suffixes(graph, found, directions),
    )
    return stages.collect(plan, model, collected)


def require_places(out: Path, store: Path | None = None) -> None:
    """Find out whether a run can be written, before anything is asked, loaded or computed for it.

    Raises:
        SteerkitError: where run directories or kept outputs can't be written.
    """
    for place in (out, store):
        readable_path(str(place or "."))  # raises for what no path can be
    if store is not None and str(store) == ".":  # what an empty path is, too
        raise SteerkitError("A store is a folder of its own. Name one, or leave it out for .store beside the runs.")
    require_folder(out, "run directories", "Choose another --out.")
    require_folder(store or out / STORE, "kept outputs", "Choose another --store.")


def _outputs(
    tasks: Sequence[Task],
    given: Mapping[str, bytes],
    wanted: Sequence[Task],
    *,
    store: Store,
    executor: Executor,
    directory: RunDirectory,
    observer: Observer,
) -> Outputs:
    """The outputs of tasks, with each part of the run told when it begins and timed when it is done."""
    said: set[str] = set()

    def began(task: Task) -> None:
        if task.title not in said:
            said.add(task.title)
            observer.step(Stage(task.part, task.title))

    def ended(done: Done) -> None:
        directory.took(done.unit.tasks[0].title, done.seconds)

    outputs = Outputs(tasks, given, store, executor, began, ended)
    kept = outputs.kept(wanted)
    if kept:
        observer.step(
            Stage("kept", f"{kept} of {counted(len(wanted), 'output')} {agreeing(kept)} in the store already")
        )
    return outputs


def _with_tokens(
    plan: Plan, use: ModelUse, model: LiveModel, outputs_of: Callable[..., Outputs]
) -> tuple[Plan, list[TokensEntry]]:
    """The plan with first tokens of refusals where its options ask for some that are known or found."""
    tasks = stages.token_tasks(plan, use)
    listed = list({task.key: task for one in tasks.values() for task in one}.values())
    finding = [one[-1] for one in tasks.values()]
    return stages.with_tokens(plan, model, tasks, outputs_of(listed, {}, finding).want(finding) if listed else {})


def _filtered(plan: Plan, use: ModelUse, outputs_of: Callable[..., Outputs]) -> tuple[Plan, list[FilterEntry]]:
    """The plan with the examples that its filters keep: what is estimated and measured depends on these alone."""
    tasks = stages.filter_tasks(plan, use)
    if not tasks:
        return plan, []
    listed = list(tasks.values())
    return stages.filtered(plan, tasks, outputs_of(listed, {}, listed).want(listed))


def _completed(
    plan: Plan, use: ModelUse, outputs_of: Callable[..., Outputs], model: LiveModel, folder: Path
) -> tuple[Plan, list[CompletionsEntry]]:
    """The plan with what the model itself says, where that is data: each data set in a file of its own, for readers."""
    entries = []
    for one in plan.completions:
        graph, tasks = stages.completion_tasks(plan, use, one)
        wanted = list(tasks.values())
        outputs = outputs_of([*graph.tasks, *wanted], graph.given, wanted)
        _searches(graph, outputs, folder)
        with _said_of(one):
            written = outputs.want(wanted)
        plan, entry = stages.completed(plan, one, tasks, written, model)
        entries.append(entry)
        write_text(folder / f"completions-{one.name}.jsonl", stages.completion_lines(plan, one))
    return plan, entries


@contextmanager
def _said_of(one: PlannedCompletions) -> Iterator[None]:
    """Conditions that can't work are met here first: the error says which condition, and for which data set."""
    try:
        yield
    except NoCandidateError:
        raise  # which names its search
    except SteerkitError as error:
        told = str(error).removeprefix(f"Condition {one.under}: ")
        raise type(error)(f"Data set {one.name}, condition {one.under}: {told}") from None


@contextmanager
def _told_where(directory: RunDirectory) -> Iterator[None]:
    """Where no candidate can be chosen: which file holds what they scored."""
    try:
        yield
    except NoCandidateError as error:
        tables = " and ".join(map(str, unchosen(directory.path)))
        told = f"{error} What each scored is in {tables}; loosen a bound and run it again." if tables else str(error)
        directory.note(told)
        raise NoCandidateError(told) from None


def _searches(graph: Graph, outputs: Outputs, folder: Path) -> list[SearchEntry]:
    """What candidates scored, each search in a file of its own: also where then none of them can be chosen."""
    searches = []
    for search in graph.searches:
        tables = outputs.want(list(search.scored.values()))
        searches.append(stages.describe_search(search, tables))
        write_json(folder / table_name(search.planned.name), stages.candidate_rows(searches[-1]))
    return searches


def _directions(plan: Plan, model: LiveModel, graph: Graph, outputs: Outputs, folder: Path) -> dict[str, Direction]:
    """Directions have a file of their own, in which each says what it came from."""
    from steerkit.artifacts.directions import save_directions

    if not plan.directions:
        return {}
    found = {**graph.given, **outputs.want([*graph.estimates, *(search.chosen for search in graph.searches)])}
    directions, chosen = [], []
    for search in graph.searches:
        direction = stages.read_direction(found[search.chosen.key], search.planned.name)
        over = direction.provenance["search"]["over"]
        source = next(planned for planned in plan.directions if planned.name == over)
        provenance = {**direction.provenance, **_classes(source), "recipe_hash": plan.hash, "model": model.source}
        chosen.append(direction.replace(provenance=provenance))
    for planned in plan.directions:
        # Of what may have been kept by another run: this run's names for what it came from.
        own = {**_classes(planned), "recipe_hash": plan.hash, "model": model.source}
        for direction in stages.read_estimates(planned, found[graph.directions[planned.name]]):
            if planned.file is None:
                direction = direction.replace(provenance={**direction.provenance, **own})
            directions.append(direction)
    save_directions(folder / "directions.safetensors", [*directions, *chosen])
    return {direction.name: direction for direction in (*directions, *chosen)}


def _classes(planned: PlannedDirection) -> dict[str, Any]:
    """What a direction was estimated from, by class; nothing of a file."""
    if planned.labelled:
        return {"classes": {label: str(ref) for label, ref in planned.labelled}}
    return {label: str(ref) for label, ref in planned.classes}


def _provenance(plan: Plan, model: LiveModel) -> Provenance:
    said = {one.name for one in plan.completions}  # only the run writes them, and what they depend on is here
    read = {name: splits for name, splits in plan.data.items() if name not in said}
    data = {str(DataRef(name, split)): rows for name, splits in read.items() for split, rows in splits.items()}
    return describe_run(
        recipe_hash=plan.hash,
        seed=plan.seed,
        data=data,
        model=stages.facts_of(model),
        plugins=stages.plugins_of(plan, model),
        folder=plan.report.folder or Path.cwd(),
    )


@contextmanager
def with_threads(number: int | None) -> Iterator[None]:
    """Run the body with so many CPU threads; None leaves them as they are."""
    import torch

    if number is not None and (not isinstance(number, int) or not 1 <= number <= MOST_THREADS):
        raise SteerkitError(f"A run takes 1 to {MOST_THREADS} threads, not {number!r}.")
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)
