"""One batch of steered and plain requests: greedy tokens as transformers', logits to 1e-3, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
from engine.cases import answers, requests
from engine.engines import ask, on_one_node, steered
from engine.results import keep

MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "chunked": {"max_num_batched_tokens": 32, "enable_chunked_prefill": True},
    # Room for a few of the requests: the others are put aside and computed again.
    "preempted": {"num_gpu_blocks_override": 20, "disable_log_stats": False},
    "compiled": {"enforce_eager": False},
    "tensor-parallel": {"tensor_parallel_size": 3},
}
CLOSE = 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_what_transformers_answers(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "tensor-parallel":
        on_one_node(monkeypatch)
    with steered(**MODES[mode]) as engine:
        found = ask(engine, requests())
        if mode == "preempted":
            counted = [one.value for one in engine.get_metrics() if one.name == "vllm:num_preemptions"]
            assert sum(counted) > 0, "nobody was put aside"
    worst = 0.0
    for one, request, expected in zip(found, requests(), answers(), strict=True):
        assert tuple(one.token_ids) == expected.tokens, request.condition
        for place, row in enumerate(one.logprobs):
            for token, logit in row.items():
                worst = max(worst, abs(logit.logprob - float(expected.logits[place, token])))
    keep(f"logits of 24 requests, {mode}", {"largest difference": worst})
    assert worst < CLOSE


def test_the_programs_matter() -> None:
    """So that equal answers mean something: every condition changes what is answered."""
    from engine.cases import Request, answer

    for one, expected in zip(requests()[:5], answers()[:5], strict=True):
        plain = answer(Request(one.ids, None))
        assert float((plain.logits[0] - expected.logits[0]).abs().max()) > 0.05 or plain.tokens != expected.tokens
