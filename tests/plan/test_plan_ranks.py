"""How many vectors a direction has, as far as estimators, files and the model tell: no more can be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import save_directions
from steerkit.types import Positions, Site
from tests.plan.conftest import Planner, Problems

DATA = """\
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4], split: {train: 3, validation: 1}}
  cold: {inline: [c1, c2, c3, c4], split: {train: 3, validation: 1}}
  probe: {inline: [p1, p2, p3]}
evaluate: [{refusal_score: {data: probe, tokens: [x]}}]
"""
CLASSES = "positive: warm.train, negative: cold.train"
SITE = "site: blocks.1.resid_pre"
REMOVED = "conditions: {gone: {interventions: [{ablate: {direction: way}}], sweep: {rank: [1, 2]}}}\n"
SEARCH = f"""\
directions:
  one: {{estimator: mean_difference, {CLASSES}, {SITE}, positions: "[-2:][*]"}}
  two: {{estimator: OTHER, {CLASSES}, {SITE}, positions: "[-2:][*]"}}
search:
  way:
    over: [one, two]
    scores: {{gone: {{refusal_score: {{data: warm.validation, under: [ablate], tokens: [x]}}}}}}
    minimise: gone
"""


def way(estimator: str, positions: str = "last", options: str = "") -> str:
    more = f", options: {options}" if options else ""
    return DATA + (
        f'directions: {{way: {{estimator: {estimator}, {CLASSES}, {SITE}, positions: "{positions}"{more}}}}}\n'
        + REMOVED
    )


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic_probe"])
def test_an_estimator_of_one_vector_has_one(problems: Problems, estimator: str) -> None:
    ((line, where, message),) = problems(way(estimator))
    assert line is not None and where == "conditions.gone.sweep.rank"
    assert "rank 2 of direction 'way', which has 1 vector at a site: write 1 at most" in message


def test_a_rank_of_an_intervention_by_itself_is_told_where_it_stands(problems: Problems) -> None:
    text = way("mean_difference").replace(REMOVED, "conditions: {gone: [{ablate: {direction: way, rank: 3}}]}\n")
    ((_, where, message),) = problems(text)
    assert where.endswith("rank") and "rank 3 of direction 'way', which has 1 vector" in message


@pytest.mark.parametrize(
    ("positions", "rank", "told"),
    [
        ("last", 2, "'prompt[-1]' are 1 token, which span no more directions than that: write 1 at most"),
        ("[-3:]", 3, None),
        ("[-3:]", 4, "'[-3:]' are 3 tokens"),
        ("-1", 2, "'-1' are 1 token"),
        ("[-4,-2]", 3, "'[-4,-2]' are 2 tokens"),
        ("all", 4, None),
        ("all", 100_000, "so there are no more directions than that"),
    ],
)
def test_positions_and_the_width_bound_a_subspace(
    problems: Problems, plan: Planner, positions: str, rank: int, told: str | None
) -> None:
    text = way("difference_subspace", positions, f"{{rank: {rank}}}")
    if told is None:
        assert [one.name for one in plan(text).conditions] == ["gone[rank=1]", "gone[rank=2]"]
        return
    ((_, where, message),) = problems(text)
    assert where == "directions.way.options.rank" and told in message


def saved(folder: Path, rank: int) -> None:
    vectors = torch.eye(32)[:rank]
    direction = Direction(vectors, Site("resid_pre", 1), Positions.parse(-1), "way")
    save_directions(folder / "way.safetensors", [direction])


@pytest.mark.parametrize("rank", [1, 2])
def test_a_file_says_how_many_it_holds(tmp_path: Path, problems: Problems, plan: Planner, rank: int) -> None:
    saved(tmp_path, rank)
    text = DATA + "directions: {way: {file: way.safetensors}}\n" + REMOVED
    if rank == 2:
        assert len(plan(text).conditions) == 2
        return
    ((_, where, message),) = problems(text)
    assert where == "conditions.gone.sweep.rank" and "which has 1 vector at a site" in message


def test_what_a_search_chooses_has_as_many_as_its_candidates(problems: Problems, plan: Planner) -> None:
    ((_, where, message),) = problems(DATA + SEARCH.replace("OTHER", "logistic_probe") + REMOVED)
    assert where == "conditions.gone.sweep.rank" and "rank 2 of direction 'way', which has 1 vector" in message
    asked = DATA + SEARCH.replace("OTHER", "logistic_probe").replace("[ablate]", "[{ablate: {rank: 2}}]")
    found = problems(asked + "conditions: {gone: [{ablate: {direction: way}}]}\n")
    assert [where.startswith("search.way.scores.gone") for _, where, _ in found] == [True, True]
    assert "direction 'one'" in found[0][2] and "direction 'two'" in found[1][2]


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("last", 1), ("[-3,-1,-1]", 2), ("[-5:]", 5), ("[:3]", 3), ("[1:3]", 2), ("[-4:-1]", 3), ("[3:1]", 0),
        ("user[-1][:8]", 8), ("[2:]", None),
        ("[:-2]", None), ("[1:-1]", None), ("all", None), ("post_instruction", None),
        ("[-5:][*]", 1), ("post_instruction[*]", 1), ("from_token(x)", None),
    ],
)  # fmt: skip
def test_positions_know_how_many_tokens_they_are_at_most(text: str, most: int | None) -> None:
    assert Positions.parse(text).most == most
