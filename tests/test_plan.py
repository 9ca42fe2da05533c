"""Recipe and catalog to a plan: names, leaks, models that are looked at without loading, and the cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.catalog import Catalog
from steerkit.engine.progress import SILENT
from steerkit.errors import RecipeError
from steerkit.plan import DataRef, Plan, plan_recipe
from steerkit.plan.cost import count_batches
from steerkit.plan.model import look_at
from steerkit.plan.tokens import token_counter
from steerkit.types import Positions, Site

RECIPE = """\
name: plan
seed: 3
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
  probe: {inline: [p1, p2, p3], split: {test: 3}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 4.0}
  dose:
    interventions: [ {add: {direction: warmth}} ]
    sweep: {coefficient: [-8, 0.5]}
  alone:
    interventions: [ {ablate: {direction: warmth, sites: [embed, blocks.0.attn_out], positions: "generated[:2]"}} ]
    control: false
evaluate:
  - refusal_score: {data: [probe.test, warm.test], tokens: [x]}
report: {samples: {data: probe.test, n: 2, max_new_tokens: 7}}
"""

Planner = Callable[..., Plan]
Problems = Callable[..., list[tuple[int | None, str, str]]]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture
def plan(tmp_path: Path, catalog: Catalog) -> Planner:
    def make(text: str = RECIPE, *overrides: str) -> Plan:
        path = tmp_path / "plan.yaml"
        path.write_text(text, "utf-8")
        return plan_recipe(path, overrides, catalog)

    return make


@pytest.fixture
def problems(plan: Planner) -> Problems:
    def make(text: str = RECIPE, *overrides: str) -> list[tuple[int | None, str, str]]:
        with pytest.raises(RecipeError) as caught:
            plan(text, *overrides)
        assert "Nothing was run." in str(caught.value)
        return [(item.line, item.where, item.message) for item in caught.value.problems]

    return make


def test_every_name_is_resolved(plan: Planner) -> None:
    found = plan()
    (warmth,) = found.directions
    assert (warmth.positive, warmth.negative) == (DataRef("warm", "train"), DataRef("cold", "train"))
    assert (warmth.site, warmth.positions) == (Site("resid_pre", 1), Positions("", (-1,)))
    assert warmth.estimator is not None and warmth.estimator.name == "mean_difference"
    names = [condition.name for condition in found.conditions]
    assert names == ["warmer", "dose[coefficient=-8]", "dose[coefficient=0.5]", "alone"]
    warmer, low, _, alone = found.conditions
    assert warmer.interventions[0].options.model_dump() == {"coefficient": 4.0}
    assert (low.sweep, low.swept) == ("dose", {"coefficient": -8.0})
    assert low.interventions[0].options.model_dump() == {"coefficient": -8.0}
    assert alone.interventions[0].sites == (Site("embed"), Site("attn_out", 0))
    assert alone.interventions[0].positions == Positions("generated", (), (None, 2))
    assert [condition.n_controls(found.random_directions) for condition in found.conditions] == [5, 5, 5, 0]
    (evaluation,) = found.evaluations
    assert evaluation.needs.next_token_logits
    assert evaluation.data == (DataRef("probe", "test"), DataRef("warm", "test"))
    assert found.samples is not None and (found.samples.n, found.samples.max_new_tokens) == (2, 7)
    assert found.architecture is not None and found.architecture.name == "llama"
    kinds = {(item["kind"], item["name"]) for item in found.plugins}
    assert kinds >= {("architecture", "llama"), ("estimator", "mean_difference"), ("intervention", "add")}
    assert found.notes == ()
    assert json.loads(json.dumps(found.to_json()))["conditions"][1]["swept"] == {"coefficient": -8.0}


BAD = """\
name: plan
model: {source: "tiny-random:llama", adapter: lama, system_prompt: hi, chat_template: none}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {file: missing.jsonl, split: {train: 2}}
  same: {inline: [W1, w2, w3]}
directions:
  one: {estimator: mean_diference, positive: warm.trian, negative: cold.train, site: blocks.1.resid_pre}
  two: {estimator: mean_difference, positive: warm.train, negative: same, site: embed, options: {trim: 1}}
  three: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: embed, positions: generated}
  four: {file: missing.safetensors}
conditions:
  baseline: [ {add: {direction: two}} ]
  a:
    - add: {direction: tow, coefficent: 3}
    - add: {coefficient: x}
  b: [ {ad: {direction: two}} ]
  c:
    interventions: [ {add: {direction: two, sites: []}} ]
    sweep: {coeficient: [1]}
evaluate:
  - refusal_score: {data: [warm.test, warm.test], tokens: [x]}
  - refusal_score: {data: worm.test, tokens: [x], epsilon: -1}
  - refusal_rat: {data: warm.test}
report: {samples: {data: warm.test, n: 50}}
"""


def test_every_problem_is_gathered_before_one_is_told(
    problems: Problems,
) -> None:
    found = problems(BAD)
    expected = [
        (2, "model.adapter", "Did you mean 'llama'"),
        (2, "model.system_prompt", "needs a chat template"),
        (5, "data.cold", "there is no file"),
        (8, "directions.one.estimator", "Did you mean 'mean_difference'"),
        (8, "directions.one.positive", "Did you mean 'warm.train'"),
        (9, "directions.two.options.trim", "nothing can be set here"),
        (9, "directions.two.negative", "warm.train and same share 2 texts"),
        (10, "directions.three.positions", "no generated tokens"),
        (11, "directions.four.file", "there is no file"),
        (13, "conditions.baseline", "another name"),
        (15, "conditions.a.0.add.direction", "Did you mean 'two'"),
        (15, "conditions.a.0.add.coefficent", "Did you mean 'coefficient'"),
        (16, "conditions.a.1.add", "needs a direction"),
        (16, "conditions.a.1.add.coefficient", "'x' is not a coefficient"),
        (17, "conditions.b.0.ad", "Did you mean 'add'"),
        (20, "conditions.c.sweep.coeficient", "Did you mean 'coefficient'"),
        (22, "evaluate.0.refusal_score.data", "twice"),
        (22, "evaluate.0.refusal_score.data.0", "same and warm.test share 1 text"),
        (23, "evaluate.1.refusal_score.data", "Did you mean 'warm.test'"),
        (23, "evaluate.1.refusal_score", "two evaluators are called 'refusal_score'"),
        (23, "evaluate.1.refusal_score.epsilon", "at least 0"),
        (24, "evaluate.2.refusal_rat", "Did you mean 'refusal_rate'"),
        (25, "report.samples.n", "warm.test has 1"),
    ]
    for line, where, part in expected:
        hits = [item for item in found if item[:2] == (line, where) and part.lower() in item[2].lower()]
        assert hits, (line, where, part, found)
    assert len(found) == len(expected)


def test_a_bad_value_of_a_sweep_is_told_at_the_sweep(
    problems: Problems,
) -> None:
    text = RECIPE.replace(
        "interventions: [ {add: {direction: warmth}} ]", "interventions: [ {ablate: {direction: warmth}} ]"
    )
    text = text.replace("coefficient: [-8, 0.5]", "nothing: [1]")
    ((line, where, message),) = problems(text)
    assert (line, where) == (15, "conditions.dose.sweep.nothing")
    assert "has an option 'nothing'" in message


def test_what_directions_were_estimated_from_may_not_be_measured_on(plan: Planner, problems: Problems) -> None:
    unsplit = (
        RECIPE.replace(", split: {train: 4, test: 2}", "").replace("warm.train", "warm").replace("cold.train", "cold")
    )
    ((line, where, message),) = problems(unsplit.replace("warm.test", "warm"))
    assert (line, where) == (20, "evaluate.0.refusal_score.data.1")
    assert "directions are estimated from warm" in message and "split the data set" in message
    copied = RECIPE.replace("inline: [p1, p2, p3], split: {test: 3}", "inline: [p1, W1, w2, w3, w4, w5, w6]")
    ((_, where, message), *_) = problems(copied.replace("probe.test", "probe"))
    assert where == "evaluate.0.refusal_score.data.0"
    assert "warm.train and probe share 4 texts" in message
    assert plan(RECIPE.replace("warm.test", "warm.train")).notes == (
        "warm.train is measured on, and directions are estimated from it: not held out.",
    )


def test_a_recipe_that_measures_nothing_is_told_so(
    problems: Problems,
) -> None:
    head = "name: n\nmodel: {source: 'tiny-random:llama'}\n"
    assert "nothing to do" in problems(head)[0][2].lower()
    text = RECIPE.partition("evaluate:")[0]
    assert problems(text)[0][1] == "conditions"


def test_unused_parts_are_noted(plan: Planner) -> None:
    text = RECIPE.replace("data:\n", "data:\n  spare: {inline: [s]}\n", 1)
    assert plan(text).notes == ("Data set 'spare' is not used.",)


def test_the_hash_follows_what_results_depend_on(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("p1\np2\np3\n", "utf-8")
    text = RECIPE.replace("inline: [p1, p2, p3]", "file: p.txt")
    first = plan(text).hash
    assert plan(text + "# a comment\n").hash == first
    assert plan(text, "seed=4").hash != first
    (tmp_path / "p.txt").write_text("p1\np2\np4\n", "utf-8")
    assert plan(text).hash != first


# Models, looked at without loading.


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2, **config}), "utf-8")
    return folder


def test_a_folders_config_gives_adapter_and_layers(plan: Planner, problems: Problems, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    found = plan(RECIPE, f"model.source={folder}")
    assert (found.model.n_layers, found.model.model_type) == (2, "llama")
    assert found.architecture is not None and found.architecture.name == "llama"
    ((_, where, message),) = problems(RECIPE.replace("blocks.1.", "blocks.2."), f"model.source={folder}")
    assert (where, message) == ("directions.warmth.site", "no site blocks.2.resid_pre: the model has 2 layers, 0 to 1")


def test_yi_is_recognised_by_what_the_files_hold(plan: Planner, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", vocab_size=64000)
    tokens = {
        "added_tokens_decoder": {"1": {"content": "<|startoftext|>", "special": True}},
        "eos_token": {"content": "e"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), "utf-8")
    found = plan(RECIPE, f"model.source={folder}")
    assert found.architecture is not None and found.architecture.name == "yi"
    (folder / "tokenizer_config.json").unlink()
    found = plan(RECIPE, f"model.source={folder}")
    assert found.architecture is not None and found.architecture.name == "llama"


def test_refused_and_unknown_types_are_problems_of_the_recipe(problems: Problems, tmp_path: Path) -> None:
    for model_type, part in (("gemma3n", "not one sum"), ("gptzilla", "steerkit.testing.ArchitectureSuite")):
        folder = write_model(tmp_path / model_type, model_type=model_type)
        ((_, where, message),) = problems(RECIPE, f"model.source={folder}")
        assert where == "--set model.source"
        assert part in message


def test_an_adapters_limitation_is_noted(plan: Planner, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen1", model_type="qwen", num_hidden_layers=24)
    assert "Adapter qwen1: " in plan(RECIPE, f"model.source={folder}").notes[0]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("./no/such/folder", "there is no model at"),
        ("model.gguf", "there is no model at"),
        ("smollm2-135m-instrct", "Did you mean 'smollm2-135m-instruct'"),
    ],
)
def test_models_that_cannot_be_there_are_problems(problems: Problems, source: str, part: str) -> None:
    ((_, _, message),) = problems(RECIPE, f"model.source={source}")
    assert part.lower() in message.lower()


def test_a_hub_models_cached_config_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--name"
    assert look_at("org/name", None)[1] is None
    folder = write_model(repository / "snapshots" / "abc123", num_hidden_layers=7)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123\n", "utf-8")
    for revision in (None, "main", "abc123"):
        found, facts = look_at("org/name", revision)
        assert (found.n_layers, found.folder) == (7, folder)
        assert facts is not None and facts.model_type == "llama"
    assert look_at("org/name", "other")[1] is None


def test_bundled_models_are_known_before_they_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.engine.bundled import BUNDLED, CACHE_VARIABLE

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    for alias in BUNDLED:
        found, facts = look_at(alias, None)
        assert facts is not None and facts.model_type == found.model_type
        assert found.n_layers and found.folder is None


def test_a_base_model_without_a_template_is_told_before_loading(
    plan: Planner, problems: Problems, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    ((_, where, message),) = problems(RECIPE, f"model.source={folder}")
    assert where == "model.chat_template" and "set chat_template to none" in message
    assert plan(RECIPE, f"model.source={folder}", "model.chat_template=none").chat_template == "none"
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}", "utf-8")
    found = plan(RECIPE, f"model.source={folder}", "model.chat_template={file: t.jinja}")
    assert found.chat_template == "{{ messages[0].content }}"


# Cost.


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steerkit.engine.tiny import tiny_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


CUSTOM = "{{ messages[-1].content }}!{% if true %}\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "system"),
    [("default", None), ("default", "Be brief."), ("none", None), (CUSTOM, None), (CUSTOM, "Be brief.")],
)
def test_counted_tokens_are_those_that_the_engine_renders(
    tokenizer_folder: Path, template: str, system: str | None
) -> None:
    from transformers import AutoTokenizer

    from steerkit.engine.chat import ChatFormat

    chat = ChatFormat(AutoTokenizer.from_pretrained(tokenizer_folder), template=template, system_prompt=system)
    counter = token_counter(tokenizer_folder, template, system)
    texts = ["hello there", "a", "über <|user|> x"]
    assert not counter.estimated
    assert counter.prompts(texts) == [len(chat.render(text).token_ids) for text in texts]
    assert counter.texts(texts) == [len(chat.render_text(text).token_ids) for text in texts]


def test_an_estimate_says_that_it_is_one(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_counter(None, "default", None).estimated
    assert "estimate" in token_counter(None, "default", None).basis
    broken = token_counter(tokenizer_folder, "{{ raise_exception('no') }}", None)
    assert broken.estimated and "taken for" in broken.basis
    monkeypatch.setattr("steerkit.plan.tokens._LARGEST_TOKENIZER", 10)
    large = token_counter(tokenizer_folder, "none", None)
    assert large.estimated and "too large" in large.basis


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), budget=st.integers(1, 90), extra=st.integers(0, 9)
)
def test_batches_are_counted_as_the_engine_cuts_them(lengths: list[int], budget: int, extra: int) -> None:
    import torch

    from steerkit.engine.batches import batches
    from steerkit.engine.chat import Rendered

    cut = batches(
        [Rendered(tuple(range(length))) for length in lengths],
        batch_tokens=budget,
        padding_side="right",
        pad_id=0,
        device=torch.device("cpu"),
        extra_tokens=extra,
    )
    assert count_batches(lengths, budget, extra) == len(cut)


def passes(found: Plan) -> dict[str, int]:
    return dict(found.cost.parts)


def test_the_cost_adds_up_by_hand(plan: Planner) -> None:
    cost = plan().cost
    # Texts of two characters: one token each by the estimate, and 11 of specials and template.
    prompt = 1 + 11
    # Train classes for the direction; train and test classes for separation.
    # Per condition: two data sets of next-token logits; 7 passes for samples, which controls don't have.
    assert dict(cost.parts) == {
        "directions": 2,
        "separation by layer": 4,
        "baseline": 2 + 7,
        "conditions": 4 * (2 + 7),
        "random controls": 15 * 2,
    }
    assert cost.forward_passes == sum(count for _, count in cost.parts)
    assert cost.prompt_tokens == prompt * (8 + 8 + 4 + 20 * 5 + 5 * 2)
    assert cost.generated_tokens == 5 * 2 * 7
    assert cost.estimated


def test_the_plan_knows_how_many_prompts_the_engine_holds_at_once() -> None:
    from steerkit.engine.evaluate import CHUNK
    from steerkit.plan import cost

    assert cost._CHUNK == CHUNK


def test_a_small_budget_means_more_passes(plan: Planner) -> None:
    assert passes(plan(RECIPE, "model.batch_tokens=12"))["directions"] == 8
    assert passes(plan(RECIPE, "report.separation=false", "control=false")).keys() == {
        "directions",
        "baseline",
        "conditions",
    }


def calls(sets: Sequence[str]) -> str:
    return RECIPE.partition("evaluate:")[0] + "evaluate:\n" + "".join(f"  - {line}\n" for line in sets)


def test_evaluators_share_passes(plan: Planner) -> None:
    one = passes(plan(calls(["refusal_score: {data: probe.test}"])))
    both = passes(plan(calls(["refusal_score: {data: probe.test}", "kl_divergence: {data: probe.test}"])))
    assert both["conditions"] == one["conditions"]
    assert both["baseline"] == one["baseline"]
    rates = [f"refusal_rate: {{data: probe.test, max_new_tokens: {n}, name: r{n}}}" for n in (3, 9)]
    assert passes(plan(calls(rates)))["conditions"] == 4 * 9


@pytest.mark.parametrize(
    "lines",
    [
        ["refusal_score: {data: [probe.test, warm.test]}", "kl_divergence: {data: probe.test}"],
        ["refusal_rate: {data: probe.test, max_new_tokens: 3}", "refusal_score: {data: probe.test}"],
        ["cross_entropy: {data: probe.test, max_tokens: 4}", "cross_entropy: {data: probe.test, name: longer}"],
        ["refusal_rate: {data: probe.test, max_new_tokens: 3}", "kl_divergence: {data: probe.test}"],
        ["cross_entropy: {data: probe.test, of: baseline_completions, max_new_tokens: 3}"],
    ],
)
def test_the_engine_makes_the_passes_that_the_plan_counts(plan: Planner, lines: list[str]) -> None:
    """The engine is run for real, its calls of the base model counted; no completion of it ends early."""
    import torch

    from steerkit import stages
    from steerkit.engine.tiny import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    text = (
        calls(lines)
        + "report: {samples: {data: warm.test, n: 2, max_new_tokens: 5}}\ncontrol: {random_directions: 1}\n"
    )
    found = plan(text)
    live = wrap(tiny_model("llama"), tiny_tokenizer())
    live.model.generation_config.eos_token_id = None
    counted: list[int] = []
    live.model.get_input_embeddings().register_forward_hook(lambda *_: counted.append(1))
    with torch.no_grad():
        directions = stages.estimate(found, live, SILENT)
        stages.separations(found, live, SILENT)
        evaluation = stages.evaluation(found, live, SILENT)
        for condition in stages.conditions(found, directions):
            evaluation.run(condition.interventions, samples=condition.kind != "control")
    assert len(counted) == found.cost.forward_passes
