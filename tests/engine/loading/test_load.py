"""Loading: every kind of source, and what is said where it can't be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config

from steerkit.engine.loading import hub
from steerkit.engine.loading.load import adopt, load
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError, UnknownNameError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and an empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_folder_gives_the_model_that_was_saved(saved: Path) -> None:
    loaded = load(saved)
    expected = tiny_model("llama", dtype=torch.bfloat16).float().state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer("hi")["input_ids"] == tiny_tokenizer()("hi")["input_ids"]
    assert loaded.source == str(saved)
    assert loaded.facts.model_type == "llama"
    assert loaded.facts.config["num_hidden_layers"] == 3
    assert {"<|user|>", "<|end|>"} <= loaded.facts.special_tokens


def test_what_is_loaded_is_ready(saved: Path) -> None:
    model = load(saved).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
@pytest.mark.parametrize("source", ["folder", "gguf", "tiny-random:llama"])
def test_dtypes_on_a_cpu(saved: Path, tiny_gguf: Any, source: str, name: str, dtype: torch.dtype) -> None:
    where = {"folder": saved, "gguf": tiny_gguf.path}.get(source, source)
    model = load(where, dtype=name, device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_loading_is_quiet_and_leaves_transformers_as_it_was(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(saved)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file(tiny_gguf: Any) -> None:
    loaded = load(tiny_gguf.path)
    assert loaded.facts.model_type == "llama"
    assert loaded.tokenizer is not None and loaded.tokenizer.chat_template
    assert loaded.weights_hash is not None and loaded.weights_hash.startswith("sha256:")


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen"])
def test_tiny_random_models(kind: str) -> None:
    first, again = load(f"tiny-random:{kind}"), load(f"tiny-random:{kind}")
    assert first.facts.model_type == kind
    assert first.weights_hash == again.weights_hash is not None
    assert first.tokenizer is not None
    vocabulary = first.model.config.get_text_config().vocab_size
    assert len(first.tokenizer) == vocabulary


def test_a_tiny_model_of_no_type_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean 'llama'"):
        load("tiny-random:lama")


def test_a_folder_without_a_tokenizer_has_none(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    loaded = load(folder)
    assert loaded.tokenizer is None
    assert loaded.facts.special_tokens == frozenset()


def test_a_damaged_tokenizer_is_not_taken_for_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tiny-llama"):
        load(folder)


def test_a_tokenizer_without_its_vocabulary_is_said_in_one_sentence(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tiny-llama can't be loaded: it has files of a tokenizer, and lacks") as told:
        load(folder)
    assert "\n" not in str(told.value)


def test_a_live_model_is_left_alone() -> None:
    model = tiny_model("llama").train()
    loaded = adopt(model)
    assert loaded.model is model and model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert loaded.source == "live" and loaded.weights_hash is None and loaded.tokenizer is None


def test_something_else_is_not_a_live_model() -> None:
    with pytest.raises(ModelError, match="not Linear"):
        adopt(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


# What can't be loaded


def test_a_path_that_isnt_there_gets_its_neighbours(saved: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean 'tiny-llama'"):
        load(saved.with_name("tiny-lama"))
    with pytest.raises(ModelError, match=r"There is no folder .*nowhere either"):
        load(saved / "nowhere" / "at-all")
    with pytest.raises(ModelError, match=r"There is no file .*missing\.gguf"):
        load(saved / "missing.gguf")


def test_a_relative_path_is_not_a_hub_id(saved: Path, monkeypatch: pytest.MonkeyPatch, offline: Path) -> None:
    monkeypatch.chdir(saved.parent.parent)
    with pytest.raises(ModelError, match="Did you mean 'tiny-llama'"):
        load(f"{saved.parent.name}/tiny-lama")


def test_a_folder_of_models_names_them(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json.*Its folders tiny-llama are models"):
        load(saved.parent)


def test_a_folder_with_a_gguf_names_it(tiny_gguf: Any) -> None:
    with pytest.raises(ModelError, match=r"Name the file itself: .*tiny\.gguf"):
        load(tiny_gguf.path.parent)


def test_a_file_is_not_a_model(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is a file\. A model is a folder"):
        load(saved / "config.json")


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"pickled weights only.*save_pretrained"):
        load(folder)


def test_pickled_weights_beside_safetensors_are_not_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert load(folder).tokenizer is not None


def test_no_weights_is_said(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights \(\*\.safetensors\)"):
        load(folder)


def test_a_weight_that_is_missing_is_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the weights .*layers\.1\.mlp\.up_proj"):
        load(folder)


def test_cut_weights_are_said(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="tiny-llama"):
        load(folder)


def test_a_config_of_another_shape_is_said(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError, match=r"tiny-llama/config\.json: hidden_size is 64, and the embedding in model"):
        load(folder)


def test_an_unknown_model_type_is_said(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody"}))
    with pytest.raises(ModelError, match="nobody"):
        load(folder)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="a 'bert' model, not a causal language model"):
        load(tmp_path / "bert")
    with pytest.raises(ModelError, match="not a causal language model"):
        adopt(BertForMaskedLM(config))


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(T5Config().to_dict()))
    with pytest.raises(ModelError, match="a 't5' model, not a causal language model"):
        load(folder)


def test_code_of_a_checkpoint_is_not_run_unless_told(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="trust_remote_code: true"):
        load(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"device": "cuda:77"}, "no device cuda:77"),
        ({"device": "meta"}, "no device meta"),
        ({"device": "mps"}, "mps has no float64"),
        ({"revision": "main"}, "only a hub repository has revisions"),
    ],
)
def test_settings_that_make_no_sense(saved: Path, setting: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(saved, **setting)  # type: ignore[arg-type]


def test_what_no_path_can_be_is_said() -> None:
    with pytest.raises(ModelError, match=r"can't be a model's path \(File name too long\)"):
        load("a" * 5000)


def test_a_misspelt_alias_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'smollm2-135m-instruct'"):
        load("smollm2-135m-instuct")


# The hub


def test_no_hub_is_said_with_what_there_is_without_one(offline: Path) -> None:
    with pytest.raises(ModelError, match=r"the hub can't be reached\. Without a hub there are: smollm2-135m-instruct"):
        load("somebody/something")


def test_what_the_hubs_cache_holds_loads_without_a_hub(offline: Path, saved: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--somebody--tiny"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(saved, snapshot)
    blob = repository / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    loaded = load("somebody/tiny")
    assert loaded.source == "somebody/tiny"
    assert loaded.facts.config["vocab_size"] == 288
    assert loaded.weights_hash is not None and loaded.weights_hash.startswith("sha256:")
    assert getattr(loaded.model.config, hub.COMMIT) == commit


def test_the_revision_that_was_asked_for_is_hashed_and_noted(offline: Path, saved: Path) -> None:
    repository = offline / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name, digit in (("main", "1"), ("old", "2")):
        (repository / "refs" / name).write_text(digit * 40)
        snapshot = Path(shutil.copytree(saved, repository / "snapshots" / (digit * 40)))
        if name == "old":
            tiny_model("llama").save_pretrained(snapshot)
        blob = repository / "blobs" / (digit * 64)
        (snapshot / "model.safetensors").rename(blob)
        (snapshot / "model.safetensors").symlink_to(blob)
    main, old = load("somebody/tiny"), load("somebody/tiny", revision="old")
    assert [getattr(one.model.config, hub.COMMIT) for one in (main, old)] == ["1" * 40, "2" * 40]
    assert main.weights_hash != old.weights_hash


def test_an_unreachable_hub_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody is there
    monkeypatch.setattr(hub, "getproxies", dict)
    assert not hub.is_reachable()
    monkeypatch.setattr(hub, "getproxies", lambda: {"http": "http://proxy"})
    assert hub.is_reachable()


def test_a_gated_repository_is_told_from_an_unreachable_one() -> None:
    class GatedRepoError(OSError):
        pass

    with pytest.raises(ModelError, match="is gated"), hub.explained("org/gated", local=False):
        raise OSError("403") from GatedRepoError()
