"""What lowering leaves: as few updates as there need be, in as few hooks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Gate, Placement
from steerkit.engine.lowering.algebra import apply_update, compose, shorten
from steerkit.engine.lowering.edits import edits_of
from steerkit.engine.lowering.lower import lower, lower_rows
from steerkit.engine.lowering.program import Program
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Site


def direction(live: LiveModel, seed: int = 0, rank: int = 1, site: str = "blocks.1.resid_pre") -> Direction:
    vectors = torch.randn(rank, live.layout.d_model, generator=torch.Generator().manual_seed(1000 + seed))
    return Direction(vectors, Site.parse(site), name=f"d{seed}")


def hooked(live: LiveModel, *interventions: Placement) -> Program:
    return lower(edits_of(interventions, live.layout), live.layout, fates=True)


def sites_of(live: LiveModel, *streams: str) -> list[Site]:
    return [Site(stream, layer) for layer in range(live.layout.n_layers) for stream in streams]


def test_an_ablation_takes_one_site_per_writer_and_the_embedding(llama: LiveModel) -> None:
    layers = llama.layout.n_layers
    one = direction(llama)
    assert len(hooked(llama, ablate(one)).slots) == 2 * layers + 1
    everywhere = ablate(one, sites=[*llama.layout.sites_of("resid_pre"), *llama.layout.writer_sites()])
    assert len(hooked(llama, everywhere).slots) == 2 * layers + 1
    # The paper's 3L sites: the first block's input stands in for the embedding, the others' have nothing to do.
    paper = ablate(one, sites=sites_of(llama, "resid_pre", "attn_out", "mlp_out"))
    program = hooked(llama, paper)
    assert len(program.slots) == 2 * layers + 1
    assert [fate.edit.site for fate in program.fates if fate.became == "dropped"] == [
        Site("resid_pre", layer) for layer in range(1, layers)
    ]


def test_a_site_is_kept_where_something_writes_into_the_span_in_between(llama: LiveModel) -> None:
    one, other = direction(llama, 0), direction(llama, 1)
    block = [Site("embed"), Site("attn_out", 0), Site("mlp_out", 0)]
    again = ablate(one, sites="blocks.1.resid_mid")
    clean = ablate(one, sites=[*block, Site("attn_out", 1)])

    def dropped(*interventions: Placement) -> list[str]:
        return [str(fate.edit.site) for fate in hooked(llama, *interventions).fates if fate.became == "dropped"]

    assert dropped(clean, again) == ["blocks.1.resid_mid"]
    assert dropped(ablate(one, sites=block), again) == []  # block 1's attention writes
    assert dropped(clean, add(one, sites="blocks.1.resid_pre"), again) == []
    assert dropped(clean, ablate(other, sites="blocks.1.resid_pre"), again) == []  # oblique: brings some of it back
    unit = one.vectors[0] / one.vectors[0].norm()
    beside = other.vectors[0] - (other.vectors[0] @ unit) * unit
    orthogonal = add(other.with_vectors(beside[None]), sites="blocks.1.resid_pre")
    assert dropped(clean, orthogonal, again) == ["blocks.1.resid_mid"]
    assert dropped(ablate(one, sites=[*block, Site("attn_out", 1)], coefficient=0.5), again) == []
    assert dropped(ablate(one, sites=[*block, Site("attn_out", 1)], positions="generated"), again) == []
    partly = ablate(one, sites="blocks.1.resid_mid", positions="generated")
    assert dropped(clean, partly) == ["blocks.1.resid_mid"]
    plane = direction(llama).with_vectors(torch.cat([one.vectors, other.vectors]))
    assert dropped(ablate(plane, sites=[*block, Site("attn_out", 1)]), again) == ["blocks.1.resid_mid"]
    assert dropped(clean, ablate(plane, sites="blocks.1.resid_mid")) == []


def test_gated_and_scheduled_updates_clean_nothing(llama: LiveModel) -> None:
    one = direction(llama)
    gate = Gate(one, 0.0, site=Site("embed"))
    sites = [Site("embed"), Site("attn_out", 0)]
    for circumstances in ({"gate": gate}, {"schedule": "linear(1, 0, 4)"}):
        first = ablate(one, sites=sites, **circumstances)
        fates = hooked(llama, first, ablate(one, sites="blocks.0.resid_mid", **circumstances)).fates
        assert not [fate for fate in fates if fate.became == "dropped"]


def test_what_cancels_is_nothing(llama: LiveModel) -> None:
    one = direction(llama)
    assert hooked(llama, add(one, coefficient=0.1), add(one, coefficient=0.2), add(one, coefficient=-0.3)).empty
    mirror = ablate(one, coefficient=2.0)
    assert hooked(llama, mirror, mirror).empty  # twice mirrored
    assert hooked(llama, add(one, coefficient=0.0), ablate(one, coefficient=0.0)).empty
    scheduled = [add(one, coefficient=c, schedule="linear(1, 0, 4)") for c in (1.0, -1.0)]
    assert hooked(llama, *scheduled).empty
    assert not hooked(llama, add(one), add(one, coefficient=-1.0, positions="generated")).empty


def test_interventions_that_meet_are_one_hook_and_one_update(llama: LiveModel) -> None:
    one, other = direction(llama, 0), direction(llama, 1)
    program = hooked(
        llama,
        add(one, sites="blocks.0.resid_post"),
        ablate(other, sites="blocks.1.resid_pre"),
        ablate(one, sites="blocks.1.resid_pre"),
    )
    (slot,) = program.slots
    (step,) = slot.items
    (edit,) = slot.edits
    assert isinstance(edit.update, Affine) and edit.update.reads is not None and edit.update.reads.shape[0] == 2
    assert step is slot.items[0] and len(program.fates) == 3
    # Ablating twice is ablating once.
    (edit,) = hooked(llama, *[ablate(one, sites="blocks.1.resid_pre") for _ in range(3)]).edits
    assert isinstance(edit.update, Affine) and edit.update.reads is not None and edit.update.reads.shape[0] == 1


def test_a_constant_between_the_writers_is_one_at_the_first_writer(llama: LiveModel) -> None:
    one = direction(llama)
    (slot,) = hooked(llama, add(one, sites="blocks.1.resid_mid")).slots
    assert slot.resid_pre is None and not slot.carried
    (slot,) = hooked(llama, ablate(one, sites="blocks.1.resid_mid")).slots
    assert slot.resid_pre is not None and slot.carried


def test_rows_lie_side_by_side_in_one_step_per_place(llama: LiveModel) -> None:
    rows = [
        edits_of([add(direction(llama, row, site=f"blocks.{layer}.resid_pre")) for layer in (1, 2)], llama.layout)
        for row in range(4)
    ]
    program = lower_rows([*rows, []], llama.layout)
    assert [len(slot.items) for slot in program.slots] == [1, 1]
    assert all(len(item.parts) == 5 and item.parts[4] is None for slot in program.slots for item in slot.items)  # type: ignore[union-attr]


floats = st.floats(-2, 2, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    rank, width = draw(st.integers(0, 3)), 5

    def matrix(rows: int) -> Tensor:
        return torch.tensor(
            draw(st.lists(st.lists(floats, min_size=width, max_size=width), min_size=rows, max_size=rows))
        )

    bias = matrix(1)[0] if rank == 0 or draw(st.booleans()) else None
    return Affine(matrix(rank), matrix(rank), bias) if rank else Affine(bias=bias)


@given(affines(), affines())
def test_composing_is_doing_one_after_the_other(first: Affine, second: Affine) -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double()

    def wide(update: Affine) -> Affine:
        return Affine(*(None if one is None else one.double() for one in (update.reads, update.writes, update.bias)))

    expected = apply_update(wide(second), apply_update(wide(first), x))
    both = compose(first, second)
    found = x if both is None else apply_update(both, x)
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rows_beyond_the_rank_are_cut_off(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    reads, writes = (torch.randn(rank, 9, generator=generator).double() for _ in range(2))
    mix = torch.randn(5, rank, generator=generator).double()
    # The same linear part as readsᵀ writes, in more rows.
    padded_reads, padded_writes = mix @ reads, torch.linalg.pinv(mix).T @ writes
    short = shorten(padded_reads, padded_writes)
    assert short is not None and short[0].shape[0] == rank
    assert torch.allclose(short[0].T @ short[1], reads.T @ writes)
    assert shorten(reads, torch.zeros_like(reads)) is None
