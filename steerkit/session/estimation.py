"""Activations and directions of prompts."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from steerkit.api.direction import Direction
from steerkit.api.direction_gaps import gaps_in_words
from steerkit.api.estimator import NEGATIVE, POSITIVE, EstimationRequest, Estimator
from steerkit.api.hookspecs import EstimatorNeeds, StatisticsKind
from steerkit.catalog import Catalog, implementation, needs_of
from steerkit.errors import DataError, ModelError, known_keywords
from steerkit.session.plugins import installed, options_of
from steerkit.types import (
    Example,
    Message,
    Positions,
    Site,
    SitePattern,
    as_examples,
    list_sites,
    parse_sites,
    resolve_sites,
)

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.reading.captured import Captured
    from steerkit.engine.reading.requests import Read
    from steerkit.progress import Progress
    from steerkit.session.model import LiveModel
    from steerkit.types import ExampleLike

PromptList: TypeAlias = "Sequence[ExampleLike] | Sequence[Sequence[int]] | Tensor | ndarray[Any, Any]"
"""Texts, lists of messages or ``Example``; or token ids, a list of rows, or a tensor or an array ``[n, pos]``."""

Sites: TypeAlias = Site | SitePattern | str | Sequence[Site | SitePattern | str]


def require_model(model: object, door: str) -> None:
    """Raise ``ModelError`` for what steerkit hasn't loaded or wrapped."""
    from steerkit.session.model import LiveModel

    if not isinstance(model, LiveModel):
        raise ModelError(
            f"{door} takes a model from steerkit.load_model or steerkit.wrap first, not a {type(model).__name__}."
        )


@known_keywords
def capture(
    model: LiveModel,
    prompts: Prompts,
    sites: Sequence[Site | str] | Site | str,
    positions: Sequence[Positions | str | int] | Positions | str | int = -1,
    *,
    kind: StatisticsKind = "mean",
    progress: Progress | bool = True,
) -> Captured:
    """Statistics of activations at sites and positions: ``model.capture``, which takes a condition besides.

    Args:
        model: where activations are read.
        prompts: texts, lists of messages, ``Example`` or token ids, one or several.
        sites: where, one or several.
        positions: at which tokens, one or several; -1 is the last one of the prompt.
        kind: ``mean``, ``moments`` or ``rows``, as of ``model.capture``.
        progress: told how many prompts are done; True shows a bar at a terminal.

    Returns:
        statistics by ``(site, positions)``.
    """
    require_model(model, "capture")
    return model.capture(prompts, sites, positions, kind=kind, progress=progress)


def estimate_direction(
    model: LiveModel,
    positive: PromptList,
    negative: PromptList,
    *,
    site: Sites | None = None,
    positions: Positions | str | int = -1,
    estimator: str = "mean_difference",
    name: str = "direction",
    seed: int = 0,
    catalog: Catalog | None = None,
    progress: Progress | bool = True,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Direction:
    """Estimate a direction that leads from the negative class of prompts to the positive one.

    Args:
        model: where activations are read.
        positive: examples of the class that the direction points to: texts, lists of messages or ``Example``; or token
            ids, a list of rows or a tensor ``[n, pos]``, which are read as they are.
        negative: examples of the reference class; for an estimator of pairs, each in the place of its other side.
        site: where, as in ``blocks.15.resid_pre``; a pattern (``blocks.*.resid_pre``) or a list for a direction at
            several sites, read in one pass; None where the estimator chooses. A site of a pattern at which the classes
            are alike is left out with a warning, and ``provenance["left_out"]`` says why.
        positions: at which tokens; -1 is the last one of the prompt, ``completion`` those of each example's completion.
        estimator: name of an estimator plugin.
        name: what to call the direction.
        seed: what the estimator draws from, where it draws at all.
        catalog: plugins; discovered if not given.
        progress: told how many prompts of a class are done; True shows a bar at a terminal.
        options: the estimator's own options; needed for those that are called like a keyword above.
        more: the estimator's other options.

    Raises:
        DataError: where the prompts don't determine a direction.
    """
    if Positions.parse(positions).each:
        raise DataError(
            f"'{positions}' are several positions, each with a direction of its own. `steerkit.estimate_directions` "
            "gives all of them by name; leave out [*] for one direction of all these tokens together."
        )
    directions = estimate_directions(
        model,
        {POSITIVE: positive, NEGATIVE: negative},
        site=site,
        positions=positions,
        estimator=estimator,
        name=name,
        seed=seed,
        catalog=catalog,
        progress=progress,
        options={**(options or {}), **more},
    )
    return directions[name]


@known_keywords
def estimate_directions(
    model: LiveModel,
    classes: Mapping[str, PromptList],
    *,
    site: Sites | None = None,
    positions: Positions | str | int = -1,
    estimator: str = "mean_difference",
    name: str = "direction",
    seed: int = 0,
    catalog: Catalog | None = None,
    progress: Progress | bool = True,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Direction]:
    """All directions that an estimator gives: its main one, and its further ones as ``<name>.<further>``.

    Where ``positions`` mean each of their tokens by itself, as ``post_instruction[*]`` does, there is one for each,
    read in the same passes and called ``<name>@<position>``, as in ``refusal@-1``.

    Args:
        model: where activations are read.
        classes: prompts by class: ``positive`` and ``negative`` (the reference), or any names for an estimator of
            labelled classes.
        site: see ``estimate_direction``, as the other arguments.
        positions: at which tokens.
        estimator: name of an estimator plugin.
        name: what to call the main direction.
        seed: what the estimator draws from.
        catalog: plugins; discovered if not given.
        progress: told how many prompts of a class are done, then by estimators that take long how many sites.
        options: the estimator's own options.
    """
    require_model(model, "estimate_direction")
    spec = (catalog or installed()).get("estimator", estimator)
    chosen = options_of(spec, dict(options or {}), beside=_WORDS)
    if not isinstance(classes, Mapping):
        raise DataError(
            f"Classes are a mapping from names to prompts, {{'positive': [...], 'negative': [...]}}, not a "
            f"{type(classes).__name__}."
        )
    token_ids = {label: rows for label, given in classes.items() if (rows := _token_ids(label, given)) is not None}
    examples = {
        label: _stand_ins(model, token_ids[label]) if label in token_ids else as_examples(prompts)
        for label, prompts in classes.items()
    }
    which = Positions.parse(positions)
    solver, needs = cast("Estimator", implementation(spec)(chosen)), needs_of(spec, chosen)
    found = estimate_with(
        model,
        solver,
        spec.name,
        needs,
        examples,
        site,
        which,
        name=name,
        seed=seed,
        progress=progress,
        token_ids=token_ids,
    )
    told = gaps_in_words([one for one in found.values() if one.name in (name, f"{name}@{one.positions}")])
    if told:
        warnings.warn(f"Of direction {name!r}, {told}. provenance['left_out'] tells it by site.", UserWarning, 3)
    return found


_WORDS: Final = ("site", "positions", "estimator", "name", "seed", "catalog", "progress", "options")
"""What ``estimate_direction`` takes beside an estimator's options."""


def _token_ids(label: str, prompts: object) -> list[list[int]] | None:
    """A class's prompts as rows of token ids, where that is what they plainly are, else None.

    Raises:
        DataError: for what is no list of prompts.
    """
    from steerkit.engine.prompts.inputs import encoded_rows

    if isinstance(prompts, (str, Example)):
        what = "one text" if isinstance(prompts, str) else "one Example"
        raise DataError(f"The {label} class is {what}, and a list of prompts is needed: write [prompt, ...].")
    rows = encoded_rows(prompts)
    if rows is None and (not isinstance(prompts, Sequence) or not prompts):
        other = "" if isinstance(prompts, Sequence) else f", not {type(prompts).__name__}"
        raise DataError(f"The {label} class needs a list of prompts, at least one{other}.")
    if rows is not None and _is_one_row(prompts):
        raise DataError(f"The {label} class is one row of token ids, and a list of rows is needed: write [[...], ...].")
    return rows


def _is_one_row(prompts: object) -> bool:
    """Token ids of one prompt, as a list or a tensor: whoever gives them to a class means several prompts."""
    if isinstance(prompts, Sequence):
        return all(isinstance(item, int) for item in prompts)
    return getattr(prompts, "ndim", 0) == 1


def _stand_ins(model: LiveModel, rows: Sequence[Sequence[int]]) -> list[Example]:
    """What an estimator is shown in the place of token ids: their text, where there is a tokenizer, and they."""
    known = model.tokenizer is not None
    return [
        Example((Message("user", model.decode(row) if known else ""),), fields={"token_ids": list(row)}) for row in rows
    ]


def estimate_with(
    model: LiveModel,
    solver: Estimator,
    estimator: str,
    needs: EstimatorNeeds,
    classes: Mapping[str, Sequence[Example]],
    site: Sites | None,
    positions: Positions,
    *,
    name: str,
    seed: int = 0,
    progress: Progress | bool = True,
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> dict[str, Direction]:
    """``estimate_directions`` with an estimator that was built already: ``estimator`` is its name, for provenance.

    Of classes in ``token_ids`` these are read, and their examples only stand for them.
    """
    from steerkit.engine.reading.requests import read_requests
    from steerkit.progress import shown

    chosen = [] if site is None else list_sites(site)
    sites = resolve_sites(chosen, model.layout.n_layers)
    named = {one for one in map(parse_sites, chosen) if isinstance(one, Site)}
    found: dict[str, Direction] = {}
    requests = read_requests(
        model, needs, classes, sites, positions, seed=seed, progress=progress, token_ids=token_ids, by_prompt=True
    )
    for request, read in requests:
        called = f"{name}@{request.positions}" if positions.each else name
        with shown(progress, "estimating") as tell:
            request = replace(request, progress=tell)
            found |= _estimated(
                model, solver, request, read, estimator=estimator, needs=needs, named=named, name=called
            )
    return found


def _estimated(
    model: LiveModel,
    solver: Estimator,
    request: EstimationRequest,
    read: Read,
    *,
    estimator: str,
    needs: EstimatorNeeds,
    named: Collection[Site],
    name: str,
) -> dict[str, Direction]:
    """The directions that an estimator gives for one request, each with what its prompts foretell of it."""
    from steerkit.engine.measuring.predictors import predict
    from steerkit.engine.reading.requests import estimate_where_possible

    estimate, left_out = estimate_where_possible(solver, request, needs, named)
    provenance = {
        "estimator": estimator,
        "options": solver.options.model_dump(mode="json"),
        "model": model.source,
        **_counts(request),
    }
    if left_out:
        provenance["left_out"] = left_out
    if estimate.diagnostics:
        provenance["diagnostics"] = estimate.diagnostics_as_json()
    further = {f"{name}.{label}": vectors for label, vectors in estimate.extra.items()}
    found = {}
    for called, vectors in {name: estimate.vectors, **further}.items():
        foretold = {str(site): one.to_json() for site, one in predict(vectors, read, request.examples).items()}
        own = {**provenance, "predictors": foretold} if foretold else provenance
        found[called] = _direction(called, vectors, request, estimate.reference_means, own)
    return found


def _counts(request: EstimationRequest) -> dict[str, int]:
    """How many examples and tokens of each class were read."""
    counts = {f"n_{label}": len(examples) for label, examples in request.examples.items()}
    for classes in list(request.statistics.values())[:1]:
        counts |= {f"tokens_{label}": statistics.count for label, statistics in classes.items()}
    return counts


def _direction(
    name: str,
    vectors: Mapping[Site, Tensor],
    request: EstimationRequest,
    means: Mapping[Site, Tensor] | None,
    provenance: Mapping[str, Any],
) -> Direction:
    if means is None:
        read = {site: classes.get(NEGATIVE) for site, classes in request.statistics.items()}
        means = {site: statistics.mean for site, statistics in read.items() if statistics is not None}
    plain = {site: value.detach().to("cpu").float() for site, value in vectors.items()}
    known = {site: means[site].detach().to("cpu").float() for site in plain if site in means}
    return Direction(plain, None, request.positions, name, known or None, dict(provenance))
