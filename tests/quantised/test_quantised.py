"""Quantised models, from recipes to reports, with the quantisers themselves: `make test-quantised` installs them.

Where weights alone are quantised, a model is steered as exactly as one of plain weights: against hooks written by hand
on the same model, and against the same weights written out in full. Where activations are rounded too, two ways to
compute one intervention differ by that rounding, so that what is compared is the next token's distribution.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import steerkit
from steerkit import Direction, LiveModel, Site, ablate, add
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import AttachError, RecipeError
from steerkit.report import write_report
from steerkit.run import run_recipe
from tests.small_run import RECIPE, results_of

pytestmark = pytest.mark.quantised

WIDTH = 64
"""Two of the 4-bit quantisers take no narrower weights."""
GROUPS = {"granularity": {"PerGroup": {"group_size": 32}}}
LOSSLESS: dict[str, dict[str, Any]] = {
    "torchao int8": {"method": "torchao", "quant_type": "Int8WeightOnlyConfig"},
    "torchao int4": {"method": "torchao", "quant_type": {"IntxWeightOnlyConfig": {"weight_dtype": "int4", **GROUPS}}},
    "torchao float8": {"method": "torchao", "quant_type": "Float8WeightOnlyConfig"},
    "quanto int8": {"method": "quanto", "weights": "int8"},
    "quanto int4": {"method": "quanto", "weights": "int4"},
    "quanto int2": {"method": "quanto", "weights": "int2"},
    "quanto float8": {"method": "quanto", "weights": "float8"},
}
ROUNDING: dict[str, dict[str, Any]] = {
    "torchao int8 dynamic": {"method": "torchao", "quant_type": "Int8DynamicActivationInt8WeightConfig"},
    "torchao int4 dynamic": {
        "method": "torchao",
        "quant_type": {"Int8DynamicActivationIntxWeightConfig": {"weight_dtype": "int4"}},
    },
    "bitsandbytes int8": {"method": "bitsandbytes", "load_in_8bit": True},
}
IN_BFLOAT16: dict[str, dict[str, Any]] = {
    "bitsandbytes fp4": {"method": "bitsandbytes", "load_in_4bit": True},
    "bitsandbytes nf4": {
        "method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
}
"""On a CPU their products are computed in bfloat16, whatever the model's dtype."""
MONITORED = (
    RECIPE.replace("conditions:", "monitors:\n  warm: {direction: warmth, above: 0.5}\nconditions:")
    .replace("\ndirections:", "\n  mixed: {of: {warm: warm, cold: cold}}\ndirections:")
    .replace("evaluate:", "evaluate:\n  - monitor_auroc: {data: mixed.test, monitor: warm, positive: warm}")
)
IDS = torch.randint(6, 260, (3, 9), generator=torch.Generator().manual_seed(0))
RNG = torch.Generator().manual_seed(1)
VECTOR, OTHER = torch.randn(WIDTH, generator=RNG), torch.randn(WIDTH, generator=RNG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("plain") / "model"
    tiny_model("llama", d_model=WIDTH).save_pretrained(saved)
    tiny_tokenizer().save_pretrained(saved)
    return saved


def written_out(live: LiveModel, plain: Any) -> Any:
    """A plain model with the weights of a quantised one, as numbers."""
    found = copy.deepcopy(plain)
    for path, module in live.model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and type(weight) is not nn.Parameter:
            found.get_submodule(path).weight.data = numbers(weight)
        elif isinstance(module, nn.Linear) and type(weight.data) is not Tensor:
            found.get_submodule(path).weight.data = numbers(weight.data)
    return found


def numbers(weight: Any) -> Tensor:
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return cast(Tensor, dequantize_4bit(weight.data, weight.quant_state).float())
    return cast(Tensor, weight.dequantize().detach().float())


def direction(vector: Tensor, layer: int) -> Direction:
    return Direction(vector[None], Site("resid_pre", layer), -1, "d")


CONDITIONS: dict[str, Callable[[], Sequence[Any]]] = {
    "added": lambda: [add(direction(VECTOR, 1), coefficient=1.5)],
    "ablated": lambda: [ablate(direction(OTHER, 1))],
    "both": lambda: [add(direction(VECTOR, 1), coefficient=1.5), ablate(direction(OTHER, 1))],
}


@contextmanager
def by_hand(model: Any, name: str) -> Iterator[None]:
    """The condition as hooks of torch: a vector added to a block's input, an ablation of all that is written."""
    unit = OTHER / OTHER.norm()

    def without(value: Tensor) -> Tensor:
        return cast(Tensor, value - (value @ unit)[..., None] * unit)

    def attention(_: Any, __: Any, output: Any) -> Any:
        return (without(output[0]), *output[1:])

    handles = []
    if name in ("added", "both"):
        handles.append(
            model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + 1.5 * VECTOR, *args[1:]))
        )
    if name in ("ablated", "both"):
        handles.append(model.model.embed_tokens.register_forward_hook(lambda _, __, output: without(output)))
        for layer in model.model.layers:
            handles.append(layer.self_attn.register_forward_hook(attention))
            handles.append(layer.mlp.register_forward_hook(lambda _, __, output: without(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits(live: LiveModel, name: str, mode: Any) -> Tensor:
    with torch.no_grad(), live.steer(*CONDITIONS[name](), mode=mode):
        return cast(Tensor, live.forward(IDS).logits)


@pytest.mark.parametrize("how", LOSSLESS)
def test_quantised_weights_are_steered_as_by_hand(how: str, folder: Path) -> None:
    live = steerkit.load_model(str(folder), quantization=LOSSLESS[how])
    plain = steerkit.load_model(str(folder))
    for name in CONDITIONS:
        with torch.no_grad(), by_hand(live.model, name):
            expected = live.model(IDS).logits
        for mode in ("auto", "hook", "interpret"):
            off = float((logits(live, name, mode) - expected).abs().max())
            assert off < 1e-4, (name, mode, off)
        # That the weights are others shows, and so does the condition.
        assert (logits(plain, name, "hook") - expected).abs().max() > 1e-2
        with torch.no_grad():
            assert (live.model(IDS).logits - expected).abs().max() > 1e-2


@pytest.mark.parametrize("how", [*ROUNDING, *IN_BFLOAT16])
def test_where_activations_are_rounded_the_next_tokens_distribution_is_the_same(how: str, folder: Path) -> None:
    live = steerkit.load_model(str(folder), quantization={**ROUNDING, **IN_BFLOAT16}[how])
    with torch.no_grad():
        usual = cast(Tensor, live.forward(IDS).logits).log_softmax(-1)
    for name in CONDITIONS:
        with torch.no_grad(), by_hand(live.model, name):
            expected = live.model(IDS).logits.log_softmax(-1)
        steered = largest_kl(expected, usual)
        for mode in ("hook", "interpret"):
            assert largest_kl(expected, logits(live, name, mode).log_softmax(-1)) < 0.02 * steered, (name, mode)


def largest_kl(of: Tensor, against: Tensor) -> float:
    return float((of.exp() * (of - against)).sum(-1).max())


def recipe(folder: Path, text: str, where: Path) -> Path:
    path = where / "recipe.yaml"
    path.write_text(text.replace("tiny-random:llama", str(folder)), "utf-8")
    return path


def values(run: Path) -> dict[str, float]:
    return {f"{one['condition']} {one['evaluator']} {one['data']}": one["value"] for one in results_of(run)["records"]}


@pytest.mark.parametrize("how", [*LOSSLESS, *ROUNDING, *IN_BFLOAT16])
def test_a_whole_recipe_is_that_of_the_same_weights_and_says_that_they_are_quantised(
    how: str, folder: Path, tmp_path: Path
) -> None:
    quantization = {**LOSSLESS, **ROUNDING, **IN_BFLOAT16}[how]
    setting = f"model.quantization={json.dumps(quantization)}"
    run = run_recipe(recipe(folder, MONITORED, tmp_path), overrides=(setting,), out=tmp_path / "runs")
    write_report(run)
    page = (run / "report.html").read_text("utf-8")
    assert f"The model is quantised ({quantization['method']}, " in page
    assert ("rounds activations as well" in page) == (how in ROUNDING)
    told = json.loads((run / "provenance.json").read_text())["model"]
    assert told["quantization"]["method"] == quantization["method"] and told["placement_packages"]
    with pytest.raises(AttachError, match="its model is quantised"):
        steerkit.bake(run, "without", tmp_path / "baked")
    if how in LOSSLESS:
        live = steerkit.load_model(str(folder), quantization=quantization)
        same = written_out(live, steerkit.load_model(str(folder)).model)
        same.save_pretrained(tmp_path / "same")
        tiny_tokenizer().save_pretrained(tmp_path / "same")
        plain = run_recipe(recipe(tmp_path / "same", MONITORED, tmp_path), out=tmp_path / "runs")
        found, expected = values(run), values(plain)
        del (
            found["without monitor_auroc mixed.test"],
            expected["without monitor_auroc mixed.test"],
        )  # of readings that ablation leaves: rounding alone
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_equal_settings_give_equal_bytes_and_others_another_key(folder: Path, tmp_path: Path) -> None:
    one, other = (f"model.quantization={{method: quanto, weights: {kind}}}" for kind in ("int8", "int4"))
    runs = [
        run_recipe(recipe(folder, RECIPE, tmp_path), overrides=(setting,), out=tmp_path / where)
        for setting, where in ((one, "a"), (one, "b"), (other, "a"))
    ]
    assert (runs[0] / "results.json").read_bytes() == (runs[1] / "results.json").read_bytes()
    assert values(runs[0]) != values(runs[2])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{method: torchao, quant_type: Int8Weight}", "Did you mean 'Int8WeightOnlyConfig'"),
        ("{method: torchao, quant_type: {Int4WeightOnlyConfig: {groupsize: 32}}}", "Did you mean 'group_size'?"),
        ("{method: torchao}", "torchao needs one quant_type"),
        ("{method: quanto, weights: int3}", "quanto doesn't take these options: Only support weights in"),
        ("{method: bitsandbytes}", "needs load_in_8bit: true or load_in_4bit: true"),
        ("{method: bitsandbytes, load_in_8bit: true, load_in_4bit: true}", "only one can be used"),
    ],
)
def test_wrong_options_are_told_by_a_check(written: str, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        run_recipe(recipe(folder, RECIPE, tmp_path), overrides=(f"model.quantization={written}",), out=tmp_path)
    (problem,) = caught.value.problems
    assert said in problem.message and "model.quantization" in problem.where


def test_what_a_quantiser_does_on_some_processors_is_done_or_said_in_words() -> None:
    """Where bitsandbytes has instructions for packed weights, it refuses those narrower than a block of them."""
    try:
        live = steerkit.load_model("tiny-random:llama", quantization={"method": "bitsandbytes", "load_in_4bit": True})
    except steerkit.SteerkitError as error:
        assert re.search(r"can't be quantised by .* Use other options", str(error))
    else:
        (found,) = live.capture("w1 w2", "blocks.1.resid_post", progress=False).values()
        assert bool(found.mean.isfinite().all()) and bool(found.mean.any())


def test_what_a_quantiser_cannot_do_here_is_said_in_words(tmp_path: Path) -> None:
    for quantization in (
        {"method": "torchao", "quant_type": {"Int4WeightOnlyConfig": {"group_size": 32}}},
        {"method": "quanto", "activations": "int8"},
    ):
        with pytest.raises(steerkit.SteerkitError, match=r"can't be quantised by .* Use other options"):
            steerkit.load_model("tiny-random:llama", quantization=quantization)
