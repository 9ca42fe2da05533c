"""Devices that aren't there: tensors that compute on the CPU, say that they lie on another device, and refuse to meet
a tensor of a third one, as GPUs do.

The names are of a kind of device that no build of torch runs, so that nothing of torch's own takes them for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FIRST, SECOND = "ipu:0", "ipu:1"
_MOVES: Final = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXING: Final = (Tensor.__getitem__, Tensor.__setitem__)
_PLAIN: Final = (*_INDEXING, Tensor.tolist, Tensor.numpy, Tensor.matmul, Tensor.__matmul__, torch.matmul)
"""What runs on the numbers as a whole: it asks nobody below, or changes the shape of what it was given in place."""
_MAKING: Final = (torch.tensor, torch.as_tensor)


class Elsewhere(Tensor):
    """A tensor that says that it lies on a device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        """One around a tensor on the CPU."""
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        found: Elsewhere = made
        return found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without the function
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Below autograd."""
        return _run(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Above it: what torch asks a device's own code for, before it looks for anything else, runs on the numbers."""
        if func in _PLAIN:
            return _run(func, args, kwargs or {})
        try:
            return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})
        except RuntimeError as error:
            if "not linked with support" not in str(error):
                raise
            return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    # A number of the CPU may meet any tensor, and so may what says which items are meant.
    where = {one.device for one in tensors if isinstance(one, Elsewhere) or (one.ndim and func not in _INDEXING)}
    if len(where) > 1 and func not in _MOVES:
        raise RuntimeError(f"{func} is given tensors on {' and '.join(sorted(map(str, where)))}")
    asked = kwargs.get("device")
    device = next(iter(where), torch.device("cpu")) if asked is None else torch.device(asked)
    if func is torch.ops.aten.copy_.default:
        device = args[0].device

    def held(value: Any) -> Any:
        return value.held if isinstance(value, Elsewhere) else value

    inner = dict(tree_map(held, kwargs))
    if asked is not None:
        inner["device"] = torch.device("cpu")
    found = func(*tree_map(held, args), **inner)
    if hasattr(func, "_schema") and func._schema.is_mutable and isinstance(found, Tensor):
        return args[0]
    return tree_map(lambda one: _put(one, device), found)


def _put(value: Any, device: torch.device) -> Any:
    return Elsewhere(value, device) if isinstance(value, Tensor) and device.type != "cpu" else value


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """What is made of Python's numbers is made on the CPU and moved."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _MAKING and given.get("device") is not None:
            device = torch.device(given.pop("device"))
            return func(*args, **given).to(device)
        return func(*args, **given)


@contextmanager
def devices_that_are_not_there() -> Iterator[None]:
    """Run the body with ``FIRST`` and ``SECOND`` as devices."""
    with _Made(), _Dispatched():  # type: ignore[no-untyped-call]
        yield


def spread(model: Any, mapped: Mapping[str, str]) -> Any:
    """A model whose modules lie on devices that aren't there, dispatched by accelerate as over GPUs.

    Args:
        model: on the CPU; it is used up.
        mapped: devices by paths, with which every parameter's path begins.
    """
    from accelerate import dispatch_model

    for path, module in model.named_modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                put = Elsewhere(value.detach(), _device(f"{path}.{name}", mapped))
                module._parameters[name] = nn.Parameter(put, requires_grad=False)
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = Elsewhere(value.detach(), _device(f"{path}.{name}", mapped))
    return dispatch_model(model, dict(mapped))


def _device(path: str, mapped: Mapping[str, str]) -> torch.device:
    return torch.device(next(device for begin, device in mapped.items() if path.startswith(f"{begin}.")))
