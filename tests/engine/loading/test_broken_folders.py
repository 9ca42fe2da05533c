"""Folders that are no whole model: one sentence with the file and the key, by a check and by a load alike."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.checkpoints import folder_fault
from steerkit.engine.loading.load import load
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError, RecipeError
from steerkit.plan import plan_recipe
from steerkit.session import load_model

RECIPE = """
name: broken
model: {{source: {source}}}
data:
  warm: {{inline: [one, two, three]}}
  cold: {{inline: [four, five, six]}}
  probe: {{inline: [seven, eight]}}
directions:
  warmth: {{estimator: mean_difference, positive: warm, negative: cold, site: blocks.1.resid_pre}}
conditions:
  add: [{{add: {{direction: warmth, coefficient: 1}}}}]
evaluate:
  - degeneration: {{data: probe, max_new_tokens: 8}}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, "utf-8") and None


def link(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(name: str, at: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:at])

    return change


def one_of_two(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    listed = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed), "utf-8")


BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "nested": (text("config.json", "[" * 100_000), ("config.json", "nested too deeply")),
    "cut": (text("config.json", '{"model_type": "lla'), ("config.json", "is not JSON")),
    "a list": (text("config.json", "[1, 2]"), ("config.json", "no JSON object")),
    "no heads": (config(num_attention_heads=0), ("config.json: num_attention_heads is 0", "above 0")),
    "text layers": (config(num_hidden_layers="3"), ('config.json: num_hidden_layers is "3"', "a whole number")),
    "narrow": (config(hidden_size=1, head_dim=None), ("config.json: hidden_size is 1", "num_attention_heads 4")),
    "narrow beside a head_dim": (
        config(hidden_size=1),
        ("config.json: hidden_size is 1, and the embedding in model.safetensors is 288 × 32", "two models"),
    ),
    "few words": (config(vocab_size=10), ("config.json: vocab_size is 10, and the embedding in model.safetensors",)),
    "padding": (config(pad_token_id=288), ("config.json: pad_token_id is 288, and vocab_size is 288",)),
    "a window": (config(sliding_window="x"), ('config.json: sliding_window is "x"', "a number")),
    "no factor": (
        config(rope_parameters={"rope_type": "yarn", "factor": 0}),
        ("config.json: rope_parameters.factor is 0", "a number above 0"),
    ),
    "text theta": (
        config(rope_scaling={"full_attention": {"rope_theta": "x"}}),
        ('config.json: rope_scaling.full_attention.rope_theta is "x"', "a number above 0"),
    ),
    "text end": (config(eos_token_id="</s>"), ('config.json: eos_token_id is "</s>"', "number of a token")),
    "text eps": (config(rms_norm_eps="1e-6"), ("config.json: rms_norm_eps is", "a number")),
    "endless": (config(num_hidden_layers=10**9), ("config.json: num_hidden_layers is 1000000000", "at most 10,000")),
    "huge": (config(eos_token_id=-(10**40)), ("config.json: eos_token_id is -1000", "at most 2,147,483,647")),
    "groups": (config(num_key_value_heads=3), ("config.json: num_key_value_heads is 3", "can't be divided")),
    "true layers": (config(num_hidden_layers=True), ("config.json: num_hidden_layers is true",)),
    "a type of 3": (config(model_type=3), ("config.json: model_type is 3", "a text")),
    "rope": (config(rope_parameters=[1]), ("config.json: rope_parameters is [1]", "an object")),
    "generation": (text("generation_config.json", '{"eos_token_id": "x"}'), ("generation_config.json: eos_token_id",)),
    "a flag": (
        text("generation_config.json", '{"output_attentions": "x"}'),
        ("generation_config.json: output_attentions", "true or false"),
    ),
    "most tokens": (
        text("tokenizer_config.json", '{"model_max_length": "x"}'),
        ("tokenizer_config.json: model_max_length", "a number"),
    ),
    "tokenizer": (text("tokenizer_config.json", "["), ("tokenizer_config.json", "is not JSON")),
    "index": (text("model.safetensors.index.json", "{"), ("model.safetensors.index.json", "is not JSON")),
    "pickled": (pickled, ("holds pickled weights only", "save_pretrained")),
    "looping weights": (link("model.safetensors"), ("model.safetensors is no file", "link to nothing")),
    "cut weights": (cut("model.safetensors", 30_000), ("model.safetensors is damaged or cut off",)),
    "empty weights": (cut("model.safetensors", 0), ("model.safetensors is damaged or cut off",)),
    "a part lacks": (one_of_two, ("lacks 1 of 2 files of weights", "model-2.safetensors")),
    "cut tokenizer": (cut("tokenizer.json", 2000), ("tokenizer.json is cut off",)),
    "a key twice": (
        text("config.json", '{"model_type": "llama", "hidden_size": 16, "hidden_size": 32}'),
        ("config.json: the key 'hidden_size' is there twice: 16 and 32",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_told_by_file_and_key(tmp_path: Path, whole: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change, said = BROKEN[name]
    change(folder)
    with pytest.raises(ModelError) as loading:
        load(folder)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(source=folder), "utf-8")
    with pytest.raises(RecipeError) as planning:
        plan_recipe(recipe, (), Catalog.discover())
    for message in (str(loading.value), str(planning.value)):
        assert all(part in message for part in said), message
    assert "\n" not in str(loading.value)
    assert [(problem.where, problem.line) for problem in planning.value.problems] == [("model.source", 3)]


def test_a_config_that_lost_its_width_makes_no_other_model(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    del values["hidden_size"]  # its default is 4096
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(ModelError, match=r"config.json gives a hidden_size of 4096, and the embedding in .* 288 × 32"):
        load(folder)


def test_a_tokenizer_of_another_model_is_told(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zubzub"])
    tokenizer.save_pretrained(folder)
    live = load_model(str(folder))
    assert live.generate(["zub"], max_new_tokens=1)
    with pytest.raises(ModelError, match="gives token 288, and the model embeds 288 tokens, 0 to 287"):
        live.generate(["zubzub"], max_new_tokens=1)


def test_a_folder_without_weights_is_planned_and_not_loaded(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").unlink()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(source=folder), "utf-8")
    assert plan_recipe(recipe, (), Catalog.discover()).model.n_layers == 3
    with pytest.raises(ModelError, match="no weights"):
        load(folder)


def test_whatever_transformers_raises_on_a_folder_is_one_sentence(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    config(layer_types=["?", {}], hidden_act="nothing")(folder)
    with pytest.raises(ModelError, match=r"can't be loaded: a value in its files \(config\.json, or a") as loading:
        load(folder)
    assert "Traceback" not in str(loading.value) and "\n" not in str(loading.value)
    for change, named in (
        ({"hidden_act": "nothing"}, "hidden_act is 'nothing'"),
        ({"rope_parameters": {"rope_type": "nothing"}}, "rope_parameters.rope_type is 'nothing'"),
        ({"dtype": "nothing"}, "dtype is 'nothing'"),
    ):
        shutil.copy(whole / "config.json", folder)
        config(**change)(folder)
        with pytest.raises(
            ModelError, match=rf"in its config\.json {re.escape(named)}, which transformers doesn't know"
        ):
            load(folder)
    shutil.copy(whole / "config.json", folder)
    config(intermediate_size=3)(folder)
    with pytest.raises(ModelError, match=r"of other sizes than its config\.json says"):
        load(folder)


def test_numbers_that_real_configs_hold_are_no_faults(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    rope = {"rope_theta": 50_000_000_000, "rope_type": "default"}
    config(rope_theta=50_000_000_000, rope_parameters=rope, pad_token_id=-1, eos_token_id=[1, 2])(folder)
    assert folder_fault(folder) is None


def test_a_whole_folder_is_planned_and_loaded(tmp_path: Path, whole: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(source=whole), "utf-8")
    assert plan_recipe(recipe, (), Catalog.discover()).model.n_layers == 3
    assert load(whole).model.config.num_hidden_layers == 3


def test_what_only_a_recipe_needs_and_what_is_no_folder(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*token*", "chat_template*"))
    (tmp_path / "x.gguf").write_bytes(b"<html>")
    recipe = tmp_path / "recipe.yaml"
    for source, said in (
        (folder, "holds no tokenizer"),
        (tmp_path / "x.gguf", "is not a GGUF file: it begins with b'<h"),
    ):
        recipe.write_text(RECIPE.format(source=source), "utf-8")
        with pytest.raises(RecipeError) as planning:
            plan_recipe(recipe, (), Catalog.discover())
        assert planning.value.problems[0].where == "model.source" and said in planning.value.problems[0].message
    assert load(folder).tokenizer is None
