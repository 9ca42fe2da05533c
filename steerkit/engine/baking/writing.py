"""A model and its tokenizer as a folder that transformers reads."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError

from steerkit.engine.loading.modes import share_weights
from steerkit.engine.loading.quiet import quiet_transformers
from steerkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OS_ERROR: Final = re.compile(r"os error (\d+)")
_BESIDE_WEIGHTS: Final = 64 * 2**20
"""Bytes of tokenizer, config and the rest, at most."""


def bytes_of(model: PreTrainedModel) -> int:
    """How much the model's checkpoint takes at most; a head that is the embedding may be untied, so it counts."""
    tensors: dict[str, Tensor] = model.state_dict()
    return sum(one.numel() * one.element_size() for one in tensors.values()) + _BESIDE_WEIGHTS


def require_room(folder: Path, needed: int) -> None:
    """Raise ``ArtifactError`` where a disk has no room for so many bytes.

    Weights are written through memory that is mapped, so that a disk that fills up in between may end the process.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ArtifactError(
            f"The checkpoint takes about {_size(needed)}, and the disk of {folder} has {_size(free)} free. Free some "
            "space, or name a folder on another disk with --out."
        )


def write_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write config, weights, generation settings, and tokenizer with its chat template.

    Raises:
        OSError: as the system says.
        ArtifactError: where transformers doesn't write what it read.
    """
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        share_weights(folder)
    except SafetensorError as error:
        said = _OS_ERROR.search(str(error))
        if said is None:
            raise ArtifactError(f"The weights can't be written to {folder}: {error}") from error
        raise OSError(int(said[1]), os.strerror(int(said[1])), str(folder)) from error
    except ValueError as error:  # generation settings that contradict each other, which it reads and doesn't write
        raise ArtifactError(f"transformers doesn't write this model to {folder}: {error}") from error


def unread(model: PreTrainedModel, folder: Path) -> tuple[str, ...]:
    """Names of what a checkpoint holds and a model of the same class, made from its config, has no place for.

    transformers leaves it out with no more than a note, and so do other engines. The model is built once more without
    memory.
    """
    with quiet_transformers():
        loaded: Any = type(model).from_pretrained(
            folder, device_map="meta", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    return tuple(sorted(loaded[1]["unexpected_keys"]))


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
