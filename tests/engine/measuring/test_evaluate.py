"""The runner of evaluators: each pass once, the baseline once, scores in order."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.api.intervention import Placement
from steerkit.engine.measuring import prompting
from steerkit.engine.measuring.evaluate import Evaluation, Job, SampleRequest
from steerkit.engine.prompts.chat import ChatFormat, Rendered
from steerkit.engine.reading.passes import next_token_logits, sequence_logits
from steerkit.errors import DataError, PluginError
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Example, Message, Site
from tests.conftest import assert_clean, tiny_live

TEXTS = ["one", "two words", "three words now", "and a fourth one"]


class Spy(Evaluator[NoOptions]):
    """Keeps what it was shown, and scores an example by the length of its text."""

    def __init__(self, live: LiveModel) -> None:
        super().__init__(NoOptions(), live.vocabulary)
        self.seen: list[Outputs] = []

    def score(self, outputs: Outputs) -> Sequence[Score]:
        self.seen.append(outputs)
        return [Score(float(len(text))) for text in outputs.texts]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each kind of pass is made."""
    calls = {"logits": 0, "completions": 0}
    logits, complete = prompting.next_token_logits, LiveModel.complete

    def count_logits(*args: object, **kwargs: object) -> torch.Tensor:
        calls["logits"] += 1
        return logits(*args, **kwargs)  # type: ignore[arg-type]

    def count_complete(self: LiveModel, *args: object, **kwargs: object) -> list[list[int]]:
        calls["completions"] += 1
        return complete(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(prompting, "next_token_logits", count_logits)
    monkeypatch.setattr(LiveModel, "complete", count_complete)
    return calls


def steering(live: LiveModel) -> list[object]:
    return [add(Direction(torch.full((1, live.layout.d_model), 2.0), Site("resid_pre", 1)))]


def test_passes_are_shared_and_the_baseline_is_made_once(llama: LiveModel, counted: dict[str, int]) -> None:
    needs = [Needs(next_token_logits=True), Needs(next_token_logits=True, baseline=True)]
    needs += [Needs(max_new_tokens=4), Needs(max_new_tokens=2, baseline=True)]
    spies = [Spy(llama) for _ in needs]
    jobs = [Job(f"job {i}", spy, need, "x") for i, (spy, need) in enumerate(zip(spies, needs, strict=True))]
    evaluation = Evaluation(llama, jobs, {"x": TEXTS}, SampleRequest("x", 2, 4))
    evaluation.run()
    evaluation.run(steering(llama))  # type: ignore[arg-type]
    evaluation.run(steering(llama))  # type: ignore[arg-type]
    # One baseline pass of each kind, then one per condition.
    assert counted == {"logits": 3, "completions": 3}
    assert [len(spy.seen) for spy in spies] == [3, 3, 3, 3]
    assert spies[0].seen[0].baseline is None and spies[0].seen[0].completions is None
    steered = spies[1].seen[1]
    assert steered.baseline is not None and steered.next_token_logits is not None
    assert steered.baseline.next_token_logits is not None
    assert torch.equal(steered.baseline.next_token_logits, next_token_logits(llama, TEXTS))
    assert not torch.allclose(steered.next_token_logits, steered.baseline.next_token_logits)
    assert spies[3].seen[1].next_token_logits is None


def test_the_baseline_condition_equals_plain_generation(llama: LiveModel) -> None:
    spy = Spy(llama)
    evaluation = Evaluation(llama, [Job("spy", spy, Needs(max_new_tokens=3), "x")], {"x": TEXTS})
    result = evaluation.run()
    assert list(result.completions["x"]) == llama.generate(TEXTS, max_new_tokens=3)
    assert [score.value for score in result.scores[("spy", "x")]] == [len(text) for text in TEXTS]


def test_a_longer_completion_is_not_cut_to_what_is_compared(llama: LiveModel) -> None:
    long, short = Spy(llama), Spy(llama)
    jobs = [
        Job("long", long, Needs(max_new_tokens=6), "x"),
        Job("short", short, Needs(max_new_tokens=2, baseline=True), "x"),
    ]
    Evaluation(llama, jobs, {"x": TEXTS}).run()
    assert long.seen[0].completions == llama.generate(TEXTS, max_new_tokens=6)
    assert short.seen[0].completions == llama.generate(TEXTS, max_new_tokens=2)


def test_logits_along_texts_are_those_of_an_unpadded_pass(llama: LiveModel) -> None:
    rendered = [llama.chat.render_text(text) for text in TEXTS]
    for part in sequence_logits(llama, rendered, [1] * len(TEXTS)):
        for place, index in enumerate(part.order):
            ids = torch.tensor([rendered[index].token_ids])
            with torch.no_grad():
                expected = llama.model(input_ids=ids).logits[0, :-1]
            mask = part.token_mask[place]
            assert torch.equal(part.token_ids[place][mask], ids[0, 1:])
            assert torch.allclose(part.logits[place][mask], expected, atol=1e-4)


def test_scores_along_texts_come_in_order_and_context_does_not_count(llama: LiveModel) -> None:
    spy = Spy(llama)
    needs = Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=3)
    evaluation = Evaluation(llama, [Job("own", spy, needs, "x")], {"x": TEXTS})
    result = evaluation.run(steering(llama))  # type: ignore[arg-type]
    assert [score.value for score in result.scores[("own", "x")]] == [len(text) for text in TEXTS]
    own = dict(zip(TEXTS, llama.complete(TEXTS, max_new_tokens=3), strict=True))
    for outputs in spy.seen:
        assert outputs.token_ids is not None and outputs.token_mask is not None
        for row, text in enumerate(outputs.texts):
            assert outputs.token_ids[row][outputs.token_mask[row]].tolist() == own[text]


def test_each_job_reads_completions_of_its_own_length(llama: LiveModel) -> None:
    spies = {length: Spy(llama) for length in (2, 5)}
    jobs = [
        Job(f"own {n}", spy, Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=n), "x")
        for n, spy in spies.items()
    ]
    Evaluation(llama, jobs, {"x": TEXTS}).run()
    for length, spy in spies.items():
        counted = [int(mask.sum()) for out in spy.seen for mask in out.token_mask]  # type: ignore[union-attr]
        assert max(counted) == length


def test_texts_are_cut_at_the_wanted_length(llama: LiveModel) -> None:
    spy = Spy(llama)
    needs = Needs(sequence_logits=True, max_text_tokens=3)
    Evaluation(llama, [Job("cut", spy, needs, "x")], {"x": TEXTS}).run()
    assert all(out.token_ids is not None and out.token_ids.shape[1] <= 2 for out in spy.seen)


def test_an_evaluator_that_loses_examples_is_an_error(llama: LiveModel) -> None:
    class Lossy(Spy):
        def score(self, outputs: Outputs) -> Sequence[Score]:
            return [Score(math.nan)]

    job = Job("0", Lossy(llama), Needs(next_token_logits=True), "x", called="lossy")
    with pytest.raises(PluginError, match=r"Evaluator 'lossy' gave 1 score .*one for each"):
        Evaluation(llama, [job], {"x": TEXTS}).run()


# Conditions side by side

EVERYTHING = {
    "logits": Needs(next_token_logits=True, baseline=True),
    "written": Needs(max_new_tokens=4, baseline=True),
    "along": Needs(sequence_logits=True),
    "own": Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=3),
}


def conditions_of(live: LiveModel) -> list[list[Placement]]:
    """Several that differ in all that rows can differ in, one of them empty."""
    generator = torch.Generator().manual_seed(0)
    one, other = (
        Direction(torch.randn(1, live.layout.d_model, generator=generator), Site("resid_pre", 1), name=name)
        for name in "ab"
    )
    return [
        [add(one, coefficient=2.0)],
        [],
        [ablate(one)],
        [add(one, coefficient=1.0, positions="generated"), add(other, coefficient=-2.0, sites="blocks.0.mlp_out")],
    ]


class Fingerprint(Evaluator[NoOptions]):
    """One number for all that an example shows, so that a wrong row, text or condition shows too."""

    def score(self, outputs: Outputs) -> Sequence[Score]:
        found = [zlib.crc32(text.encode()) % 997 / 100.0 for text in outputs.texts]
        for one in (outputs, outputs.baseline):
            for row in range(len(found) if one is not None else 0):
                if one.next_token_logits is not None:
                    found[row] = 1.5 * found[row] + project(one.next_token_logits[row])
                if one.completions is not None:
                    found[row] = 1.5 * found[row] + zlib.crc32(one.completions[row].encode()) % 997 / 100.0
                if one.sequence_logits is not None:
                    mask = one.token_mask[row]
                    width = one.sequence_logits.shape[1]
                    along = [project(value) * (1 + n) for n, value in enumerate(one.sequence_logits[row][mask])]
                    found[row] = 1.5 * found[row] + sum(along) + int(one.token_ids[row][mask].sum()) + width
        return [Score(value) for value in found]


def project(logits: Tensor) -> float:
    return float(logits.double() @ torch.linspace(-1, 1, logits.shape[0], dtype=torch.float64)) / logits.shape[0]


def everything(live: LiveModel) -> Evaluation:
    print_of = Fingerprint(NoOptions(), live.vocabulary)
    jobs = [Job(name, print_of, needs, "x") for name, needs in EVERYTHING.items()]
    return Evaluation(live, jobs, {"x": TEXTS, "y": TEXTS[::-1]}, SampleRequest("y", 3, 3))


# No two conditions fit into a batch; two or three do, by pass; all do.
@pytest.mark.parametrize("batch_tokens", [24, 200, 4096])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_moe"])
def test_each_of_several_conditions_is_shown_what_it_would_be_alone(
    model_type: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tiny_live(model_type)
    monkeypatch.setattr(live, "batch_tokens", batch_tokens)
    conditions = conditions_of(live)
    evaluation, alone = everything(live), everything(live)
    found = evaluation.run_many(conditions)
    expected = [alone.run(condition) for condition in conditions]
    for one, other in zip(found, expected, strict=True):
        assert list(one.scores) == list(other.scores)
        for key, scores in one.scores.items():
            assert [score.value for score in scores] == pytest.approx(
                [score.value for score in other.scores[key]], rel=1e-5
            ), key
        assert one.completions == other.completions
    steered = {tuple(score.value for score in one.scores[("logits", "x")]) for one in found}
    assert len(steered) == len(conditions), "conditions differ in what they show"
    again = everything(live).run_many(conditions)
    assert [(one.scores, one.completions) for one in again] == [(one.scores, one.completions) for one in found]
    assert_clean(live)


def test_several_conditions_share_batches_as_far_as_they_fit(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    handle = llama.model.get_input_embeddings().register_forward_hook(lambda _, args, out: sizes.append(len(out)))
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", None)
    evaluation = Evaluation(llama, [Job("spy", Spy(llama), Needs(max_new_tokens=2), "x")], {"x": TEXTS})
    conditions = conditions_of(llama)
    columns = 2 + max(len(prompt.token_ids) for prompt in evaluation.prompts("x"))
    try:
        for fitting, calls in ((1, [4] * 8), (2, [8, 8, 4, 4, 4, 4]), (3, [12, 12, 4, 4])):
            monkeypatch.setattr(llama, "batch_tokens", columns * len(TEXTS) * fitting)
            sizes.clear()
            # The one that does nothing is the baseline, which is run alone.
            evaluation = Evaluation(llama, [Job("spy", Spy(llama), Needs(max_new_tokens=2), "x")], {"x": TEXTS})
            evaluation.run_many(conditions)
            assert sizes == calls
    finally:
        handle.remove()


def test_one_condition_alone_is_lowered_for_as_many_tokens_as_a_pass_has(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    seen: list[int] = []
    steer = LiveModel.steer
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(
        LiveModel,
        "steer",
        lambda self, *args, **kwargs: told.append(kwargs["expected_tokens"]) or steer(self, *args, **kwargs),
    )
    texts = ["one two", "two one"]  # of equal length: no padding, which would be counted below
    evaluation = Evaluation(
        llama,
        [Job(name, Spy(llama), needs, "x") for name, needs in EVERYTHING.items()],
        {"x": texts},
        SampleRequest("x", 1, 9),
    )
    evaluation.run()
    handle = llama.model.get_input_embeddings().register_forward_hook(lambda _, args, out: seen.append(args[0].numel()))
    try:
        evaluation.run(conditions_of(llama)[0])
    finally:
        handle.remove()
    assert sum(told) == sum(seen)
    assert len(told) == 4


def test_prompts_are_rendered_once(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    render = ChatFormat.render
    monkeypatch.setattr(ChatFormat, "render", lambda self, prompt: rendered.append(prompt.text) or render(self, prompt))
    evaluation = everything(llama)
    evaluation.run()
    evaluation.run_many(conditions_of(llama))
    assert sorted(rendered) == sorted(TEXTS * 2)  # of x and of y


def test_tokens_of_a_completion_are_generated_ones_wherever_they_are_read() -> None:
    live = tiny_live("llama")
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(5))
    built = {
        where: add(Direction(2 * vector, Site("resid_pre", 1)), positions=where)
        for where in ("all", "prompt", "generated")
    }
    needs = Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=6)

    class Mean(Evaluator[NoOptions]):
        unit = ""

        def score(self, outputs: Outputs) -> list[Score]:
            assert outputs.sequence_logits is not None
            return [Score(float(row.sum())) for row in outputs.sequence_logits]

    evaluation = Evaluation(live, [Job("mean", Mean(NoOptions(), live.vocabulary), needs, "d")], {"d": ["one", "two"]})
    found = {where: evaluation.run([one]).scores[("mean", "d")] for where, one in built.items()}
    plain = evaluation.run().scores[("mean", "d")]
    values = [tuple(score.value for score in scores) for scores in (plain, *found.values())]
    assert len(set(values)) == 4


def test_examples_reach_evaluators_and_completions_are_read_behind_their_prompts(llama: LiveModel) -> None:
    examples = [
        Example((Message("user", "hi"),), completion="abc", label="x"),
        Example((Message("system", "s"), Message("user", "hello there")), completion="de", fields={"k": [1]}),
        Example.of("plain"),
    ]
    along, after = Spy(llama), Spy(llama)
    jobs = [
        Job("along", along, Needs(sequence_logits=True), "x"),
        Job("after", after, Needs(next_token_logits=True, max_new_tokens=2, baseline=True), "x"),
    ]
    scores = Evaluation(llama, jobs, {"x": examples}).run().scores
    assert [one.value for one in scores[("along", "x")]] == [2.0, 11.0, 5.0]
    (seen,) = after.seen
    assert list(seen.examples) == examples and seen.baseline is not None and list(seen.baseline.examples) == examples
    prompts = [llama.chat.render(one).token_ids for one in examples]
    torch.testing.assert_close(seen.next_token_logits, next_token_logits(llama, [Rendered(ids) for ids in prompts]))
    counted = {}
    for outputs in along.seen:
        assert outputs.token_ids is not None and outputs.token_mask is not None
        for row, example in enumerate(outputs.examples):
            assert outputs.texts[row] == example.text
            counted[example.text] = outputs.token_ids[row][outputs.token_mask[row]].tolist()
    raw = llama.chat.render_text("plain").token_ids[1:]
    encode = llama.chat.tokenizer.encode
    own = [encode(text, add_special_tokens=False) for text in ("abc", "de")]
    assert counted == {"hi": own[0], "hello there": own[1], "plain": list(raw)}


def test_a_conversation_that_is_answered_already_is_not_scored_by_an_answer(llama: LiveModel) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    for needs in (Needs(next_token_logits=True), Needs(max_new_tokens=2)):
        with pytest.raises(DataError, match="ends with a turn of the assistant"):
            Evaluation(llama, [Job("spy", Spy(llama), needs, "x")], {"x": [talk]}).run()
    spy = Spy(llama)
    Evaluation(llama, [Job("spy", spy, Needs(sequence_logits=True), "x")], {"x": [talk]}).run()
    (outputs,) = spy.seen
    assert outputs.token_mask is not None and outputs.token_ids is not None
    said = llama.chat.tokenizer.encode("yo", add_special_tokens=False)
    assert outputs.token_ids[outputs.token_mask].tolist() == said, "along it, the answer alone is scored"
    before = llama.chat.render(talk[:1]).token_ids
    assert outputs.sequence_logits is not None
    literal = llama.forward(torch.tensor([[*before, *said]])).logits[0, len(before) - 1 : -1]
    torch.testing.assert_close(outputs.sequence_logits[outputs.token_mask], literal)


def test_turns_are_found_where_an_answer_that_ends_a_conversation_is_read_along(llama: LiveModel) -> None:
    talk = Example((Message("user", "hi"), Message("assistant", "yo")))
    read = llama.chat.render_reading(talk)
    assert read.prompt is not None and [turn.role for turn in read.turns] == ["user", "assistant"]
    assert read.turns[1].span == (read.prompt, len(read.token_ids))
    alone = Example((Message("assistant", "yo"),))
    assert llama.chat.render_reading(alone) == llama.chat.render(alone), "there is nothing that it answers"
