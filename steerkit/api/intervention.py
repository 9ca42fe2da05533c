"""An update of the residual stream, stated as algebra where it is algebra. Never sees a hook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from typing_extensions import TypeVar

from steerkit.api.architecture import Layout
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import Options
from steerkit.errors import AttachError, PositionError
from steerkit.types import FROM_TOKEN, Positions, Schedule, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


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
        direction: of rank 1.
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
        name, vectors = self.direction.name, self.direction.vectors
        if vectors.shape[0] != 1 or not 0 < float(vectors.detach().norm()) < float("inf"):
            raise AttachError(f"A gate needs one finite vector that isn't zero; direction {name!r} is none.")
        if self.at not in ("token", "prompt") or self.side not in ("above", "below"):
            raise AttachError(f"A gate is at 'token' or 'prompt', 'above' or 'below', not {self.at!r}, {self.side!r}.")
        if self.prepass and self.at == "token":
            raise AttachError("prepass is for gates that a row's prompt decides: at='prompt'.")
        if not isfinite(float(self.threshold)):
            raise AttachError(f"A gate's threshold is a finite number, not {self.threshold}.")
        object.__setattr__(self, "site", self.direction.site if self.site is None else Site.parse(self.site))
        positions = Positions.parse(self.positions)
        if positions.role in ("generated", "completion", FROM_TOKEN):
            raise PositionError(f"A gate at the prompt reads tokens of the prompt, not positions '{positions}'.")
        # All of the prompt, that is: what follows can't decide about itself.
        object.__setattr__(
            self, "positions", replace(positions, role="prompt") if positions.role == "all" else positions
        )

    @property
    def read_at(self) -> Site:
        """The site at which it is read."""
        return self.direction.site if self.site is None else self.site

    def __str__(self) -> str:
        where = self.site if self.at == "token" else f"{self.site}, mean over {self.positions} of the prompt"
        extra = " by an extra pass" if self.prepass else ""
        return f"{self.direction.name} {self.side} {self.threshold:g} at {where}{extra}"


class Intervention(ABC, Generic[OptionsT]):
    """Where and how the residual stream is changed.

    Args:
        options: the plugin's options.
        direction: the direction it uses; None where its spec takes none.
        sites: where it acts; None for its own choice.
        positions: at which tokens.
        schedule: a factor on the change at each generated token.
        gate: a condition on the stream under which it acts; None: always.
        factor: a factor on the change, a tensor of one element that gradients may flow to; None: 1.
    """

    def __init__(
        self,
        options: OptionsT,
        direction: Direction | None = None,
        sites: Sequence[Site] | None = None,
        positions: Positions = Positions("all"),
        schedule: Schedule = Schedule(),
        gate: Gate | None = None,
        factor: Tensor | None = None,
    ) -> None:
        self.options = options
        self._direction = direction
        self._sites = None if sites is None else tuple(sites)
        self.positions = positions
        self.schedule = schedule
        self.gate = gate
        self.factor = factor

    @property
    def direction(self) -> Direction:
        """The direction, for interventions that take one."""
        if self._direction is None:
            raise ValueError(f"{type(self).__name__} needs a direction.")
        return self._direction

    def with_direction(self, direction: Direction) -> Intervention[OptionsT]:
        """The same intervention along another direction (random controls use it)."""
        found = type(self)(self.options, direction, self._sites, self.positions)
        # Set, not passed: a plugin's own __init__ needn't know of them.
        found.schedule, found.gate, found.factor = self.schedule, self.gate, self.factor
        return found

    def sites(self, layout: Layout) -> tuple[Site, ...]:
        """Where it acts on a model: what the user named, else ``default_sites``."""
        chosen = self._sites if self._sites is not None else tuple(self.default_sites(layout))
        for site in chosen:
            layout.require(site)
        return chosen

    @abstractmethod
    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """Where it acts when nobody says."""

    @abstractmethod
    def update(self, site: Site) -> Update | None:
        """What happens to the stream at a site; None where that is nothing at all (coefficient 0)."""
