"""Cosines of directions: by hand, and which pairs of a run are compared where."""

from __future__ import annotations

import math

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.stages.cosines import MOST, cosine, cosines_of, too_many_to_compare

EAST, NORTH, UP = torch.eye(3)


def at(layer: int) -> str:
    return f"blocks.{layer}.resid_pre"


def single(name: str, vector: torch.Tensor, layer: int, **provenance: object) -> Direction:
    return Direction(vector[None], at(layer), "last", name, None, provenance)


def test_cosine_of_vectors_whatever_their_length() -> None:
    assert cosine(3 * EAST[None], (EAST + NORTH)[None]) == pytest.approx(math.sqrt(0.5))
    assert cosine(EAST[None], -2 * EAST[None]) == -1.0
    assert cosine(EAST[None], 0 * EAST[None]) is None
    assert cosine(EAST[None], torch.ones(1, 4)) is None, "another width"


def test_cosine_of_spans_is_that_of_their_smallest_angle() -> None:
    plane = torch.stack([EAST + NORTH, NORTH])
    assert cosine(plane, (EAST + UP)[None]) == pytest.approx(math.sqrt(0.5))
    assert cosine(plane, UP[None]) == pytest.approx(0.0, abs=1e-7)
    # Two planes in three dimensions meet in a line. A vector that is there twice is one.
    assert cosine(plane, torch.stack([UP, EAST])) == pytest.approx(1.0)
    assert cosine(torch.stack([EAST, 2 * EAST]), NORTH[None]) == pytest.approx(0.0, abs=1e-7)
    assert cosine(torch.zeros(2, 3), NORTH[None]) is None


def test_each_is_compared_with_each_or_with_a_reference() -> None:
    run = {"a": single("a", EAST, 1), "b": single("b", NORTH + EAST, 1), "c": single("c", -EAST, 2)}
    found = {(one.first, one.second): (one.site, one.other, one.cosine) for one in cosines_of(run, ["a", "b", "c"])}
    assert found == {
        ("a", "b"): (at(1), None, pytest.approx(math.sqrt(0.5))),
        ("a", "c"): (at(1), at(2), -1.0),
        ("b", "c"): (at(1), at(2), pytest.approx(-math.sqrt(0.5))),
    }
    assert [(one.first, one.second) for one in cosines_of(run, ["a", "b", "c"], "c")] == [("c", "a"), ("c", "b")]


def test_directions_at_several_sites_are_compared_at_those_that_both_have() -> None:
    many = Direction({at(0): EAST[None], at(1): NORTH[None], at(2): UP[None]}, None, "instruction[-1]", "many")
    run = {"many": many, "one": single("one", NORTH, 1), "far": single("far", NORTH, 7)}
    found = [(one.first, one.second, one.site, one.cosine) for one in cosines_of(run, ["many", "one", "far"])]
    assert found == [("many", "one", at(1), 1.0), ("one", "far", at(1), 1.0)]


def test_candidates_stand_for_what_was_chosen_among_them() -> None:
    seen = Direction({at(layer): (EAST + layer * NORTH)[None] for layer in range(3)}, None, "-1", "seen@-1")
    other = Direction({at(layer): UP[None] for layer in range(3)}, None, "-2", "seen@-2")
    chosen = seen.at(at(1)).replace(name="chosen", provenance={"search": {"over": "seen"}})
    harm = Direction({at(layer): EAST[None] for layer in range(3)}, None, "instruction[-1]", "harm")
    run = {"seen@-1": seen, "seen@-2": other, "harm": harm, "chosen": chosen}
    found = list(cosines_of(run, ["harm", "chosen"]))
    assert [(one.site, one.standing_for) for one in found] == [(at(0), True), (at(1), None), (at(2), True)]
    assert [one.cosine for one in found] == pytest.approx([1.0, math.sqrt(0.5), math.sqrt(0.2)])
    again = chosen.replace(name="again")
    (same,) = cosines_of({**run, "again": again}, ["chosen", "again"])
    assert (same.site, same.cosine) == (at(1), pytest.approx(1.0))


def test_many_are_compared_only_with_one_that_is_named() -> None:
    names = [f"d{number}" for number in range(MOST + 1)]
    run = {name: single(name, EAST, 0) for name in names}
    assert list(cosines_of(run, names)) == [] and "report.compared_with" in too_many_to_compare(names, None)[0]
    assert len(list(cosines_of(run, names, "d3"))) == MOST and too_many_to_compare(names, "d3") == []
    assert too_many_to_compare(names[:MOST], None) == []
