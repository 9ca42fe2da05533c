"""Patterns of sites, and heads."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steerkit.errors import SiteError
from steerkit.types import HEAD_OUT, STREAMS, Positions, Site, SitePattern, parse_sites, resolve_sites


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("blocks.*.resid_pre", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("blocks.2-4.resid_pre", [2, 3, 4]),
        ("blocks.3-3.resid_pre", [3]),
        ("blocks.[0.25-0.75].resid_pre", [2, 3, 4, 5]),
        ("blocks.[0.5-1].resid_pre", [4, 5, 6, 7]),
        ("blocks.[0-.25].resid_pre", [0, 1]),
        ("blocks.[0.99-1].resid_pre", [7]),
        ("blocks.[0.875-1].resid_pre", [7]),
        ("blocks.[0.6].resid_pre", [4]),
        ("blocks.[0.5].resid_pre", [4]),
        ("blocks.[0].resid_pre", [0]),
        ("blocks.[1].resid_pre", [7]),
    ],
)
def test_a_pattern_names_layers_of_a_model(text: str, layers: list[int]) -> None:
    pattern = parse_sites(text)
    assert isinstance(pattern, SitePattern)
    assert [site.layer for site in pattern.sites(8)] == layers
    assert SitePattern.parse(str(pattern)) == pattern


def test_one_layer_at_a_share_of_the_depth_is_one_for_any_model() -> None:
    pattern = SitePattern.parse("blocks.[0.6].resid_post")
    assert pattern.is_one and not SitePattern.parse("blocks.[0.5-0.6].resid_post").is_one
    assert [pattern.sites(n)[0].layer for n in (1, 2, 5, 18, 30, 80)] == [0, 1, 3, 10, 18, 48]
    assert all(len(pattern.sites(n)) == 1 for n in range(1, 100))
    with pytest.raises(SiteError, match=r"for one layer write \[0.6\]"):
        SitePattern.parse("blocks.[0.6-0.6].resid_post")


SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] <= pair[1])
LAYERS = st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def patterns(draw: st.DrawFn) -> SitePattern:
    stream = draw(st.sampled_from([*STREAMS[1:], "per_layer_out"]))
    layers, share = draw(
        st.one_of(st.just((None, None)), LAYERS.map(lambda two: (two, None)), SHARES.map(lambda two: (None, two)))
    )
    return SitePattern(stream, layers, share, draw(st.integers(-1, 40)) if stream == HEAD_OUT else -1)


@given(patterns())
@example(SitePattern("resid_post", share=(1 / 3, 0.9)))
@example(SitePattern("resid_post", share=(1e-05, 0.5)))
@example(SitePattern("resid_post", share=(-0.0, 5e-324)))
def test_the_text_of_a_pattern_is_the_pattern(pattern: SitePattern) -> None:
    assert parse_sites(str(pattern)) == pattern


def test_shares_are_written_as_people_write_them() -> None:
    for text in ("blocks.[0-1].resid_post", "blocks.[0.25-0.75].resid_post", "blocks.[0.00001-0.5].resid_post"):
        assert str(SitePattern.parse(text)) == text


def test_what_no_text_can_say_is_no_pattern() -> None:
    with pytest.raises(SiteError, match="not both"):
        SitePattern("resid_post", layers=(0, 1), share=(0.0, 0.5))
    with pytest.raises(SiteError, match="counted from 0"):
        SitePattern("head_out", head=-2)


def test_a_head_is_a_site_of_its_own() -> None:
    site = Site.parse("blocks.3.head_out[5]")
    assert (site.stream, site.layer, site.head) == ("head_out", 3, 5)
    assert str(site) == "blocks.3.head_out[5]" and site.whole == Site("head_out", 3) != site
    assert resolve_sites("blocks.*.head_out[1]", 2) == [Site("head_out", 0, 1), Site("head_out", 1, 1)]


def test_sites_and_patterns_resolve_in_their_order_each_once() -> None:
    resolved = resolve_sites(["blocks.1.resid_pre", "blocks.*.resid_pre", "embed"], 3)
    assert [str(site) for site in resolved] == [
        "blocks.1.resid_pre",
        "blocks.0.resid_pre",
        "blocks.2.resid_pre",
        "embed",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("blocks.5-9.resid_pre", "8 layers, 0 to 7"),
        ("blocks.[0.01-0.02].resid_pre", "none of the model's 8 layers"),
        ("blocks.4-2.resid_pre", "first layer"),
        ("blocks.[0.8-0.2].resid_pre", "rise from 0 to 1"),
        ("blocks.*.mlp_out[3]", "only head_out has heads"),
        ("blocks.*.resid_pst", "'resid_post'"),
        ("blocks.**.resid_pre", "neither a site nor a pattern"),
        ("blocks.*.embed", "has no layers"),
    ],
)
def test_what_names_no_site_says_why(text: str, part: str) -> None:
    with pytest.raises(SiteError, match=part):
        resolve_sites(text, 8)


@pytest.mark.parametrize("where", ["blocks.3.head_out[5]", "embed"])
def test_sites_and_positions_are_printed_as_they_are_written(where: str) -> None:
    for value in (
        Site.parse(where),
        SitePattern.parse("blocks.[0.25-0.75].resid_pre"),
        Positions.parse("user[-1][:8]"),
    ):
        assert repr(value) == f"{type(value).__name__}.parse({str(value)!r})"
        assert eval(repr(value), {type(value).__name__: type(value)}) == value
