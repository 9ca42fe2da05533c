"""What all sections of a recipe are: frozen, with unknown keys as errors."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from steerkit.recipe.problems import EXCESS, LACKING


def lacking(message: str, keys: Iterable[str]) -> PydanticCustomError:
    """An error that lies in keys that aren't there."""
    return PydanticCustomError(LACKING, "{message}", {"message": message, "keys": tuple(keys)})


def excess(message: str, keys: Iterable[str]) -> PydanticCustomError:
    """An error that lies in keys that stand there."""
    return PydanticCustomError(EXCESS, "{message}", {"message": message, "keys": tuple(keys)})


class Section(BaseModel):
    """Base of a recipe's sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), defer_build=True)


def require_one_side(section: Section) -> None:
    """A number on one side of a threshold, and on one only."""
    given = [name for name in ("above", "below") if getattr(section, name) is not None]
    if not given:
        raise lacking("expected a number as above or as below", ("above", "below"))
    if len(given) > 1:
        raise excess("expected one of above and below, not both", given)
