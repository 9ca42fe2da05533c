"""What is said of memory before a model is loaded is what its tensors then take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from steerkit.engine.footprint.devices import Room, main_memory
from steerkit.engine.footprint.fitting import GB, GPU, fault, needed, shares_of, suggestion
from steerkit.engine.footprint.model import Footprint, Shape, bits_of, blocks_of, footprint, footprint_of
from steerkit.engine.footprint.passes import Held, PassMemory, pass_memory
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import ModelError
from steerkit.types.placement import ModelPlacement

KINDS = ("llama", "gemma3_text", "qwen3", "opt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("all_logits", [False, True])
def test_a_pass_without_numbers_holds_what_one_with_numbers_does(kind: str, all_logits: bool) -> None:
    model = tiny_model(kind)
    known = iter([*model.parameters(), *model.buffers()])
    ids = torch.zeros(6, 40, dtype=torch.long)
    kept = {} if all_logits else {"logits_to_keep": 1}
    with torch.no_grad(), Held(known) as held:
        given = model(ids, use_cache=True, **kept)
        logits = given.logits.float()
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in given.past_key_values.layers)
    assert logits.dtype == torch.float32
    found = pass_memory(model.to("meta"), 6, 40, all_logits=all_logits)
    assert found.cache == pytest.approx(cache, abs=64), "windows count their tokens in a number of each layer"
    # A CPU's fused kernel keeps a number for each token and head beside its output.
    assert held.peak == pytest.approx(found.peak, rel=0.02) and found.work > 0


def test_attention_is_as_it_was_behind_a_pass() -> None:
    model = tiny_model("llama").to("meta")
    before = model.config._attn_implementation
    pass_memory(model, 2, 8)
    assert model.config._attn_implementation == before == "sdpa"


def test_a_long_row_holds_no_scores_of_tokens_by_tokens() -> None:
    model = tiny_model("llama").to("meta")
    short, long = pass_memory(model, 1, 64), pass_memory(model, 1, 640)
    assert long.peak < 11 * short.peak


@pytest.mark.parametrize("kind", [*KINDS, "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_loaded_model(kind: str, dtype: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    model.save_pretrained(tmp_path)
    found = footprint_of("x", tmp_path, [Shape(2, 8)], dtype=dtype)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    real = {id(one): one.nbytes for one in [*loaded.parameters(), *loaded.buffers()]}
    assert found.n_parameters == sum({id(one): one.numel() for one in loaded.parameters()}.values())
    # Buffers such as frequencies stay in float32 where a checkpoint is loaded in half precision.
    assert found.weight_bytes == pytest.approx(sum(real.values()), rel=1e-3)
    assert len(found.blocks) == loaded.config.num_hidden_layers and set(found.blocks) <= set(found.weights)


def test_auto_is_float32_on_a_cpu_and_the_checkpoints_own_elsewhere(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert footprint_of("x", tmp_path, [], device="cpu").dtype == "float32"
    assert footprint_of("x", tmp_path, [], device="cuda").dtype == "bfloat16"


def test_a_model_that_cant_be_looked_at_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config of it is at hand"):
        footprint_of("org/name", None, [])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="can't be run so"):
        footprint_of("x", tmp_path, [])


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"method": "bitsandbytes", "load_in_8bit": True}, 8.0),
        ({"method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"method": "gptq", "bits": 4}, 4.5),
        ({"method": "hqq", "nbits": 8}, 8.0),
        ({"method": "quanto", "weights": "int8"}, 8.0),
        ({"method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}, 4.5),
        ({"method": "mxfp4"}, None),
    ],
)
def test_bits_are_what_a_quantisers_options_say(options: dict[str, object], bits: float | None) -> None:
    assert bits_of(options) == bits


def test_quantised_weights_are_those_of_linear_modules_alone() -> None:
    plain = footprint(tiny_model("llama").to("meta"), [])
    found = footprint(tiny_model("llama").to("meta"), [], {"method": "bitsandbytes", "load_in_8bit": True})
    outside = [part for part in plain.weights if part not in plain.blocks]
    assert {part: found.weights[part] for part in outside} == {part: plain.weights[part] for part in outside}
    block = tiny_model("llama").get_submodule(plain.blocks[0])
    linear = sum(one.weight.nbytes for one in block.modules() if isinstance(one, torch.nn.Linear))
    assert found.weights[plain.blocks[0]] == plain.weights[plain.blocks[0]] - linear + linear // 4
    with pytest.raises(ModelError, match="how many bits mxfp4 leaves"):
        footprint(tiny_model("llama").to("meta"), [], {"method": "mxfp4"})


def test_the_stack_of_blocks_is_the_longest_list() -> None:
    assert blocks_of(tiny_model("mixtral"))[0] == "model.layers.0"
    assert blocks_of(torch.nn.Linear(2, 2)) == ()


BLOCKS = tuple(f"model.layers.{number}" for number in range(10))
MADE = Footprint(
    n_parameters=50 * GB,
    modules={"model.embed_tokens": 10 * GB, **dict.fromkeys(BLOCKS, 8 * GB), "lm_head": 10 * GB},
    blocks=BLOCKS,
    passes={Shape(4, 1024): PassMemory(peak=6 * GB, cache=2 * GB)},
    dtype="bfloat16",
    shared_out=0.9,
)
CPU = Room("cpu", 200 * GB)


def gpus(number: int, size: int = GPU) -> tuple[Room, ...]:
    return (*(Room(f"cuda:{at}", size) for at in range(number)), CPU)


def test_on_one_device_all_is_there() -> None:
    (one,) = shares_of(MADE, ModelPlacement(), "auto", gpus(1))
    assert (one.device, one.weights, one.cache, one.work) == ("cuda:0", 100 * GB, 2 * GB, 4 * GB)
    assert one.fits is False and "cuda:0 would hold 106.0 of its 85.9 GB" in fault([one])
    (one,) = shares_of(MADE, ModelPlacement(), "cpu", gpus(1))
    assert one.device == "cpu" and one.fits and fault([one]) == ""
    (one,) = shares_of(MADE, ModelPlacement(), "cuda:3", gpus(1))
    assert one.fits is None and fault([one]) == ""


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_strategy_spreads_all_of_it(strategy: str) -> None:
    shares = shares_of(MADE, ModelPlacement(device_map=strategy), "auto", gpus(2))
    assert [one.device for one in shares] == ["cuda:0", "cuda:1"] and all(one.fits for one in shares)
    assert sum(one.weights for one in shares) == 100 * GB and sum(one.cache for one in shares) == 2 * GB
    first, second = (one.weights // GB for one in shares)
    expected = {"sequential": (66, 34), "balanced_low_0": (34, 66)}
    assert (first, second) == expected.get(strategy, (58, 42))


def test_what_lies_outside_is_brought_to_where_passes_run() -> None:
    mapped = {"": "cuda:0", "model.layers.9": "disk", "lm_head": "cpu"}
    shares = shares_of(MADE, ModelPlacement(device_map=mapped), "auto", gpus(1))
    by_device = {one.device: one for one in shares}
    assert [one.device for one in shares] == ["cuda:0", "cpu", "disk"]
    assert by_device["cuda:0"].weights == (100 - 8 - 10 + 10) * GB and by_device["cuda:0"].cache == 2 * GB
    assert by_device["disk"].fits is None and by_device["cpu"].work == 0


def test_processes_share_out_what_the_models_plan_splits() -> None:
    two = shares_of(MADE, ModelPlacement(tensor_parallel=2), "auto", gpus(2))
    assert [one.weights for one in two] == [55 * GB] * 2 and two[0].cache == GB
    (here,) = shares_of(MADE, ModelPlacement(tensor_parallel=2), "auto", (CPU,))
    assert here.weights == 110 * GB


@pytest.mark.parametrize(
    ("made", "rooms", "said"),
    [
        (replace(MADE, dtype="float32"), gpus(1), "Write model.dtype: bfloat16"),
        (MADE, gpus(2), "device_map: balanced, which spreads it over 2 GPUs and fits; or model.tensor_parallel: 2"),
        (replace(MADE, shared_out=None), gpus(2), "over 2 GPUs and fits."),
        (MADE, gpus(1), "Quantise it to eight bits"),
        (replace(MADE, bits=8.0), gpus(1), "device_map: auto"),
        (replace(MADE, bits=8.0), (Room("cpu", 5 * GB),), "it takes 2 GPUs of 80 GB"),
    ],
)
def test_what_is_suggested_fits(made: Footprint, rooms: tuple[Room, ...], said: str) -> None:
    assert said in suggestion(made, ModelPlacement(quantization={"method": "x"} if made.bits else None), "auto", rooms)


def test_as_many_gpus_as_hold_it() -> None:
    assert needed(MADE, GPU) == 2 and needed(MADE, 200 * GB) == 1
    assert needed(replace(MADE, passes={Shape(1, 1): PassMemory(100 * GB, 0)}), GPU) > 1000, "no number of them does"


def test_this_machine_has_memory() -> None:
    assert main_memory() > 2**28


def test_a_module_inside_of_a_block_lies_where_a_map_puts_it() -> None:
    made = footprint(tiny_model("llama").to("meta"), [Shape(2, 8)])
    block = made.blocks[0]
    inside = sum(size for path, size in made.modules.items() if path.startswith(f"{block}.mlp."))
    shares = shares_of(made, ModelPlacement(device_map={"": "cpu", f"{block}.mlp": "disk"}), "auto", (CPU,))
    disk = next(one for one in shares if one.device == "disk")
    assert disk.weights == inside > 0
    assert sum(one.weights for one in shares) == made.weight_bytes + inside, "it is brought to where it is run"
