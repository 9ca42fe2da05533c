"""What an engine must be for its requests to be steered, asked before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from steerkit.errors import SteerkitError
from steerkit_vllm.settings import KEY, settings_of

_READINGS: Final = 1024
"""Kept until they are fetched, which is when an answer is sent: more than requests are answered at a time."""

WORKERS: Final = {
    True: "steerkit_vllm.worker.SteeredCPUWorker",
    False: "steerkit_vllm.worker.SteeredWorker",
}
"""vLLM's ``worker_cls``, by whether it runs on the CPU."""


def folder_of(source: str) -> str:
    """Where a model is: the folder of one in steerkit's cache, named as in recipes; any other as vLLM finds it.

    Raises:
        SteerkitError: for a bundled model that isn't in the cache.
    """
    from steerkit.bundled import BUNDLED, bundled_folder

    if source not in BUNDLED:
        return source
    folder = bundled_folder(source)
    if folder is None:
        raise SteerkitError(f"{source} isn't in the cache. Run steerkit fetch {source} first.")
    return str(folder)


def engine_settings(
    worker_cls: str, additional_config: Mapping[str, Any] | None, most: int, *, cpu: bool | None = None
) -> tuple[str, dict[str, Any]]:
    """``worker_cls`` and ``additional_config`` of a steered engine.

    Args:
        worker_cls: as it was asked for.
        additional_config: as it was asked for; what it holds under ``steerkit`` stays.
        most: how many programs there is to be room for.
        cpu: whether it runs on the CPU; None: ask vLLM.

    Raises:
        SteerkitError: for another worker class, or settings that aren't any.
    """
    if cpu is None:
        from vllm.platforms import current_platform

        cpu = bool(current_platform.is_cpu())
    wanted = WORKERS[cpu]
    if worker_cls not in ("auto", wanted):
        raise SteerkitError(f"Steering needs a worker of its own, {wanted}. Leave --worker-cls out.")
    # Weights are filled in vLLM's first model runner; who asks for the second one is told so when the engine starts.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    told = dict(additional_config or {})
    own = dict(told.get(KEY) or {})
    own["gated"] = True
    # Most programs take one; one that acts at several kinds of tokens takes more.
    own.setdefault("slots", min(2 * most, 256))
    own.setdefault("readings", _READINGS)
    told[KEY] = own
    settings_of(told)
    return wanted, told


def require_alone(told: Mapping[str, Any]) -> None:
    """Refuse what isn't steered, or would leave requests unsteered.

    Args:
        told: vLLM's arguments, by name.

    Raises:
        SteerkitError: naming it, with what to do.
    """
    several = {
        "several API servers (--api-server-count)": "api_server_count",
        "data parallelism (--data-parallel-size)": "data_parallel_size",
        "pipeline parallelism (--pipeline-parallel-size)": "pipeline_parallel_size",
    }
    found = [what for what, name in several.items() if (told.get(name) or 1) > 1]
    found += ["speculative decoding (--speculative-config)"] if told.get("speculative_config") else []
    found += ["handing caches to other engines (--kv-transfer-config)"] if told.get("kv_transfer_config") else []
    if found:
        raise SteerkitError(f"Steered requests aren't served with {found[0]}. Leave it out.")
