"""A printed table: where its lines end, what it leaves alone."""

from __future__ import annotations

from steerkit.engine.lowering.printing import printed

HEADER = ("what", "where", "n")


def lines(*rows: tuple[str, str, str], width: int, below: tuple[str, ...] = ()) -> list[str]:
    return printed(HEADER, rows, below, width=width, flexible=(0, 1)).splitlines()


def test_a_table_that_fits_stands_on_one_line_a_row() -> None:
    assert lines(("add a", "blocks.1", "1,024"), width=40) == ["what   where     n", "add a  blocks.1  1,024"]


def test_lines_end_between_words_and_in_a_path_behind_its_dots() -> None:
    found = lines(("add a very long name", "model.layers.0-29.self_attn.o_proj (weight)", "1"), width=40)
    assert max(map(len, found)) <= 40 and all(line == line.rstrip() for line in found)
    where = [line[found[0].index("where") :].split("  ")[0] for line in found[1:]]
    assert "".join(where).replace(" ", "") == "model.layers.0-29.self_attn.o_proj(weight)"
    assert all(part.endswith((".", "_", ")")) or part in ("o_proj", "") for part in where)
    assert [line.split("  ")[0] for line in found[1:] if line.split("  ")[0]] == ["add a very long", "name"]


def test_wide_signs_count_as_what_they_take() -> None:
    header, row = lines(("方向", "a", "1"), width=40)
    assert header == "what  where  n" and row == "方向  a      1"


def test_brackets_are_text_and_notes_hang() -> None:
    found = lines(("[bold]a[/bold]", "b", "1"), width=24, below=("(1) a note [red] that is long enough",))
    assert found[1].startswith("[bold]a[/bold]")
    assert found[2:] == ["(1) a note [red] that is", "    long enough"]
