"""What somebody writes without a framework, for contrast: a hook before every block and one behind each of its parts.

It is how the ablation of a direction is commonly put on a model: three hooks for every block, each of which takes the
direction out of what passes by, in the dtype of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from steerkit.engine.sites.taps import first_of, with_first

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.bench.conditions import Case
    from steerkit.session.model import LiveModel

BY_HAND: Final = "by_hand"
BY_HAND_CASES: Final = ("ablate_all",)
"""What has hooks of its own here."""
PARTS: Final = ("self_attn", "mlp")
"""A Llama's, which stand in no layout: whoever writes hooks by hand names them."""


@contextmanager
def by_hand(live: LiveModel, condition: Case) -> Iterator[None]:
    """Run the body with three hooks on every block.

    Args:
        live: a model of Llama's shape. On another one the check of its logits fails, and it is not timed.
        condition: an ablation of one direction everywhere, a case of ``BY_HAND_CASES``.
    """
    (placement,) = condition.shared
    (direction,) = placement.directions
    vector = direction.vectors[0].to(live.device, live.hf_model.dtype)
    unit = vector / vector.norm()

    def without(x: Tensor) -> Tensor:
        along: Tensor = (x @ unit).unsqueeze(-1)
        kept: Tensor = x - along * unit
        return kept

    with ExitStack() as hooks:
        for block in _blocks(live):
            handle = block.register_forward_pre_hook(_before(without), with_kwargs=True)
            hooks.callback(handle.remove)
            for part in PARTS:
                hooks.callback(getattr(block, part).register_forward_hook(_behind(without)).remove)
        yield


def _blocks(live: LiveModel) -> list[nn.Module]:
    return [live.hf_model.get_submodule(block.module) for block in live.layout.blocks]


def _before(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def _behind(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return with_first(output, change(first_of(output)))

    return hook
