"""Numbers that can be drawn: what no measurement gives is a damaged file, and no figure or table is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from steerkit.errors import ArtifactError

LARGEST: Final = 1e100
"""Far beyond float32, in which models compute, and far below where sums and axes of plots overflow."""


def require_measurable(value: Any, where: str, advice: str) -> None:
    """Raise ``ArtifactError`` for a number among plain values that is larger than any measurement.

    Args:
        value: as JSON has it.
        where: what the file is called.
        advice: what to do.
    """
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        path, one = left.pop()
        if isinstance(one, Mapping):
            left += [(f"{path}.{key}" if path else str(key), item) for key, item in one.items()]
        elif isinstance(one, list):
            left += [(f"{path}.{place}" if path else str(place), item) for place, item in enumerate(one)]
        elif isinstance(one, (int, float)) and abs(one) > LARGEST and abs(one) != math.inf:  # inf: what wasn't measured
            shown = f"{one:g}" if isinstance(one, float) else "a number of more than 100 digits"
            raise ArtifactError(
                f"{where} is damaged: {path} is {shown}, which nothing that is measured can be. {advice}"
            )
