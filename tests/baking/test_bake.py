"""Checkpoints with a condition in their weights: what they compute, what is refused, and what is left behind."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import steerkit
from steerkit.baking import bake
from steerkit.baking import check as checking
from steerkit.baking.asked import read_asked
from steerkit.engine.baking import folding, writing
from steerkit.errors import ArtifactError, AttachError, ModelError, SteerkitError, UnknownNameError
from steerkit.types import Example
from tests.baking.common import CONDITIONS, PLAIN, kept_run, recipe_of, run_of, saved_model

IDS = torch.randint(6, 262, (3, 11), generator=torch.Generator().manual_seed(1))


def tied() -> Path:
    return kept_run("llama", tie_word_embeddings=True, **PLAIN)


def plain_llama() -> Path:
    return kept_run("llama", **PLAIN)


def logits(folder: Path | str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)(IDS).logits
    return found


def defined(run: Path, condition: str) -> torch.Tensor:
    """Logits of the original with the condition carried out literally: nothing of the folds is in it."""
    asked = read_asked(run, condition)
    live = steerkit.load_model(asked.plan.loading.source, dtype="float32")
    with torch.no_grad(), live.steer(*asked.condition.placements, mode="interpret"):
        found: torch.Tensor = live.forward(IDS).logits
    return found


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


RUNS = {
    "llama": plain_llama,
    "tied": tied,
    "qwen2": lambda: kept_run("qwen2"),
    "gemma": lambda: kept_run("gemma"),
    "qwen3_moe": lambda: kept_run("qwen3_moe"),
}


@pytest.mark.parametrize(
    ("family", "condition"),
    [
        *(("llama", name) for name in ("more", "first", "without", "both", "more/random-1")),
        *(("tied", name) for name in ("more", "first", "without", "both")),
        *(("qwen2", name) for name in ("first", "without")),
        ("gemma", "without"),
        ("qwen3_moe", "without"),
    ],
)
def test_a_checkpoint_computes_what_the_condition_is_defined_to(family: str, condition: str, tmp_path: Path) -> None:
    run = RUNS[family]()
    baked = bake(run, condition, tmp_path / "out")
    wanted, plain = defined(run, condition), logits(read_asked(run, condition).plan.loading.source)
    assert (wanted - plain).abs().max() > 0.01  # the condition does something
    assert (logits(baked.folder) - wanted).abs().max() < 1e-4
    assert baked.largest_difference < 1e-4 < baked.tolerance
    assert baked.tolerance == pytest.approx(1e-3 * max(1, baked.largest_logit))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(FrozenInstanceError):
        baked.folder = tmp_path  # type: ignore[misc]


def test_a_head_that_was_the_embedding_stays_what_it_was(tmp_path: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(read_asked(tied(), "without").plan.loading.source)
    bake(tied(), "without", tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(after.lm_head.weight, before.lm_head.weight)
    assert not torch.equal(after.model.embed_tokens.weight, before.model.embed_tokens.weight)
    bake(tied(), "more", tmp_path / "more")  # nothing of the embedding changes, so it stays tied
    assert config_of(tmp_path / "more")["tie_word_embeddings"] is True


def test_a_bias_is_declared_and_all_that_this_declares_are_zero(tmp_path: Path) -> None:
    baked = bake(plain_llama(), "more", tmp_path / "out")
    config = config_of(baked.folder)
    assert config["mlp_bias"] is True and config["attention_bias"] is False
    after = AutoModelForCausalLM.from_pretrained(baked.folder)
    biases = {name: value for name, value in after.named_parameters() if name.endswith(".bias")}
    assert len(biases) == 3 * 3
    assert [name for name, value in biases.items() if value.any()] == ["model.layers.0.mlp.down_proj.bias"]
    assert set(biases) <= set(baked.changed)


@pytest.mark.parametrize(
    ("family", "condition", "reason"),
    [
        ("llama", "gated", "only what acts at every token alike can be folded"),
        ("llama", "late", "only what acts at every token alike can be folded"),
        ("llama", "fading", "only what acts at every token alike can be folded"),
        ("llama", "set", "the stream there is a sum that no single parameter writes"),
        ("llama", "nothing", "it changes nothing"),
        ("llama", "told", "is a system prompt, which is text and no weights"),
        ("llama", "told_more", "has a system prompt, which no weights can hold"),
        ("llama", "baseline", "is the model as it is"),
        ("qwen2", "more", "no setting of a Qwen2Config declares one: it would vanish"),
        ("qwen2", "both", "no setting of a Qwen2Config declares one: it would vanish"),
        ("gemma", "first", "the embedding is multiplied before it enters the stream"),
        ("gemma2", "without", "a norm follows the projection"),
        ("gemma2", "more", "a norm follows the projection"),
    ],
)
def test_what_weights_cannot_hold_is_refused_with_the_reason(
    family: str, condition: str, reason: str, tmp_path: Path
) -> None:
    run = RUNS[family]() if family in RUNS else kept_run(family)
    with pytest.raises(AttachError, match=condition) as caught:
        bake(run, condition, tmp_path / "deep" / "out")
    assert reason in str(caught.value) and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_condition_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="without"):
        bake(plain_llama(), "withoud", tmp_path / "out")
    with pytest.raises(SteerkitError, match="takes a run directory"):
        bake(plain_llama(), 3, tmp_path / "out")  # type: ignore[arg-type]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bake(plain_llama(), "without", tmp_path / "out")  # an empty one is taken
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ArtifactError, match="isn't empty"):
        bake(plain_llama(), "more", tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        bake(plain_llama(), "more", tmp_path / "file")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (bake(plain_llama(), "both", tmp_path / name).folder for name in ("one", "other"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


# The check


def test_a_checkpoint_that_is_not_the_hooked_model_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases that the config doesn't declare: what the checkpoint holds of them is dropped when it is read."""
    run = plain_llama()  # made before anything is patched
    monkeypatch.setattr(folding, "declare_biases", lambda model, needed: ({}, tuple(needed)))
    with pytest.raises(AttachError, match=r"logits differ by up to .* in float32\)\. The checkpoint was removed"):
        bake(run, "more", tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_config_does_not_declare_is_told_however_little_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant that is dropped when the checkpoint is read back, and too small for the logits to tell."""
    source = saved_model(tmp_path / "model", "llama", **PLAIN)
    little = [{"add": {"direction": "warmth", "coefficient": 1e-6}}]
    run = run_of(recipe_of(source, conditions={"little": little}), tmp_path / "run")
    monkeypatch.setattr(folding, "declare_biases", lambda model, needed: ({}, tuple(needed)))
    with pytest.raises(AttachError, match=r"holds model\.layers\.0\.mlp\.down_proj\.bias, and nothing in its config"):
        bake(run, "little", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", ""),
        ("qwen3", r"has no bias in o_proj and drops 1 constant without a word"),
        ("smollm3", r"its class of smollm3 was not looked at"),
    ],
)
def test_a_constant_that_vllm_drops_is_told(family: str, said: str, tmp_path: Path) -> None:
    overrides = PLAIN if family == "llama" else {"attention_bias": False}
    beside = [{"add": {"direction": "warmth", "coefficient": 2.0, "sites": ["blocks.1.attn_out"]}}]
    conditions = {"beside": beside, "without": CONDITIONS["without"]}
    source = saved_model(tmp_path / "model", family, **overrides)
    run = run_of(recipe_of(source, conditions=conditions), tmp_path / "run")
    told = "\n".join(bake(run, "beside", tmp_path / "out").notes)
    card = (tmp_path / "out" / "README.md").read_text()
    assert bool(told) is bool(said) and (said in told) and (told in card)
    assert ("Before another engine" in card) is bool(said)
    assert bake(run, "without", tmp_path / "plain").notes == ()


def test_no_number_is_no_small_difference() -> None:
    one = torch.tensor([[1.0, float("nan")]])
    assert not checking.compare(one, one, "float32", 1, ("a",)).fits
    assert checking.compare(torch.tensor([[1.0]]), torch.tensor([[1.0009]]), "float32", 1, ("a",)).fits
    assert not checking.compare(torch.tensor([[1.0]]), torch.tensor([[1.002]]), "float32", 1, ("a",)).fits
    assert checking.compare(torch.tensor([[9.0]]), torch.tensor([[9.008]]), "float32", 1, ("a",)).fits
    with pytest.raises(ArtifactError, match="1 logits, and the model 2"):
        checking.compare(one, one[:, :1], "float32", 1, ("a",))


def test_it_is_checked_on_validation_prompts_in_turn_else_on_those_that_are_evaluated(tmp_path: Path) -> None:
    baked = bake(plain_llama(), "without", tmp_path / "out")
    assert (baked.prompts, baked.data) == (6, ("cold.validation", "warm.validation"))
    source = read_asked(plain_llama(), "without").plan.loading.source
    recipe = recipe_of(source, conditions={"without": CONDITIONS["without"]})
    rows = [f"text {number}" for number in range(150)]
    recipe["data"] = {
        "warm": {"inline": rows[:50], "split": {"train": 50}},
        "cold": {"inline": rows[50:100], "split": {"train": 40, "test": 10}},
        "more": {"inline": rows[100:], "split": {"test": 50}},
    }
    recipe["evaluate"] = [{"kl_divergence": {"data": ["cold.test"]}}]
    run = run_of(recipe, tmp_path / "run")
    baked = bake(run, "without", tmp_path / "evaluated")
    assert (baked.prompts, baked.data) == (10, ("cold.test",))


def test_of_many_prompts_64_are_taken_in_turn() -> None:
    class Live:
        class chat:
            @staticmethod
            def render(example: Any) -> Any:
                return type("R", (), {"closed": example.text == "closed"})

        @staticmethod
        def require_fitting(rendered: Any) -> None:
            pass

    data = {
        "a": {"validation": ("closed", *(f"a{n}" for n in range(90))), "test": ("t",)},
        "b": {"validation": ("b0", "b1"), "train": ("x",)},
    }
    given = {name: {part: list(map(Example.of, rows)) for part, rows in parts.items()} for name, parts in data.items()}
    examples, refs = checking.prompts_of(type("P", (), {"data": given}), Live)  # type: ignore[arg-type]
    assert refs == ("b.validation", "a.validation") and len(examples) == 64
    told = [one.text for one in examples]
    assert sorted(told[:2]) == ["b0", "b1"] and "closed" not in told and "t" not in told
    both = {"a": {"validation": list(map(Example.of, ("a0", "a1")))}}
    both["of"] = {"validation": [*both["a"]["validation"], Example.of("b0")]}
    examples, refs = checking.prompts_of(type("P", (), {"data": both}), Live)  # type: ignore[arg-type]
    assert [one.text for one in examples] == ["a0", "a1", "b0"], "a prompt that two data sets hold is one"


@pytest.mark.parametrize(("dtype", "factor"), [("bfloat16", 5e-2), ("float16", 1e-2)])
def test_16_bits_are_told_with_a_tolerance_of_their_own(dtype: str, factor: float, tmp_path: Path) -> None:
    source = saved_model(tmp_path / "model", "llama", **PLAIN)
    recipe = recipe_of(source, conditions={"both": CONDITIONS["both"]}, model={"source": source, "dtype": dtype})
    baked = bake(run_of(recipe, tmp_path / "run"), "both", tmp_path / "out")
    assert baked.tolerance == pytest.approx(factor * max(1, baked.largest_logit)) and dtype in baked.rule
    assert 1e-5 < baked.largest_difference < baked.tolerance
    assert config_of(baked.folder)["dtype"] == dtype


def test_what_transformers_cannot_read_back_is_removed(tmp_path: Path) -> None:
    recipe = recipe_of("tiny-random:qwen", conditions={"without": CONDITIONS["without"]})
    run = run_of(recipe, tmp_path / "run")
    with pytest.raises(ModelError, match="can't be read back, so it was removed"):
        bake(run, "without", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# What may go wrong outside


def failing(error: BaseException) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


def test_a_disk_that_is_full_is_told_before_and_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plain_llama()  # made before anything is patched
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        patched.setattr(writing.shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(ArtifactError, match=r"takes about .* MB, and the disk of .* has 0 MB free"):
            bake(run, "without", tmp_path / "deep" / "out")
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", failing(full))
    with pytest.raises(OSError) as caught:
        bake(run, "without", tmp_path / "deep" / "out")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plain_llama()  # made before anything is patched
    from transformers import PreTrainedTokenizerBase

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bake(run, "without", tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_reads_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plain_llama()  # made before anything is patched
    from transformers import PreTrainedTokenizerBase

    save = PreTrainedTokenizerBase.save_pretrained

    def other(self: Any, folder: Path, **settings: Any) -> Any:
        self.chat_template = "{{ messages[0]['content'] }}"
        return save(self, folder, **settings)

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", other)
    with pytest.raises(ArtifactError, match="reads prompts otherwise"):
        bake(run, "without", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def changed(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


def test_a_run_whose_files_no_longer_belong_together_is_refused(tmp_path: Path) -> None:
    run = changed(plain_llama(), tmp_path / "plan")
    plan = json.loads((run / "plan.json").read_text())
    (more,) = (one for one in plan["conditions"] if one["name"] == "more")
    more["interventions"][0]["options"]["coefficient"] = 3.0
    (run / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ArtifactError, match="no longer means by more what it meant"):
        bake(run, "more", tmp_path / "out")
    run = changed(plain_llama(), tmp_path / "weights")
    origin = json.loads((run / "provenance.json").read_text())
    origin["model"]["weights_sha256"] = "sha256:other"
    (run / "provenance.json").write_text(json.dumps(origin))
    with pytest.raises(ArtifactError, match="aren't those that the run measured"):
        bake(run, "more", tmp_path / "out")
    for name in ("directions.safetensors", "recipe.yaml", "plan.json", "results.json"):
        run = changed(plain_llama(), tmp_path / f"without-{name}")
        (run / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            bake(run, "more", tmp_path / "out")
    assert not (tmp_path / "out").exists()
