"""A model's modules without weights: built on the meta device, from its config alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steerkit.engine.loading.kinds import class_for
from steerkit.errors import ModelError
from steerkit.sources import TINY

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def empty_model(source: str, folder: Path | None, trust_remote_code: bool) -> PreTrainedModel:
    """The model in eval mode, with nothing in its parameters; a tiny one as it is.

    Args:
        source: as a recipe names it.
        folder: where its config is; None for tiny models, which are built with their weights.
        trust_remote_code: whether code that comes with a checkpoint may run.

    Raises:
        ModelError: where no config is at hand.
    """
    from transformers import AutoConfig

    from steerkit.engine.loading.quiet import quiet_transformers

    if source.startswith(TINY):
        from steerkit.engine.tiny.models import tiny_model

        return tiny_model(source.removeprefix(TINY))
    if folder is None:
        raise ModelError("no config of it is at hand")
    with quiet_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        # Fused products of experts have no form on the meta device, and loops over them ask which tokens they get.
        how = {"experts_implementation": "batched_mm"}
        model: Any = class_for(config).from_config(config, trust_remote_code=trust_remote_code, **how)
    model.eval()
    found: PreTrainedModel = model
    return found
