"""``steerkit fetch``: what it prints, and how it leaves."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from steerkit import bundled
from steerkit.cli.main import main
from steerkit.engine.loading import fetch as fetching


def steerkit(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return int(leaving.value.code or 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, nobody at the keyboard, and no way to an index."""
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("STEERKIT_ACCEPT_TERMS", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(fetching, "_download", None)
    return tmp_path


def test_a_model_that_is_there_is_named_by_its_folder(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundled.bundled("smollm2-135m-instruct")
    folder = bundled.model_folder(model)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    bundled.write_manifest(folder, model, {})
    assert steerkit("fetch", "smollm2-135m-instruct") == 0
    said = capsys.readouterr()
    assert said.out == f"{folder}\n"
    assert "Apache-2.0" in said.err and "Q4_1" in said.err


def test_terms_are_shown_and_nothing_is_fetched_without_consent(capsys: pytest.CaptureFixture[str]) -> None:
    assert steerkit("fetch", "gemma3-270m") == 2
    said = capsys.readouterr()
    assert "https://ai.google.dev/gemma/terms" in said.err and "--accept-terms" in said.err
    assert said.out == ""


def test_the_flag_is_consent_and_is_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(alias: str, **arguments: object) -> Path:
        asked.append(alias)
        return cache / alias

    monkeypatch.setattr(fetching, "fetch", fetch)
    assert steerkit("fetch", "gemma3-270m", "--accept-terms") == 0
    assert asked == ["gemma3-270m"]
    assert (cache / "terms" / "gemma3-270m.json").is_file()


def test_a_cache_that_cant_be_written_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("STEERKIT_CACHE", str(cache / "file"))
    assert steerkit("fetch", "gemma3-270m", "--accept-terms") == 2
    assert "Set STEERKIT_CACHE" in capsys.readouterr().err


def test_an_unknown_alias_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert steerkit("fetch", "gemma3") == 2
    assert "Did you mean 'gemma3-270m'" in capsys.readouterr().err
