"""Activations and directions of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.direction import Direction
from steerkit.api.estimator import Estimator
from steerkit.api.hookspecs import StatisticsKind
from steerkit.catalog import Catalog, implementation
from steerkit.errors import DataError
from steerkit.session.plugins import installed, options_of
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from steerkit.api.estimator import ClassStatistics
    from steerkit.engine.reading.capture import Key
    from steerkit.progress import Progress
    from steerkit.session.model import LiveModel


def capture(
    model: LiveModel,
    prompts: Sequence[str],
    sites: Sequence[Site | str] | Site | str,
    positions: Sequence[Positions | str | int] | Positions | str | int = -1,
    *,
    kind: StatisticsKind = "mean",
    progress: Progress | bool = True,
) -> dict[Key, ClassStatistics]:
    """Statistics of activations at sites and positions. See ``steerkit.engine.reading.capture.capture``."""
    return model.capture(prompts, sites, positions, kind=kind, progress=progress)


def estimate_direction(
    model: LiveModel,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    site: Site | str,
    positions: Positions | str | int = -1,
    estimator: str = "mean_difference",
    name: str = "direction",
    catalog: Catalog | None = None,
    progress: Progress | bool = True,
    **options: Any,
) -> Direction:
    """Estimate a direction that leads from the negative class of prompts to the positive one.

    Args:
        model: where activations are read.
        positive: prompts of the class that the direction points to.
        negative: prompts of the reference class.
        site: where, as in ``blocks.15.resid_pre``.
        positions: at which tokens; -1 is the last one of the prompt.
        estimator: name of an estimator plugin.
        name: what to call the direction.
        catalog: plugins; discovered if not given.
        progress: told how many prompts of a class are done; True shows a bar at a terminal.
        options: the estimator's own.
    """
    spec = (catalog or installed()).get("estimator", estimator)
    solver = cast("Estimator", implementation(spec)(options_of(spec, options)))
    where, which = Site.parse(site), Positions.parse(positions)
    return estimate_with(model, solver, estimator, spec.statistics, positive, negative, where, which, name, progress)


def estimate_with(
    model: LiveModel,
    solver: Estimator,
    estimator: str,
    statistics: StatisticsKind,
    positive: Sequence[str],
    negative: Sequence[str],
    where: Site,
    which: Positions,
    name: str,
    progress: Progress | bool,
) -> Direction:
    """``estimate_direction`` with an estimator that was built already: ``estimator`` is its name, for provenance."""
    classes = {}
    for label, prompts in (("positive", positive), ("negative", negative)):
        if isinstance(prompts, str) or not prompts:
            raise DataError(f"The {label} class needs a list of prompts, at least one.")
        captured = model.capture(prompts, [where], [which], kind=statistics, progress=progress)
        classes[label] = captured[(where, which)]
    return Direction(
        vectors=solver.estimate(classes).float(),
        site=where,
        positions=which,
        name=name,
        reference_mean=classes["negative"].mean.float(),
        provenance={
            "estimator": estimator,
            "options": solver.options.model_dump(mode="json"),
            "model": model.source,
            "n_positive": len(positive),
            "n_negative": len(negative),
            "tokens_positive": classes["positive"].count,
            "tokens_negative": classes["negative"].count,
        },
    )
