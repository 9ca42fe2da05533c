"""Many conditions in one batch, on layers of vLLM's shape: each row's logits are the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch

import steerkit
from steerkit.api.direction import Direction
from steerkit.api.monitor import Monitor
from steerkit.engine.sites.taps import register_tap
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from steerkit_vllm.settings import Settings
from tests.conftest import tiny_live
from tests.steerkit_vllm.served import Row, Served

TOLERANCE = 1e-5
TURNS = (("user", 2, 6),)


def direction(live: LiveModel, seed: int, site: str = "blocks.1.resid_pre", rank: int = 1) -> Direction:
    vectors = torch.randn(rank, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vectors, site, name=f"d{seed}", reference_mean=torch.ones(live.layout.d_model) * 0.1)


def ids(seed: int, length: int) -> list[int]:
    found: list[int] = torch.randint(6, 262, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def conditions(live: LiveModel) -> dict[str, Any]:
    """Everything that programs can say, by name."""
    add, ablate = steerkit.add, steerkit.ablate
    one, two, wide = direction(live, 1), direction(live, 2), direction(live, 3, rank=2)
    ace = steerkit.intervention("affine_concept_editing", one, sites=["blocks.2.resid_pre"])
    return {
        "ablate": ablate(one),
        "ablate a plane": ablate(wide),
        "add": add(two, coefficient=2.0),
        "affine": ace,
        "embed": add(one, sites="embed", coefficient=3.0),
        "middle": [ablate(one, sites="blocks.1.resid_mid"), add(two, sites="blocks.0.resid_mid", positions="prompt")],
        "everywhere": [ablate(one, sites=f"blocks.*.{stream}") for stream in ("attn_out", "mlp_out", "resid_post")],
        "prompt": ablate(one, positions="prompt", sites="blocks.*.resid_post"),
        "generated": add(two, positions="generated[:2]", coefficient=2.0),
        "last": add(two, positions="last", coefficient=2.0),
        "explicit": ablate(wide, positions=[0, 3, -2], sites="blocks.1.mlp_out"),
        "user": add(two, positions="instruction", coefficient=2.0),
        "behind the user": ablate(one, positions="post_instruction[:2]"),
        "fading": ablate(one, schedule="linear(1, 0, 3)", sites="blocks.*.resid_post"),
        # Where two updates meet at a token, what the second one reads has been changed by the first.
        "meeting": [add(two, positions="[2:]", coefficient=2.0), ablate(wide, sites="blocks.1.resid_pre")],
        "three": [
            ablate(direction(live, 4), positions="[1:]", sites="blocks.1.resid_post"),
            add(two, positions="[:5]", sites="blocks.1.resid_post", coefficient=2.0),
            ablate(wide, schedule="exponential(0.5)", sites="blocks.1.resid_post"),
        ],
        "again": [
            ablate(one, schedule="[0.5, 0.25]", sites="blocks.1.resid_post"),
            add(two, positions="prompt", sites="blocks.1.resid_post"),
            ablate(one, schedule="[0.5, 0.25]", sites="blocks.1.resid_post"),
        ],
    }


def rows_of(live: LiveModel) -> list[Row]:
    """One row of every condition, each second one followed by a plain one."""
    rows = []
    for number, condition in enumerate(conditions(live).values()):
        rows.append(Row(ids(number, 9 + number % 4), 8, condition, TURNS))
        if number % 2:
            rows.append(Row(ids(100 + number, 10), 8, None))
    return rows


@pytest.fixture(params=["llama", "qwen3", "gemma2"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return tiny_live(request.param)


@pytest.fixture
def served(live: LiveModel) -> Iterator[Served]:
    found = Served(live, len(rows_of(live)), Settings(slots=48, rows=64))
    yield found
    found.close()


def test_every_row_gets_its_own_condition(served: Served) -> None:
    rows = rows_of(served.live)
    served.add(rows)
    found = served.logits(rows)
    plain = Served(served.live, len(rows))
    try:
        unsteered = plain.logits(rows)
    finally:
        plain.close()
    for row, got, without in zip(rows, found, unsteered, strict=True):
        wanted = row.wanted(served.live)
        assert (got - wanted).abs().max() < TOLERANCE * max(1.0, float(wanted.abs().max())), row.condition
        if row.condition is None:
            assert got.equal(without)  # to the bit: other requests' programs are nothing to it
        else:
            assert (got - without).abs().max() > 1e-3, row.condition


def test_a_graph_that_was_traced_before_anything_was_loaded() -> None:
    # A model of its own: transformers leaves hooks on one that was asked for its hidden states, which no graph takes.
    live = steerkit.wrap(tiny_model("llama"), tiny_tokenizer())
    rows = rows_of(live)[:4]
    served = Served(live, len(rows), Settings(slots=8))
    try:
        served.forward = torch.compile(served.model, backend="eager", fullgraph=True)
        before = served.logits(rows)
        runs = {site: place.runs for site, place in served.bank.places.items()}
        assert all(runs.values())
        served.add(rows)
        for row, got, plain in zip(rows, served.logits(rows), before, strict=True):
            wanted = row.wanted(live)
            assert (got - wanted).abs().max() < TOLERANCE * max(1.0, float(wanted.abs().max()))
            assert row.condition is None or (got - plain).abs().max() > 1e-3
        assert all(place.runs > runs[site] for site, place in served.bank.places.items())
    finally:
        served.close()
        torch._dynamo.reset()


def test_readings_are_those_of_the_engine(live: LiveModel) -> None:
    """What a monitor reads beside an edit, and not of plain requests beside it."""
    steer = steerkit.add(direction(live, 2), coefficient=2.0)
    monitors = [
        Monitor(
            "late", direction(live, 5), 0.0, sites=tuple(map(Site.parse, ("blocks.2.resid_post", "blocks.1.resid_pre")))
        ),
        Monitor("early", direction(live, 6, "embed"), 0.0, "below", positions=Positions("generated")),
    ]
    rows = [Row(ids(1, 10), 8, steer), Row(ids(2, 7), 6, steer)]
    served = Served(live, 2)
    try:
        served.add(rows, read=True, monitors=monitors)
        served.logits(rows)
        for number, row in enumerate(rows):
            told = served.requests.take_readings(f"tag-{number}")
            wanted = _literal_readings(live, row, monitors)
            assert told["late"]["first"] == 0 and told["early"]["first"] == row.prompt
            assert told["late"]["values"] == pytest.approx(wanted["late"], abs=1e-4)
            assert told["early"]["values"] == pytest.approx(wanted["early"][row.prompt :], abs=1e-4)
    finally:
        served.close()


def _literal_readings(live: LiveModel, row: Row, monitors: list[Monitor]) -> dict[str, list[float]]:
    seen: dict[Site, torch.Tensor] = {}
    with live.steer(row.condition), ExitStack() as stack, torch.no_grad():
        for site in (site for monitor in monitors for site in monitor.read_at):
            keep = partial(seen.__setitem__, site)
            stack.callback(register_tap(live.model, live.layout.tap(site), keep).remove)
        live.forward(torch.tensor([row.ids]), prompt_lengths=[row.prompt])
    found = {}
    for monitor in monitors:
        vector = monitor.direction.vectors[0] / monitor.direction.vectors[0].norm()
        values = torch.stack([seen[site][0] @ vector for site in monitor.read_at])
        found[monitor.name] = (values.max(0) if monitor.side == "above" else values.min(0)).values.tolist()
    return found
