"""Texts behind the user's turn: what they do along a direction, beside random ones of as many tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.engine.prompts.random_text import random_text
from steerkit.errors import DataError, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.recipe.document import read_document
from steerkit.report import write_report
from steerkit.report.read import load_run
from steerkit.report.suffixes import make_suffixes
from steerkit.run import run_recipe
from steerkit.session import load_model
from tests.conftest import tiny_live

RECIPE = """\
name: suffixed
seed: 3
model: {source: "tiny-random:llama", dtype: float32}
data:
  bad: {inline: [do zb1, do zb2, do zb3., do zb4, do zb5, do zb6, do zb7.], split: {train: 4, test: 3}}
  good: {inline: [g1, g2, g3, g4, g5, g6, g7, g8], split: {train: 4, test: 3}}
directions:
  badness: {estimator: mean_difference, positive: bad.train, negative: good.train, site: blocks.1.resid_post}
  everywhere: {estimator: mean_difference, positive: bad.train, negative: good.train, site: blocks.*.resid_post}
suffixes:
  nonsense:
    direction: badness
    prompts: bad.test
    reference: good.test
    suffixes: [" wuz bim", "!?"]
    random: 2
    n: 2
report: {separation: false}
"""


def planned(folder: Path, text: str = RECIPE) -> Plan:
    (folder / "suffixed.yaml").write_text(text)
    return plan_recipe(folder / "suffixed.yaml", (), Catalog.discover())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suffixed")
    (folder / "suffixed.yaml").write_text(RECIPE)
    return run_recipe(folder / "suffixed.yaml", out=folder / "runs")


def study(run: Path) -> dict[str, Any]:
    (found,) = json.loads((run / "results.json").read_text())["suffixes"]
    return dict(found)


def test_a_study_is_planned_and_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    (one,) = plan.to_json()["suffixes"]
    assert (one["prompts"], one["reference"], one["random"], one["n"]) == ("bad.test", "good.test", 2, 2)
    assert ("studies of suffixes", 2 + 2 * 3) in plan.cost.parts
    assert [note for note in plan.notes if "is not used" in note] == [
        "Direction 'everywhere' is not used by any condition."
    ]
    bare = planned(tmp_path, RECIPE[: RECIPE.index("suffixes:")])
    assert "suffixes" not in read_document(bare.report.recipe).value, "a recipe without studies is written as ever"


@pytest.mark.parametrize(
    ("before", "after", "where", "message"),
    [
        ("direction: badness", "direction: badnes", "direction", "unknown direction 'badnes'"),
        ("direction: badness", "direction: everywhere", "direction", "a study is of one: name a search"),
        ("prompts: bad.test", "prompts: bad.train", "", ""),
        ("prompts: bad.test", "prompts: bad.tset", "prompts", "tset"),
        ("reference: good.test", "reference: bad.test", "reference", "can't be compared with itself"),
        ("n: 2", "n: 4", "n", "asks for 4 prompts; bad.test has 3"),
        ('"!?"', '" wuz bim"', "suffixes.1", "stands here twice"),
        ('"!?"', '"  "', "suffixes.1", "a suffix of spaces says nothing"),
        ("random: 2", "random: 21", "random", "21"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, before: str, after: str, where: str, message: str) -> None:
    if not message:
        notes = planned(tmp_path, RECIPE.replace(before, after)).notes
        assert any("bad.train is measured on" in note for note in notes)
        return
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, RECIPE.replace(before, after))
    found = [one for one in caught.value.problems if one.where.startswith("suffixes.nonsense")]
    assert any(message in one.message and where in one.where for one in found), caught.value.problems


def test_cosines_are_those_of_the_last_token_at_every_layer(run: Path) -> None:
    groups, live = study(run)["groups"], load_model("tiny-random:llama", dtype="float32")
    vector = load_directions(run / "directions.safetensors")["badness"].vectors[0].double()
    plan = planned(run.parent)
    bad, good = ([one.text for one in plan.data[name]["test"][:2]] for name in ("bad", "good"))
    assert [one["kind"] for one in groups] == ["prompts", "reference", *["suffix", "random", "random"] * 2]

    def literal(texts: list[str]) -> torch.Tensor:
        found = []
        for text in texts:
            ids = torch.tensor([live.chat.render(text).token_ids])
            states = live.model(ids, output_hidden_states=True).hidden_states
            found.append([float(torch.cosine_similarity(states[at][0, -1].double(), vector, 0)) for at in range(3)])
        return torch.tensor(found, dtype=torch.float64)

    plain = literal(bad)
    for group in groups:
        texts = good if group["kind"] == "reference" else [text + group.get("suffix", "") for text in bad]
        expected = literal(texts)
        assert group["cosines"] == pytest.approx(expected.mean(0).tolist(), abs=1e-5)
        assert group["errors"] == pytest.approx(((expected[0] - expected[1]).abs() / 2).tolist(), abs=1e-5)
        if "suffix" in group:
            change = expected - plain
            assert group["change"] == pytest.approx(change.mean(0).tolist(), abs=1e-5)
            assert group["change_errors"] == pytest.approx(((change[0] - change[1]).abs() / 2).tolist(), abs=1e-5)


def test_random_suffixes_have_as_many_tokens_and_are_drawn_by_the_seed(run: Path) -> None:
    groups, live = study(run)["groups"], load_model("tiny-random:llama", dtype="float32")
    given = [one for one in groups if one["kind"] == "suffix"]
    drawn = [one for one in groups if one["kind"] == "random"]
    assert [one["tokens"] for one in given] == [8, 2]
    assert all(one["tokens"] == given[one["of"]]["tokens"] for one in drawn)
    assert len({one["suffix"] for one in groups if "suffix" in one}) == 6
    special = set(live.chat.tokenizer.all_special_ids)
    for one in drawn:
        assert not special & set(live.chat.tokenizer.encode(one["suffix"], add_special_tokens=False))

    def texts(seed: int) -> list[str]:
        return [random_text(live.chat.tokenizer, ["do zb", "do."], 5, random.Random(seed)) for _ in range(2)]

    assert texts(1) == texts(1) != texts(2)


def test_no_draw_is_no_text() -> None:
    tokenizer = tiny_live("llama").chat.tokenizer
    piece = next(one for one in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([one]))

    class Never(random.Random):
        def choice(self, seq: Any) -> Any:
            return piece

    with pytest.raises(DataError, match="Set random: 0"):
        random_text(tokenizer, ["x"], 2, Never())


def test_the_report_tells_it_at_the_directions_layer(run: Path) -> None:
    (view,) = make_suffixes(load_run(run).results)
    assert view.layer == 2, "what leaves block 1 is read where block 2 begins"
    assert [row.name for row in view.rows] == [
        *("bad.test", "good.test", "suffix 1", "random beside 1", "random beside 1"),
        *("suffix 2", "random beside 2", "random beside 2"),
    ]
    assert len(view.sentences) == 2 and "random ones of as many tokens by" in view.sentences[0]
    page = write_report(run).read_text("utf-8")
    assert "<h2>Suffixes</h2>" in page and (run / "plots" / "suffixes-1-nonsense.svg").is_file()


def test_a_direction_of_several_vectors_is_refused(llama: Any) -> None:
    from steerkit.engine.reading.last import require_vector

    for vectors, message in (
        (torch.ones(2, 32), "has 2 vectors"),
        (torch.ones(1, 7), "has width 7"),
        (torch.zeros(1, llama.layout.d_model), "has length 0"),
    ):
        with pytest.raises(DataError, match=message):
            require_vector(llama, vectors, "r")
