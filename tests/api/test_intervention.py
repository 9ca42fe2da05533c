"""Placing an intervention: one frozen value, and nothing on the intervention itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

import steerkit
from steerkit.api.architecture import Layout
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Affine, Gate, Intervention, Placement
from steerkit.errors import AttachError, SiteError
from steerkit.session.model import LiveModel
from steerkit.testing.oracle import oracle_logits
from steerkit.types import Positions, Site, SitePattern

IDS = [2, 70, 71, 72, 73]


def vector(width: int, seed: int) -> torch.Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(seed))


class Along(Intervention[NoOptions]):
    """Moves the component along one direction to another one: it takes two, and asks the layout for the width."""

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        return (self.directions[0].site,)

    def update(self, site: Site, layout: Layout) -> Affine:
        one, other = (item.vectors for item in self.directions)
        assert one.shape[1] == layout.width(site)
        return Affine(one / one.norm(), other - one)


def test_two_directions_and_their_controls(llama: LiveModel) -> None:
    site = Site("resid_pre", 1)
    first, second, third = (Direction(vector(llama.layout.d_model, n), site, name=f"d{n}") for n in range(3))
    placed = Placement(Along(NoOptions(), (first, second)), positions=Positions("prompt"))
    assert placed.directions == (first, second) and placed.direction is first and str(placed) == "along d0 d1"
    with llama.steer(placed, mode="hook"):
        found = llama.forward(torch.tensor([IDS]), prompt_lengths=[4]).logits[0]
    assert torch.allclose(found, oracle_logits(llama, IDS, placed, prompt_length=4), atol=1e-5)
    other = placed.with_directions({"d1": third, "nobody": first})
    assert other.directions == (first, third) and other.positions == placed.positions
    assert other.intervention is not placed.intervention and placed.directions == (first, second)


def test_a_bare_intervention_acts_at_its_own_sites_at_all_tokens(llama: LiveModel) -> None:
    site = Site("resid_pre", 1)
    first, second = (Direction(vector(llama.layout.d_model, n), site) for n in range(2))
    bare, ids = Along(NoOptions(), (first, second)), torch.tensor([IDS])
    with llama.steer(bare):
        found = llama.forward(ids).logits
    with llama.steer(Placement(bare, (site,))):
        assert torch.equal(llama.forward(ids).logits, found)
    rows = llama.forward(torch.tensor([IDS, IDS]), steer=[bare, None]).logits
    plain = llama.forward(torch.tensor([IDS, IDS])).logits  # a batch of the same shape: equal to the bit
    assert torch.allclose(rows[0], found[0], atol=1e-5) and torch.equal(rows[1], plain[1])
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)


def test_a_placement_is_frozen_and_knows_patterns(llama: LiveModel) -> None:
    direction = Direction(vector(llama.layout.d_model, 1), "blocks.1.resid_pre")
    placed = steerkit.add(direction, sites=["blocks.*.mlp_out", "embed"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        placed.gate = None  # type: ignore[misc]
    assert placed.sites == (SitePattern("mlp_out"), Site("embed"))
    layers = range(llama.layout.n_layers)
    assert placed.sites_on(llama.layout) == (*(Site("mlp_out", layer) for layer in layers), Site("embed"))
    with pytest.raises(SiteError, match="layers"):
        steerkit.add(direction, sites="blocks.0-99.mlp_out").sites_on(llama.layout)


def test_a_gate_reads_one_vector() -> None:
    first, second = Site("resid_pre", 0), Site("resid_pre", 1)
    several = Direction({first: torch.ones(1, 3), second: 2 * torch.ones(1, 3)}, name="harm")
    with pytest.raises(AttachError, match=r"gate reads one vector, and direction 'harm' .* site: blocks\.0\.resid_pre"):
        steerkit.gate(several, above=1)
    with pytest.raises(AttachError, match="no vectors at embed"):
        steerkit.gate(several, above=1, site="embed")
    gate = steerkit.gate(several, above=1, site="blocks.1.resid_pre")
    assert (gate.read_at, gate.direction.site) == (second, second)
    assert Gate(several.at(first), 1.0, site=second).direction.site == first


def test_add_adds_each_vector_at_its_own_site(llama: LiveModel) -> None:
    width = llama.layout.d_model
    sites = [Site("resid_pre", layer) for layer in range(llama.layout.n_layers)]
    vectors = {site: vector(width, site.layer) for site in sites}
    together = steerkit.add(Direction(vectors), coefficient=1.5)
    alone = [steerkit.add(Direction(vectors[site], site), coefficient=1.5) for site in sites]
    assert together.sites_on(llama.layout) == tuple(sites)
    ids = torch.tensor([IDS])
    plain = llama.forward(ids).logits
    with llama.steer(*alone):
        expected = llama.forward(ids).logits
    for mode in ("auto", "fold", "hook", "interpret"):
        with llama.steer(together, mode=mode):  # type: ignore[arg-type]
            assert torch.allclose(llama.forward(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)
    coefficients = torch.tensor([2.0], requires_grad=True)
    with llama.steer(steerkit.add(Direction(vectors), coefficient=coefficients), mode="hook"):
        llama.forward(ids).logits.sum().backward()
    assert coefficients.grad is not None and float(coefficients.grad.abs()) > 0
    with (
        pytest.raises(AttachError, match="no vectors at embed"),
        llama.steer(steerkit.add(Direction(vectors), sites="embed")),
    ):
        pass


@pytest.mark.parametrize("kind", ["ablate", "set_projection", "affine_concept_editing"])
def test_what_uses_one_site_says_which(llama: LiveModel, kind: str) -> None:
    width = llama.layout.d_model
    sites = [Site("resid_pre", 1), Site("resid_pre", 0)]
    means = {site: torch.ones(width) for site in sites}
    several = Direction({site: vector(width, site.layer) for site in sites}, name="d", reference_mean=means)
    more = {"value": 1.0} if kind == "set_projection" else {}
    with pytest.raises(AttachError, match=rf"{kind} uses the vectors of one site.* at: blocks\.1\.resid_pre"):
        llama.explain(steerkit.intervention(kind, several, **more))
    chosen = steerkit.intervention(kind, several, at="blocks.0.resid_pre", **more)
    alone = steerkit.intervention(kind, several.at("blocks.0.resid_pre"), **more)
    assert chosen.sites_on(llama.layout) == alone.sites_on(llama.layout)
    found, expected = (oracle_logits(llama, IDS, one) for one in (chosen, alone))
    assert torch.equal(found, expected) and not torch.allclose(found, oracle_logits(llama, IDS, None), atol=1e-3)
    with pytest.raises(AttachError, match="no vectors at embed"):
        llama.explain(steerkit.intervention(kind, several, at="embed", **more))


@pytest.mark.parametrize("kind", ["add", "ablate", "set_projection", "affine_concept_editing"])
def test_an_intervention_is_called_as_recipes_call_it(llama: LiveModel, kind: str) -> None:
    site = Site("resid_pre", 1)
    one = Direction(
        {site: vector(llama.layout.d_model, 1)}, name="d", reference_mean={site: torch.ones(llama.layout.d_model)}
    )
    placed = steerkit.intervention(kind, one, **({"value": 1.0} if kind == "set_projection" else {}))
    assert str(placed) == f"{kind} d"
    assert f"{kind} d " in str(llama.explain(placed))
