"""Whole runs in three processes: what one process measures, one writer, and one sentence where a process fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.run import run_recipe
from tests.parallel.starting import started
from tests.small_run import RECIPE, results_of, runs_in

pytestmark = pytest.mark.parallel

SEARCH = """
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  places:
    {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre,
     positions: "[-3:][*]"}
search:
  found:
    over: places
    preset: {arditi2024: {harmful: warm.test, harmless: cold.test, tokens: [x]}}
    subject_to: {kl: {at_most: 50}, induce: {at_least: -100}}
    exhaustive: true
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("runs")
    shape = {"d_model": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 96}
    tiny_model("llama", **shape, tie_word_embeddings=True).save_pretrained(folder / "model")  # type: ignore[arg-type]
    tiny_tokenizer().save_pretrained(folder / "model")
    text = RECIPE.replace('"tiny-random:llama"', str(folder / "model"))
    (folder / "small.yaml").write_text(text)
    return folder / "small.yaml"


def run(recipe: Path, out: Path, *settings: str, seconds: float = 280) -> Any:
    chosen = [part for setting in ("model.tensor_parallel=3", *settings) for part in ("--set", setting)]
    return started("-m steerkit", "run", recipe, *chosen, "--out", out, seconds=seconds)


def numbers(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of plain values, by where it is."""
    if isinstance(value, dict):
        return {key: leaf for name, one in value.items() for key, leaf in numbers(one, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {key: leaf for at, one in enumerate(value) for key, leaf in numbers(one, f"{path}[{at}]").items()}
    return {path: value}


def test_a_run_measures_what_one_process_does_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    ended = run(recipe, tmp_path / "three")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("Report: ") == 1  # one process speaks
    (path,) = runs_in(tmp_path / "three")
    found, expected = numbers(results_of(path)), numbers(results_of(run_recipe(recipe, out=tmp_path / "one")))
    assert found.pop(".model.tensor_parallel") == 3
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
        elif not name.endswith("_hash"):
            assert found[name] == value, name
    texts = [json.loads(line)["completion"] for line in (path / "samples.jsonl").read_text().splitlines()]
    (one,) = runs_in(tmp_path / "one")
    assert texts == [json.loads(line)["completion"] for line in (one / "samples.jsonl").read_text().splitlines()]
    again = run(recipe, tmp_path / "three", "conditions.warmer.0.add.coefficient=4")
    assert again.returncode == 0 and " in the store already" in again.stderr


def test_a_search_takes_the_same_candidate_cut_and_offloaded(recipe: Path, tmp_path: Path) -> None:
    searching = recipe.with_name("search.yaml")
    start, _, rest = recipe.read_text().partition("directions:")
    searching.write_text(start + SEARCH.lstrip() + rest[rest.index("conditions:") :])
    ended = run(searching, tmp_path / "cut")
    assert ended.returncode == 0, ended.stderr[-3000:]
    run_recipe(searching, out=tmp_path / "one")
    mapped = "{model.embed_tokens: cpu, model.layers.0: cpu, model.layers.1: disk, '': cpu}"
    run_recipe(searching, overrides=[f"model.device_map={mapped}"], out=tmp_path / "offloaded")
    for where in ("cut", "offloaded"):
        require_same_search(tmp_path / where, tmp_path / "one", 1e-3)


@pytest.mark.timeout(3000)
def test_a_search_on_smollm2_takes_the_same_candidate_cut_and_offloaded(tmp_path: Path) -> None:
    """The search of the whole file was run too: ``docs/tensor-parallel.md`` has its figures."""
    searching = Path(__file__).with_name("search_smollm2.yaml")
    fewer = ["directions.candidates.site=blocks.22-23.resid_pre", "control=false"]
    ended = run(searching, tmp_path / "cut", *fewer, seconds=1200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    run_recipe(searching, overrides=fewer, out=tmp_path / "one")
    mapped = "model.device_map={'': cpu, model.layers.3: disk, model.layers.20: disk}"
    run_recipe(searching, overrides=[*fewer, mapped], out=tmp_path / "offloaded")
    for where in ("cut", "offloaded"):
        require_same_search(tmp_path / where, tmp_path / "one", 1e-3)


def require_same_search(found: Path, expected: Path, allowed: float) -> None:
    """The same candidate, removed ones, and scores of each."""
    one, other = (results_of(runs_in(path)[0])["searches"][0] for path in (found, expected))
    for key in ("chosen", "notes", "removed_by", "stages"):
        assert one.get(key) == other.get(key), key
    assert one["chosen"] is not None and len(one["candidates"]) > 1
    for candidate, alone in zip(one["candidates"], other["candidates"], strict=True):
        assert candidate["scores"] == pytest.approx(alone["scores"], abs=allowed)


FAILING = {
    "raise 2": "Process 2 of 3 failed, and the others end with it. MemoryError: no room for 8 GiB",
    "raise 0": "Process 0 of 3 failed, and the others end with it. MemoryError: no room for 8 GiB",
    "kill 1": "Process 1 of 3 is gone (killed",
    "kill 0": "Process 0 of 3 is gone (killed",
    "hang 2": "Process 2 of 3 has not answered for 15 seconds",
    "all 0": "No prompt is any good.",
}


@pytest.mark.parametrize("how", FAILING)
def test_a_process_that_fails_takes_the_others_down_with_one_sentence(recipe: Path, tmp_path: Path, how: str) -> None:
    limit = {"STEERKIT_PARALLEL_LIMIT": "15"} if how.startswith("hang") else {}
    ended = started("tests/parallel/failing.py", *how.split(), recipe, tmp_path, seconds=120, **limit)
    said = [line for line in ended.stderr.splitlines() if FAILING[how] in line]
    assert ended.returncode != 0 and len(said) == 1, ended.stderr[-3000:]
    assert not any(line.startswith("[rank") for line in ended.stderr.splitlines())  # no process's own traceback


def test_other_processes_than_the_recipe_names_are_refused(recipe: Path, tmp_path: Path) -> None:
    ended = started("-m steerkit", "run", recipe, "--out", tmp_path)
    assert (
        ended.returncode != 0 and "torchrun started 3 processes, and this recipe's model is run by one." in ended.stderr
    )
    ended = started("-m steerkit", "run", recipe, "--set", "model.tensor_parallel=2", "--out", tmp_path)
    assert "and torchrun started 3. Start it as: torchrun --nproc-per-node 2 -m steerkit run" in ended.stderr
    assert not runs_in(tmp_path)
