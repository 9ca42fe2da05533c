"""Whether a config and the weights beside it are of one model, told before a model is made that they don't fill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.checkpoints import EMBEDDINGS
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def require_widths(folder: Path, config: PreTrainedConfig) -> None:
    """Raise ``ModelError`` where the embedding in a folder's safetensors is of another width than its config says.

    A key that a ``config.json`` lacks has a default, so that a damaged one may be that of a model of gigabytes.
    """
    from safetensors import safe_open

    width = getattr(config.get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        return
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118  (no mapping)
                shape = held.get_slice(name).get_shape() if name.endswith(EMBEDDINGS) else []
                if len(shape) == 2 and width not in shape:
                    raise ModelError(
                        f"{folder} can't be loaded: its config.json gives a hidden_size of {width}, and the embedding "
                        f"in {file.name} is {shape[0]} × {shape[1]} ({name}): they are of two models, or the key is "
                        "lost. Copy or download both anew."
                    )
