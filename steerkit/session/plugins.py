"""The installed plugins, and their options as keyword arguments."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options
from steerkit.catalog import installed
from steerkit.errors import SteerkitError

__all__ = ["installed", "options_of"]


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
