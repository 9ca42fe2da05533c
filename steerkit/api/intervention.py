"""An update of the residual stream, stated as algebra where it is algebra. Never sees a hook."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias

from typing_extensions import TypeVar

from steerkit.api.architecture import Layout
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import Options
from steerkit.api.showing import brief
from steerkit.errors import AttachError, PositionError, nearest
from steerkit.types import FROM_TOKEN, Positions, Schedule, Site, SitePattern, resolve_sites

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)

GATES_AT: Final = ("token", "prompt")
SIDES: Final = ("above", "below")
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""In the name of a class, which a plugin's name has with an underscore there."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The low-rank affine update ``x ← x + (x Aᵀ) Q + b``.

    Args:
        reads: ``A``, ``[rank, d_model]``, or None for rank 0.
        writes: ``Q``, ``[rank, d_model]``, or None for rank 0.
        bias: ``b``, ``[d_model]``, or None.
    """

    reads: Vectors | None = None
    writes: Vectors | None = None
    bias: Tensor | None = None

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """An update that isn't affine: a function of each token's own vector.

    Args:
        function: ``[*, d_model] -> [*, d_model]``; must not write into its argument.
    """

    function: Callable[[Tensor], Tensor]


Update: TypeAlias = Affine | Pointwise


@dataclass(frozen=True, eq=False)
class Gate:
    """A condition on the stream: an intervention acts only where the stream projects on a direction as asked.

    The projection is ``x·v / ‖v‖``, read at the gate's site as the stream arrives there, before the edits of that site.

    Args:
        direction: of rank 1. Of one at several sites, ``site`` says which vector is meant.
        threshold: what the projection is compared with, in units of the stream.
        side: ``above`` or ``below`` the threshold.
        site: where it is read; None for the direction's own site.
        at: ``token``: each token decides for itself. ``prompt``: the mean over ``positions`` of the prompt decides
            for the whole row, which is then edited at generated tokens only, unless ``prepass``.
        positions: the tokens of the prompt that are read, for ``at="prompt"``.
        prepass: decide by one extra pass over the prompt without any intervention, so that prompts can be edited too.
    """

    direction: Direction
    threshold: float
    side: Literal["above", "below"] = "above"
    site: Site | None = None
    at: Literal["token", "prompt"] = "token"
    positions: Positions = Positions("last")
    prepass: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.direction, Direction):
            raise AttachError(f"A gate reads along one steerkit.Direction, not a {type(self.direction).__name__}.")
        if not self.direction.is_single:
            if self.site is None:
                raise AttachError(
                    f"A gate reads one vector, and direction {self.direction.name!r} has them at several sites, "
                    f"{self.direction.describe()}. Say which: site: {self.direction.sites[0]}, or direction.at(...)."
                )
            object.__setattr__(self, "direction", self.direction.at(self.site))
        name, vectors = self.direction.name, self.direction.vectors
        if vectors.shape[0] != 1 or not 0 < float(vectors.detach().norm()) < float("inf"):
            raise AttachError(f"A gate needs one finite vector that isn't zero; direction {name!r} is none.")
        if self.at not in GATES_AT:
            raise AttachError(f"A gate is at 'token' or 'prompt', not {self.at!r}. {nearest(self.at, GATES_AT)}")
        if self.side not in SIDES:
            hint = nearest(self.side, SIDES, "side")
            raise AttachError(f"A gate is 'above' or 'below' its threshold, not {self.side!r}. {hint}")
        if self.prepass and self.at == "token":
            raise AttachError("prepass is for gates that a row's prompt decides: at='prompt'.")
        number: object = self.threshold
        if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number):
            raise AttachError(f"A gate's threshold is a finite number, not {number!r}.")
        object.__setattr__(self, "site", self.direction.site if self.site is None else Site.parse(self.site))
        positions = Positions.parse(self.positions)
        if positions.role in ("generated", "completion", FROM_TOKEN):
            raise PositionError(f"A gate at the prompt reads tokens of the prompt, not positions '{positions}'.")
        # All of the prompt, that is: what follows can't decide about itself.
        object.__setattr__(
            self, "positions", replace(positions, role="prompt") if positions.role == "all" else positions
        )

    def __repr__(self) -> str:
        return brief(self)

    @property
    def read_at(self) -> Site:
        """The site at which it is read."""
        return self.direction.site if self.site is None else self.site

    def __str__(self) -> str:
        where = self.site if self.at == "token" else f"{self.site}, mean over {self.positions} of the prompt"
        extra = " by an extra pass" if self.prepass else ""
        return f"{self.direction.name} {self.side} {self.threshold:g} at {where}{extra}"


class Intervention(ABC, Generic[OptionsT]):
    """How the residual stream is changed, and where it is when nobody says. See ``Placement`` for the rest.

    What isn't on the residual stream has no place here: attention patterns, keys and values. They would be streams of
    their own, declared by adapters as taps beside the writers and named by sites (``blocks.3.pattern[5]``), with an
    update type beside ``Affine`` and ``Pointwise`` that says what happens to a value of their shape
    (``[batch, head, query, key]``); placements, positions, gates and conditions would stay as they are.

    Args:
        options: the plugin's options.
        directions: the directions that it uses, as many as its spec says; one may be given as such.
    """

    def __init__(self, options: OptionsT, directions: Direction | Sequence[Direction] = ()) -> None:
        self.options = options
        self.directions = (directions,) if isinstance(directions, Direction) else tuple(directions)

    def __repr__(self) -> str:
        names = [repr(one.name) for one in self.directions]
        set_ = {name: value for name, value in vars(self.options).items() if name in self.options.model_fields_set}
        return f"{type(self).__name__}({', '.join([*names, *(f'{name}={value!r}' for name, value in set_.items())])})"

    @property
    def direction(self) -> Direction:
        """The first direction, for interventions that take one."""
        if not self.directions:
            raise ValueError(f"{type(self).__name__} needs a direction.")
        return self.directions[0]

    @abstractmethod
    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """Where it acts when nobody says."""

    @abstractmethod
    def update(self, site: Site, layout: Layout) -> Update | None:
        """What happens to the stream at a site, whose width is ``layout.width(site)``.

        None where that is nothing at all (coefficient 0). Asked again whenever it is attached; it may give one object
        for all sites.
        """


@dataclass(frozen=True, eq=False)
class Placement:
    """An intervention, placed: at which sites and tokens it acts, how much, and under what condition.

    Args:
        intervention: what happens.
        sites: where, sites or patterns of sites; None for the intervention's own choice.
        positions: at which tokens.
        schedule: a factor on the change at each generated token.
        gate: a condition on the stream under which it acts; None: always.
        factor: a factor on the change, a tensor of one element that gradients may flow to; None: 1.
        called: the intervention's name in recipes; empty where it was made by hand, and then its class says what it is.
    """

    intervention: Intervention[Any]
    sites: tuple[Site | SitePattern, ...] | None = None
    positions: Positions = Positions("all")
    schedule: Schedule = Schedule()
    gate: Gate | None = None
    factor: Tensor | None = None
    called: str = ""

    def __repr__(self) -> str:
        return brief(self)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Those of the intervention."""
        return self.intervention.directions

    @property
    def direction(self) -> Direction:
        """The intervention's first direction."""
        return self.intervention.direction

    def sites_on(self, layout: Layout) -> tuple[Site, ...]:
        """Where it acts on a model: what the user named, else the intervention's ``default_sites``.

        Raises:
            SiteError: for a site that the model doesn't have.
        """
        if self.sites is None:
            chosen = tuple(self.intervention.default_sites(layout))
        else:
            chosen = tuple(resolve_sites(self.sites, layout.n_layers))
        for site in chosen:
            layout.require(site)
        return chosen

    def with_directions(self, directions: Mapping[str, Direction]) -> Placement:
        """The same with other directions in the places of those so named (random controls use it).

        The gate keeps its own: it acts where it acted, along something else.
        """
        others = tuple(directions.get(one.name, one) for one in self.intervention.directions)
        return replace(self, intervention=type(self.intervention)(self.intervention.options, others))

    def __str__(self) -> str:
        names = " ".join(one.name for one in self.directions)
        made_by_hand = _BETWEEN_WORDS.sub("_", type(self.intervention).__name__).lower()
        called = self.called or made_by_hand
        return f"{called} {names}".strip()
