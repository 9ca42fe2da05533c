"""The layout of a model that has no weights yet: its modules are built on the meta device, from its config alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.engine.loading.kinds import class_for
from steerkit.engine.sites.layout_memory import layout_of
from steerkit.errors import ModelError, SteerkitError
from steerkit.sources import TINY

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layout_without_weights(
    source: str, folder: Path | None, adapter: ArchitectureAdapter, *, trust_remote_code: bool = False
) -> Layout:
    """What an adapter says of a model that is built without weights.

    It is what it says of the model itself, unless its modules look at numbers: an adapter that runs a pass can't follow
    one that branches on what was computed.

    Args:
        source: as a recipe names the model.
        folder: where its config is; None for tiny models, which are built with their weights.
        adapter: the one for the model.
        trust_remote_code: whether code that comes with a checkpoint may run.

    Raises:
        SteerkitError: where it can't be known so, with the reason as the end of a sentence.
    """
    try:
        return layout_of(_empty(source, folder, trust_remote_code), adapter)
    except SteerkitError:
        raise
    except Exception as error:  # whatever a model's own code makes of tensors that hold nothing
        first = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(f"its modules can't be looked at ({type(error).__name__}: {first})") from error


def _empty(source: str, folder: Path | None, trust_remote_code: bool) -> PreTrainedModel:
    """The model in eval mode, with nothing in its parameters."""
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
