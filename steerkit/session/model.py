"""What a Python user holds: a model that can be steered and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import PaddingSide
from steerkit.engine.reading.capture import Key, capture
from steerkit.engine.runtime.runtime import Runtime
from steerkit.progress import Progress
from steerkit.types import Positions, Site, as_sites

if TYPE_CHECKING:
    from steerkit.api.estimator import ClassStatistics
    from steerkit.engine.prompts.inputs import Prompts


class LiveModel(Runtime):
    """A model in memory, ready to be steered and read. Made by ``steerkit.load_model`` or ``steerkit.wrap``."""

    def capture(
        self,
        prompts: Prompts,
        sites: Sequence[Site | str] | Site | str,
        positions: Sequence[Positions | str | int] | Positions | str | int = -1,
        *,
        kind: StatisticsKind = "mean",
        padding_side: PaddingSide = "right",
        steer: Sequence[Steer] | None = None,
        progress: Progress | bool = True,
    ) -> dict[Key, ClassStatistics]:
        """Statistics of activations. See ``steerkit.engine.reading.capture.capture``."""
        chosen = positions if isinstance(positions, Sequence) and not isinstance(positions, str) else [positions]
        return capture(
            self,
            prompts,
            as_sites(sites),
            [Positions.parse(item) for item in chosen],
            kind=kind,
            padding_side=padding_side,
            steer=steer,
            progress=progress,
        )
