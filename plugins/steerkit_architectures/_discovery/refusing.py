"""Why a model has no layout, or a block no writers: in words, with the operation, the module and the layer."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.errors import UnsupportedModelError

NEXT = (
    "Name an adapter that declares the model (`model: {adapter: ...}`), or write one: `steerkit new-plugin NAME "
    "--kind architecture` makes its package, and `steerkit.testing.ArchitectureSuite` proves it."
)


@dataclass(frozen=True)
class Place:
    """Where something was seen.

    Args:
        operation: the operation of torch, as ``mul``.
        module: path of the module within whose call it ran.
        layer: number of the block; None outside of the blocks.
    """

    operation: str = ""
    module: str = ""
    layer: int | None = None


class NotASum(Exception):
    """Why a block's output can't be declared as a sum: only its two ends are streams then.

    Args:
        reason: a clause, as ``Block.not_a_sum`` holds it.
        place: where it shows.
    """

    def __init__(self, reason: str, place: Place) -> None:
        self.reason, self.place = reason, place
        super().__init__(reason)


def refusal(cause: str, reason: str, place: Place | None = None) -> UnsupportedModelError:
    """The error of a model that has no layout.

    Args:
        cause: in a few words, the same for all models with it.
        reason: a clause about this model.
        place: where it shows.
    """
    place = place or Place()
    return UnsupportedModelError(
        f"No layout can be read off this model: {reason}. {NEXT}",
        cause=cause,
        operation=place.operation,
        module=place.module,
        layer=place.layer,
    )
