"""The main path on a tiny model: files, records, controls, resumption, and equal bytes for equal runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from steerkit import stages
from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.rundir import STAGES
from steerkit.artifacts.store import STORE, Store
from steerkit.errors import RecipeError, SteerkitError
from steerkit.executors import local
from steerkit.report import load_run, write_report
from steerkit.run import execute, run_recipe
from steerkit.stages import Task, carry_out
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
    assert "condition baseline" in log and log.splitlines()[0].endswith(str(run))
    assert "condition warmer and 2 controls" in log
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


def test_what_is_written_is_what_is_read(recipe: Path, tmp_path: Path) -> None:
    """One schema: whatever the report can read of a run, the runner has written, and the other way round."""
    run = run_recipe(recipe, out=tmp_path)
    results, provenance = results_of(run), json.loads((run / "provenance.json").read_text())
    loaded = load_run(run)

    def check(model: Any, written: Any, where: str) -> None:
        rare = set(getattr(type(model), "_rare", ()))
        assert set(type(model).model_fields) - rare == set(written) - rare, where
        for name in set(written) - rare:
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                check(value, written[name], f"{where}.{name}")
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                for entry, item in zip(value, written[name], strict=True):
                    check(entry, item, f"{where}.{name}")

    check(loaded.results, results, "results")
    check(loaded.origin, provenance, "provenance")
    for sample, line in zip(loaded.samples, (run / "samples.jsonl").read_text().splitlines(), strict=True):
        check(sample, json.loads(line), "samples")
    assert loaded.times.seconds and set(json.loads((run / "timings.json").read_text())) == {"seconds"}


def test_a_report_shows_the_commits_of_the_recipe_and_of_steerkit(recipe: Path, tmp_path: Path) -> None:
    import subprocess

    names = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for words in (["init", "-q"], [*names, "commit", "-q", "--allow-empty", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    run = run_recipe(recipe, out=tmp_path / "runs", overrides=["conditions={}", "control=false"])
    git = load_run(run).origin.git
    assert git.recipe is not None and git.recipe.dirty
    page = write_report(run).read_text()
    assert "Commit of the recipe" in page and f"{git.recipe.commit[:12]} with uncommitted changes" in page
    assert git.steerkit is None or f"{git.steerkit.commit[:12]}" in page


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


def runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != STORE)


def carried(monkeypatch: pytest.MonkeyPatch, dies_at: int = 0) -> list[Task]:
    """The tasks that are carried out from now on; the process is stopped when it begins the ``dies_at``-th unit."""
    done: list[Task] = []
    units: list[int] = []

    def counts(tasks: Any, *args: Any) -> Any:
        units.append(1)
        if len(units) == dies_at:
            raise KeyboardInterrupt
        done.extend(tasks)
        return carry_out(tasks, *args)

    monkeypatch.setattr(local, "carry_out", counts)
    return done


@pytest.mark.parametrize("dies_at", [2, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Wherever the first try was stopped, what it did is not done again, and nothing tells in the end."""
    whole = run_recipe(recipe, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        before = carried(patch, dies_at)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    (unfinished,) = runs_in(tmp_path / "killed")
    assert (unfinished / STAGES).is_dir() and not (unfinished / "results.json").exists()
    after = carried(monkeypatch)
    finished = run_recipe(recipe, out=tmp_path / "killed")
    assert finished == unfinished
    assert after and not {task.key for task in before} & {task.key for task in after}
    for name in STABLE:
        assert (finished / name).read_bytes() == (whole / name).read_bytes(), name
    assert run_recipe(recipe, out=tmp_path / "killed") != finished, "a finished run is left alone"


def test_a_run_that_is_killed_within_a_task_repeats_that_task(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerkit.engine.measuring.evaluate import Evaluation

    whole = run_recipe(recipe, out=tmp_path / "whole")
    calls: list[int] = []
    original = Evaluation._sequence_scores

    def dies(self: Evaluation, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "_sequence_scores", dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    finished = run_recipe(recipe, out=tmp_path / "killed")
    for name in STABLE:
        assert (finished / name).read_bytes() == (whole / name).read_bytes(), name


WARMER = "add: {direction: warmth, coefficient: 3.0}"
EXTENDED = [
    # What is changed, and the kinds of task and the condition that are then carried out.
    ("title: none\n", "title: Another heading\n", set()),
    ("coefficient: [-2, 2]", "coefficient: [3, -2, 2]", {"dose[coefficient=3]"}),
    ("random_directions: 2", "random_directions: 3", {"warmer", "without"}),
    ("  dose:", "  asked: {system_prompt: Be warm.}\n  dose:", {"asked"}),
    ("  dose:", f"  other: {{system_prompt: Be warm., interventions: [{WARMER}]}}\n  dose:", {"other"}),
    ("  dose:", f"  other: {{mode: fold, interventions: [{WARMER}]}}\n  dose:", {"other"}),
    ("  dose:", f"  other: {{mode: auto, interventions: [{WARMER}]}}\n  dose:", set()),
]


@pytest.mark.parametrize(("before", "after", "computed"), EXTENDED)
def test_a_run_that_is_extended_computes_what_is_new_and_has_the_bytes_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, computed: set[str]
) -> None:
    text = RECIPE.replace("seed: 7\n", "seed: 7\ndescription: none\n").replace("report:\n", "report:\n  title: none\n")
    path = tmp_path / "small.yaml"
    assert before in text
    path.write_text(text)
    run_recipe(path, out=tmp_path / "runs")
    path.write_text(text.replace(before, after))
    with monkeypatch.context() as patch:
        done = carried(patch)
        extended = run_recipe(path, out=tmp_path / "runs")
    assert {task.title.split(" ")[1] for task in done} == computed
    whole = run_recipe(path, out=tmp_path / "whole")
    for name in STABLE:
        assert (extended / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_evaluator_that_is_added_uses_the_completions_that_are_there(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(recipe, out=tmp_path / "runs")
    added = "  - refusal_rate: {name: again, data: cold.test, max_new_tokens: 3}\n"
    recipe.write_text(RECIPE.replace("control: {random", f"{added}control: {{random"))
    with monkeypatch.context() as patch:
        done = carried(patch)
        extended = run_recipe(recipe, out=tmp_path / "runs")
    assert {(task.kind, getattr(task.payload, "name", "")) for task in done} == {("scores", "again")}
    whole = run_recipe(recipe, out=tmp_path / "whole")
    for name in STABLE:
        assert (extended / name).read_bytes() == (whole / name).read_bytes(), name


def test_labels_that_are_added_leave_completions_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written depends on prompts alone; what is scored may depend on all that an example holds."""
    rows = [{"text": f"Say {n}", "topic": "even" if n % 2 == 0 else "odd"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    text = """
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {file: rows.jsonl, field: text, id: text}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate: [refusal_rate: {data: a, max_new_tokens: 3}]
"""
    path = tmp_path / "small.yaml"
    path.write_text(text, "utf-8")
    run_recipe(path, out=tmp_path / "runs")
    path.write_text(text.replace("id: text", "id: text, label: topic"), "utf-8")
    done = carried(monkeypatch)
    run_recipe(path, out=tmp_path / "runs")
    assert {task.kind for task in done} == {"scores"} and len(done) == 2


def test_what_is_damaged_in_the_store_is_computed_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_recipe(recipe, out=tmp_path / "runs", store=tmp_path / "store")
    assert not (tmp_path / "runs" / STORE).exists()
    entries = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    for entry in entries[::3]:
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(content)
    done = carried(monkeypatch)
    again = run_recipe(recipe, out=tmp_path / "runs", store=tmp_path / "store")
    assert done and len(done) <= len(entries[::3])
    for name in STABLE:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


def test_a_recipe_runs_with_plugins_that_are_not_installed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing behind the plan asks for what is installed."""
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe
    from steerkit.session import plugins

    expected = run_recipe(recipe, out=tmp_path / "installed")
    found = plan_recipe(recipe, (), Catalog.discover())

    def refuse(*args: Any, **kwargs: Any) -> Catalog:
        raise AssertionError("what is installed doesn't count")

    monkeypatch.setattr(Catalog, "discover", refuse)
    plugins.installed.cache_clear()
    try:
        run = execute(found, tmp_path / "runs")
    finally:
        plugins.installed.cache_clear()
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()


@pytest.mark.parametrize("name", ["small", "deep", "paired"])
def test_every_task_gives_equal_bytes_in_a_fresh_process(tmp_path: Path, name: str) -> None:
    """What a process pool of the interpreter's own gives is what this process gives."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from steerkit.catalog import Catalog
    from steerkit.executors.schedule import Outputs
    from steerkit.plan import plan_recipe

    path = tmp_path / f"{name}.yaml"
    path.write_text({"small": RECIPE, "deep": DEEP, "paired": PAIRED}[name], "utf-8")
    write_pairs(tmp_path)
    found = plan_recipe(path, (), Catalog.discover())
    live = stages.load(found)
    use = stages.model_use(found, live)
    graph = stages.make_graph(found, use)
    here = local.LocalExecutor(stages.Bench(use, live))
    expected = Outputs(graph.tasks, graph.given, Store(tmp_path / "here"), here).want(graph.tasks)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = Outputs(graph.tasks, graph.given, Store(tmp_path / "there"), PoolExecutor(pool)).want(graph.tasks)
    assert there == expected and len(there) > 5


class PoolExecutor:
    """An executor of a few lines: units in a pool's processes, the first that was handed in back first."""

    width = 2

    def __init__(self, pool: Any) -> None:
        self.pool, self.running = pool, []

    def submit(self, unit: Any) -> None:
        self.running.append(self.pool.submit(local.run_unit, unit))

    def done(self) -> Any:
        return self.running.pop(0).result()

    def close(self) -> None:
        self.running.clear()


def test_two_runs_in_one_process_write_each_into_its_own_log(tmp_path: Path) -> None:
    import threading

    text = """
model: {source: "tiny-random:llama"}
data: {a: {inline: [NAME, two, three]}}
evaluate: [{refusal_score: {name: NAME, data: a}}]
"""
    logs: dict[str, str] = {}

    def go(name: str) -> None:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("NAME", name))
        logs[name] = (run_recipe(path, out=tmp_path / "runs") / "run.log").read_text()

    threads = [threading.Thread(target=go, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "first on a" in logs["first"] and "second on a" in logs["second"]
    assert "second" not in logs["first"] and "first" not in logs["second"]


def test_a_run_has_as_many_threads_as_it_is_told(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "alone.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\ndata: {a: {inline: [one]}}\nevaluate: [{refusal_score: {data: a}}]\n'
    )
    before = torch.get_num_threads()
    runs = {number: run_recipe(path, out=tmp_path / "runs", threads=number) for number in (1, 2)}
    assert torch.get_num_threads() == before
    for number, run in runs.items():
        assert json.loads((run / "provenance.json").read_text())["model"]["threads"] == number
    assert runs[1].name.rsplit("-", 1)[1] != runs[2].name.rsplit("-", 1)[1]
    with pytest.raises(SteerkitError, match="1 to 1024 threads, not 0"):
        run_recipe(path, out=tmp_path / "runs", threads=0)


def test_a_condition_is_run_with_its_own_controls_and_nothing_else(recipe: Path) -> None:
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe

    found = plan_recipe(recipe, (), Catalog.discover())
    names = [group.condition.name if group.condition else "" for group in found.groups]
    assert names == ["", "warmer", "without", "dose[coefficient=-2]", "dose[coefficient=2]"]
    assert [group.controls for group in found.groups] == [0, 2, 2, 0, 0]


def test_a_run_of_other_weights_is_not_continued(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder with other weights in it is another model, whatever the recipe says."""
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path / "model"
    model = tiny_model("llama")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    source = [f"model.source={folder}"]
    with monkeypatch.context() as patch:
        carried(patch, dies_at=4)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "runs", overrides=source)
    (unfinished,) = runs_in(tmp_path / "runs")
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
        ('conditions.warmer.0.add.sites=["blocks.1.head_out[99]"]', "Condition warmer: .*heads"),
        ("conditions.warmer.0.add.coefficient=[1, 2]", "Condition warmer"),
        ("conditions.warmer.0.add.positions=-500", "Condition warmer: .*has only"),
    ],
)
def test_an_impossible_condition_is_found_before_anything_is_measured(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    done = carried(monkeypatch)
    with pytest.raises(SteerkitError, match=message):
        run_recipe(recipe, out=tmp_path, overrides=[change])
    assert {task.kind for task in done} == {"direction"}


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


def write_pairs(folder: Path) -> list[dict[str, Any]]:
    """The rows that PAIRED reads."""
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
    (folder / "caa.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return rows


def test_pairs_of_completions_run_and_reach_samples_and_the_report(tmp_path: Path) -> None:
    rows = write_pairs(tmp_path)
    (tmp_path / "paired.yaml").write_text(PAIRED, "utf-8")
    path = run_recipe(tmp_path / "paired.yaml", out=tmp_path / "runs")
    results = json.loads((path / "results.json").read_text("utf-8"))
    values = {(one["condition"], one["evaluator"], one["data"]): one["value"] for one in results["records"]}
    # The loss is that of the completion's own tokens behind its prompt, by literal code.
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"out": ""}, "an empty text is none"),
        ({"store": ""}, "an empty text is none"),
        ({"overrides": "seed=1"}, r"overrides is a list of settings: write \['seed=1'\]"),
        ({"threads": "two"}, "A run takes 1 to 1024 threads, not 'two'"),
        ({"ot": "x"}, "run_recipe has no argument 'ot'. Did you mean 'out'"),
    ],
)
def test_words_that_are_none_say_what_to_write(recipe: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerkitError, match=said):
        run_recipe(recipe, **{"out": recipe.parent / "runs", **words})
    assert not (recipe.parent / "runs").exists()
