"""Reading and replacing values on their way through a live model: the one place that registers hooks on taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from torch import Tensor, nn

from steerkit.api.architecture import Tap
from steerkit.engine.parallel.shards import Input, sharded_input
from steerkit.errors import SiteError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Handler = Callable[[Tensor], Tensor | None]
"""Sees a value, returns its replacement, or None to leave it alone. Must not write into its argument."""

_DOES_NOT_FIT: Final = "Its adapter doesn't fit it."
Shape: TypeAlias = tuple[int, ...]
Hooked: TypeAlias = tuple[nn.Module, Literal["input", "output", "seen"], Callable[..., Any]]
"""A module, a side, and a hook (with keyword arguments on the input side). ``seen``: a pre-hook that only looks."""


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
        raise SiteError(f"The model has no module {path!r} ({error}). {_DOES_NOT_FIT}") from None


def through(model: nn.Module, paths: Sequence[str], value: Tensor) -> Tensor:
    """What modules make of a value, one after the other."""
    for path in paths:
        value = first_of(submodule(model, path)(value))
    return value


def register_tap(model: nn.Module, tap: Tap, handler: Handler) -> TapHandle:
    """Show ``handler`` the tapped value, ``[batch, pos, width]``, each time it passes; put back what it returns."""
    handles: list[RemovableHandle] = []
    for module, side, hook in hooks_of_tap(model, tap, handler):
        if side == "output":
            handles.append(module.register_forward_hook(hook))
        else:
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    return TapHandle(handles)


@dataclass(frozen=True)
class TapHandle:
    """Hooks of one tap."""

    handles: Sequence[RemovableHandle]

    def remove(self) -> None:
        """Take them off; twice does no harm."""
        for handle in self.handles:
            handle.remove()


def hooks_of_tap(model: nn.Module, tap: Tap, handler: Handler) -> list[Hooked]:
    """The hooks that show ``handler`` a value, in the order in which they run: module, side, hook.

    ``seen`` hooks are forward pre-hooks that only look. All on the input side take keyword arguments.
    """
    module = submodule(model, tap.module)
    seen: list[Hooked] = []
    if tap.side == "input" and (parts := sharded_input(module)) is not None:
        handler = of_whole_input(handler, parts)
    if tap.flat_within:
        shapes: list[Shape] = []
        block = submodule(model, tap.flat_within)
        seen.append((block, "seen", _keeps_shape(shapes)))
        handler = in_three_axes(handler, shapes)
    if tap.factor != 1.0:
        handler = times_factor(handler, tap.factor)
    hook = input_hook(handler, tap.keyword) if tap.side == "input" else output_hook(handler)
    return [*seen, (module, tap.side, hook)]


def _keeps_shape(shapes: list[Shape]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        value = next((value for value in given if isinstance(value, Tensor) and value.ndim == 3), None)
        if value is None:
            raise SiteError(f"{type(module).__name__} is given no value with batch and positions. {_DOES_NOT_FIT}")
        shapes[:] = [value.shape[:2]]

    return hook


def in_three_axes(handler: Handler, shapes: list[Shape]) -> Handler:
    """A handler of a value whose batch and positions are one axis; ``shapes`` holds what both are in this pass."""

    def framed(value: Tensor) -> Tensor | None:
        new = handler(value.reshape(*shapes[0], value.shape[-1]))
        return None if new is None else new.reshape(value.shape)

    return framed


def times_factor(handler: Handler, factor: float) -> Handler:
    """A handler of a value that is multiplied afterwards. What the handler leaves alone keeps its bits."""

    def framed(value: Tensor) -> Tensor | None:
        seen = value * factor
        new = handler(seen)
        return None if new is None else value + (new - seen) / factor

    return framed


def of_whole_input(handler: Handler, parts: Input) -> Handler:
    """A handler of a value of which each process has a share: it sees all of it, in every process alike."""

    def framed(value: Tensor) -> Tensor | None:
        new = handler(parts.gathered(value))
        return None if new is None else parts.share(new, value)

    return framed


def input_hook(handler: Handler, keyword: str) -> Callable[..., Any]:
    """A forward pre-hook (with keyword arguments) that runs ``handler`` on the first argument, or on ``keyword``."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = args[0] if args else kwargs[keyword]
        new = handler(value)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, keyword: new})

    return hook


def first_of(output: Any) -> Tensor:
    """What a module gives: its output, or the first item of a tuple or list of outputs.

    Raises:
        SiteError: where that is no tensor.
    """
    value = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(value, Tensor):
        return value
    raise SiteError(
        f"A module gives a {type(value).__name__} where its layout has a stream. Streams are read in tensors, and in "
        "the first item of tuples and lists."
    )


def with_first(output: Any, new: Tensor) -> Any:
    """An output with another tensor in the place of ``first_of``."""
    if isinstance(output, Tensor):
        return new
    rest = (new, *output[1:])
    # A tuple with names takes its items one by one.
    return output._make(rest) if hasattr(output, "_make") else type(output)(rest)


def output_hook(handler: Handler) -> Callable[..., Any]:
    """A forward hook that runs ``handler`` on the output, or on the first item of a tuple or list of outputs."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return handler(output)
        new = handler(first_of(output))
        return None if new is None else with_first(output, new)

    return hook
