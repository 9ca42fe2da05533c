"""Texts behind the user's turn: what they do along a direction, beside random ones of as many tokens."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.reading import load_run
from steerkit.catalog import Catalog
from steerkit.cli.check import print_plan
from steerkit.engine.prompts.random_text import random_text
from steerkit.errors import DataError, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.progress import SILENT
from steerkit.recipe.document import read_document
from steerkit.report import write_report
from steerkit.report.suffixes import make_suffixes
from steerkit.run import run_recipe
from steerkit.session import load_model
from steerkit.stages.suffixes import study_suffixes
from steerkit.stages.tasks import ModelUse, SuffixesTask
from steerkit.types import Example
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
    heads: 3
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
    assert ("studies of suffixes", (2 + 2 * 3) * (1 + 2)) in plan.cost.parts, "attention is read prompt by prompt"
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


def test_heads_that_add_most_are_told_with_what_they_attend_to(run: Path) -> None:
    found, live = study(run), load_model("tiny-random:llama", dtype="float32")
    vector = load_directions(run / "directions.safetensors")["badness"].vectors[0].double()
    bad = [one.text for one in planned(run.parent).data["bad"]["test"][:2]]
    groups, live.model.config._attn_implementation = found["groups"], "eager"
    plain, short = groups[0]["attribution"], live.chat.render("x")
    assert short.instruction is not None
    behind = len(short.token_ids) - short.instruction[1]
    order = sorted((-plain[layer][head], layer, head) for layer in range(3) for head in range(4))[:3]
    assert [(one["layer"], one["head"]) for one in found["heads"]] == [(layer, head) for _, layer, head in order]
    assert "normed" not in found and "notes" not in found
    for place, group in enumerate(groups):
        for one in found["heads"]:
            assert one["attribution"][place] == pytest.approx(group["attribution"][one["layer"]][one["head"]])
        if group["kind"] == "reference":
            continue
        told = {
            (one["layer"], one["head"]): (one["instruction"][place], one["suffix"][place]) for one in found["heads"]
        }
        sums = {key: [0.0, 0.0] for key in told}
        for text in bad:
            # Every character is a token of this tokenizer, so tokens are counted from the prompt's end.
            ids = live.chat.render(text + group.get("suffix", "")).token_ids
            stop, more = len(ids) - behind, len(group.get("suffix", ""))
            with torch.no_grad():
                attentions = live.model(torch.tensor([ids]), output_attentions=True).attentions
            for (layer, head), both in sums.items():
                weights = attentions[layer][0, head, -1]
                both[0] += float(weights[stop - more - len(text) : stop - more].sum()) / 2
                both[1] += float(weights[stop - more : stop].sum()) / 2
        for key, both in sums.items():
            assert told[key] == pytest.approx(tuple(both), abs=1e-5)
    layer = groups[0]["attribution"][1]
    z: list[torch.Tensor] = []
    projection = live.model.model.layers[1].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda module, args: z.append(args[0][0, -1].double()))
    for text in bad:
        live.model(torch.tensor([live.chat.render(text).token_ids]))
    handle.remove()
    weight = projection.weight.detach().double()
    for head in range(4):
        own = slice(head * weight.shape[1] // 4, (head + 1) * weight.shape[1] // 4)
        added = [float(weight[:, own] @ one[own] @ vector / vector.norm()) for one in z]
        assert layer[head] == pytest.approx(sum(added) / 2, abs=1e-5)


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


@pytest.mark.parametrize(
    ("kind", "normed", "note"),
    [("gemma3_text", True, ""), ("qwen3_next", None, "the model gives no attention weights")],
)
def test_other_families_tell_what_they_can(kind: str, normed: bool | None, note: str) -> None:
    live = tiny_live(kind)
    prompts = tuple(Example.of(text) for text in ("do zb1", "do"))
    model = cast(ModelUse, None)
    task = SuffixesTask(model, "r", prompts, prompts[:1], (" wuz",), 0, 0, 12)
    ones = torch.ones(1, live.layout.d_model)
    found = study_suffixes(task, cast(Any, SimpleNamespace(name="r", vectors=ones)), live, SILENT)
    assert found["normed"] is normed and len(found["heads"]) == 12
    assert [note in one for one in found["notes"]] == [True] * bool(note)
    assert all(("instruction" in one) is not bool(note) for one in found["heads"])
    for group in found["groups"]:
        assert [len(layer) for layer in group["attribution"]] == [4] * 3
    bare = study_suffixes(replace(task, heads=0), cast(Any, SimpleNamespace(name="r", vectors=ones)), live, SILENT)
    assert set(bare) == {"groups"} and bare["groups"][0]["cosines"] == found["groups"][0]["cosines"]
    assert all(group["attribution"] == [] for group in bare["groups"])


def test_a_check_lists_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(planned(tmp_path))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["nonsense", "badness", "bad.test", "good.test", "2", "2"] in lines


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
    assert len(view.heads) == 3 and view.attends and (run / "plots" / "suffix-heads-1-nonsense.svg").is_file()
    assert " and " in view.heads[0].cells[2][1] and " and " not in view.heads[0].cells[0][1]


def test_a_direction_of_several_vectors_is_refused(llama: Any) -> None:
    from steerkit.engine.reading.last import require_vector

    for vectors, message in (
        (torch.ones(2, 32), "has 2 vectors"),
        (torch.ones(1, 7), "has width 7"),
        (torch.zeros(1, llama.layout.d_model), "has length 0"),
    ):
        with pytest.raises(DataError, match=message):
            require_vector(llama, vectors, "r")
