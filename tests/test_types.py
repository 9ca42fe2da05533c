"""Sites and positions in their text forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import PositionError, SiteError
from steerkit.types import STREAMS, Positions, Site


@given(st.sampled_from([name for name in STREAMS if name != "embed"]), st.integers(0, 200))
def test_a_site_survives_its_text_form(stream: str, layer: int) -> None:
    site = Site(stream, layer)
    assert Site.parse(str(site)) == site
    assert str(site) == f"blocks.{layer}.{stream}"


def test_the_embedding_has_no_layer() -> None:
    assert str(Site.parse("embed")) == "embed"
    with pytest.raises(SiteError, match="no layer"):
        Site("embed", 3)
    with pytest.raises(SiteError, match="counted from 0"):
        Site("resid_pre")


@pytest.mark.parametrize("text", ["", "resid_pre", "blocks.x.resid_pre", "layer.3", "blocks.-1.resid_pre"])
def test_what_is_no_site_says_how_one_is_written(text: str) -> None:
    with pytest.raises(SiteError, match="blocks"):
        Site.parse(text)


def test_a_mistyped_stream_gets_the_nearest_one() -> None:
    with pytest.raises(SiteError, match="'resid_post'"):
        Site.parse("blocks.3.resid_pst")


@pytest.mark.parametrize(
    ("value", "role", "indices", "span", "text"),
    [
        ("all", "all", (), None, "all"),
        ("last", "prompt", (-1,), None, "prompt[-1]"),
        (-1, "", (-1,), None, "-1"),
        ("-1", "", (-1,), None, "-1"),
        ([-3, -1], "", (-3, -1), None, "[-3,-1]"),
        ("instruction[-1]", "instruction", (-1,), None, "instruction[-1]"),
        ("generated[:8]", "generated", (), (None, 8), "generated[:8]"),
        ("-5:", "", (), (-5, None), "[-5:]"),
        ("prompt[ 2 : 5 ]", "prompt", (), (2, 5), "prompt[2:5]"),
    ],
)
def test_positions_in_every_form(
    value: str | int | list[int],
    role: str,
    indices: tuple[int, ...],
    span: tuple[int | None, int | None] | None,
    text: str,
) -> None:
    positions = Positions.parse(value)
    assert (positions.role, positions.indices, positions.span) == (role, indices, span)
    assert str(positions) == text
    assert Positions.parse(text) == positions


@pytest.mark.parametrize("value", ["", "al", "all[", "prompt[a]", "prompt[1:2:3]", True, [1, "x"], [], "generated[]"])
def test_what_are_no_positions_is_refused(value: object) -> None:
    with pytest.raises(PositionError):
        Positions.parse(value)  # type: ignore[arg-type]
