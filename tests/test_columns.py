"""Tables in a terminal: nothing is wider than it, and no name is broken within its pieces."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import steerkit
from steerkit.columns import console, fit, pieces, print_table, share, table_text, wrap

COLUMNS = ("site", "width", "read and written at")
ROWS = [
    ("blocks.0-29.resid_pre", "576", "input of model.layers.0-29"),
    ("blocks.0-29.attn_out", "576", "output of model.layers.0-29.post_attention_layernorm"),
]


def printed(width: int, *rows: tuple[str | Text, ...], columns: tuple[str, ...] = COLUMNS) -> list[str]:
    file = io.StringIO()
    print_table(Console(file=file, width=width, highlight=False), "sites", columns, rows)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("blocks.0-29.resid_pre", ["blocks.0-29.", "resid_pre"]),
        ("blocks.[0.25-0.75].resid_post", ["blocks.[0.25-0.75].", "resid_post"]),
        ("blocks.3.head_out[5]", ["blocks.3.", "head_out", "[5]"]),
        ("blocks.*.resid_pre", ["blocks.*.", "resid_pre"]),
        ("dose[coefficient=-0.25]/random-1", ["dose", "[coefficient=-0.25]", "/random-1"]),
        ("model.layers.0-2.self_attn.o_proj", ["model.", "layers.0-2.", "self_attn.", "o_proj"]),
        ("post_feedforward_layernorm", ["post_feedforward_layernorm"]),
        ("1.5e-07", ["1.5e-07"]),
    ],
)
def test_a_name_is_cut_where_its_parts_meet(word: str, expected: list[str]) -> None:
    assert pieces(word) == expected


@given(
    st.lists(st.sampled_from(["a", "some", "blocks.3.resid_pre", "dose[rank=2]/x", "longer"]), min_size=1), st.data()
)
def test_lines_hold_all_of_a_text_and_keep_to_the_width(words: list[str], data: st.DataObject) -> None:
    width = data.draw(st.integers(max(map(len, itertools.chain.from_iterable(map(pieces, words)))), 40))
    text = " ".join(words)
    lines = wrap(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    cuts = [pieces(word) for word in words]
    whole = {"".join(cut[i:j]) for cut in cuts for i in range(len(cut)) for j in range(i + 1, len(cut) + 1)}
    assert {word for line in lines for word in line.split(" ")} <= whole


def test_what_fits_stays_whole() -> None:
    assert wrap("at blocks.3.resid_pre", 18) == ["at", "blocks.3.resid_pre"]
    assert wrap("at blocks.3.resid_pre", 12) == ["at blocks.3.", "resid_pre"]


def test_the_widest_gives_way_and_none_below_its_least() -> None:
    assert share(10, [5, 5], [1, 1]) == [5, 5]
    assert share(10, [4, 20], [1, 1]) == [4, 6]
    assert share(10, [20, 20], [8, 1]) == [8, 2]
    assert share(10, [20, 20], [8, 3]) is None


@pytest.mark.parametrize("width", [60, 64, 72, 80, 100])
def test_a_site_is_never_broken_within(width: int) -> None:
    lines = printed(width, *ROWS)
    assert lines[0] == "sites" and lines[-1] == ""
    assert all(cell_len(line) <= width for line in lines)
    whole = [line.split(" ")[0] for line in lines]
    assert whole.count("blocks.0-29.resid_pre") == 1, "the first column is what people copy"
    assert any("post_attention_layernorm" in line for line in lines)


def test_the_first_column_is_broken_last() -> None:
    assert fit(40, [["blocks.3.resid_pre"], ["in a long explanation blocks.3.resid_pre"]]) == [18, 20]
    assert fit(24, [["blocks.3.resid_pre"], ["in blocks.3.resid_pre"]]) == [11, 11]


def test_where_names_are_too_wide_for_columns_cells_stand_below_each_other() -> None:
    lines = printed(40, *ROWS)
    assert lines[1:4] == ["blocks.0-29.resid_pre", "  width: 576", "  read and written at: input of"]
    assert "  model.layers.0-29" in lines
    assert all(cell_len(line) <= 40 for line in lines)


def test_a_cell_of_several_lines_is_a_list_whose_items_are_told_apart() -> None:
    lines = printed(23, ("x", "", "add warmth at its own sites\nablate cold"), columns=("a", "b", "c"))
    start = lines[2].index("- ")
    assert [line[start:] for line in lines[2:5]] == ["- add warmth at", "  its own sites", "- ablate cold"]


def test_brackets_are_no_mark_up_and_a_style_is_kept() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, force_terminal=True, color_system="standard")
    print_table(console, "[bold]t[/bold]", ("a", "b"), [("[red]x[/red]", Text("FAILED", style="red"))], right=[1])
    assert "[red]x[/red]" in file.getvalue() and "[bold]t[/bold]" in file.getvalue()
    assert "\x1b[31mFAILED" in file.getvalue()
    assert printed(60) == []


def test_a_console_prints_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for aside in (False, True):
        console(aside=aside).print("tiny-random:llama: [red]5 of 7[/red] :warning:")
    said = capsys.readouterr()
    assert said.out == said.err == "tiny-random:llama: [red]5 of 7[/red] :warning:\n"


def test_every_command_prints_by_that_console() -> None:
    package = Path(steerkit.__file__).parent
    texts = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
    makes = {name for name, text in texts.items() if re.search(r"[ =(]Console\(", text)}
    assert makes == {"columns.py", "progress.py"}


def test_as_text_a_table_has_no_colour_no_blanks_behind_it_and_counts_wide_signs_as_what_they_take() -> None:
    text = table_text(("what", "where", "n"), [("方向", "a", "1"), ("[b]add[/b]", "b", "1,024")], width=40, right=[2])
    assert text.splitlines() == [
        "what        where      n",
        "方向        a          1",
        "[b]add[/b]  b      1,024",
    ]
