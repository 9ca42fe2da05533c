"""What evaluators may ask for beside logits and completions, each compared with what one gets by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score, Scored
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.api.intervention import Intervention
from steerkit.api.monitor import Monitor
from steerkit.engine.measuring.evaluate import Evaluation, Job, SampleRequest
from steerkit.engine.measuring.jobs import IDLE
from steerkit.engine.reading.monitors import completion_to_read, read_along
from steerkit.errors import PluginError
from steerkit.session import ablate, add, gate
from steerkit.session.model import LiveModel
from steerkit.types import Example, Message, Positions, Site
from steerkit_evaluators._kl_divergence import KlDivergence
from steerkit_evaluators.kl_divergence import KlDivergenceOptions

TEXTS = ["one", "two words", "three words now", "and a fourth one"]


class Spy(Evaluator[NoOptions]):
    """Keeps what it was shown."""

    def __init__(self, live: LiveModel) -> None:
        super().__init__(NoOptions(), live.vocabulary)
        self.seen: list[Outputs] = []

    def score(self, outputs: Outputs) -> Sequence[Scored]:
        self.seen.append(outputs)
        return [Score(1.0) for _ in outputs.texts]


def direction(live: LiveModel, seed: int = 0) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site("resid_pre", 1))


def pushed(live: LiveModel, coefficient: float = 2.0, **where: Any) -> list[Intervention]:
    return [add(direction(live), coefficient=coefficient, **where)]


def spied(live: LiveModel, needs: Needs, texts: Sequence[Any] = TEXTS, **settings: Any) -> tuple[Spy, Evaluation]:
    spy = Spy(live)
    return spy, Evaluation(live, [Job("spy", spy, needs, "x")], {"x": texts}, **settings)


def test_activations_are_those_that_capture_gives(llama: LiveModel) -> None:
    spy, evaluation = spied(
        llama, Needs(activations=(("blocks.*.resid_post", "-1"), ("embed", "prompt")), baseline=True)
    )
    condition = pushed(llama)
    evaluation.run(condition)
    (outputs,) = spy.seen
    assert outputs.activations is not None and outputs.baseline is not None
    sites = [Site("resid_post", layer) for layer in range(llama.layout.n_layers)]
    for active, held in ((condition, outputs.activations), ([], outputs.baseline.activations)):
        assert held is not None and len(held) == len(sites) + 1
        with llama.steer(*active):
            captured = llama.capture(TEXTS, [*sites, "embed"], ["-1", "prompt"], kind="rows")
        for key, rows in held.items():
            torch.testing.assert_close(torch.cat(list(rows)), captured[key].rows, rtol=1e-4, atol=1e-5)
            assert [len(row) for row in rows] == captured[key].tokens_per_prompt.tolist()


def test_activations_along_completions_are_of_what_was_written(llama: LiveModel) -> None:
    spy, evaluation = spied(llama, Needs(max_new_tokens=3, activations=(("blocks.1.resid_post", "generated"),)))
    condition = pushed(llama)
    evaluation.run(condition)
    ids = llama.complete(TEXTS, max_new_tokens=3, steer=[condition] * 4)
    (held,) = (spy.seen[0].activations or {}).values()
    assert [len(row) for row in held] == [len(row) for row in ids]
    texts = [completion_to_read(llama.chat.render(text), row) for text, row in zip(TEXTS, ids, strict=True)]
    key = (Site("resid_post", 1), Positions.parse("generated"))
    by_hand = read_along(llama, texts, keys=[key], steer=[condition] * 4)
    for row, expected in zip(held, by_hand, strict=True):
        torch.testing.assert_close(row, expected.activations[key], rtol=1e-4, atol=1e-5)


def test_examples_reach_the_evaluator(llama: LiveModel) -> None:
    rows = [Example((Message("user", text),), label=text[0], fields={"n": len(text)}) for text in TEXTS]
    spy, evaluation = spied(llama, Needs(next_token_logits=True), rows)
    evaluation.run()
    assert list(spy.seen[0].examples) == rows and list(spy.seen[0].texts) == TEXTS


def test_samples_follow_from_seed_and_condition_alone(llama: LiveModel) -> None:
    needs = Needs(samples=3, max_new_tokens=5, temperature=2.0, top_p=0.95, baseline=True)

    def drawn(more: Sequence[Needs] = (), others: int = 0, seed: int = 0, name: str = "pushed") -> Any:
        spy = Spy(llama)
        jobs = [Job("spy", spy, needs, "x")]
        jobs += [Job(f"more {place}", Spy(llama), need, "x") for place, need in enumerate(more)]
        evaluation = Evaluation(llama, jobs, {"x": TEXTS}, seed=seed)
        conditions = [pushed(llama)] + [pushed(llama, 3.0 + place) for place in range(others)]
        evaluation.run_many(conditions, names=[name, *map(str, range(others))])
        assert spy.seen[0].baseline is not None
        return spy.seen[0].samples, spy.seen[0].baseline.samples

    found = drawn()
    assert [len(row) for row in found[0]] == [3] * 4 and len({text for row in found[0] for text in row}) > 6
    assert drawn() == found
    assert drawn([Needs(next_token_logits=True), Needs(samples=1, max_new_tokens=2)], others=3) == found
    assert drawn(seed=1)[0] != found[0]
    renamed = drawn(name="other")
    assert renamed[0] != found[0] and renamed[1] == found[1]


@pytest.mark.parametrize("condition", ["ablated", "pushed"])
def test_what_else_is_measured_changes_no_bit(llama: LiveModel, condition: str) -> None:
    """Whether a condition is folded follows from a pass alone, not from all that it will see."""
    active = pushed(llama) if condition == "pushed" else [ablate(direction(llama))]

    def logits(more: Sequence[Needs], texts: Sequence[str]) -> torch.Tensor:
        spy = Spy(llama)
        jobs = [Job("spy", spy, Needs(next_token_logits=True), "x")]
        jobs += [Job(f"more {place}", Spy(llama), need, "y") for place, need in enumerate(more)]
        Evaluation(llama, jobs, {"x": TEXTS, "y": texts}).run(active)
        assert spy.seen[0].next_token_logits is not None
        return spy.seen[0].next_token_logits

    alone = logits([], ["one"])
    assert logits([Needs(max_new_tokens=40), Needs(sequence_logits=True)], TEXTS * 50).equal(alone)


def test_divergence_along_completions_is_that_of_two_whole_passes(llama: LiveModel) -> None:
    options = KlDivergenceOptions(along="completions", max_new_tokens=4, epsilon=0)
    needs = Needs(sequence_logits=True, baseline=True, baseline_completions=True, max_new_tokens=4)
    job = Job("kl", KlDivergence(options, llama.vocabulary), needs, "x")
    evaluation = Evaluation(llama, [job], {"x": TEXTS})
    conditions = [pushed(llama), pushed(llama, -1.0), pushed(llama, 2.0, positions="generated")]
    together = evaluation.run_many(conditions)
    plain_ids = llama.complete(TEXTS, max_new_tokens=4)
    for condition, found in zip(conditions, together, strict=True):
        for text, ids, score in zip(TEXTS, plain_ids, found.scores[("kl", "x")], strict=True):
            prompt = list(llama.chat.render(text).token_ids)
            row = torch.tensor([prompt + ids])
            with torch.no_grad():
                plain = llama.forward(row).logits[0, len(prompt) - 1 : -1].double()
                steered = llama.forward(row, prompt_lengths=[len(prompt)], steer=[condition]).logits
            other = steered[0, len(prompt) - 1 : -1].double()
            p, q = plain.log_softmax(-1), other.log_softmax(-1)
            assert score.value == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-6)
            assert score.weight == len(ids)
    alone = evaluation.run(conditions[0])
    assert [one.value for one in alone.scores[("kl", "x")]] == pytest.approx(
        [one.value for one in together[0].scores[("kl", "x")]], rel=1e-4
    )
    assert {one.value for one in evaluation.run().scores[("kl", "x")]} == {0.0}


# Several values, and answers


class Several(Evaluator[NoOptions]):
    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        return [{"long": Score(float(len(text))), "short": Score(0.5)} for text in outputs.texts]


def test_several_values_have_labels_of_their_own(llama: LiveModel) -> None:
    evaluator = Several(NoOptions(), llama.vocabulary)
    needs = Needs(next_token_logits=True)
    job = Job("several", evaluator, needs, "x", {"long": "several.long", "short": "several.short"})
    found = Evaluation(llama, [job], {"x": TEXTS}).run().scores
    assert list(found) == [("several.long", "x"), ("several.short", "x")]
    assert [score.value for score in found[("several.long", "x")]] == [len(text) for text in TEXTS]
    with pytest.raises(PluginError, match="gave values long, short; its spec declares long"):
        Evaluation(llama, [Job("several", evaluator, needs, "x", {"long": "long"})], {"x": TEXTS}).run()
    with pytest.raises(PluginError, match="gave one score"):
        Evaluation(llama, [Job("spy", Spy(llama), needs, "x", {"a": "a", "b": "b"})], {"x": TEXTS}).run()


class Judge(Spy):
    """Rates completions by their length, through somebody slow."""

    asked = 0

    def questions(self, outputs: Outputs) -> Sequence[Sequence[str]]:
        return [(f"rate {text}",) for text in outputs.texts]

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        type(self).asked += len(questions)
        return [None if "fourth" in question else str(len(question)) for question in questions]

    def score(self, outputs: Outputs) -> Sequence[Scored]:
        assert outputs.answers is not None
        return [Score(math.nan if one is None else float(one)) for (one,) in outputs.answers]


def test_answers_reach_the_score_and_what_is_missing_is_said(llama: LiveModel) -> None:
    job = Job("judge", Judge(llama), Needs(max_new_tokens=2, calls=3), "x")
    found = Evaluation(llama, [job], {"x": TEXTS}).run(pushed(llama))
    values = [score.value for score in found.scores[("judge", "x")]]
    assert values[:3] == [float(len(f"rate {text}")) for text in TEXTS[:3]] and math.isnan(values[3])
    assert found.notes == ("judge on x: 1 were beyond the budget of calls.",)
    job = Job("judge", Judge(llama), Needs(max_new_tokens=2, calls=9), "x")
    assert "1 question stayed" in Evaluation(llama, [job], {"x": TEXTS}).run().notes[0]


# What does nothing


def test_what_does_nothing_is_the_baseline_to_the_bit(llama: LiveModel) -> None:
    needs = [Needs(next_token_logits=True, baseline=True), Needs(max_new_tokens=3), Needs(sequence_logits=True)]

    class Print(Spy):
        def score(self, outputs: Outputs) -> Sequence[Scored]:
            logits = outputs.next_token_logits if outputs.next_token_logits is not None else outputs.sequence_logits
            rows = range(len(outputs.texts))
            return [Score(0.0 if logits is None else float(logits[row].double().sum())) for row in rows]

    jobs = [Job(str(place), Print(llama), need, "x") for place, need in enumerate(needs)]
    evaluation = Evaluation(llama, jobs, {"x": TEXTS}, SampleRequest("x", 2, 3))
    nothing, acting = evaluation.run_many([pushed(llama, 0.0), pushed(llama)])
    plain = evaluation.run()
    assert nothing.scores == plain.scores and nothing.completions == plain.completions
    assert nothing.notes == (IDLE,) and plain.notes == ()
    assert acting.scores != plain.scores and acting.notes == ()


def test_what_edits_nothing_is_counted(llama: LiveModel) -> None:
    spy = Spy(llama)
    jobs = [Job("next", spy, Needs(next_token_logits=True), "x"), Job("written", spy, Needs(max_new_tokens=3), "x")]
    evaluation = Evaluation(llama, jobs, {"x": TEXTS})
    never = gate(direction(llama), above=1e6)
    conditions = {
        "late": pushed(llama, positions="generated"),
        "shut": pushed(llama, gate=never),
        "text": pushed(llama, positions="from_token(#3)"),
        "all": pushed(llama),
        "first": pushed(llama, positions="prompt[0]"),
    }
    for together in (False, True):
        if together:
            results = dict(zip(conditions, evaluation.run_many(list(conditions.values())), strict=True))
        else:
            results = {name: evaluation.run(one) for name, one in conditions.items()}
        counts = {
            name: {kind: list(by.values()) for (_, kind), by in found.activity.items()}
            for name, found in results.items()
        }
        lengths = [len(ids) for ids in llama.complete(TEXTS, max_new_tokens=3, steer=[conditions["late"]] * 4)]
        assert counts["late"]["next token"] == [0]
        # The last token of a completion is written and not read, unless an end token came behind it.
        assert sum(lengths) - 4 <= counts["late"]["completions"][0] <= 4 * 2
        assert counts["shut"] == {"next token": [0], "completions": [0]}
        assert set(counts["all"]) == set(), "what acts everywhere needs no count"
        assert counts["first"] == {"next token": [4], "completions": [4]}
        assert counts["text"]["next token"] == [0]
        ((_, cause),) = results["shut"].activity[("x", "completions")]
        assert cause == "gate"


def test_monitors_read_for_evaluators_and_for_samples(llama: LiveModel) -> None:
    spy = Spy(llama)
    jobs = [Job("spy", spy, Needs(max_new_tokens=3, monitors=True, baseline=True), "x")]
    evaluation = Evaluation(llama, jobs, {"x": TEXTS, "y": TEXTS[::-1]}, SampleRequest("y", 2, 4))
    monitor = Monitor("m", direction(llama, 1), 0.0)
    evaluation.monitor([monitor])
    condition = pushed(llama)
    found = evaluation.run_many([condition, pushed(llama, -2.0)])[0]
    assert spy.seen[0].readings is not None and spy.seen[0].baseline is not None
    for active, held in ((condition, spy.seen[0].readings), ([], spy.seen[0].baseline.readings)):
        with llama.steer(*active):
            expected = llama.completions(TEXTS, monitors=[monitor], max_new_tokens=3)
        assert held is not None
        for one, row in zip(expected, held["m"], strict=True):
            cut = [value for value in one.readings["m"].values if not math.isnan(value)]
            assert row.values[: len(cut)] == pytest.approx(cut, abs=1e-4)
    assert len(found.readings["y"]) == 2 and set(found.readings["y"][0]) == {"m"}


def test_needs_that_no_pass_meets_are_refused(llama: LiveModel) -> None:
    for needs, message in (
        (Needs(sequence_logits=True, monitors=True), "different passes"),
        (Needs(sequence_logits=True, samples=2, max_new_tokens=3), "different passes"),
        (Needs(samples=2), "max_new_tokens"),
        (Needs(), "no output"),
    ):
        with pytest.raises(PluginError, match=message):
            spied(llama, needs)
