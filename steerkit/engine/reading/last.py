"""What the last token of prompts has along one direction, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from steerkit.engine.reading.capture import tokens_of
from steerkit.engine.runtime.beginning import read_batch
from steerkit.errors import DataError, counted
from steerkit.progress import Progress, shown
from steerkit.types import RESID_PRE, Positions, Site

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.engine.sites.taps import Handler

LAST: Final = Positions("", (-1,))
Taker: TypeAlias = Callable[[int, Tensor, Tensor], None]
"""Is handed a layer, the places of prompts ``[rows]``, and what their last tokens have, ``[rows, width]``, float64."""


def require_vector(live: Runtime, vectors: Tensor, name: str) -> Tensor:
    """The one vector of a direction, of length 1, ``[d_model]``, float64.

    Raises:
        DataError: for several vectors, another width, or no length.
    """
    if vectors.shape[0] != 1:
        raise DataError(f"Direction {name!r} has {counted(vectors.shape[0], 'vector')}, and this is told along one.")
    if vectors.shape[1] != live.layout.d_model:
        raise DataError(f"Direction {name!r} has width {vectors.shape[1]}, and the stream has {live.layout.d_model}.")
    vector: Tensor = vectors[0].detach().double().cpu()
    if not float(vector.norm()) > 0:
        raise DataError(f"Direction {name!r} has length 0, so nothing lies along it.")
    unit: Tensor = vector / vector.norm()
    return unit


def last_token_cosines(
    live: Runtime,
    rendered: Sequence[Rendered],
    unit: Tensor,
    progress: Progress | bool = False,
    *,
    beside: Mapping[Site, tuple[Taker, int]] | None = None,
) -> Tensor:
    """Cosine of the last token's ``resid_pre`` with a direction at every layer.

    Args:
        live: the model.
        rendered: prompts.
        unit: ``[d_model]``, of length 1.
        progress: told how many prompts are done.
        beside: who else is shown what in the same passes; see ``read_last_tokens``.

    Returns:
        ``[prompts, layers]``, float64.

    Raises:
        DataError: where activations aren't finite.
    """
    cosines = torch.full((len(rendered), live.layout.n_layers), torch.nan, dtype=torch.float64)

    def take(layer: int, order: Tensor, x: Tensor) -> None:
        cosines[order, layer] = (x @ unit.to(x.device) / x.norm(dim=-1)).cpu()

    own: dict[Site, tuple[Taker, int]] = {Site(RESID_PRE, at): (take, at) for at in range(live.layout.n_layers)}
    read_last_tokens(live, rendered, {**own, **(beside or {})}, progress)
    require_finite(cosines)
    return cosines


def read_last_tokens(
    live: Runtime,
    rendered: Sequence[Rendered],
    takers: Mapping[Site, tuple[Taker, int]],
    progress: Progress | bool = False,
) -> None:
    """Show takers what the last token of each prompt has at sites, some prompts at a time.

    Args:
        live: the model.
        rendered: prompts.
        takers: by site, who is shown it, and the layer that it is told.
        progress: told how many prompts are done.
    """
    done = 0
    with shown(progress, "reading last tokens") as tell:
        for batch in live.batched(rendered, "right", fine=True):
            row, column, _ = tokens_of(live, LAST, batch)
            order = torch.tensor(batch.order)

            def reader(taker: Taker, layer: int, at: tuple[Tensor, Tensor], order: Tensor) -> Handler:
                def read(x: Tensor) -> None:
                    taker(layer, order, x[at[0].to(x.device), at[1].to(x.device)].detach().double())

                return read

            readers = {site: reader(taker, layer, (row, column), order) for site, (taker, layer) in takers.items()}
            read_batch(live, batch, readers=readers, stops=True)
            done += len(batch.order)
            tell(done, len(rendered))


def require_finite(values: Tensor) -> None:
    """Raise ``DataError`` for activations that aren't numbers."""
    if not bool(torch.isfinite(values).all()):
        raise DataError(
            "Activations hold NaN or infinite values. A float16 model can overflow: load it in float32 or bfloat16."
        )
