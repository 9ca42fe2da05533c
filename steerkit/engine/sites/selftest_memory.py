"""Self-tests that were passed before, so that a model is tested once and not at every start.

What the test looks at is all in the key: weights, config, layout, dtype, device, the versions that run the model, and
the code of the test. A failure is never remembered.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.bundled import cache_folder
from steerkit.engine.loading.configs import config_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.api.architecture import Layout


def require_tested(model: PreTrainedModel, layout: Layout, weights_hash: str | None, adapter: str) -> None:
    """Run the self-test, unless this very model passed it before.

    Raises:
        SelfTestError: where the model isn't what its adapter declares.
    """
    # Code that came with a checkpoint, and a model from memory, have nothing that tells them apart for certain.
    stock = type(model).__module__.startswith("transformers.")
    key = key_of(model, layout, weights_hash) if stock and weights_hash else None
    if key is not None and passed_before(key):
        return
    from steerkit.engine.sites.selftest import self_test

    self_test(model, layout, adapter=adapter).raise_if_failed()
    if key is not None:
        remember_passed(key)


def key_of(model: PreTrainedModel, layout: Layout, weights_hash: str) -> str:
    """Everything that the outcome of a self-test depends on, as one hash.

    Args:
        model: on its device, in its dtype.
        layout: as its adapter declares it.
        weights_hash: of the files that it was loaded from.
    """
    import torch
    import transformers

    facts = {
        "weights": weights_hash,
        "config": config_values(model.config),
        "attention": getattr(model.config, "_attn_implementation", None),
        "layout": asdict(layout),
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "code": _hash_of_code(),
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def passed_before(key: str) -> bool:
    """Whether the test with this key was passed on this machine."""
    return _file_of_passed(key).is_file()


def remember_passed(key: str) -> None:
    """Write down that it was passed. Where nothing can be written, the next start tests again."""
    path = _file_of_passed(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return


def _file_of_passed(key: str) -> Path:
    return cache_folder() / "selftests" / key


@cache
def _hash_of_code() -> str:
    """Hash of the engine's source, which holds the test and what it runs through."""
    digest = sha256()
    engine = Path(__file__).parents[1]
    for path in sorted(engine.rglob("*.py")):
        digest.update(f"{path.relative_to(engine).as_posix()} {os.stat(path).st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
