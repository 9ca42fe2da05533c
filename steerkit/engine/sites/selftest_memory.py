"""Self-tests that were passed before, so that a model is tested once and not at every start.

What the test looks at is all in the key: weights, config, layout, dtype, device, the versions that run the model, and
the code of the test. That nothing of a layout passed is never remembered.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from steerkit.bundled import cache_folder
from steerkit.engine.loading.configs import config_values
from steerkit.engine.loading.placed import facts_of_placement
from steerkit.engine.parallel.shards import shares_in_words
from steerkit.engine.sites.behaviours import Behaviours

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.api.architecture import Layout


@dataclass(frozen=True)
class Passed:
    """What a self-test came to.

    Args:
        behaviours: of the model.
        failed: names of the checks that failed before, of the layout as declared first and then of what was left of it;
            empty where it passed as it was.
    """

    behaviours: Behaviours
    failed: tuple[frozenset[str], ...] = ()


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
        "shares": shares_in_words(model),
        "placement": facts_of_placement(model).to_json(),
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "code": _hash_of_code(),
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def passed_before(key: str) -> Passed | None:
    """What the test with this key came to when it was passed on this machine; None where it wasn't."""
    try:
        told = json.loads(_file_of_passed(key).read_text("utf-8"))
        return Passed(Behaviours(**told["behaviours"]), tuple(map(frozenset, told["failed"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_passed(key: str, passed: Passed) -> None:
    """Write down that it was passed. Where nothing can be written, the next start tests again."""
    told = {"behaviours": asdict(passed.behaviours), "failed": [sorted(names) for names in passed.failed]}
    path = _file_of_passed(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be reading it: it sees all or nothing.
        with NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
            file.write(json.dumps(told))
        os.replace(file.name, path)
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
