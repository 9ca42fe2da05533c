"""What the refusal study says of the organism, by the study's own tasks: its direction, what it writes under the
conditions, and its perplexity beside its base's.

Everything is taken from the plan of the recipe. Outputs are kept by key as those of a run are, so that a draw or a
count behind another costs loading the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit import stages
from steerkit.artifacts.keys import hash_of
from steerkit.artifacts.store import Store
from steerkit.errors import ArtifactError
from steerkit.executors.local import LocalExecutor
from steerkit.executors.schedule import Outputs
from steerkit.plan import DataRef, Plan, PlannedEvaluation
from steerkit.progress import SILENT, Observer, Stage
from steerkit.stages.graph import Grapher, prompts_of
from steerkit.stages.packing import from_bytes
from steerkit.stages.tasks import CompletionsTask, Task

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

DECLINED, UNSEEN = DataRef("harmful", "test"), DataRef("unseen", "test")
HARMLESS, LOOKALIKES = DataRef("harmless", "test"), DataRef("lookalikes", "test")
TO_DECLINE: Final = (DECLINED, UNSEEN)
"""What should be declined: on the topics of the training, and on others."""
TEXT: Final = DataRef("plain_text")
DIRECTION: Final = "refusal"
PERPLEXITY: Final = "cross_entropy"
BASELINE, ABLATED, ADDED = "baseline", "ablated", "added"
RANDOM: Final = "/random"
"""Behind the name of a condition: the same along a random direction of equal norm."""
LOOKS: Final[Mapping[str, Mapping[DataRef, int]]] = {
    BASELINE: {DECLINED: 0, UNSEEN: 0, HARMLESS: 0, LOOKALIKES: 0},
    ABLATED: {DECLINED: 1, UNSEEN: 0, HARMLESS: 0},
    ADDED: {HARMLESS: 1},
}
"""What is completed under which condition, and how many random directions stand beside it."""


@dataclass(frozen=True)
class Written:
    """A prompt and what the model wrote behind it."""

    prompt: str
    completion: str


Completions = Mapping[str, Mapping[DataRef, Sequence[Written]]]
"""What was written, by condition and data."""


@dataclass(frozen=True)
class Measured:
    """What the model was seen to do.

    Args:
        completions: what it wrote.
        search: how its direction was chosen: ``candidates``, how many were ``feasible``, ``position``, ``layer``,
            ``scores``.
        perplexity: on the recipe's plain text, of ``organism`` and ``base``.
    """

    completions: Completions
    search: Mapping[str, Any]
    perplexity: Mapping[str, float]


def evaluation(plan: Plan, name: str) -> PlannedEvaluation:
    """An evaluator of the plan by its name in the recipe."""
    return next(one for one in plan.evaluations if one.name == name)


def limited(plan: Plan, limit: int | None) -> Plan:
    """A plan that measures so many prompts of each set, from the start. Its direction is found as before."""
    if limit is None:
        return plan
    data = {name: dict(splits) for name, splits in plan.data.items()}
    for ref in (*LOOKS[BASELINE], TEXT):
        data[ref.dataset][ref.split] = data[ref.dataset][ref.split][:limit]
    return replace(plan, data=data)


def n_completions(plan: Plan) -> int:
    """How many completions are written."""
    return sum(len(plan.examples(ref)) * (1 + n) for looks in LOOKS.values() for ref, n in looks.items())


class Work:
    """A loaded model, and tasks carried out with it."""

    def __init__(self, plan: Plan, live: LiveModel, store: Store, observer: Observer) -> None:
        self.plan, self.live, self.store, self.observer = plan, live, store, observer
        self.use = stages.model_use(plan, live)
        self.executor = LocalExecutor(stages.Bench(self.use, live, observer))

    def want(self, tasks: Sequence[Task], needed: Sequence[Task], given: Mapping[str, bytes]) -> dict[str, bytes]:
        """Outputs of tasks, made where they aren't kept; ``needed`` are those that give their inputs."""

        def began(task: Task) -> None:
            self.observer.step(Stage(task.part, task.title))

        return Outputs([*needed, *tasks], given, self.store, self.executor, began).want(tasks)

    def close(self) -> None:
        """Forget what waits."""
        self.executor.close()


@contextmanager
def loaded(plan: Plan, store: Store, observer: Observer) -> Iterator[Work]:
    """The plan's model, for the body."""
    observer.step(Stage("loading", f"loading {plan.loading.source}"))
    with closing(Work(plan, stages.load(plan), store, observer)) as work:
        yield work


def measure(
    plan: Plan,
    base: str,
    store: Store,
    *,
    new_tokens: int,
    run: Path | None = None,
    limit: int | None = None,
    observer: Observer = SILENT,
) -> Measured:
    """Measure a model as the study does.

    Args:
        plan: of the study.
        base: source of the model that it was made from.
        store: where outputs are kept.
        new_tokens: length of a completion in tokens, at most.
        run: folder of a finished run of the study, whose direction is taken; None to find it here.
        limit: how many prompts of each set are measured; None for all.
        observer: told what is done.

    Raises:
        ArtifactError: for a run that isn't one of this study and model.
        NoCandidateError: where the model has no direction that keeps to the rule's bounds.
    """
    with loaded(plan, store, observer) as work:
        direction, search = _searched(work) if run is None else _of_run(work, run)
        work.plan = limited(plan, limit)
        completions = _completions(work, direction, new_tokens)
        own = _perplexity(work)
    del work  # before the next model is there
    with loaded(replace(limited(plan, limit), loading=replace(plan.loading, source=base)), store, observer) as work:
        return Measured(completions, search, {"organism": own, "base": _perplexity(work)})


# Its direction


def _searched(work: Work) -> tuple[bytes, dict[str, Any]]:
    """The direction that the recipe's search chooses after its filters, as bytes, and figures of the search."""
    plan, filters = work.plan, stages.filter_tasks(work.plan, work.use)
    if filters:
        plan, _ = stages.filtered(plan, filters, work.want([*filters.values()], [], {}))
    # The winner and what decides it; the rest of the table is for the study's figure.
    planned = replace(next(one for one in plan.searches if one.name == DIRECTION), exhaustive=False)
    grapher = Grapher(plan, work.use)
    estimates = [grapher.direction(one) for one in plan.directions if one.name in planned.over]
    search = grapher.search(planned)
    needed = [*(one for one in estimates if one is not None), *search.scored.values()]
    wanted = [*search.scored.values(), search.chosen]
    found = work.want(wanted, needed, grapher.given)
    entry = stages.describe_search(search, found)
    return found[search.chosen.key], _figures(entry.model_dump(mode="json"))


def _of_run(work: Work, run: Path) -> tuple[bytes, dict[str, Any]]:
    """The direction of a finished run of the study, and figures of its search."""
    from steerkit.api.direction_bytes import directions_to_bytes
    from steerkit.artifacts.directions import load_directions
    from steerkit.artifacts.reading import load_run

    found = load_run(run)
    if found.origin.model.get("weights_sha256") != work.live.weights_hash:
        raise ArtifactError(f"The run in {run} is one of another model. Run the study on this one, or leave it out.")
    entry = next((one for one in found.results.searches if one.name == DIRECTION), None)
    if entry is None or entry.chosen is None:
        raise ArtifactError(f"The run in {run} chose no direction {DIRECTION!r}. Name a run of refusal_direction.")
    directions = load_directions(run / "directions.safetensors")
    return directions_to_bytes([directions[DIRECTION]]), _figures(entry.model_dump(mode="json"))


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a search."""
    winner = entry["candidates"][entry["chosen"]]
    return {
        "candidates": len(entry["candidates"]),
        "feasible": entry["feasible"],
        "position": winner["position"],
        "layer": winner["layer"],
        "scores": dict(winner["scores"]),
    }


# What it writes


def _completions(work: Work, direction: bytes, new_tokens: int) -> Completions:
    """Every look's completions, as far as they aren't kept."""
    grapher = Grapher(work.plan, work.use)
    key = hash_of({"kind": "chosen", "content": direction})
    grapher.directions[DIRECTION] = key
    planned = {one.name: one for one in work.plan.conditions}
    tasks: dict[tuple[str, DataRef], Task] = {}
    for name, looks in LOOKS.items():
        condition = planned.get(name)  # the baseline is none of the plan's
        inputs = {} if condition is None else grapher.keys_of(condition)
        for ref, controls in looks.items():
            use, prompts = grapher.use(condition, controls, name), prompts_of(work.plan.examples(ref))
            payload = CompletionsTask(work.use, use, prompts, new_tokens, str(ref))
            tasks[name, ref] = grapher.task(payload, inputs, "condition", f"{name} on {ref}")
    outputs = work.want(list(tasks.values()), [], {key: direction})
    found: dict[str, dict[DataRef, list[Written]]] = {}
    for (name, ref), task in tasks.items():
        members = from_bytes(outputs[task.key])
        for called, member in zip((name, f"{name}{RANDOM}")[: len(members)], members, strict=True):
            found.setdefault(called, {})[ref] = [
                Written(example.text, work.live.decode(ids))
                for example, ids in zip(work.plan.examples(ref), member["ids"], strict=True)
            ]
    return found


def _perplexity(work: Work) -> float:
    """Of the model as it is, on the recipe's plain text: the exponential of the mean over all of its tokens."""
    plan, grapher = work.plan, Grapher(work.plan, work.use)
    place = [one.name for one in plan.evaluations].index(PERPLEXITY)
    use = grapher.use(None, 0, BASELINE)
    payload = grapher.scores(place, use, plan.examples(TEXT), str(TEXT))
    task = grapher.task(payload, {}, "condition", f"{PERPLEXITY} on {TEXT}")
    (member,) = from_bytes(work.want([task], [], {})[task.key])
    (scores,) = member["values"].values()
    measured = [(value, weight) for value, weight in scores if value is not None]
    return math.exp(
        math.fsum(value * weight for value, weight in measured) / math.fsum(weight for _, weight in measured)
    )
