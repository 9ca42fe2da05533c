"""Conditions with a system prompt or a mode, under the runner of evaluators: against literal passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.api.intervention import Placement
from steerkit.engine.lowering.edits import Mode
from steerkit.engine.measuring.evaluate import ConditionScores, Evaluation, Job, SampleRequest, Steered
from steerkit.engine.prompts.chat import ChatFormat, Rendered
from steerkit.engine.reading.monitors import completion_to_read
from steerkit.engine.reading.passes import next_token_logits
from steerkit.session import add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Example, ExampleLike, Site
from tests.conftest import assert_clean, tiny_live

TEXTS = ["one", "two words", "three words now"]
PROMPT = "Be warm."


class Logit(Evaluator[NoOptions]):
    """The logit of one token after the prompt, beside the baseline's."""

    def score(self, outputs: Outputs) -> Sequence[Score]:
        assert outputs.next_token_logits is not None and outputs.baseline is not None
        assert outputs.baseline.next_token_logits is not None
        moved = outputs.next_token_logits[:, 70] - outputs.baseline.next_token_logits[:, 70]
        return [Score(float(value)) for value in moved]


class Entropy(Evaluator[NoOptions]):
    """Mean log-probability along the baseline's completions."""

    def score(self, outputs: Outputs) -> Sequence[Score]:
        assert outputs.sequence_logits is not None and outputs.token_ids is not None and outputs.token_mask is not None
        told = outputs.sequence_logits.log_softmax(-1).gather(-1, outputs.token_ids[..., None])[..., 0]
        counts = outputs.token_mask.sum(1)
        return [Score(float(value)) for value in (told * outputs.token_mask).sum(1) / counts]


def evaluation(live: LiveModel) -> Evaluation:
    jobs = [
        Job("logit", Logit(NoOptions(), live.vocabulary), Needs(next_token_logits=True, baseline=True), "x"),
        Job(
            "entropy",
            Entropy(NoOptions(), live.vocabulary),
            Needs(sequence_logits=True, max_new_tokens=3, baseline_completions=True),
            "x",
        ),
    ]
    return Evaluation(live, jobs, {"x": TEXTS}, SampleRequest("x", 2, 4))


def steering(live: LiveModel) -> tuple[Placement, ...]:
    return (add(Direction(torch.full((1, live.layout.d_model), 2.0), Site("resid_pre", 1))),)


def values(result: ConditionScores, name: str) -> list[float]:
    return [score.value for score in result.scores[name, "x"]]


def test_a_prompted_condition_is_compared_on_the_same_examples(llama: LiveModel) -> None:
    """What another model gives whose own system prompt is the condition's."""
    prompted = wrap(llama.model, llama.tokenizer, system_prompt=PROMPT, self_test=False)
    plain = next_token_logits(llama, TEXTS)[:, 70]
    asked, both = evaluation(llama).run_many([Steered((), PROMPT), Steered(steering(llama), PROMPT)])
    expected = next_token_logits(prompted, TEXTS)[:, 70] - plain
    assert values(asked, "logit") == pytest.approx(expected.tolist(), abs=1e-5)
    assert max(map(abs, values(asked, "logit"))) > 1e-3
    with prompted.steer(*steering(llama)):
        expected = next_token_logits(prompted, TEXTS)[:, 70] - plain
    assert values(both, "logit") == pytest.approx(expected.tolist(), abs=1e-5)
    assert list(asked.completions["x"]) == prompted.generate(TEXTS[:2], max_new_tokens=4)


def test_the_baselines_completions_follow_the_conditions_own_prompt(llama: LiveModel) -> None:
    chat = ChatFormat(llama.chat.tokenizer, system_prompt=PROMPT)
    found = values(evaluation(llama).run(Steered((), PROMPT)), "entropy")
    written = llama.complete(TEXTS, max_new_tokens=3)
    for text, ids, value in zip(TEXTS, written, found, strict=True):
        before = chat.render(text).token_ids
        with torch.no_grad():
            logits = llama.hf_model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1)
        told = [float(logits[len(before) - 1 + place, token]) for place, token in enumerate(ids)]
        assert value == pytest.approx(sum(told) / len(told), abs=1e-4)


@pytest.mark.parametrize("mode", ["fold", "hook", "interpret"])
def test_a_mode_is_used_and_changes_no_value(llama: LiveModel, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    modes: list[str] = []
    steer = LiveModel.steer

    def noted(self: LiveModel, *placements: Placement, mode: str = "auto", expected_tokens: int = 0) -> object:
        modes.append(mode)
        return steer(self, *placements, mode=mode, expected_tokens=expected_tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(LiveModel, "steer", noted)
    conditions = [Steered(steering(llama)), Steered(steering(llama), None, mode), Steered(steering(llama), None, mode)]  # type: ignore[arg-type]
    auto, one, two = evaluation(llama).run_many(conditions)
    for name in ("logit", "entropy"):
        assert values(one, name) == pytest.approx(values(auto, name), abs=1e-4)
        assert values(two, name) == pytest.approx(values(auto, name), abs=1e-4)
    # Two that are hooked share batches as rows; others are put on one by one, for each pass.
    passes = modes.count("auto")
    assert passes > 0 and modes.count(mode) == (0 if mode == "hook" else 2 * passes)


class Against(Evaluator[NoOptions]):
    """Sum along a text of how far the log-probability of each token lies from the baseline's."""

    def score(self, outputs: Outputs) -> Sequence[Score]:
        assert outputs.baseline is not None and outputs.token_mask is not None
        told = [log_probabilities(one) * outputs.token_mask for one in (outputs, outputs.baseline)]
        return [Score(float(value)) for value in (told[0] - told[1]).sum(1)]


def log_probabilities(outputs: Outputs) -> torch.Tensor:
    assert outputs.sequence_logits is not None and outputs.token_ids is not None
    return outputs.sequence_logits.log_softmax(-1).gather(-1, outputs.token_ids[..., None])[..., 0]


def against(live: LiveModel, needs: Needs, rows: Sequence[ExampleLike] = TEXTS) -> Evaluation:
    return Evaluation(live, [Job("against", Against(NoOptions(), live.vocabulary), needs, "x")], {"x": rows})


def told_along(live: LiveModel, text: Rendered, tokens: int | None = None) -> float:
    """The log-probability of what follows a prompt, or of its first tokens, in a pass of one's own."""
    ids, start = list(text.token_ids), text.prompt or 1
    with torch.no_grad():
        logits = live.forward(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    end = len(ids) if tokens is None else start + tokens
    return sum(float(logits[place - 1, ids[place]]) for place in range(start, end))


@pytest.mark.parametrize("mode", ["auto", "fold", "hook", "interpret"])
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_what_is_compared_along_completions_stands_behind_each_sides_own_prompt(
    llama: LiveModel, mode: Mode, prompt: str | None
) -> None:
    needs = Needs(sequence_logits=True, max_new_tokens=3, baseline_completions=True, baseline=True)
    asked = llama.chat if prompt is None else llama.chat.with_system_prompt(prompt)
    expected = []
    for text, ids in zip(TEXTS, llama.complete(TEXTS, max_new_tokens=3), strict=True):
        plain = told_along(llama, completion_to_read(llama.chat.render(text), ids))
        with llama.steer(*steering(llama)):
            expected.append(told_along(llama, completion_to_read(asked.render(text), ids)) - plain)
    condition = Steered(steering(llama), prompt, mode)
    assert values(against(llama, needs).run(condition), "against") == pytest.approx(expected, abs=1e-4)
    many = against(llama, needs).run_many([condition, Steered((), prompt), condition])
    for found in (many[0], many[2]):
        assert values(found, "against") == pytest.approx(expected, abs=1e-4)
    if prompt is None:
        assert values(many[1], "against") == [0.0] * 3
    else:
        assert min(map(abs, values(many[1], "against"))) > 1e-3, "a system prompt alone is another condition"
    assert_clean(llama)


def test_completions_of_the_data_follow_the_conditions_prompt_and_texts_do_not(llama: LiveModel) -> None:
    needs = Needs(sequence_logits=True, baseline=True)
    rows = [replace(Example.of(text), completion="and a completion") for text in TEXTS]
    asked = llama.chat.with_system_prompt(PROMPT)
    expected = [told_along(llama, asked.render(row, completion=True)) for row in rows]
    plain = [told_along(llama, llama.chat.render(row, completion=True)) for row in rows]
    moved = [one - other for one, other in zip(expected, plain, strict=True)]
    assert values(against(llama, needs, rows).run(Steered((), PROMPT)), "against") == pytest.approx(moved, abs=1e-4)
    assert values(against(llama, needs).run(Steered((), PROMPT)), "against") == pytest.approx([0.0] * 3, abs=1e-5)


def test_a_limit_counts_the_same_tokens_on_both_sides(llama: LiveModel) -> None:
    asked = llama.chat.with_system_prompt(PROMPT)
    texts = [asked.render(text) for text in TEXTS]
    limit = max(len(text.token_ids) for text in texts) + 1
    needs = Needs(
        sequence_logits=True, max_new_tokens=3, baseline_completions=True, baseline=True, max_text_tokens=limit
    )
    expected = []
    for text, ids in zip(TEXTS, llama.complete(TEXTS, max_new_tokens=3), strict=True):
        steered, plain = (completion_to_read(chat.render(text), ids) for chat in (asked, llama.chat))
        counted = min(limit - (steered.prompt or 0), len(ids))
        expected.append(told_along(llama, steered, counted) - told_along(llama, plain, counted))
    assert values(against(llama, needs).run(Steered((), PROMPT)), "against") == pytest.approx(expected, abs=1e-4)


def test_a_condition_replaces_an_examples_own_system_turn(llama: LiveModel) -> None:
    own = [{"role": "system", "content": "Be cold."}, {"role": "user", "content": "one"}]
    held = Evaluation(llama, [], {"x": [own, "one"]})
    (with_own, without), (first, second) = held.prompts("x"), held.prompts("x", PROMPT)
    assert first == second and len({with_own.token_ids, without.token_ids, first.token_ids}) == 3


def test_a_system_prompt_acts_where_its_interventions_do_nothing(llama: LiveModel) -> None:
    nothing = (add(Direction(torch.ones(1, llama.layout.d_model), Site("resid_pre", 1)), coefficient=0.0),)
    alone, idle, both = evaluation(llama).run_many([(), nothing, Steered(nothing, PROMPT)])
    assert idle.scores == alone.scores and idle.notes and not both.notes
    assert values(both, "logit") == pytest.approx(values(evaluation(llama).run(Steered((), PROMPT)), "logit"), abs=1e-5)


def test_a_condition_replaces_the_models_own_system_prompt() -> None:
    plain = tiny_live("llama")
    own = wrap(plain.model, plain.tokenizer, system_prompt="Be cold and say little.", self_test=False)
    found = evaluation(own).prompts("x", PROMPT)
    assert found == [ChatFormat(plain.chat.tokenizer, system_prompt=PROMPT).render(text) for text in TEXTS]
    assert evaluation(own).prompts("x") == [own.chat.render(text) for text in TEXTS] != found
