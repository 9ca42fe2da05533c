"""Passes that begin at a layer: the blocks below give what they gave before, and compute nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steerkit.api.architecture import Layout
from steerkit.engine.sites.taps import submodule
from steerkit.types import RESID_PRE, Site

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class Below:
    """What every block was given in one pass.

    Args:
        inputs: ``[batch, pos, d_model]`` by layer.
        in_tuple: whether blocks give a tuple, whose first item is the stream.
    """

    inputs: list[Tensor] = field(default_factory=list)
    in_tuple: bool = False


@contextmanager
def kept_below(model: nn.Module, layout: Layout, into: Below) -> Iterator[None]:
    """Keep what each block is given in the body's pass."""
    with ExitStack() as stack:
        for layer, block in enumerate(layout.blocks):
            module, keyword = submodule(model, block.module), layout.tap(Site(RESID_PRE, layer)).keyword
            stack.callback(module.register_forward_pre_hook(_keeps_input(into, keyword), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(_keeps_kind(into)).remove)
        yield


def _keeps_input(into: Below, keyword: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        into.inputs.append((args[0] if args else kwargs[keyword]).detach().clone())

    return hook


def _keeps_kind(into: Below) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        into.in_tuple = isinstance(output, (tuple, list))

    return hook


@contextmanager
def beginning_at(model: nn.Module, layout: Layout, layer: int, below: Below, copies: int = 1) -> Iterator[None]:
    """Run the body with the blocks below a layer left out: that layer's block is given what it was given before, so
    many times one below the other.

    The blocks stay where they are, with their hooks; only what they compute is left out. Their ``forward`` is as it was
    afterwards, also after an exception.
    """
    with ExitStack() as stack:
        for place in range(layer):
            block = submodule(model, layout.blocks[place].module)
            value = below.inputs[layer].repeat(copies, 1, 1) if copies > 1 else below.inputs[layer]
            stack.enter_context(_giving(block, value, in_tuple=below.in_tuple))
        yield


@contextmanager
def _giving(block: nn.Module, value: Tensor, *, in_tuple: bool) -> Iterator[None]:
    """A block that computes nothing and gives ``value``."""
    own = block.__dict__.get("forward")

    def forward(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        return (value,) if in_tuple else value

    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            block.__dict__.pop("forward", None)
        else:
            block.__dict__["forward"] = own
