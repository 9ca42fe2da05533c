"""What an estimator asked for, read from the model; and what it gave, held to the contract."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.api.estimator import (
    NEGATIVE,
    POSITIVE,
    ClassStatistics,
    Estimate,
    EstimationRequest,
    Estimator,
)
from steerkit.api.hookspecs import EstimatorNeeds, StatisticsKind
from steerkit.engine.reading.capture import capture, tokens_of
from steerkit.engine.reading.handle import Handle
from steerkit.errors import DataError, PluginError, PositionError, agreeing, counted
from steerkit.progress import SILENT
from steerkit.types import Example, Positions, Site, resolve_sites

if TYPE_CHECKING:
    from steerkit.engine.prompts.inputs import Prompts
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.progress import Progress

Classes = Mapping[str, Sequence[Example]]
Read = Mapping[Site, Mapping[str, ClassStatistics]]
"""What was captured of each class at each site."""


def read_requests(
    live: Runtime,
    needs: EstimatorNeeds,
    classes: Classes,
    sites: Sequence[Site],
    positions: Positions,
    *,
    seed: int = 0,
    progress: Progress | bool = True,
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None = None,
    by_prompt: bool = False,
) -> tuple[tuple[EstimationRequest, Read], ...]:
    """Read what an estimator needs: for one estimate, or, where ``positions`` mean each of their tokens by itself, for
    one at each of them, all read in the same passes. Beside each request all that was read for it.

    Args:
        live: the model.
        needs: what it said that it must see.
        classes: examples by class.
        sites: those that the user names; the estimator's own go before.
        positions: as ``sites``.
        seed: what it draws from.
        progress: told how many prompts of a class are done.
        token_ids: what is read of a class in place of its examples, row for row.
        by_prompt: whether what was read holds the mean of each prompt (``prompt_means``), whatever the estimator needs.

    Raises:
        DataError: where the classes aren't those that the estimator takes.
    """
    if token_ids and needs.handle:
        raise DataError(
            "The estimator runs the model on its examples itself, and takes texts, conversations or Examples, "
            "not token ids."
        )
    examples = _checked_classes(needs, classes)
    if needs.sites is not None:
        sites = resolve_sites(needs.sites, live.layout.n_layers)
    if not sites:
        raise DataError("The estimator leaves the choice of sites to you: give a site, as in 'blocks.14.resid_pre'.")
    for site in sites:
        live.layout.require(site)
    positions = _chosen_positions(needs, positions)
    request = EstimationRequest(
        sites=tuple(sorted(dict.fromkeys(sites), key=lambda site: live.layout.order[site.whole])),
        positions=positions,
        layout=live.layout,
        seed=seed,
        examples=examples,
        model=Handle(live, seed) if needs.handle else None,
    )
    places: tuple[Positions, ...] = (positions,)
    if positions.each:
        places = each_position(
            live, [_prompts_of(label, given, token_ids) for label, given in examples.items()], positions
        )
    requests = tuple(replace(request, positions=place) for place in places)
    if needs.statistics is None:
        return tuple((one, {}) for one in requests)
    kind: StatisticsKind = "rows" if needs.statistics == "paired_rows" else needs.statistics
    read = read_classes_at(live, request, places, kind, progress, token_ids, by_prompt=by_prompt)
    return tuple((with_statistics(one, needs, read[one.positions]), read[one.positions]) for one in requests)


def _chosen_positions(needs: EstimatorNeeds, positions: Positions) -> Positions:
    if needs.positions is None:
        return positions
    if positions.each:
        raise DataError(
            f"The estimator reads at positions of its own, {needs.positions}, so a search can't choose among "
            f"'{positions}'. Leave positions out."
        )
    return Positions.parse(needs.positions)


def read_classes(
    live: Runtime,
    request: EstimationRequest,
    kind: StatisticsKind,
    progress: Progress | bool = True,
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> dict[Site, dict[str, ClassStatistics]]:
    """Statistics of a request's classes at its sites, one capture for each class: of its token ids, where given."""
    return read_classes_at(live, request, [request.positions], kind, progress, token_ids)[request.positions]


def read_classes_at(
    live: Runtime,
    request: EstimationRequest,
    positions: Sequence[Positions],
    kind: StatisticsKind,
    progress: Progress | bool = True,
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None = None,
    *,
    by_prompt: bool = False,
) -> dict[Positions, dict[Site, dict[str, ClassStatistics]]]:
    """Statistics at several positions, each by itself, with one capture for each class."""
    read: dict[Positions, dict[Site, dict[str, ClassStatistics]]] = {
        one: {site: {} for site in request.sites} for one in positions
    }
    for label, examples in request.examples.items():
        prompts = _prompts_of(label, examples, token_ids)
        captured = capture(live, prompts, request.sites, positions, kind=kind, by_prompt=by_prompt, progress=progress)
        for (site, one), statistics in captured.items():
            read[one][site][label] = statistics
    return read


def _prompts_of(
    label: str, examples: Sequence[Example], token_ids: Mapping[str, Sequence[Sequence[int]]] | None
) -> Prompts:
    """What is read of a class: token ids where they are given, which its examples then only stand for."""
    if token_ids and label in token_ids:
        return [torch.tensor(row, dtype=torch.long) for row in token_ids[label]]
    return examples


def each_position(live: Runtime, classes: Iterable[Prompts], positions: Positions) -> tuple[Positions, ...]:
    """The tokens that ``positions`` name, each by itself, counted from the prompt's end: the first of them first.

    Raises:
        PositionError: where they lie elsewhere in another prompt, so that none of them is one position of all.
    """
    whole = replace(positions, each=False)
    rendered = [prompt for prompts in classes for prompt in live.rendered(prompts)]
    found: tuple[int, ...] | None = None
    for batch in live.batched(rendered, "right"):
        row, column, counts = tokens_of(live, whole, batch)
        behind = (column - batch.frame.end[row]).split(counts.tolist())
        for here, index in zip(behind, batch.order, strict=True):
            places = tuple(sorted(here.tolist()))
            found = places if found is None else found
            if places != found:
                shown = [f"{one[0]} … {one[-1]}" if one else "none" for one in (found, places)]
                raise PositionError(
                    f"'{positions}' are other places in other prompts, counted from their end ({shown[0]}; in prompt "
                    f"{index}: {shown[1]}). Name them by index, as in '[-5:][*]', or by a role of the template."
                )
    if not found:
        raise PositionError(f"'{positions}': no token is there in any prompt.")
    return tuple(Positions("", (place,)) for place in found)


def with_statistics(
    request: EstimationRequest, needs: EstimatorNeeds, read: Mapping[Site, Mapping[str, ClassStatistics]]
) -> EstimationRequest:
    """A request at the sites of what was read, with as much of it as the needs name and no more."""
    differences = {}
    if needs.statistics == "paired_rows":
        differences = {site: _paired_differences(classes, request.positions) for site, classes in read.items()}
    offered = {
        site: {label: _statistics_offered(needs, statistics) for label, statistics in classes.items()}
        for site, classes in read.items()
    }
    return replace(request, sites=tuple(read), statistics=offered, differences=differences)


def _statistics_offered(needs: EstimatorNeeds, statistics: ClassStatistics) -> ClassStatistics:
    second = statistics.second_moment
    if needs.statistics == "moments" and second is None and statistics.rows is not None:
        rows = statistics.rows.double()
        second = rows.T @ rows / statistics.count
    if needs.statistics in ("rows", "paired_rows"):
        return replace(statistics, second_moment=None)
    return replace(statistics, second_moment=second, rows=None, tokens_per_prompt=None)


def _paired_differences(classes: Mapping[str, ClassStatistics], positions: Positions) -> Tensor:
    for label, statistics in classes.items():
        counts = statistics.tokens_per_prompt
        lacking = 0 if counts is None else int((counts == 0).sum())
        if lacking:
            raise DataError(
                f"{counted(lacking, 'example')} of the {label} class {agreeing(lacking, 'has', 'have')} no token at "
                f"positions '{positions}', so that their "
                "pairs have no difference. Choose other positions, or leave these pairs out."
            )
    return classes[POSITIVE].prompt_means() - classes[NEGATIVE].prompt_means()


def _checked_classes(needs: EstimatorNeeds, classes: Classes) -> dict[str, tuple[Example, ...]]:
    """The classes that an estimator takes, none of them empty; pairs side by side."""
    examples = {label: tuple(given) for label, given in classes.items()}
    if needs.classes != "labels" and set(examples) != {POSITIVE, NEGATIVE}:
        raise DataError(
            f"The estimator takes two classes, positive and negative, not {', '.join(examples) or 'none'}. For classes "
            "by other names take an estimator whose needs say classes='labels'."
        )
    if len(examples) < 2:
        raise DataError("An estimator needs at least two classes of prompts.")
    for label, given in examples.items():
        if not given:
            raise DataError(f"The {label} class needs a list of prompts, at least one.")
    if needs.classes == "pairs":
        examples[NEGATIVE] = _other_sides_of_pairs(examples[POSITIVE], examples[NEGATIVE])
    return examples


def _other_sides_of_pairs(positive: Sequence[Example], negative: Sequence[Example]) -> tuple[Example, ...]:
    """The negative sides of pairs, in the order of the positive ones: by their numbers, else by their places."""
    if len(positive) != len(negative):
        raise DataError(
            f"The estimator takes pairs, and there are {len(positive)} positive and {len(negative)} negative examples. "
            "Give as many of both, each beside its other side."
        )
    numbers = [example.pair for example in positive]
    if None in numbers or len(set(numbers)) < len(numbers):
        return tuple(negative)
    by_pair = {example.pair: example for example in negative}
    missing = [number for number in numbers if number not in by_pair]
    if missing:
        raise DataError(f"Pair {missing[0]} has a positive example and no negative one. Give whole pairs.")
    return tuple(by_pair[number] for number in numbers)


def estimate_checked(estimator: Estimator[Any], request: EstimationRequest, needs: EstimatorNeeds) -> Estimate:
    """Estimate, and hold the result to the contract.

    Raises:
        DataError: where the data don't determine a direction.
        PluginError: where the estimator gave something else than its contract says.
    """
    who = type(estimator).__name__
    estimate: object = estimator.estimate(request)
    if not isinstance(estimate, Estimate):
        raise PluginError(f"Estimator {who} returned {type(estimate).__name__}, not steerkit.api.estimator.Estimate.")
    names = set(request.examples) if needs.outputs == "labels" else set(needs.outputs)
    if set(estimate.extra) != names:
        raise PluginError(
            f"Estimator {who} gave further directions {sorted(estimate.extra)}, and its needs name {sorted(names)}."
        )
    for vectors in (estimate.vectors, *estimate.extra.values()):
        if not vectors:
            raise PluginError(f"Estimator {who} gave a direction without any site.")
        for site, value in vectors.items():
            _check_vectors(who, site, value, request)
    ranks = {int(value.shape[0]) for value in estimate.vectors.values()}
    if needs.rank is not None and ranks != {needs.rank}:
        listed = " or ".join(map(str, sorted(ranks)))
        said = "vector" if listed == "1" else "vectors"
        raise PluginError(f"Estimator {who} gave {listed} {said} at a site, and its needs say {needs.rank}.")
    return estimate


def estimate_where_possible(
    estimator: Estimator[Any], request: EstimationRequest, needs: EstimatorNeeds, named: Collection[Site]
) -> tuple[Estimate, dict[str, str]]:
    """Estimate at every site that has something to tell, and say why the others have nothing.

    Before the first block a template's last token is the same in every prompt: a pattern of sites leaves it out, unless
    it was named by itself.

    Args:
        estimator: the estimator.
        request: at one site or at several.
        needs: what it said that it must see.
        named: sites at which there must be a direction.

    Raises:
        DataError: where no direction can be estimated at a site that was named, or at any.
    """
    try:
        return estimate_checked(estimator, request, needs), {}
    except DataError as error:
        if len(request.sites) == 1 or not request.statistics:
            raise
        cause = error
    left_out: dict[str, str] = {}
    for done, site in enumerate(request.sites):
        request.progress(done, len(request.sites))
        try:
            estimate_checked(estimator, replace(_request_at(request, [site]), progress=SILENT.progress), needs)
        except DataError as error:
            if site in named:
                raise DataError(f"At {site}: {error}") from None
            left_out[str(site)] = str(error)
    kept = [site for site in request.sites if str(site) not in left_out]
    if not kept:
        first = str(request.sites[0])
        raise DataError(
            f"At none of {counted(len(request.sites), 'site')} is there a direction. At {first}: {left_out[first]}"
        )
    if not left_out:
        raise cause
    return estimate_checked(estimator, _request_at(request, kept), needs), left_out


def _request_at(request: EstimationRequest, sites: Sequence[Site]) -> EstimationRequest:
    """The request at some of its sites."""
    return replace(
        request,
        sites=tuple(sites),
        statistics={site: request.statistics[site] for site in sites},
        differences={site: request.differences[site] for site in sites if site in request.differences},
    )


def _check_vectors(who: str, site: Site, vectors: Tensor, request: EstimationRequest) -> None:
    if site not in request.sites:
        raise PluginError(
            f"Estimator {who} gave vectors at {site}, and was asked for {', '.join(map(str, request.sites))}."
        )
    width = request.layout.width(site)
    if vectors.ndim != 2 or vectors.shape[0] == 0 or vectors.shape[1] != width:
        raise PluginError(
            f"Estimator {who} gave vectors of shape {list(vectors.shape)} at {site}, not [rank, {width}]."
        )
    if not bool(torch.isfinite(vectors).all()):
        raise DataError(
            f"Estimator {who} gave vectors with NaN or infinite values at {site}. Look at the prompts there, or load "
            "the model in float32."
        )
