"""``steerkit bake`` as a user meets it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import steerkit
from steerkit.cli.main import main
from tests.baking.common import PLAIN, kept_run


def bake(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["bake", *words])
    code = left.value.code
    return code if isinstance(code, int) else 0


def test_it_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = kept_run("llama", **PLAIN)
    assert bake(str(run), "--condition", "more", "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "logits differ from the hooked model's by at most" in said and "0.001 of the largest logit" in said
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("condition", ["gated", "baseline", "told", "mroe"])
def test_a_refusal_is_words_and_exit_code_2(condition: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = kept_run("llama", **PLAIN)
    assert bake(str(run), "--condition", condition, "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr()
    assert condition in said.err and "Traceback" not in said.err and not said.out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake(str(tmp_path), "--condition", "a", "--out", str(tmp_path / "out")) == 2
    assert "results.json" in capsys.readouterr().err


def test_a_full_disk_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    run = kept_run("llama", **PLAIN)  # made before anything is patched

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    assert bake(str(run), "--condition", "more", "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert "The disk is full (writing model.safetensors)" in said and "Nothing was written." in said
    assert list(tmp_path.iterdir()) == []


def test_the_python_door_is_the_same() -> None:
    from steerkit.baking import Baked, bake

    assert steerkit.bake is bake and steerkit.Baked is Baked
