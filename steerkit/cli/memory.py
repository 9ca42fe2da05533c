"""What ``steerkit check`` says of memory: what each device would hold, and what to write where that is too much.

To know it the model is built without weights, which takes seconds, so a small model is told by its files alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import typer

from steerkit.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.engine.footprint.fitting import Share
    from steerkit.engine.footprint.model import Footprint
    from steerkit.plan import Plan
    from steerkit.plan.planned.model import PlannedModel

GB: Final = 10**9
SMALL: Final = 4 * GB
"""Of weights in files. What is smaller fits nearly everywhere, and isn't looked at unasked."""
COLUMNS: Final = ("device", "weights", "keys and values", "a pass", "in all", "of")


@dataclass(frozen=True)
class Told:
    """What is said of a plan's memory.

    Args:
        footprint: of the model; None where it isn't known.
        shares: of the devices.
        note: what doesn't fit and what to do, or why nothing is known; empty where all fits.
    """

    footprint: Footprint | None = None
    shares: tuple[Share, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values, in bytes."""
        from steerkit.engine.footprint.fitting import to_json

        told = {} if self.footprint is None else to_json(self.footprint, self.shares)
        return {**told, **({"note": self.note} if self.note else {})}

    def show(self, console: Console) -> None:
        """Print a table, and below it what it is of and what doesn't fit."""
        from steerkit.columns import print_table

        rows = [
            [one.device, *map(_gb, (one.weights, one.cache, one.work, one.n_bytes)), _gb(one.room) if one.room else "?"]
            for one in self.shares
        ]
        print_table(console, "memory, at most (GB)", COLUMNS, rows)
        if self.footprint is not None:
            console.print(_basis(self.footprint), markup=False)
        if self.note:
            console.print(f"Note: {self.note}", markup=False)


def memory_of(plan: Plan, asked: bool) -> Told | None:
    """What is known of a plan's memory.

    Args:
        plan: the plan.
        asked: whether a small model is looked at too.

    Returns:
        None where the model is small, as it lies, and nobody asked.

    Raises:
        ModelError: for a placement that the model can't have, which a run would refuse.
    """
    if not asked and plan.loading.placement.is_plain and _is_small(plan.model):
        return None
    if plan.model.folder is None and not plan.model.is_tiny:
        return Told(note="How much memory it takes is not known: no config of the model is at hand.")
    from steerkit.engine.footprint.model import UnknownFootprintError

    typer.echo(f"building {plan.model.source} without its weights, to say what memory it takes", err=True)
    try:
        return _looked(plan)
    except UnknownFootprintError as error:
        return Told(note=f"How much memory it takes is not known: {str(error).rstrip('.')}.")


def _looked(plan: Plan) -> Told:
    from steerkit.engine.footprint.devices import rooms_here
    from steerkit.engine.footprint.fitting import fault, main_of, shares_of, suggestion
    from steerkit.engine.footprint.model import Shape, footprint_of

    loading, rooms = plan.loading, rooms_here()
    main = main_of(loading.device, rooms)
    batches = plan.cost.batches or ((1, loading.batch_tokens, False),)
    found = footprint_of(
        loading.source,
        plan.model.folder,
        [Shape(*one) for one in batches],
        dtype=loading.dtype,
        device="cpu" if main == "cpu" else "cuda",
        placement=loading.placement,
        trust_remote_code=loading.trust_remote_code,
    )
    shares = tuple(shares_of(found, loading.placement, loading.device, rooms))
    said = fault(shares)
    if said:
        said = f"{said} {suggestion(found, loading.placement, loading.device, rooms)}"
    return Told(found, shares, said)


def _basis(found: Footprint) -> str:
    form = found.dtype if found.bits is None else f"{found.dtype}, quantised to about {found.bits:g} bits"
    shape = max(found.passes, key=lambda one: one.tokens)
    return (
        f"{counted(found.n_parameters, 'parameter')} in {form}; the fullest batch has {counted(shape.rows, 'row')} "
        f"of {counted(shape.columns, 'token')}. What a search keeps between passes comes on top."
    )


def _gb(size: int | float | None) -> str:
    return f"{(size or 0) / GB:.3g}"


def _is_small(model: PlannedModel) -> bool:
    """Whether a model's weights fit nearly everywhere, by its files; one that isn't known isn't looked at."""
    if model.is_tiny or model.folder is None:
        return True
    sizes = [path.stat().st_size for path in model.folder.glob("*.safetensors")]
    if sizes:
        return sum(sizes) < SMALL
    layers, width = model.n_layers or 0, model.d_model or 0
    return 12 * layers * width**2 * 2 < SMALL
