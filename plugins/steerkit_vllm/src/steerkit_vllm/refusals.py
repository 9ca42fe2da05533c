"""What an engine is refused for when it starts: where a request could be served otherwise than it asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from steerkit.errors import AttachError
from steerkit_vllm.settings import settings_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig

FIRST, BEHIND = "0.32", "0.33"
"""The versions of vLLM whose runner and layers were read: from the one on, below the other."""


def require_engine(config: VllmConfig) -> None:
    """Raise ``AttachError`` for a version, a runner or a feature under which steering isn't known to be exact."""
    import vllm

    if not Version(FIRST) <= Version(vllm.__version__) < Version(BEHIND):
        raise AttachError(
            f"steerkit-vllm knows vLLM {FIRST} up to {BEHIND}, and this is {vllm.__version__}. Install one of those, "
            "or bake the condition into a checkpoint (steerkit bake)."
        )
    parallel = config.parallel_config
    features = {
        "speculative decoding": config.speculative_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": max(parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size) > 1,
        "batches that are cut in two (dual batch overlap)": parallel.use_ubatching,
        "encoder-decoder models": bool(config.model_config.is_encoder_decoder),
    }
    for name, is_there in features.items():
        if is_there:
            raise AttachError(f"steerkit-vllm can't steer with {name}. Start the engine without it.")
    if config.cache_config.enable_prefix_caching and not settings_of(config.additional_config).gated:
        raise AttachError(
            "Requests with different programs would share what was computed of a common beginning, since nobody salts "
            "this engine's prefix cache. Start it with python -m steerkit_vllm.serve, as "
            "steerkit_vllm.offline.SteeredLLM, or without the cache (enable_prefix_caching=False)."
        )
    if config.use_v2_model_runner:
        raise AttachError(
            "steerkit-vllm fills its weights in vLLM's first model runner. Start the engine with "
            "VLLM_USE_V2_MODEL_RUNNER=0."
        )
