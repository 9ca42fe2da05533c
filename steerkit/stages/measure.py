"""Stages that look at the model: load it, estimate directions, prepare its evaluation, and describe what was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.evaluator import Evaluator
from steerkit.api.hookspecs import Spec
from steerkit.artifacts.answers import AnswersOnDisk
from steerkit.artifacts.provenance import code_hash, tokenizer_hash
from steerkit.bundled import cache_folder
from steerkit.catalog import Catalog, implementation
from steerkit.errors import ArtifactError, AttachError, SteerkitError
from steerkit.plan import DataRef, Plan, PlannedDirection, held_out
from steerkit.plan.types import PlannedMonitor
from steerkit.types import Site, resolve_sites

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.api.estimator import Estimator
    from steerkit.api.monitor import Monitor
    from steerkit.engine.measuring.evaluate import Evaluation
    from steerkit.progress import Observer
    from steerkit.session.model import LiveModel
    from steerkit.types import Example


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
        chat_template_arguments=wanted.chat_template_arguments,
        trust_remote_code=wanted.trust_remote_code,
        accept_terms=wanted.accept_terms,
        batch_tokens=wanted.batch_tokens,
    )


def estimate(plan: Plan, live: LiveModel, observer: Observer) -> dict[str, Direction]:
    """Every direction of the recipe: read from its file, or estimated."""
    from steerkit.session import estimate_direction

    found: dict[str, Direction] = {}
    for planned in plan.directions:
        observer.step(f"direction {planned.name}")
        if planned.file is not None:
            found[planned.name] = saved_direction(planned)
            continue
        positive, negative, spec = _classes(planned)
        direction = estimate_direction(
            live,
            plan.examples(positive),
            plan.examples(negative),
            site=cast(Any, planned.site),
            positions=cast(Any, planned.positions),
            estimator=spec.name,
            name=planned.name,
            progress=observer.progress,
            options=planned.options.model_dump(),
        )
        classes = {"positive": str(positive), "negative": str(negative), "recipe_hash": plan.hash}
        found[planned.name] = direction.replace(provenance={**direction.provenance, **classes})
    return found


def saved_direction(planned: PlannedDirection) -> Direction:
    """A direction of the recipe that a file holds, under its name or alone."""
    from steerkit.artifacts.directions import load_directions

    assert planned.file is not None
    saved = load_directions(planned.file, site=planned.site, positions=planned.positions)
    if planned.name not in saved and len(saved) > 1:
        raise ArtifactError(
            f"{planned.file} holds {', '.join(saved)}, and none is called {planned.name!r}. "
            "Name the direction in the recipe as it is named in the file."
        )
    return saved.get(planned.name, next(iter(saved.values()))).replace(name=planned.name)


def _classes(planned: PlannedDirection) -> tuple[DataRef, DataRef, Any]:
    assert planned.positive is not None and planned.negative is not None and planned.estimator is not None
    return planned.positive, planned.negative, planned.estimator


def evaluation(plan: Plan, live: LiveModel, observer: Observer) -> Evaluation:
    """The recipe's evaluators on their data, ready to be run under one condition after another."""
    from steerkit.engine.measuring.evaluate import Evaluation, Job, SampleRequest

    jobs = []
    for planned in plan.evaluations:
        kind = cast("type[Evaluator]", implementation(planned.spec))
        evaluator = kind(planned.options, live.vocabulary)
        jobs += [Job(planned.name, evaluator, planned.needs, str(ref), planned.labels) for ref in planned.data]
    samples = None
    if plan.samples is not None:
        samples = SampleRequest(str(plan.samples.data), plan.samples.n, plan.samples.max_new_tokens)
    asks = any(planned.needs.calls for planned in plan.evaluations)
    kept = AnswersOnDisk(cache_folder() / "answers") if asks else None
    return Evaluation(live, jobs, evaluated_examples(plan), samples, observer, seed=plan.recipe.seed, kept=kept)


def monitors(plan: Plan, directions: Mapping[str, Direction], n_layers: int) -> list[Monitor]:
    """The recipe's monitors."""
    from steerkit.api.monitor import Monitor

    built = []
    for item in plan.monitors:
        try:
            direction = directions[item.direction]
            sites = monitor_sites(item, direction, n_layers)
            built.append(Monitor(item.name, direction, item.threshold, item.side, sites, item.positions))
        except SteerkitError as error:
            raise type(error)(f"monitors.{item.name}: {error}") from None
    return built


def monitor_sites(item: PlannedMonitor, direction: Direction, n_layers: int) -> tuple[Site, ...] | None:
    """Where a monitor reads, or None for its direction's own site.

    A pattern means those of its sites that a direction of several has vectors at: an estimator may leave some out.
    """
    if item.sites is None:
        return None
    several = not direction.is_single or "left_out" in direction.provenance
    found: dict[Site, None] = {}
    for written in item.sites:
        meant = resolve_sites(written, n_layers)
        if several and not isinstance(written, Site):
            meant = [site for site in meant if site in direction.sites]
            if not meant:
                raise AttachError(
                    f"direction {direction.name!r} has no vectors at {written}; it has them at {direction.describe()}."
                )
        found.update(dict.fromkeys(meant))
    return tuple(found)


def evaluated_examples(plan: Plan) -> dict[str, tuple[Example, ...]]:
    """The examples of every split that outputs are looked at on, under the name that records use."""
    refs = [ref for planned in plan.evaluations for ref in planned.data]
    if plan.samples is not None:
        refs.append(plan.samples.data)
    return {str(ref): plan.examples(ref) for ref in refs}


def separations(plan: Plan, live: LiveModel, observer: Observer) -> list[dict[str, Any]]:
    """How well each estimated direction's method separates its classes, layer by layer."""
    from steerkit.engine.measuring.separation import separation

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
            {"positive": plan.examples(positive), "negative": plan.examples(negative)},
            {"positive": plan.examples(seen[0]), "negative": plan.examples(seen[1])},
            planned.positions,
            observer.progress,
        )
        common = {"direction": planned.name, "positions": str(planned.positions), "held_out": apart}
        rows += [{**common, "data": [str(ref) for ref in seen], **one.to_json()} for one in found]
    return rows


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
