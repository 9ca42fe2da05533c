"""The stages of a run, each from plain values to plain values. ``run.py`` knows their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.evaluator import Evaluator, Score
from steerkit.api.hookspecs import Spec
from steerkit.api.intervention import Gate, Intervention
from steerkit.artifacts.provenance import code_hash, tokenizer_hash
from steerkit.catalog import Catalog, implementation
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.plan import (
    DataRef,
    Plan,
    PlannedCondition,
    PlannedDirection,
    PlannedEvaluation,
    PlannedIntervention,
    held_out,
)
from steerkit.plan.types import options_as_json
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from steerkit.api.estimator import Direction, Estimator
    from steerkit.engine.evaluate import ConditionScores, Evaluation
    from steerkit.engine.live import LiveModel
    from steerkit.engine.progress import Observer

BASELINE = "baseline"


@dataclass(frozen=True)
class Condition:
    """A condition to run: the baseline, one of the recipe's, or a control of one.

    Args:
        name: as records call it.
        kind: ``baseline``, ``intervention`` or ``control``.
        planned: what the recipe says; None for the baseline.
        interventions: ready to attach.
        of: the condition that a control stands beside.
    """

    name: str
    kind: str
    planned: PlannedCondition | None
    interventions: tuple[Intervention, ...]
    of: str | None = None


def load(plan: Plan) -> LiveModel:
    """Load the recipe's model and check its sites."""
    from steerkit.session import load_model

    wanted = plan.recipe.model
    return load_model(
        wanted.source,
        revision=wanted.revision,
        adapter=wanted.adapter,
        dtype=wanted.dtype,
        device=wanted.device,
        chat_template=plan.chat_template,
        system_prompt=wanted.system_prompt,
        trust_remote_code=wanted.trust_remote_code,
        accept_terms=wanted.accept_terms,
        batch_tokens=wanted.batch_tokens,
    )


def estimate(plan: Plan, live: LiveModel, observer: Observer) -> dict[str, Direction]:
    """Every direction of the recipe: read from its file, or estimated."""
    from steerkit.artifacts.directions import load_directions
    from steerkit.session import estimate_direction

    found: dict[str, Direction] = {}
    for planned in plan.directions:
        observer.step(f"direction {planned.name}")
        if planned.file is not None:
            saved = load_directions(planned.file)
            if planned.name not in saved and len(saved) > 1:
                raise ArtifactError(
                    f"{planned.file} holds {', '.join(saved)}, and none is called {planned.name!r}. "
                    "Name the direction in the recipe as it is named in the file."
                )
            found[planned.name] = replace(saved.get(planned.name, next(iter(saved.values()))), name=planned.name)
            continue
        positive, negative, spec = _classes(planned)
        direction = estimate_direction(
            live,
            plan.texts(positive),
            plan.texts(negative),
            site=cast(Any, planned.site),
            positions=cast(Any, planned.positions),
            estimator=spec.name,
            name=planned.name,
            progress=observer.progress,
            **planned.options.model_dump(),
        )
        classes = {"positive": str(positive), "negative": str(negative), "recipe_hash": plan.hash}
        found[planned.name] = replace(direction, provenance={**direction.provenance, **classes})
    return found


def _classes(planned: PlannedDirection) -> tuple[DataRef, DataRef, Any]:
    assert planned.positive is not None and planned.negative is not None and planned.estimator is not None
    return planned.positive, planned.negative, planned.estimator


def conditions(plan: Plan, directions: Mapping[str, Direction]) -> list[Condition]:
    """The baseline, the recipe's conditions, and beside each its controls along random directions.

    A control's gates keep their own directions: it acts where the condition acts, along something else.

    Raises:
        SteerkitError: naming the condition, where a gate's direction can't decide anything.
    """
    found = [Condition(BASELINE, "baseline", None, ())]
    for planned in plan.conditions:
        built = _build(planned, directions, directions)
        found.append(Condition(planned.name, "intervention", planned, built))
        if not planned.control or not any(item.direction for item in planned.interventions):
            continue
        for number in range(1, plan.random_directions + 1):
            stand_ins = {name: random_like(one, plan.recipe.seed, number) for name, one in directions.items()}
            built = _build(planned, stand_ins, directions)
            found.append(Condition(f"{planned.name}/random-{number}", "control", planned, built, planned.name))
    return found


def _build(
    planned: PlannedCondition, directions: Mapping[str, Direction], deciding: Mapping[str, Direction]
) -> tuple[Intervention, ...]:
    """A condition's interventions along ``directions``, with gates on ``deciding`` ones."""
    found = []
    for item in planned.interventions:
        direction = None if item.direction is None else directions[item.direction]
        kind = cast("type[Intervention]", implementation(item.spec))
        built = kind(item.options, direction, item.sites, item.positions)
        # Set, not passed: a plugin's own __init__ needn't know of them.
        built.schedule = item.schedule
        if (gate := item.gate) is not None:
            try:
                built.gate = Gate(
                    deciding[gate.direction],
                    gate.threshold,
                    gate.side,
                    gate.site,
                    gate.at,
                    gate.positions,
                    gate.prepass,
                )
            except SteerkitError as error:
                raise type(error)(f"Condition {planned.name}: {error}") from None
        found.append(built)
    return tuple(found)


def require_possible(conditions: Sequence[Condition], evaluation: Evaluation, live: LiveModel) -> None:
    """Lower every condition, and place its positions in every prompt, before anything is measured.

    Raises:
        SteerkitError: naming the condition, where its sites, widths or positions don't fit model and prompts.
    """
    from steerkit.engine.positions import intervals
    from steerkit.engine.program import at_sites

    prompts = [live.chat.render(text) for job in evaluation.jobs for text in evaluation.texts[job.data]]
    frames = [batch.frame for batch in live.batched(prompts, "left", extra_tokens=1)]
    for condition in conditions:
        try:
            at_sites(condition.interventions, live.layout)
            gates = [item.gate for item in condition.interventions if item.gate is not None]
            named = {item.positions for item in condition.interventions}
            named |= {gate.positions for gate in gates if gate.at == "prompt"}
            for positions in (one for one in named if one.role != FROM_TOKEN):
                for frame in frames:
                    intervals(positions, frame)
        except SteerkitError as error:
            raise type(error)(f"Condition {condition.name}: {error}") from None


def random_like(direction: Direction, seed: int, number: int) -> Direction:
    """A random direction whose vectors have the same norms: what any direction of this size would do.

    One and the same for every condition, so that conditions can be compared.
    """
    import torch

    key = sha256(f"{seed}/{direction.name}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    vectors = torch.randn(direction.vectors.shape, generator=generator, dtype=torch.float64)
    norms = direction.vectors.double().norm(dim=1, keepdim=True)
    vectors = vectors / vectors.norm(dim=1, keepdim=True) * norms
    return direction.with_vectors(vectors.float(), f"{direction.name}/random-{number}")


def evaluation(plan: Plan, live: LiveModel, observer: Observer) -> Evaluation:
    """The recipe's evaluators on their data, ready to be run under one condition after another."""
    from steerkit.engine.evaluate import Evaluation, Job, SampleRequest

    jobs = []
    for planned in plan.evaluations:
        kind = cast("type[Evaluator]", implementation(planned.spec))
        evaluator = kind(planned.options, live.vocabulary)
        jobs += [Job(planned.name, evaluator, planned.needs, str(ref)) for ref in planned.data]
    samples = None
    if plan.samples is not None:
        samples = SampleRequest(str(plan.samples.data), plan.samples.n, plan.samples.max_new_tokens)
    return Evaluation(live, jobs, evaluated_texts(plan), samples, observer)


def evaluated_texts(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The texts of every split that outputs are looked at on, under the name that records use."""
    refs = [ref for planned in plan.evaluations for ref in planned.data]
    if plan.samples is not None:
        refs.append(plan.samples.data)
    return {str(ref): plan.texts(ref) for ref in refs}


def separations(plan: Plan, live: LiveModel, observer: Observer) -> list[dict[str, Any]]:
    """How well each estimated direction's method separates its classes, layer by layer."""
    from steerkit.engine.separation import separation

    rows: list[dict[str, Any]] = []
    for planned in plan.directions:
        if planned.file is not None or not plan.recipe.report.separation:
            continue
        observer.step(f"separation by layer of {planned.name}")
        positive, negative, spec = _classes(planned)
        apart_from = held_out(positive, plan.data), held_out(negative, plan.data)
        apart = all(apart_from)
        seen = tuple(cast(DataRef, ref) for ref in apart_from) if apart else (positive, negative)
        solver = cast("Estimator", implementation(spec)(planned.options))
        assert planned.positions is not None
        found = separation(
            live,
            solver,
            spec.statistics,
            {"positive": plan.texts(positive), "negative": plan.texts(negative)},
            {"positive": plan.texts(seen[0]), "negative": plan.texts(seen[1])},
            planned.positions,
            observer.progress,
        )
        common = {"direction": planned.name, "positions": str(planned.positions), "held_out": apart}
        rows += [{**common, "data": [str(ref) for ref in seen], **one.to_json()} for one in found]
    return rows


# Stage files hold plain values.


def pack_scores(result: ConditionScores) -> dict[str, Any]:
    """One condition's scores as JSON."""
    scores = [
        {"evaluator": name, "data": data, "values": [[score.value, score.weight] for score in values]}
        for (name, data), values in result.scores.items()
    ]
    return {"scores": scores, "completions": {data: list(texts) for data, texts in result.completions.items()}}


def unpack_scores(packed: Mapping[str, Any]) -> ConditionScores:
    """Scores from JSON, where null stands for a value that isn't finite."""
    from steerkit.engine.evaluate import ConditionScores

    nan = float("nan")
    scores = {
        (item["evaluator"], item["data"]): tuple(
            Score(nan if value is None else value, weight) for value, weight in item["values"]
        )
        for item in packed["scores"]
    }
    return ConditionScores(scores, {data: tuple(texts) for data, texts in packed["completions"].items()})


def facts_of(live: LiveModel) -> dict[str, Any]:
    """What was loaded, and how: everything about the model that numbers depend on."""
    import torch

    config = live.model.config
    gpu = torch.cuda.get_device_name(live.device) if live.device.type == "cuda" else None
    return {
        "source": live.source,
        "adapter": live.adapter_name,
        "model_type": live.facts.model_type,
        "n_layers": live.layout.n_layers,
        "d_model": live.layout.d_model,
        "dtype": str(live.model.dtype).removeprefix("torch."),
        "device": str(live.device),
        "device_name": gpu,
        "threads": torch.get_num_threads(),
        "attention": getattr(config, "_attn_implementation", None),
        "revision": getattr(config, "_commit_hash", None),
        "weights_sha256": live.weights_hash,
        "tokenizer_sha256": tokenizer_hash(live.chat.tokenizer),
        "chat_template_sha256": live.chat.hash,
    }


def plugins_of(plan: Plan, live: LiveModel) -> list[dict[str, Any]]:
    """The plugins that were used, with the hash of their code: an edited plugin keeps its version."""
    listed = [dict(plugin) for plugin in plan.plugins]
    specs: list[Spec] = [item.estimator for item in plan.directions if item.estimator is not None]
    specs += [item.spec for condition in plan.conditions for item in condition.interventions]
    specs += [item.spec for item in plan.evaluations]
    adapter = plan.architecture or Catalog.discover().get("architecture", live.adapter_name)
    found = {(spec.kind, spec.name): code_hash(spec.implementation.partition(":")[0]) for spec in [*specs, adapter]}
    names = {(plugin["kind"], plugin["name"]) for plugin in listed}
    if (adapter.kind, adapter.name) not in names:
        listed.append({"kind": adapter.kind, "name": adapter.name})
    return [{**plugin, "sha256": found.get((plugin["kind"], plugin["name"]))} for plugin in listed]


def describe_condition(condition: Condition, live: LiveModel) -> dict[str, Any]:
    """A condition as ``results.json`` lists it, with the sites that it really acts on."""
    planned = condition.planned
    interventions: Sequence[PlannedIntervention] = planned.interventions if planned is not None else ()
    listed = [
        {
            "name": item.spec.name,
            "direction": item.direction,
            "options": options_as_json(item.options),
            "sites": [str(site) for site in built.sites(live.layout)],
            "positions": str(item.positions),
            **item.when(built.gate.site if built.gate is not None else None),
        }
        for item, built in zip(interventions, condition.interventions, strict=True)
    ]
    control = condition.kind == "control"
    return {
        "name": condition.name,
        "kind": condition.kind,
        "of": condition.of,
        "sweep": None if planned is None or control else planned.sweep,
        "swept": {} if planned is None or control else dict(planned.swept),
        "interventions": listed,
    }


def collect(
    plan: Plan,
    live: LiveModel,
    directions: Mapping[str, Direction],
    conditions: Sequence[Condition],
    scores: Mapping[str, ConditionScores],
    separation: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The contents of ``results.json`` and ``samples.jsonl``."""
    from steerkit.artifacts.results import SCHEMA_VERSION, describe_direction

    kinds = {planned.name: planned for planned in plan.evaluations}
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    samples: list[dict[str, Any]] = []
    for condition in conditions:
        found = scores[condition.name]
        for (name, data), values in found.scores.items():
            plain = None if condition.kind == "baseline" else scores[BASELINE].scores[(name, data)]
            rows, remarks = _records(condition.name, kinds[name], data, values, plain)
            records += rows
            notes += remarks
        if condition.kind != "control":
            samples += _samples(plan, condition.name, found)
    facts = facts_of(live)
    results = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.recipe.name,
        "title": plan.recipe.report.title,
        "description": plan.recipe.description,
        "seed": plan.recipe.seed,
        "model": {key: facts[key] for key in ("source", "adapter", "n_layers", "d_model", "dtype")},
        "data": {f"{name}.{split}": len(texts) for name, by in plan.data.items() for split, texts in by.items()},
        "directions": [describe_direction(direction) for direction in directions.values()],
        "conditions": [describe_condition(condition, live) for condition in conditions],
        "evaluators": [_describe_evaluator(planned) for planned in plan.evaluations],
        "records": records,
        "separation": list(separation),
        "notes": [*_unmeasured(plan, separation), *dict.fromkeys(notes)],
    }
    return results, samples


def _records(
    condition: str, planned: PlannedEvaluation, data: str, values: Sequence[Score], plain: Sequence[Score] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    from steerkit.engine.scores import Summary, derived, paired_difference, summarise

    kind = cast("type[Evaluator]", implementation(planned.spec))
    summary = summarise(values, kind.aggregate)
    moved = Summary(None, 0) if plain is None else paired_difference(values, plain, kind.aggregate)
    summaries = {planned.name: (summary, kind.unit, moved)}
    for name, function in kind.derived.items():
        label = name if planned.name == planned.spec.name else f"{planned.name}.{name}"
        summaries[label] = (derived(summary, function), "", Summary(None, 0))
    rows, notes = [], []
    for name, (one, unit, change) in summaries.items():
        rows.append(
            {
                "condition": condition,
                "evaluator": name,
                "data": data,
                "value": one.value,
                "n": one.n,
                "standard_error": one.standard_error,
                "ci_low": one.ci_low,
                "ci_high": one.ci_high,
                "difference": change.value,
                "difference_ci_low": change.ci_low,
                "difference_ci_high": change.ci_high,
                "aggregate": kind.aggregate,
                "unit": unit,
            }
        )
        if one.note:
            notes.append(f"{name} on {data} under {condition}: {one.note}")
    return rows, notes


def _samples(plan: Plan, condition: str, found: ConditionScores) -> list[dict[str, Any]]:
    from steerkit.artifacts.results import sample_rows

    rows = []
    for data, prompts in evaluated_texts(plan).items():
        columns = {
            name: [score.value for score in values] for (name, where), values in found.scores.items() if where == data
        }
        rows += sample_rows(condition, data, prompts, found.completions.get(data, ()), columns)
    return rows


def _describe_evaluator(planned: PlannedEvaluation) -> dict[str, Any]:
    kind = cast("type[Evaluator]", implementation(planned.spec))
    return {
        "name": planned.name,
        "summary": planned.spec.summary,
        "aggregate": kind.aggregate,
        "unit": kind.unit,
        "options": options_as_json(planned.options),
        "derived": list(kind.derived),
    }


def _unmeasured(plan: Plan, separation: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader might look for and not find, and why."""
    notes = []
    if not plan.random_directions:
        notes.append("Random controls are switched off, so nothing here tells what the direction adds over any other.")
    if plan.samples is not None and plan.samples.data in {ref for item in plan.evaluations for ref in item.data}:
        lengths = [item.needs.max_new_tokens for item in plan.evaluations if plan.samples.data in item.data]
        if 0 < max(lengths) < plan.samples.max_new_tokens:
            notes.append(
                f"Completions of {plan.samples.data} are shown at the {max(lengths)} tokens that are scored, "
                f"not at the {plan.samples.max_new_tokens} that report.samples asks for."
            )
    quiet = [planned.name for planned in plan.conditions if not planned.control]
    if plan.random_directions and quiet:
        notes.append(f"No random controls for {', '.join(quiet)}: the recipe switches them off.")
    if not plan.recipe.report.separation:
        notes.append("Separation by layer is switched off.")
    alike = [f"{row['site']} ({row['direction']})" for row in separation if row["norm"] is None]
    if alike:
        places = ", ".join(alike)
        notes.append(f"No separation at {places}: there the token is the same in every prompt, so the classes are too.")
    files = [planned.name for planned in plan.directions if planned.file is not None]
    if files:
        notes.append(f"No separation by layer for {', '.join(files)}: a direction from a file has no prompts here.")
    return notes
