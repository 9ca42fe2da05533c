"""Requests of other plugins: read by what each plugin does with them, they do what the program does."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.errors import AttachError
from steerkit.exporting.kinds import KINDS
from steerkit.types import Positions, Schedule, Site

MODEL = ProgramModel("llama", 6, 8)
OTHERS = ("vllm-lens", "easysteer", "hotwire-vllm", "vllm-hook")


def vector(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (8,)), generator=torch.Generator().manual_seed(seed))


def adding(layer: int, seed: int = 0, positions: str = "all", **kwargs: Any) -> ProgramUpdate:
    return ProgramUpdate(Site("resid_post", layer), bias=vector(seed), positions=Positions.parse(positions), **kwargs)


def program(*updates: ProgramUpdate, **kwargs: Any) -> Program:
    return Program("kind/warm", MODEL, updates, **kwargs)


def written(kind: str, *updates: ProgramUpdate) -> Any:
    found = KINDS[kind].write(program(*updates)).content
    return torch.load(io.BytesIO(found), weights_only=True) if KINDS[kind].suffix.endswith(".pt") else json.loads(found)


def decoded(told: dict[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(b64decode(told["data"])), dtype=torch.float32).reshape(told["shape"])


def test_vllm_lens_adds_the_sum_at_each_layer() -> None:
    told = written("vllm-lens", adding(4, 1), adding(1, 2), adding(4, 3))
    (one,) = json.loads(told["vllm_xargs"]["apply_steering_vectors"])
    assert (one["layer_indices"], one["scale"], one["norm_match"], one["position_indices"]) == (
        [1, 4],
        1.0,
        False,
        None,
    )
    assert one["activations"]["dtype"] == "float32" and "compression" not in one["activations"]
    torch.testing.assert_close(decoded(one["activations"]), torch.stack([vector(2), vector(1) + vector(3)]))
    assert told["cache_salt"] != written("vllm-lens", adding(4, 2))["cache_salt"]


def test_hotwire_has_a_row_for_each_layer_and_says_what_to_send() -> None:
    made = KINDS["hotwire-vllm"].write(program(adding(4, 1, "generated"), adding(2, 2, "generated")))
    rows = torch.load(io.BytesIO(made.content), weights_only=True)
    assert rows.shape == (6, 8) and not rows[[0, 1, 3, 5]].any()
    assert torch.equal(rows[4], vector(1)) and torch.equal(rows[2], vector(2))
    sent = json.loads(json.loads(made.lost[0].split("vllm_xargs = ")[1].rstrip("."))["hotwire"])
    assert sent == [{"id": "kind-warm", "layer": layer, "scale": 1.0, "decode_only": True} for layer in (2, 4)]
    assert (
        "kind-warm.pt" in made.lost[0] and "decode_only" not in KINDS["hotwire-vllm"].write(program(adding(1))).lost[0]
    )


def test_vllm_hook_has_one_vector_at_one_layer() -> None:
    made = KINDS["vllm-hook"].write(program(adding(3, 1), adding(3, 2)))
    torch.testing.assert_close(torch.load(io.BytesIO(made.content), weights_only=True)["dir"], vector(1) + vector(2))
    config = json.loads(made.lost[0].split("configuration: ")[1].rstrip("."))["steering"]
    assert config["optimal_layer"] == 3 and config["method"] == "add_vector" and config["coefficient"] == 1.0
    with pytest.raises(AttachError, match="blocks 1, 3, and vLLM-Hook steers one block"):
        KINDS["vllm-hook"].write(program(adding(1), adding(3)))


def carried_out(told: Any, x: Tensor, layer: int) -> Tensor:
    """What EasySteer's algorithms do with the vectors of a layer, one after the other."""
    assert told["steering"]["conflict"] == "sequential"
    for one in told["steering"]["vectors"]:
        parts = {name: decoded(part) for name, part in one["data"]["tensors"].items()}
        if one["layers"] != [layer]:
            continue
        if one["algorithm"] == "direct":
            x = x + parts[f"layer.{layer}"]
        else:
            x = x + x @ parts["projector1"] @ parts["projector2"].T
    return x


def test_easysteer_does_what_the_program_does() -> None:
    low = ProgramUpdate(Site("resid_post", 2), vector(1, 3, 8), vector(2, 3, 8), vector(3))
    told = written("easysteer", adding(2, 4), low, adding(5, 5))
    x = vector(9, 4, 8)
    expected = x + vector(4)
    expected = expected + expected @ vector(1, 3, 8).T @ vector(2, 3, 8) + vector(3)
    torch.testing.assert_close(carried_out(told, x, 2), expected)
    torch.testing.assert_close(carried_out(told, x, 5), x + vector(5))
    assert KINDS["easysteer"].write(program(low)).lost[0].endswith("--steer-algorithms direct lm_steer.")


def test_easysteer_is_told_the_hash_that_its_payloads_have() -> None:
    told = written("easysteer", adding(2, 4))["steering"]["vectors"][0]["data"]
    content = b"direction:1" + b"layer.2" + b"(8,)" + vector(4).numpy().tobytes()
    assert told["sha256"] == sha256(content).hexdigest()
    assert (told["version"], told["kind"], told["extra"]) == (1, "direction", {})


@pytest.mark.parametrize(
    ("positions", "clause"),
    [
        ("all", {"prompt": "all", "generation": "all"}),
        ("generated", {"generation": "all"}),
        ("generated[:4]", {"generation_window": [0, 4]}),
        ("generated[2]", {"generation_positions": [2]}),
        ("prompt", {"prompt": "all"}),
        ("last", {"prompt_positions": [-1]}),
        ("-5:", {"prompt_window": [-5, None]}),
    ],
)
def test_easysteers_clauses_name_the_same_tokens(positions: str, clause: dict[str, Any]) -> None:
    assert written("easysteer", adding(2, 4, positions))["steering"]["vectors"][0]["apply"] == clause


@pytest.mark.parametrize("kind", OTHERS)
def test_what_has_no_place_is_refused_in_words(kind: str) -> None:
    monitor = ProgramMonitor("m", {Site("resid_post", 2): torch.eye(8)[0]}, 0.0)
    refused = {
        "outputs of blocks": program(ProgramUpdate(Site("attn_out", 1), bias=vector(1))),
        "changes along the answer": program(adding(1, schedule=Schedule.parse("linear(1, 0, 4)"))),
        "monitors": program(adding(1), monitors=(monitor,)),
        "system prompt": program(adding(1), system_prompt="Be warm."),
        r"acts at user\[-1\]": program(adding(1, positions="user[-1]")),
    }
    for why, one in refused.items():
        with pytest.raises(AttachError, match=why):
            KINDS[kind].write(one)
    if kind != "easysteer":
        low = ProgramUpdate(Site("resid_post", 2), vector(1, 1, 8), vector(2, 1, 8))
        with pytest.raises(AttachError, match="only adds"):
            KINDS[kind].write(program(low))
        with pytest.raises(AttachError, match="prompt"):
            KINDS[kind].write(program(adding(1, positions="prompt")))
        with pytest.raises(AttachError, match=r"can act at all|same tokens"):
            KINDS[kind].write(program(adding(1), adding(2, positions="generated")))
