"""Reading and replacing values on their way through a live model: the one place that registers hooks on taps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steerkit.api.architecture import Tap
from steerkit.errors import SiteError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Handler = Callable[[Tensor], Tensor | None]
"""Sees a value, returns its replacement, or None to leave it alone. Must not write into its argument."""


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path. Raises ``SiteError`` naming the path when there is none."""
    found: nn.Module | None = model
    for part in path.split(".") if path else ():
        found = None if found is None else found._modules.get(part)
    if found is not None:
        return found
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SiteError(f"The model has no module {path!r} ({error}). Its adapter doesn't fit it.") from None


def register_tap(model: nn.Module, tap: Tap, handler: Handler) -> RemovableHandle:
    """Show ``handler`` the tapped value, ``[batch, pos, width]``, each time it passes; put back what it returns."""
    module = submodule(model, tap.module)
    if tap.side == "input":
        return module.register_forward_pre_hook(input_hook(handler, tap.keyword), with_kwargs=True)
    return module.register_forward_hook(output_hook(handler))


def input_hook(handler: Handler, keyword: str) -> Callable[..., Any]:
    """A forward pre-hook (with keyword arguments) that runs ``handler`` on the first argument, or on ``keyword``."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = args[0] if args else kwargs[keyword]
        new = handler(value)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, keyword: new})

    return hook


def output_hook(handler: Handler) -> Callable[..., Any]:
    """A forward hook that runs ``handler`` on the output, or on the first item of a tuple of outputs."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = handler(output[0])
            return None if new is None else (new, *output[1:])
        return handler(output)

    return hook
