"""How long work takes, by a speed that was measured: the arithmetic, what is kept, and how far off it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmarks.showing import EVERY, Far
from steerkit.bench.measure import compare
from steerkit.bench.speed import measure_speed
from steerkit.cli.main import main
from steerkit.progress import Stage
from steerkit.run import run_recipe
from steerkit.speed import FOLDER, Left, Speed, in_words, keep, known_speed, name_of

SPEED = Speed("tiny-random:llama", "cpu", "float32", 1, 2.0, 0.5, 0.001, 0.01, "2026-11-26")

RECIPE = """
name: timed
model: {source: "tiny-random:llama"}
data:
  a: {inline: [one, two, three, four], split: {train: 2, test: 2}}
  b: {inline: [five, six, seven, eight], split: {train: 2, test: 2}}
directions:
  d: {estimator: mean_difference, positive: a.train, negative: b.train, site: blocks.1.resid_pre}
conditions:
  added: [{add: {direction: d}}]
evaluate:
  - kl_divergence: {data: b.test}
control: {random_directions: 0}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("steerkit.speed.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "timed.yaml"
    path.write_text(RECIPE)
    return path


def test_a_plan_takes_its_passes_and_tokens() -> None:
    # 2 s to load, 10 passes of half a second, 1,000 tokens read and 200 written.
    assert SPEED.seconds(10, 1000, 200) == pytest.approx(2 + 5 + 1 + 2)
    assert "339 tokens per second are read, 2.0 written by one row and 13.8 by eight" in SPEED.told


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 s"),
        (49, "about 49 s"),
        (61, "about 1 minute"),
        (180, "about 3 minutes"),
        (9000, "about 2.5 hours"),
    ],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_what_is_kept_is_found_by_model_device_and_dtype(cache: Path) -> None:
    assert known_speed(SPEED.model) is None
    keep(SPEED)
    keep(replace(SPEED, pass_seconds=0.25, measured="2026-11-27"))
    keep(replace(SPEED, device="cuda", dtype="bfloat16", pass_seconds=0.125, measured="2026-11-25"))
    assert len(list((cache / FOLDER).glob("*.json"))) == 2, "a newer one takes the place of an older one"
    found = [known_speed(SPEED.model, *asked) for asked in ((), ("cpu",), ("cuda:1",), ("auto", "bfloat16"))]
    assert [one and one.pass_seconds for one in found] == [0.25, 0.25, 0.125, 0.125]
    assert known_speed(SPEED.model, "cpu", "bfloat16") is None and known_speed("tiny-random:gemma") is None


def test_another_machines_and_damaged_ones_count_for_nothing(cache: Path) -> None:
    path = keep(SPEED)
    told = json.loads(path.read_text())
    for damaged in ({**told, "machine": "another"}, {**told, "pass_seconds": "fast"}, {**told, "more": 1}, [], None):
        path.write_text(json.dumps(damaged))
        assert known_speed(SPEED.model) is None
    path.write_text("[" * 100_000)
    assert known_speed(SPEED.model) is None


def test_a_folder_is_one_model_wherever_it_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert name_of("model") == name_of(str(tmp_path / "model")) and name_of("org/model") == "org/model"


class Heard:
    """An observer that takes note."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.seconds: list[float] = []

    def step(self, what: str) -> None:
        self.steps.append(what)

    def progress(self, done: int, of: int) -> None:
        pass

    def left(self, seconds: float) -> None:
        self.seconds.append(seconds)


def ticking(times: list[float]) -> Callable[[], float]:
    ticks: Iterator[float] = iter(times)
    return lambda: next(ticks)


def test_what_is_left_and_how_far_off_it_was() -> None:
    heard = Heard()
    left = Left(heard, 10.0, ticking([100, 101, 104, 112, 120]))
    left.step("one")
    left.progress(1, 2)
    left.step("two")
    assert (heard.steps, heard.seconds) == (["one", "two"], [9.0, 6.0, 0.0])
    # It took 20 s: after 1, 4 and 12 of them 19, 16 and 8 were left.
    assert left.off() == {
        "estimated_seconds": 10.0,
        "taken_seconds": 20.0,
        "taken_over_estimated": 2.0,
        "left_off_by_seconds": pytest.approx((10 + 10 + 8) / 3, abs=1e-3),
    }


def test_of_a_part_of_the_work_nothing_is_judged() -> None:
    left = Left(Heard(), 10.0)
    left.step(Stage("kept", "3 of 4 outputs are in the store already"))
    assert left.off() is None and Left(Heard(), None).off() is None


def test_check_and_run_say_it(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["check", str(recipe), *more])
        assert ended.value.code in (0, None)
        return " ".join(capsys.readouterr().out.split())

    assert "was not measured on this machine: `steerkit bench tiny-random:llama --quick` does it" in check()
    assert json.loads(check("--json"))["time"] is None
    first = run_recipe(recipe, out=tmp_path / "first")
    assert set(json.loads((first / "timings.json").read_text())) == {"seconds"}

    keep(replace(SPEED, load_seconds=118.0))
    told = json.loads(check("--json"))
    cost = told["cost"]
    expected = 118 + 0.5 * cost["forward_passes"] + 0.001 * cost["prompt_tokens"] + 0.01 * cost["generated_tokens"]
    assert told["time"]["seconds"] == pytest.approx(expected, abs=0.06)
    assert "time about 2 minutes with nothing kept, by the speed measured here on 2026-11-26" in check()
    own = recipe.read_text("utf-8")
    recipe.write_text(own + "profiles: {short: {seed: 8}}\n", "utf-8")
    assert "--profile forward passes prompt tokens generated tokens time short" in check()
    assert check().count("about 2 minutes") == 2, "of the recipe, and of its profile"
    recipe.write_text(own, "utf-8")
    heard: Any = Heard()
    second = run_recipe(recipe, out=tmp_path / "second", observer=heard)
    timings = json.loads((second / "timings.json").read_text())
    assert timings["estimate"]["estimated_seconds"] == pytest.approx(expected, abs=0.06)
    assert 0 < timings["estimate"]["taken_seconds"] < 118
    assert heard.seconds and all(one <= expected for one in heard.seconds)
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()
    again = run_recipe(recipe, out=tmp_path / "second")
    assert set(json.loads((again / "timings.json").read_text())) == {"seconds"}, "everything was kept"


def test_a_profile_takes_its_own_time(recipe: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(
        RECIPE + 'profiles:\n  short: {model: {device: cpu}}\n  other: {model: {source: "tiny-random:gemma"}}\n'
        "  half: {model: {dtype: bfloat16}}\n"
    )

    def check(*more: str) -> str:
        with pytest.raises(SystemExit):
            main(["check", str(recipe), *more])
        return capsys.readouterr().out

    keep(replace(SPEED, load_seconds=598.0))
    rows = " ".join(check().partition("profiles, at most")[2].split())
    assert re.search(r"generated tokens time .*short [\d ,]+ about 10 minutes", rows)
    assert re.search(r"other [\d ,]+ not known: `steerkit bench tiny-random:gemma --quick`", rows)
    assert "not known: `steerkit bench tiny-random:llama --quick --dtype bfloat16`" in rows
    told = json.loads(check("--json"))["profiles"]
    assert told["short"]["time"]["seconds"] > 598 and told["other"]["time"] is None
    for path in (cache / FOLDER).iterdir():
        path.unlink()
    rows = " ".join(check().partition("profiles, at most")[2].split())
    assert re.search(r"short [\d ,]+ not known: `steerkit bench tiny-random:llama --quick --device cpu`", rows)


def test_a_model_is_measured() -> None:
    found = measure_speed("tiny-random:llama")
    assert (found.model, found.device, found.dtype) == ("tiny-random:llama", "cpu", "float32")
    assert found.load_seconds > 0 and found.pass_seconds + found.write_seconds > 0
    assert 0 < found.seconds(100, 1000, 1000) < 1000


# Benchmarks


def test_a_benchmark_says_how_far_it_is() -> None:
    out = StringIO()
    far = Far("extraction", ticking([0, 1, 10, 11, 20]), out)
    for done in range(1, 5):
        far(done, 4)
    assert EVERY == 5.0
    assert out.getvalue().splitlines() == [
        "extraction: 2 of 4, about 10 s left",
        "extraction: 4 of 4, done",
    ]


def test_a_comparison_tells_of_every_call() -> None:
    told: list[tuple[int, int]] = []
    compare(
        {"one": lambda: sum(range(50_000)), "two": lambda: sum(range(50_000))},
        2,
        1,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(at, 9) for at in range(10)]
