"""Conditions with a system prompt or a mode, under the runner of evaluators: against literal passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.api.intervention import Placement
from steerkit.engine.measuring.evaluate import ConditionScores, Evaluation, Job, SampleRequest, Steered
from steerkit.engine.prompts.chat import ChatFormat
from steerkit.engine.reading.passes import next_token_logits
from steerkit.session import add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import tiny_live

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
    passes = len(evaluation(llama).passes(samples=True))
    assert modes.count(mode) == (0 if mode == "hook" else 2 * passes) and modes.count("auto") == passes


def test_groups_of_modes_that_share_no_batch_are_of_one(llama: LiveModel) -> None:
    assert evaluation(llama).group_sizes(3, mode="fold") == [1, 1, 1]
    assert evaluation(llama).group_sizes(3, mode="interpret") == [1, 1, 1]
    assert sum(evaluation(llama).group_sizes(3)) == 3


def test_a_condition_replaces_the_models_own_system_prompt() -> None:
    plain = tiny_live("llama")
    own = wrap(plain.model, plain.tokenizer, system_prompt="Be cold and say little.", self_test=False)
    found = evaluation(own).prompts("x", PROMPT)
    assert found == [ChatFormat(plain.chat.tokenizer, system_prompt=PROMPT).render(text) for text in TEXTS]
    assert evaluation(own).prompts("x") == [own.chat.render(text) for text in TEXTS] != found
