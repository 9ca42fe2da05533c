"""How fast a model reads and writes, with nothing steered: what estimates of time come from."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from steerkit.speed import Speed, name_of

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

ROWS: Final = 8
TOKENS: Final = 64
STEPS: Final = 6
TIMES: Final = 3


def measure_speed(model: str, device: str = "auto", dtype: str = "auto") -> Speed:
    """Load a model and time a few passes, each the best of three.

    A pass is taken to take a constant, and more by each token that is read or row that is written: two sizes of each
    give the numbers.

    Raises:
        SteerkitError: where the model can't be loaded.
    """
    import torch

    from steerkit.session import load_model

    began = time.perf_counter()
    live = load_model(model, device=device, dtype=dtype)
    loading = time.perf_counter() - began
    one, many = (_best(partial(_write, live, rows)) / STEPS for rows in (1, ROWS))
    per_row = max((many - one) / (ROWS - 1), 0.0)
    per_pass = max(one - per_row, 0.0)
    reading = _best(partial(_read, live, ROWS))
    return Speed(
        name_of(model),
        live.device.type,
        str(live.model.dtype).removeprefix("torch."),
        torch.get_num_threads(),
        loading,
        per_pass,
        max(reading - per_pass, 0.0) / (ROWS * TOKENS),
        per_row,
        f"{datetime.now(UTC):%Y-%m-%d}",
    )


def _best(work: Callable[[], float]) -> float:
    work()
    return min(work() for _ in range(TIMES))


def _ids(live: LiveModel, rows: int, columns: int) -> Any:
    import torch

    drawn = torch.randint(live.n_embeddings, (rows, columns), generator=torch.Generator().manual_seed(0))
    return drawn.to(live.device)


def _timed(live: LiveModel, work: Callable[[], object]) -> float:
    import torch

    from steerkit.engine.sites.evaluating import evaluating

    def wait() -> None:
        if live.device.type == "cuda":
            torch.cuda.synchronize(live.device)

    with evaluating(live.hf_model):
        wait()
        began = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - began


def _read(live: LiveModel, rows: int) -> float:
    ids = _ids(live, rows, TOKENS)
    return _timed(live, lambda: live.hf_model(input_ids=ids, logits_to_keep=1))


def _write(live: LiveModel, rows: int) -> float:
    from steerkit.engine.sites.evaluating import evaluating

    with evaluating(live.hf_model):
        cache = live.hf_model(input_ids=_ids(live, rows, TOKENS // 2), use_cache=True, logits_to_keep=1).past_key_values
    token = _ids(live, rows, 1)

    def steps() -> None:
        for _ in range(STEPS):
            live.hf_model(input_ids=token, past_key_values=cache, use_cache=True)

    return _timed(live, steps)
