"""How long a plan takes, at most, by what the model's speed was measured to be on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.plan.plan import Plan
from steerkit.speed import Speed, known_speed


@dataclass(frozen=True)
class Duration:
    """Seconds that a plan takes with nothing kept, and the speed that they come from."""

    seconds: float
    speed: Speed


def duration(plan: Plan) -> Duration | None:
    """How long a plan takes; None where the model's speed was not measured on this machine."""
    loading, cost = plan.loading, plan.cost
    if not loading.placement.is_plain:
        return None  # what was measured is of weights on one device as they are
    speed = known_speed(loading.source, loading.device, loading.dtype)
    if speed is None:
        return None
    return Duration(speed.seconds(cost.forward_passes, cost.prompt_tokens, cost.generated_tokens), speed)
