"""What ``steerkit check`` says of inputs that can't be used: a clean error each, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.direction_bytes import directions_to_bytes
from steerkit.artifacts.directions import save_directions
from steerkit.bundled import BUNDLED
from steerkit.catalog import Catalog
from steerkit.cli.main import main
from steerkit.errors import RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.types import Site
from tests.plan.conftest import Planner

RECIPE = """\
name: inputs
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {inline: [c1, c2, c3], split: {train: 2, test: 1}}
  probe: {file: probe.jsonl}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer: [ {add: {direction: warmth, coefficient: 4.0}} ]
  dose: {interventions: [ {add: {direction: warmth}} ], sweep: {coefficient: [1, 2]}}
evaluate:
  - kl_divergence: {data: probe}
  - cross_entropy: {data: probe}
"""
LONG = "x" * 300
Problem = Callable[..., tuple[str, str]]


@pytest.fixture
def plan(tmp_path: Path, catalog: Catalog) -> Planner:
    (tmp_path / "probe.jsonl").write_text('"p1"\n"p2"\n', "utf-8")

    def make(text: str = RECIPE, *overrides: str) -> Plan:
        path = tmp_path / "plan.yaml"
        path.write_text(text, "utf-8")
        return plan_recipe(path, overrides, catalog)

    return make


@pytest.fixture
def problem(plan: Planner) -> Problem:
    def make(text: str = RECIPE, *overrides: str) -> tuple[str, str]:
        with pytest.raises(RecipeError) as caught:
            plan(text, *overrides)
        (found,) = caught.value.problems
        return found.where, found.message

    return make


def test_no_evaluator_is_called_as_a_value_that_another_one_derives(plan: Planner, problem: Problem) -> None:
    where, message = problem(RECIPE.replace("kl_divergence: {", "kl_divergence: {name: perplexity, "))
    assert where == "evaluate.0.kl_divergence"
    assert message.startswith("cross_entropy adds 'perplexity' to the results")
    # With a name of its own it derives `ce.perplexity`, and `perplexity` is free.
    renamed = RECIPE.replace("kl_divergence: {", "kl_divergence: {name: perplexity, ")
    found = plan(renamed.replace("cross_entropy: {", "cross_entropy: {name: ce, "))
    assert [item.derived for item in found.evaluations] == [(), ("ce.perplexity",)]


@pytest.mark.parametrize(
    "name", ["refusal_score", "refusal_rate", "kl_divergence", "cross_entropy", "choice_logit_difference"]
)
def test_evaluators_declare_what_they_derive(catalog: Catalog, name: str) -> None:
    spec = catalog.get("evaluator", name)
    module, _, attribute = spec.implementation.partition(":")
    assert spec.derived == tuple(getattr(import_module(module), attribute).derived)


def test_one_split_written_in_two_ways_is_the_same_split(problem: Problem) -> None:
    assert (
        "twice"
        in problem(RECIPE.replace("kl_divergence: {data: probe}", "kl_divergence: {data: [probe, probe.all]}"))[1]
    )


@pytest.mark.parametrize(
    ("override", "where", "part"),
    [
        (f"conditions.warmer.0.add.coefficient={'9' * 400}", "", "more digits than"),
        (f"conditions.dose.sweep.coefficient=[1, {'9' * 400}]", "", "more digits than"),
        (f"conditions.dose.sweep.coefficient=[1, {'9' * 5000}]", "", "not YAML"),
        ("data.probe.file=~no-such-user/x.txt", "data.probe", "no such home directory"),
        ("model.source=~no-such-user/x", "model.source", "no such home directory"),
        (r'data.probe.file="a\0b.txt"', "data.probe", "can't be a path"),
        (r'model.source="a\0b"', "model.source", "can't be a path"),
        (f"model.source={LONG}", "model.source", "file name too long"),
        (f"data.probe.file={LONG}.txt", "data.probe", "file name too long"),
        (f"directions.warmth={{file: {LONG}}}", "directions.warmth.file", "file name too long"),
        (f"model.chat_template={{file: {LONG}}}", "model.chat_template.file", "file name too long"),
        (r'data.cold.inline=["\ud83d", b, c]', "", "half a character"),
        ("model.device=gpu", "model.device", "expected auto, cpu, cuda or cuda:<number>"),
        ("model.source=tiny-random:lama", "model.source", "Did you mean 'llama'"),
    ],
)
def test_inputs_that_cannot_be_are_problems(problem: Problem, override: str, where: str, part: str) -> None:
    found, message = problem(RECIPE, override)
    assert where in found
    assert part in message


@pytest.mark.parametrize("source", [f"{LONG}.yaml", "~no-such-user/x.yaml", "a\0b"])
def test_a_recipe_that_cannot_be_a_path(capsys: pytest.CaptureFixture[str], source: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", source])
    assert left.value.code == 2
    assert "1 problem" in capsys.readouterr().err


def test_no_hint_offers_a_key_that_nobody_may_write(problem: Problem) -> None:
    assert "chat_template_file" not in problem(RECIPE, "model.chat_template_fil=x")[1]


def test_a_template_that_is_none_is_told_before_the_load(plan: Planner, problem: Problem, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for message in messages %}\n{{ message.content }", "utf-8")
    where, message = problem(RECIPE, "model.chat_template={file: t.jinja}")
    assert where.endswith("model.chat_template.file")
    assert message.startswith("not a Jinja template: ") and "(line 2" in message
    template.write_text(
        "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}", "utf-8"
    )
    plan(RECIPE, "model.chat_template={file: t.jinja}")


def packed(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is not a safetensors file"),
        (b"direction", "is not a safetensors file"),
        (b"\xff" * 8, "is not a safetensors file"),
        (packed([]), "is not a safetensors file"),
        (packed({"x": {}}), "holds no directions"),
        (packed({"__metadata__": {"format": "pt"}}), "holds no directions"),
        (packed({"__metadata__": {"steerkit.directions": "{}"}}), "its header can't be read"),
        (directions_to_bytes([Direction(torch.ones(1, 32), Site.parse("blocks.1.resid_pre"), name="warmth")]), ""),
    ],
)
def test_a_directions_file_is_one(plan: Planner, problem: Problem, tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "d.safetensors").write_bytes(content)
    if part:
        where, message = problem(RECIPE, "directions.warmth={file: d.safetensors}")
        assert where.endswith("directions.warmth.file")
        assert part in message
    else:
        assert plan(RECIPE, "directions.warmth={file: d.safetensors}").directions[0].file == tmp_path / "d.safetensors"


def test_bundled_models_are_known_before_they_are_fetched() -> None:
    assert all(model.model_type and model.n_layers for model in BUNDLED.values())


def test_a_plan_is_the_same_however_paths_are_written(
    plan: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}', "utf-8")
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}", "utf-8")
    saved = tmp_path / "d.safetensors"
    save_directions(saved, [Direction(torch.ones(1, 32), Site.parse("blocks.1.resid_pre"), name="saved")])
    text = RECIPE.replace("conditions:\n", "  saved: {file: d.safetensors}\nconditions:\n", 1)
    text = text.replace('"tiny-random:llama"', "model, chat_template: {file: t.jinja}")
    first = plan(text)
    assert first.report.recipe.count(f"source: {tmp_path / 'model'}") == 1
    resolved = first.report.recipe
    assert plan(text, "data.probe.file=./probe.jsonl", "model.source=./model").hash == first.hash
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plan(resolved).hash == first.hash
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "probe.jsonl").read_bytes())
    assert plan(resolved.replace("probe.jsonl", "copy.jsonl")).hash == first.hash
    for file in ("probe.jsonl", "t.jinja"):
        before = (tmp_path / file).read_text("utf-8")
        (tmp_path / file).write_text(f'{before}"more"', "utf-8")
        # The planner of this test writes probe.jsonl once, so what is written here stays.
        assert plan(resolved).hash != first.hash
        (tmp_path / file).write_text(before, "utf-8")
    save_directions(saved, [Direction(2 * torch.ones(1, 32), Site.parse("blocks.1.resid_pre"), name="saved")])
    assert plan(resolved).hash != first.hash


def test_a_bundled_name_stays_a_name(plan: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct").mkdir()
    found = plan(RECIPE, "model.source=smollm2-135m-instruct")
    assert "source: smollm2-135m-instruct\n" in found.report.recipe


def test_check_prints_any_description_on_any_terminal(tmp_path: Path) -> None:
    text = RECIPE.replace("{file: probe.jsonl}", "{inline: [p1, p2]}")
    (tmp_path / "r.yaml").write_text(f'description: "[red]x[/blue] •"\n{text}', "utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "steerkit", "check", "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "inputs is valid. [red]x[/blue] ?" in done.stdout
    assert "warm.train ? cold.train" in done.stdout
