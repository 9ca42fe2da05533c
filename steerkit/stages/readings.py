"""What monitors read, as plain values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.api.monitor import Readings


def readings_as_json(readings: Readings) -> dict[str, Any]:
    """Readings as JSON values; null where nothing was read."""
    return {
        "crossed": readings.crossed,
        "peak": _finite(readings.peak),
        "values": [_finite(value) for value in readings.values],
        "places": list(readings.places),
        "prompt_tokens": readings.prompt_tokens,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
