"""Activations and directions of prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.direction import Direction
from steerkit.api.estimator import Estimator
from steerkit.api.hookspecs import StatisticsKind
from steerkit.catalog import Catalog, implementation
from steerkit.errors import DataError
from steerkit.session.plugins import installed, options_of
from steerkit.types import Example, Positions, Site, SitePattern, parse_sites, resolve_sites

if TYPE_CHECKING:
    from steerkit.api.estimator import ClassStatistics
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.reading.capture import Key
    from steerkit.progress import Progress
    from steerkit.session.model import LiveModel
    from steerkit.types import ExampleLike, Vectors


def capture(
    model: LiveModel,
    prompts: Prompts,
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
    positive: Sequence[ExampleLike],
    negative: Sequence[ExampleLike],
    *,
    site: Sequence[Site | SitePattern | str] | Site | SitePattern | str,
    positions: Positions | str | int = -1,
    estimator: str = "mean_difference",
    name: str = "direction",
    catalog: Catalog | None = None,
    progress: Progress | bool = True,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Direction:
    """Estimate a direction that leads from the negative class of prompts to the positive one.

    Args:
        model: where activations are read.
        positive: examples of the class that the direction points to: texts, lists of messages or ``Example``.
        negative: examples of the reference class.
        site: where, as in ``blocks.15.resid_pre``; a pattern (``blocks.*.resid_pre``) or a list for a direction at
            several sites, read in one pass. A site of a pattern at which the classes are alike is left out, and
            ``provenance["left_out"]`` says why.
        positions: at which tokens; -1 is the last one of the prompt, ``completion`` those of each example's completion.
        estimator: name of an estimator plugin.
        name: what to call the direction.
        catalog: plugins; discovered if not given.
        progress: told how many prompts of a class are done; True shows a bar at a terminal.
        options: the estimator's own, whatever they are called.
        more: the estimator's own as keywords, where none of the arguments above is called the same.
    """
    spec = (catalog or installed()).get("estimator", estimator)
    sites, which = resolve_sites(site, model.layout.n_layers), Positions.parse(positions)
    solver = cast("Estimator", implementation(spec)(options_of(spec, more, options)))
    classes: dict[str, dict[Site, ClassStatistics]] = {}
    for label, prompts in (("positive", positive), ("negative", negative)):
        if isinstance(prompts, (str, Example)) or not isinstance(prompts, Sequence) or not prompts:
            raise DataError(f"The {label} class needs a list of prompts, at least one.")
        captured = model.capture(prompts, sites, [which], kind=spec.statistics, progress=progress)
        classes[label] = {where: captured[(where, which)] for where in sites}
    chosen = [site] if isinstance(site, (Site, SitePattern, str)) else site
    named = {one for one in map(parse_sites, chosen) if isinstance(one, Site)}
    vectors, left_out = _estimated(solver, sites, classes, named)
    return Direction(
        vectors=vectors,
        positions=which,
        name=name,
        reference_mean={where: classes["negative"][where].mean.float() for where in vectors},
        provenance={
            "estimator": estimator,
            "options": solver.options.model_dump(mode="json"),
            "model": model.source,
            "n_positive": len(positive),
            "n_negative": len(negative),
            "tokens_positive": classes["positive"][sites[0]].count,
            "tokens_negative": classes["negative"][sites[0]].count,
            **({"left_out": left_out} if left_out else {}),
        },
    )


def _estimated(
    solver: Estimator,
    sites: Sequence[Site],
    classes: Mapping[str, Mapping[Site, ClassStatistics]],
    named: Collection[Site],
) -> tuple[dict[Site, Vectors], dict[str, str]]:
    """What an estimator makes of the classes, ``[rank, width]`` by site, and why it makes nothing at other sites.

    Of the sites of a pattern one may have nothing to tell: before the first block a template's last token is the same
    in every prompt. It is left out, unless it was named by itself.

    Raises:
        DataError: where no direction can be estimated at a site that was named, or at any.
    """
    vectors: dict[Site, Vectors] = {}
    left_out: dict[str, str] = {}
    for site in sites:
        try:
            vectors[site] = solver.estimate({label: by_site[site] for label, by_site in classes.items()}).float()
        except DataError as error:
            if len(sites) == 1:
                raise
            if site in named:
                raise DataError(f"At {site}: {error}") from None
            left_out[str(site)] = str(error)
    if not vectors:
        raise DataError(f"At none of {len(sites)} sites is there a direction. At {sites[0]}: {left_out[str(sites[0])]}")
    return vectors, left_out
