"""A base model and a LoRA adapter made one model, as an ordinary transformers folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from steerkit.engine.loading.modes import share_weights
from steerkit.engine.loading.quiet import quiet_transformers
from steerkit.errors import ModelError


def merge_adapter(base: Path, adapter: Path, folder: Path) -> None:
    """Add an adapter's updates to the weights of its base, in float32, and write the sum with the base's tokenizer.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter, as peft writes it.
        folder: where the model goes; made new.

    Raises:
        ModelError: where the adapter isn't one of the base.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), warnings.catch_warnings():
        # peft asks transformers for a property that the newer of them calls otherwise.
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        try:
            merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"The adapter in {adapter} can't be merged into {base}: {error}") from error
        merged.save_pretrained(folder)
        share_weights(folder)
        AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(folder)
