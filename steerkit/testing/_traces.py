"""What a model looks like to its hooks, and what is left on it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    pass


def other_output(block: nn.Module) -> Callable[[], None]:
    """Give a block's hooks a tuple where they got a tensor, and the other way round; its caller sees no change."""
    kind: type[Any] = type(block)

    class Other(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            self.rest = output[1:] if isinstance(output, tuple) else None
            return output[0] if isinstance(output, tuple) else (output, "something else")

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            return output[0] if self.rest is None else (output, *self.rest)

    block.__class__ = Other

    def back() -> None:
        block.__class__ = kind
        vars(block).pop("rest", None)

    return back


def state_of(model: nn.Module) -> tuple[dict[str, tuple[list[Any], list[Any]]], dict[str, Tensor]]:
    hooks = {
        name: (list(module._forward_hooks.values()), list(module._forward_pre_hooks.values()))
        for name, module in model.named_modules()
    }
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return hooks, {name: value.detach().clone() for name, value in tensors}


def assert_same(before: tuple[Any, dict[str, Tensor]], after: tuple[Any, dict[str, Tensor]]) -> None:
    assert after[0] == before[0], "A hook was left on the model."
    changed = [name for name, value in before[1].items() if not torch.equal(value, after[1][name])]
    assert not changed and after[1].keys() == before[1].keys(), f"Bits changed: {changed}"
