"""bfloat16: lowered programs are as exact as literal hooks, both against the oracle in float32."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.intervention import Affine
from steerkit.engine.sites.taps import register_tap
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.testing import oracle_logits
from tests.engine.conditions import Given, vectors

LOW_PRECISION = [(name, seed) for seed in range(5) for name in ("llama", "qwen2", "qwen3", "gemma")]


def low_precision_conditions(width: int) -> dict[str, list[tuple[str, Affine]]]:
    """What people do, as edits by stream: ``(stream, update)``, at every layer that has it."""
    v = torch.nn.functional.normalize(vectors(width, 1, 1), dim=1)
    rows = torch.linalg.qr(vectors(width, 3, 2).T)[0].T.contiguous()
    writers = ("embed", "attn_out", "mlp_out")
    shift = Affine(bias=3 * v[0])
    ablation = [(stream, Affine(-v, v)) for stream in writers]
    return {
        "add": [("resid_pre", shift)],
        "ablate": ablation,
        "ablate rank 3": [(stream, Affine(-rows, rows)) for stream in writers],
        "ablate, add": [*ablation, ("resid_post", Affine(bias=rows[0] * 2))],
    }


def by_hand(edit: Affine, x: Tensor) -> Tensor:
    """An edit as people write it in a hook."""
    if edit.bias is not None:
        return x + edit.bias.to(x.dtype)
    assert edit.reads is not None and edit.writes is not None
    rows = edit.writes.to(x.dtype)
    return x - (x @ rows.T) @ rows


def errors_in_bfloat16(model_type: str, seed: int, mode: Any) -> dict[str, float]:
    """Per condition: RMS error of the lowered logits over that of literal hooks, both against a float32 oracle."""
    model = tiny_model(model_type, seed=seed, n_layers=4, dtype=torch.bfloat16)
    live = wrap(model, tiny_tokenizer(), self_test=False)
    exact = wrap(copy.deepcopy(model).float(), tiny_tokenizer(), self_test=False)
    ids = torch.randint(70, 90, (3, 12), generator=torch.Generator().manual_seed(seed))
    ratios = {}
    for name, edits in low_precision_conditions(live.layout.d_model).items():
        placed = [(site, edit) for stream, edit in edits for site in live.layout.sites_of(stream)]
        condition = [Given({str(site): edit}) for site, edit in placed]
        expected = torch.stack([oracle_logits(exact, row, condition) for row in ids])
        with torch.no_grad(), ExitStack() as stack:
            for site, edit in placed:
                handle = register_tap(model, live.layout.tap(site), partial(by_hand, edit))
                stack.callback(handle.remove)
            literal = model(input_ids=ids).logits
        with torch.no_grad(), live.steer(*condition, mode=mode):
            lowered = live.forward(ids).logits
        assert lowered.dtype == torch.bfloat16
        far, near = (float((logits.float() - expected).pow(2).mean().sqrt()) for logits in (lowered, literal))
        ratios[name] = far / near
    return ratios


@pytest.mark.parametrize("mode", ["hook", "fold"])
def test_bfloat16_is_as_exact_as_literal_hooks(mode: Any) -> None:
    """Median over models of the ratio of errors at most 1.1, and none above 2."""
    found = [errors_in_bfloat16(name, seed, mode) for name, seed in LOW_PRECISION]
    for condition in found[0]:
        ratios = sorted(ratio[condition] for ratio in found)
        report = f"{mode}, {condition}: {[f'{ratio:.2f}' for ratio in ratios]}"
        assert median(ratios) <= 1.1 and ratios[-1] <= 2, report
