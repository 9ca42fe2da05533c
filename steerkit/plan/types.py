"""What a plan is made of: every name of a recipe resolved. Plain frozen values; no weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from steerkit.api.hookspecs import (
    EstimatorSpec,
    EvaluatorSpec,
    InterventionSpec,
    Needs,
    NoOptions,
    Options,
    Value,
)
from steerkit.api.tokens import FoundTokens
from steerkit.recipe.completions import UNSTEERED
from steerkit.recipe.data import DataRef
from steerkit.recipe.document import write_document
from steerkit.recipe.schema import PublishedRecipe
from steerkit.selection import Rule
from steerkit.types import Positions, Schedule, Site, SitePattern


@dataclass(frozen=True)
class PlannedDirection:
    """A direction to estimate, or one to read from ``file``; then estimator and classes are None.

    Args:
        name: as the recipe calls it.
        estimator: the plugin.
        options: of the estimator.
        positive: prompts of the class that the direction points to.
        negative: prompts of the reference class.
        site: where it is read, one site or a pattern of several; of a file, what it lacks and the recipe says.
        positions: at which tokens; of a file likewise.
        file: a saved direction.
        format: name of the format of ``file``; None for the one that knows it.
        further: full names of the directions that the estimator gives beside it.
    """

    name: str
    estimator: EstimatorSpec | None = None
    options: Options = field(default_factory=NoOptions)
    positive: DataRef | None = None
    negative: DataRef | None = None
    site: Site | SitePattern | None = None
    positions: Positions | None = None
    file: Path | None = None
    format: str | None = None
    further: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedSeparation:
    """How well a direction's classes are told apart at every layer.

    Args:
        direction: the direction, whose estimator is fitted at each layer to the classes that it was estimated from.
        seen: the classes that are told apart.
        held_out: whether those are other prompts than it was estimated from.
    """

    direction: PlannedDirection
    seen: tuple[DataRef, DataRef]
    held_out: bool


@dataclass(frozen=True)
class PlannedGate:
    """The condition on the stream under which an intervention acts. See ``steerkit.api.intervention.Gate``.

    Args:
        direction: name of the direction that the stream is projected on.
        threshold: what the projection is compared with.
        side: ``above`` or ``below`` the threshold.
        site: where it is read; None for the site of a direction from a file.
        at: whether each ``token`` decides, or the ``prompt`` for its row.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: whether an extra pass without any intervention decides, so that prompts can be edited too.
    """

    direction: str
    threshold: float
    side: Literal["above", "below"] = "above"
    site: Site | None = None
    at: Literal["token", "prompt"] = "token"
    positions: Positions = Positions("last")
    prepass: bool = False

    def to_json(self, site: Site | None = None) -> dict[str, Any]:
        """As a recipe writes it, without the keys that mean nothing here; ``site`` where the plan has none."""
        found: dict[str, Any] = {"direction": self.direction, self.side: self.threshold}
        found |= {"site": as_text(self.site or site), "at": self.at}
        return found | ({"positions": str(self.positions), "prepass": self.prepass} if self.at == "prompt" else {})


@dataclass(frozen=True)
class PlannedIntervention:
    """An intervention of a condition.

    Args:
        spec: the plugin.
        options: of the plugin, with the value of a sweep put in.
        directions: names of the directions that it uses, as many as its plugin takes.
        sites: where it acts, sites or patterns of several; None for its own choice.
        positions: at which tokens.
        schedule: factor on the change at each generated token.
        gate: condition under which it acts, or None: always.
        chosen: whether its coefficient is that which the search of its direction chose; the one of ``options`` then
            stands in for it.
    """

    spec: InterventionSpec
    options: Options
    directions: tuple[str, ...]
    sites: tuple[Site | SitePattern, ...] | None
    positions: Positions
    schedule: Schedule = Schedule()
    gate: PlannedGate | None = None
    chosen: bool = False

    @property
    def direction_text(self) -> str | None:
        """Its directions in one text, or None where it has none."""
        return ", ".join(self.directions) or None

    def when(self, gate_site: Site | None = None) -> dict[str, Any]:
        """Schedule and gate as JSON values, each only where it is set.

        Args:
            gate_site: where the gate is read, once that is known.
        """
        schedule = {} if self.schedule.is_constant else {"schedule": str(self.schedule)}
        return schedule | ({} if self.gate is None else {"gate": self.gate.to_json(gate_site)})


@dataclass(frozen=True)
class PlannedCondition:
    """A condition, one member of a family where there is a sweep. The baseline isn't among them.

    Args:
        name: unique, as in ``dose[coefficient=4]``.
        interventions: in the order of the recipe; there may be none where there is a system prompt.
        control: whether random directions are run beside it.
        sweep: name of the family, or None.
        swept: the option that the family varies, with this member's value.
        system_prompt: takes the place of the recipe's system prompt, or None.
        mode: how its interventions are lowered.
    """

    name: str
    interventions: tuple[PlannedIntervention, ...]
    control: bool = True
    sweep: str | None = None
    swept: Mapping[str, float] = field(default_factory=dict)
    system_prompt: str | None = None
    mode: Literal["auto", "fold", "hook", "interpret"] = "auto"

    def n_controls(self, random_directions: int) -> int:
        """How many random controls run beside it: none where it uses no direction."""
        return random_directions if self.control and self.steering else 0

    def how(self) -> dict[str, Any]:
        """System prompt and mode as JSON values, each only where it is set."""
        prompt = {} if self.system_prompt is None else {"system_prompt": self.system_prompt}
        return prompt | ({} if self.mode == "auto" else {"mode": self.mode})

    @property
    def nameless(self) -> PlannedCondition:
        """What is done, without what it is called and what varies beside it: two that are equal here are run once."""
        return replace(self, name="", control=True, sweep=None, swept={})

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions that interventions and gates use, each once."""
        gates = [item.gate.direction for item in self.interventions if item.gate is not None]
        return tuple(dict.fromkeys([*self.steering, *gates]))

    @property
    def steering(self) -> tuple[str, ...]:
        """Names of the directions that interventions use, each once: those that controls replace."""
        return tuple(dict.fromkeys(name for item in self.interventions for name in item.directions))

    @property
    def has_prepass(self) -> bool:
        """Whether prompts are read once more, without any intervention, before each pass over them."""
        return any(item.gate is not None and item.gate.prepass for item in self.interventions)


@dataclass(frozen=True)
class PlannedTokens:
    """First tokens of refusals that a run finds. See ``steerkit.api.tokens.FoundTokens``.

    Args:
        wanted: as options ask for them.
        found_in: prompts that the model declines.
        against: prompts that it answers, or None.
        spec: the evaluator that tells refusals.
        options: its options.
        needs: what it must see: completions.
    """

    wanted: FoundTokens
    found_in: DataRef
    against: DataRef | None
    spec: EvaluatorSpec
    options: Options
    needs: Needs


CHOSEN: Final = "chosen"
"""What a recipe writes for a coefficient that a search chooses."""
CANDIDATE: Final = "candidate"
"""What the direction of an intervention is called that goes along whatever candidate is scored."""


@dataclass(frozen=True)
class PlannedFilter:
    """Which examples of a data set are kept, by a score of the unsteered model.

    Args:
        data: the parts that are filtered.
        spec: the evaluator.
        options: its options.
        needs: what it must see.
        at_least: the least score that is kept, or None.
        at_most: the greatest, or None.
    """

    data: tuple[DataRef, ...]
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    at_least: float | None = None
    at_most: float | None = None

    def keeps(self, score: float) -> bool:
        """Whether an example of that score is kept. One without a score is not."""
        low = self.at_least is None or score >= self.at_least
        high = self.at_most is None or score <= self.at_most
        return low and high and score == score

    def __str__(self) -> str:
        sides = (("≥", self.at_least), ("≤", self.at_most))
        return f"{self.spec.name} " + " and ".join(f"{sign} {value:g}" for sign, value in sides if value is not None)


@dataclass(frozen=True)
class PlannedCompletions:
    """A data set of what the model says to another one's prompts.

    Args:
        name: of the data set.
        of: the parts whose prompts are completed; the data set has parts of the same names.
        condition: under which they are; None for the unsteered model.
        new_tokens: length of a completion in tokens, at most.
        prefix: how the answers are made to begin; None: as those to the prompts are.
    """

    name: str
    of: tuple[DataRef, ...]
    condition: PlannedCondition | None
    new_tokens: int
    prefix: str | None = None

    @property
    def under(self) -> str:
        """The condition's name."""
        return UNSTEERED if self.condition is None else self.condition.name


@dataclass(frozen=True)
class PlannedScore:
    """One score of a search's candidates.

    Args:
        name: as the rule speaks of it.
        spec: the evaluator.
        options: its options.
        needs: what it must see.
        data: the prompts.
        under: interventions along ``CANDIDATE``.
        references: what the evaluator calls other data that it looks at, with that data.
    """

    name: str
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    data: DataRef
    under: tuple[PlannedIntervention, ...]
    references: tuple[tuple[str, DataRef], ...] = ()

    @property
    def varies(self) -> bool:
        """Whether it depends on the coefficient of a candidate, where candidates have one."""
        return any(one.spec.additive for one in self.under)


@dataclass(frozen=True)
class PlannedSearch:
    """A direction that is chosen among candidates.

    Args:
        name: of the search, and of the direction.
        over: directions whose sites and positions are the candidates.
        scores: what each is scored by.
        rule: which one is taken.
        exhaustive: whether candidates that a bound removed are scored on.
        coefficients: of what is added, each of them a candidate; empty where candidates have none of their own.
    """

    name: str
    over: tuple[str, ...]
    scores: tuple[PlannedScore, ...]
    rule: Rule
    exhaustive: bool = False
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class PlannedCalibration:
    """How the threshold of a monitor is set.

    Args:
        data: examples that are not to be flagged.
        false_alarms: how many of 1,000 of them may be, without any condition.
        done: whether it is set.
    """

    data: DataRef
    false_alarms: float
    done: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a recipe writes it, but for the side."""
        return {"data": str(self.data), "false_alarms": self.false_alarms}

    def __str__(self) -> str:
        return f"{self.false_alarms:g} false alarms per 1,000 of {self.data}"


@dataclass(frozen=True)
class PlannedMonitor:
    """What reads the stream and never edits it. See ``steerkit.api.monitor.Monitor``.

    Args:
        name: as the recipe calls it.
        direction: name of the direction that the stream is projected on.
        threshold: what readings are compared with; it means nothing before a calibration is done.
        side: ``above`` or ``below`` the threshold.
        sites: where it is read, sites or patterns of several; None for the direction's own.
        positions: at which tokens.
        calibration: how its threshold is set; None where the recipe says the number.
    """

    name: str
    direction: str
    threshold: float
    side: Literal["above", "below"]
    sites: tuple[Site | SitePattern, ...] | None
    positions: Positions
    calibration: PlannedCalibration | None = None

    def to_json(self, sites: Sequence[Site] | None = None) -> dict[str, Any]:
        """As a recipe writes it, with its name; ``sites`` where the plan has none."""
        where = self.sites or sites
        known = self.calibration is None or self.calibration.done
        return {
            "name": self.name,
            "direction": self.direction,
            **({self.side: self.threshold} if known else {}),
            **({} if self.calibration is None else {"calibrate": self.calibration.to_json()}),
            "sites": None if where is None else [str(site) for site in where],
            "positions": str(self.positions),
        }


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluator with its options, what it must see, the data that it is run on, and other data that it looks at."""

    name: str
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    data: tuple[DataRef, ...]
    references: tuple[tuple[str, DataRef], ...] = ()

    @property
    def derived(self) -> tuple[str, ...]:
        """What results call the values that are derived from this one."""
        renamed = self.name != self.spec.name
        return tuple(f"{self.name}.{label}" if renamed else label for label in self.spec.derived)

    @property
    def values(self) -> Mapping[str, Value]:
        """What results call its values, where they are several; empty where it gives one score per example."""
        return {self.spec.label(name, self.name): value for name, value in self.spec.values.items()}

    @property
    def labels(self) -> Mapping[str, str]:
        """Of each value per example, by the name that the evaluator gives it, what results call it."""
        per_example = (name for name, value in self.spec.values.items() if value.aggregate != "whole")
        return {name: self.spec.label(name, self.name) for name in per_example}

    @property
    def added(self) -> tuple[str, ...]:
        """The names beside its own that it adds to results."""
        return tuple(dict.fromkeys((*self.derived, *(label for label in self.values if label != self.name))))


@dataclass(frozen=True)
class PlannedSamples:
    """Completions for the reader of the report."""

    data: DataRef
    n: int
    max_new_tokens: int


@dataclass(frozen=True)
class PlannedModel:
    """What is known of the model before it is loaded.

    Args:
        source: as the recipe names it.
        model_type: of transformers, or None where no config is at hand.
        n_layers: number of blocks, or None.
        folder: where its config and tokenizer files are, or None.
        d_model: width of the residual stream, or None.
    """

    source: str
    model_type: str | None = None
    n_layers: int | None = None
    folder: Path | None = None
    d_model: int | None = None


@dataclass(frozen=True)
class PlannedLoading:
    """How the model is loaded and prompted. See ``steerkit.load_model``.

    Args:
        source: a hub id, a folder, a file, or an alias.
        revision: of a hub repository, or None.
        adapter: name of the adapter, where the recipe names one.
        dtype: of the weights, or ``auto``.
        device: where they go, or ``auto``.
        chat_template: ``default``, ``none``, or the template itself.
        system_prompt: message before every prompt, or None.
        chat_template_arguments: the template's own variables.
        trust_remote_code: whether code from the repository may run.
        accept_terms: whether the model's terms of use are accepted.
        batch_tokens: most tokens of a batch, padding included.
    """

    source: str
    revision: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    chat_template: str = "default"
    system_prompt: str | None = None
    chat_template_arguments: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    accept_terms: bool = False
    batch_tokens: int = 4096


@dataclass(frozen=True)
class PlannedTradeoff:
    """One value of an evaluator on data where it should be high, against data where it should be low."""

    evaluator: str
    should: tuple[str, ...]
    should_not: tuple[str, ...]


@dataclass(frozen=True)
class PlannedReport:
    """What readers are told that no number depends on.

    Args:
        name: names the run directory.
        title: heading, or None.
        description: a line on what is asked.
        resolved: the recipe's plain values, every key with its value.
        folder: where the recipe lies, for the state of its checkout; None where it was never written.
        published: what others chose and measured on the model that is run.
        tradeoff: two rates that are plotted against each other, or None.
        compared_with: the direction whose cosine with every other one is told; None for each with each.
    """

    name: str
    title: str | None
    description: str
    resolved: Mapping[str, Any]
    folder: Path | None = None
    published: tuple[PublishedRecipe, ...] = ()
    tradeoff: PlannedTradeoff | None = None
    compared_with: str | None = None

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML. Writing it takes longer than most of a check, which has no use for it."""
        return write_document(self.resolved)


@dataclass(frozen=True)
class Cost:
    """What a run costs, at most: a completion may end early.

    Args:
        forward_passes: calls of the model; while decoding each new token of a batch is one.
        prompt_tokens: tokens that are read, without padding.
        generated_tokens: tokens that are written.
        estimated: whether token counts are estimates.
        basis: how tokens were counted, in words.
        parts: ``(what for, forward passes)``, which add up to ``forward_passes``.
    """

    forward_passes: int
    prompt_tokens: int
    generated_tokens: int
    estimated: bool
    basis: str
    parts: tuple[tuple[str, int], ...] = ()


def as_text(value: object) -> str | None:
    """A value as recipes write it; None where there is none."""
    return None if value is None else str(value)
