"""The plain model inside of what other libraries wrap around it."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def original(model: ModelT) -> ModelT:
    """The model inside of what ``torch.compile(model)`` returns; any other as it is."""
    inside = model._modules.get("_orig_mod") if isinstance(model, nn.Module) else None
    return model if inside is None else cast(ModelT, inside)
