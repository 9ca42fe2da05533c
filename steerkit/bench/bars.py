"""What steering may cost at most, and whether it held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from steerkit.bench.measure import ratio_of

if TYPE_CHECKING:
    from steerkit.bench.study import Part, Study

EMBEDDED: Final = "smollm2-135m-instruct"

RULE: Final = (
    "A bar holds when the lower end of the 95 % interval, less the median excess of the reference against itself "
    "(A/A), is below it."
)


@dataclass(frozen=True)
class Bar:
    """A bound on a ratio.

    Args:
        case: what is attached.
        mode: how.
        most: the bound.
        phase: of the calls.
        batch: rows; None for any.
        model: whose.
        compiled: of compiled calls, or eager ones.
        device: ``cpu`` or ``cuda``.
    """

    case: str
    mode: str
    most: float
    phase: str = "decode"
    batch: int | None = 1
    model: str = "tiny"
    compiled: bool = False
    device: str = "cpu"


def _bars() -> Iterator[Bar]:
    for phase, batch in (("decode", 1), ("prefill", None)):
        yield Bar("add_one", "fold", 1.02, phase, batch)
        yield Bar("add_all", "fold", 1.02, phase, batch)
        yield Bar("ablate_all", "fold", 1.01, phase, batch)
        yield Bar("rank8_ablate_all", "fold", 1.01, phase, batch)
    yield Bar("add_one", "hook", 1.01)
    yield Bar("add_all", "hook", 1.03)
    yield Bar("ablate_all", "hook", 1.10)
    yield Bar("rows", "hook", 1.06, batch=8)
    yield Bar("add_all", "hook", 1.02, "prefill", None, EMBEDDED)
    yield Bar("ablate_all", "hook", 1.05, "prefill", None, EMBEDDED)
    for case in ("add_one", "add_all", "ablate_all", "rank8_ablate_all"):
        for compiled in (False, True):
            yield Bar(case, "fold", 1.005, "decode", None, "random-llama-8b", compiled, "cuda")
        yield Bar(case, "hook", 1.01, "decode", None, "random-llama-8b", True, "cuda")


BARS: Final = tuple(_bars())
LEAST_REPEATS: Final = 9
PREFILL: Final = (8, 256)
HOOK_ATTACH_SECONDS: Final = 0.002
FOLD_ATTACH_STEPS: Final = 5.0
COLD_START_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Verdict:
    """A bar, what was measured, and whether it held.

    Args:
        what: in words.
        most: the bound.
        value: what is compared with it.
        measured: the median; what a reader looks at.
        unit: of the numbers; empty for ratios.
    """

    what: str
    most: float
    value: float
    measured: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the bar holds. NaN doesn't."""
        return self.value <= self.most

    def to_json(self) -> dict[str, Any]:
        """With the verdict."""
        return {**vars(self), "holds": self.holds}


def bar_of(study: Study, part: Part, case: str, mode: str) -> float | None:
    """The bound on a case in a part of a study; None where there is none, or where a quick look can't tell."""
    if not _is_measurement(study) or (part.phase == "prefill" and study.settings.prefill != PREFILL):
        return None
    device = "cuda" if study.device.startswith("cuda") else "cpu"
    asked = (study.settings.model, device, study.settings.compiled, part.phase, case, mode)
    for bar in BARS:
        same = (bar.model, bar.device, bar.compiled, bar.phase, bar.case, bar.mode) == asked
        if same and bar.batch in (None, part.batch):
            return bar.most
    return None


def _is_measurement(study: Study) -> bool:
    return study.settings.repeats >= LEAST_REPEATS


def less_excess(low: float, same: float) -> float:
    """The lower end of an interval, less A/A's median excess over 1."""
    return low - (same - 1)


def verdicts(study: Study) -> tuple[Verdict, ...]:
    """Every bar that the study has a figure for."""
    return (*_ratio_verdicts(study), *_attach_verdicts(study), *_cold_verdicts(study))


def _ratio_verdicts(study: Study) -> Iterator[Verdict]:
    for part in study.parts:
        same = ratio_of(part.same, study.clock).ratio
        for (case, mode), pairs in part.pairs.items():
            most = bar_of(study, part, case, mode)
            if most is not None:
                found = ratio_of(pairs, study.clock)
                what = f"{case}, {mode}, {part.phase} × {part.batch}"
                yield Verdict(what, most, less_excess(found.low, same), found.ratio)


def _attach_verdicts(study: Study) -> Iterator[Verdict]:
    if study.settings.model != "tiny" or study.clock != "cpu" or not _is_measurement(study):
        return
    for one in study.attached:
        what = f"on and off, {one.case}, {one.mode}"
        if one.mode == "hook":
            yield Verdict(what, HOOK_ATTACH_SECONDS * 1e3, one.seconds * 1e3, one.seconds * 1e3, "ms")
        elif one.steps is not None:
            yield Verdict(what, FOLD_ATTACH_STEPS, one.steps, one.steps, "steps")


def _cold_verdicts(study: Study) -> Iterator[Verdict]:
    if study.cold_start is not None:
        found = study.cold_start
        what = "first steered token, after plain"
        yield Verdict(what, COLD_START_SECONDS, found.low, found.extra, "s")


def idle_is_nothing(study: Study) -> bool | None:
    """Whether no hook was attached for ``idle`` and every bit was equal; None where it wasn't asked for.

    ``checks.check`` refuses to time it otherwise, so that a finished study never says False.
    """
    found = [one for part in study.parts for one in part.checked if one.case == "idle"]
    return all(one.equal and not one.hooks for one in found) if found else None
