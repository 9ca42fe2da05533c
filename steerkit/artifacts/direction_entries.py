"""What ``results.json`` says of directions: where they lie, and how they separate their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from steerkit.artifacts.entry import Entry, Number

if TYPE_CHECKING:
    from steerkit.api.direction import Direction


class PredictorsEntry(Entry):
    """What a direction's training prompts foretell of it: see ``steerkit.engine.measuring.predictors.Predictors``."""

    agreement: Number = None
    d_prime: Number = None
    paired: bool = False


class DirectionEntry(Entry):
    """A direction: where it was read, from which prompts, and the norm of each of its vectors.

    Of one at several sites ``site`` says so in words, and ``norms_by_site`` takes the place of ``norms``.
    ``predictors`` are by site. ``classes`` are those of an estimator of labelled ones, by label, in the place of
    ``positive`` and ``negative``.
    """

    _rare: ClassVar[tuple[str, ...]] = ("norms_by_site", "diagnostics", "predictors", "classes")
    name: str
    site: str | None = None
    positions: str | None = None
    rank: int = 1
    norms: tuple[Number, ...] = ()
    norms_by_site: Mapping[str, tuple[Number, ...]] = {}
    estimator: str | None = None
    positive: str | None = None
    negative: str | None = None
    classes: Mapping[str, str] = {}
    diagnostics: Mapping[str, Any] = {}
    predictors: Mapping[str, PredictorsEntry] = {}


class SeparationEntry(Entry):
    """How well two classes are told apart at one site.

    ``only_rounding``: the projections differ by no more than float32 rounds, so AUROC and d′ tell noise apart.
    """

    _rare: ClassVar[tuple[str, ...]] = ("only_rounding",)
    direction: str
    layer: int
    site: str
    positions: str | None = None
    data: tuple[str, ...] = ()
    held_out: bool | None = None
    auroc: Number = None
    d_prime: Number = None
    norm: Number = None
    n_positive: int | None = None
    n_negative: int | None = None
    rank: int = 1
    reason: str = ""
    only_rounding: bool | None = None

    @property
    def stream(self) -> str:
        """The curve that the entry belongs to. What leaves the last block is the ``resid_pre`` of no block."""
        block, _, stream = self.site.removeprefix("blocks.").partition(".")
        return "resid_pre" if stream == "resid_post" and block == str(self.layer - 1) else stream or self.site


def describe_direction(direction: Direction) -> DirectionEntry:
    """A direction as ``results.json`` lists it; of one at several sites ``norms`` are by site."""
    source = direction.provenance
    norms = {
        str(site): tuple(float(norm) for norm in vectors.double().norm(dim=1)) for site, vectors in direction.items()
    }
    return DirectionEntry(
        name=direction.name,
        site=direction.describe(),
        positions=str(direction.positions),
        rank=max(len(vectors) for _, vectors in direction.items()),
        norms=norms[str(direction.site)] if direction.is_single else (),
        norms_by_site={} if direction.is_single else norms,
        estimator=source.get("estimator"),
        positive=source.get("positive"),
        negative=source.get("negative"),
        classes=dict(source.get("classes") or {}),
        diagnostics=dict(source.get("diagnostics") or {}),
        predictors={site: one for site, one in (source.get("predictors") or {}).items() if site in norms},
    )
