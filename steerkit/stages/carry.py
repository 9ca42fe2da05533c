"""Carrying tasks out: from a payload and the bytes of its inputs to the bytes of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from steerkit.artifacts.answers import AnswersOnDisk
from steerkit.artifacts.keys import hash_of
from steerkit.bundled import cache_folder
from steerkit.errors import DataError, PositionError
from steerkit.progress import SILENT, Observer
from steerkit.stages.condition import build_monitors, steer_group
from steerkit.stages.model import load_use
from steerkit.stages.packing import from_bytes, pack_activity, pack_scores, read_direction, to_bytes
from steerkit.stages.readings import readings_as_json
from steerkit.stages.tasks import (
    CandidatesTask,
    ChooseTask,
    CompletionsTask,
    EstimateTask,
    Examples,
    GroupUse,
    ModelUse,
    ReadingsTask,
    References,
    ReferenceTask,
    ScoresTask,
    SeparationTask,
    SuffixesTask,
    Task,
    ThresholdTask,
    TokensTask,
)
from steerkit.stages.thresholds import threshold_of, with_threshold

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.api.estimator import Estimator
    from steerkit.api.monitor import Monitor
    from steerkit.engine.measuring.evaluate import Evaluation, Job, Plain, Steered
    from steerkit.plan import PlannedMonitor
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

    @property
    def use(self) -> ModelUse | None:
        """The model that is loaded, as tasks name it."""
        return self._use

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
        *,
        jobs: Sequence[Job] = (),
        plain: Plain | None = None,
        monitors: Sequence[Monitor] = (),
        seed: int = 0,
        key: str = "",
        references: References = (),
    ) -> Evaluation:
        """An evaluation of some examples, with their prompts rendered once for all groups that look at them.

        Args:
            use: the model.
            data: what the examples are called.
            examples: the examples.
            jobs: what is to be scored.
            plain: outputs of the baseline.
            monitors: those whose readings are scored.
            seed: that samples are drawn by.
            key: of all of these.
            references: other examples that jobs look at.
        """
        from steerkit.engine.measuring.evaluate import Evaluation
        from steerkit.engine.measuring.references import reference_name

        live = self.live(use)
        known = hash_of([data, examples, key])
        if known not in self._evaluations:
            kept = AnswersOnDisk(cache_folder() / "answers") if any(job.needs.calls for job in jobs) else None
            evaluation = Evaluation(
                live,
                jobs,
                {data: examples, **{reference_name(name): rows for name, rows in references}},
                None,
                self.observer,
                seed=seed,
                kept=kept,
                plain=plain,
            )
            evaluation.monitor(monitors)
            self._evaluations[known] = evaluation
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
    parts: dict[str, str] = {}
    for part, key in (item for task in tasks for item in task.inputs.items()):
        if parts.setdefault(part, key) != key:
            raise RuntimeError(f"Tasks that are carried out together need two outputs as their {part}.")
    given = {part: inputs[key] for part, key in parts.items()}
    payload = first.payload
    if isinstance(payload, ScoresTask):
        return _scores(tasks, given, bench)
    if isinstance(payload, EstimateTask):
        return {first.key: _estimate(payload, bench)}
    if isinstance(payload, CandidatesTask):
        return {first.key: _candidates(payload, given, bench)}
    if isinstance(payload, ChooseTask):
        return {first.key: _choice(payload, given)}
    if isinstance(payload, SeparationTask):
        return {first.key: _separation(payload, bench)}
    if isinstance(payload, CompletionsTask):
        return {first.key: _completions(payload, given, bench)}
    if isinstance(payload, ThresholdTask):
        return {first.key: _threshold(payload, given, bench)}
    if isinstance(payload, ReadingsTask):
        return {first.key: _readings(payload, given, bench)}
    if isinstance(payload, SuffixesTask):
        return {first.key: _suffixes(payload, given, bench)}
    if isinstance(payload, TokensTask):
        return {first.key: _tokens(payload, given, bench)}
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
        dict(payload.classes),
        payload.site,
        payload.positions,
        name=payload.name,
        seed=payload.seed,
        progress=bench.observer.progress,
    )
    return directions_to_bytes([_unsourced(direction) for direction in directions.values()])


def _unsourced(direction: Direction) -> Direction:
    """A direction without what its model was called: what is kept is used wherever the same weights lie.

    Whoever writes a run's directory says what the model is called in it.
    """
    return direction.replace(provenance={key: said for key, said in direction.provenance.items() if key != "model"})


def _candidates(payload: CandidatesTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    from steerkit.api.direction_bytes import directions_from_bytes
    from steerkit.stages.search import score_candidates

    directions = directions_from_bytes(given["direction"]).values()
    return to_bytes(score_candidates(payload, directions, bench.live(payload.model), bench.observer))


def _choice(payload: ChooseTask, given: Mapping[str, bytes]) -> bytes:
    from steerkit.api.direction_bytes import directions_from_bytes, directions_to_bytes
    from steerkit.stages.search import chosen_direction

    tables = {name: from_bytes(given[f"candidates {name}"]) for name in payload.over}
    directions = {name: directions_from_bytes(given[f"direction {name}"]) for name in payload.over}
    return directions_to_bytes([chosen_direction(payload, tables, directions)])


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
    written = evaluation.complete(_steering(payload.group, given), payload.data, payload.new_tokens)
    return to_bytes([{"ids": ids, "activity": pack_activity(activity)} for ids, activity in written])


def _readings(payload: ReadingsTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    bench.observer.step(f"readings of completions on {payload.data}")
    live, n = bench.live(payload.model), len(payload.examples)
    monitors = _monitors(payload.monitors, given, live)
    key = hash_of([payload.monitors, sorted(hash_of(content) for content in given.values())])
    evaluation = bench.evaluation(payload.model, payload.data, payload.examples, monitors=monitors, key=key)
    ids = [row[: payload.new_tokens] for row in from_bytes(given["completions"])[0]["ids"][:n]]
    (steered,) = _steering(payload.group, given)
    rows, _ = evaluation.read(steered, payload.data, ids, payload.new_tokens)
    return to_bytes([{name: readings_as_json(one) for name, one in row.items()} for row in rows])


def _tokens(payload: TokensTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    from steerkit.stages.tokens import find_tokens

    completions = from_bytes(given["completions"])[0]["ids"]
    others = from_bytes(given["other answers"])[0]["ids"] if "other answers" in given else None
    return to_bytes(find_tokens(payload, completions, others, bench.live(payload.model)))


def _threshold(payload: ThresholdTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    from steerkit.engine.reading.monitors import read_along

    planned, live = payload.monitor, bench.live(payload.model)
    assert planned.calibration is not None
    data, name = str(planned.calibration.data), planned.name
    bench.observer.step(f"readings on {data}")
    prompts = bench.evaluation(payload.model, data, payload.examples).prompts(data)
    direction = {planned.direction: read_direction(given[f"direction {planned.direction}"], planned.direction)}
    try:
        read = read_along(live, prompts, build_monitors([planned], direction, live.layout.n_layers))
        peaks = [one.readings[name].peak for one in read]
        threshold, beyond = threshold_of(peaks, planned.calibration.false_alarms, planned.side)
    except PositionError as error:
        raise PositionError(f"monitors.{name}: its threshold can't be set on {data}. {error}") from None
    except DataError as error:
        raise DataError(f"monitors.{name}: {error} in {data}.") from None
    return to_bytes({"threshold": threshold, "beyond": beyond, "n": len(peaks)})


def _suffixes(payload: SuffixesTask, given: Mapping[str, bytes], bench: Bench) -> bytes:
    from steerkit.stages.suffixes import study_suffixes

    direction = read_direction(given[f"direction {payload.direction}"], payload.direction)
    return to_bytes(study_suffixes(payload, direction, bench.live(payload.model), bench.observer))


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
    # Names of their own, so that what is kept doesn't depend on what the recipe calls its evaluators.
    labels = [{name: f"{place}:{name}" for name in item.values} for place, item in enumerate(payloads)]
    jobs = [
        Job(str(place), item.build(live.vocabulary), item.needs, data, labels[place], item.name)
        for place, item in enumerate(payloads)
    ]
    monitors = {one.name: one for item in payloads for one in item.monitors}
    drawn = next((item.drawn for item in payloads if item.drawn is not None), (0, data))
    compared = sorted({task.inputs[part] for task in tasks for part in task.inputs if part in _COMPARED})
    read = [
        [one, task.inputs[f"direction {one.direction}"], task.inputs.get(f"threshold {one.name}")]
        for task, item in zip(tasks, payloads, strict=True)
        for one in item.monitors
    ]
    asked = [[item.evaluator, item.options, item.needs, item.values, item.drawn, item.references] for item in payloads]
    evaluation = bench.evaluation(
        first.model,
        drawn[1],
        first.examples,
        jobs=jobs,
        plain=_plain(given, data),
        monitors=_monitors(list(monitors.values()), given, live),
        seed=drawn[0],
        key=hash_of([asked, compared, read]),
        references=tuple(one for item in payloads for one in item.references),
    )
    bench.observer.step(f"{', '.join(item.name for item in payloads)} on {data}")
    steering = _steering(first.group, given)
    known = {}
    if "completions" in given:  # of all controls, also where this evaluator isn't asked about them
        known[data] = [one["ids"] for one in from_bytes(given["completions"])[: len(steering)]]
    called = [f"{hash_of(first.group.condition)}/{number}" for number in range(len(steering))]
    members = evaluation.run_many(steering, samples=False, known=known, names=called)
    return {
        task.key: to_bytes([pack_scores(member, str(place), item, labels[place]) for member in members])
        for place, (task, item) in enumerate(zip(tasks, payloads, strict=True))
    }


_COMPARED = ("reference", "baseline completions")


def _plain(given: Mapping[str, bytes], data: str) -> Plain:
    """The baseline's outputs that evaluators compare with."""
    from safetensors.torch import load

    from steerkit.engine.measuring.evaluate import Plain

    plain = Plain()
    if "reference" in given:
        plain.logits[data] = load(given["reference"])["logits"]
    if "baseline completions" in given:
        plain.completions[data] = from_bytes(given["baseline completions"])[0]["ids"]
    return plain


def _monitors(planned: Sequence[PlannedMonitor], given: Mapping[str, bytes], live: LiveModel) -> list[Monitor]:
    planned = [
        with_threshold(item, from_bytes(given[f"threshold {item.name}"])) if item.calibration is not None else item
        for item in planned
    ]
    names = {item.direction for item in planned}
    directions = {name: read_direction(given[f"direction {name}"], name) for name in names}
    return build_monitors(planned, directions, live.layout.n_layers)


def _steering(group: GroupUse, given: Mapping[str, bytes]) -> list[Steered]:
    directions: dict[str, Direction] = {}
    for name in () if group.condition is None else group.condition.directions:
        directions[name] = read_direction(given[f"direction {name}"], name)
    return steer_group(group.condition, group.controls, group.seed, directions, group.name)
