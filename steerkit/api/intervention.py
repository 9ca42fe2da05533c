"""An update of the residual stream, stated as algebra where it is algebra. Never sees a hook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from typing_extensions import TypeVar

from steerkit.api.architecture import Layout
from steerkit.api.estimator import Direction
from steerkit.api.hookspecs import Options
from steerkit.types import Positions, Site

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


class Intervention(ABC, Generic[OptionsT]):
    """Where and how the residual stream is changed.

    Args:
        options: the plugin's options.
        direction: the direction it uses; None where its spec takes none.
        sites: where it acts; None for its own choice.
        positions: at which tokens.
    """

    def __init__(
        self,
        options: OptionsT,
        direction: Direction | None = None,
        sites: Sequence[Site] | None = None,
        positions: Positions = Positions("all"),
    ) -> None:
        self.options = options
        self._direction = direction
        self._sites = None if sites is None else tuple(sites)
        self.positions = positions

    @property
    def direction(self) -> Direction:
        """The direction, for interventions that take one."""
        if self._direction is None:
            raise ValueError(f"{type(self).__name__} needs a direction.")
        return self._direction

    def with_direction(self, direction: Direction) -> Intervention[OptionsT]:
        """The same intervention along another direction (random controls use it)."""
        return type(self)(self.options, direction, self._sites, self.positions)

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
