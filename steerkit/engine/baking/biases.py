"""Biases that a config must declare: one that it doesn't is dropped when the checkpoint is read back.

No table of families says which setting declares what. The model is built once more from its config with the setting
on, without memory, and what it then has more is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steerkit.errors import AttachError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def declare_biases(model: PreTrainedModel, needed: Iterable[str]) -> tuple[Mapping[str, bool], tuple[str, ...]]:
    """The settings of a model's config that declare biases, and every bias that they ask for.

    Args:
        model: as it is, without them.
        needed: paths of linear modules that get a bias and have none.

    Returns:
        settings to be turned on, and paths of all modules that have a bias then and have none now.

    Raises:
        AttachError: where no setting declares them.
    """
    needed = tuple(needed)
    if not needed:
        return {}, ()
    chosen: dict[str, bool] = {}
    declared: frozenset[str] = frozenset()
    for setting in _settings(model.config.get_text_config()):
        if declared >= set(needed):
            break
        more = _biases_under(model, {**chosen, setting: True})
        if more is not None and (more - declared) & set(needed):
            chosen[setting], declared = True, more
    lost = [path for path in needed if path not in declared]
    if lost:
        kind = type(model.config.get_text_config()).__name__
        shown = f"{lost[0]} and {len(lost) - 1} more" if len(lost) > 1 else lost[0]
        raise AttachError(
            f"a constant goes into the bias of {shown}, which has none, and no setting of a {kind} declares one: it "
            "would vanish when the checkpoint is read back. A condition that only ablates needs no bias; keep this one "
            "as a hook, with the recipe or model.steer."
        )
    return chosen, tuple(sorted(declared))


def _settings(config: Any) -> list[str]:
    """What a config has switched off that speaks of biases."""
    return [key for key, value in config.to_dict().items() if "bias" in key and value is False]


def _biases_under(model: PreTrainedModel, settings: Mapping[str, bool]) -> frozenset[str] | None:
    """Linear modules that have a bias under settings and have none now; None where anything else differs too."""
    config = deepcopy(model.config)
    switch_on(config, settings)
    with torch.device("meta"):
        built = type(model)(config)
    before, after = _shapes(model), _shapes(built)
    new = after.keys() - before.keys()
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    paths = {name.removesuffix(".bias") for name in new if name.endswith(".bias")}
    same = all(after.get(name) == shape for name, shape in before.items())
    if not same or len(paths) < len(new) or not paths <= linear.keys():
        return None
    return frozenset(paths)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}


def switch_on(config: Any, settings: Mapping[str, bool]) -> None:
    """Write settings into a config, in the part of it that describes the text model."""
    for key, value in settings.items():
        setattr(config.get_text_config(), key, value)
