"""What a run would refuse with facts that a check has: lengths, files of directions, models."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ArtifactError, RecipeError
from steerkit.plan import plan_recipe

ENTRY = {"name": "warmth", "sites": ["blocks.1.resid_pre"], "positions": "-1", "provenance": {}}
HEAD = "steerkit.directions"


def saved(
    folder: Path, entries: Any, *, head: str | None = None, version: Any = 2, shape: tuple[int, int] = (1, 32)
) -> None:
    size = 4 * shape[0] * shape[1]
    inner = json.dumps({"schema_version": version, "directions": entries}) if head is None else head
    tensors = {"warmth.vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps({"__metadata__": {HEAD: inner}, **tensors}).encode()
    body = struct.pack("<f", 1.0) * (size // 4)
    (folder / "d.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def told(folder: Path, done: str = "add: {direction: warmth, coefficient: 1}", **more: str) -> list[tuple[str, str]]:
    source, evaluator = more.get("source", "tiny-random:llama"), more.get("evaluator", "max_new_tokens: 8")
    (folder / "r.yaml").write_text(
        f"name: r\nmodel: {{source: '{source}'}}\n"
        f"data: {{probe: {{inline: [{more.get('probe', 'seven, eight')}]}}}}\n"
        "directions: {warmth: {file: d.safetensors}}\n"
        f"conditions: {{c: [{{{done}}}]}}\nevaluate: [{{degeneration: {{data: probe, {evaluator}}}}}]\n",
        "utf-8",
    )
    try:
        plan_recipe(folder / "r.yaml", (), Catalog.discover())
    except RecipeError as error:
        return [(problem.where, problem.message) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entries": []}, "holds no directions: its header lists none"),
        ({"entries": [], "head": "[" * 100_000}, "its header can't be read"),
        ({"entries": [], "head": '{"schema_version": 2, "directions": [' + "[" * 100_000}, "its header can't be read"),
        ({"entries": [], "head": "3"}, "its header can't be read"),
        ({"entries": {"warmth": 1}}, "its header lists no directions"),
        ({"entries": [None]}, "a direction in it can't be read"),
        ({"entries": [{"name": "warmth"}]}, "a direction in it can't be read"),
        ({"entries": [{**ENTRY, "sites": ["there"]}]}, "'there' is not a site"),
        ({"entries": [{**ENTRY, "positions": "there"}]}, "Unknown positions 'there'"),
        ({"entries": [{**ENTRY, "provenance": [1]}]}, "a direction in it can't be read"),
        ({"entries": [{**ENTRY, "name": "other"}]}, "a direction in it can't be read ('other.vectors')"),
        ({"entries": [ENTRY], "version": 0}, "has schema version 0, and this steerkit reads 1 to 2"),
        ({"entries": [ENTRY], "version": 9}, "has schema version 9, and this steerkit reads 1 to 2"),
        ({"entries": [ENTRY], "shape": (0, 32)}, "[0, 32]"),
    ],
)
def test_a_header_that_is_no_header_of_directions(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    saved(tmp_path, **change)
    with pytest.raises(ArtifactError) as caught:
        load_directions(tmp_path / "d.safetensors")
    ((where, message),) = told(tmp_path)
    assert where == "directions.warmth.file"
    assert said in message and said in str(caught.value)


def test_two_directions_of_one_name_are_told(tmp_path: Path) -> None:
    saved(tmp_path, [ENTRY, ENTRY])
    ((_, message),) = told(tmp_path)
    assert "two directions are called 'warmth'" in message


def test_a_direction_of_a_deeper_model_where_its_own_layer_is_meant(tmp_path: Path) -> None:
    saved(tmp_path, [{**ENTRY, "sites": ["blocks.7.resid_pre"]}])
    ((where, message),) = told(tmp_path)
    assert where == "conditions.c.0.add"
    assert "has vectors at blocks.7.resid_pre, and the model has 3 layers, 0 to 2" in message
    assert told(tmp_path, "add: {direction: warmth, coefficient: 1, sites: blocks.1.resid_pre}") == []
    assert told(tmp_path, "ablate: {direction: warmth}") == []  # everywhere, wherever it was made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads 512 tokens, of a byte each, and its template takes some."""
    place = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def test_a_prompt_that_is_longer_than_the_context(tmp_path: Path, folder: Path) -> None:
    saved(tmp_path, [ENTRY])
    long = f"seven, {'x' * 600}"
    ((where, message),) = told(tmp_path, source=str(folder), probe=long)
    assert where == "data.probe"
    assert "and 8 to generate is longer than the model's context of 512: shorten it or leave it out ('xxx" in message


def test_a_prompt_that_leaves_no_room_for_the_answer_that_is_asked_for(tmp_path: Path, folder: Path) -> None:
    """To the token: the run refuses the first number of new tokens that the check refuses, and takes the one below."""
    from steerkit.engine.loading.load import load
    from steerkit.engine.prompts.chat import ChatFormat

    saved(tmp_path, [ENTRY])
    text = "x" * 300
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    room = 512 - len(ChatFormat(tokenizer).render(text).token_ids)
    fits, exceeds = (
        told(tmp_path, source=str(folder), probe=text, evaluator=f"max_new_tokens: {n}") for n in (room, room + 1)
    )
    assert fits == [] and [where for where, _ in exceeds] == ["data.probe"]
    # An evaluator's own default counts as well.
    ((where, message),) = told(tmp_path, source=str(folder), probe="y" * 480, evaluator="name: d")
    assert where in ("data.probe", "evaluate.0.degeneration") and "tokens" in message


def test_revisions_are_for_hub_repositories(tmp_path: Path, folder: Path) -> None:
    saved(tmp_path, [ENTRY])
    for source in (str(folder), "tiny-random:llama", "smollm2-135m-instruct"):
        found = dict(told(tmp_path, source=f"{source}', revision: 'v1"))
        assert "only a hub repository has revisions" in found["model.revision"]
    assert "model.revision" not in dict(told(tmp_path, source="somebody/something', revision: 'v1"))


def test_a_link_that_leads_to_itself_is_no_model(tmp_path: Path) -> None:
    saved(tmp_path, [ENTRY])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    ((where, _),) = told(tmp_path, source=str(tmp_path / "loop"))
    assert where == "model.source"
