"""The installed plugins, and their options as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options
from steerkit.catalog import Catalog
from steerkit.errors import SteerkitError


@cache
def installed() -> Catalog:
    """The plugins of this environment, discovered once: building an intervention in a loop must cost nothing."""
    return Catalog.discover()


def options_of(
    spec: EstimatorSpec | InterventionSpec, keywords: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Options:
    """A plugin's options from keyword arguments and from a mapping, which may hold any name.

    Raises:
        SteerkitError: for one that isn't there, isn't right, or is given twice.
    """
    if options is not None and not isinstance(options, Mapping):
        raise SteerkitError(
            f"{spec.kind} {spec.name!r}: options is a mapping from names to values, not {type(options).__name__}."
        )
    twice = sorted(keywords.keys() & (options or {}).keys())
    if twice:
        raise SteerkitError(f"{spec.kind} {spec.name!r}: option {twice[0]!r} is given twice; leave one out.")
    try:
        return spec.options(**keywords, **(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(spec.options.model_fields) or "none"
        raise SteerkitError(
            f"{spec.kind} {spec.name!r}, option {place!r}: {first['msg']}. Its options: {known}."
        ) from None
