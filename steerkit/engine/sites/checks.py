"""What a test of a model on itself found, one check at a time."""

from __future__ import annotations

from dataclasses import dataclass


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
