"""Formats of files of others hold what the suite asks of every format; each file here is of our own making."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

import steerkit
import steerkit_formats.assistant_axis
import steerkit_formats.caa
import steerkit_formats.lm_eval_steered
import steerkit_formats.persona_vectors
import steerkit_formats.plain
import steerkit_formats.refusal_direction
import steerkit_formats.saelens
import steerkit_formats.steering_vectors
import steerkit_formats.svec
from steerkit.api.direction import Direction
from steerkit.api.format import Given
from steerkit.errors import ArtifactError
from steerkit.testing import FormatSuite
from steerkit.types import Positions, Site

WIDTH = 8


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(stream: str, layers: Sequence[int], positions: str, name: str) -> Direction:
    by_site = {Site(stream, layer): vectors(1, WIDTH, seed=layer) for layer in layers}
    return Direction(by_site, None, positions, name)


class TestRefusalDirection(FormatSuite):
    plugin: ClassVar = steerkit_formats.refusal_direction
    name = "refusal_direction"

    def directions(self) -> Sequence[Direction]:
        return [at("resid_pre", [2], "-2", "direction")]


class TestRefusalDirectionMeans(FormatSuite):
    plugin: ClassVar = steerkit_formats.refusal_direction
    name = "refusal_direction_means"

    def directions(self) -> Sequence[Direction]:
        return [at("resid_pre", [0, 1, 2], str(place), f"mean_diff[{place}]") for place in (-2, -1)]

    def written(self, folder: Path) -> Path:
        return super().written(folder).rename(folder / "mean_diffs.pt")


class TestCaa(FormatSuite):
    plugin: ClassVar = steerkit_formats.caa

    def directions(self) -> Sequence[Direction]:
        return [at("resid_post", [3, 11], "completion[-2]", "directions")]


class TestPersonaVectors(FormatSuite):
    plugin: ClassVar = steerkit_formats.persona_vectors

    def directions(self) -> Sequence[Direction]:
        rows = {Site("resid_pre", 0): vectors(1, WIDTH, seed=9), **at("resid_post", [0, 1, 2], "all", "evil").by_site}
        return [Direction(rows, None, "completion", "evil")]

    def written(self, folder: Path) -> Path:
        (direction,) = self.directions()
        path = folder / "evil_response_avg_diff.pt"
        torch.save(torch.cat(list(direction.by_site.values())), path)
        return path


class TestAssistantAxis(FormatSuite):
    plugin: ClassVar = steerkit_formats.assistant_axis

    def directions(self) -> Sequence[Direction]:
        return [at("resid_post", [0, 1, 2], "completion", "pirate")]

    def written(self, folder: Path) -> Path:
        (direction,) = self.directions()
        path = folder / "role.pt"
        matrix = torch.cat(list(direction.by_site.values()))
        torch.save({"vector": matrix, "type": "pos_3", "role": "pirate"}, path)
        return path


@pytest.fixture
def steering_vector_class() -> Any:
    """The class whose objects are pickled, in a module of its name and with nothing of its code."""
    module, package = ModuleType("steering_vectors.steering_vector"), ModuleType("steering_vectors")

    @dataclass
    class SteeringVector:
        layer_activations: dict[int, torch.Tensor]
        layer_type: str = "decoder_block"

    SteeringVector.__module__, SteeringVector.__qualname__ = module.__name__, "SteeringVector"
    module.SteeringVector = SteeringVector  # type: ignore[attr-defined]
    sys.modules.update({package.__name__: package, module.__name__: module})
    yield SteeringVector
    del sys.modules[package.__name__], sys.modules[module.__name__]


@pytest.mark.usefixtures("steering_vector_class")
class TestSteeringVectors(FormatSuite):
    plugin: ClassVar = steerkit_formats.steering_vectors

    def directions(self) -> Sequence[Direction]:
        return [at("mlp_out", [1, 4], "-1", "calm")]

    def written(self, folder: Path) -> Path:
        (direction,) = self.directions()
        made = sys.modules["steering_vectors.steering_vector"].SteeringVector
        path = folder / "calm.pt"
        by_layer = {site.layer: rows[0] for site, rows in direction.items()}
        torch.save(made(layer_activations=by_layer, layer_type="mlp"), path)
        return path


class TestSvec(FormatSuite):
    plugin: ClassVar = steerkit_formats.svec

    def directions(self) -> Sequence[Direction]:
        return [at("resid_pre", [1, 5], "-1", "directions")]


class TestSvecOfCaa(FormatSuite):
    plugin: ClassVar = steerkit_formats.svec
    settings: ClassVar = {"convention": "caa", "model_type": "llama"}

    def directions(self) -> Sequence[Direction]:
        return [at("resid_post", [1, 5], "-1", "directions")]

    def test_a_layer_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "twice.svec"
        path.write_text(json.dumps({"model_type": "llama", "directions": {"1": [[1.0]], "01": [[2.0]]}}))
        with pytest.raises(ArtifactError, match="has layer 1 twice, once as '01'"):
            steerkit.load_directions(path)


class TestSaelens(FormatSuite):
    plugin: ClassVar = steerkit_formats.saelens
    settings: ClassVar = {"features": (3, 0)}

    def directions(self) -> Sequence[Direction]:
        return [Direction(vectors(4, WIDTH)[[row]], "blocks.2.resid_post", "all", f"feature_{row}") for row in (3, 0)]

    def written(self, folder: Path) -> Path:
        return autoencoder(folder, vectors(4, WIDTH))


def autoencoder(folder: Path, decoder: torch.Tensor, **told: Any) -> Path:
    path = folder / "sae"
    path.mkdir(exist_ok=True)
    config = {
        "architecture": "standard",
        "d_sae": len(decoder),
        "d_in": decoder.shape[1],
        "normalize_activations": "none",
        "metadata": {"hook_name": "blocks.2.hook_resid_post"},
    }
    (path / "cfg.json").write_text(json.dumps({**config, **told}))
    save_file({"W_dec": decoder, "b_dec": torch.zeros(decoder.shape[1])}, path / "sae_weights.safetensors")
    return path


class TestLmEvalSteered(FormatSuite):
    plugin: ClassVar = steerkit_formats.lm_eval_steered

    def directions(self) -> Sequence[Direction]:
        return [at("resid_post", [1, 2], "all", "kind")]


class PlainSuite(FormatSuite):
    plugin: ClassVar = steerkit_formats.plain


class TestNpz(PlainSuite):
    name = "npz"


class TestSafetensors(PlainSuite):
    name = "safetensors"


class TestTorch(PlainSuite):
    name = "torch"


class TestNpy(PlainSuite):
    name = "npy"
    given: ClassVar = Given(Site("resid_pre", 4), Positions("prompt"))

    def directions(self) -> Sequence[Direction]:
        return [Direction(vectors(2, WIDTH), "blocks.4.resid_pre", "prompt", "directions")]


del FormatSuite, PlainSuite  # neither of a plugin of its own
