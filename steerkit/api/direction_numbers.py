"""Numbers that a user has, in whatever holds them, as the vectors of a direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.errors import DirectionError

if TYPE_CHECKING:
    from torch import Tensor


def as_vectors(numbers: Any, what: str) -> Any:
    """Numbers as a tensor, float32 on the CPU, a copy; by site where they are a mapping.

    Args:
        numbers: a list, an array, a tensor, or a mapping from sites to those.
        what: they are, at the beginning of a message.

    Raises:
        DirectionError: for what are no real numbers in rows of one length.
    """
    if isinstance(numbers, Mapping):
        return {site: _tensor(value, what) for site, value in numbers.items()}
    return _tensor(numbers, what)


def kind_of(numbers: Any) -> str:
    """What numbers were given as, in a few words: ``list [576]``, ``numpy float64 [2, 576]``."""
    if isinstance(numbers, Mapping):
        return f"{len(numbers)} by site, the first {kind_of(next(iter(numbers.values())))}" if numbers else "none"
    shape, dtype = getattr(numbers, "shape", None), getattr(numbers, "dtype", None)
    if shape is not None and dtype is not None:
        library = type(numbers).__module__.partition(".")[0]
        return f"{library} {str(dtype).removeprefix('torch.')} {list(shape)}"
    length = f" [{len(numbers)}]" if hasattr(numbers, "__len__") else ""
    return f"{type(numbers).__name__}{length}"


def _tensor(numbers: Any, what: str) -> Tensor:
    import numpy as np
    import torch

    if isinstance(numbers, torch.Tensor):
        if numbers.is_complex() or numbers.dtype == torch.bool:
            raise DirectionError(f"{what} is made of real numbers, not of {numbers.dtype}.")
        return numbers.detach().to("cpu", torch.float32, copy=True)
    if isinstance(numbers, (str, bytes)):
        raise DirectionError(
            f"{what} is made of numbers, not of the text {numbers[:40]!r}: the numbers come first, then their site."
        )
    try:
        array = np.asarray(numbers)
    except (ValueError, TypeError, RuntimeError):
        raise DirectionError(f"{what} is made of numbers in rows of one length, and these are not.") from None
    if array.dtype.kind not in "fiu":
        kinds = {"c": "complex numbers", "U": "texts", "O": type(numbers).__name__}
        held = kinds.get(array.dtype.kind, f"{type(numbers).__name__} of {array.dtype}")
        raise DirectionError(f"{what} is made of real numbers, as a list, an array or a tensor, not of {held}.")
    with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
        return torch.from_numpy(np.array(array, dtype=np.float32))
