"""llama.cpp steers as steerkit does: control vectors through its own loader, and folded checkpoints through its script.

``make test-llamacpp`` runs them, in an environment of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import steerkit
from steerkit.api.intervention import Placement
from steerkit.errors import ArtifactError
from tests.formats.control_vectors import written

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel
    from tests.llamacpp.engine import Engine

pytestmark = pytest.mark.llamacpp
SOURCE = "smollm2-135m-instruct"
PROMPT = "The weather in London in November is"
N_TOKENS = 16
EXACT = 1e-4
"""Largest difference of two logits, of which the largest is 35."""


@pytest.fixture(scope="module")
def live() -> LiveModel:
    torch.set_num_threads(1)
    return steerkit.load_model(SOURCE, dtype="float32")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from steerkit.engine.loading.fetch import fetch
    from tests.llamacpp.engine import Engine, converted

    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    made = Engine(converted(fetch(SOURCE), path))
    path.unlink()  # it is mapped, and takes half a gigabyte
    yield made
    made.close()


@pytest.fixture(scope="module")
def norm(live: LiveModel) -> dict[int, float]:
    """How long the stream is at the output of each block."""
    ids = live.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        states = live.model(ids, output_hidden_states=True).hidden_states
    return {block: float(states[block + 1][0].norm(dim=-1).median()) for block in range(len(states) - 2)}


def vector(seed: int, length: float) -> torch.Tensor:
    drawn = torch.randn(1, 576, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm() * length


def require_same(live: LiveModel, engine: Engine, *placements: Placement) -> np.ndarray:
    """The engine chooses the tokens that the hooked model chooses, by the same logits, ``[n_tokens, vocab]``."""
    ids = live.tokenizer(PROMPT).input_ids
    chosen, found = engine.greedy(ids, N_TOKENS)
    with torch.no_grad(), live.steer(*placements, mode="hook") if placements else nullcontext():
        logits = live.forward(torch.tensor([[*ids, *chosen[:-1]]])).logits[0, len(ids) - 1 :].numpy()
    assert logits.argmax(-1).tolist() == chosen
    assert np.abs(logits - found).max() < EXACT
    return found


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """KL of two next-token distributions, in nats."""
    first, second = (torch.log_softmax(torch.from_numpy(row).double(), -1) for row in (one, other))
    return float((first.exp() * (first - second)).sum())


def steer(engine: Engine, path: Path) -> np.ndarray:
    from tests.llamacpp.engine import loaded

    code, rows = loaded(path)
    assert code == 0 and rows is not None and engine.control(rows) == 0
    return rows


def test_the_model_is_the_same(live: LiveModel, engine: Engine) -> None:
    require_same(live, engine)


@pytest.mark.parametrize("block", [9, 10, 11, 29])
def test_a_control_vector_acts_at_the_output_of_its_block(
    block: int, live: LiveModel, engine: Engine, norm: dict[int, float], tmp_path: Path
) -> None:
    length = 0.3 * norm[min(block, 28)]
    direction = steerkit.Direction(vector(block, length), f"blocks.{block}.resid_post", name="d")
    steerkit.save_directions(tmp_path / "v.gguf", direction, format="gguf")
    rows = steer(engine, tmp_path / "v.gguf")
    assert rows.shape == (block, 576) and not rows[:-1].any()
    try:
        there = require_same(live, engine, steerkit.add(direction, sites=str(direction.site)))
        for other in (block - 1, block + 1) if block < 29 else ():
            moved = np.zeros((other, 576), np.float32)
            moved[-1] = direction.vectors[0].numpy()
            engine.control(moved)
            elsewhere = engine.greedy(live.tokenizer(PROMPT).input_ids, 1)[1]
            assert divergence(there[0], elsewhere[0]) > 0.05, f"block {other} does what block {block} does"
    finally:
        engine.control(None)


def test_a_condition_that_adds_at_several_places_is_exported(
    live: LiveModel, engine: Engine, norm: dict[int, float], tmp_path: Path
) -> None:
    from steerkit.api.program import ProgramModel
    from steerkit.exporting.gguf import write_gguf
    from steerkit.exporting.lowered import program_of

    one = steerkit.Direction(vector(1, norm[9]), "blocks.10.resid_pre", name="one")
    other = steerkit.Direction(vector(2, norm[20]), "blocks.20.resid_post", name="other")
    placements = (
        steerkit.add(one, coefficient=0.2),
        steerkit.add(one, coefficient=-0.05, sites="blocks.9.resid_post"),
        steerkit.add(other, coefficient=0.2),
    )
    program = program_of(placements, live.layout, ProgramModel("llama", 30, 576), "several")
    (tmp_path / "v.gguf").write_bytes(write_gguf(program).content)
    assert steer(engine, tmp_path / "v.gguf").shape == (20, 576)
    try:
        require_same(live, engine, *placements)
    finally:
        engine.control(None)


@pytest.mark.parametrize(
    "rows",
    [
        {"direction.0": np.ones(576, np.float32), "direction.9": np.ones(576, np.float32)},
        {"direction.9": np.ones(576, np.float16)},
        {"direction.9": np.ones(576, np.float32), "direction.10": np.ones(64, np.float32)},
        {"direction.9": np.ones((2, 288), np.float32)},
        {"direction.9": np.ones(576, np.float32), "mean": np.ones(576, np.float32)},
    ],
)
def test_what_its_loader_drops_our_reader_refuses(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    from tests.llamacpp.engine import loaded

    path = written(tmp_path / "v.gguf", rows)
    assert loaded(path) == (1, None)
    with pytest.raises(ArtifactError):
        steerkit.load_directions(path, convention="repeng")


def test_a_vector_of_another_width_is_refused_by_the_engine(engine: Engine) -> None:
    assert engine.control(np.ones((9, 64), np.float32)) != 0
    engine.control(None)


CONDITIONS = {
    "added": lambda norm: (
        steerkit.add(steerkit.Direction(vector(3, 0.2 * norm[9]), "blocks.9.resid_post", name="a")),
        steerkit.add(steerkit.Direction(vector(4, 0.05 * norm[12]), "blocks.12.attn_out", name="b")),
    ),
    "ablated": lambda norm: (steerkit.ablate(steerkit.Direction(vector(5, 1.0), "blocks.10.resid_pre", name="c")),),
}


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_a_folded_checkpoint_is_converted_with_its_biases(name: str, norm: dict[int, float], tmp_path: Path) -> None:
    from steerkit.engine.baking.folding import Baking
    from steerkit.engine.baking.writing import write_checkpoint
    from steerkit.engine.runtime.blocks import Group
    from tests.llamacpp.engine import Engine, converted

    live = steerkit.load_model(SOURCE, dtype="float32")
    placements = CONDITIONS[name](norm)
    program = live.steering.explained(Group(placements, "fold"))
    assert program.folds and not program.slots
    baked = steerkit.load_model(SOURCE, dtype="float32")
    change = Baking.of(baked.model, program.folds).put()
    assert len(change.biases) == {"added": 2, "ablated": 0}[name]
    write_checkpoint(baked.model, baked.tokenizer, tmp_path / "baked")
    engine = Engine(converted(tmp_path / "baked", tmp_path / "baked.gguf"))
    try:
        require_same(live, engine, *placements)
    finally:
        engine.close()
