"""Models that device maps put on the CPU and on disk: the same numbers, from wherever they come."""

from __future__ import annotations

import errno
import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.engine.loading import placing
from steerkit.engine.loading.load import load
from steerkit.engine.loading.placed import facts_of_placement
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError, ParallelError
from steerkit.types.placement import ModelPlacement, lies_in_words

DISK = {"": "cpu", "model.layers.1": "disk", "lm_head": "disk"}
IDS = torch.arange(6, 26)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, in which nothing is offloaded yet."""
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer: Any = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", ["tiny", "folder", "experts", "gguf", "qwen"])
def test_every_source_is_put_where_the_map_says(source: str, tmp_path: Path, tiny_gguf: Any) -> None:
    sources: dict[str, Callable[[], Any]] = {
        "tiny": lambda: "tiny-random:llama",
        "folder": lambda: saved(tmp_path / "model", tiny_model("llama")),
        "experts": lambda: saved(tmp_path / "model", tiny_model("qwen3_moe")),  # written anew as they are put on disk
        "gguf": lambda: tiny_gguf.path,
        "qwen": lambda: "tiny-random:qwen",
    }
    named = sources[source]()
    plain = load(named)
    path = "transformer.h.1" if source == "qwen" else "model.layers.1"
    found = load(named, placement=ModelPlacement({"": "cpu", path: "disk"}))
    assert all(one.is_meta == name.startswith(f"{path}.") for name, one in found.model.named_parameters())
    with torch.no_grad():
        assert found.model(IDS).logits.equal(plain.model(IDS).logits)
    assert found.weights_hash == plain.weights_hash and found.facts.special_tokens == plain.facts.special_tokens
    assert {**found.facts.config, "dtype": None} == {**plain.facts.config, "dtype": None}


@pytest.mark.parametrize("mapped", ["auto", "balanced", "sequential", {"": "disk"}])
def test_strategies_and_a_model_wholly_on_disk(mapped: Any) -> None:
    found = load("tiny-random:llama", placement=ModelPlacement(mapped)).model
    with torch.no_grad():
        assert found(IDS).logits.equal(tiny_model("llama")(IDS).logits)


def test_what_memory_does_not_hold_goes_to_disk_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import accelerate

    size = sum(one.nbytes for one in tiny_model("llama").parameters())
    monkeypatch.setattr(accelerate, "get_max_memory", lambda *_: {"cpu": size // 2})
    found = load("tiny-random:llama", placement=ModelPlacement("sequential")).model
    placed = facts_of_placement(found).device_map
    assert placed is not None and set(placed.values()) == {"cpu", "disk"} and "on disk" in lies_in_words(placed)
    with torch.no_grad():
        assert found(IDS).logits.equal(tiny_model("llama")(IDS).logits)


def test_the_longest_path_counts_and_all_else_goes_with_what_is_around_it() -> None:
    found = placing.whole_map(tiny_model("llama"), {"": "cpu", "model.layers": "disk", "model.layers.1.mlp": "cpu"})
    assert found["model.layers.0"] == found["model.layers.1.self_attn"] == "disk"
    assert found["model.layers.1.mlp"] == found["model.embed_tokens"] == found["lm_head"] == "cpu"
    assert not any(one != other and one.startswith(f"{other}.") for one in found for other in found)


@pytest.mark.parametrize(
    ("mapped", "said"),
    [
        ({"": "cpu", "model.layer.1": "disk"}, "no module 'model.layer.1'. Did you mean 'model.layers.1'"),
        ({"model": "cpu"}, "doesn't say where lm_head goes"),
        ({"": "cuda:7"}, "no device cuda:7"),
        ({"": "gpu"}, "the whole model can be on cpu, cuda, cuda:1 or disk, not on 'gpu'"),
        ("even", "device_map is one of auto"),
        (3, "device_map is one of auto"),
    ],
)
def test_maps_of_what_is_not_there_are_refused_before_anything_is_loaded(mapped: Any, said: str, cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load("tiny-random:llama", placement=ModelPlacement(mapped))
    assert said in str(caught.value)
    assert not (cache / "offload").exists() or not any((cache / "offload").iterdir())


def test_a_folder_goes_with_its_model(tmp_path: Path, cache: Path) -> None:
    model = load("tiny-random:llama", placement=ModelPlacement(DISK, str(tmp_path / "kept"))).model
    assert any((tmp_path / "kept").iterdir()) and not (cache / "offload").exists()
    del model
    gc.collect()
    assert not any((tmp_path / "kept").iterdir())
    load("tiny-random:llama", placement=ModelPlacement("auto"))
    assert not any((cache / "offload").iterdir())


def test_what_another_model_left_in_a_folder_is_not_taken_for_its_own(tmp_path: Path) -> None:
    kept = [load(f"tiny-random:{kind}", placement=ModelPlacement(DISK, str(tmp_path))) for kind in ("llama", "mistral")]
    with torch.no_grad():
        for one, kind in zip(kept, ("llama", "mistral"), strict=True):
            assert one.model(IDS).logits.equal(tiny_model(kind)(IDS).logits)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"can't be kept in .*Name another one"):
        load("tiny-random:llama", placement=ModelPlacement(DISK, str(tmp_path / "file")))


def test_a_disk_without_room_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(ModelError, match=r"no room for the weights of tiny-random:llama .* on a larger disk"):
        load("tiny-random:llama", placement=ModelPlacement(DISK, str(tmp_path)))
    assert not any(tmp_path.iterdir())


def test_a_disk_that_fills_up_meanwhile_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = saved(tmp_path / "model", tiny_model("qwen3_moe"))
    monkeypatch.setattr("transformers.integrations.accelerate.save_file", full)
    with pytest.raises(ModelError, match="on a larger disk"):
        load(folder, placement=ModelPlacement({"": "disk"}, str(tmp_path / "kept")))
    assert not any((tmp_path / "kept").iterdir())


def test_a_quantiser_that_is_not_installed_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from steerkit.engine.loading import quantising

    def lacking(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(quantising, "version", lacking)
    with pytest.raises(ModelError, match="pip install optimum-quanto"):
        load("tiny-random:llama", placement=ModelPlacement(quantization={"method": "quanto"}))


def test_a_method_that_is_no_text_is_told() -> None:
    with pytest.raises(ModelError, match=r"^quantization: transformers has no quantiser \['quanto'\]"):
        load("tiny-random:llama", placement=ModelPlacement(quantization={"method": ["quanto"]}))


def test_a_model_to_be_cut_in_a_process_alone_says_how_to_start_it() -> None:
    with pytest.raises(ParallelError, match=r"^The model is to be cut over 2 processes .* Start it as: torchrun"):
        load("tiny-random:llama", placement=ModelPlacement(tensor_parallel=2))
