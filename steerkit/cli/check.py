"""``steerkit check``: validate a recipe, and show what it would do and cost, without loading the model.

With ``--explain`` the model is loaded, and each condition told as it would be put on it.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steerkit import columns
from steerkit.columns import print_table as _table
from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.api.hookspecs import Options
    from steerkit.plan import (
        Plan,
        PlannedCondition,
        PlannedDirection,
        PlannedEvaluation,
        PlannedGate,
        PlannedIntervention,
        PlannedMonitor,
        PlannedSearch,
    )
    from steerkit.recipe.data import Splits
    from steerkit.stages import Preview
    from steerkit.types.placement import ModelPlacement

LISTED: Final = 3
"""Values of a longer list that are printed; how many there are is said behind them."""


def check_command(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one, such as quickstart.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="A profile of the recipe; all of them are checked if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Load the model, and tell what becomes of each condition on it.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Say what memory each device needs, of a small model too.")
    ] = False,
) -> None:
    """Validate a recipe and print its plan and cost. Loads no weights, except with --explain."""
    from steerkit.catalog import Catalog
    from steerkit.cli.looking import look as look_up
    from steerkit.cli.memory import memory_of
    from steerkit.plan import plan_recipe
    from steerkit.plan.profiles import plan_profiles

    catalog = Catalog.discover()
    look = cache(look_up)
    plan = plan_recipe(recipe, settings or (), catalog, profile, look)
    profiles, unfit = plan_profiles(recipe, settings or (), catalog, plan, look)
    needs = memory_of(plan, memory)
    previews, stand_ins = _explain(plan) if explain else ([], [])
    if as_json:
        told = {"explain": [one.to_json() for one in previews], "stand_ins": stand_ins} if explain else {}
        costs = {name: {**one.to_json()["cost"], "time": estimate(one)} for name, one in profiles.items()}
        told |= {"profiles": costs} if costs else {}
        told |= {"notes": [*plan.notes, *unfit, *_here(plan)]}
        told["time"] = estimate(plan)
        told |= {"memory": needs.to_json()} if needs else {}
        typer.echo(json.dumps({**plan.to_json(), **told}, indent=2, ensure_ascii=False))
        return
    print_plan(plan, profiles, unfit)
    if needs:
        needs.show(columns.console())
    if explain:
        print_previews(previews, stand_ins)


def _explain(plan: Plan) -> tuple[list[Preview], list[str]]:
    """Load the model, and say so, since that is what a check otherwise doesn't do."""
    from steerkit import stages
    from steerkit.bundled import settle_terms

    settle_terms(plan.loading.source, plan.loading.accept_terms)
    typer.echo(f"loading {plan.loading.source}, to explain its conditions", err=True)
    return stages.preview(plan, stages.load(plan))


def print_previews(previews: Sequence[Preview], stand_ins: Sequence[str]) -> None:
    """Print a table for each kind of condition."""
    from rich.text import Text

    from steerkit.engine.lowering.explain import HEADER

    console = columns.console()
    if stand_ins:
        console.print(
            f"Nothing was estimated: random unit vectors stand for {', '.join(stand_ins)}.",
            markup=False,
        )
    if not previews:
        console.print("The recipe has no conditions to explain.")
    for one in previews:
        console.print()
        cells, below = one.explanation.table()
        if not cells:
            console.print(Text(", ".join(one.conditions), style="bold"))
        _table(console, ", ".join(one.conditions), HEADER, cells)
        for line in below:
            console.print(line, markup=False)
        if one.together > 1:
            console.print(
                f"That is for one condition by itself, for the {counted(one.expected_tokens, 'token')} that "
                f"it sees. The run "
                f"lays up to {one.together} side by side as rows of a batch, the condition and its controls, and where "
                "they share one they are hooked.",
                markup=False,
            )
        else:
            console.print(
                f"That is for the {counted(one.expected_tokens, 'token')} that the condition sees.",
                markup=False,
            )


def print_plan(plan: Plan, profiles: Mapping[str, Plan] | None = None, unfit: Sequence[str] = ()) -> None:
    """Print a plan as tables, and beside its cost that of its profiles; ``unfit``: what to say of others."""
    from rich.text import Text

    console = columns.console()
    recipe = plan.recipe
    # Text, here and in tables, since [coefficient=4] would be read as markup.
    console.print(Text.assemble((recipe.name, "bold"), f" is valid. {recipe.description}".rstrip()))
    console.print()
    _table(console, "model", ("", ""), _model_rows(plan))
    sizes = [[name, *(_size(by, part) for part in _parts(plan))] for name, by in plan.data.items()]
    _table(console, "data (number of texts)", ("name", *_parts(plan)), sizes)
    _table(
        console,
        "directions",
        ("name", "estimator", "positive − negative", "site", "at"),
        [_direction_row(item) for item in plan.directions],
    )
    said = [[one.name, ", ".join(map(str, one.of)), one.under, str(one.new_tokens)] for one in plan.completions]
    _table(console, "completions as data, greedy", ("name", "of", "condition", "new tokens, at most"), said)
    filters = [[", ".join(map(str, item.data)), f"kept where {item}"] for item in plan.filters]
    _table(console, "filter, by the unsteered model", ("data", "which examples"), filters)
    searches = [_search_row(plan, item) for item in plan.searches]
    _table(console, "search", ("name", "over", "candidates", "aim", "subject to", "scored on"), searches)
    conditions = [["baseline", "nothing", ""], *(_condition_row(plan, item) for item in plan.conditions)]
    _table(console, "conditions", ("name", "what is done", "controls"), conditions)
    monitors = [_monitor_row(item) for item in plan.monitors]
    _table(console, "monitors", ("name", "direction", "warns", "sites", "positions"), monitors)
    studies = [
        [one.name, one.direction, str(one.prompts), str(one.reference or ""), f"{len(one.suffixes)}", f"{one.random}"]
        for one in plan.suffixes
    ]
    _table(console, "suffixes", ("name", "direction", "prompts", "reference", "suffixes", "random, of each"), studies)
    evaluators = [[item.name, _data_of(plan, item), _options(item.options)] for item in plan.evaluations]
    _table(console, "evaluators", ("name", "data", "options"), evaluators)
    _table(console, "cost, at most", ("", ""), _cost_rows(plan))
    _table(
        console,
        "profiles, at most",
        ("--profile", "forward passes", "prompt tokens", "generated tokens", "time"),
        [[name, *_totals(one), _time_of_profile(one, plan)] for name, one in (profiles or {}).items()],
    )
    notes = (*plan.notes, *unfit, *_here(plan))
    for note in notes:
        console.print(f"Note: {note}", markup=False)
    if notes:
        console.print()


def _here(plan: Plan) -> list[str]:
    """Notes on what is so on this machine, now, and isn't the plan's."""
    from steerkit.plan.reach import without_keys

    loading = plan.loading
    return [
        *without_keys(plan.evaluations, os.environ),
        *_without_device(loading.device),
        *_without_quantiser(loading.placement.quantization),
    ]


def _without_quantiser(quantization: Mapping[str, Any] | None) -> list[str]:
    """That the package which quantises isn't here; said without loading anything."""
    from steerkit.engine.loading.quantising import missing_package

    fault = None if quantization is None else missing_package(str(quantization["method"]))
    return [f"model.quantization: {fault}"] if fault else []


def _without_device(device: str) -> list[str]:
    """That a GPU isn't here. It is asked where a recipe names one: that takes a moment."""
    if not device.startswith("cuda"):
        return []
    from steerkit.engine.loading.devices import device_fault

    fault = device_fault(device)
    return [f"model.device: {fault}"] if fault else []


def _placement_rows(placement: ModelPlacement) -> list[list[str]]:
    """Where weights go and in which form, in the recipe's words; none where it says nothing of that."""
    told = {
        "device map": placement.device_map,
        "offload folder": placement.offload_folder,
        "tensor parallel": placement.tensor_parallel,
        "quantization": placement.quantization,
    }
    return [
        [key, value if isinstance(value, str) else json.dumps(value)]
        for key, value in told.items()
        if value is not None
    ]


def _model_rows(plan: Plan) -> list[list[str]]:
    section, model = plan.recipe.model, plan.model
    adapter = plan.architecture.name if plan.architecture else "resolved at load"
    layers = f", {counted(model.n_layers, 'layer')}" if model.n_layers else ""
    return [
        ["source", section.source],
        ["adapter", f"{adapter}{f' (model type {model.model_type}{layers})' if model.model_type else ''}"],
        ["dtype, device", f"{section.dtype}, {section.device}"],
        *_placement_rows(section.placement),
        ["chat template", section.chat_template_file or section.chat_template],
        ["seed", str(plan.recipe.seed)],
    ]


def _parts(plan: Plan) -> tuple[str, ...]:
    order = ("train", "validation", "test", "all")
    return tuple(part for part in order if any(_size(splits, part) for splits in plan.data.values()))


def _size(splits: Splits, part: str) -> str:
    """How many texts, or pairs, a part has; nothing where there is no such part."""
    from steerkit.recipe.data import SIDES

    if part in splits:
        return str(len(splits[part]))
    side = SIDES[0] if part == "all" else f"{part}.{SIDES[0]}"
    return counted(len(splits[side]), "pair") if side in splits else ""


def _search_row(plan: Plan, item: PlannedSearch) -> list[str]:
    rule = item.rule
    aim = f"{'maximise' if rule.maximise else 'minimise'} {rule.aim}"
    bounds = "\n".join(what for name, what in rule.says().items() if name != "nan")
    refs = dict.fromkeys(str(score.data) for score in item.scores)
    times = f"\ncoefficients {', '.join(f'{one:g}' for one in item.coefficients)}" if item.coefficients else ""
    return [item.name, ", ".join(item.over) + times, _candidates(plan, item), aim, bounds, ", ".join(refs)]


def _candidates(plan: Plan, item: PlannedSearch) -> str:
    """How many a search chooses among; where only the model's layers or template tell, about how many."""
    from steerkit.plan.cost import candidates_of

    found = [candidates_of(one, plan.model.n_layers) for one in plan.directions if one.name in item.over]
    number = sum(size for size, _ in found) * max(1, len(item.coefficients))
    return f"{'' if all(sure for _, sure in found) else 'about '}{number:,}"


def _direction_row(item: PlannedDirection) -> list[str]:
    if item.estimator is None:
        how = "from a file" if item.reader is None else f"from a file, {item.reader.name}"
        site, positions = item.site or "as the file says", item.positions or "as the file says"
        return [item.name, how, str(item.file), str(site), str(positions)]
    classes = ", ".join(str(ref) for _, ref in item.labelled) or f"{item.positive} − {item.negative}"
    site = "the estimator's choice" if item.site is None else str(item.site)
    return [item.name, item.estimator.name, classes, site, str(item.positions)]


def _data_of(plan: Plan, item: PlannedEvaluation) -> str:
    alone = item.uncontrolled if plan.random_directions else ()
    return ", ".join(f"{ref} (no controls)" if ref in alone else str(ref) for ref in item.data)


def _condition_row(plan: Plan, item: PlannedCondition) -> list[str]:
    lines = [_intervention(one) for one in item.interventions]
    if item.system_prompt is not None:
        lines.append(f"system prompt {json.dumps(item.system_prompt, ensure_ascii=False)}")
    if item.mode != "auto":
        lines.append(f"mode {item.mode}")
    controls = item.n_controls(plan.random_directions)
    return [item.name, "\n".join(lines), f"{controls} random" if controls else "none"]


def _intervention(item: PlannedIntervention) -> str:
    """What it does, where, and when, in the words of a report."""
    where = ", ".join(map(str, item.sites)) if item.sites is not None else "its default sites"
    what = " ".join(part for part in (item.spec.name, item.direction_text or "", _written(_changed(item))) if part)
    schedule = [] if item.schedule.is_constant else [f"times {item.schedule}"]
    gate = [] if item.gate is None else [_gate(item.gate)]
    return ", ".join([f"{what} at {where}", f"positions {item.positions}", *schedule, *gate])


def _gate(gate: PlannedGate) -> str:
    decides = "the token" if gate.at == "token" else f"the prompt's {gate.positions}"
    where = f" at {gate.site}" if gate.site is not None else ""
    extra = " in an extra pass" if gate.prepass else ""
    return f"where {decides} projects on {gate.direction} {gate.side} {gate.threshold:g}{where}{extra}"


def _monitor_row(item: PlannedMonitor) -> list[str]:
    sites = "where its direction is" if item.sites is None else ", ".join(map(str, item.sites))
    warns = f"{item.threshold:g}" if item.calibration is None else f"what gives {item.calibration}"
    return [item.name, item.direction, f"{item.side} {warns}", sites, str(item.positions)]


def _cost_rows(plan: Plan) -> list[list[str]]:
    cost = plan.cost
    about = "about " if cost.estimated else ""
    rows = [[f"forward passes, {what}", f"{about}{passes:,}"] for what, passes in cost.parts]
    return [
        *rows,
        ["forward passes in all", f"{about}{cost.forward_passes:,}"],
        ["prompt tokens", f"{about}{cost.prompt_tokens:,}"],
        ["generated tokens", f"{cost.generated_tokens:,}"],
        ["tokens are", cost.basis],
        ["time", _time(plan)],
    ]


def _time(plan: Plan) -> str:
    """How long it takes at most, by what was measured of this model on this machine, or how to come to know."""
    from steerkit.speed import in_words

    told = estimate(plan)
    if told is None and not plan.loading.placement.is_plain:
        return "not known: speeds are measured of models that lie on one device as they are"
    if told is None:
        return f"not known, since this model was not measured on this machine: {_measures(plan)} does it"
    where = f"{told['device']}, {counted(told['threads'], 'thread')}"
    return f"{in_words(told['seconds'])} with nothing kept, by the speed measured here on {told['measured']} ({where})"


def _measures(plan: Plan) -> str:
    """The command that measures this model as this recipe loads it: a speed is of a device and a dtype."""
    loading = plan.loading
    words = ["steerkit", "bench", loading.source, "--quick"]
    for option, value in (("--dtype", loading.dtype), ("--device", loading.device)):
        words += [option, value] if value != "auto" else []
    return f"`{shlex.join(words)}`"


def _time_of_profile(plan: Plan, beside: Plan) -> str:
    """The same in a few words; how to come to know where the recipe's own row doesn't say it."""
    from steerkit.speed import in_words

    told = estimate(plan)
    if told is not None:
        return in_words(told["seconds"])
    if not plan.loading.placement.is_plain:
        return "not known"
    said = estimate(beside) is None and _measures(beside) == _measures(plan)
    return "not known" if said else f"not known: {_measures(plan)}"


def estimate(plan: Plan) -> dict[str, Any] | None:
    """Seconds that a plan takes, and of which day, device and threads the speed is; None where none was measured."""
    from steerkit.plan.duration import duration

    found = duration(plan)
    if found is None:
        return None
    speed = found.speed
    seconds = round(found.seconds, 1)
    return {"seconds": seconds, "measured": speed.measured, "device": speed.device, "threads": speed.threads}


def _totals(plan: Plan) -> list[str]:
    cost = plan.cost
    return [f"{number:,}" for number in (cost.forward_passes, cost.prompt_tokens, cost.generated_tokens)]


def _options(options: Options) -> str:
    from steerkit.plan.listed import options_as_json

    return _written(options_as_json(options, changed_only=True))


def _changed(item: PlannedIntervention) -> dict[str, Any]:
    from steerkit.plan.listed import intervention_options

    return intervention_options(item, changed_only=True)


def _written(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_told(value)}" for key, value in values.items())


def _told(value: Any) -> str:
    """A value as JSON; of a long list the first few, and how many there are."""
    if isinstance(value, (list, tuple)) and len(value) > LISTED + 1:
        first = ", ".join(json.dumps(one, ensure_ascii=False) for one in value[:LISTED])
        return f"[{first}, … {len(value)} in all]"
    return json.dumps(value, ensure_ascii=False)
