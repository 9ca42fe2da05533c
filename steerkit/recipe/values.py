"""Values that a recipe's sections share: how each is read, and the text that it is kept as."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from steerkit.errors import SteerkitError
from steerkit.recipe.problems import EXPECTED
from steerkit.templates import require_arguments
from steerkit.types import Positions, Schedule, Site, parse_sites

ValueT = TypeVar("ValueT")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DEVICE = re.compile(r"auto|cpu|cuda(?::[0-9]{1,3})?")


def _unexpected(wanted: str, given: str) -> PydanticCustomError:
    return PydanticCustomError(EXPECTED, "expected {wanted}, not {given}", {"wanted": wanted, "given": given})


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > 80:
        raise ValueError(f"{value!r} is not a name: use letters, digits, '-' and '_', at most 80")
    return value


def _parsed(parse: Callable[[Any], ValueT], value: Any) -> ValueT:
    try:
        return parse(value)
    except SteerkitError as error:
        # pydantic gathers ValueErrors only.
        raise ValueError(str(error)) from error


def _read_positions(value: Any) -> str:
    if not isinstance(value, (str, int, list, tuple)):
        raise ValueError("expected positions: a role such as all, an index such as -1, or a list of indices")
    return str(_parsed(Positions.parse, value))


def _read_schedule(value: Any) -> str | tuple[float, ...]:
    if not isinstance(value, (str, list, tuple)):
        raise ValueError("expected a schedule: linear(1, 0, 64), exponential(0.97), or a list of factors")
    schedule = _parsed(Schedule.parse, value)
    # A list stays one, and a text stays as it was written: no digit of a rate is lost.
    return schedule.values if schedule.kind == "list" else " ".join(str(value).split())


def _read_site(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a site such as blocks.14.resid_pre")
    return str(_parsed(Site.parse, value))


def _read_sites(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a site such as blocks.14.resid_pre, or a pattern such as blocks.*.resid_pre")
    return str(_parsed(parse_sites, value))


def _read_names(value: Any) -> str | tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)) or not all(isinstance(item, str) for item in listed):
        raise ValueError(f"expected text, not {json.dumps(value)}, or a list of texts")
    return value if isinstance(value, str) else tuple(listed)


def _check_template(value: str) -> str:
    if value not in ("default", "none", "file"):
        raise ValueError("expected default, none, or {file: template.jinja}")
    return value


def _check_device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise _unexpected("auto, cpu, cuda or cuda:<number>", repr(value[:40]))
    return value


def _check_sweep(value: Mapping[str, tuple[int | float, ...]]) -> Mapping[str, tuple[int | float, ...]]:
    if len(value) != 1:
        raise ValueError("expected one option with a list of values, as in {coefficient: [1, 2, 4]}")
    ((_, values),) = value.items()
    if not values or len(set(values)) != len(values):
        raise ValueError("expected at least one value, and each of them once")
    return value


def _check_coefficients(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value or len(set(value)) != len(value):
        raise ValueError("expected at least one coefficient, and each of them once")
    if 0 in value:
        raise ValueError("a candidate that is added 0 times does nothing; leave 0 out")
    return value


def fields_of(template: str) -> tuple[str, ...]:
    """The fields that a prompt's template names, each once. Raises ``ValueError`` for what is no template."""
    example = "write fields in braces, as in 'Translate: {text}', and braces themselves twice, as {{ and }}"
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a template ({error}): {example}") from error
    named: dict[str, None] = {}
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name.strip() or spec or conversion or any(sign in name for sign in ".[]"):
            raise ValueError(f"not a template: {{{name}}} is no field: {example}")
        named[name] = None
    if not named:
        raise ValueError(f"expected a template with at least one field: {example}")
    return tuple(named)


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template with texts in place of its fields."""
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else values[name]) for text, name, _, _ in parts)


def _check_prompt_template(value: str) -> str:
    fields_of(value)
    return value


def _check_where(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not value:
        raise ValueError("expected at least one field with its value, as in {label: yes}")
    for wanted in value.values():
        listed = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        if not listed or not all(isinstance(item, (str, int, float, bool)) for item in listed):
            raise ValueError("expected for each field a value or a list of values: texts, numbers, true or false")
    return value


def _check_arguments(value: Mapping[str, Any]) -> Mapping[str, Any]:
    _parsed(require_arguments, value)
    return value


def _check_sites(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("expected at least one site, as in [blocks.14.resid_pre]; leave sites out for the default")
    return value


def _check_system_prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a text, not an empty one; leave system_prompt out where there is to be none")
    return value


def _read_prefix(value: Any) -> str | dict[str, str]:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and set(value) == {"field"} and isinstance(value["field"], str) and value["field"]:
        return {"field": value["field"]}
    raise ValueError("expected a text, as in 'Sure, ', or the field that holds it, as in {field: opening}")


def _check_prefix(value: str) -> str:
    if not value:
        raise ValueError("expected a text, as in 'Sure, '; leave answer_prefix out where answers begin by themselves")
    return value


Name: TypeAlias = Annotated[str, AfterValidator(_check_name)]
PositionsText: TypeAlias = Annotated[str, BeforeValidator(_read_positions)]
# Any: pydantic warns about what a plain validator returns where it is told that this is one of two types.
ScheduleValue: TypeAlias = Annotated[Any, PlainValidator(_read_schedule)]
Names: TypeAlias = Annotated[Any, PlainValidator(_read_names)]
"""A name, or a tuple of several."""
SiteText: TypeAlias = Annotated[str, BeforeValidator(_read_site)]
SitesText: TypeAlias = Annotated[str, BeforeValidator(_read_sites)]
"""One site, or a pattern of several."""
SitesList: TypeAlias = Annotated[tuple[SitesText, ...], AfterValidator(_check_sites)]
SystemPrompt: TypeAlias = Annotated[str, AfterValidator(_check_system_prompt)]
PrefixText: TypeAlias = Annotated[str, AfterValidator(_check_prefix)]
AnswerPrefix: TypeAlias = Annotated[Any, PlainValidator(_read_prefix)]
"""A text, empty for none, or ``{field: name}``."""
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seed: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1)]
Template: TypeAlias = Annotated[str, AfterValidator(_check_template)]
Device: TypeAlias = Annotated[str, AfterValidator(_check_device)]
Sweep: TypeAlias = Annotated[Mapping[str, tuple[int | float, ...]], AfterValidator(_check_sweep)]
Coefficients: TypeAlias = Annotated[tuple[float, ...], AfterValidator(_check_coefficients)]
PromptTemplate: TypeAlias = Annotated[str, AfterValidator(_check_prompt_template)]
Where: TypeAlias = Annotated[Mapping[str, Any], AfterValidator(_check_where)]
TemplateArguments: TypeAlias = Annotated[Mapping[str, Any], AfterValidator(_check_arguments)]
