"""``steerkit inspect``: tables for people, JSON for programs, and exit codes for both."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.cli.inspect import site_rows
from steerkit.cli.main import main
from steerkit.errors import UnsupportedModelError
from steerkit_architectures._llama import LlamaAdapter
from tests.architectures.conftest import built


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *arguments])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


def test_json_of_a_model_that_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "tiny-random:gemma2", "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (found["adapter"], found["model_type"], found["passed"]) == ("gemma", "gemma2", True)
    assert all(check["passed"] and check["name"] for check in found["checks"])
    errors = {check["name"]: check["max_abs_error"] for check in found["checks"]}
    assert errors["block_sum"] is not None and errors["modules"] is None
    added = {"site": "blocks.1.attn_out", "module": "model.layers.1.post_attention_layernorm", "side": "output"}
    assert added in found["sites"]


def test_tables_of_a_model_that_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "tiny-random:llama")
    assert code == 0
    assert "blocks.0-2.attn_out" in out and "model.layers.0-2.self_attn.o_proj" in out
    assert "block_sum" in out and "Passed" in out and "FAILED" not in out


def test_the_wrong_adapter_is_refused_with_site_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "tiny-random:gemma2", "--adapter", "llama", "--json")
    found = json.loads(out)
    assert code == 3
    assert found["passed"] is False and found["adapter"] == "llama"
    assert next(check["name"] for check in found["checks"] if not check["passed"]) == "block_sum"
    assert "blocks.0.resid_post" in err and "Error" in err and "Traceback" not in err


def test_a_failed_check_is_marked_in_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "tiny-random:gemma2", "--adapter", "llama")
    assert code == 3 and "FAILED" in out and "Passed" not in out


def test_what_is_red_has_failed_whatever_its_words() -> None:
    from io import StringIO

    from rich.console import Console

    from steerkit.cli.inspect import _check_row, _table
    from steerkit.engine.sites.checks import Check

    def printed(passed: bool, name: str) -> str:
        console = Console(file=StringIO(), force_terminal=True, color_system="standard", width=200)
        check = Check(name, "what holds", passed)
        _table(console, "self-test", ("check", "", "error", "allowed", "says"), [_check_row(check)])
        file = console.file
        assert isinstance(file, StringIO)
        return file.getvalue()

    red = "\x1b[31m"
    assert f"{red}FAILED" in printed(False, "block_sum")
    assert red not in printed(True, "FAILED")


def test_a_model_that_no_adapter_claims(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    # With a fallback every model is claimed.
    families = Catalog.discover(disabled=("architectures.auto",))
    monkeypatch.setattr("steerkit.session.models.installed", lambda: families)
    config = AutoConfig.for_model("gpt2", vocab_size=288, n_embd=16, n_layer=2, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    code, out, err = run(capsys, str(tmp_path), "--json")
    assert code == 3
    assert "'gpt2'" in err and "plugins/template" in err and "ArchitectureSuite" in err
    assert json.loads(out)["passed"] is False and "gpt2" in json.loads(out)["reason"]
    assert json.loads(out)["model_type"] == "gpt2"
    code, out, _ = run(capsys, str(tmp_path), "--adapter", "llama", "--json")
    assert (code, json.loads(out)["model_type"]) == (3, "gpt2"), "an adapter that doesn't find its modules"


def test_a_refusal_shows_where_in_a_pass_it_was_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, model: Any) -> Any:
        where: dict[str, Any] = {"operation": "aten.mul", "module": "model.layers.1", "layer": 1}
        raise UnsupportedModelError("The stream is no sum.", cause="a factor by column", **where)

    monkeypatch.setattr(LlamaAdapter, "layout", refuse)
    code, out, err = run(capsys, "tiny-random:llama")
    assert code == 3 and "The stream is no sum." in err
    shown = [line.split() for line in out.splitlines()]
    for row in (["cause", "a", "factor", "by", "column"], ["operation", "aten.mul"], ["block", "1"]):
        assert row in shown
    found = json.loads(run(capsys, "tiny-random:llama", "--json")[1])
    assert (found["operation"], found["module"], found["layer"]) == ("aten.mul", "model.layers.1", 1)


def test_layers_that_differ_have_rows_of_their_own() -> None:
    _, layout = built("qwen3_next")
    rows = {name: (width, where, folding) for name, width, where, folding in site_rows(layout)}
    assert rows["embed"] == ("32", "output of model.embed_tokens", "model.embed_tokens")
    assert rows["blocks.0,2.head_out"] == ("64", "input of model.layers.0,2.self_attn.o_proj", "")
    assert rows["blocks.1.head_out"] == ("48", "input of model.layers.1.linear_attn.out_proj", "")
    assert rows["blocks.0.mlp_out"][2] == "model.layers.0.mlp.down_proj"
    experts = "model.layers.1-2.mlp.experts.down_proj, model.layers.1-2.mlp.shared_expert.down_proj"
    assert rows["blocks.1-2.mlp_out"][2] == f"{experts} (what is linear)"
    assert list(rows)[-1] == "blocks.0-2.resid_post"
