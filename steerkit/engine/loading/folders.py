"""What a model's folder says without its weights being read into memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.bundled import BUNDLED, bundled_folder
from steerkit.checkpoints import has_tokenizer
from steerkit.engine.loading.qwen1_config import is_qwen1
from steerkit.engine.loading.weights import hash_of_files
from steerkit.sources import TINY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def folder_of(source: str) -> Path | None:
    """The folder that a source is loaded from as it lies there; None where it is made, fetched or translated first."""
    if source.startswith(TINY):
        return None
    folder = bundled_folder(source) if source in BUNDLED else Path(source).expanduser()
    if folder is None or not folder.is_dir():
        return None
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None  # the load will say what is wrong
    return None if not isinstance(config, dict) or is_qwen1(config) else folder.resolve()


def hashes_of(folder: Path) -> list[tuple[str, str | None]]:
    """Every file of a folder by its path there, with a hash of its bytes; each is read once for each of its states."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), hash_of_files([path])) for path in files]


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder, as it is loaded with the weights; None where it has none.

    Raises:
        ModelError: where it can't be read.
    """
    from transformers import AutoTokenizer

    from steerkit.engine.loading.hub import explained
    from steerkit.engine.loading.quiet import quiet_transformers

    if not has_tokenizer(folder):
        return None
    with explained(str(folder), local=True), quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    return tokenizer
