"""What all parts of a run's JSON files are: frozen, read leniently, written without what is rare and absent."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from steerkit.api.showing import brief


def _finite_or_none(value: object) -> object:
    """An infinity or NaN that slipped into a file was not measured, whatever wrote it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number, or None where it was not measured."""


class Entry(BaseModel):
    """Base of all parts: frozen; keys of a later minor version are ignored when they are read.

    What is named in ``_rare`` is written only where there is any.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)
    _rare: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return brief(self)

    __str__ = __repr__

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: item for key, item in written.items() if key not in self._rare or item not in (None, {}, ())}
