"""What a plan says of where its model goes: contradictions, a quantiser's options, and what isn't installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from steerkit.cli.check import _here
from steerkit.engine.loading import quantising
from tests.plan.conftest import RECIPE, Planner, Problems


def told(problems: Problems, **model: Any) -> list[tuple[str, str]]:
    import json

    settings = [f"model.{key}={json.dumps(value)}" for key, value in model.items()]
    return [(where, message) for _, where, message in problems(RECIPE, *settings)]


DISK = {"": "cpu", "model.layers.1": "disk"}


@pytest.mark.parametrize(
    ("model", "key", "said"),
    [
        ({"device_map": "auto", "device": "cpu"}, "device", "remove device, or device_map"),
        ({"device_map": "auto", "tensor_parallel": 2}, "device_map", "on a device of its own; remove device_map"),
        ({"tensor_parallel": 2, "device": "cuda:1"}, "device", "write device: cuda"),
        ({"offload_folder": "here"}, "offload_folder", "add device_map: auto, or remove it"),
        ({"offload_folder": "here", "device_map": {"": "cpu"}}, "offload_folder", "write disk for a module"),
        ({"offload_folder": "a\0b", "device_map": DISK}, "offload_folder", "can't be a path"),
        ({"quantization": {"method": "quanto", "weight": "int4"}}, "quantization", "Did you mean 'weights'?"),
        ({"quantization": {"method": "gptq", "bit": 4}}, "quantization", "Did you mean 'bits'?"),
    ],
)
def test_what_contradicts_itself_is_told_once(problems: Problems, model: Any, key: str, said: str) -> None:
    ((where, message),) = told(problems, **model)
    assert f"model.{key}" in where and said in message


def test_what_follows_from_a_map_that_is_none_is_not_told(problems: Problems) -> None:
    ((where, _),) = told(problems, device_map={"": "gpu"}, offload_folder="here")
    assert "model.device_map" in where


def test_where_weights_go_is_part_of_what_is_loaded_and_where_they_are_kept_of_no_hash(plan: Planner) -> None:
    placed = [plan(RECIPE, 'model.device_map={"": disk}', f"model.offload_folder={name}") for name in ("a", "b")]
    assert placed[0].loading.placement.device_map == {"": "disk"}
    assert str(placed[0].loading.placement.offload_folder).endswith("/a")
    assert placed[0].hash == placed[1].hash != plan(RECIPE).hash


def test_a_package_that_is_not_here_is_a_note_and_its_options_are_known_by_name(
    plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(quantising, "version", lacking)
    found = plan(RECIPE, "model.quantization={method: bitsandbytes, load_in_4bit: true}")
    (note,) = (one for one in _here(found) if "quantization" in one)
    assert note.endswith("pip install bitsandbytes.")
