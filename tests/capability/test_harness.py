"""The steered model under the harness, and conditions of a run on a small task of ours that needs no hub."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.capability import capability_of_run, evaluate_tasks, harness
from steerkit.capability.scores import TaskScore, difference, read_scores
from steerkit.cli.main import main
from steerkit.errors import DataError, SteerkitError, UnknownNameError
from steerkit.session.model import LiveModel
from tests.baking.common import PLAIN, kept_run
from tests.capability.test_texts import by_hand, direction, greedy, literal

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "tests" / "capability" / "tasks"
ROWS = [json.loads(line) for line in (TASKS / "animals.jsonl").read_text("utf-8").splitlines()]

# What the harness and its libraries warn of is no mistake of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The harness, with a data set cache of its own and no hub."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed (the extra lm-eval)")
    monkeypatch.chdir(ROOT)  # paths of data in a task are relative to where it is evaluated
    monkeypatch.setattr(import_module("datasets").config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    made = harness._manager
    # The harness's own tasks are many thousands of files: minutes, and nothing of them is needed.
    monkeypatch.setattr(harness, "_manager", lambda folder, files, defaults: made(folder, files, False))
    yield


def capability(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["capability", *words])
    code = left.value.code
    return code if isinstance(code, int) else 0


def request(kind: str, *arguments: Any) -> Any:
    return import_module("lm_eval.api.instance").Instance(kind, {}, arguments, 0)


CHOICES = [(row["question"], f" {choice}") for row in ROWS for choice in row["choices"]]


def test_an_unsteered_model_scores_what_the_harness_says_itself(there: None, llama: LiveModel) -> None:
    theirs = import_module("lm_eval.models.huggingface").HFLM(
        pretrained=llama.model, tokenizer=llama.tokenizer, batch_size=3
    )
    ours = harness.harness_model(llama)
    pairs = [*CHOICES, ("A cow says ", "moo"), ("", "moo"), ("Say\n", "it, and say it once more")]
    asked = [request("loglikelihood", *pair) for pair in pairs]
    wanted, found = theirs.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked)
    assert [one for one, _ in found] == pytest.approx([one for one, _ in wanted], abs=1e-4)
    assert [one for _, one in found] == [one for _, one in wanted]
    asked = [request("loglikelihood_rolling", text) for text in ("Cows say moo.", "x" * 700)]
    wanted = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(wanted, abs=1e-3)
    settings = ({"until": ["e"], "max_gen_toks": 12}, {"until": [], "max_gen_toks": 7, "do_sample": False})
    asked = [request("generate_until", row["question"], dict(one)) for row in ROWS for one in settings]
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_a_task_of_choices_is_scored_by_likelihoods(there: None, llama: LiveModel) -> None:
    given = direction(llama)

    def accuracy() -> list[float]:
        right = []
        for row in ROWS:
            pairs = [harness_pair(llama, row["question"], f" {choice}") for choice in row["choices"]]
            values = [literal(llama, *pair)[0] for pair in pairs]
            right.append(float(values.index(max(values)) == row["answer"]))
        return right

    (plain,) = evaluate_tasks(llama, "animal_choices", include=TASKS)
    assert plain.by_example == tuple(accuracy()) and plain.n == 6
    assert (plain.task, plain.metric, plain.higher_is_better) == ("animal_choices", "acc", True)
    assert plain.value == pytest.approx(sum(plain.by_example) / 6)
    with llama.steer(steerkit.add(given, coefficient=3.0)):
        (steered,) = evaluate_tasks(llama, "animal_choices", include=TASKS)
    hook = by_hand(llama, given.replace(vectors=3.0 * next(iter(given.by_site.values()))))
    wanted = accuracy()
    hook.remove()
    assert steered.by_example == tuple(wanted)
    (first,) = evaluate_tasks(llama, ["animal_cho*"], include=TASKS, limit=2)
    assert first.n == 2 and first.by_example == plain.by_example[:2]


def harness_pair(live: LiveModel, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    from steerkit.capability.texts import encode_pair

    return encode_pair(live, context, continuation)


def test_a_task_of_answers_is_scored_by_what_is_written(there: None, llama: LiveModel) -> None:
    (found,) = evaluate_tasks(llama, ["animal_answers"], include=TASKS)
    written = [greedy(llama, row["question"], 12).split("\n")[0] for row in ROWS]
    assert found.by_example == tuple(float(one == row["reply"]) for one, row in zip(written, ROWS, strict=True))


def test_an_unknown_task_is_said(there: None, llama: LiveModel) -> None:
    with pytest.raises(UnknownNameError, match=r"no task 'animal_choises'\. Did you mean 'animal_choices'"):
        evaluate_tasks(llama, ["animal_choises"], include=TASKS)


def test_data_that_are_not_there_are_said(there: None, llama: LiveModel, tmp_path: Path) -> None:
    text = (TASKS / "animal_choices.yaml").read_text("utf-8")
    (tmp_path / "lost.yaml").write_text(text.replace("animals.jsonl", "lost.jsonl").replace("animal_choices", "lost"))
    with pytest.raises(DataError, match="The data of lost can't be loaded"):
        evaluate_tasks(llama, ["lost"], include=tmp_path)


def test_the_command_sets_conditions_beside_the_baseline(
    there: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept_run("llama", **PLAIN), run)
    words = ("--tasks", "animal_choices,animal_answers", "--include", str(TASKS))
    assert capability(str(run), "--condition", "more", "--condition", "gated", *words) == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("animal_choices", "acc ↑", "baseline", "more", "gated", "±", "capability.json")
    )
    kept = json.loads((run / "capability.json").read_text("utf-8"))
    assert list(dict.fromkeys(one["condition"] for one in kept["scores"])) == ["baseline", "more", "gated"]
    assert len(kept["scores"]) == 6 and "by_example" not in kept["scores"][0]
    by = {(one["condition"], one["task"]): one for one in kept["scores"]}
    base, more = by["baseline", "animal_choices"], by["more", "animal_choices"]
    assert base["difference"] is None
    assert more["difference"]["value"] == pytest.approx(more["value"] - base["value"])


def test_a_condition_of_the_run_is_what_is_evaluated(there: None, tmp_path: Path) -> None:
    from steerkit.baking.asked import read_asked

    run = kept_run("llama", **PLAIN)
    found = capability_of_run(run, ["more"], ["animal_choices"], include=TASKS, file=tmp_path / "x.json")
    asked = read_asked(run, "more")
    live = steerkit.load_model(asked.plan.loading.source, dtype="float32")
    with live.steer(*asked.condition.placements, mode="interpret"):
        wanted = evaluate_tasks(live, ["animal_choices"], include=TASKS)
    assert found.scores["more"] == wanted and (tmp_path / "x.json").is_file()
    assert found.scores["baseline"] == evaluate_tasks(live, ["animal_choices"], include=TASKS)


@pytest.mark.parametrize(("condition", "said"), [("mroe", "no condition 'mroe'"), ("told", "--chat-template")])
def test_what_a_run_cannot_give_is_said(
    there: None, condition: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capability(str(kept_run("llama", **PLAIN)), "--condition", condition, "--tasks", "animal_choices") == 2
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err


# Without the harness


def test_without_the_harness_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], llama: LiveModel
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert capability(str(tmp_path), "--condition", "more", "--tasks", "arc_easy") == 2
    told = capsys.readouterr().err
    assert "pip install 'steerkit-torch[lm-eval]'" in told and "Traceback" not in told
    with pytest.raises(SteerkitError, match="lm-eval"):
        evaluate_tasks(llama, ["arc_easy"])


@pytest.mark.parametrize(("option", "value"), [("limit", 0), ("limit", True), ("num_fewshot", -1), ("limit", 0.5)])
def test_numbers_are_checked_first(llama: LiveModel, option: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"{option} is a whole number"):
        evaluate_tasks(llama, ["arc_easy"], **{option: value})


def test_a_conversation_becomes_the_text_that_prompts_are(llama: LiveModel) -> None:
    tokenizer = llama.chat.tokenizer
    turns = [{"role": "user", "content": "Say moo."}]
    text = harness.chat_text(llama.chat, turns, goes_on=False)
    assert tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) == llama.chat.render(turns).token_ids
    begun = harness.chat_text(llama.chat, [*turns, {"role": "assistant", "content": "Well"}], goes_on=True)
    assert begun == text + "Well"


def scored(*values: float, error: float | None = None) -> TaskScore:
    return TaskScore("t", "acc", "none", sum(values) / len(values), error, len(values), True, "1", values)


def test_a_difference_has_the_error_of_its_pairs() -> None:
    apart = difference(scored(1, 0, 1, 1), scored(1, 0, 0, 1))
    assert apart.value == 0.25
    # Differences 0, 0, 1, 0: variance 1/4, over four examples.
    assert apart.standard_error == pytest.approx(0.25)
    assert difference(scored(1, 0), scored(1)).standard_error is None


def test_scores_are_read_with_their_examples() -> None:
    rows = [{"doc_id": n, "filter": "none", "acc": v} for n, v in ((1, 0.0), (0, 1.0), (2, 1.0))]
    results = {
        "results": {"t": {"alias": "t", "acc,none": 2 / 3, "acc_stderr,none": "N/A", "ppl,none": 7.0}},
        "samples": {"t": rows},
        "n-samples": {"t": {"original": 9, "effective": 3}},
        "versions": {"t": 1.0},
        "higher_is_better": {"t": {"acc": True}},
    }
    first, second = read_scores(results)
    assert first.by_example == (1.0, 0.0, 1.0) and first.standard_error is None and first.n == 3
    assert second.metric == "ppl" and second.by_example == () and second.higher_is_better is None
