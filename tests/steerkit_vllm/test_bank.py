"""What a bank takes in and gives back, and what a request may ask for: refusals in words, and nothing half done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from steerkit.api.program import Program, ProgramMonitor, ProgramUpdate
from steerkit.errors import AttachError, PositionError, SteerkitError, UnsupportedModelError
from steerkit.types import Site
from steerkit_vllm.asking import Asked, asked_of
from steerkit_vllm.bank import Bank
from steerkit_vllm.batch import Chunk, Requests
from steerkit_vllm.places import spots_of
from steerkit_vllm.settings import Settings, settings_of
from steerkit_vllm.terms import terms_of
from tests.api.programs import LAYERS, MODEL, WIDTH, program, unit, update, vector

POST = Site.parse("blocks.1.resid_post")
SITES = [Site.parse(text) for text in ("embed", "blocks.0.mlp_out", "blocks.1.resid_post", "blocks.2.resid_post")]


def bank(**settings: Any) -> Bank:
    return Bank(SITES, WIDTH, LAYERS, Settings(**settings), 32, torch.zeros(0))


def constant(seed: int, **changes: Any) -> Program:
    updates = (replace(ProgramUpdate(POST, bias=vector(seed)), **changes),)
    return Program(f"c{seed}", MODEL, updates)


def reading(*seeds: int) -> Program:
    return Program("r", MODEL, (), tuple(ProgramMonitor(f"m{seed}", {POST: unit(seed)}, 0.0) for seed in seeds))


def matrices(one: Bank) -> list[torch.Tensor]:
    return [
        value.clone()
        for place in one.places.values()
        for value in (place.reads, place.writes, place.bias, place.slot_of_row, place.monitors)
    ]


def edited(one: Bank, site: Site, requests: Requests, chunks: list[Chunk]) -> torch.Tensor:
    requests.begin(chunks)
    x = torch.ones(sum(chunk.number for chunk in chunks), WIDTH)
    one.places[site].edit_(x, None, one.weights[: len(x)])
    return x


def test_what_is_freed_leaves_nothing_and_what_stays_goes_on() -> None:
    one, requests = bank(), None
    empty = matrices(one)
    addresses = [place.reads.data_ptr() for place in one.places.values()]
    first, second = program(), program(name="second", updates=(update("blocks.1.resid_post", 9, rank=3),), monitors=())
    one.load(first)
    one.load(second)
    requests = Requests(one, 4)
    requests.add("a", Asked(second.digest), 3)
    before = edited(one, POST, requests, [Chunk("a", 0, 3)])
    assert one.free(first.digest)
    # Its rows lie elsewhere now.
    assert torch.allclose(edited(one, POST, requests, [Chunk("a", 0, 3)]), before, atol=1e-6)
    requests.drop("a")
    assert one.free(second.digest) and not one.free(second.digest)
    assert all(value.equal(wanted) for value, wanted in zip(matrices(one), empty, strict=True))
    assert [place.reads.data_ptr() for place in one.places.values()] == addresses


def test_the_same_content_is_there_once() -> None:
    one = bank()
    found = one.load(program())
    assert one.load(program(name="another")) is found and len(one.loaded) == 1


def test_a_program_in_use_stays() -> None:
    one = bank()
    digest = one.load(program()).program.digest
    requests = Requests(one, 4)
    requests.add("a", Asked(digest), 5)
    requests.add("b", Asked(digest), 5)
    requests.drop("a")
    with pytest.raises(AttachError, match="in use by 1 request"):
        one.free(digest)
    requests.drop("b")
    assert one.free(digest)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (program(model=replace(MODEL, n_layers=4)), "4 blocks"),
        (program(updates=(update("blocks.0.attn_out"),), monitors=()), "wasn't prepared"),
        (program(updates=(update("blocks.0.head_out"),), monitors=()), "within attention"),
        (program(updates=(update("blocks.1.resid_post", positions="from_token(#7)"),), monitors=()), "by places alone"),
        (program(updates=(update("blocks.1.resid_post", rank=5),), monitors=()), "5 directions at"),
        (reading(1, 2, 3), "monitors of program"),
        (
            program(
                updates=tuple(update("blocks.1.resid_post", seed, positions=f"[{seed}:]") for seed in range(1, 5)),
                monitors=(),
            ),
            "15 weights per token",
        ),
    ],
)
def test_what_doesnt_fit_is_refused_and_changes_nothing(given: Program, says: str) -> None:
    one = bank(rows=4, monitors=2)
    before = matrices(one)
    with pytest.raises(SteerkitError, match=says):
        one.load(given)
    assert not one.loaded and len(one.free_slots) == 16
    assert all(value.equal(wanted) for value, wanted in zip(matrices(one), before, strict=True))


def test_programs_are_bounded_in_number() -> None:
    one = bank(slots=2)
    digests = [one.load(constant(seed)).program.digest for seed in (1, 2)]
    with pytest.raises(AttachError, match="takes 1 slot, and 0 of 2 are free"):
        one.load(constant(3))
    one.free(digests[0])
    assert one.load(constant(3)).slots == (0,)


def test_updates_that_cant_meet_make_no_term() -> None:
    """What lies in the prompt and what lies behind it have no token in common."""
    apart = (
        update("blocks.1.resid_post", 1, positions="prompt"),
        update("blocks.1.resid_post", 2, positions="generated"),
    )
    meeting = (apart[0], update("blocks.1.resid_post", 2, positions="[1:]"))
    assert len(terms_of(program(updates=apart))) == 2 and len(terms_of(program(updates=meeting))) == 3
    # Zeros and ones are their own squares: the same positions again are no new weight.
    again = (*meeting, update("blocks.1.resid_post", 3, positions="prompt"))
    assert len(terms_of(program(updates=again))) == 3
    # A constant is read by nobody, and a vector that the second one is blind to neither.
    assert len(terms_of(program(updates=(meeting[0], ProgramUpdate(POST, bias=vector(3)))))) == 2


def test_what_overflows_for_one_is_nothing_to_another() -> None:
    one = bank()
    large = Program("large", MODEL, (ProgramUpdate(POST, vector(1, 1, WIDTH) * 1e30, vector(2, 1, WIDTH)),))
    one.load(large)
    x = torch.full((2, WIDTH), 1e30)
    one.places[POST].edit_(x, None, one.weights[:2])
    assert x.equal(torch.full((2, WIDTH), 1e30))


def test_a_program_that_isnt_loaded_is_never_served_unsteered() -> None:
    one = bank()
    requests = Requests(one, 4)
    with pytest.raises(AttachError, match="isn't loaded here"):
        requests.add("a", Asked("0" * 64), 5)
    one.load(last := constant(1, positions=update("embed", positions="[7]").positions))
    with pytest.raises(PositionError, match="only 5 tokens"):
        requests.add("a", Asked(last.digest), 5)
    assert not requests.steered


def test_readings_are_taken_once_and_bounded_in_number() -> None:
    one = bank()
    digest = one.load(reading(1)).program.digest
    requests = Requests(one, 2)

    def passes(request: str, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            edited(one, POST, requests, [chunk])
            requests.end([chunk])

    for name in "abc":
        requests.add(name, Asked(digest, read=f"tag-{name}"), 3)
        passes(name, [Chunk(name, 0, 2), Chunk(name, 2, 1), Chunk(name, 3, 1)])
        requests.drop(name)
    with pytest.raises(AttachError, match="tag-a"):
        requests.take_readings("tag-a")
    told = requests.take_readings("tag-b")["m1"]
    assert told["first"] == 0 and told["values"] == pytest.approx([float(unit(1).sum())] * 4, rel=1e-5)
    with pytest.raises(AttachError, match="tag-b"):
        requests.take_readings("tag-b")
    # Before a request is over, and what a cache of its beginning kept from being read.
    requests.add("d", Asked(digest, read="tag-d"), 4)
    passes("d", [Chunk("d", 2, 2)])
    assert requests.take_readings("tag-d")["m1"]["first"] == 2
    requests.drop("d")
    assert "tag-d" not in requests.finished


def test_what_was_read_before_a_request_was_put_aside_is_kept() -> None:
    one = bank()
    digest = one.load(reading(1)).program.digest
    requests = Requests(one, 2)
    for first in (0, 2):  # it comes again as a new one, and its beginning is cached
        requests.add("a", Asked(digest, read="tag"), 4)
        chunk = Chunk("a", first, 2)
        edited(one, POST, requests, [chunk])
        requests.end([chunk])
    told = requests.take_readings("tag")["m1"]["values"]
    assert len(told) == 4 and not any(math.isnan(value) for value in told)


@pytest.mark.parametrize(
    "value",
    [
        "abc",
        {},
        {"program": 1},
        {"program": "a", "more": 1},
        {"program": "a", "read": True},
        {"program": "a", "turns": [["user", 1]]},
        {"program": "a", "turns": [["nobody", 1, 2]]},
        {"program": "a", "turns": [["user", 2, 1]]},
        {"program": "a", "turns": [["user", True, 2]]},
    ],
)
def test_what_a_request_cant_ask_for(value: Any) -> None:
    with pytest.raises(AttachError, match="extra argument 'steerkit'"):
        asked_of({"steerkit": value})


def test_a_name_that_passed_no_gate_is_no_plain_request() -> None:
    with pytest.raises(AttachError, match="passed no gate"):
        asked_of({"steer": "warm"})


def test_what_a_request_asks_for_comes_through() -> None:
    one = Asked("a" * 64, (("user", 1, 4),), "tag")
    assert asked_of(one.to_extra_args()) == one
    assert asked_of(None) is None and asked_of({"other": 1}) is None


@pytest.mark.parametrize(
    "given", [{"slots": 0}, {"slots": "8"}, {"more": 1}, {"streams": ["resid_pre"]}, {"streams": []}, 3]
)
def test_settings_that_are_none(given: Any) -> None:
    with pytest.raises(AttachError, match="additional_config: steerkit"):
        settings_of({"steerkit": given})


def test_settings_in_part() -> None:
    assert settings_of(None) == settings_of({}) == Settings()
    assert settings_of({"steerkit": {"streams": ["embed", "resid_post"], "slots": 4}}).streams == (
        "embed",
        "resid_post",
    )


def test_a_model_whose_layers_nobody_read_is_refused() -> None:
    from tests.conftest import tiny_live

    with pytest.raises(UnsupportedModelError, match="GPT2Block"):
        spots_of(tiny_live("gpt2").model, ("embed",))


@pytest.mark.parametrize("part", ["bias", "writes"])
def test_what_the_engine_s_dtype_cannot_hold_would_reach_everybody_and_is_refused(part: str) -> None:
    one = Bank(SITES, WIDTH, LAYERS, Settings(), 32, torch.zeros(0, dtype=torch.float16))
    large = torch.full((WIDTH,), 1e5)
    made = ProgramUpdate(POST, bias=large) if part == "bias" else ProgramUpdate(POST, unit(0)[None], large[None])
    with pytest.raises(AttachError, match="as large as 100000, and this engine computes in float16"):
        one.load(Program("large", MODEL, (made,)))
    assert not one.loaded and all(bool(value.isfinite().all()) for value in matrices(one))
    bank().load(Program("large", MODEL, (made,)))
