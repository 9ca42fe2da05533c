"""The installed plugins, and their options as keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from steerkit.api.hookspecs import EstimatorSpec, InterventionSpec, Options
from steerkit.catalog import installed
from steerkit.errors import SteerkitError, nearest
from steerkit.recipe.problems import UNKNOWN, faults_of

__all__ = ["installed", "options_of"]


def options_of(
    spec: EstimatorSpec | InterventionSpec,
    keywords: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    beside: Iterable[str] = (),
) -> Options:
    """A plugin's options from keyword arguments and from a mapping, which may hold any name.

    Args:
        spec: the plugin.
        keywords: its options, as keywords.
        options: its options, as a mapping.
        beside: what the caller takes as keywords itself, one of which a misspelt one may mean.

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
    given = {**keywords, **(options or {})}
    try:
        return spec.options(**given)
    except ValidationError as error:
        fault = faults_of(error, spec.options, given)[0]
        place = ".".join(str(part) for part in fault.path)
        known = list(spec.options.model_fields)
        what, rest = fault.message, f"Its options: {', '.join(known) or 'none'}."
        if fault.kind == UNKNOWN:
            what, rest = "there is none of that name", nearest(place, [*known, *beside], "option")
        # What an option's own check says may be a whole sentence already.
        raise SteerkitError(f"{spec.kind} {spec.name!r}, option {place!r}: {what.rstrip('.')}. {rest}") from None
