"""What a recipe may say. Frozen; unknown keys are errors. ``steerkit.recipe.load`` reads it from YAML.

Directions, conditions and monitors are in ``steering``, what the report shows is in ``reporting``.

A recipe knows nothing of where it was written: a ``Draft`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from steerkit.recipe.placement import DeviceMapValue, Quantization
from steerkit.recipe.problems import INTERNAL
from steerkit.recipe.reporting import ReportRecipe
from steerkit.recipe.section import Section, excess, lacking
from steerkit.recipe.steering import ConditionRecipe, DirectionRecipe, InterventionRecipe, MonitorRecipe
from steerkit.recipe.studies import SuffixesRecipe
from steerkit.recipe.values import (
    AnswerPrefix,
    Coefficients,
    Count,
    Device,
    Name,
    Names,
    PrefixText,
    PromptTemplate,
    Seed,
    SystemPrompt,
    Template,
    TemplateArguments,
    Where,
)
from steerkit.types.placement import ModelPlacement
from steerkit.types.special_tokens import InText

SPLITS: Final = ("train", "validation", "test")
_OF_ROWS: Final = (
    *("field", "messages", "template", "completion", "pairs", "label", "id", "where", "split", "seed", "duplicates"),
)
"""Keys of a data set that say how rows become examples, which completions have from another data set."""
WHOLE: Final = "all"
"""The name of the one split of a data set that isn't split."""


class ModelRecipe(Section):
    """Section ``model``: which checkpoint, and how it is loaded and prompted."""

    source: str = Field(min_length=1, description="hub id, folder, .gguf file, bundled alias or tiny-random:<type>")
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub repository")
    adapter: str | None = Field(default=None, description="name of an architecture plugin; found by itself where None")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="of the weights")
    device: Device = Field(default="auto", description="auto, cpu, cuda, cuda:1")
    device_map: DeviceMapValue | None = Field(
        default=None, description="auto, balanced, balanced_low_0, sequential, or {module: device}, disk among them"
    )
    offload_folder: str | None = Field(
        default=None, min_length=1, description="where weights on disk are kept, relative to the recipe"
    )
    tensor_parallel: Count | None = Field(
        default=None, description="processes over which each weight is split; torchrun starts them"
    )
    quantization: Quantization | None = Field(
        default=None, description="method and its options, as in {method: bitsandbytes, load_in_4bit: true}"
    )
    chat_template: Template = Field(default="default", description="default, none, or {file: template.jinja}")
    chat_template_file: str | None = Field(default=None, json_schema_extra=INTERNAL)
    chat_template_arguments: TemplateArguments = Field(
        default_factory=dict, description="the template's own variables, as in {enable_thinking: false}"
    )
    system_prompt: SystemPrompt | None = Field(
        default=None, description="system message of every prompt that has none of its own"
    )
    answer_prefix: PrefixText | None = Field(
        default=None, description="how answers begin to prompts whose data set says nothing else"
    )
    special_tokens_in_text: InText = Field(
        default="allow",
        description="a special token's text in what somebody says: allow reads that token, escape text, error refuses",
    )
    trust_remote_code: bool = Field(default=False, description="whether code from the repository may run")
    accept_terms: bool = Field(default=False, description="whether the model's terms of use are accepted")
    batch_tokens: Count = Field(default=4096, description="most tokens of a batch, padding included")

    @property
    def placement(self) -> ModelPlacement:
        """Where the weights go, and in which form."""
        parallel = None if self.tensor_parallel == 1 else self.tensor_parallel
        return ModelPlacement(self.device_map, self.offload_folder, parallel, self.quantization)


class SplitRecipe(Section):
    """How many texts each split gets, and which ones may be drawn for it. What is left over isn't used."""

    train: Count | None = Field(default=None, description="texts that directions are estimated from")
    validation: Count | None = Field(default=None, description="texts that choices are made on")
    test: Count | None = Field(default=None, description="texts that numbers in the report come from")

    by: str | None = Field(
        default=None,
        min_length=1,
        description="field that says which part a row is of (train, validation or test); all rows of it without a size",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> SplitRecipe:
        if not self.sizes and self.by is None:
            raise lacking("give at least one of train, validation and test, or by", (*SPLITS, "by"))
        return self

    @property
    def sizes(self) -> Mapping[str, int]:
        """The splits that there are, with their sizes."""
        return {name: size for name in SPLITS if (size := getattr(self, name)) is not None}


class PairsRecipe(Section):
    """Two fields of each row as two classes, which stay in pairs."""

    of: Literal["prompts", "completions"] = Field(
        description="prompts, each side a prompt; or completions, both sides of one prompt"
    )
    positive: str = Field(min_length=1, description="field that holds the positive side")
    negative: str = Field(min_length=1, description="field that holds the negative side")


class CompletionsRecipe(Section):
    """A data set of what the model itself says: prompts of another one, each with the model's greedy completion."""

    of: str = Field(min_length=1, description="data set, or a part of one, whose prompts are completed")
    condition: str | None = Field(
        default=None, min_length=1, description="name of the condition under which they are; unsteered where None"
    )
    max_new_tokens: Count = Field(description="length of a completion in tokens, at most")


class DatasetRecipe(Section):
    """One data set of section ``data``: from a file, inline, from the hub, what the model says to another one, or of
    others that stand before it."""

    file: str | None = Field(default=None, min_length=1, description="path, relative to the recipe")
    inline: tuple[str | Mapping[str, Any], ...] | None = Field(
        default=None, description="the texts themselves, or rows with fields, as in [{text: Hello., label: warm}]"
    )
    hub: str | None = Field(default=None, min_length=1, description="org/name of a hub data set")
    completions: CompletionsRecipe | None = Field(
        default=None, description="the model's own completions of another data set's prompts, as in {of: probe}"
    )
    of: Mapping[str, str] | None = Field(
        default=None,
        min_length=1,
        description="other data sets side by side, part by part, each by the label that its examples get",
    )
    suffix: str | None = Field(
        default=None, min_length=1, description="with `of`: text that is put behind the last turn of the user"
    )
    config: str | None = Field(default=None, description="configuration of the hub data set")
    hub_split: str = Field(default="train", description="split of the hub data set that is read")
    field: str | None = Field(default=None, description="field that holds the text")
    messages: str | None = Field(default=None, min_length=1, description="field that holds a conversation")
    template: PromptTemplate | None = Field(default=None, description="the user's turn, with {fields} filled in")
    completion: str | None = Field(default=None, min_length=1, description="field with what follows the prompt")
    answer_prefix: AnswerPrefix | None = Field(
        default=None, description="how answers begin: a text for all, or {field: name}; the model's where None"
    )
    obtain: str | None = Field(
        default=None, min_length=1, description="where the file comes from: said where it isn't there"
    )
    pairs: PairsRecipe | None = Field(default=None, description="two fields as the two classes, in pairs")
    label: str | None = Field(default=None, min_length=1, description="field that holds the row's label")
    id: str | None = Field(default=None, min_length=1, description="field that holds the row's name")
    where: Where | None = Field(default=None, description="which rows, as in {label: [yes, maybe]}")
    split: SplitRecipe | None = Field(default=None, description="sizes of train, validation and test")
    seed: Seed | None = Field(default=None, description="of the split; the recipe's where None")
    duplicates: Literal["error", "drop"] = Field(default="error", description="what to do about texts that come twice")

    @model_validator(mode="after")
    def _one_source(self) -> DatasetRecipe:
        sources = ("file", "inline", "hub", "completions", "of")
        given = [name for name in sources if getattr(self, name) is not None]
        if not given:
            raise lacking("expected one of file, inline, hub, completions and of, not none of them", sources)
        if len(given) > 1:
            raise excess(f"expected one of file, inline, hub, completions and of, not {' and '.join(given)}", given)
        if self.of is None and self.suffix is not None:
            raise excess("suffix is for data sets of others; remove it, or say `of`", ("suffix",))
        if self.of is not None:
            fields = type(self).model_fields
            own = (name for name in sorted(self.model_fields_set) if getattr(self, name) != fields[name].default)
            if extra := [name for name in own if name not in ("of", "suffix")]:
                raise excess(f"the examples of other data sets are what they are; remove {' and '.join(extra)}", extra)
        if self.hub is None and (self.config is not None or self.hub_split != "train"):
            message = "config and hub_split belong to data sets from the hub; remove them"
            raise excess(message, ("config", "hub_split"))
        return self

    @property
    def prefix_field(self) -> str | None:
        """The field that holds how answers begin, or None."""
        return str(self.answer_prefix["field"]) if isinstance(self.answer_prefix, Mapping) else None

    @model_validator(mode="after")
    def _follows(self) -> DatasetRecipe:
        if self.completions is None:
            return self
        if self.prefix_field is not None:
            message = "completions have no rows of their own, so answer_prefix is a text for all of them"
            raise excess(message, ["answer_prefix"])
        own = [name for name in _OF_ROWS if getattr(self, name) != type(self).model_fields[name].default]
        if own:
            listed = " and ".join(own)
            message = f"completions have prompts, labels and splits of the data set that they are of; remove {listed}"
            raise excess(message, own)
        return self

    @model_validator(mode="after")
    def _one_prompt(self) -> DatasetRecipe:
        given = [name for name in ("field", "messages", "template") if getattr(self, name) is not None]
        if len(given) > 1:
            listed = " and ".join(given)
            raise excess(f"the prompt comes from one of field, messages and template, not {listed}", given)
        if self.pairs is None:
            return self
        if self.pairs.of == "prompts" and given:
            raise excess(f"pairs of prompts hold the prompts themselves; remove {given[0]}", given)
        if self.pairs.of == "completions" and self.completion is not None:
            raise excess("pairs of completions hold the completions themselves; remove completion", ("completion",))
        return self


class EvaluationRecipe(Section):
    """One evaluator on some data."""

    plugin: str = Field(description="name of an evaluator; written as the key that the others stand below")
    name: Name = Field(description="as results call it; the plugin's name where it isn't given")
    data: tuple[str, ...] = Field(min_length=1, description="one data reference or a list, as in [probe.test]")
    control: bool | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=True, description="whether random controls are measured by it too, or on which of its data"
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="the evaluator's own, written among these keys"
    )


class FilterRecipe(Section):
    """Which examples of a data set are kept: those that the unsteered model treats as they are meant."""

    plugin: str = Field(description="name of an evaluator; written as the key that the others stand below")
    at_least: float | None = Field(default=None, description="an example is kept where its score is at least this")
    at_most: float | None = Field(default=None, description="an example is kept where its score is at most this")
    parts: tuple[Literal["train", "validation", "test", "all"], ...] = Field(
        default=("train", "validation"), min_length=1, description="parts of the split that are filtered"
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="the evaluator's own, written among these keys"
    )

    @model_validator(mode="after")
    def _one_side(self) -> FilterRecipe:
        if self.at_least is None and self.at_most is None:
            raise lacking("expected a number as at_least or as at_most", ("at_least", "at_most"))
        return self


class CandidateScoreRecipe(Section):
    """One score of a search's candidates: an evaluator on prompts, under interventions along the candidate."""

    plugin: str = Field(description="name of an evaluator; written as the key that the others stand below")
    data: str = Field(description="data reference of the prompts, as in harmful.validation")
    under: tuple[InterventionRecipe, ...] = Field(
        default=(), description="list of interventions, along the candidate's direction, as in [ablate]"
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="the evaluator's own, written among these keys"
    )


class BoundRecipe(Section):
    """A bound on a score of a search's candidates."""

    score: str = Field(description="name of a score")
    at_least: float | None = Field(default=None, description="lower bound")
    at_most: float | None = Field(default=None, description="upper bound")
    strict: bool = Field(default=False, description="whether a candidate that lies on the bound is outside")

    @model_validator(mode="after")
    def _one_side(self) -> BoundRecipe:
        if self.at_least is None and self.at_most is None:
            raise lacking("expected a number as at_least or as at_most", ("at_least", "at_most"))
        return self


class SearchRecipe(Section):
    """One search of section ``search``: a direction that is chosen among candidates, under the search's name."""

    over: Names = Field(description="name of a direction, or a list; each site and position of it is a candidate")
    scores: Mapping[Name, CandidateScoreRecipe] = Field(min_length=1, description="scores of a candidate, by name")
    minimise: Names | None = Field(default=None, description="score that is to be small, or a list: their sum")
    maximise: Names | None = Field(default=None, description="score that is to be large, or a list: their sum")
    subject_to: Mapping[Name, BoundRecipe] = Field(default_factory=dict, description="bounds on scores, by name")
    layers_below: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="which layers may win, as a share of the depth"
    )
    exhaustive: bool = Field(default=False, description="whether candidates that a bound removed are scored on")
    coefficients: Coefficients | None = Field(
        default=None, description="coefficients of what is added, each of them a candidate, as in [0.5, 1, 2]"
    )

    @model_validator(mode="after")
    def _some_candidates(self) -> SearchRecipe:
        if not self.directions:
            raise excess("expected the name of a direction, or a list of names", ("over",))
        return self

    @model_validator(mode="after")
    def _one_goal(self) -> SearchRecipe:
        given = [name for name in ("minimise", "maximise") if getattr(self, name) is not None]
        if not given:
            raise lacking("expected the name of a score as minimise or as maximise", ("minimise", "maximise"))
        if len(given) > 1:
            raise excess("expected one of minimise and maximise, not both", given)
        if not self.aims:
            raise lacking("expected the name of a score, or a list of names", given)
        return self

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that it searches."""
        return (self.over,) if isinstance(self.over, str) else self.over

    @property
    def aims(self) -> tuple[str, ...]:
        """The scores whose sum is to be small or large."""
        written = self.minimise if self.minimise is not None else self.maximise
        return (written,) if isinstance(written, str) else tuple(written or ())


class ControlRecipe(Section):
    """Section ``control``: the same interventions along random directions of equal norm."""

    random_directions: int = Field(default=5, ge=0, le=1000, description="how many; 0 switches the control off")
    at: Literal["all", "extremes"] | Annotated[tuple[float, ...], Field(min_length=1)] = Field(
        default="all", description="at which values of a sweep: all, extremes (the lowest and the highest), or a list"
    )

    def stands_beside(self, value: float, values: Iterable[float]) -> bool:
        """Whether controls are run beside one value of a sweep."""
        if self.at == "extremes":
            return value in (min(values), max(values))
        return self.at == "all" or value in self.at


class Recipe(Section):
    """A recipe as written, validated by itself: names of plugins and data are resolved by ``make_plan``."""

    name: Name = Field(description="names the run directory; the file's name where it isn't given")
    description: str = Field(default="", description="one line for the report")
    seed: Seed = Field(default=0, description="of splits and random controls")
    model: ModelRecipe = Field(description="section; needs at least `source`")
    data: Mapping[Name, DatasetRecipe] = Field(default_factory=dict, description="section: data sets by name")
    filter: Mapping[Name, FilterRecipe] = Field(
        default_factory=dict, description="section: by data set, which examples are kept"
    )
    directions: Mapping[Name, DirectionRecipe] = Field(default_factory=dict, description="section: by name")
    search: Mapping[Name, SearchRecipe] = Field(default_factory=dict, description="section: directions to be chosen")
    conditions: Mapping[Name, ConditionRecipe] = Field(default_factory=dict, description="section: by name")
    monitors: Mapping[Name, MonitorRecipe] = Field(default_factory=dict, description="section: by name")
    suffixes: Mapping[Name, SuffixesRecipe] = Field(
        default_factory=dict, description="section: studies of texts behind the user's turn, by name"
    )
    evaluate: tuple[EvaluationRecipe, ...] = Field(default=(), description="section: list of evaluators")
    control: ControlRecipe = Field(default=ControlRecipe(), description="random_directions, or false")
    report: ReportRecipe = Field(default=ReportRecipe(), description="section")
