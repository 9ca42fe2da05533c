"""What a direction says of itself: where it is, how long its vectors are, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.api.direction_origin import COMBINATION, MADE, name_of_multiple, shortened
from steerkit.api.showing import FEW, between, card, line, listed, number, plot_by_layer
from steerkit.errors import agreeing, counted

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.types import Site


def in_words(direction: Direction) -> str:
    """Name, norm, rank, site and origin, in a line or two."""
    ranks = sorted({len(vectors) for _, vectors in direction.items()})
    widths = sorted({vectors.shape[1] for _, vectors in direction.items()})
    rank = "" if ranks == [1] else f"rank {between(ranks)}, "
    origin = _origin(direction.provenance)
    told = (
        f"Direction({direction.name!r}, {rank}{_norms_in_words(direction)}, width {between(widths)}, at "
        f"{direction.describe()}, positions '{direction.positions}')"
    )
    return f"{told}\n  {origin}" if origin else told


def as_html(direction: Direction) -> str:
    """A table of its sites; of many, their norms and how well they tell the classes apart, by layer."""
    norms = _norms(direction)
    predictors = direction.provenance.get("predictors")
    told = predictors if isinstance(predictors, Mapping) else {}
    head, rows = ["site", "rank", "norm"], []
    head += ["d′", "agreement"] if told else []
    for site, vectors in direction.items():
        foretold = _numbers(told.get(str(site)))
        measured = [number(foretold.get("d_prime")), number(foretold.get("agreement"))] if told else []
        rows.append([str(site), str(len(vectors)), between(norms[site]) if site in norms else "–", *measured])
    parts = [line(f"positions '{direction.positions}'"), line(_origin(direction.provenance))]
    if len(rows) > FEW:
        apart = {site: _numbers(told.get(str(site))).get("d_prime") for site in direction.sites}
        longest = {site: max(norms[site]) if site in norms else None for site in direction.sites}
        parts += [plot_by_layer("d′ between the classes", apart), plot_by_layer("norm", longest)]
    return card(f"Direction {direction.name}", *parts, listed(head, rows))


def _norms(direction: Direction) -> dict[Site, tuple[float, ...]]:
    # Of a tensor on the meta device there are no values to look at.
    return {} if any(vectors.is_meta for _, vectors in direction.items()) else direction.norms


def _norms_in_words(direction: Direction) -> str:
    norms = [norm for of_site in _norms(direction).values() for norm in of_site]
    return f"{agreeing(len(norms), 'norm', 'norms')} {between(norms)}" if norms else "norm unknown"


def _numbers(values: object) -> dict[str, float]:
    """What is a number in a mapping that came from a file."""
    listed = values.items() if isinstance(values, Mapping) else ()
    return {str(key): float(one) for key, one in listed if isinstance(one, (int, float)) and not isinstance(one, bool)}


def _origin(provenance: Mapping[str, Any]) -> str:
    """Where it comes from, as far as its provenance says, which may have been written by anybody."""
    made, estimator = provenance.get(MADE), provenance.get("estimator")
    if made == COMBINATION:
        parts = [one for one in _parts(provenance.get("of")) if isinstance(one.get("times"), (int, float))]
        more = provenance.get("more")
        named = _sum_in_words([(float(one["times"]), str(one.get("name"))) for one in parts])
        return shortened(f"made as {named}") + (f" and {more} more" if more else "")
    if made == "from_vector":
        return f"made from {provenance.get('given')}"
    if isinstance(made, str):
        removed = ", ".join(str(one.get("name")) for one in _parts(provenance.get("removed")))
        named = ", ".join(str(one.get("name")) for one in _parts(provenance.get("of")))
        return shortened(f"made as {made} of {named}" if not removed else f"made of {named} without {removed}")
    if not isinstance(estimator, str):
        return ""
    counts = [
        counted(n, str(key).removeprefix("n_"), str(key).removeprefix("n_"))
        for key, n in sorted(provenance.items(), key=lambda item: (item[0] != "n_positive", str(item[0])))
        if str(key).startswith("n_") and isinstance(n, int)
    ]
    model = provenance.get("model")
    return f"by {estimator}" + (f" of {', '.join(counts)} examples" if counts else "") + (f", {model}" if model else "")


def _sum_in_words(terms: list[tuple[float, str]]) -> str:
    words = ""
    for times, name in terms:
        sign = " - " if times < 0 else " + "
        words += f"{sign}{name_of_multiple(abs(times), name)}" if words else name_of_multiple(times, name)
    return words


def _parts(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
