"""Engines that are started, asked and stopped, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from engine.cases import MODEL, NEW, TOP, Request, programs
from vllm import LLM, SamplingParams

from steerkit_vllm.offline import SteeredLLM
from steerkit_vllm.starting import folder_of

COMMON: dict[str, Any] = {
    "dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 24, "block_size": 32,
    "logprobs_mode": "raw_logits", "max_logprobs": TOP, "kv_cache_memory_bytes": 2**28, "seed": 0,
}  # fmt: skip
"""What all of them are started with. ``raw_logits`` makes what vLLM calls logprobs the model's own logits."""


def on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let several workers run on one memory node: vLLM would give each a node of its own."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@contextmanager
def steered(**kwargs: Any) -> Iterator[SteeredLLM]:
    """A steered engine with the five programs."""
    engine = SteeredLLM(MODEL, programs=programs(), max_programs=8, **COMMON | kwargs)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()


@contextmanager
def plain(**kwargs: Any) -> Iterator[LLM]:
    """vLLM as it is."""
    engine = LLM(folder_of(MODEL), **COMMON | kwargs)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()


def params(request: Request, new: int = NEW, **kwargs: Any) -> SamplingParams:
    """Greedy, with the largest logits."""
    extra = None if request.condition is None else {"steer": request.condition}
    told = {"logprobs": TOP, "ignore_eos": True} | kwargs
    return SamplingParams(temperature=0.0, max_tokens=new, extra_args=extra, **told)


def ask(engine: LLM, requests: Sequence[Request], **kwargs: Any) -> list[Any]:
    """The completions of a batch."""
    prompts = [{"prompt_token_ids": list(one.ids)} for one in requests]
    found = engine.generate(prompts, [params(one, **kwargs) for one in requests], use_tqdm=False)
    return [one.outputs[0] for one in found]
