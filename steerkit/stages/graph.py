"""A plan as tasks: what is to be computed, in what order, and what each outcome depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from steerkit.artifacts.keys import hash_of
from steerkit.artifacts.provenance import code_hash
from steerkit.catalog import needs_of
from steerkit.plan import (
    DataRef,
    Look,
    Plan,
    PlannedCondition,
    PlannedDirection,
    PlannedGroup,
    PlannedMonitor,
    PlannedScore,
    PlannedSearch,
    PlannedSeparation,
    PlannedSuffixes,
)
from steerkit.progress import StageKind
from steerkit.sharing import compares_completions, greedy_tokens
from steerkit.stages.model import code_of, plugin
from steerkit.stages.saved import saved_direction
from steerkit.stages.task_groups import GroupTasks, SearchTasks
from steerkit.stages.tasks import (
    CandidatesTask,
    ChooseTask,
    CompletionsTask,
    EstimateTask,
    Examples,
    GroupUse,
    ModelUse,
    Payload,
    ReadingsTask,
    References,
    ReferenceTask,
    ScoresTask,
    ScoreUse,
    SeparationTask,
    SuffixesTask,
    Task,
    TaskKind,
    ThresholdTask,
    TokensTask,
)
from steerkit.stages.titles import condition_names, group_title
from steerkit.types import Example

_KINDS: Mapping[type, TaskKind] = {
    EstimateTask: "direction",
    CandidatesTask: "candidates",
    ChooseTask: "direction",
    SeparationTask: "separation",
    CompletionsTask: "completions",
    ReferenceTask: "reference",
    ScoresTask: "scores",
    ReadingsTask: "readings",
    TokensTask: "tokens",
    ThresholdTask: "threshold",
    SuffixesTask: "suffixes",
}


@dataclass(frozen=True)
class Graph:
    """The tasks of a run.

    Args:
        given: outputs that no task makes: saved directions, by key.
        directions: key of each direction, in the order of the recipe.
        estimates: the tasks that estimate directions.
        searches: the tasks of each search.
        separations: what is told apart, each with its task.
        groups: the baseline and the conditions, each with its controls.
        thresholds: by monitor, the task that sets its threshold.
        suffixes: studies of suffixes, each with its task.
    """

    given: Mapping[str, bytes]
    directions: Mapping[str, str]
    estimates: tuple[Task, ...]
    separations: tuple[tuple[PlannedSeparation, Task], ...]
    groups: tuple[GroupTasks, ...]
    searches: tuple[SearchTasks, ...] = ()
    thresholds: Mapping[str, Task] = field(default_factory=dict)
    suffixes: tuple[tuple[PlannedSuffixes, Task], ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of them, in the order in which they are best carried out."""
        measured = (task for group in self.groups for task in group.tasks)
        searched = (task for search in self.searches for task in (*search.scored.values(), search.chosen))
        return (
            *self.estimates,
            *searched,
            *self.thresholds.values(),
            *(task for _, task in (*self.separations, *self.suffixes)),
            *measured,
        )

    @property
    def wanted(self) -> tuple[Task, ...]:
        """Those whose outputs results are made of. The others are there for them."""
        found = [task for _, task in (*self.separations, *self.suffixes)]
        for group in self.groups:
            found += [*group.completions.values(), *group.scores.values()]
            found += [task for task in (group.samples, group.readings) if task is not None]
        return tuple(found)


def make_graph(plan: Plan, model: ModelUse) -> Graph:
    """The tasks of a plan on a model.

    Raises:
        ArtifactError: for a saved direction that can't be read.
    """
    return Grapher(plan, model).graph()


class Grapher:
    """Makes tasks of a plan on a model."""

    def __init__(self, plan: Plan, model: ModelUse) -> None:
        self.plan, self.model = plan, model
        self.given: dict[str, bytes] = {}
        self.directions: dict[str, str] = {}
        self.baseline: GroupTasks | None = None
        self.thresholds: dict[str, Task] = {}

    def graph(self) -> Graph:
        """All tasks."""
        estimates = [task for item in self.plan.directions if (task := self.direction(item)) is not None]
        searches = tuple(self.search(item) for item in self.plan.searches)
        self.thresholds = {one.name: self.threshold(one) for one in self.plan.monitors if one.calibration is not None}
        separations = [(item, self.separation(item)) for item in self.plan.separations]
        suffixes = [(item, self.suffixes(item)) for item in self.plan.suffixes]
        groups = [self.group(item) for item in self.plan.groups]
        return Graph(
            self.given,
            self.directions,
            tuple(estimates),
            tuple(separations),
            tuple(groups),
            searches,
            self.thresholds,
            tuple(suffixes),
        )

    def task(
        self, payload: Payload, inputs: Mapping[str, str], part: StageKind, title: str, together: str = ""
    ) -> Task:
        """A task with its key."""
        kind = _KINDS[type(payload)]
        key = hash_of({"kind": kind, "payload": payload, "inputs": sorted(inputs.items())})
        return Task(kind, key, payload, dict(inputs), together or key, part, title)

    # Directions

    def direction(self, planned: PlannedDirection) -> Task | None:
        """The task that estimates a direction; None for a saved one, which is given."""
        if planned.file is not None:
            from steerkit.api.direction_bytes import directions_to_bytes

            direction = saved_direction(planned)
            # By what it does, not by where it says that it came from.
            bare = directions_to_bytes([direction.replace(provenance={})])
            key = hash_of({"kind": "saved", "content": bare})
            self.given[key] = directions_to_bytes([direction])
            self.directions[planned.name] = key
            return None
        assert planned.estimator is not None and planned.positions is not None
        payload = EstimateTask(
            self.model,
            planned.name,
            plugin(planned.estimator),
            needs_of(planned.estimator, planned.options),
            planned.options,
            tuple((label, self.plan.examples(ref)) for label, ref in planned.classes),
            planned.site,
            planned.positions,
            self.plan.seed,
        )
        task = self.task(payload, {}, "direction", f"direction {planned.name}")
        self.directions |= dict.fromkeys((planned.name, *planned.further), task.key)
        return task

    def search(self, planned: PlannedSearch) -> SearchTasks:
        """The tasks that score candidates, and the one that chooses among them."""
        scores = tuple(self.score_use(item) for item in planned.scores)
        scored = {}
        for name in planned.over:
            payload = CandidatesTask(self.model, scores, planned.rule, planned.exhaustive, name, planned.coefficients)
            inputs = {"direction": self.directions[name]}
            scored[name] = self.task(payload, inputs, "search", f"search {planned.name} over {name}")
        inputs = {f"candidates {name}": task.key for name, task in scored.items()}
        inputs |= {f"direction {name}": self.directions[name] for name in planned.over}
        choice = ChooseTask(planned.name, planned.over, planned.rule, planned.coefficients)
        chosen = self.task(choice, inputs, "search", f"choice of {planned.name}")
        self.directions[planned.name] = chosen.key
        return SearchTasks(planned, scored, chosen)

    def score_use(self, item: PlannedScore) -> ScoreUse:
        """A score as tasks name it."""
        limits = item.spec.limits
        code = (*(code_of(one.spec) for one in item.under), None if limits is None else code_hash(limits.__module__))
        examples = self.plan.examples(item.data)
        return ScoreUse(
            item.name,
            plugin(item.spec),
            item.options,
            item.needs,
            item.spec.limits,
            examples,
            item.under,
            code,
            self.references(item.references),
            item.varies,
            str(item.data),
        )

    def references(self, named: Sequence[tuple[str, DataRef]]) -> References:
        """Other data that an evaluator looks at, as tasks hold it."""
        return tuple((name, prompts_of(self.plan.examples(ref))) for name, ref in named)

    def separation(self, planned: PlannedSeparation) -> Task:
        """The task that tells a direction's classes apart."""
        item = planned.direction
        assert item.estimator is not None and item.positive is not None and item.negative is not None
        assert item.positions is not None
        examples = self.plan.examples
        payload = SeparationTask(
            self.model,
            plugin(item.estimator),
            needs_of(item.estimator, item.options),
            item.options,
            item.positions,
            (examples(item.positive), examples(item.negative)),
            (examples(planned.seen[0]), examples(planned.seen[1])),
            self.plan.seed,
        )
        return self.task(payload, {}, "separation", f"separation by layer of {item.name}")

    def suffixes(self, planned: PlannedSuffixes) -> Task:
        """The task of a study of suffixes."""
        rows = [None if ref is None else self.plan.examples(ref) for ref in (planned.prompts, planned.reference)]
        prompts, reference = (None if one is None else prompts_of(one[: planned.n]) for one in rows)
        assert prompts is not None
        payload = SuffixesTask(
            self.model,
            planned.direction,
            prompts,
            reference,
            planned.suffixes,
            planned.random,
            self.plan.seed if planned.random else 0,
            planned.heads,
            planned.name,
        )
        inputs = {f"direction {planned.direction}": self.directions[planned.direction]}
        return self.task(payload, inputs, "suffixes", f"suffixes of {planned.name}")

    # Conditions

    def group(self, planned: PlannedGroup) -> GroupTasks:
        """The tasks of a condition and its controls, or of the baseline."""
        names = condition_names(planned)
        use = self.use(planned.condition, planned.controls, names[0])
        alone = self.use(planned.condition, 0, names[0])
        found = GroupTasks(planned, names, {}, None, {}, {})
        for look in planned.looks:
            chosen = use if look.controlled else alone
            found = self.look(found, look, chosen)
        if planned.condition is None:
            self.baseline = found
        return found

    def use(self, condition: PlannedCondition | None, controls: int, name: str) -> GroupUse:
        """A group as tasks name it."""
        if condition is None:
            return GroupUse(None, 0, 0, (), name)
        code = tuple(code_of(item.spec) for item in condition.interventions)
        return GroupUse(condition.nameless, controls, self.plan.seed if controls else 0, code, name)

    def look(self, group: GroupTasks, look: Look, use: GroupUse) -> GroupTasks:
        """The tasks of a group with those of one more look."""
        data, examples = str(look.data), self.plan.examples(look.data)[: look.first]
        steering = {} if use.condition is None else self.keys_of(use.condition)
        title = group_title(group.names)
        if look.kind == "reference":
            task = self.task(ReferenceTask(self.model, prompts_of(examples), data), {}, "condition", title)
            return replace(group, references={**group.references, look.data: task})
        if look.kind == "completions":
            payload = CompletionsTask(self.model, use, prompts_of(examples), look.new_tokens, data)
            task = self.task(payload, steering, "condition", title)
            if look.shown:
                return replace(group, samples=task)
            return replace(group, completions={**group.completions, look.data: task})
        if look.kind == "readings":
            shown = group.samples or group.completions[look.data]
            monitors = self.plan.monitors
            reading = ReadingsTask(self.model, use, prompts_of(examples), look.new_tokens, monitors, data)
            inputs = {**steering, **self.keys_of_monitors(monitors), "completions": shown.key}
            return replace(group, readings=self.task(reading, inputs, "condition", title))
        # By name too: equal examples under two names are shown other outputs and draw other samples.
        looked_at = [data, look.kind, look.new_tokens, look.most_tokens, look.compared]
        together = hash_of([self.model, use, examples, sorted(steering.items()), looked_at])
        scores = dict(group.scores)
        for place in look.evaluations:
            name = self.plan.evaluations[place].name
            scoring = self.scores(place, use, examples, data)
            read = self.keys_of_monitors(scoring.monitors)
            inputs = {**steering, **read, **self.outputs_for(scoring, group, look.data)}
            scores[(name, look.data)] = self.task(scoring, inputs, "condition", title, together)
        return replace(group, scores=scores)

    def scores(self, place: int, use: GroupUse, examples: Examples, data: str) -> ScoresTask:
        """What one evaluator scores."""
        item = self.plan.evaluations[place]
        wanted = item.needs.monitors
        monitors = [one for one in self.plan.monitors if wanted is True or (wanted and one.name in wanted)]
        return ScoresTask(
            self.model,
            use,
            examples,
            plugin(item.spec),
            item.options,
            item.needs,
            tuple(item.labels),
            tuple(monitors),
            (self.plan.seed, data) if item.needs.samples else None,
            self.references(item.references),
            item.name,
            data,
        )

    def outputs_for(self, payload: ScoresTask, group: GroupTasks, data: DataRef) -> dict[str, str]:
        """Keys of the outputs that an evaluator's scores are made from, beside its own pass."""
        needs, baseline = payload.needs, self.baseline or group
        found = {}
        if greedy_tokens(needs) and data in group.completions:
            found["completions"] = group.completions[data].key
        if compares_completions(needs):
            found["baseline completions"] = baseline.completions[data].key
        compared = needs.next_token_logits and (needs.baseline or group.planned.condition is None)
        if compared and data in baseline.references:
            found["reference"] = baseline.references[data].key
        return found

    def keys_of_monitors(self, monitors: Sequence[PlannedMonitor]) -> dict[str, str]:
        """Keys of the directions that monitors read along, and of thresholds that are set by what was measured."""
        found = {f"direction {one.direction}": self.directions[one.direction] for one in monitors}
        set_by = {f"threshold {one.name}": self.thresholds.get(one.name) for one in monitors}
        return found | {part: task.key for part, task in set_by.items() if task is not None}

    def threshold(self, planned: PlannedMonitor) -> Task:
        """The task that sets a monitor's threshold."""
        assert planned.calibration is not None
        payload = ThresholdTask(self.model, planned, self.plan.examples(planned.calibration.data))
        inputs = {f"direction {planned.direction}": self.directions[planned.direction]}
        return self.task(payload, inputs, "monitor", f"threshold of {planned.name}")

    def keys_of(self, condition: PlannedCondition) -> dict[str, str]:
        """Keys of the directions that a condition uses."""
        return {f"direction {name}": self.directions[name] for name in condition.directions}


def prompts_of(examples: Examples) -> Examples:
    """Examples without what an answer to them can't depend on: labels, fields, completions to be read."""
    return tuple(Example(example.messages, answer_prefix=example.answer_prefix) for example in examples)
