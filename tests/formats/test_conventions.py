"""What a file of another tool means: steered with what is read, a model gives the logits that hooks placed by hand in
that tool's own way give it. And the other way round: what is written, put where that tool would put it, steers as here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import steerkit
from steerkit import Direction
from steerkit.errors import ArtifactError
from steerkit.session.model import LiveModel
from steerkit.sources import TINY_WIDTH
from tests.formats.test_others import autoencoder, steering_vector_class

__all__ = ["steering_vector_class"]

PROMPTS = ["the day was long and warm", "I feel"]
LAYERS = 3
Hooks = list[tuple[str, str, torch.Tensor]]
"""Side of a module, its name, and what is added there."""


@pytest.fixture(scope="module")
def model() -> LiveModel:
    return steerkit.load_model("tiny-random:llama")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(layer: int) -> torch.Tensor:
    return drawn(TINY_WIDTH, seed=layer)


def block(layer: int) -> str:
    return f"model.layers.{layer}"


@contextmanager
def by_hand(module: torch.nn.Module, hooks: Hooks) -> Iterator[None]:
    """Vectors added to what modules take in or put out, at all tokens."""

    def added(value: Any, extra: torch.Tensor) -> Any:
        return (value[0] + extra, *value[1:]) if isinstance(value, tuple) else value + extra

    def put(side: str, name: str, extra: torch.Tensor) -> Any:
        part = module.get_submodule(name)
        if side == "input":
            return part.register_forward_pre_hook(lambda _, given: added(given, extra))
        return part.register_forward_hook(lambda _, given, value: added(value, extra))

    with ExitStack() as stack:
        for side, name, extra in hooks:
            stack.callback(put(side, name, extra).remove)
        yield


def require_equal(model: LiveModel, hooks: Hooks, directions: Mapping[str, Direction]) -> None:
    """Adding the directions gives the logits that the hooks give, which aren't those of the plain model."""
    plain = model.forward(PROMPTS).logits
    with by_hand(model.model, hooks):
        wanted = model.forward(PROMPTS).logits
    with model.steer(*(steerkit.add(one, positions="all") for one in directions.values())):
        found = model.forward(PROMPTS).logits
    assert float((wanted - plain).abs().max()) > 1e-2
    assert float((found - wanted).abs().max()) < 1e-5


# A file of the tool, and the hooks that the tool would set


def refusal_direction(folder: Path) -> tuple[Path, Hooks]:
    means = drawn(4, LAYERS, TINY_WIDTH).double()
    torch.save(means[-2, 1], folder / "direction.pt")  # a view, as the tool saves it
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": -2, "layer": 1}))
    return folder / "direction.pt", [("input", block(1), means[-2, 1].float())]


def refusal_direction_means(folder: Path) -> tuple[Path, Hooks]:
    means = drawn(1, LAYERS, TINY_WIDTH).double()
    torch.save(means, folder / "mean_diffs.pt")
    return folder / "mean_diffs.pt", [("input", block(layer), means[-1, layer].float()) for layer in range(LAYERS)]


def caa(folder: Path) -> tuple[Path, Hooks]:
    for layer in (0, 2):
        torch.save(vector(layer), folder / f"vec_layer_{layer}_Llama-2-7b-chat-hf.pt")
    return folder, [("output", block(layer), vector(layer)) for layer in (0, 2)]


def caa_file(folder: Path) -> tuple[Path, Hooks]:
    path = folder / "vec_layer_1_Llama-2-7b-chat-hf.pt"
    torch.save(vector(1).half(), path)
    return path, [("output", block(1), vector(1).half().float())]


def persona_vectors(folder: Path) -> tuple[Path, Hooks]:
    rows, path = drawn(LAYERS + 1, TINY_WIDTH), folder / "evil_response_avg_diff.pt"
    torch.save(rows, path)
    # Row k is added with layer_idx k - 1, which row 0 has none of: it was read at block 0's input.
    hooks: Hooks = [("output", block(k - 1), rows[k]) for k in range(1, LAYERS + 1)]
    return path, [("input", block(0), rows[0]), *hooks]


def axis(folder: Path) -> tuple[Path, Hooks]:
    rows, path = drawn(LAYERS, TINY_WIDTH).bfloat16(), folder / "assistant_axis.pt"
    torch.save(rows, path)
    return path, [("output", block(k), rows[k].float()) for k in range(LAYERS)]


def axis_with_metadata(folder: Path) -> tuple[Path, Hooks]:
    path, hooks = axis(folder)
    torch.save({"axis": torch.load(path, weights_only=True), "metadata": {"n_roles": 275}}, path)
    return path, hooks


def capping(folder: Path) -> tuple[Path, Hooks]:
    held = {f"layer_{k}": {"vector": vector(k), "layer": k} for k in (1, 2)}
    path = folder / "capping_config.pt"
    torch.save({"vectors": held, "experiments": [{"id": "a", "interventions": []}]}, path)
    return path, [("output", block(k), vector(k)) for k in (1, 2)]


def steering_vectors(kind: str, name: str) -> Callable[[Path], tuple[Path, Hooks]]:
    def made(folder: Path) -> tuple[Path, Hooks]:
        path = folder / "trained.pt"
        by_layer = {k: vector(k) for k in (2, 0)}
        torch.save(sys.modules["steering_vectors.steering_vector"].SteeringVector(by_layer, kind), path)
        return path, [("output", f"{block(k)}{name}", vector(k)) for k in by_layer]

    return made


def svec(side: str) -> Callable[[Path], tuple[Path, Hooks]]:
    def made(folder: Path) -> tuple[Path, Hooks]:
        path = folder / "refusal.svec"
        rows = {"2": vector(2).tolist(), "1": [vector(1).tolist()]}  # a list, and a matrix of one row as newer files
        path.write_text(json.dumps({"model_type": "llama", "directions": rows, "explained_variances": {"2": 0.5}}))
        return path, [(side, block(k), vector(k)) for k in (1, 2)]

    return made


def saelens(folder: Path) -> tuple[Path, Hooks]:
    decoder = drawn(6, TINY_WIDTH)
    return autoencoder(folder, decoder), [("output", block(2), decoder[4])]


def older_saelens(folder: Path) -> tuple[Path, Hooks]:
    decoder = drawn(6, TINY_WIDTH)
    path = autoencoder(folder, decoder, metadata=None, hook_name="blocks.1.hook_resid_pre", architecture="jumprelu")
    return path / "sae_weights.safetensors", [("input", block(1), decoder[4])]


def scaled_saelens(folder: Path) -> tuple[Path, Hooks]:
    decoder = drawn(6, TINY_WIDTH)
    path = autoencoder(folder, decoder, normalize_activations="expected_average_only_in")
    return path, [("output", block(2), decoder[4] / 0.25)]


def transcoder(folder: Path) -> tuple[Path, Hooks]:
    decoder, told = drawn(6, TINY_WIDTH), {"hook_name": "blocks.1.ln2.hook_normalized"}
    told["hook_name_out"] = "blocks.1.hook_mlp_out"
    path = autoencoder(folder, decoder, architecture="transcoder", d_out=TINY_WIDTH, metadata=told)
    return path, [("output", f"{block(1)}.mlp", decoder[4])]


def hook_names(suffix: str) -> Callable[[Path], tuple[Path, Hooks]]:
    def made(folder: Path) -> tuple[Path, Hooks]:
        path = folder / f"found{suffix}"
        keys = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_mlp_out", "layers_output[2]"]
        held = {key: vector(number) for number, key in enumerate(keys)}
        if suffix == ".npz":
            np.savez_compressed(path, **{key: value.numpy() for key, value in held.items()})
        else:
            (torch.save if suffix == ".pt" else save_file)(held, path)
        places = [("input", block(0)), ("output", block(1)), ("output", f"{block(2)}.mlp"), ("output", block(2))]
        return path, [(*place, vector(number)) for number, place in enumerate(places)]

    return made


def rows_by_layer(folder: Path) -> tuple[Path, Hooks]:
    rows, path = drawn(LAYERS, TINY_WIDTH), folder / "rows.npy"
    np.save(path, rows.numpy().astype(">f8"))  # big-endian, as some machines write
    return path, [("output", block(k), rows[k]) for k in range(LAYERS)]


READ: dict[str, tuple[Callable[[Path], tuple[Path, Hooks]], dict[str, Any]]] = {
    "refusal_direction": (refusal_direction, {}),
    "refusal_direction_means": (refusal_direction_means, {}),
    "caa, a folder": (caa, {}),
    "caa, a file": (caa_file, {}),
    "persona_vectors": (persona_vectors, {}),
    "assistant_axis": (axis, {}),
    "assistant_axis, a mapping": (axis_with_metadata, {}),
    "assistant_axis, capping": (capping, {}),
    "steering_vectors": (steering_vectors("decoder_block", ""), {}),
    "steering_vectors, mlp": (steering_vectors("mlp", ".mlp"), {}),
    "steering_vectors, self_attn": (steering_vectors("self_attn", ".self_attn"), {}),
    "svec": (svec("input"), {}),
    "svec, caa": (svec("output"), {"convention": "caa"}),
    "saelens": (saelens, {"options": {"features": (4,)}}),
    "saelens, older": (older_saelens, {"options": {"features": (4,)}}),
    "saelens, scaled": (scaled_saelens, {"options": {"features": (4,), "scaling_factor": 0.25}}),
    "saelens, transcoder": (transcoder, {"options": {"features": (4,)}}),
    "npz, hook names": (hook_names(".npz"), {}),
    "safetensors, hook names": (hook_names(".safetensors"), {}),
    "torch, hook names": (hook_names(".pt"), {}),
    "npy, a row per layer": (rows_by_layer, {"site": "blocks.*.resid_post"}),
}


@pytest.mark.usefixtures("steering_vector_class")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # what is lost is told; test_others has it
@pytest.mark.parametrize("case", READ)
def test_what_is_read_steers_as_the_tool_does(case: str, model: LiveModel, tmp_path: Path) -> None:
    make, more = READ[case]
    path, hooks = make(tmp_path)
    named = case.partition(",")[0]
    for format in (None, named):
        require_equal(model, hooks, steerkit.load_directions(path, format=format, **more))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_ablating_what_refusal_direction_chose_is_its_own_ablation(model: LiveModel, tmp_path: Path) -> None:
    path, ((_, _, chosen),) = refusal_direction(tmp_path)
    unit = chosen / chosen.norm()

    def without(value: Any) -> Any:
        if isinstance(value, tuple):
            return (without(value[0]), *value[1:])
        return value - (value @ unit)[..., None] * unit

    with ExitStack() as stack:
        for layer in range(LAYERS):
            part = model.model.get_submodule(block(layer))
            stack.callback(part.register_forward_pre_hook(lambda _, given: without(given)).remove)
            for name in ("self_attn", "mlp"):
                hook = part.get_submodule(name).register_forward_hook(lambda _, given, value: without(value))
                stack.callback(hook.remove)
        wanted = model.forward(PROMPTS).logits
    (direction,) = steerkit.load_directions(path).values()
    with model.steer(steerkit.ablate(direction)):
        found = model.forward(PROMPTS).logits
    assert float((found - wanted).abs().max()) < 1e-4
    assert float((model.forward(PROMPTS).logits - wanted).abs().max()) > 1e-2


# What is written, read as the tool reads it


def as_refusal_direction(path: Path) -> Hooks:
    layer = json.loads((path / "direction_metadata.json").read_text())["layer"]
    return [("input", block(layer), torch.load(path / "direction.pt", weights_only=True))]


def as_means(path: Path) -> Hooks:
    means = torch.load(path, weights_only=True)
    assert means.shape == (1, LAYERS, TINY_WIDTH)
    return [("input", block(layer), row) for layer, row in enumerate(means[-1])]


def as_caa(path: Path) -> Hooks:
    files = {int(file.name.split("_")[2]): file for file in path.iterdir()}
    assert all(file.name == f"vec_layer_{layer}_llama.pt" for layer, file in files.items())
    return [("output", block(layer), torch.load(file, weights_only=True)) for layer, file in files.items()]


def as_svec(path: Path) -> Hooks:
    held = json.loads(path.read_text())
    assert held["explained_variances"].keys() == held["directions"].keys() and held["model_type"]
    return [("input", block(int(key)), torch.tensor(row)) for key, row in held["directions"].items()]


def as_lm_eval(path: Path) -> Hooks:
    hooks: Hooks = []
    for name, held in torch.load(path, weights_only=True).items():
        assert held["action"] == "add" and held["bias"] is None and held["head_index"] is None
        hooks.append(("output", f"model.{name}", held["steering_vector"] * held["steering_coefficient"]))
    return hooks


def between(layers: range, stream: str) -> Direction:
    return Direction({f"blocks.{k}.{stream}": vector(k)[None] for k in layers}, None, -1, "kind")


MIXED = Direction({**between(range(1), "resid_pre").by_site, **between(range(2), "resid_post").by_site}, name="kind")
"""The inputs of blocks 0 to 2, two of them as outputs of the blocks before."""

WRITTEN: dict[str, tuple[Direction, str, dict[str, Any], Callable[[Path], Hooks]]] = {
    "refusal_direction": (between(range(1, 2), "resid_pre"), "", {}, as_refusal_direction),
    "refusal_direction, of an output": (between(range(1, 2), "resid_post"), "", {}, as_refusal_direction),
    "refusal_direction_means": (between(range(3), "resid_pre"), ".pt", {}, as_means),
    "refusal_direction_means, of outputs": (MIXED, ".pt", {}, as_means),
    "caa": (between(range(3), "resid_post"), "", {"model": "llama"}, as_caa),
    "caa, of inputs": (between(range(1, 3), "resid_pre"), "", {"model": "llama"}, as_caa),
    "svec": (between(range(3), "resid_pre"), ".svec", {"model_type": "llama"}, as_svec),
    "svec, of outputs": (between(range(2), "resid_post"), ".svec", {}, as_svec),
    "lm_eval_steered": (between(range(3), "resid_post"), ".pt", {}, as_lm_eval),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written_steers_in_the_tool_as_here(case: str, model: LiveModel, tmp_path: Path) -> None:
    direction, suffix, options, hooks_of = WRITTEN[case]
    path = tmp_path / f"written{suffix}"
    lost = steerkit.save_directions(path, direction, format=case.partition(",")[0], options=options)
    require_equal(model, hooks_of(path), {"kind": direction})
    assert all(told.endswith(".") for told in lost)


@pytest.mark.parametrize(
    ("format", "direction", "said"),
    [
        (
            "caa",
            between(range(1), "resid_pre"),
            "to the outputs of blocks, and 'kind' has vectors at blocks.0.r",
        ),
        ("caa", between(range(1, 2), "resid_mid"), "vectors at blocks.1.resid_mid. Estimate it there, or bake"),
        ("svec", between(range(1), "mlp_out"), "CAST adds to the inputs of blocks"),
        ("lm_eval_steered", between(range(2), "attn_out"), "written for the outputs of blocks"),
        ("refusal_direction", between(range(2), "resid_pre"), "holds a vector at one site"),
        ("refusal_direction", between(range(1, 2), "resid_pre").replace(positions="all"), "one position from the pro"),
        ("refusal_direction_means", between(range(1, 3), "resid_pre"), "a vector for every block from 0 on"),
    ],
)
def test_what_a_tool_would_put_elsewhere_is_not_written(
    format: str, direction: Direction, said: str, tmp_path: Path
) -> None:
    suffix = {"svec": ".svec", "lm_eval_steered": ".pt", "refusal_direction_means": ".pt"}.get(format, "")
    with pytest.raises(ArtifactError, match=said):
        steerkit.save_directions(tmp_path / f"written{suffix}", direction, format=format)
    assert not list(tmp_path.iterdir())


def test_several_hookpoints_are_told_of_versions_that_mix_them(tmp_path: Path) -> None:
    one = steerkit.save_directions(tmp_path / "1.pt", between(range(1), "resid_post"), format="lm_eval_steered")
    two = steerkit.save_directions(tmp_path / "2.pt", between(range(2), "resid_post"), format="lm_eval_steered")
    assert not any("before 0.4.9.2" in told for told in one) and any("before 0.4.9.2" in told for told in two)
    named = {"hookpoint": "h.{layer}", "coefficient": 2.5}
    path = tmp_path / "3.pt"
    steerkit.save_directions(path, between(range(1), "resid_post"), format="lm_eval_steered", options=named)
    held = torch.load(path, weights_only=True)["h.0"]
    assert held["steering_coefficient"] == 2.5 and torch.equal(held["steering_vector"], vector(0))
