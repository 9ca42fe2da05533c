"""Interventions and gates by their plugins' names, as a Python user writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal, TypeGuard, cast

from steerkit.api.direction import Direction
from steerkit.api.intervention import Gate, Intervention, Placement
from steerkit.catalog import Catalog, implementation
from steerkit.errors import PositionError, SiteError, SteerkitError, counted, known_keywords
from steerkit.session.plugins import installed, options_of
from steerkit.types import FROM_TOKEN, Positions, Schedule, Site, SitePattern, list_sites, parse_sites

if TYPE_CHECKING:
    from torch import Tensor


def intervention(
    kind: str,
    direction: Direction | Sequence[Direction] | None = None,
    *,
    sites: Sequence[Site | SitePattern | str] | Site | SitePattern | str | None = None,
    positions: Positions | str | int | list[int] | tuple[int, ...] = "all",
    schedule: Schedule | str | Sequence[float] | None = None,
    gate: Gate | None = None,
    catalog: Catalog | None = None,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Placement:
    """Build an intervention by its plugin's name, and place it.

    Args:
        kind: name of an intervention plugin.
        direction: the direction that it uses, or a list of as many as it takes.
        sites: where it acts, sites or patterns such as ``"blocks.*.resid_pre"``; None for its own choice.
        positions: at which tokens, as in ``"generated[:8]"`` or ``"from_token(</think>)"``.
        schedule: a factor on the change along the generated tokens: ``"linear(1, 0, 64)"``, ``"exponential(0.97)"``,
            or a list; None for 1 throughout.
        gate: a condition on the stream under which it acts, from ``gate``; None: always.
        catalog: plugins; discovered if not given.
        options: the plugin's own, whatever they are called.
        more: the plugin's own as keywords, where none of the arguments above is called the same.

    Raises:
        SteerkitError: for whatever of these can't be, with what to write instead.
    """
    spec = (catalog or installed()).get("intervention", kind)
    directions = _directions(kind, spec.directions, direction)
    if gate is not None and not isinstance(gate, Gate):
        raise SteerkitError(
            f"Intervention {kind!r}: a gate comes from steerkit.gate(direction, above=3.0), not {type(gate).__name__}. "
            "An option of the plugin that is called 'gate' is given as options={'gate': ...}."
        )
    chosen = None if sites is None else tuple(parse_sites(site) for site in list_sites(sites))
    if chosen == ():
        raise SiteError(f"Intervention {kind!r} is given no site; leave sites out for its own choice.")
    which, when = Positions.parse(positions), Schedule.parse(schedule)
    made = cast("Intervention", implementation(spec)(options_of(spec, more, options, _WORDS), directions))
    return Placement(made, chosen, which, when, gate, called=spec.name)


_WORDS: Final = ("sites", "positions", "schedule", "gate", "options")
"""What every intervention takes beside its plugin's options."""


def _directions(kind: str, wanted: int, given: object) -> tuple[Direction, ...]:
    """The directions of an intervention, as many as it takes."""
    listed = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for one in listed:
        _require_direction(one, f"Intervention {kind!r}")
    found = cast("tuple[Direction, ...]", listed)
    if wanted and not found:
        raise SteerkitError(f"Intervention {kind!r} needs a direction: intervention({kind!r}, direction, ...).")
    if len(found) != wanted:
        takes = (
            f"{counted(wanted, 'direction')}, as a list"
            if wanted > 1
            else "one direction"
            if wanted
            else "no direction"
        )
        raise SteerkitError(f"Intervention {kind!r} takes {takes}, not {len(found)}.")
    return found


@known_keywords
def gate(
    direction: Direction,
    *,
    above: float | Tensor | None = None,
    below: float | Tensor | None = None,
    site: Site | str | None = None,
    at: Literal["token", "prompt"] = "token",
    positions: Positions | str | int | list[int] | tuple[int, ...] = "last",
    prepass: bool = False,
) -> Gate:
    """A condition on the stream: an intervention acts only where the projection on a direction is as asked.

    The projection is ``x·v / ‖v‖``, in units of the stream. See ``steerkit.api.intervention.Gate``.

    Args:
        direction: of rank 1.
        above: act where the projection is above this number.
        below: act where it is below this number. Give one of the two.
        site: where it is read; None for the direction's own site. Of one at several sites, whose vector is meant.
        at: ``token``: each token decides for itself. ``prompt``: the mean over ``positions`` of the prompt decides for
            the whole row, and then generated tokens are edited only, unless ``prepass``.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: decide by one extra pass over the prompt without any intervention, so that prompts can be edited too.

    Raises:
        SteerkitError: where there isn't exactly one threshold, or it is no finite number.
        AttachError: where the direction isn't one finite vector that isn't zero, or ``prepass`` has no prompt to read.
        PositionError: for positions that no prompt has, or that no gate at each token reads.
    """
    _require_direction(direction, "A gate")
    if (above is None) == (below is None):
        raise SteerkitError("A gate takes one threshold: gate(direction, above=3.0) or gate(direction, below=3.0).")
    side: Literal["above", "below"] = "below" if above is None else "above"
    which = Positions.parse(positions)
    if which.role in ("generated", "completion", FROM_TOKEN):
        raise PositionError(f"A gate reads tokens of the prompt, not '{which}': write 'last', 'instruction', 'prompt'.")
    if at == "token" and which != Positions("last"):
        raise PositionError("A gate at 'token' reads each token; positions are for at='prompt'.")
    where = None if site is None else Site.parse(site)
    return Gate(direction, _threshold(below if above is None else above), side, where, at, which, prepass)


def add(direction: Direction, *, coefficient: float | Sequence[float] | Tensor = 1.0, **where: Any) -> Placement:
    """Add ``coefficient`` times the raw direction, by default at its own site and at all tokens.

    Of a direction at several sites each vector is added at its own.

    Args:
        direction: what is added.
        coefficient: a number, or one for each vector of the direction. A tensor of one element, or of one for each
            vector, ``[rank]``, stays in the graph, so that gradients flow to it; after a step on a tensor ``[rank]``
            build the intervention again.
        where: ``sites``, ``positions``, ``schedule``, ``gate``; see ``intervention``.
    """
    if _is_tensor(coefficient):
        factor = _factor("add", coefficient, "one element, or one for each vector of the direction", direction)
        if factor.numel() > 1:
            scaled = {site: factor.to(vectors)[:, None] * vectors for site, vectors in direction.items()}
            return intervention("add", direction.with_vectors(scaled), **where)
        return replace(intervention("add", direction, **where), factor=factor)
    chosen = [_plain(one) for one in coefficient] if isinstance(coefficient, (list, tuple)) else _plain(coefficient)
    return intervention("add", direction, coefficient=chosen, **where)


def ablate(direction: Direction, *, coefficient: float | Tensor = 1.0, **where: Any) -> Placement:
    """Remove the direction's span from everything that writes to the residual stream, by default.

    Of a direction at several sites, ``at`` says whose vectors are meant: ``at="blocks.14.resid_pre"``.

    Args:
        direction: whose span is removed.
        coefficient: the fraction that is removed. A tensor of one element stays in the graph, so that gradients flow
            to it.
        where: ``at``; ``sites``, ``positions``, ``schedule``, ``gate``; see ``intervention``.
    """
    if _is_tensor(coefficient):
        factor = _factor("ablate", coefficient, "one element")
        return replace(intervention("ablate", direction, **where), factor=factor)
    return intervention("ablate", direction, coefficient=_plain(coefficient), **where)


def _require_direction(direction: object, what: str) -> None:
    if not isinstance(direction, Direction):
        found = type(direction).__name__
        raise SteerkitError(f"{what} takes a Direction, as estimate_direction or load_directions gives, not {found}.")


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    from torch import Tensor

    return isinstance(value, Tensor)


def _factor(kind: str, coefficient: Tensor, wanted: str, direction: Direction | None = None) -> Tensor:
    """A tensor coefficient that can multiply an intervention, in its graph: of one element, or ``[rank]``.

    Raises:
        SteerkitError: for another shape, another kind of number, NaN and infinities.
    """
    import torch

    ranks = {len(vectors) for _, vectors in direction.items()} if isinstance(direction, Direction) else set()
    per_vector = len(ranks) == 1 and coefficient.shape == (*ranks,)
    if coefficient.dtype == torch.bool or coefficient.is_complex() or not (coefficient.numel() == 1 or per_vector):
        raise SteerkitError(
            f"{kind}: a tensor as coefficient holds real numbers: {wanted}, not {coefficient.dtype} of shape "
            f"{list(coefficient.shape)}."
        )
    if not bool(torch.isfinite(coefficient.detach()).all()):
        raise SteerkitError(f"{kind}: the coefficient {coefficient.tolist()} is not finite. Look where it comes from.")
    return coefficient if coefficient.is_floating_point() else coefficient.float()


def _threshold(value: object) -> float:
    """A gate's threshold, which may be a tensor of one element (a quantile of projections, say)."""
    number: Any = value.item() if _is_tensor(value) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number):
        raise SteerkitError(f"A gate's threshold is one finite number, in units of the stream, not {value!r}.")
    return float(number)


def _plain(number: Any) -> Any:
    """NumPy's numbers as Python's. What is no number stays what it is, for the plugin's options to refuse."""
    if isinstance(number, bool):
        return number
    return float(number) if isinstance(number, Real) else number
