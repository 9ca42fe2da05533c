"""The installed plugins, and their options as keyword arguments."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options
from steerkit.catalog import Catalog
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    pass


@cache
def installed() -> Catalog:
    """The plugins of this environment, discovered once: building an intervention in a loop must cost nothing."""
    return Catalog.discover()


def options_of(spec: EstimatorSpec | InterventionSpec, options: dict[str, Any]) -> Options:
    """A plugin's options from keyword arguments. Raises ``SteerkitError`` for one that isn't there or isn't right."""
    try:
        return spec.options(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(spec.options.model_fields) or "none"
        raise SteerkitError(
            f"{spec.kind} {spec.name!r}, option {place!r}: {first['msg']}. Its options: {known}."
        ) from None
