"""GGUF files as ordinary transformers models: every weight written out in full, nothing left of the quantiser."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import quantization_config

from steerkit.checkpoints import gguf_fault
from steerkit.engine.loading.gguf_tokenizer import read_tokenizer
from steerkit.engine.loading.modes import share_weights
from steerkit.engine.loading.quiet import quiet_transformers
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Read a GGUF file's weights, written out in ``dtype``, and its tokenizer.

    Raises:
        ModelError: where the file is damaged, or of an architecture that transformers can't read from GGUF.
    """
    require_gguf(path)
    arguments: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        # The reader of some versions draws its bar whatever the settings say.
        with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
            tokenizer = read_tokenizer(path)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, **arguments, **_unpacked(), dtype=dtype, output_loading_info=True
            )
    except MemoryError:
        raise
    except Exception as error:  # the reader raises whatever the bytes led it to
        raise ModelError(
            f"{path} can't be read as GGUF: {type(error).__name__}: {error}. If the file is whole (compare its "
            "sha256 with the source's), use the original model's safetensors folder instead."
        ) from error
    model, missing = loaded[0], sorted(loaded[1]["missing_keys"])
    if missing:
        raise ModelError(f"{path} lacks weights of its architecture: {', '.join(missing[:5])}.")
    _forget_quantiser(model)
    return model, tokenizer


def require_gguf(path: Path) -> None:
    """Raise ``ModelError`` unless the file begins as a GGUF does."""
    fault = gguf_fault(path)
    if fault is not None:
        raise ModelError(fault)


def dequantise(gguf: Path, folder: Path, name: str) -> None:
    """Write a GGUF file as a transformers folder: config, tokenizer, and safetensors in float32.

    float32 because a block's value is ``scale * q + minimum`` with 16-bit factors: no 16-bit type holds the
    product, and a cache that rounds it would be another model than the GGUF.
    """
    model, tokenizer = read_gguf(gguf)
    model.config._name_or_path = name
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size="8GB")
        share_weights(folder)
        tokenizer.save_pretrained(folder)
    # Without indentation it is read in two thirds of the time; transformers reads it four times over.
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _unpacked() -> dict[str, Any]:
    """Newer versions of transformers may keep the weights packed, unless told."""
    config = getattr(quantization_config, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _forget_quantiser(model: Any) -> None:
    """The weights are plain tensors now. The mark would keep ``save_pretrained`` and ``.to(dtype)`` from working."""
    for holder, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if name in vars(holder):
            delattr(holder, name)
    model.is_quantized = False
