"""What preparation and steering cost: engines that take turns on the same batches, as ratios with intervals."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from engine.cases import Request, model
from engine.engines import params, plain, steered
from engine.results import keep

from steerkit.intervals import t_quantile

ROUNDS = 10
BATCH = 16
NEW = 24
LEAST = 0.9


def interval(ratios: list[float]) -> dict[str, float]:
    """The geometric mean of paired ratios with its 95% interval."""
    logs = np.log(ratios)
    reach = float(t_quantile(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5)
    middle = float(logs.mean())
    return {"ratio": float(np.exp(middle)), "low": float(np.exp(middle - reach)), "high": float(np.exp(middle + reach))}


def rate(engine: Any, condition: str | None, round_: int) -> float:
    """Tokens per second of one batch, whose prompts nobody has cached."""
    ids = model().tokenizer("My favourite season is the one in which")["input_ids"]
    batch = [Request((round_ * BATCH + row + 50, *ids), condition) for row in range(BATCH)]
    prompts = [{"prompt_token_ids": list(one.ids)} for one in batch]
    told = [params(one, new=NEW, logprobs=None) for one in batch]
    start = time.perf_counter()
    found = engine.generate(prompts, told, use_tqdm=False)
    seconds = time.perf_counter() - start
    return sum(len(one.outputs[0].token_ids) for one in found) / seconds


def test_what_is_prepared_is_nearly_as_fast_as_vllm() -> None:
    with ExitStack() as stack:
        bare, ready = stack.enter_context(plain()), stack.enter_context(steered())
        arms = {"plain": (bare, None), "prepared": (ready, None)}
        arms |= {"one vector": (ready, "warm"), "ablating": (ready, "without")}
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for round_ in range(-1, ROUNDS):
            # Every second round the other way round, so that none is always the first.
            for name, (engine, condition) in list(arms.items())[:: 1 if round_ % 2 else -1]:
                found = rate(engine, condition, round_ + 1)
                if round_ >= 0:
                    rates[name].append(found)
    against = {
        name: interval([one / base for one, base in zip(rates[name], rates["plain"], strict=True)])
        for name in arms
        if name != "plain"
    }
    median = {name: float(np.median(found)) for name, found in rates.items()}
    keep("throughput", {"batch": BATCH, "rounds": ROUNDS, "tokens per second": median, "against plain": against})
    assert against["prepared"]["ratio"] >= LEAST
