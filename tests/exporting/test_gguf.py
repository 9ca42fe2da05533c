"""Conditions as control vectors: what is added by hand from the file is what the condition is defined to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

import steerkit
from steerkit.api.intervention import Placement
from steerkit.api.program import Program, ProgramModel, ProgramMonitor
from steerkit.errors import AttachError
from steerkit.exporting import export
from steerkit.exporting.gguf import write_gguf
from steerkit.exporting.lowered import program_of
from steerkit.types import Site
from tests.baking.common import CONDITIONS, recipe_of, run_of, saved_model
from tests.conftest import tiny_live
from tests.formats.control_vectors import IDS, shifted

LATE = steerkit.Direction(
    torch.randn(1, 32, generator=torch.Generator().manual_seed(1)), "blocks.2.resid_pre", name="d"
)


def program(*placements: Placement, prompt: str | None = None) -> Program:
    layout = tiny_live("llama").layout
    model = ProgramModel("llama", layout.n_layers, layout.d_model)
    return program_of(placements, layout, model, "c", system_prompt=prompt)


def numbers(path: Path) -> dict[int, np.ndarray]:
    """What llama.cpp adds at the output of each block."""
    return {int(tensor.name.split(".")[1]): np.array(tensor.data) for tensor in GGUFReader(path).tensors}


def defined(*placements: Placement) -> torch.Tensor:
    live = tiny_live("llama")
    with torch.no_grad(), live.steer(*placements, mode="interpret"):
        found: torch.Tensor = live.forward(IDS).logits
    return found


@pytest.mark.parametrize(
    "placements",
    [
        (steerkit.add(LATE, coefficient=2.0),),
        (steerkit.add(LATE, coefficient=2.0), steerkit.add(LATE, coefficient=-0.5, sites="blocks.1.resid_post")),
        (steerkit.add(LATE, coefficient=3.0, sites=["blocks.2.resid_post", "blocks.2.resid_pre"]),),
    ],
)
def test_what_is_added_by_hand_is_the_condition(placements: tuple[Placement, ...], tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    path.write_bytes(write_gguf(program(*placements)).content)
    wanted, plain = defined(*placements), shifted(IDS, {})
    assert (wanted - plain).abs().max() > 0.01
    assert torch.allclose(shifted(IDS, numbers(path)), wanted, atol=1e-5)
    assert steerkit.load_directions(path)["c"].positions.role == "all"


@pytest.mark.parametrize(
    ("placements", "said"),
    [
        ((steerkit.ablate(LATE),), "llama.cpp only adds. Bake it"),
        ((steerkit.add(LATE, sites="blocks.0.resid_post"),), "no control vector at block 0. Bake it"),
        ((steerkit.add(LATE, sites="blocks.1.resid_pre"),), "no control vector at block 0. Bake it"),
        ((steerkit.add(LATE, sites="embed"),), "it acts at embed, .* outputs of blocks. Bake it"),
        ((steerkit.add(LATE, sites="blocks.1.mlp_out"),), "it acts at blocks.1.mlp_out, .* Bake it"),
        ((steerkit.add(LATE, positions="generated"),), "acts at generated, .* A checkpoint can't hold that either"),
        ((steerkit.add(LATE, schedule="linear(1, 0, 8)"),), "changes along the answer .* can't hold that either"),
        ((steerkit.add(LATE), steerkit.add(LATE, coefficient=-1.0)), "it changes nothing"),
    ],
)
def test_what_llama_cpp_cannot_add_is_refused(placements: tuple[Placement, ...], said: str) -> None:
    with pytest.raises(AttachError, match=said) as caught:
        write_gguf(program(*placements))
    assert caught.value.exit_code == 2 and str(caught.value).startswith("Condition c is no control vector: ")


def test_prompts_and_monitors_have_no_place() -> None:
    with pytest.raises(AttachError, match="behind a system prompt"):
        write_gguf(program(steerkit.add(LATE), prompt="Be warm."))
    read = ProgramMonitor("m", {Site.parse("blocks.1.resid_post"): torch.eye(32)[0]}, 0.0)
    with pytest.raises(AttachError, match="it has monitors"):
        write_gguf(Program("c", program().model, program(steerkit.add(LATE)).updates, (read,)))


def test_a_run_is_exported_with_coefficients_in_the_vectors(tmp_path: Path) -> None:
    added: list[Mapping[str, Any]] = [{"add": {"direction": "warmth", "coefficient": 2.0}}]
    recipe = recipe_of(
        saved_model(tmp_path / "model", "llama"), conditions={"more": added, "without": CONDITIONS["without"]}
    )
    recipe["directions"]["warmth"]["site"] = "blocks.2.resid_pre"
    run = run_of(recipe, tmp_path / "run")
    done = export(run, "more", "gguf", tmp_path / "v.gguf")
    warmth = steerkit.load_directions(run / "directions.safetensors")["warmth"]
    assert set(numbers(done.path)) == {1} and done.lost == ()
    assert torch.allclose(torch.from_numpy(numbers(done.path)[1]), 2 * warmth.vectors[0], atol=1e-6)
    assert GGUFReader(done.path).fields["controlvector.model_hint"].contents() == "llama"
    with pytest.raises(AttachError, match=r"Condition without is no control vector: .* Bake it"):
        export(run, "without", "gguf", tmp_path / "w.gguf")
    assert not (tmp_path / "w.gguf").exists()
