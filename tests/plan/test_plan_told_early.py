"""What a run would only meet when the model is loaded, told by the plan: broken files, templates, sizes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerkit.api.direction import Direction
from steerkit.api.format import Format
from steerkit.api.hookspecs import FormatSpec
from steerkit.artifacts.directions import load_directions, save_directions
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, RecipeError
from steerkit.plan import plan_recipe
from steerkit.plan.files import directions_fault
from steerkit.types import Site

RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4], split: {train: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4], split: {train: 2, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions: {added: [{add: {direction: warmth}}]}
evaluate: [{refusal_score: {data: warm.test, tokens: [x]}}]
"""
ESTIMATED = "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}"


def told(folder: Path, text: str) -> list[tuple[str, str]]:
    """Where the plan finds problems, and which."""
    (folder / "r.yaml").write_text(text, "utf-8")
    try:
        plan_recipe(folder / "r.yaml", (), Catalog.discover())
    except RecipeError as error:
        return [(one.where, one.message) for one in error.problems]
    return []


def saved(folder: Path, value: bytes, dtype: torch.dtype = torch.float32) -> Path:
    """A file of directions whose numbers are all overwritten by one."""
    path = folder / "saved.safetensors"
    save_directions(path, [Direction(torch.ones(1, 32, dtype=dtype), Site("resid_pre", 1), -1, "warmth")])
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    path.write_bytes(content[:start] + value * ((len(content) - start) // len(value)))
    return path


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<f", float("nan")), "warmth.vectors in"),
        (struct.pack("<f", float("-inf")), "holds NaN or infinite values, which are no direction: estimate it again"),
        (struct.pack("<f", 0.0), "is zero, which is no direction: estimate it again"),
        (struct.pack("<f", -0.0), "is zero, which is no direction: estimate it again"),
        (struct.pack("<f", 3e38), ""),
        (struct.pack("<f", 1e-45), ""),
    ],
)
def test_vectors_that_are_no_direction(tmp_path: Path, value: bytes, message: str) -> None:
    saved(tmp_path, value)
    found = told(tmp_path, RECIPE.replace(ESTIMATED, "{file: saved.safetensors}"))
    assert [where for where, _ in found] == (["directions.warmth.file"] if message else [])
    assert all(message in one for _, one in found)


F32, F64 = torch.float32, torch.float64
ONES = {"warmth.vectors": torch.ones(1, 32)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"warmth.vectors": torch.full((1, 32), 1e300, dtype=F64)}, "warmth.vectors in"),
        ({"warmth.vectors": torch.zeros(1, 32, dtype=torch.int32)}, "is zero, which is no direction"),
        ({"warmth.vectors": torch.zeros(1, 32, dtype=torch.bool)}, "is zero, which is no direction"),
        ({**ONES, "warmth.reference_mean": torch.ones(32, dtype=torch.complex64)}, "reference_mean is of complex numb"),
        ({**ONES, "warmth.reference_mean": torch.ones(7)}, "warmth.reference_mean has shape [7], and the vectors have"),
        ({**ONES, "warmth.reference_mean": torch.ones(32)}, ""),
        ({"warmth.vectors": torch.full((1, 32), 2, dtype=torch.int8)}, ""),
        ({"warmth.vectors": torch.ones(1, 32).to(torch.float8_e4m3fn)}, ""),
    ],
)
def test_what_reading_would_refuse_is_told(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    path = saved(tmp_path, struct.pack("<f", 1.0))
    with safe_open(path, framework="pt") as held:
        metadata = held.metadata()
    save_file(tensors, path, metadata=metadata)
    found = told(tmp_path, RECIPE.replace(ESTIMATED, "{file: saved.safetensors}"))
    assert len(found) == bool(message) and all(message in one for _, one in found)
    if not message:
        assert load_directions(path)["warmth"].vectors.dtype in (F32, F64)
    elif "zero" not in message:
        with pytest.raises(ArtifactError):
            load_directions(path)


def test_a_file_of_directions_that_is_cut_off(tmp_path: Path) -> None:
    path = saved(tmp_path, struct.pack("<f", 1.0))
    text = RECIPE.replace(ESTIMATED, "{file: saved.safetensors}")
    assert told(tmp_path, text) == []
    path.write_bytes(path.read_bytes()[:-1])
    ((where, message),) = told(tmp_path, text)
    assert where == "directions.warmth.file" and "is cut off: get a whole copy" in message


def test_a_reference_mean_of_another_width(tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    save_directions(path, [Direction(torch.ones(1, 32), Site("resid_pre", 1), -1, "warmth", torch.ones(32))])
    length, whole = struct.unpack("<Q", path.read_bytes()[:8])[0], path.read_bytes()
    header = json.loads(whole[8 : 8 + length])
    header["warmth.reference_mean"]["shape"] = [2, 16]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    said = "warmth.reference_mean has shape [2, 16], and the vectors have [1, 32]; the two are of one width"
    ((where, message),) = told(tmp_path, RECIPE.replace(ESTIMATED, "{file: saved.safetensors}"))
    assert where == "directions.warmth.file" and said in message
    with pytest.raises(ArtifactError, match="the two are of one width"):
        load_directions(path)
    for broken in (None, 3, {"shape": 3}):
        text = json.dumps({**header, "warmth.reference_mean": broken}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        ((_, message),) = told(tmp_path, RECIPE.replace(ESTIMATED, "{file: saved.safetensors}"))
        assert "warmth.reference_mean has no shape" in message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "shows no message"),
        ("User: what?", "shows no message"),
        ("{{ nothing }}", "makes an empty text of a question"),
        ("{{ messages[5].content }}", "can't render a question: list object has no element 5"),
        ("{{ raise_exception('Only two turns.') }}", "can't render a question: Only two turns"),
        ("{{ 1 // 0 }}", "raised ZeroDivisionError: integer division or modulo by zero"),
        ("{% for one in range(10**9) %}{% endfor %}", "raised OverflowError: Range too big."),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "it calls itself without end"),
        ("{{ bos_token + messages[-1].content }}", ""),
        ("{{ messages[-1].content + tone }}", ""),
        ("{% generation %}{{ messages[-1].content }}{% endgeneration %}", ""),
    ],
)
def test_a_template_that_renders_nothing(tmp_path: Path, template: str, message: str) -> None:
    (tmp_path / "t.jinja").write_text(template, "utf-8")
    chosen = "float32, chat_template: {file: t.jinja}, chat_template_arguments: {tone: kind}"
    found = told(tmp_path, RECIPE.replace("float32", chosen))
    assert [where for where, _ in found] == (["model.chat_template.file"] if message else [])
    assert all(message in one for _, one in found)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("blocks.1.resid_pre}", "blocks.1.resid_pre, positions: post_instruction}", "directions.warmth.positions"),
        ("add: {direction: warmth}", "add: {direction: warmth, positions: post_instruction}", "conditions.added.0.add"),
        ("blocks.1.resid_pre}", "blocks.1.resid_pre, positions: instruction}", ""),
    ],
)
def test_positions_of_a_template_that_there_is_not(tmp_path: Path, before: str, after: str, where: str) -> None:
    text = RECIPE.replace(before, after)
    assert told(tmp_path, text) == []
    found = told(tmp_path, text.replace("float32", "float32, chat_template: none"))
    assert len(found) == bool(where)
    for at, message in found:
        assert at.startswith(where)
        assert message.startswith("'post_instruction' are a chat template's tokens, and model.chat_template is none")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = RECIPE.replace('"tiny-random:llama"', json.dumps(str(tmp_path / "model")))
    ((where, message),) = told(tmp_path, text)
    assert where == "model.source" and message.endswith("is no folder of a model: there is no config.json in it")


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        (
            "refusal_score: {data: warm.test, tokens: [x]}",
            "refusal_rate: {data: warm.test, max_new_tokens: N}",
            "evaluate.0",
        ),
        ("conditions:", "report: {samples: {data: warm.test, n: 2, max_new_tokens: N}}\nconditions:", "report.samples"),
        ("data:\n", "data:\n  said: {completions: {of: warm, max_new_tokens: N}}\n", "data.said.completions"),
    ],
)
def test_answers_that_are_longer_than_the_context(tmp_path: Path, before: str, after: str, where: str) -> None:
    (tmp_path / "model").mkdir()
    config = {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 32, "max_position_embeddings": 64}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), "utf-8")
    text = RECIPE.replace('"tiny-random:llama"', json.dumps(str(tmp_path / "model"))).replace(before, after)
    assert told(tmp_path, text.replace("N", "63")) == []
    ((at, message),) = told(tmp_path, text.replace("N", "64"))
    assert at.startswith(where) and message.startswith("64 new tokens leave no room for a prompt")


@pytest.mark.parametrize("token", ["-1", "''"])
def test_what_is_no_token(tmp_path: Path, token: str) -> None:
    ((where, message),) = told(tmp_path, RECIPE.replace("[x]", f"[x, {token}]"))
    assert where == "evaluate.0.refusal_score.tokens" and f"{token} is no token" in message


def test_a_probe_of_one_example(tmp_path: Path) -> None:
    text = RECIPE.replace("mean_difference", "logistic_probe")
    assert told(tmp_path, text) == []
    ((where, message),) = told(tmp_path, text.replace("c3, c4], split: {train: 2", "c3, c4], split: {train: 1"))
    assert where == "directions.warmth.estimator"
    assert message == "the negative class has 1 example, and logistic_probe needs at least two"


def several(folder: Path, zeros: str, value: float = 0.0) -> None:
    """A file of a direction at one site and one at two sites; the numbers of one tensor are overwritten."""
    path = folder / "saved.safetensors"
    sites = (Site("resid_pre", 1), Site("resid_pre", 2))
    held = Direction({site: torch.ones(1, 32) for site in sites}, None, -1, "other")
    save_directions(path, [Direction(torch.ones(1, 32), sites[0], -1, "warmth"), held])
    content = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    first, last = json.loads(content[8:start])[zeros]["data_offsets"]
    content[start + first : start + last] = struct.pack("<f", value) * ((last - first) // 4)
    path.write_bytes(content)


@pytest.mark.parametrize("format", ["", ", format: steerkit"])
@pytest.mark.parametrize(
    ("used", "zeros", "refused"),
    [
        ("warmth", "warmth.vectors", True),
        ("warmth", "other.vectors@blocks.2.resid_pre", False),
        ("other", "other.vectors@blocks.2.resid_pre", True),
        ("other", "warmth.vectors", False),
    ],
)
def test_only_the_direction_that_is_used_must_not_be_zero(
    tmp_path: Path, used: str, zeros: str, refused: bool, format: str
) -> None:
    several(tmp_path, zeros)
    text = RECIPE.replace(ESTIMATED, f"{{file: saved.safetensors{format}}}").replace("warmth", used)
    text = text.replace("added: [{add: {", "added: [{add: {sites: [blocks.1.resid_pre], ")
    found = told(tmp_path, text)
    assert [where for where, _ in found] == ([f"directions.{used}.file"] if refused else [])
    assert all(message.startswith(f"{zeros} in ") and "is zero" in message for _, message in found)


def test_of_several_directions_one_is_named(tmp_path: Path) -> None:
    several(tmp_path, "warmth.vectors", value=1.0)
    text = RECIPE.replace(ESTIMATED, "{file: saved.safetensors}")
    assert told(tmp_path, text) == []
    ((where, message),) = told(tmp_path, text.replace("warmth", "heat"))
    assert where == "directions.heat.file" and "holds warmth, other, and none is called 'heat'" in message


def test_reading_refuses_a_file_for_any_number_that_is_not_finite(tmp_path: Path) -> None:
    several(tmp_path, "other.vectors@blocks.2.resid_pre", value=float("nan"))
    ((where, message),) = told(tmp_path, RECIPE.replace(ESTIMATED, "{file: saved.safetensors}"))
    assert where == "directions.warmth.file" and "other.vectors@blocks.2.resid_pre in" in message
    with pytest.raises(ArtifactError, match=r"other\.vectors@blocks\.2\.resid_pre holds NaN"):
        load_directions(tmp_path / "saved.safetensors")


class Foreign(Format):
    """Takes any file for one of its own, and finds nothing wrong."""

    def sniff(self, path: Path) -> bool:
        return path.is_file()


def test_a_file_of_another_format_is_left_to_it(tmp_path: Path) -> None:
    saved(tmp_path, struct.pack("<f", 0.0))
    path, spec = tmp_path / "saved.safetensors", FormatSpec("foreign", "Anything.", f"{__name__}:Foreign")
    for named in (True, False):
        assert directions_fault(path, spec, spec.options(), "warmth", named=named) is None
    ours = Catalog.discover().get("format", "steerkit")
    assert "is zero" in (directions_fault(path, ours, ours.options(), "warmth", named=False) or "")


def test_questions_to_a_judge_are_counted_where_it_asks_them(tmp_path: Path) -> None:
    judge = 'judge: {data: [warm.test, cold.test], max_new_tokens: 2, endpoint: "http://127.0.0.1:9/v1", model: m'
    conditions = "added: [{add: {direction: warmth}}], prompted: {system_prompt: Be warm.}"
    text = RECIPE.replace("added: [{add: {direction: warmth}}]", conditions) + "control: {random_directions: 5}\n"
    for control, asked in (("", 16), (", control: cold.test", 11), (", control: false", 6)):
        (tmp_path / "r.yaml").write_text(
            text.replace("refusal_score: {data: warm.test, tokens: [x]}", f"{judge}, max_calls: 7{control}}}"), "utf-8"
        )
        (said,) = [one for one in plan_recipe(tmp_path / "r.yaml", (), Catalog.discover()).notes if "outside" in one]
        assert f"at most 7 questions for a data set under a condition, {7 * asked} in all." in said
    text = (tmp_path / "r.yaml").read_text("utf-8").replace("max_calls: 7", "max_calls: 7, token_budget: 900")
    (tmp_path / "r.yaml").write_text(text, "utf-8")
    (said,) = [one for one in plan_recipe(tmp_path / "r.yaml", (), Catalog.discover()).notes if "outside" in one]
    assert "42 in all, and of about 900 tokens with their answers (5400 in all)" in said
