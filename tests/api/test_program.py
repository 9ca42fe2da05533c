"""Programs: what they may be, what they are known by, and the bytes that they are kept as."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.api.program_bytes import HEADER, program_from_bytes, program_to_bytes, read_program
from steerkit.errors import ArtifactError
from steerkit.types import Site
from tests.api.programs import LAYERS, MODEL, WIDTH, program, unit, update, vector

POST = Site.parse("blocks.1.resid_post")


def header_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
    return found


def changed(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> bytes:
    data = program_to_bytes(program())
    header, tensors = header_of(data), load(data)
    change(header, tensors)
    return save(tensors, metadata={HEADER: json.dumps(header)})


def same(one: Program, other: Program) -> bool:
    parts = list(zip(one.tensors(), other.tensors(), strict=True))
    return all(name == again and value.equal(read) for (name, value), (again, read) in parts) and [
        (item.site, item.positions, item.schedule) for item in one.updates
    ] == [(item.site, item.positions, item.schedule) for item in other.updates]


def test_what_is_written_is_read() -> None:
    one = program(system_prompt="Be warm.")
    again = program_from_bytes(program_to_bytes(one))
    assert same(one, again)
    assert (again.name, again.model, again.system_prompt) == ("warm", MODEL, "Be warm.")
    assert (again.monitors[0].side, again.monitors[0].threshold) == ("below", 0.5)
    assert program_to_bytes(again) == program_to_bytes(one)


def test_a_tensor_that_stands_at_many_places_is_kept_once() -> None:
    shared = vector(1, 1, WIDTH)
    sites = ["embed", *(f"blocks.{layer}.{stream}" for layer in range(3) for stream in ("attn_out", "mlp_out"))]
    # Equal values are one, whether or not they are one object.
    updates = tuple(ProgramUpdate(Site.parse(site), shared.clone(), -shared) for site in sites)
    data = program_to_bytes(Program("once", MODEL, updates))
    assert len(load(data)) == 2
    read = program_from_bytes(data)
    assert len({id(one.reads) for one in read.updates}) == 1


def test_it_is_known_by_what_it_does_and_not_by_its_name() -> None:
    one = program()
    assert one.digest == program(name="other").digest == program_from_bytes(program_to_bytes(one)).digest
    assert one.digest == program(model=replace(MODEL, source="elsewhere")).digest
    others = [
        program(updates=one.updates[:-1]),
        program(updates=(*one.updates[:-1], update("blocks.1.resid_post", 3, positions="generated[:3]"))),
        program(updates=(*one.updates[:-1], replace(one.updates[-1], positions=one.updates[0].positions))),
        program(monitors=()),
        program(monitors=(replace(one.monitors[0], threshold=0.6),)),
        program(system_prompt="Be warm."),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == len(others) + 1


def test_what_it_says_of_itself() -> None:
    one = program()
    assert [str(site) for site in one.sites] == ["embed", "blocks.0.mlp_out", "blocks.1.resid_post"]
    assert one.read_at == (POST,) and len(one.at(POST)) == 1 and one.updates[0].rank == 2
    assert not one.is_everywhere and not one.is_constant
    assert program(updates=one.updates[:2]).is_everywhere
    assert program(updates=(ProgramUpdate(POST, bias=vector(1)),)).is_constant


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name"),
        ({"model": ProgramModel("llama", 0, WIDTH)}, "blocks"),
        ({"model": ProgramModel("llama", LAYERS, WIDTH + 1)}, "shape"),
        ({"model": ProgramModel("llama", 1, WIDTH)}, "isn't there"),
        ({"updates": (ProgramUpdate(POST, vector(1, 1, WIDTH)),)}, "reads without writes"),
        ({"updates": (ProgramUpdate(POST),)}, "does nothing"),
        ({"updates": (ProgramUpdate(POST, vector(1, 2, WIDTH), vector(2, 1, WIDTH)),)}, "as many"),
        ({"updates": (ProgramUpdate(POST, bias=vector(1, WIDTH - 1)),)}, "shape"),
        ({"updates": (ProgramUpdate(POST, bias=vector(1, 1, WIDTH)),)}, "shape"),
        ({"updates": (ProgramUpdate(POST, bias=vector(1).double()),)}, "float32"),
        ({"updates": (ProgramUpdate(POST, bias=vector(1) / 0),)}, "NaN or infinite"),
        ({"updates": (ProgramUpdate(Site.parse("blocks.1.resid_pre"), bias=vector(1)),)}, "blocks.0.resid_post"),
        ({"updates": (ProgramUpdate(Site.parse("blocks.1.head_out[2]"), bias=vector(1)),)}, "heads"),
        ({"monitors": (ProgramMonitor("a", {POST: vector(1) * 3}, 0.0),)}, "norm"),
        ({"monitors": (ProgramMonitor("a", {}, 0.0),)}, "reads nowhere"),
        ({"monitors": (ProgramMonitor("a", {POST: unit(1)}, float("nan")),)}, "finite threshold"),
        ({"monitors": (ProgramMonitor("a", {POST: unit(1)}, 0.0),) * 2}, "called 'a'"),
    ],
)
def test_what_is_no_program(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        program(**changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header, tensors: header.update(version=2), "version 2"),
        (lambda header, tensors: header.update(version=True), "version True"),
        (lambda header, tensors: header.pop("version"), "version None"),
        (lambda header, tensors: header.update(more=1), "more"),
        (lambda header, tensors: header["updates"][0].update(gate="a"), "gate"),
        (lambda header, tensors: header["updates"][0].pop("positions"), "positions"),
        (lambda header, tensors: header["updates"][0].update(positions="nowhere"), "Unknown positions"),
        (lambda header, tensors: header["updates"][0].update(schedule="slowly"), "schedule"),
        (lambda header, tensors: header["updates"][0].update(reads="t9999"), "missing"),
        (lambda header, tensors: header["updates"][0].update(site="blocks.9.mlp_out"), "isn't there"),
        (lambda header, tensors: header["monitors"][0].update(threshold="high"), "threshold"),
        (lambda header, tensors: header["model"].update(d_model=9), "shape"),
        (lambda header, tensors: header["model"].update(d_model=8.0), "d_model"),
        (lambda header, tensors: tensors.update(more=torch.zeros(8)), "nothing in it uses"),
        (lambda header, tensors: tensors["t0000"].fill_(float("nan")), "NaN"),
        (lambda header, tensors: tensors.update(t0000=tensors["t0000"].half()), "float32"),
    ],
)
def test_what_is_read_is_held_to_it(
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object], says: str
) -> None:
    with pytest.raises(ArtifactError, match=says):
        program_from_bytes(changed(change))


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    for data, says in (
        (b"", "no whole safetensors file"),
        (program_to_bytes(program())[:-5], "no whole safetensors file"),
        (save({"a": torch.zeros(2)}), "no program"),
        (save({"a": torch.zeros(2)}, metadata={HEADER: "[1]"}), "version None"),
        (save({"a": torch.zeros(2)}, metadata={HEADER: '{"version": 1, "version": 1}'}), "there twice"),
    ):
        (tmp_path / "it").write_bytes(data)
        with pytest.raises(ArtifactError, match=says):
            read_program(tmp_path / "it")
    with pytest.raises(ArtifactError, match="steerkit export"):
        read_program(tmp_path / "none")
