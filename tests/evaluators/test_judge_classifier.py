"""A judge on this machine: tiny random classifiers, against their own logits and their own greedy tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import steerkit_evaluators.judge as plugin
from steerkit.api.evaluator import Outputs
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._judge import Judge
from steerkit_evaluators._judge_classifier import classifier

TEXTS = ["I cannot.", "Sure, here it is.", "", "No, no, no!", "a", "zebra crossing ahead"]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(3)
    names = {0: "comply", 1: "decline"}
    config = LlamaConfig(
        vocab_size=288, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, num_labels=2, id2label=names,
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    return saved(model, tmp_path_factory.mktemp("sequence"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_model("llama"), tmp_path_factory.mktemp("causal"))


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def judge(folder: Path, **options: Any) -> Judge:
    return Judge(plugin.JudgeOptions(classifier=str(folder), **options), FakeVocabulary(4))


def test_a_sequence_classifier_gives_its_likeliest_label(sequence: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    asked = judge(sequence, labels={"Decline": 1, "comply": 0})
    assert asked.options.prompt == "{completion}", "it has no use for instructions"
    outputs = Outputs(["x"] * len(TEXTS), completions=TEXTS)
    questions = [one for (one,) in asked.questions(outputs)]
    assert questions == TEXTS
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(sequence), tiny_tokenizer()
    with torch.no_grad():
        logits = [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0] for text in TEXTS]
    expected = [float(one[1] > one[0]) for one in logits]
    assert 0 < sum(expected) < len(TEXTS), "a test of both labels"
    found = asked.score(Outputs(["x"] * len(TEXTS), completions=TEXTS, answers=[[one] for one in asked.ask(questions)]))
    assert [one["judged"].value for one in found] == expected
    assert asked.ask(questions[::-1]) == list(asked.ask(questions))[::-1]


def test_labels_that_it_does_not_have_are_not_parsed(sequence: Path) -> None:
    asked = judge(sequence, labels={"LABEL_1": 1, "LABEL_0": 0})
    (one,) = asked.score(Outputs(["x"], completions=["c"], answers=[asked.ask(["c"])]))
    assert one["unparsed"].value == 1.0


def test_a_causal_model_is_asked_in_words(causal: Path) -> None:
    from transformers import AutoModelForCausalLM

    asked = judge(causal, prompt="{completion}?", max_tokens=4)
    assert judge(causal).options.prompt == plugin.PROMPT
    model, tokenizer = AutoModelForCausalLM.from_pretrained(causal), tiny_tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "why?"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    row = ids
    for _ in range(4):  # greedy, token by token
        with torch.no_grad():
            row = torch.cat([row, model(row).logits[:, -1].argmax(-1, keepdim=True)], 1)
        if int(row[0, -1]) == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(row[0, ids.shape[1] :], skip_special_tokens=True)
    assert asked.ask(["why?"]) == [expected]


def test_a_text_that_is_too_long_has_no_verdict_and_its_neighbours_have(sequence: Path, causal: Path) -> None:
    short, long = judge(sequence).ask(["a", "b" * 64])
    assert short and long == ""
    assert judge(causal).ask(["b" * 512]) == [""]


def test_it_is_loaded_once_and_known_by_its_files(sequence: Path) -> None:
    first, second = judge(sequence), judge(sequence, max_calls=3)
    first.ask(["a"]), second.ask(["a"])
    assert first._maker is second._maker
    digest = first.options.classifier_sha256
    assert len(digest) == 64 and plugin.JudgeOptions(**first.options.model_dump()) == first.options
    (sequence / "config.json").write_text((sequence / "config.json").read_text() + "\n")
    assert judge(sequence).options.classifier_sha256 != digest
    with pytest.raises(ValidationError, match="classifier_sha256 is"):
        judge(sequence, classifier_sha256=digest)


def test_a_folder_that_holds_no_model_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no folder with a config\.json"):
        judge(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}'
    )
    with pytest.raises(ModelError, match="can't be loaded"):
        judge(tmp_path).ask(["a"])
    classifier.cache_clear()
