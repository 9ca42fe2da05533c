"""Reads a run directory. Everything that the report says comes from here, and nothing else does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from steerkit.errors import ArtifactError

SCHEMA_VERSION: Final = 1

ModelT = TypeVar("ModelT", bound=BaseModel)


def _finite_or_none(value: object) -> object:
    """An infinity or NaN that slipped into a file was not measured, whatever wrote it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number, or None where it was not measured."""


class _Entry(BaseModel):
    """Base of all parts: frozen; keys of a later minor version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class ModelEntry(_Entry):
    """The model that was steered."""

    source: str
    adapter: str | None = None
    n_layers: int | None = None
    d_model: int | None = None
    dtype: str | None = None


class DirectionEntry(_Entry):
    """A direction: where it was read, from which prompts, and the norm of each of its vectors.

    Of one at several sites ``site`` says so in words, and ``norms_by_site`` takes the place of ``norms``.
    """

    name: str
    site: str | None = None
    positions: str | None = None
    rank: int = 1
    norms: tuple[Number, ...] = ()
    norms_by_site: Mapping[str, tuple[Number, ...]] = {}
    estimator: str | None = None
    positive: str | None = None
    negative: str | None = None
    explained: str | None = None


class InterventionEntry(_Entry):
    """One intervention of a condition, with every option resolved."""

    name: str
    direction: str | None = None
    options: Mapping[str, Any] = {}
    sites: tuple[str, ...] | None = None
    positions: str | None = None
    schedule: str | None = None
    gate: Mapping[str, Any] | None = None


class ConditionEntry(_Entry):
    """A condition. A control names the condition whose directions it replaces (``of``)."""

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


class EvaluatorEntry(_Entry):
    """An evaluator as the recipe names it, with the names of what is computed from its value."""

    name: str
    summary: str = ""
    aggregate: str = "mean"
    unit: str = ""
    derived: tuple[str, ...] = ()


class RecordEntry(_Entry):
    """One value: a condition, an evaluator, a data set. Null means not measured.

    ``difference`` is the condition minus the baseline on the same examples, paired, with its own interval;
    ``not_computed`` says how many examples have no score.
    """

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


class SeparationEntry(_Entry):
    """How well two classes are told apart at one site."""

    direction: str
    layer: int
    site: str
    positions: str | None = None
    data: tuple[str, ...] = ()
    held_out: bool | None = None
    auroc: Number = None
    d_prime: Number = None
    norm: Number = None
    n_positive: int | None = None
    n_negative: int | None = None

    @property
    def stream(self) -> str:
        """The curve that the entry belongs to. What leaves the last block is the ``resid_pre`` of no block."""
        block, _, stream = self.site.removeprefix("blocks.").partition(".")
        return "resid_pre" if stream == "resid_post" and block == str(self.layer - 1) else stream or self.site


class Results(_Entry):
    """The whole of ``results.json``."""

    schema_version: int
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


class Sample(_Entry):
    """One completion, with the scores of that one example. Null means not measured.

    ``example`` is what the example holds beside its prompt: messages, completion, label, id, fields, pair.
    """

    prompt: str
    data: str = ""
    condition: str
    completion: str | None = None
    scores: Mapping[str, Number] = {}
    example: Mapping[str, Any] = {}

    @property
    def about(self) -> str:
        """What the example holds beside its prompt, on one line."""
        named = {key: value for key, value in self.example.items() if key in ("id", "label")}
        named |= {"given completion": self.example["completion"]} if "completion" in self.example else {}
        shown = {**named, **self.example.get("fields", {})}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in shown.items()}
        return " · ".join(f"{key}: {text}" for key, text in texts.items())


class Run(_Entry):
    """A run directory, read.

    Args:
        path: the directory.
        results: ``results.json``.
        samples: the lines of ``samples.jsonl``; empty where there is no such file.
        provenance: ``provenance.json`` as it stands; empty where there is no such file.
        timings: ``timings.json`` as it stands; empty where there is no such file.
        recipe: the text of ``recipe.yaml``, or None.
    """

    path: Path
    results: Results
    samples: tuple[Sample, ...] = ()
    provenance: Mapping[str, Any] = {}
    timings: Mapping[str, Any] = {}
    recipe: str | None = None

    @property
    def title(self) -> str:
        """The report's title: the recipe's, else the run's name."""
        return self.results.title or self.results.name

    @cached_property
    def conditions(self) -> Mapping[str, ConditionEntry]:
        """Conditions by name, in the order of the recipe."""
        return {condition.name: condition for condition in self.results.conditions}


def load_run(path: Path | str) -> Run:
    """Read a run directory.

    Raises:
        ArtifactError: the directory or ``results.json`` is missing, a file is damaged, or another
            version of steerkit wrote it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a directory. Give the run directory that `steerkit run` printed.")
    results_path = root / "results.json"
    if not results_path.is_file():
        raise ArtifactError(
            f"{root} has no results.json: it is not a run directory, or the run did not finish. "
            "Run the recipe again with the same --out, and the run goes on where it stopped."
        )
    raw = _read_mapping(results_path)
    _check_version(raw, results_path)
    results = _validate(Results, raw, str(results_path))
    _check_names(results, results_path)
    recipe = root / "recipe.yaml"
    return Run(
        path=root,
        results=results,
        samples=_read_samples(root / "samples.jsonl"),
        provenance=_read_optional(root / "provenance.json"),
        timings=_read_optional(root / "timings.json"),
        recipe=_read_text(recipe) if recipe.is_file() else None,
    )


def _check_version(raw: Mapping[str, Any], path: Path) -> None:
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}, and this steerkit reads {SCHEMA_VERSION}. "
            "Use the version of steerkit that provenance.json names, or run the recipe again with this one."
        )


def _check_names(results: Results, path: Path) -> None:
    """Names that refer to nothing would drop silently out of tables, so they are errors."""
    names = [condition.name for condition in results.conditions]
    known = set(names)
    problems = [f"condition {name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"control {condition.name!r} belongs to {condition.of!r}, which is no condition"
        for condition in results.conditions
        if condition.kind == "control" and condition.of not in known
    ]
    lost = sorted({record.condition for record in results.records} - known)
    problems += [f"a record names the condition {name!r}, which is not listed" for name in lost]
    seen: set[tuple[str, str, str]] = set()
    for record in results.records:
        key = (record.condition, record.evaluator, record.data)
        if key in seen:
            problems.append(f"two records for {record.condition!r}, {record.evaluator!r} on {record.data!r}")
        seen.add(key)
    if problems:
        raise ArtifactError(f"{path} contradicts itself: {'; '.join(problems)}. Run the recipe again.")


def _read_samples(path: Path) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    samples = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            samples.append(_validate(Sample, _parse(line, where), where))
    return tuple(samples)


def _read_optional(path: Path) -> Mapping[str, Any]:
    return _read_mapping(path) if path.is_file() else {}


def _read_mapping(path: Path) -> Mapping[str, Any]:
    value = _parse(_read_text(path), str(path))
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}. {_AGAIN}")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is damaged: byte {error.start} is not UTF-8. {_AGAIN}") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None


_AGAIN: Final = "Run the recipe again."


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is damaged: {error}. {_AGAIN}") from None


def _validate(model: type[ModelT], raw: Any, where: str) -> ModelT:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ArtifactError(f"{where} is damaged: {_explain(error.errors())}. {_AGAIN}") from None


def _explain(errors: Sequence[Any]) -> str:
    shown = [f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(shown) + more
