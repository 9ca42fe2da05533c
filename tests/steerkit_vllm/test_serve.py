"""The server's own arguments, and what an engine must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.errors import SteerkitError
from steerkit_vllm.serve import own_arguments
from steerkit_vllm.starting import engine_settings, require_alone


def test_ours_are_taken_and_the_others_are_vllms(tmp_path: Path) -> None:
    given = ["M", "--program", "a=b.x", "--max-programs", "3", "--dtype", "float32", "--program-folder", str(tmp_path)]
    own, rest = own_arguments([*given, "--program-uploads", "--max-model-len=64"])
    assert own.programs == (("a", Path("b.x")),) and own.most == 3 and own.folder == tmp_path and own.uploads
    assert rest == ["--model", "M", "--dtype", "float32", "--max-model-len=64"]
    assert own_arguments(["--vllm-help"])[1] == ["--help"]


def test_a_model_of_the_cache_goes_by_its_name_in_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alias = "smollm2-135m-instruct"
    monkeypatch.setattr("steerkit.bundled.bundled_folder", lambda alias: tmp_path)
    assert own_arguments([alias])[1] == ["--model", str(tmp_path), "--served-model-name", alias]
    told = ["--served-model-name", "mine"]
    assert own_arguments([alias, *told])[1] == ["--model", str(tmp_path), *told]
    monkeypatch.setattr("steerkit.bundled.bundled_folder", lambda alias: None)
    with pytest.raises(SteerkitError, match=f"Run steerkit fetch {alias} first"):
        own_arguments([alias])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--program", "a"], "write NAME=FILE"),
        (["--max-programs", "0"], "from 1 up"),
        (["--program-folder", "/nowhere/at/all"], "is no folder"),
        (["--max-programs", "1", "--program", "a=b", "--program", "c=d"], "has room for 1"),
    ],
)
def test_wrong_ones_are_said_in_words(given: list[str], why: str) -> None:
    with pytest.raises(SteerkitError, match=why):
        own_arguments(["M", *given])


def test_the_worker_is_ours_and_has_two_slots_for_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    worker, config = engine_settings("auto", {"other": 1, "steerkit": {"rows": 8}}, 5, cpu=True)
    assert worker == "steerkit_vllm.worker.SteeredCPUWorker"
    assert config["other"] == 1 and config["steerkit"]["rows"] == 8 and config["steerkit"]["slots"] == 10
    assert engine_settings("auto", None, 5, cpu=False)[0] == "steerkit_vllm.worker.SteeredWorker"
    with pytest.raises(SteerkitError, match="Leave --worker-cls out"):
        engine_settings("mine.Worker", None, 5, cpu=True)
    with pytest.raises(SteerkitError, match=r"steerkit\.rows"):
        engine_settings("auto", {"steerkit": {"rows": "many"}}, 5, cpu=True)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"api_server_count": 2}, "several API servers"),
        ({"speculative_config": {"method": "ngram"}}, "speculative decoding"),
        ({"kv_transfer_config": {"kv_connector": "X"}}, "handing caches"),
    ],
)
def test_what_would_leave_requests_unsteered_is_refused(told: dict[str, object], why: str) -> None:
    with pytest.raises(SteerkitError, match=why):
        require_alone(told)
    require_alone(dict.fromkeys(told))
