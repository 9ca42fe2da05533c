"""Folds put into a model's parameters for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steerkit.engine.baking.biases import declare_biases, switch_on
from steerkit.engine.lowering.fold import Fold, Swap
from steerkit.engine.sites.taps import submodule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class Change:
    """What a checkpoint holds that the original's doesn't.

    Args:
        parameters: names of those with other values, biases that are new included.
        zeros: names of biases that are new and zero: the setting that declares one declares them all.
        biases: names of those that are new and hold a constant.
        settings: what the config says otherwise.
    """

    parameters: tuple[str, ...]
    zeros: tuple[str, ...]
    settings: dict[str, bool]
    biases: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Baking:
    """Folds that can be put into a model for good, and read back. Nothing is changed before ``put``.

    Args:
        model: the model.
        swaps: its new parameters.
        biases: linear modules that get a bias; those that no swap speaks of get zeros.
        settings: of the config, which declare them.
        untied: whether the head was the embedding and must stay what it was.
    """

    model: PreTrainedModel
    swaps: tuple[Swap, ...]
    biases: tuple[str, ...]
    settings: dict[str, bool]
    untied: bool

    @classmethod
    def of(cls, model: PreTrainedModel, folds: Sequence[Fold]) -> Baking:
        """Work the parameters out.

        Raises:
            AttachError: where a bias would be needed that the model's config has no word for.
        """
        with torch.no_grad():
            swaps = tuple(swap for fold in folds for swap in fold.swaps(model))
        names = {module: name for name, module in model.named_modules()}
        bare = [names[module] for module, name, _ in swaps if name == "bias" and module._parameters["bias"] is None]
        settings, biases = declare_biases(model, bare)
        untied = any(
            isinstance(module, nn.Embedding) and _is_shared_where_baked(module, name, model)
            for module, name, _ in swaps
        )
        return cls(model, swaps, biases, dict(settings), untied)

    def put(self) -> Change:
        """Put them in, and have the config say so."""
        names = {module: name for name, module in self.model.named_modules()}
        settings = dict(self.settings)
        new = {f"{path}.bias" for path in self.biases}
        for path in self.biases:
            module = submodule(self.model, path)
            like = module._parameters["weight"]
            assert like is not None  # a linear module's own, which the settings were found by
            module._parameters["bias"] = nn.Parameter(like.detach().new_zeros(like.shape[0]), requires_grad=False)
        for module, name, put in self.swaps:
            module._parameters[name] = put
        changed = tuple(sorted(f"{names[module]}.{name}" for module, name, _ in self.swaps))
        switch_on(self.model.config, self.settings)
        if self.untied:
            _untie(self.model.config)
            settings[_TIED] = False
        return Change(changed, tuple(sorted(new - set(changed))), settings, tuple(sorted(new & set(changed))))


def _is_shared_where_baked(owner: nn.Module, name: str, model: nn.Module) -> bool:
    """Whether another module has this very parameter."""
    value = owner._parameters[name]
    others = (module for module in model.modules() if module is not owner)
    return value is not None and any(one is value for module in others for one in module._parameters.values())


def _untie(config: Any) -> None:
    for part in (config, config.get_text_config()):
        if getattr(part, _TIED, None) is not None:
            setattr(part, _TIED, False)
