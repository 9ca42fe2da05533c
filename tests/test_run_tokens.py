"""First tokens of refusals, found in a run or known to the adapter, on tiny models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from steerkit.api.hookspecs import Options
from steerkit.catalog import Catalog
from steerkit.errors import DataError, PluginError, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.progress import SILENT, Observer
from steerkit.report import write_report
from steerkit.run import execute
from steerkit.session import load_model
from steerkit.session.model import LiveModel
from steerkit.stages.tasks import ModelUse, Plugin, TokensTask
from steerkit.stages.tokens import find_tokens, known_tokens
from steerkit.types import Example
from steerkit_architectures import gemma, llama, qwen, yi
from steerkit_estimators import mean_difference
from steerkit_evaluators import activation_cosine, kl_divergence, refusal_rate, refusal_score
from steerkit_evaluators._refusal_score import RefusalScore
from steerkit_evaluators.refusal_rate import RefusalRateOptions
from steerkit_evaluators.refusal_score import RefusalScoreOptions
from steerkit_interventions import ablate, add

CATALOG = Catalog.from_modules(
    llama, mean_difference, activation_cosine, kl_divergence, refusal_rate, refusal_score, ablate, add
)

# The rule, on completions of one letter a token


def found(declined: Sequence[str], others: Sequence[str] | None, share: float = 0.9) -> dict[str, Any]:
    """What is found where a completion that holds ``!`` is a refusal, and each letter is a token."""
    live = cast(
        LiveModel,
        SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)), vocabulary=SimpleNamespace(size=256)),
    )
    payload = TokensTask(
        cast(ModelUse, None),
        Plugin("evaluator", "refusal_rate", "steerkit_evaluators._refusal_rate:RefusalRate"),
        RefusalRateOptions(substrings=("!",)),
        tuple(Example.of(f"prompt {number}") for number in range(len(declined))),
        share,
    )
    rows = [list(map(ord, text)) for text in declined]
    beside = None if others is None else [list(map(ord, text)) for text in others]
    return find_tokens(payload, rows, beside, live)


def texts(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(row["text"] for row in rows)


def test_the_most_frequent_first_until_the_share_is_covered() -> None:
    said = [*["b!"] * 3, *["a!"] * 3, *["c!"] * 2, "d!", "e", ""]
    # 3 of 9 each for a and b, the lower id first; with c it is 8 of 9.
    assert texts(found(said, None, 0.6)["tokens"]) == "ab"
    assert texts(found(said, None, 0.7)["tokens"]) == "abc"
    # 0.55 * 100 is a little more than 55.
    assert texts(found([*["a!"] * 55, *["b!"] * 45], None, 0.55)["tokens"]) == "a"
    everything = found(said, None, 1.0)
    assert texts(everything["tokens"]) == "abcd"
    assert (everything["refusals"], everything["completions"], everything["others"]) == (9, 11, None)


def test_what_begins_other_answers_as_often_is_left_out() -> None:
    said = [*["a!"] * 2, *["b!"] * 2]
    # Of the other answers a begins a half, as of the refusals; b a quarter.
    listed = found(said, ["ax", "ay", "bz", "c"])
    assert texts(listed["tokens"]) == "b"
    assert listed["left_out"] == [{"id": ord("a"), "text": "a", "refusals": 2, "others": 2}]
    # Shares count, not numbers: 2 of 8 other answers are fewer than 2 of 4 refusals.
    assert texts(found(said, [*["ax"] * 2, *["c"] * 6])["tokens"]) == "ab"


def test_an_answer_that_is_no_refusal_begins_nothing() -> None:
    listed = found(["ab", "c!", "!"], None)
    assert texts(listed["tokens"]) == "!c"
    assert found(["ab", "cd"], None)["tokens"] == []


# From a recipe

RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6, w7, w8, w9, v1], split: {train: 6, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6, c7, c8], split: {train: 4, validation: 2, test: 2}}
directions:
  candidates: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre}
search:
  warmth:
    over: candidates
    preset: {arditi2024: {harmful: warm.validation, harmless: cold.validation, tokens: FOUND}}
    subject_to: {kl: {at_most: 50}, induce: {at_least: -100}}
conditions:
  added: [ {add: {direction: warmth}} ]
evaluate:
  - refusal_score: {data: warm.test, tokens: FOUND}
filter:
  cold: {refusal_score: {at_most: 100, tokens: FOUND}}
control: {random_directions: 0}
"""
EVERYTHING = "{found_in: warm.train, by: {refusal_rate: {substrings: [PHRASE], match: literal}}, max_new_tokens: 5}"


class Steps(Observer):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(str(what))

    def progress(self, done: int, of: int) -> None:
        pass


@pytest.fixture(scope="module")
def live() -> LiveModel:
    return load_model("tiny-random:llama", dtype="float32")


def planned(folder: Path, tokens: str, *overrides: str) -> Plan:
    (folder / "small.yaml").write_text(RECIPE.replace("FOUND", tokens), "utf-8")
    return plan_recipe(folder / "small.yaml", overrides, CATALOG)


def run(folder: Path, tokens: str, observer: Observer = SILENT, *overrides: str) -> Path:
    return execute(planned(folder, tokens, *overrides), folder / "runs", observer)


def test_tokens_are_found_once_and_take_the_place_of_what_asks_for_them(tmp_path: Path, live: LiveModel) -> None:
    prompts = [example.text for example in planned(tmp_path, "[x]").data["warm"]["train"]]
    written = live.complete(live.rendered(prompts), max_new_tokens=5)
    said = [live.decode(row) for row in written]
    phrase = said[0][1:3]
    tokens = EVERYTHING.replace("PHRASE", json.dumps(phrase))
    declined = [row[0] for row, text in zip(written, said, strict=True) if phrase.lower() in text.lower()]
    expected, covered = [], 0
    for token, number in sorted(Counter(declined).items(), key=lambda item: (-item[1], item[0])):
        if covered < 0.9 * len(declined):
            expected.append(token)
            covered += number
    steps = Steps()
    path = run(tmp_path, tokens, steps)
    results = json.loads((path / "results.json").read_text("utf-8"))
    (entry,) = results["tokens"]
    assert [token["id"] for token in entry["tokens"]] == expected
    assert (entry["how"], entry["refusals"], entry["completions"]) == ("found", len(declined), 6)
    (evaluator,) = results["evaluators"]
    assert evaluator["options"]["tokens"] == expected
    assert results["searches"][0]["scores"]["refusal_score"]["options"]["tokens"] == expected
    # They come first, since the filter asks for them too.
    parts = [step for step in steps.steps if step.startswith(("refusal tokens", "filter", "direction"))]
    assert parts[0] == "refusal tokens of warm.train"
    write_report(path)
    page = " ".join((path / "report.html").read_text("utf-8").split())
    assert "Refusal tokens found:" in page
    assert f"from {len(declined)} refusals in 6 completions on warm.train" in page
    # What was found is kept, and scores are those of the same tokens as a list: nothing is computed again.
    again = Steps()
    run(tmp_path, str(expected), again)
    assert not any(step.startswith(("search", "choice", "condition")) for step in again.steps)
    once_more = Steps()
    run(tmp_path, tokens, once_more, "report.title=Another")
    assert not any(step.startswith("refusal tokens") for step in once_more.steps)


def test_a_check_knows_what_finding_costs(tmp_path: Path) -> None:
    tokens = EVERYTHING.replace("PHRASE", "x").replace("}, max", "}, against: cold.train, max")
    parts = dict(planned(tmp_path, tokens).cost.parts)
    assert parts["refusal tokens"] == 5 + 1
    assert "refusal tokens" not in dict(planned(tmp_path, "[x]").cost.parts)


def test_where_nothing_is_found_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"counts none of the 6 completions on warm\.train as a refusal.*under `by`"):
        run(tmp_path, EVERYTHING.replace("PHRASE", '"no such words"'))


def test_where_all_begin_other_answers_too_the_error_says_so(tmp_path: Path, live: LiveModel) -> None:
    prompts = [example.text for example in planned(tmp_path, "[x]").data["warm"]["train"]]
    text = live.decode(live.complete(live.rendered(prompts[:1]), max_new_tokens=5)[0])
    tokens = EVERYTHING.replace("PHRASE", json.dumps(text)).replace("}, max", "}, against: warm.train, share: 1, max")
    # Against the same prompts: whatever begins all refusals begins as many answers, where all are refusals.
    try:
        path = run(tmp_path, tokens)
    except DataError as error:
        assert "begin the answers to warm.train as often" in str(error)
    else:
        (entry,) = json.loads((path / "results.json").read_text("utf-8"))["tokens"]
        assert all(token["refusals"] * 6 > token["others"] * entry["refusals"] for token in entry["tokens"])


def test_a_preset_finds_them_in_its_own_data(tmp_path: Path) -> None:
    text = RECIPE.replace("tokens: FOUND}}\n    subject", "tokens: found}}\n    subject").replace("FOUND", "[x]")
    (tmp_path / "small.yaml").write_text(text, "utf-8")
    plan = plan_recipe(tmp_path / "small.yaml", (), CATALOG)
    (one,) = plan.tokens.values()
    assert (str(one.found_in), str(one.against)) == ("warm.validation", "cold.validation")
    assert one.needs.max_new_tokens == 32


@pytest.mark.parametrize(
    ("tokens", "where", "message"),
    [
        ("found", "tokens", "expected a list of texts and token ids, known, or {found_in"),
        ("{found_in: warn.train}", "tokens.found_in", "Did you mean 'warm.train'"),
        ("{foundin: warm.train}", "tokens.foundin", "Did you mean 'found_in'"),
        ("{found_in: warm.train, share: 2}", "tokens.share", "at most 1"),
        ("{found_in: warm.train, by: {refusal_rat: {}}}", "tokens.by.refusal_rat", "Did you mean 'refusal_rate'"),
        ("{found_in: warm.train, by: {refusal_rate: {matches: x}}}", "tokens.by.refusal_rate.matches", "'match'"),
        ("{found_in: warm.train, by: {kl_divergence: {}}}", "tokens.by.kl_divergence", "a completion alone"),
        ("{found_in: warm.train, by: {}}", "tokens.by", "expected one evaluator"),
        ("[]", "tokens", "at least 1 item"),
    ],
)
def test_what_can_not_be_found_is_told_before_anything_runs(
    tmp_path: Path, tokens: str, where: str, message: str
) -> None:
    text = RECIPE.replace("warm.test, tokens: FOUND", f"warm.test, tokens: {tokens}").replace("FOUND", "[x]")
    (tmp_path / "small.yaml").write_text(text, "utf-8")
    with pytest.raises(RecipeError) as caught:
        plan_recipe(tmp_path / "small.yaml", (), CATALOG)
    (problem,) = caught.value.problems
    assert problem.where == f"evaluate.0.refusal_score.{where}"
    assert message in problem.message, problem.message


def test_what_the_adapter_does_not_know_is_told_by_the_config(tmp_path: Path) -> None:
    text = RECIPE.replace("warm.test, tokens: FOUND", "warm.test, tokens: known").replace("FOUND", "[x]")
    (tmp_path / "small.yaml").write_text(text.replace("tiny-random:llama", "smollm2-135m-instruct"), "utf-8")
    with pytest.raises(RecipeError) as caught:
        plan_recipe(tmp_path / "small.yaml", (), CATALOG)
    (problem,) = caught.value.problems
    assert problem.where == "evaluate.0.refusal_score.tokens"
    assert "adapter llama knows no refusal tokens for a vocabulary of 49,152 tokens" in problem.message


def test_known_tokens_need_no_config_for_a_check(tmp_path: Path) -> None:
    text = RECIPE.replace("FOUND", "known").replace("tiny-random:llama", "org/not-at-hand")
    (tmp_path / "small.yaml").write_text(text, "utf-8")
    plan = plan_recipe(tmp_path / "small.yaml", ["model.adapter=llama"], CATALOG)
    assert plan.architecture is not None
    assert plan.tokens == {}


def test_an_evaluator_by_itself_takes_a_list(live: LiveModel) -> None:
    options: Options = RefusalScoreOptions.model_validate({"tokens": "known"})
    with pytest.raises(PluginError, match="put in by a run"):
        RefusalScore(cast(RefusalScoreOptions, options), live.vocabulary)


# Known ones


def test_known_tokens_are_those_of_the_paper() -> None:
    catalog = Catalog.from_modules(llama, gemma, yi, qwen)
    known = {name: catalog.get("architecture", name).refusal_tokens for name in catalog.names("architecture")}
    assert known["llama"] == {32000: {306: "I"}, 128256: {40: "I"}}
    assert known["gemma"] == {256000: {235285: "I"}}
    assert known["yi"] == {64000: {59597: "I"}}
    assert known["qwen"] == known["qwen1"] == {size: {40: "I", 2121: "As"} for size in (151936, 152064)}


def test_a_known_token_is_used_where_the_tokenizer_has_it(live: LiveModel) -> None:
    size = live.facts.config["vocab_size"]
    (token,) = live.rendered([[7]])[0].token_ids
    text = live.decode([token])
    (spec,) = llama.steerkit_architectures()
    entry = known_tokens(replace(spec, refusal_tokens={size: {token: text.strip()}}), live)
    assert [(one.id, one.text) for one in entry.tokens] == [(token, text.strip())]
    assert "known to adapter llama" in entry.sentence
    with pytest.raises(DataError, match="it is another tokenizer"):
        known_tokens(replace(spec, refusal_tokens={size: {token: "another"}}), live)
    with pytest.raises(DataError, match="for vocabularies of 32,000 and 128,256, and this model's has"):
        known_tokens(spec, live)
