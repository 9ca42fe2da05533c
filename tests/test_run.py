"""The main path on a tiny model: files, records, controls, resumption, and equal bytes for equal runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit import stages
from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.rundir import STAGES
from steerkit.errors import RecipeError
from steerkit.report import load_run, write_report
from steerkit.run import run_recipe
from steerkit.types import Site
from tests.conftest import tiny_live

RECIPE = """
name: small
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm:
    inline: [sun one, sun two, sun three, sun four, sun five, sun six, sun seven, sun eight]
    split: {train: 4, test: 4}
  cold:
    inline: [ice one, ice two, ice three, ice four, ice five, ice six, ice seven, ice eight]
    split: {train: 4, test: 4}
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words."]}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 3.0}
  without:
    - ablate: {direction: warmth}
  dose:
    interventions:
      - add: {direction: warmth}
    sweep: {coefficient: [-2, 2]}
    control: false
evaluate:
  - refusal_score: {data: [warm.test, cold.test]}
  - kl_divergence: {data: cold.test}
  - refusal_rate: {data: cold.test, max_new_tokens: 4}
  - cross_entropy: {data: text}
control: {random_directions: 2}
report:
  samples: {data: cold.test, n: 2, max_new_tokens: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def results_of(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "results.json").read_text())
    return loaded


def test_a_recipe_ends_in_a_whole_run_directory(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path / "runs")
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.yaml",
        "plan.json",
        "directions.safetensors",
        "results.json",
        "samples.jsonl",
        "timings.json",
        "provenance.json",
        "run.log",
    }
    log = (run / "run.log").read_text()
    assert "condition 1 of 9: baseline" in log and log.splitlines()[0].endswith(str(run))
    assert "conditions 6 to 9 of 9: warmer/random-1, " in log
    results = results_of(run)
    conditions = {item["name"]: item for item in results["conditions"]}
    expected = ["baseline", "warmer", "warmer/random-1", "warmer/random-2", "without"]
    expected += ["without/random-1", "without/random-2", "dose[coefficient=-2]", "dose[coefficient=2]"]
    assert list(conditions) == expected
    assert conditions["warmer/random-1"]["of"] == "warmer"
    assert conditions["without"]["interventions"][0]["sites"][0] == "embed"
    jobs = [("refusal_score", "warm.test"), ("refusal_score", "cold.test"), ("kl_divergence", "cold.test")]
    jobs += [("refusal_rate", "cold.test"), ("cross_entropy", "text"), ("perplexity", "text")]
    found = [(item["condition"], item["evaluator"], item["data"]) for item in results["records"]]
    assert sorted(found) == sorted((name, *job) for name in conditions for job in jobs)
    for record in results["records"]:
        assert record["ci_low"] <= record["value"] <= record["ci_high"], record
    assert len(results["separation"]) == tiny_live("llama").layout.n_layers + 1
    assert all(row["held_out"] and row["n_positive"] == 4 for row in results["separation"])
    page = write_report(run)
    assert "warmer" in page.read_text()
    assert load_run(run).results.name == "small"


def test_records_are_what_the_python_interface_gives(recipe: Path, tmp_path: Path) -> None:
    """The runner against the same measurement made by hand."""
    import torch

    from steerkit.engine.reading.passes import next_token_logits
    from steerkit.session import add

    run = run_recipe(recipe, out=tmp_path)
    live = tiny_live("llama")
    direction = load_directions(run / "directions.safetensors")["warmth"]
    prompts = json.loads((run / "plan.json").read_text())["data"]
    assert prompts["cold.test"] == 4
    texts = [
        row["prompt"]
        for row in map(json.loads, (run / "samples.jsonl").read_text().splitlines())
        if row["condition"] == "warmer" and row["data"] == "cold.test"
    ]
    baseline = next_token_logits(live, texts).double().softmax(-1)
    with live.steer(add(direction, coefficient=3.0)):
        steered = next_token_logits(live, texts).double().softmax(-1)
    expected = (baseline * ((baseline + 1e-6).log() - (steered + 1e-6).log())).sum(-1).mean()
    (record,) = (
        item
        for item in results_of(run)["records"]
        if item["condition"] == "warmer" and item["evaluator"] == "kl_divergence"
    )
    assert record["value"] == pytest.approx(float(expected), rel=1e-4)
    assert torch.isfinite(expected) and expected > 0.01


def test_controls_have_the_directions_norm_and_are_seeded(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path)
    direction = load_directions(run / "directions.safetensors")["warmth"]
    one, again, other = (stages.random_like(direction, 7, number) for number in (1, 1, 2))
    assert one.vectors.equal(again.vectors) and not one.vectors.equal(other.vectors)
    assert float(one.vectors.norm()) == pytest.approx(float(direction.vectors.norm()), rel=1e-6)


STABLE = ["recipe.yaml", "plan.json", "directions.safetensors", "results.json", "samples.jsonl", "provenance.json"]


def test_equal_runs_are_equal_to_the_byte(recipe: Path, tmp_path: Path) -> None:
    first, second = (run_recipe(recipe, out=tmp_path / name) for name in ("a", "b"))
    for name in STABLE:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    # The page says how long the run took, which is all that may differ.
    (second / "timings.json").write_bytes((first / "timings.json").read_bytes())
    assert write_report(first).read_bytes() == write_report(second).read_bytes()


def test_another_seed_gives_another_directory_and_other_controls(recipe: Path, tmp_path: Path) -> None:
    first = run_recipe(recipe, out=tmp_path)
    second = run_recipe(recipe, out=tmp_path, overrides=["seed=8"])
    assert first.name.rsplit("-", 1)[1] != second.name.rsplit("-", 1)[1]


@pytest.mark.parametrize(
    ("where", "dies_at", "done"),
    # Between groups, and within one: each looks along three data sets.
    [("run_many", 2, 1), ("run_many", 3, 2), ("_sequence_scores", 2, 0), ("_sequence_scores", 6, 1)],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, dies_at: int, done: int
) -> None:
    """Groups of conditions are the same in every try, wherever the first one was stopped: before one, or within."""
    whole = run_recipe(recipe, out=tmp_path / "whole")
    from steerkit.engine.measuring.evaluate import Evaluation

    ran: list[int] = []
    groups: list[int] = []
    original, run_many = getattr(Evaluation, where), Evaluation.run_many

    def dies(self: Evaluation, *args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        if len(ran) == dies_at:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    def counts(self: Evaluation, conditions: Any, **kwargs: Any) -> Any:
        groups.append(len(conditions))
        return run_many(self, conditions, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, where, dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    (unfinished,) = (tmp_path / "killed").iterdir()
    assert (unfinished / STAGES).is_dir() and not (unfinished / "results.json").exists()
    monkeypatch.setattr(Evaluation, "run_many", counts)
    finished = run_recipe(recipe, out=tmp_path / "killed")
    assert finished == unfinished
    # The baseline, four conditions, four controls.
    assert groups == [1, 4, 4][done:], "groups that were done are not done again"
    for name in STABLE:
        assert (finished / name).read_bytes() == (whole / name).read_bytes(), name
    assert run_recipe(recipe, out=tmp_path / "killed") != finished, "a finished run is left alone"


def test_conditions_that_share_batches_give_what_each_gives_alone(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerkit.engine.measuring.evaluate import Evaluation

    shared = run_recipe(recipe, out=tmp_path / "shared")
    monkeypatch.setattr(Evaluation, "group_sizes", lambda self, conditions, **_: [1] * conditions)
    alone = run_recipe(recipe, out=tmp_path / "alone")
    assert "conditions 2 to 5 of 9: warmer, without, dose" in (shared / "run.log").read_text()
    assert "condition 5 of 9: without" in (alone / "run.log").read_text()
    one, other = (
        [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()] for run in (shared, alone)
    )
    assert [row.get("completion") for row in one] == [row.get("completion") for row in other]
    for left, right in zip(results_of(shared)["records"], results_of(alone)["records"], strict=True):
        named = ("condition", "evaluator", "data", "n")
        assert [left[key] for key in named] == [right[key] for key in named]
        for key in ("value", "ci_low", "ci_high", "difference"):
            expected = None if right[key] is None else pytest.approx(right[key], rel=1e-4, abs=1e-5)
            assert left[key] == expected, (left["condition"], key)


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [
        # A batch holds no condition's prompts with their new tokens, so each is alone.
        (40, [1] * 9),
        # Room for two conditions while completions are written, the dearest part.
        (160, [1, 2, 2, 2, 2]),
        (4096, [1, 4, 4]),
    ],
)
def test_groups_are_as_large_as_batches_have_room(recipe: Path, budget: int, sizes: list[int]) -> None:
    import torch

    from steerkit.api.direction import Direction
    from steerkit.catalog import Catalog
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.plan import plan_recipe
    from steerkit.progress import SILENT
    from steerkit.session import wrap
    from steerkit.types import Site

    plan = plan_recipe(recipe, [f"model.batch_tokens={budget}"], Catalog.discover())
    live = wrap(tiny_model("llama"), tiny_tokenizer(), batch_tokens=budget)
    direction = Direction(torch.ones(1, live.layout.d_model), Site("resid_pre", 1), name="warmth")
    conditions = stages.conditions(plan, {"warmth": direction})
    groups = stages.groups(conditions, stages.evaluation(plan, live, SILENT))
    assert [len(group) for group in groups] == sizes
    assert sorted(one.name for group in groups for one in group) == sorted(one.name for one in conditions)
    assert all(len({one.kind for one in group}) == 1 for group in groups), "what is run together makes the same passes"


def test_a_run_of_other_weights_is_not_continued(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder with other weights in it is another model, whatever the recipe says."""
    from steerkit.engine.measuring.evaluate import Evaluation
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path / "model"
    model = tiny_model("llama")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    source = [f"model.source={folder}"]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "run_many", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "runs", overrides=source)
    (unfinished,) = (tmp_path / "runs").iterdir()
    tiny_model("llama", seed=5).save_pretrained(folder)
    finished = run_recipe(recipe, out=tmp_path / "runs", overrides=source)
    assert finished != unfinished
    fresh = run_recipe(recipe, out=tmp_path / "fresh", overrides=source)
    assert (finished / "results.json").read_bytes() == (fresh / "results.json").read_bytes()


def test_a_direction_file_must_hold_the_direction(recipe: Path, tmp_path: Path) -> None:
    import torch

    from steerkit.api.direction import Direction
    from steerkit.artifacts.directions import save_directions
    from steerkit.errors import ArtifactError
    from steerkit.types import Site

    two = [Direction(torch.ones(1, 32), Site("resid_pre", 1), name=name) for name in ("cold", "formal")]
    save_directions(tmp_path / "two.safetensors", two)
    saved = tmp_path / "saved.yaml"
    classes = "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}"
    saved.write_text(RECIPE.replace(classes, "{file: two.safetensors}"))
    with pytest.raises(ArtifactError, match="cold, formal"):
        run_recipe(saved, out=tmp_path / "runs")


def test_two_runs_at_once_never_share_a_directory(tmp_path: Path) -> None:
    from steerkit.artifacts.rundir import RunDirectory

    with RunDirectory.open(tmp_path, "small", "0" * 64) as one, RunDirectory.open(tmp_path, "small", "0" * 64) as two:
        assert one.path != two.path
    with RunDirectory.open(tmp_path, "small", "0" * 64) as third:
        assert third.resumed and third.path in (one.path, two.path)


def test_a_bad_recipe_runs_nothing(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Nothing was run"):
        run_recipe(recipe, out=tmp_path / "runs", overrides=["model.dtype=float23"])
    assert not (tmp_path / "runs").exists()


def test_a_direction_from_a_file_gives_the_same_records(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path / "runs")
    saved = tmp_path / "saved.yaml"
    saved.write_text(
        RECIPE.replace(
            "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}",
            f"{{file: {run / 'directions.safetensors'}}}",
        )
    )
    other = run_recipe(saved, out=tmp_path / "runs")
    assert results_of(other)["records"] == results_of(run)["records"]
    assert any("from a file" in note for note in results_of(other)["notes"])


def test_a_recipe_may_measure_the_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\n'
        "data: {a: {inline: [one, two, three]}}\n"
        "evaluate: [{refusal_score: {data: a}}]\n"
    )
    run = run_recipe(path, out=tmp_path / "runs")
    (record,) = results_of(run)["records"]
    assert record["condition"] == "baseline" and record["n"] == 3
    assert not (run / "directions.safetensors").exists()
    write_report(run)


def test_a_recipe_with_one_prompt_per_class_says_what_it_cannot_know(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\n'
        "data: {a: {inline: [one]}, b: {inline: [two]}, c: {inline: [three]}}\n"
        "directions:\n"
        "  d: {estimator: mean_difference, positive: a, negative: b, site: blocks.0.resid_post}\n"
        "conditions: {c: [{add: {direction: d}}]}\n"
        "evaluate: [{refusal_score: {data: c}}]\n"
    )
    run = run_recipe(path, out=tmp_path / "runs")
    results = results_of(run)
    assert all(record["standard_error"] is None and record["ci_low"] is None for record in results["records"])
    assert all(row["d_prime"] is None and not row["held_out"] for row in results["separation"])
    write_report(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("conditions.warmer.0.add.sites=[blocks.99.resid_pre]", "Condition warmer: .*layers"),
        ("conditions.warmer.0.add.coefficient=[1, 2]", "Condition warmer"),
        ("conditions.warmer.0.add.positions=-500", "Condition warmer: .*has only"),
    ],
)
def test_an_impossible_condition_is_found_before_anything_is_measured(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    from steerkit.engine.measuring.evaluate import Evaluation
    from steerkit.errors import SteerkitError

    measured: list[int] = []
    original = Evaluation.run
    monkeypatch.setattr(Evaluation, "run_many", lambda *args, **kwargs: measured.append(1) or original(*args, **kwargs))
    with pytest.raises(SteerkitError, match=message):
        run_recipe(recipe, out=tmp_path, overrides=[change])
    assert not measured


PAIRED = """
name: paired
seed: 3
model: {source: "tiny-random:llama", dtype: float32, chat_template_arguments: {tone: dry}}
data:
  caa:
    file: caa.jsonl
    field: question
    label: topic
    id: name
    pairs: {of: completions, positive: matching, negative: other}
    split: {train: 5, test: 3}
directions:
  truth:
    estimator: mean_difference
    positive: caa.train.positive
    negative: caa.train.negative
    site: blocks.1.resid_pre
    positions: "completion"
conditions:
  more: [ {add: {direction: truth, coefficient: 2.0, positions: "user[-1]"}} ]
evaluate:
  - cross_entropy: {data: [caa.test.positive, caa.test.negative]}
  - refusal_rate: {data: caa.test.positive, max_new_tokens: 3}
control: {random_directions: 1}
"""


def test_pairs_of_completions_run_and_reach_samples_and_the_report(tmp_path: Path) -> None:
    answers = [("yes", "no"), ("surely", "never"), ("so it is", "not so")]
    rows = [
        {
            "question": f"Is {n} even?",
            "matching": f" {answers[n % 3][0]} {n}",
            "other": f" {answers[n % 3][1]} {n}",
            "topic": "odd" if n % 2 else "even",
            "name": f"row-{n}",
            "more": {"n": n},
        }
        for n in range(8)
    ]
    (tmp_path / "caa.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "paired.yaml").write_text(PAIRED, "utf-8")
    path = run_recipe(tmp_path / "paired.yaml", out=tmp_path / "runs")
    results = json.loads((path / "results.json").read_text("utf-8"))
    values = {(one["condition"], one["evaluator"], one["data"]): one["value"] for one in results["records"]}
    # The loss is that of the completion's own tokens behind its prompt, by literal code.
    from tests.conftest import tiny_live

    live, by_name = tiny_live("llama"), {row["name"]: row for row in rows}
    samples = [json.loads(line) for line in (path / "samples.jsonl").read_text("utf-8").splitlines()]
    for side, key in (("positive", "matching"), ("negative", "other")):
        total = count = 0.0
        mine = [one for one in samples if one["data"] == f"caa.test.{side}" and one["condition"] == "baseline"]
        assert len(mine) == 3
        for sample in mine:
            about = sample["example"]
            row = by_name[about["id"]]
            assert (about["label"], about["completion"], about["fields"]) == (
                row["topic"],
                row[key],
                {"more": row["more"]},
            )
            assert sample["prompt"] == row["question"]
            loss, tokens = _loss(live, row["question"], row[key])
            total, count = total + loss, count + tokens
        assert values[("baseline", "cross_entropy", f"caa.test.{side}")] == pytest.approx(total / count, rel=1e-5)
    (direction,) = load_directions(path / "directions.safetensors").values()
    assert str(direction.positions) == "completion"
    html = write_report(path).read_text("utf-8")
    assert "label: odd" in html or "label: even" in html


def _loss(live: Any, prompt: str, completion: str) -> tuple[float, int]:
    """Sum of negative log-probabilities of a completion's tokens, and how many there are."""
    import torch

    ids = live.chat.render(prompt).token_ids
    own = tuple(live.tokenizer.encode(completion, add_special_tokens=False))
    with torch.no_grad():
        logits = live.model(torch.tensor([[*ids, *own]])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[len(ids) - 1 + at, token]) for at, token in enumerate(own)), len(own)


DEEP = RECIPE.replace("site: blocks.1.resid_pre", "site: 'blocks.*.resid_pre'").replace("name: small", "name: deep")
DEEP = DEEP.replace("ablate: {direction: warmth}", "ablate: {direction: warmth, at: blocks.1.resid_pre}").replace(
    "  dose:",
    """\
  asked: {system_prompt: Be warm.}
  folded: {mode: fold, system_prompt: Be warm., interventions: [add: {direction: warmth, coefficient: 3.0}]}
  dose:""",
)


def test_a_direction_at_several_sites_and_prompted_conditions_run_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(DEEP)
    run = run_recipe(path, out=tmp_path / "runs")
    results = json.loads((run / "results.json").read_text())
    (direction,) = results["directions"]
    # The token that is read is the same in every prompt before the first block: no direction there, and it is said.
    assert direction["site"] == "blocks.1.resid_pre … blocks.2.resid_pre (2 sites)"
    assert list(direction["norms_by_site"]) == ["blocks.1.resid_pre", "blocks.2.resid_pre"]
    assert any("has no vectors at blocks.0.resid_pre" in note for note in results["notes"])
    conditions = {item["name"]: item for item in results["conditions"]}
    assert conditions["asked"]["system_prompt"] == "Be warm." and conditions["asked"]["interventions"] == []
    assert conditions["folded"]["mode"] == "fold" and "folded/random-2" in conditions
    assert "asked/random-1" not in conditions
    assert conditions["warmer"]["interventions"][0]["sites"] == ["blocks.1.resid_pre", "blocks.2.resid_pre"]
    named = {record["condition"] for record in results["records"] if record["value"] is not None}
    assert named == conditions.keys()
    moved = {r["condition"]: r["value"] for r in results["records"] if r["evaluator"] == "kl_divergence"}
    assert moved["asked"] > 0 and moved["folded"] != moved["warmer"]
    report = write_report(run).read_text("utf-8")
    assert "system prompt “Be warm.”" in report and "mode fold" in report and "(2 sites)" in report
    assert load_directions(run / "directions.safetensors")["warmth"].sites[0] == Site("resid_pre", 1)
    assert "no control was run for asked" not in report
