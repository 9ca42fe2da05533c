"""What the model itself says as data, from YAML to results, on a tiny model, against the same made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit import stages
from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.rundir import plain
from steerkit.catalog import Catalog
from steerkit.errors import DataError, NoCandidateError, PositionError
from steerkit.executors import local
from steerkit.plan import DataRef, Plan, plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.session import add
from steerkit.stages import Task, carry_out
from steerkit.stages.tasks import CompletionsTask
from steerkit.types import Example
from tests.conftest import tiny_live

RECIPE = """\
name: answers
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm:
    inline: [sun one, sun two, sun three, sun four, sun five, sun six, sun seven, sun eight]
    split: {train: 4, test: 4}
  cold:
    inline:
      - {text: ice one, tone: hard, name: a, topic: sea}
      - {text: ice two, tone: soft, name: b, topic: sea}
      - {text: ice three, tone: soft, name: c, topic: sky}
      - {text: ice four, tone: hard, name: d, topic: sky}
    field: text
    label: tone
    id: name
    split: {train: 2, test: 2}
  said: {completions: {of: cold, max_new_tokens: 5}}
  steered: {completions: {of: cold, condition: warmer, max_new_tokens: 5}}
  asked: {completions: {of: cold.test, condition: prompted, max_new_tokens: 5}}
  spoken: {completions: {of: warm.test, condition: "talkative[coefficient=3]", max_new_tokens: 4}}
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words, which is longer."]}
  given: {inline: [{text: sky one, answer: blue}, {text: sky two, answer: as blue as ice}], completion: answer}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  talk:
    {estimator: mean_difference, positive: steered.train, negative: said.train, site: blocks.1.resid_pre,
     positions: completion}
conditions:
  warmer: [{add: {direction: warmth, coefficient: 30.0}}]
  talkative: {interventions: [{add: {direction: talk}}], sweep: {coefficient: [3, 5]}}
  prompted: {system_prompt: Speak of the sea.}
evaluate:
  - cross_entropy: {data: [said.test, steered.test, asked.test, spoken.test, text, given]}
  - cross_entropy: {name: own, data: cold.test, of: baseline_completions, max_new_tokens: 5}
  - refusal_score: {data: steered.test, tokens: [x]}
control: {random_directions: 1}
report:
  separation: false
  samples: {data: steered.test, n: 2, max_new_tokens: 4}
"""
STABLE = ("results.json", "samples.jsonl", "recipe.yaml", "directions.safetensors", "completions-spoken.jsonl")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "answers.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run for all who only read it."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "answers.yaml").write_text(RECIPE, "utf-8")
    return run_recipe(folder / "answers.yaml", out=folder / "runs")


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"completions-{name}.jsonl").read_text("utf-8").splitlines()]


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text("utf-8"))
    return found


def test_examples_are_the_prompts_with_what_the_model_says_under_the_condition(run: Path, recipe: Path) -> None:
    live = tiny_live("llama")
    directions = load_directions(run / "directions.safetensors")
    decode = live.chat.tokenizer.decode
    under: dict[str, list[Any]] = {"said": [], "steered": [add(directions["warmth"], coefficient=30.0)]}
    under["spoken"] = [add(directions["talk"], coefficient=3.0)]
    for name, placements in under.items():
        found = rows(run, name)
        prompts, length = [row["prompt"] for row in found], 4 if name == "spoken" else 5
        with live.steer(*placements):
            ids = live.complete(prompts, max_new_tokens=length)
        assert [row["completion"] for row in found] == [decode(one, skip_special_tokens=True) for one in ids], name
    by_prompt = {row["prompt"]: row for row in rows(run, "steered")}
    assert by_prompt["ice three"]["label"] == "soft" and by_prompt["ice three"]["id"] == "c"
    assert by_prompt["ice three"]["fields"] == {"topic": "sky", "condition": "warmer"}
    assert rows(run, "said")[0]["fields"]["condition"] == "baseline"
    # The parts are those of the prompts.
    plan = plan_recipe(recipe, (), Catalog.discover())
    for name in ("said", "steered"):
        for split in ("train", "test"):
            theirs = [one.text for one in plan.examples(DataRef("cold", split))]
            assert [row["prompt"] for row in rows(run, name) if row["split"] == split] == theirs


def test_a_direction_between_completions_is_the_difference_of_their_mean_activations(run: Path) -> None:
    live = tiny_live("llama")

    def mean(name: str) -> torch.Tensor:
        total, count = torch.zeros(live.layout.d_model, dtype=torch.float64), 0
        for row in rows(run, name):
            if row["split"] != "train":
                continue
            read = live.chat.render(replace(Example.of(row["prompt"]), completion=row["completion"]), completion=True)
            with torch.no_grad():
                found = live.model(torch.tensor([read.token_ids]), output_hidden_states=True).hidden_states[1][0]
            total += found[read.prompt :].double().mean(0)
            count += 1
        return total / count

    expected = mean("steered") - mean("said")
    found = load_directions(run / "directions.safetensors")["talk"].vectors[0].double()
    assert torch.allclose(found, expected, atol=1e-5)


def literal(ids: Sequence[int], prompt: int, placements: list[Any]) -> tuple[float, int]:
    """Sum of −log p over the tokens behind a prompt of so many, and how many they are."""
    live = tiny_live("llama")
    with live.steer(*placements), torch.no_grad():
        logits = live.model(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[at - 1, ids[at]]) for at in range(prompt, len(ids))), len(ids) - prompt


def texts_read(run: Path, name: str, system_prompt: str | None) -> list[tuple[Sequence[int], int]]:
    """Token ids of what is read under a condition with a system prompt, and how many of them are context."""
    live = tiny_live("llama")
    chat = live.chat if system_prompt is None else live.chat.with_system_prompt(system_prompt)
    plan = planned(run / "recipe.yaml")
    if name == "text":
        return [(live.chat.tokenizer(one.text)["input_ids"], 1) for one in plan.examples(DataRef("text"))]
    if name == "cold.test":
        prompts = [one.text for one in plan.examples(DataRef("cold", "test"))]
        own = live.complete(prompts, max_new_tokens=5)
        read = [chat.render(prompt).token_ids for prompt in prompts]
        return [((*one, *ids), len(one)) for one, ids in zip(read, own, strict=True)]
    if name == "given":
        examples = list(plan.examples(DataRef("given")))
    else:
        examples = [
            replace(Example.of(row["prompt"]), completion=row["completion"])
            for row in rows(run, name.removesuffix(".test"))
            if row["split"] == "test"
        ]
    whole = [chat.render(one, completion=True) for one in examples]
    return [(one.token_ids, one.prompt or 0) for one in whole]


def test_cross_entropy_of_completions_is_the_mean_over_their_tokens_under_every_condition(run: Path) -> None:
    """A prompted condition's completions too: each condition reads them behind its own system prompt."""
    directions = load_directions(run / "directions.safetensors")
    steering: dict[str, tuple[str | None, list[Any]]] = {
        "baseline": (None, []),
        "warmer": (None, [add(directions["warmth"], coefficient=30.0)]),
        "talkative[coefficient=3]": (None, [add(directions["talk"], coefficient=3.0)]),
        "prompted": ("Speak of the sea.", []),
    }
    records = {(one["condition"], one["data"]): one for one in results(run)["records"] if one["unit"] == "nats"}
    for condition, (system_prompt, placements) in steering.items():
        for name in ("said.test", "steered.test", "asked.test", "spoken.test", "text", "given", "cold.test"):
            sums = [literal(ids, prompt, placements) for ids, prompt in texts_read(run, name, system_prompt)]
            expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
            assert records[condition, name]["value"] == pytest.approx(expected, rel=1e-5), (condition, name)
    baseline, prompted = records["baseline", "asked.test"], records["prompted", "asked.test"]
    assert prompted["difference"] == pytest.approx(prompted["value"] - baseline["value"])
    assert prompted["value"] < baseline["value"], "a model predicts what it says under a prompt best under that prompt"


def test_where_completions_come_from_is_told(run: Path) -> None:
    entries = {entry["data"]: entry for entry in results(run)["completions"]}
    assert list(entries) == ["said", "steered", "asked", "spoken"]
    assert entries["spoken"]["of"] == ["warm.test"] and entries["spoken"]["condition"] == "talkative[coefficient=3]"
    assert entries["said"]["examples"] == 4 and entries["said"]["left_out"] == 0
    live = tiny_live("llama")
    other = 0
    for row in rows(run, "said"):
        (ids,) = live.complete([row["prompt"]], max_new_tokens=5)
        read = live.chat.render(replace(Example.of(row["prompt"]), completion=row["completion"]), completion=True)
        other += list(read.token_ids[read.prompt :]) != ids
    assert other and entries["said"]["other_tokens"] == other, "bytes that are no text are read as others"
    page = write_report(run).read_text("utf-8").replace("<wbr>", "")
    assert "spoken: greedy completions of warm.test under talkative[coefficient=3], up to 4 tokens" in page
    assert "Cross-entropy by kind of text" in page
    for kind in (
        "what the model says to cold.test under prompted, without the prompts (two texts)",
        "the completions that given gives, without their prompts (two texts)",
        "the texts of text, up to 256 tokens of each (two texts)",
        "the model&#39;s own baseline completions of cold.test, up to 5 tokens (two texts)",
    ):
        assert kind in page
    shown = [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    assert {line["example"]["fields"]["condition"] for line in shown if line["data"] == "steered.test"} == {"warmer"}


def carried(monkeypatch: pytest.MonkeyPatch, dies_at: int = 0) -> list[Task]:
    """The tasks that are carried out from now on; the process dies after so many units."""
    found: list[Task] = []

    def counts(tasks: Any, *args: Any) -> dict[str, bytes]:
        if dies_at and len(found) >= dies_at:
            raise KeyboardInterrupt
        found.extend(tasks)
        return carry_out(tasks, *args)

    monkeypatch.setattr(local, "carry_out", counts)
    return found


def test_a_condition_that_can_not_work_is_named_with_the_data_set_that_it_is_for(recipe: Path, tmp_path: Path) -> None:
    far = recipe.read_text("utf-8").replace("coefficient: 30.0}}", 'coefficient: 30.0, positions: "[-900]"}}')
    recipe.write_text(far, "utf-8")
    with pytest.raises(PositionError, match=r"^Data set steered, condition warmer: Positions '-900': row 1 has only"):
        run_recipe(recipe, out=tmp_path / "runs")


@pytest.mark.parametrize("dies_at", [2, 5])
def test_a_run_that_is_killed_while_the_model_speaks_ends_with_the_same_bytes(
    run: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    with monkeypatch.context() as patch:
        before = carried(patch, dies_at)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    assert any(task.part == "completions" for task in before)
    after = carried(monkeypatch)
    finished = run_recipe(recipe, out=tmp_path / "killed")
    assert after and not {task.key for task in before} & {task.key for task in after}
    for name in STABLE:
        assert (finished / name).read_bytes() == (run / name).read_bytes(), name


def test_what_is_said_is_written_once(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions that data and an evaluator both need, and a direction that completions and conditions both need."""
    recipe.write_text(recipe.read_text("utf-8") + "  title: again\n", "utf-8")
    text = recipe.read_text("utf-8").replace(
        "evaluate:\n", "evaluate:\n  - refusal_rate: {data: cold.test, max_new_tokens: 5}\n"
    )
    recipe.write_text(text, "utf-8")
    tasks = carried(monkeypatch)
    run_recipe(recipe, out=tmp_path / "runs")
    keys = [task.key for task in tasks]
    assert len(keys) == len(set(keys))
    asked = {one.text for one in planned(recipe).examples(DataRef("cold", "test"))}
    payloads = [task.payload for task in tasks if isinstance(task.payload, CompletionsTask)]
    plain_ones = [one for one in payloads if one.group.condition is None and one.new_tokens == 5]
    unsteered = [one for one in plain_ones if {row.text for row in one.examples} == asked]
    assert len(unsteered) == 1


def planned(recipe: Path) -> Plan:
    return plan_recipe(recipe, (), Catalog.discover())


def outputs_of(
    plan: Plan, name: str, ids: dict[str, list[list[int]]]
) -> tuple[Any, dict[DataRef, Any], dict[str, bytes]]:
    """A data set of completions with made-up outputs, ``{split: token ids}``."""
    (one,) = [item for item in plan.completions if item.name == name]
    tasks = {ref: Task("completions", ref.split, None, {}, "", "completions", "") for ref in one.of}  # type: ignore[arg-type]  # only keys are read
    return one, tasks, {split: json.dumps([{"ids": rows}]).encode() for split, rows in ids.items()}


def test_prompts_to_which_the_model_says_nothing_are_left_out_and_counted(recipe: Path) -> None:
    plan, live = planned(recipe), tiny_live("llama")
    tokenizer = live.chat.tokenizer
    end, letter, space = tokenizer.eos_token_id, tokenizer.encode("k")[-1], tokenizer.encode(" ")[-1]
    one, tasks, outputs = outputs_of(plan, "said", {"train": [[end], [letter, end]], "test": [[letter] * 5, [space]]})
    full, entry = stages.completed(plan, one, tasks, outputs, live)
    assert [row.completion for row in full.examples(DataRef("said", "train"))] == ["k"]
    assert [row.completion for row in full.examples(DataRef("said", "test"))] == ["kkkkk"]
    assert full.examples(DataRef("said", "train"))[0].text == plan.examples(DataRef("cold", "train"))[1].text
    assert plain(entry.model_dump())["left_out"] == 2 and entry.examples == 2 and entry.other_tokens == 0
    one, tasks, outputs = outputs_of(plan, "said", {"train": [[end], [end]], "test": [[letter], [letter]]})
    with pytest.raises(DataError, match=r"says nothing to any of the 2 prompts of said\.train"):
        stages.completed(plan, one, tasks, outputs, live)


def test_a_pair_is_left_out_where_one_side_has_nothing_to_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\n'
        "data:\n"
        "  sides: {inline: [{a: w1, b: c1}, {a: w2, b: c2}, {a: w3, b: c3}], "
        "pairs: {of: prompts, positive: a, negative: b}}\n"
        "  said: {completions: {of: sides, max_new_tokens: 3}}\n"
        "directions:\n"
        "  talk: {estimator: mean_difference, positive: said.positive, negative: said.negative, "
        "site: blocks.1.resid_pre, positions: completion}\n",
        "utf-8",
    )
    plan, live = planned(path), tiny_live("llama")
    end, letter = live.chat.tokenizer.eos_token_id, live.chat.tokenizer.encode("k")[-1]
    spoken = [[letter], [letter], [letter]]
    one, tasks, outputs = outputs_of(plan, "said", {"positive": spoken, "negative": [[letter], [end], [letter]]})
    full, entry = stages.completed(plan, one, tasks, outputs, live)
    assert [row.pair for row in full.examples(DataRef("said", "positive"))] == [0, 2]
    assert [row.pair for row in full.examples(DataRef("said", "negative"))] == [0, 2]
    assert (entry.examples, entry.left_out) == (4, 2)


def test_completions_follow_a_filter_of_their_prompts(recipe: Path, tmp_path: Path) -> None:
    scored = run_recipe(recipe, overrides=["evaluate=[{refusal_score: {data: cold.test, tokens: [x]}}]"], out=tmp_path)
    lines = [json.loads(line) for line in (scored / "samples.jsonl").read_text("utf-8").splitlines()]
    plain_lines = [one for one in lines if one["data"] == "cold.test" and one["condition"] == "baseline"]
    values = [one["scores"]["refusal_score"] for one in plain_lines]
    between = sum(values) / 2
    keep = f"filter={{cold: {{refusal_score: {{tokens: [x], at_most: {between}, parts: [test]}}}}}}"
    run = run_recipe(recipe, overrides=[keep], out=tmp_path)
    assert [entry["kept"] for entry in results(run)["filters"]] == [1]
    assert [row["split"] for row in rows(run, "said")] == ["train", "train", "test"]
    assert results(run)["data"]["steered.test"] == 1


SEARCHED = """\
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6, w7, w8], split: {train: 4, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6, c7, c8], split: {train: 4, validation: 2, test: 2}}
  said: {completions: {of: warm.test, condition: added, max_new_tokens: 3}}
directions:
  candidates:
    {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre,
     positions: "[-2:][*]"}
search:
  warmth:
    over: candidates
    scores: {induce: {refusal_score: {data: cold.validation, under: [add], tokens: [x]}}}
    maximise: induce
    subject_to: {induce: {score: induce, at_least: -100}}
conditions:
  added: [ {add: {direction: warmth}} ]
evaluate:
  - cross_entropy: {data: said.test}
control: false
"""


def test_a_condition_along_a_direction_that_a_search_chooses_makes_it_first(tmp_path: Path) -> None:
    path = tmp_path / "searched.yaml"
    path.write_text(SEARCHED, "utf-8")
    run, live = run_recipe(path, out=tmp_path / "runs"), tiny_live("llama")
    direction = load_directions(run / "directions.safetensors")["warmth"]
    with live.steer(add(direction)):
        ids = live.complete([row["prompt"] for row in rows(run, "said")], max_new_tokens=3)
    decoded = [live.chat.tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    assert [row["completion"] for row in rows(run, "said")] == decoded
    path.write_text(SEARCHED.replace("-100", "100"), "utf-8")
    with pytest.raises(NoCandidateError):
        run_recipe(path, out=tmp_path / "none")
    (unfinished,) = (one for one in (tmp_path / "none").iterdir() if one.name[0] != ".")
    assert json.loads((unfinished / "candidates-warmth.json").read_text("utf-8")), "nothing is lost"


def test_a_study_of_suffixes_stands_beside_what_the_model_says(recipe: Path, tmp_path: Path) -> None:
    """Its direction isn't among those that completions need."""
    study = "suffixes: {nonsense: {direction: other, prompts: cold.test, suffixes: [' zub'], heads: 0}}\n"
    other = (
        "directions:\n  other: {estimator: mean_difference, positive: cold.train, negative: warm.train, "
        "site: blocks.1.resid_mid}\n"
    )
    recipe.write_text(study + recipe.read_text("utf-8").replace("directions:\n", other, 1), "utf-8")
    run = run_recipe(recipe, out=tmp_path / "runs")
    assert [one["name"] for one in json.loads((run / "results.json").read_text("utf-8"))["suffixes"]] == ["nonsense"]
