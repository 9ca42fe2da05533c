"""What a test of a model on itself found, one check at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One thing that was tested.

    Args:
        name: of the check.
        meaning: what holds when it passes.
        passed: whether it does.
        max_abs_error: the largest error that was measured; None where the check measures no number.
        tolerance: what the error at ``site`` may be, from the precision of the model's dtype.
        site: where it first fails; the worst place when it passes.
        detail: what else there is to know.
    """

    name: str
    meaning: str
    passed: bool
    max_abs_error: float | None = None
    tolerance: float | None = None
    site: str = ""
    detail: str = ""

    @property
    def numbers(self) -> str:
        """What was found, as the end of a sentence that says what was expected."""
        found = f" {self.detail}" if self.detail else ""
        if self.max_abs_error is None or self.tolerance is None:
            return found
        return f"{found} Error {self.max_abs_error:.3g}, allowed {self.tolerance:.3g}."


@dataclass(frozen=True)
class Finding:
    """Errors at one place against what they may be, element by element; kept as the two numbers that matter."""

    site: str
    error: float
    allowed: float
    passed: bool


def compare(site: object, found: Tensor, expected: Tensor, allowed: Tensor | float) -> Finding:
    """Where the error exceeds its allowance most. A value that isn't finite is an error."""
    if found.shape != expected.shape:
        return Finding(f"{site} (shape {list(found.shape)}, expected {list(expected.shape)})", math.inf, 0.0, False)
    error = (wide(found) - wide(expected)).abs()
    limit = torch.as_tensor(allowed, dtype=torch.float64).expand_as(error)
    if not bool(error.isfinite().all()):
        return Finding(str(site), math.inf, float(limit.max()), False)
    worst = (error - limit).flatten().argmax()
    passed = bool((error <= limit).all())
    at = error.argmax() if passed else worst
    return Finding(str(site), float(error.flatten()[at]), float(limit.flatten()[at]), passed)


def result(name: str, meaning: str, findings: Iterable[Finding], detail: str = "") -> Check:
    """The first place that fails, or the worst one where none does."""
    listed = list(findings)
    if not listed:
        return Check(name, meaning, True, detail=detail or "Nothing of the kind is declared.")
    failed = [item for item in listed if not item.passed]
    shown = failed[0] if failed else max(listed, key=lambda item: item.error)
    return Check(name, meaning, not failed, shown.error, shown.allowed, shown.site, detail)


def wide(value: Tensor) -> Tensor:
    """In float64, on the CPU."""
    return value.detach().to("cpu", torch.float64)


def per_row(value: Tensor, factor: float) -> Tensor:
    """An allowance per token: so many roundings of its largest entry."""
    return factor * torch.finfo(value.dtype).eps * wide(value).abs().amax(-1, keepdim=True)
