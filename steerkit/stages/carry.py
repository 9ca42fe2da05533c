"""Carrying tasks out: from a payload and the bytes of its inputs to the bytes of its output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from steerkit.artifacts.keys import hash_of
from steerkit.artifacts.rundir import plain
from steerkit.progress import SILENT, Observer
from steerkit.stages.condition import steer_group
from steerkit.stages.model import load_use
from steerkit.stages.tasks import (
    CompletionsTask,
    EstimateTask,
    Examples,
    GroupUse,
    ModelUse,
    ReferenceTask,
    ScoresTask,
    SeparationTask,
    Task,
)

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.api.estimator import Estimator
    from steerkit.engine.measuring.evaluate import Evaluation, Job, Seen, Steered
    from steerkit.session.model import LiveModel


class Bench:
    """What a process keeps from one task to the next: the model that it loaded, and prompts that it rendered.

    Args:
        use: the model that is loaded already, as tasks name it.
        live: that model.
        observer: told of passes.
    """

    def __init__(self, use: ModelUse | None = None, live: LiveModel | None = None, observer: Observer = SILENT) -> None:
        self._use, self._live, self.observer = use, live, observer
        self._evaluations: dict[str, Evaluation] = {}

    def live(self, use: ModelUse) -> LiveModel:
        """A task's model, loaded unless it is the one that the task before it had."""
        if self._live is None or self._use != use:
            self._evaluations.clear()
            self._live = None  # before the next one is there: two may not fit
            self._live, self._use = load_use(use), use
        return self._live

    def evaluation(
        self,
        use: ModelUse,
        data: str,
        examples: Examples,
        jobs: Sequence[Job] = (),
        seen: Seen | None = None,
        key: str = "",
    ) -> Evaluation:
        """An evaluation of some examples, with their prompts rendered once for all groups that look at them.

        Args:
            use: the model.
            data: what the examples are called.
            examples: the examples.
            jobs: what is to be scored.
            seen: outputs of the baseline.
            key: of jobs and outputs.
        """
        from steerkit.engine.measuring.evaluate import Evaluation

        live = self.live(use)
        known = hash_of([data, examples, key])
        if known not in self._evaluations:
            self._evaluations[known] = Evaluation(live, jobs, {data: examples}, None, self.observer, seen)
        return self._evaluations[known]


def carry_out(tasks: Sequence[Task], inputs: Mapping[str, bytes], bench: Bench) -> dict[str, bytes]:
    """Carry out tasks that go together.

    Args:
        tasks: one, or several with the same ``together``.
        inputs: outputs that they need, by key.
        bench: what this process has.

    Returns:
        the outputs, by key.
    """
    first = tasks[0]
    given = {part: inputs[key] for task in tasks for part, key in task.inputs.items()}
    payload = first.payload
    if isinstance(payload, ScoresTask):
        return _scores(tasks, given, bench)
    if isinstance(payload, EstimateTask):
        return {first.key: _estimate(payload, bench)}
    if isinstance(payload, SeparationTask):
        return {first.key: _separation(payload, bench)}
    if isinstance(payload, CompletionsTask):
        return {first.key: _completions(payload, given, bench)}
    return {first.key: _reference(payload, bench)}


def _estimate(payload: EstimateTask, bench: Bench) -> bytes:
    from steerkit.api.direction_bytes import directions_to_bytes
    from steerkit.session.estimation import estimate_with

    solver = cast("Estimator", payload.estimator.load()(payload.options))
    directions = estimate_with(
        bench.live(payload.model),
        solver,
        payload.estimator.name,
        payload.needs,
        {"positive": payload.positive, "negative": payload.negative},
        payload.site,
        payload.positions,
        name=payload.name,
        seed=payload.seed,
        progress=bench.observer.progress,
    )
    return directions_to_bytes(list(directions.values()))


def _separation(payload: SeparationTask, bench: Bench) -> bytes:
    from steerkit.engine.measuring.separation import separation

    rows = separation(
        bench.live(payload.model),
        cast("Estimator", payload.estimator.load()(payload.options)),
        payload.needs,
        dict(zip(("positive", "negative"), payload.fitted, strict=True)),
        dict(zip(("positive", "negative"), payload.seen, strict=True)),
        payload.positions,
        seed=payload.seed,
        progress=bench.observer.progress,
    )
    return to_bytes([row.to_json() for row in rows])


def _completions(payload: CompletionsTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    bench.observer.step(f"completions on {payload.data}")
    evaluation = bench.evaluation(payload.model, payload.data, payload.examples)
    return to_bytes(evaluation.complete(_steering(payload.group, given), payload.data, payload.new_tokens))


def _reference(payload: ReferenceTask, bench: Bench) -> bytes:
    from safetensors.torch import save

    bench.observer.step(f"baseline logits on {payload.data}")
    evaluation = bench.evaluation(payload.model, payload.data, payload.examples)
    return save({"logits": evaluation.reference(payload.data).contiguous()})


def _scores(tasks: Sequence[Task], given: Mapping[str, bytes], bench: Bench) -> dict[str, bytes]:
    from steerkit.engine.measuring.evaluate import Job

    payloads = [cast(ScoresTask, task.payload) for task in tasks]
    first, data = payloads[0], payloads[0].data
    live = bench.live(first.model)
    jobs = [Job(item.name, item.build(live.vocabulary), item.needs, data) for item in payloads]
    compared = sorted({task.inputs[part] for task in tasks for part in task.inputs if part in _COMPARED})
    asked = [[item.name, item.evaluator, item.options, item.needs] for item in payloads]
    key = hash_of([asked, compared])
    evaluation = bench.evaluation(first.model, data, first.examples, jobs, _seen(given, data), key)
    bench.observer.step(f"{', '.join(item.name for item in payloads)} on {data}")
    known = {data: from_bytes(given["completions"])} if "completions" in given else {}
    members = evaluation.run_many(_steering(first.group, given), samples=False, known=known)
    return {
        task.key: to_bytes([pack_scores(member.scores[(item.name, data)]) for member in members])
        for task, item in zip(tasks, payloads, strict=True)
    }


_COMPARED = ("reference", "baseline completions")


def _seen(given: Mapping[str, bytes], data: str) -> Seen:
    """The baseline's outputs that evaluators compare with."""
    from safetensors.torch import load

    from steerkit.engine.measuring.evaluate import Seen

    found = Seen()
    if "reference" in given:
        found.logits[data] = load(given["reference"])["logits"]
    if "baseline completions" in given:
        found.completions[data] = from_bytes(given["baseline completions"])[0]
    return found


def _steering(group: GroupUse, given: Mapping[str, bytes]) -> list[Steered]:
    directions: dict[str, Direction] = {}
    for name in () if group.condition is None else group.condition.directions:
        directions[name] = read_direction(given[f"direction {name}"], name)
    return steer_group(group.condition, group.controls, group.seed, directions, group.name)


# Outputs as bytes.


def read_direction(content: bytes, name: str) -> Direction:
    """A direction that a task gave: its main one, or one of the further ones."""
    from steerkit.api.direction_bytes import directions_from_bytes

    return directions_from_bytes(content)[name]


def to_bytes(value: Any) -> bytes:
    """A value as JSON, the same bytes for equal values. What isn't finite was not measured and becomes null."""
    return json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def from_bytes(content: bytes) -> Any:
    """A value from JSON."""
    return json.loads(content)


def pack_scores(scores: Sequence[Any]) -> list[list[Any]]:
    """Scores as plain values."""
    return [[score.value, score.weight] for score in scores]


def unpack_scores(packed: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Scores from plain values, where null stands for a value that isn't finite."""
    from steerkit.api.evaluator import Score

    return tuple(Score(float("nan") if value is None else value, weight) for value, weight in packed)
