"""What a plugin can provide, on one page.

A plugin is a module that an entry point in the group ``steerkit`` names. It imports no torch: its
hooks return specs, and a spec names its implementation as ``"module:attribute"``, which is imported
when a plan needs it. So plugins can be listed, and recipes checked down to every option, at once.

What there is to provide is in the table ``KINDS`` at the end: for each kind a hook, a spec, the base class of its
implementations, and a suite in ``steerkit.testing``.

    from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, Options, hookimpl

    STEERKIT_CONTRACT = 2  # the version of this page that the plugin was written for

    class MedianOptions(Options):
        \"\"\"Options of ``median_difference``.\"\"\"

    def needs(options: MedianOptions) -> EstimatorNeeds:
        return EstimatorNeeds(statistics="rows")

    @hookimpl
    def steerkit_estimators() -> list[EstimatorSpec]:
        summary = "Difference of the medians."
        where = "my_package.median:Median"  # a class from steerkit.api.estimator.Estimator
        return [EstimatorSpec("median_difference", summary, where, MedianOptions, needs=needs)]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

import pluggy
from pydantic import BaseModel, ConfigDict

from steerkit.api.showing import brief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerkit.types import Example

CONTRACT: Final = 2
"""The version of this page. A plugin's module says the one that it was written for, as ``STEERKIT_CONTRACT``; one of an
older version is listed with what to change, and its hooks aren't called."""

hookimpl = pluggy.HookimplMarker("steerkit")

StatisticsKind: TypeAlias = Literal["mean", "moments", "rows"]
Classes: TypeAlias = Literal["two", "pairs", "labels"]

POSITIVE, NEGATIVE = "positive", "negative"
"""The names of two classes. The negative one is the reference."""


class Options(BaseModel):
    """Base of a plugin's options: frozen, and unknown keys are errors. Give each field a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class NoOptions(Options):
    """For plugins that have nothing to set."""


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint says about itself, read without its weights.

    Args:
        model_type: ``config.model_type``.
        config: the whole config as a plain mapping.
        special_tokens: the texts of the tokenizer's special tokens; empty where there is no tokenizer.
    """

    model_type: str
    config: Mapping[str, Any]
    special_tokens: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class Needs:
    """What an evaluator must see. The runner makes each pass once per condition and shares it.

    Args:
        next_token_logits: logits after the last prompt token, ``[n, vocab]``.
        sequence_logits: logits at every token of a text, a batch at a time.
        max_text_tokens: how many tokens of each text ``sequence_logits`` reads, from its start; 0 for all.
        max_new_tokens: length of completions; 0 for none.
        samples: so many sampled completions of each prompt, in place of the greedy one.
        temperature: of the samples.
        top_p: samples come from the likeliest tokens that have this share of the probability together.
        baseline: the same outputs of the unsteered model beside the steered ones.
        baseline_completions: the unsteered model's own completions, of ``max_new_tokens``, as the texts of
            ``sequence_logits``; the steered model then generates nothing.
        activations: ``(site or pattern of sites, positions)`` to read along the prompt, and along the completion
            where there is a greedy one.
        monitors: names of monitors whose readings it scores, along the same tokens; True: all that there are.
        calls: most questions that it asks of something slow outside, for a data set under a condition; 0: it asks none.
        call_tokens: most tokens of these questions with their answers, as ``Evaluator.tokens_of`` counts them; 0: any
            number.
        references: data references, as its options name them, of other examples whose activations it gets in
            ``outputs.references``, read along their prompts in the unsteered model. It is then shown all examples of
            its own data at once, so that a score may speak of all of them together.
        key: name of the environment variable whose key goes with its questions; empty where none does. A check says so
            where it isn't set.
    """

    next_token_logits: bool = False
    sequence_logits: bool = False
    max_text_tokens: int = 0
    max_new_tokens: int = 0
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    baseline: bool = False
    baseline_completions: bool = False
    activations: tuple[tuple[str, str], ...] = ()
    monitors: bool | tuple[str, ...] = False
    calls: int = 0
    call_tokens: int = 0
    references: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Value:
    """One of several values that an evaluator gives.

    Args:
        unit: as the report prints it.
        aggregate: ``mean`` or ``proportion`` of a score per example; ``whole``: a value of all examples together.
        bootstrap: for ``whole``: whether drawing examples anew tells its uncertainty; without it there is no interval.
        verdict: for ``proportion``: whether it is the evaluator's judgement of an example, which the report compares
            with those of others; False for what stands beside it, such as the share that couldn't be judged.
        partial: whether it is of some of the examples only, by what it is: those of weight 0 are then nothing to tell.
    """

    unit: str = ""
    aggregate: Literal["mean", "proportion", "whole"] = "mean"
    bootstrap: bool = True
    verdict: bool = True
    partial: bool = False


@dataclass(frozen=True)
class Lack:
    """What examples lack, so that an evaluator has no value of the whole set.

    Args:
        what: in words, as "No value: ..." goes on; perhaps with what there is instead.
        option: the evaluator's option that names what no example has, so that a plan is refused where that is so of all
            its data; None where examples may well lack it, and a plan says so in a note.
    """

    what: str
    option: str | None = None


@dataclass(frozen=True)
class Spec:
    """What every plugin says about itself.

    Args:
        name: as recipes write it; unique within its kind.
        summary: one line.
        implementation: ``"module:attribute"`` of a class from ``steerkit.api``.
        options: the options model; its fields are what a recipe may set.
    """

    kind: ClassVar[str] = ""
    name: str
    summary: str
    implementation: str
    options: type[Options] = NoOptions


@dataclass(frozen=True)
class ArchitectureSpec(Spec):
    """An adapter for one family. See ``steerkit.api.architecture.ArchitectureAdapter``.

    Args:
        model_types: the ``model_type`` values of transformers that it handles.
        recognise: a further test of the checkpoint, for families that share a model type.
        refines: names of adapters whose claim yields to this one's (Yi refines Llama).
        refuses: model types that are known and can't be handled, with the reason.
        note: a limitation that ``steerkit check`` and ``steerkit plugins`` show.
        refusal_tokens: ``{vocabulary size of the config: {token id: its text}}``: with what tokens models of the family
            begin when they decline. They are used where the model's own tokenizer has that text at that id.
        fallback: claims what no other adapter claims or refuses by name.
    """

    kind: ClassVar[str] = "architecture"
    model_types: tuple[str, ...] = ()
    recognise: Callable[[ModelFacts], bool] | None = None
    refines: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    refusal_tokens: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    fallback: bool = False

    def claims(self, facts: ModelFacts) -> bool:
        """Whether this adapter is one for the checkpoint: by its model type, or as a fallback for any."""
        known = self.fallback or facts.model_type in self.model_types
        return known and (self.recognise is None or self.recognise(facts))


@dataclass(frozen=True)
class EstimatorNeeds:
    """What an estimator must see. It gets it in an ``EstimationRequest``.

    Args:
        sites: sites or patterns of its own, as in ``("blocks.*.resid_post",)``; None for those that the user names.
        positions: at which tokens, by its own choice; None for the user's.
        classes: ``two``, ``positive`` and ``negative`` (the reference); ``pairs``, the same two, where the examples of
            one place belong together; ``labels``, any number of classes by the names that the user gives them.
        statistics: what is captured of each class: ``mean``; ``moments`` (also second moments); ``rows``;
            ``paired_rows`` (also the difference of each pair); None for nothing.
        handle: whether it gets a model handle, which runs examples under interventions of its own.
        outputs: names of the further directions that it gives beside its main one; ``labels`` for one per class.
        rank: how many vectors its main direction has at each site, where its options say so; None where data do.
        per_position: whether it has no more of them than there are tokens at the positions, so that a plan can refuse
            a ``rank`` beyond that.
    """

    sites: tuple[str, ...] | None = None
    positions: str | None = None
    classes: Classes = "two"
    statistics: StatisticsKind | Literal["paired_rows"] | None = "mean"
    handle: bool = False
    outputs: tuple[str, ...] | Literal["labels"] = ()
    rank: int | None = None
    per_position: bool = False


def _no_class_lacks(options: Any, classes: Mapping[str, Sequence[Example]]) -> Lack | None:
    return None


def _means_of_two(options: Any) -> EstimatorNeeds:
    return EstimatorNeeds()


@dataclass(frozen=True)
class EstimatorSpec(Spec):
    """An estimator of directions. See ``steerkit.api.estimator.Estimator``.

    Args:
        needs: from the options to what it must see.
        lacks: from the options and the examples by class to what these lack, or None. A plan asks before anything is
            run.
    """

    kind: ClassVar[str] = "estimator"
    needs: Callable[[Any], EstimatorNeeds] = _means_of_two
    lacks: Callable[[Any, Mapping[str, Sequence[Example]]], Lack | None] = _no_class_lacks


@dataclass(frozen=True)
class InterventionSpec(Spec):
    """An intervention on the residual stream. See ``steerkit.api.intervention.Intervention``.

    Args:
        directions: how many directions it takes: 0, 1, 2, ...
        many_sites: whether it takes a direction at several sites as such, and uses at each site the vectors of that
            site. Otherwise a direction at several sites needs an option ``at`` that chooses one of them.
        idle: from the options to whether it does nothing at all with them, so that a plan can say so.
        additive: name of the option that multiplies a direction which it adds: there the coefficients of a search's
            candidates go. Empty where it adds none.
        at_own: whether it acts where its direction was made, if nobody names sites: a plan then says where a model has
            no such place.
        at_writers: whether it acts at everything that writes to the stream, if nobody names sites: a plan then says
            where nobody knows what does.
    """

    kind: ClassVar[str] = "intervention"
    directions: int = 1
    many_sites: bool = False
    idle: Callable[[Any], bool] | None = None
    additive: str = ""
    at_own: bool = False
    at_writers: bool = False


def _no_needs(options: Any) -> Needs:
    return Needs()


def _lacks_nothing(options: Any, examples: Sequence[Example]) -> Lack | None:
    return None


@dataclass(frozen=True)
class EvaluatorSpec(Spec):
    """An evaluator. See ``steerkit.api.evaluator.Evaluator``.

    Args:
        needs: from the options to what it must see.
        derived: names of the values that the implementation's ``derived`` adds, so that a plan knows them.
        values: its values by name, where they are several; the plugin's own name is the one that it is called by.
            Empty: one score per example, with the class's unit and aggregate.
        limits: from the options and the number of logits to the least and the greatest value that an example's score
            can have, so that a search can tell early that a bound fails. Each example then has the weight 1.
        lacks: from the options and the examples of a data set to what these lack for its values of the whole, or None.
            A plan asks before anything is run, and a value that there isn't says so.
        role: what it is there for: to measure ``behaviour``; to tell of a ``side effect``, such as how much the model
            has lost; or as a ``judge`` that reads completions. The report's first page goes by it.
    """

    kind: ClassVar[str] = "evaluator"
    needs: Callable[[Any], Needs] = _no_needs
    derived: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    limits: Callable[[Any, int], tuple[float, float]] | None = None
    lacks: Callable[[Any, Sequence[Example]], Lack | None] = _lacks_nothing
    role: Literal["behaviour", "side effect", "judge"] = "behaviour"

    def label(self, value: str, called: str) -> str:
        """What results call one of its values, where a recipe calls the evaluator so."""
        if value == self.name:
            return called
        return value if called == self.name else f"{called}.{value}"


@dataclass(frozen=True)
class FormatSpec(Spec):
    """A file format of directions. See ``steerkit.api.format.Format``.

    An option called ``convention`` says whose numbering of layers a file follows, where files of one layout follow
    several and don't say which: a recipe writes it beside ``file``, and the command line has ``--convention``.

    Args:
        suffixes: how the names of its files end, as in ``(".safetensors",)``; none where its files are folders only.
        acts: where a vector of its files acts, as a line: ``"output of block k"``. Empty: each file says it.
        reads: whether it reads files.
        writes: whether it writes them.
        folder: whether its files are folders: what it writes is one, as ``Written.files``, and what it reads may be.
        fallback: its files may be read better by a format that knows what is in them: it is taken for a file, or for a
            suffix, only where no other format claims that.
    """

    kind: ClassVar[str] = "format"
    suffixes: tuple[str, ...] = ()
    acts: str = ""
    reads: bool = True
    writes: bool = True
    folder: bool = False
    fallback: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of plugin. All that lists, checks or tests plugins by kind reads the table below.

    Args:
        name: as in ``estimator``.
        plural: as in ``estimators``.
        spec: what the hook returns a list of.
        base: ``"module:attribute"`` of the class that implementations derive from.
        suite: name of its suite in ``steerkit.testing``.
    """

    name: str
    plural: str
    spec: type[Spec]
    base: str
    suite: str

    @property
    def hook(self) -> str:
        """The function that a plugin's module defines, without arguments, marked ``@hookimpl``."""
        return f"steerkit_{self.plural}"


KINDS: Final = (
    Kind(
        "architecture",
        "architectures",
        ArchitectureSpec,
        "steerkit.api.architecture:ArchitectureAdapter",
        "ArchitectureSuite",
    ),
    Kind("estimator", "estimators", EstimatorSpec, "steerkit.api.estimator:Estimator", "EstimatorSuite"),
    Kind(
        "intervention", "interventions", InterventionSpec, "steerkit.api.intervention:Intervention", "InterventionSuite"
    ),
    Kind("evaluator", "evaluators", EvaluatorSpec, "steerkit.api.evaluator:Evaluator", "EvaluatorSuite"),
    Kind("format", "formats", FormatSpec, "steerkit.api.format:Format", "FormatSuite"),
)
