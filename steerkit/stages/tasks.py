"""Tasks: plain values that say what is to be computed, and whose key says all that the outcome depends on.

A task survives pickling, holds nothing of the process that made it, and gives the same bytes wherever it is carried
out with the same model and threads. Fields that are left out of comparison are for messages, and for finding the model
again; they are no part of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from steerkit.api.evaluator import Evaluator
from steerkit.api.hookspecs import EstimatorNeeds, Needs, Options, Spec
from steerkit.catalog import implementation
from steerkit.plan import PlannedCondition, PlannedIntervention, PlannedLoading, PlannedMonitor
from steerkit.progress import StageKind
from steerkit.selection import Rule
from steerkit.types import Example, Positions, Site, SitePattern

TaskKind: TypeAlias = Literal[
    "direction",
    "separation",
    "candidates",
    "completions",
    "reference",
    "scores",
    "readings",
    "tokens",
    "threshold",
    "suffixes",
]

Limits: TypeAlias = Callable[[Any, int], tuple[float, float]]

Examples: TypeAlias = tuple[Example, ...]
"""Examples, in order."""
References: TypeAlias = tuple[tuple[str, Examples], ...]
"""Other examples that an evaluator looks at, by the names that its needs have for them."""


@dataclass(frozen=True)
class Plugin:
    """A plugin by where its class lies: a spec without what only its module can hold.

    Args:
        kind: of the plugin.
        name: as recipes write it.
        implementation: ``"module:attribute"``.
        code: sha256 of its source.
    """

    kind: str
    name: str
    implementation: str
    code: str | None = None

    def load(self) -> type[Any]:
        """Its class."""
        return implementation(cast(Spec, self))


@dataclass(frozen=True)
class ModelUse:
    """The model that a task runs.

    Args:
        key: of all that its outputs depend on: weights, config, tokenizer, template, adapter, dtype, batches, machine,
            versions and our own code.
        loading: how it is loaded.
        adapter: its adapter.
        threads: of a process that runs it.
        weights: hash of the weights, by which whoever loads them finds that they are these; None where it isn't known.
    """

    key: str
    loading: PlannedLoading = field(compare=False)
    adapter: Plugin = field(compare=False)
    threads: int = field(compare=False)
    weights: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class GroupUse:
    """A condition with its own controls, or the baseline.

    Args:
        condition: what is done, without the names that it goes by; None for the baseline.
        controls: how many random controls are run beside it.
        seed: of those; 0 where there are none.
        code: sha256 of the source of each intervention.
        name: as messages call it.
    """

    condition: PlannedCondition | None
    controls: int
    seed: int
    code: tuple[str | None, ...] = ()
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class EstimateTask:
    """Estimate a direction, and what else its estimator gives. Gives the bytes of a file of directions."""

    model: ModelUse
    name: str
    estimator: Plugin
    needs: EstimatorNeeds
    options: Options
    classes: tuple[tuple[str, Examples], ...]
    site: Site | SitePattern | None
    positions: Positions
    seed: int


@dataclass(frozen=True)
class SeparationTask:
    """Tell classes apart at every layer. Gives a JSON list of rows."""

    model: ModelUse
    estimator: Plugin
    needs: EstimatorNeeds
    options: Options
    positions: Positions
    fitted: tuple[Examples, Examples]
    seen: tuple[Examples, Examples]
    seed: int


@dataclass(frozen=True)
class ScoreUse:
    """One score of candidates.

    Args:
        name: as the rule speaks of it.
        evaluator: what scores.
        options: its options.
        needs: what it must see.
        limits: the least and the greatest value that an example's score can have, from the options and the number of
            logits; None where nobody says.
        examples: the prompts.
        under: interventions along the candidate.
        code: sha256 of the source of each.
        references: other examples that it looks at, by the names that ``needs`` has for them.
        varies: whether it depends on a candidate's coefficient, where candidates have one.
        data: as messages call the prompts.
    """

    name: str
    evaluator: Plugin
    options: Options
    needs: Needs
    limits: Limits | None
    examples: Examples
    under: tuple[PlannedIntervention, ...]
    code: tuple[str | None, ...]
    references: References = ()
    varies: bool = False
    data: str = field(default="", compare=False)


@dataclass(frozen=True)
class CandidatesTask:
    """Score the candidates of one direction: each of its sites and positions. Gives JSON: a row for each.

    Args:
        model: the model.
        scores: by what.
        rule: what makes further scores of a candidate needless.
        exhaustive: whether they are computed all the same.
        over: the direction.
        coefficients: of what is added, each of them a candidate; empty where candidates have none of their own.
    """

    model: ModelUse
    scores: tuple[ScoreUse, ...]
    rule: Rule
    exhaustive: bool
    over: str
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class ChooseTask:
    """Choose among scored candidates. Gives the bytes of a file of directions: the one that was chosen.

    Args:
        name: of the search, and of the direction.
        over: the directions whose candidates were scored, in order.
        rule: the rule.
        coefficients: of the candidates, in the order by which exact ties are broken.
    """

    name: str
    over: tuple[str, ...]
    rule: Rule
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class CompletionsTask:
    """Write completions under every condition of a group. Gives JSON: for each condition token ids of each example.

    Of the examples it holds the prompts, since a completion depends on nothing else of them.
    """

    model: ModelUse
    group: GroupUse
    examples: Examples
    new_tokens: int
    data: str = field(default="", compare=False)


@dataclass(frozen=True)
class ReferenceTask:
    """The unsteered model's next-token logits, which others are compared with. Gives safetensors bytes."""

    model: ModelUse
    examples: Examples
    data: str = field(default="", compare=False)


@dataclass(frozen=True)
class ScoresTask:
    """Score a data set with one evaluator under every condition of a group. Gives JSON: for each condition its scores.

    Tasks that read the same pass are carried out together, so that it is made once.

    Args:
        model: the model.
        group: the conditions.
        examples: what is scored.
        evaluator: the evaluator.
        options: its options.
        needs: what it sees.
        values: names of its values per example; empty where it gives one.
        monitors: those whose readings it scores.
        drawn: seed and data set that samples are drawn by; None where there are none.
        references: other examples that it looks at, by the names that ``needs`` has for them.
        name: as messages call it.
        data: as messages call the examples.
    """

    model: ModelUse
    group: GroupUse
    examples: Examples
    evaluator: Plugin
    options: Options
    needs: Needs
    values: tuple[str, ...] = ()
    monitors: tuple[PlannedMonitor, ...] = ()
    drawn: tuple[int, str] | None = None
    references: References = ()
    name: str = field(default="", compare=False)
    data: str = field(default="", compare=False)

    def build(self, vocabulary: Any) -> Evaluator:
        """The evaluator."""
        return cast(Evaluator, self.evaluator.load()(self.options, vocabulary))


@dataclass(frozen=True)
class TokensTask:
    """Find first tokens of refusals among completions. Gives JSON: see ``steerkit.stages.tokens.find_tokens``.

    Args:
        model: the model, whose tokenizer turns them to texts.
        evaluator: what tells refusals.
        options: its options.
        examples: the prompts.
        share: how many of the refusals the tokens should begin, as a share.
        data: as messages call the prompts.
    """

    model: ModelUse
    evaluator: Plugin
    options: Options
    examples: Examples
    share: float
    data: str = field(default="", compare=False)


@dataclass(frozen=True)
class ReadingsTask:
    """Read along prompts and what was written behind them under one condition. Gives JSON: readings of each example."""

    model: ModelUse
    group: GroupUse
    examples: Examples
    new_tokens: int
    monitors: tuple[PlannedMonitor, ...]
    data: str = field(default="", compare=False)


@dataclass(frozen=True)
class ThresholdTask:
    """Set the threshold of a monitor by its false alarms without any condition. Gives JSON: the threshold.

    Args:
        model: the model.
        monitor: whose.
        examples: what should not be flagged.
    """

    model: ModelUse
    monitor: PlannedMonitor
    examples: Examples


@dataclass(frozen=True)
class SuffixesTask:
    """Read what suffixes do along a direction. Gives JSON: see ``steerkit.stages.suffixes.study_suffixes``.

    Args:
        model: the model.
        direction: name of the direction.
        prompts: what suffixes are put behind.
        reference: prompts to compare with, or None.
        suffixes: the texts.
        random: how many random ones stand beside each.
        seed: that these are drawn by.
        heads: how many heads are shown; none are looked at where it is 0.
        name: as messages call the study.
    """

    model: ModelUse
    direction: str
    prompts: Examples
    reference: Examples | None
    suffixes: tuple[str, ...]
    random: int
    seed: int
    heads: int
    name: str = field(default="", compare=False)


Payload: TypeAlias = (
    EstimateTask
    | CandidatesTask
    | ChooseTask
    | SeparationTask
    | CompletionsTask
    | ReferenceTask
    | ScoresTask
    | ReadingsTask
    | TokensTask
    | ThresholdTask
    | SuffixesTask
)


@dataclass(frozen=True)
class Task:
    """A unit of work with a key.

    Args:
        kind: which stage it is.
        key: hash of the payload and of the keys of its inputs: of all that the output depends on.
        payload: what is to be done.
        inputs: keys of outputs that it needs, by the part that they play.
        together: tasks of one such text are carried out in one go, since they share a pass.
        part: which part of a run it belongs to.
        title: what that part is called where it is shown.
    """

    kind: TaskKind
    key: str
    payload: Payload
    inputs: Mapping[str, str]
    together: str
    part: StageKind
    title: str
