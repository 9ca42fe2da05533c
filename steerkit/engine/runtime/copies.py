"""The model as it is without what steers it, also for whoever copies it meanwhile.

Copying and pickling ask the object itself first, so that is where they find what is said here, for as long as the door
is there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import nn

from steerkit.engine.runtime.blocks import shared_of
from steerkit.errors import AttachError

PICKLED: Final = (
    "The model is being steered, so it isn't pickled whole, nor copied by copy.copy: its hooks belong to it and to "
    "this process. Do that outside of the block; inside, copy.deepcopy, save_pretrained and state_dict give the plain "
    "model. `steerkit bake RUN --condition NAME --out FOLDER` writes a steered one, from a run of a recipe."
)
PREPARED: Final = "The model is prepared for steering, and a copy would be as well. Copy it outside of `prepare`."
RESIZED: Final = "The model is prepared for steering, with its embedding as it is. Resize it outside of `prepare`."
_NAMES: Final = ("__deepcopy__", "__reduce_ex__")
_RESIZES: Final = "resize_token_embeddings"


@contextmanager
def with_nothing_on_model(model: nn.Module) -> Iterator[None]:
    """Run the body with nothing of ours on a model, when it is its turn."""
    shared = shared_of(model)
    with shared.turns.taken():
        attachment, door = shared.now.attachment, shared.door
        try:
            for one in (attachment, door):
                if one is not None:
                    one.detach()
            yield
        finally:
            for one in (attachment, door):
                if one is not None:
                    one.attach()


def watch_copies(model: nn.Module, base: nn.Module) -> None:
    """Have deep copies of a model, and of the base model in it, made of the plain one, pickling refused, and its
    vocabulary made larger or smaller as the plain model's is. May be repeated."""

    def reduce(protocol: Any) -> Any:
        raise AttachError(PICKLED)

    for module in (model, base):

        def deepcopy(memo: dict[int, Any], module: nn.Module = module) -> Any:
            if shared_of(model).prepared is not None:
                raise AttachError(PREPARED)
            # Without the door, which takes this off too.
            with with_nothing_on_model(model):
                return copy.deepcopy(module, memo)

        def resize(*args: Any, module: nn.Module = module, **kwargs: Any) -> Any:
            # It writes into the embedding, ties it anew and makes another head of it.
            if shared_of(model).prepared is not None:
                raise AttachError(RESIZED)
            with with_nothing_on_model(model):
                return getattr(type(module), _RESIZES)(module, *args, **kwargs)

        vars(module).update(zip(_NAMES, (deepcopy, reduce), strict=True))
        if hasattr(type(module), _RESIZES):
            vars(module)[_RESIZES] = resize


def unwatch_copies(model: nn.Module, base: nn.Module) -> None:
    """Let it be copied as ever."""
    for module in (model, base):
        for name in (*_NAMES, _RESIZES):
            vars(module).pop(name, None)
