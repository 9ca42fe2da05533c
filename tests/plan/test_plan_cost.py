"""What a plan says that a run costs: tokens, batches, and the passes that the engine makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.plan import Plan
from steerkit.plan.cost import PREPASS
from steerkit.plan.tokens import token_counter
from steerkit.progress import SILENT
from steerkit.sharing import count_batches
from steerkit.types import Example, Message
from tests.plan.conftest import RECIPE, Planner

PLAIN = "add: {direction: warmth}"
FULL = "add: {direction: warmth, gate: {direction: warmth, above: 1, at: prompt, prepass: true}}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steerkit.engine.tiny.models import tiny_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
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

    from steerkit.engine.prompts.chat import ChatFormat

    chat = ChatFormat(AutoTokenizer.from_pretrained(tokenizer_folder), template=template, system_prompt=system)
    counter = token_counter(tokenizer_folder, template, system)
    texts = ["hello there", "a", "über <|user|> x", "<bos>begun"]
    answered = [Example((Message("user", "hello"),), completion=" you")]
    talks = [Example((Message("user", "a"), Message("assistant", "b"))), Example.of("c")] if template != "none" else []
    assert not counter.estimated
    for examples in ([Example.of(text) for text in texts], [*answered, *map(Example.of, texts)], talks):
        assert counter.count(examples) == [len(chat.render(one).token_ids) for one in examples]
        assert counter.count(examples, "whole") == [
            len(chat.render(one, completion=True).token_ids) for one in examples
        ]
        assert counter.count(examples, "text") == [len(chat.render_reading(one).token_ids) for one in examples]


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

    from steerkit.engine.prompts.batches import batches
    from steerkit.engine.prompts.chat import Rendered

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
    # Under the baseline two data sets of next-token logits, and 7 passes for samples, which controls don't have.
    # Side by side the 4 conditions make as many. Controls generate nothing: 3 groups of 5, at 2 calls and 5 × 60 tokens
    # each, cost within a tenth of one group of 15 (16 tokens a call: 996 to 932), and 4 groups don't (1028).
    assert dict(cost.parts) == {
        "directions": 2,
        "separation by layer": 4,
        "baseline": 2 + 7,
        "conditions": 2 + 7,
        "random controls": 3 * 2,
    }
    assert cost.forward_passes == sum(count for _, count in cost.parts)
    assert cost.prompt_tokens == prompt * (8 + 8 + 4 + 20 * 5 + 5 * 2)
    assert cost.generated_tokens == 5 * 2 * 7
    assert cost.estimated


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
    assert passes(plan(calls(rates)))["conditions"] == 9


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
    text = (
        calls(lines)
        + "report: {samples: {data: warm.test, n: 2, max_new_tokens: 5}}\ncontrol: {random_directions: 1}\n"
    )
    found = plan(text)
    assert engine_calls(found) == found.cost.forward_passes


@pytest.mark.parametrize("budget", [40, 100, 300, 4096])
@pytest.mark.parametrize("gate", [PLAIN, FULL])
def test_the_passes_of_groups_are_counted_whatever_fits_into_a_batch(
    plan: Planner, model_folder: Path, budget: int, gate: str
) -> None:
    text = RECIPE.replace("- add: {direction: warmth, coefficient: 4.0}", f"- {gate}")
    text = text.replace("[-8, 0.5]", "[-8, 0.5, 1, 2, 3]").partition("evaluate:")[0]
    text += (
        "evaluate:\n"
        "  - refusal_rate: {data: probe.test, max_new_tokens: 3}\n"
        "  - kl_divergence: {data: warm.test}\n"
        "  - cross_entropy: {data: warm.test, of: baseline_completions, max_new_tokens: 2}\n"
        "  - cross_entropy: {data: warm.test, of: baseline_completions, max_new_tokens: 4, name: longer}\n"
        "  - cross_entropy: {data: probe.test, name: short, max_tokens: 3}\n"
        "report: {samples: {data: warm.test, n: 2, max_new_tokens: 5}}\ncontrol: {random_directions: 2}\n"
    )
    found = plan(text, f"model.source={model_folder}", f"model.batch_tokens={budget}")
    assert not found.cost.estimated
    assert engine_calls(found) == found.cost.forward_passes


@pytest.mark.parametrize("budget", [100, 4096])
@pytest.mark.parametrize("shown", ["warm.test", "probe.test"])
def test_readings_and_comparisons_along_completions_are_counted(
    plan: Planner, model_folder: Path, budget: int, shown: str
) -> None:
    text = RECIPE.partition("evaluate:")[0]
    text += (
        "monitors: {harm: {direction: warmth, above: 0}}\n"
        "evaluate:\n"
        "  - kl_divergence: {data: warm.test, along: completions, max_new_tokens: 3}\n"
        "  - cross_entropy: {data: warm.test, of: baseline_completions, max_new_tokens: 3}\n"
        "  - monitor_auroc: {data: warm.test, monitor: harm, positive: 1}\n"
        "  - monitor_auroc: {data: probe.test, monitor: harm, positive: 1, max_new_tokens: 2, name: written}\n"
        f"report: {{samples: {{data: {shown}, n: 2, max_new_tokens: 5}}}}\ncontrol: {{random_directions: 2}}\n"
    )
    found = plan(text, f"model.source={model_folder}", f"model.batch_tokens={budget}")
    assert not found.cost.estimated
    assert engine_calls(found) == found.cost.forward_passes


def engine_calls(found: Plan) -> int:
    """The engine is run for real, its calls of the base model counted; no completion of it ends early."""
    import torch

    from steerkit import stages
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    live = wrap(tiny_model("llama"), tiny_tokenizer(), batch_tokens=found.recipe.model.batch_tokens)
    live.model.generation_config.eos_token_id = None
    counted: list[int] = []
    live.model.get_input_embeddings().register_forward_hook(lambda *_: counted.append(1))
    with torch.no_grad():
        directions = stages.estimate(found, live, SILENT)
        stages.separations(found, live, SILENT)
        evaluation = stages.evaluation(found, live, SILENT)
        evaluation.monitor(stages.monitors(found, directions, live.layout.n_layers))
        for group in stages.groups(stages.conditions(found, directions), evaluation):
            evaluation.run_many([one.steered for one in group], samples=group[0].kind != "control")
    return len(counted)


# Gates that are decided in advance.

EVALUATORS = ("refusal_rate: {data: warm.test, max_new_tokens: 5}",)


def gated(intervention: str, evaluators: Sequence[str] = EVALUATORS, samples: bool = True) -> str:
    """A recipe of one condition with two controls."""
    text = RECIPE[: RECIPE.index("conditions:")] + f"conditions:\n  late:\n    - {intervention}\nevaluate:\n"
    text += "".join(f"  - {line}\n" for line in evaluators) + "control: {random_directions: 2}\n"
    return text + ("report: {samples: {data: probe.test, n: 2, max_new_tokens: 3}}\n" if samples else "")


def test_a_decision_in_advance_costs_a_pass_over_every_prompt(plan: Planner) -> None:
    one, other = plan(gated(PLAIN)), plan(gated(FULL))
    # Completions of an evaluator under the condition and under its two controls, and samples under the condition.
    assert passes(other) == {**passes(one), PREPASS: 2 + 1}
    assert PREPASS not in passes(plan(gated(FULL.replace(", prepass: true", ""))))
    prompt = 1 + 11  # a word and what is put around it
    assert other.cost.prompt_tokens - one.cost.prompt_tokens == prompt * (3 * 2 + 2)
    assert other.cost.generated_tokens == one.cost.generated_tokens
    assert other.cost.forward_passes == sum(passes(other).values())


def test_gates_share_the_pass_in_advance(plan: Planner) -> None:
    assert passes(plan(gated(f"{FULL}\n    - {FULL}")))[PREPASS] == passes(plan(gated(FULL)))[PREPASS]


def test_logits_are_read_twice_too(plan: Planner) -> None:
    evaluators = ("refusal_score: {data: warm.test, tokens: [x]}", "cross_entropy: {data: warm.test}")
    assert passes(plan(gated(FULL, evaluators, samples=False)))[PREPASS] == 2 * 2


@pytest.mark.parametrize(
    "evaluator",
    [
        "refusal_rate: {data: warm.test, max_new_tokens: 5}",
        "refusal_score: {data: warm.test, tokens: [x]}",
        "kl_divergence: {data: probe.test}",
        "cross_entropy: {data: warm.test, max_tokens: 4}",
        "cross_entropy: {data: probe.test, of: baseline_completions, max_new_tokens: 3}",
    ],
)
def test_the_engine_makes_the_passes_in_advance_that_the_plan_counts(plan: Planner, evaluator: str) -> None:
    found = plan(gated(FULL, [evaluator]))
    assert passes(found)[PREPASS] > 0
    assert engine_calls(found) == found.cost.forward_passes
