"""The reference is what the code says, and everything that it lists has words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import typer
from pydantic import Field

from steerkit.api.hookspecs import Options
from steerkit.catalog import KINDS, describe_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(maker: ModuleType) -> tuple[dict[str, str], list[str]]:
    pages: tuple[dict[str, str], list[str]] = maker.make()
    return pages


def test_it_is_not_stale(made: tuple[dict[str, str], list[str]]) -> None:
    pages, _ = made
    folder = ROOT / "docs" / "reference"
    assert {path.name for path in folder.iterdir()} == set(pages)
    for name, text in pages.items():
        assert (folder / name).read_text("utf-8") == text, f"docs/reference/{name} is stale: run `make reference`"


def test_every_public_name_and_every_option_has_words(made: tuple[dict[str, str], list[str]]) -> None:
    assert made[1] == []


def test_everything_is_in_it(made: tuple[dict[str, str], list[str]]) -> None:
    import steerkit
    from steerkit.cli.main import COMMANDS

    pages, _ = made
    for name in dir(steerkit):
        assert name.startswith("_") or f"## steerkit.{name}\n" in pages["python.md"]
    assert "steerkit.LiveModel.generate(" in pages["python.md"], "methods of what it derives from"
    for command in COMMANDS:
        assert f"## steerkit {command}\n" in pages["commands.md"]
    for text in ("| `--set KEY=VALUE` |", "| `--json` |  | Print JSON. |", "| `NAME` | required |"):
        assert text in pages["commands.md"]
    for kind in KINDS:
        assert f"## {kind.plural.capitalize()}\n" in pages["plugins.md"]
        assert (
            f"### {kind.suite}\n" in pages["plugin-api.md"] and f"### {kind.spec.__name__}\n" in pages["plugin-api.md"]
        )
    for text in ("### add", "| `coefficient` | `float` | `1.0` |"):
        assert text in pages["plugins.md"]
    for text in ("## Gate", "| `prepass` | `bool` | `false` |", "## Tradeoff"):
        assert text in pages["recipe.md"]
    assert "_file` |" not in pages["recipe.md"], "keys that no recipe may have"


class Silent(Options):
    """Options, one of them without a word."""

    told: int = Field(default=1, description="what it is")
    untold: int = 2


class Documented:
    """A class."""

    def said(self) -> None:
        """A word."""

    def unsaid(self) -> None:
        pass

    @property
    def unread(self) -> int:
        return 1


def unsaid(a: int, b: str = "x", *, c: Any = None, **more: int) -> None:
    pass


def command(run: Annotated[str, typer.Argument(help="A run.")], out: Annotated[str, typer.Option()] = "runs") -> None:
    """A command."""


def test_what_lacks_words_is_named(maker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    words = maker.Words()
    for thing in (Documented, unsaid):
        monkeypatch.setattr(thing, "__module__", "steerkit.made_up")
        maker.tell(words, thing.__name__, thing)
    assert words.lacking == ["Documented.unsaid", "Documented.unread", "unsaid"]
    assert "unsaid(a: int, b: str = 'x', *, c: Any = None, **more: int) -> None" in "\n".join(words.lines)
    words = maker.Words()
    rows = [(one.name, one.type, "", one.description) for one in describe_options(Silent)]
    maker.options(words, rows, "estimator silent")
    assert words.lacking == ["estimator silent: untold"]
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    monkeypatch.setattr(sys.modules["made_up"], "command", command, raising=False)
    monkeypatch.setattr("steerkit.cli.main.COMMANDS", {"made-up": "made_up:command"})
    words = maker.Words()
    page = maker.commands_page(words)
    assert words.lacking == ["steerkit made-up: --out OUT"]
    assert "| `RUN` | required | A run. |" in page and "| `--out OUT` | `runs` |  |" in page


def test_checking_says_so_by_its_exit_code(
    maker: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {"a.md": "# A\n"}
    monkeypatch.setattr(maker, "FOLDER", tmp_path / "reference")
    monkeypatch.setattr(maker, "make", lambda: (pages, []))
    assert maker.main(check=True) == 1
    assert "Stale: docs/reference/a.md. Run `make reference`." in capsys.readouterr().err
    assert maker.main(check=False) == 0 and maker.main(check=True) == 0
    monkeypatch.setattr(maker, "make", lambda: (pages, ["a.md: b"]))
    assert maker.main(check=True) == 1 and maker.main(check=False) == 1
    assert "No words: a.md: b" in capsys.readouterr().err


def test_a_docstring_is_told_in_markdown(maker: ModuleType) -> None:
    told = maker.markdown(
        """One ``line`` of <words>.

        Args:
            a: ``x < 1``,
                goes on.
            more: rest.

        Returns:
            a list,
            or none.
        """
    )
    lists = "*Args:*\n\n- `a`: `x < 1`, goes on.\n- `more`: rest.\n\n*Returns:*\n\na list, or none."
    assert told == f"One `line` of &lt;words>.\n\n{lists}"
