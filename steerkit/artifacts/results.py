"""The one schema of ``results.json`` and ``timings.json``: what is written, and what is read.

The runner builds these values and writes them, and the report reads them back, so that nothing is read that nobody
writes. What has a default may be missing in a file of an earlier version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from steerkit.artifacts.direction_entries import DirectionEntry, SeparationEntry
from steerkit.artifacts.entry import Entry, Number
from steerkit.errors import counted

SCHEMA_VERSION: Final = 1


class ModelEntry(Entry):
    """The model that was steered; where its weights lay if that wasn't one device, and how they are quantised."""

    _rare: ClassVar[tuple[str, ...]] = ("device_map", "tensor_parallel", "quantization")
    source: str
    adapter: str | None = None
    n_layers: int | None = None
    d_model: int | None = None
    dtype: str | None = None
    device_map: Mapping[str, str] = {}
    tensor_parallel: int | None = None
    quantization: Mapping[str, Any] = {}


class InterventionEntry(Entry):
    """One intervention of a condition, with every option resolved."""

    _rare: ClassVar[tuple[str, ...]] = ("schedule", "gate")
    name: str
    direction: str | None = None
    options: Mapping[str, Any] = {}
    sites: tuple[str, ...] | None = None
    positions: str | None = None
    schedule: str | None = None
    gate: Mapping[str, Any] | None = None


class ConditionEntry(Entry):
    """A condition. A control names the condition whose directions it replaces (``of``)."""

    _rare: ClassVar[tuple[str, ...]] = ("system_prompt", "mode")
    name: str
    kind: Literal["baseline", "intervention", "control"]
    of: str | None = None
    sweep: str | None = None
    swept: Mapping[str, float] = {}
    interventions: tuple[InterventionEntry, ...] = ()
    system_prompt: str | None = None
    mode: str | None = None

    @property
    def prompt_only(self) -> bool:
        """Whether it is a system prompt and nothing else."""
        return self.system_prompt is not None and not self.interventions


class EvaluatorEntry(Entry):
    """An evaluator as the recipe names it, with the names of what is computed from its value.

    ``compared`` is False for a proportion that is no verdict on an example, which isn't compared with others. ``role``
    is what it is there for, where that isn't the behaviour: a side effect, or a judge. ``plugin`` is the plugin's name,
    where the recipe calls the evaluator otherwise.
    """

    _rare: ClassVar[tuple[str, ...]] = ("compared", "role", "plugin")
    name: str
    summary: str = ""
    aggregate: str = "mean"
    unit: str = ""
    options: Mapping[str, Any] = {}
    derived: tuple[str, ...] = ()
    compared: bool | None = None
    role: Literal["side effect", "judge"] | None = None
    plugin: str | None = None


class RecordEntry(Entry):
    """One value: a condition, an evaluator, a data set. Null means not measured.

    ``difference`` is the condition minus the baseline on the same examples, paired, with its own interval;
    ``not_computed`` says how many examples have no score. ``against`` is the share of examples that move against the
    mean difference, the anti-steerable ones, and ``unmoved`` that of those which don't move.
    """

    _rare: ClassVar[tuple[str, ...]] = ("against", "unmoved")
    condition: str
    evaluator: str
    data: str
    value: Number = None
    n: int = 0
    standard_error: Number = None
    ci_low: Number = None
    ci_high: Number = None
    difference: Number = None
    difference_ci_low: Number = None
    difference_ci_high: Number = None
    not_computed: int = 0
    aggregate: str = "mean"
    unit: str = ""
    against: Number = None
    unmoved: Number = None


class MonitorEntry(Entry):
    """A monitor, with the sites at which it really reads. ``calibrate`` says by what its threshold was set."""

    _rare: ClassVar[tuple[str, ...]] = ("above", "below", "calibrate")
    name: str
    direction: str
    above: Number = None
    below: Number = None
    calibrate: Mapping[str, Any] = {}
    sites: tuple[str, ...] | None = None
    positions: str | None = None


class PublishedEntry(Entry):
    """What a paper chose on this model, and the scores of it."""

    position: int
    layer: int
    layers: int
    scores: Mapping[str, Number] = {}


class FilterEntry(Entry):
    """A split that was filtered: by what, how many examples there were, and how many were kept."""

    data: str
    keep: str
    before: int
    kept: int


class FirstTokenEntry(Entry):
    """A token with which refusals begin: how many of them, and how many other answers, where these were counted."""

    id: int
    text: str
    refusals: int | None = None
    others: int | None = None


class TokensEntry(Entry):
    """First tokens of refusals: ``found`` by an evaluator in the model's own completions, or ``known`` by an adapter.

    ``left_out`` are those that begin answers to ``against`` as often.
    """

    how: Literal["found", "known"]
    by: str
    found_in: str | None = None
    against: str | None = None
    refusals: int | None = None
    completions: int | None = None
    tokens: tuple[FirstTokenEntry, ...] = ()
    left_out: tuple[FirstTokenEntry, ...] = ()

    @property
    def sentence(self) -> str:
        """What they are and where they come from."""
        listed = ", ".join(f"{one.text!r} ({one.id})" for one in self.tokens)
        if self.how == "known":
            return f"refusal tokens known to adapter {self.by}: {listed}"
        out = ", ".join(repr(one.text) for one in self.left_out)
        beside = f"; left out, since they begin answers to {self.against} as often: {out}" if out else ""
        return (
            f"refusal tokens found: {listed}, from {counted(self.refusals or 0, 'refusal')} in "
            f"{counted(self.completions or 0, 'completion')} on "
            f"{self.found_in} (by {self.by}){beside}"
        )


class CompletionsEntry(Entry):
    """A data set of what the model said: to which prompts, under which condition, and how much of it can be read.

    ``left_out`` counts examples to which it said nothing (and the other sides of their pairs); ``other_tokens`` those
    that are read, as text, as other tokens than were written.
    """

    data: str
    of: tuple[str, ...]
    condition: str
    max_new_tokens: int
    examples: int
    left_out: int = 0
    other_tokens: int = 0


class CandidateEntry(Entry):
    """A candidate of a search: the means that it scored, with the standard error of each, and what removed it.

    ``coefficient`` is what multiplies its direction where it is added, where candidates differ in that.

    A score is missing where something had removed the candidate before; ``broken_off`` holds what was known of one when
    it was clear that its bound fails.
    """

    _rare: ClassVar[tuple[str, ...]] = ("broken_off", "over", "coefficient")
    position: int
    layer: int
    site: str
    over: str = ""
    coefficient: float | None = None
    norm: Number = None
    scores: Mapping[str, Number] = {}
    errors: Mapping[str, Number] = {}
    removed_by: str | None = None
    broken_off: Mapping[str, Number] = {}


class SearchStage(Entry):
    """One filter of a search: for how many candidates its score was computed, and how many were left behind it."""

    score: str
    asked: int
    alive: int


class SearchEntry(Entry):
    """A search: the rule, every candidate, and which of them was chosen (by its place among them).

    ``subject_to`` says the constraints in words, ``bounds`` in numbers; ``baseline`` holds scores without intervention.
    ``aims`` are the scores whose sum is the objective, where there are several.
    """

    _rare: ClassVar[tuple[str, ...]] = ("notes", "aims", "coefficients")
    name: str
    over: tuple[str, ...] = ()
    objective: str
    aims: tuple[str, ...] = ()
    coefficients: tuple[float, ...] = ()
    maximise: bool = False
    subject_to: Mapping[str, str] = {}
    exhaustive: bool = False
    n_layers: int = 0
    scores: Mapping[str, Mapping[str, Any]] = {}
    baseline: Mapping[str, Number] = {}
    bounds: Mapping[str, Mapping[str, Any]] = {}
    layers_below: int | None = None
    candidates: tuple[CandidateEntry, ...] = ()
    chosen: int | None = None
    near_ties: tuple[int, ...] = ()
    feasible: int = 0
    removed_by: Mapping[str, int] = {}
    stages: tuple[SearchStage, ...] = ()
    notes: tuple[str, ...] = ()


class TradeoffEntry(Entry):
    """One value of an evaluator on data where it should be high, against data where it should be low."""

    evaluator: str
    should: tuple[str, ...]
    should_not: tuple[str, ...]


class CosineEntry(Entry):
    """Cosine of two directions at a site; where the second lies at another one, ``other`` is that.

    Of directions of several vectors it is that of the smallest angle between their spans, and has no sign.
    ``standing_for``: it is of what was estimated at that site beside a direction that a search chose elsewhere.
    """

    _rare: ClassVar[tuple[str, ...]] = ("other", "standing_for")
    first: str
    second: str
    site: str
    other: str | None = None
    cosine: Number = None
    standing_for: bool | None = None


class SuffixGroupEntry(Entry):
    """Prompts of a study of suffixes: by themselves, the ones to compare with, or with a text behind the user's turn.

    By layer: the mean cosine of the last token's ``resid_pre`` with the direction, its standard error, and of those
    with a suffix the mean ``change`` from the same prompts without it, with its own. ``tokens`` is how many tokens the
    suffix adds to a prompt, on average; ``of`` which given suffix a random one stands beside, counted from 0.
    ``attribution`` is what each head adds along the direction at the last token, a mean by layer and head; a layer of
    whose heads nothing can be told has none.
    """

    _rare: ClassVar[tuple[str, ...]] = ("suffix", "of", "tokens", "change", "change_errors", "attribution")
    kind: Literal["prompts", "reference", "suffix", "random"]
    n: int
    suffix: str | None = None
    of: int | None = None
    tokens: Number = None
    cosines: tuple[Number, ...] = ()
    errors: tuple[Number, ...] = ()
    change: tuple[Number, ...] = ()
    change_errors: tuple[Number, ...] = ()
    attribution: tuple[tuple[Number, ...], ...] = ()


class SuffixHeadEntry(Entry):
    """A head that adds most along the direction, with one number for each group of the study, in its order.

    ``instruction`` and ``suffix`` are shares of its attention from the last token to the user's own text and to the
    suffix; missing where the model gives no attention weights.
    """

    _rare: ClassVar[tuple[str, ...]] = ("instruction", "suffix")
    layer: int
    head: int
    attribution: tuple[Number, ...] = ()
    errors: tuple[Number, ...] = ()
    instruction: tuple[Number, ...] = ()
    suffix: tuple[Number, ...] = ()


class SuffixesEntry(Entry):
    """A study of suffixes along a direction, which was read at ``site``.

    ``normed``: a norm stands between heads and stream, whose factor counts into what they add.
    """

    _rare: ClassVar[tuple[str, ...]] = ("reference", "heads", "normed", "notes")
    name: str
    direction: str
    site: str | None = None
    prompts: str
    reference: str | None = None
    groups: tuple[SuffixGroupEntry, ...] = ()
    heads: tuple[SuffixHeadEntry, ...] = ()
    normed: bool | None = None
    notes: tuple[str, ...] = ()


class Results(Entry):
    """The whole of ``results.json``.

    ``samples`` is how many lines ``samples.jsonl`` has, and None in results of before this was written down.
    ``not_held_out`` says, a sentence each, what was estimated, found or compared on prompts that are measured;
    ``special_tokens`` of each data set how many special tokens stand in its texts, and what became of them.
    """

    _rare: ClassVar[tuple[str, ...]] = (
        *("monitors", "searches", "filters", "published", "tokens", "completions"),
        *("tradeoff", "cosines", "suffixes", "not_held_out", "special_tokens"),
    )
    schema_version: int = SCHEMA_VERSION
    name: str
    title: str | None = None
    description: str | None = None
    seed: int | None = None
    model: ModelEntry
    data: Mapping[str, int] = {}
    directions: tuple[DirectionEntry, ...] = ()
    conditions: tuple[ConditionEntry, ...] = ()
    evaluators: tuple[EvaluatorEntry, ...] = ()
    records: tuple[RecordEntry, ...] = ()
    separation: tuple[SeparationEntry, ...] = ()
    notes: tuple[str, ...] = ()
    samples: int | None = None
    monitors: tuple[MonitorEntry, ...] = ()
    searches: tuple[SearchEntry, ...] = ()
    filters: tuple[FilterEntry, ...] = ()
    tokens: tuple[TokensEntry, ...] = ()
    published: tuple[PublishedEntry, ...] = ()
    tradeoff: TradeoffEntry | None = None
    cosines: tuple[CosineEntry, ...] = ()
    completions: tuple[CompletionsEntry, ...] = ()
    suffixes: tuple[SuffixesEntry, ...] = ()
    not_held_out: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()


class Timings(Entry):
    """The whole of ``timings.json``: wall time in seconds of what was carried out, over all tries.

    ``estimate`` holds, of a run that computed everything in one try on a model whose speed was measured before, how
    many seconds it was said to take (``estimated_seconds``) and took (``taken_seconds``), and by how many seconds what
    was shown as left was off on average (``left_off_by_seconds``).
    """

    seconds: Mapping[str, Number] = {}
    estimate: Mapping[str, Number] | None = None
