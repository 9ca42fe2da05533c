"""Names of hooks that people know, in every place where a site is read, and back in our own form."""

from __future__ import annotations

import pytest

from steerkit.errors import SiteError
from steerkit.types import STREAMS, Site, SitePattern, parse_sites, resolve_sites
from steerkit.types.hook_names import HOOK_NAMES, NO_SITES, own_form


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("hook_embed", "embed"),
        ("blocks.3.hook_resid_pre", "blocks.3.resid_pre"),
        ("blocks.3.hook_resid_mid", "blocks.3.resid_mid"),
        ("blocks.3.hook_resid_post", "blocks.3.resid_post"),
        ("blocks.12.hook_attn_out", "blocks.12.attn_out"),
        ("blocks.0.hook_mlp_out", "blocks.0.mlp_out"),
        ("blocks.3.attn.hook_z", "blocks.3.head_out"),
        ("blocks.3.attn.hook_z[5]", "blocks.3.head_out[5]"),
        (" blocks.3.hook_mlp_out ", "blocks.3.mlp_out"),
        ("token_embeddings", "embed"),
        ("layers_input[3]", "blocks.3.resid_pre"),
        ("layers_output[11]", "blocks.11.resid_post"),
        ("attentions_output[0]", "blocks.0.attn_out"),
        ("mlps_output[3]", "blocks.3.mlp_out"),
    ],
)
def test_a_known_name_is_a_site_and_prints_as_ours(name: str, site: str) -> None:
    assert str(Site.parse(name)) == site
    assert parse_sites(name) == Site.parse(site)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("blocks.*.hook_resid_pre", "blocks.*.resid_pre"),
        ("blocks.8-20.hook_resid_post", "blocks.8-20.resid_post"),
        ("blocks.[0.25-0.75].hook_attn_out", "blocks.[0.25-0.75].attn_out"),
        ("blocks.*.attn.hook_z[2]", "blocks.*.head_out[2]"),
        ("layers_output[*]", "blocks.*.resid_post"),
        ("layers_input[8-20]", "blocks.8-20.resid_pre"),
        ("mlps_output[[0.6]]", "blocks.[0.6].mlp_out"),
    ],
)
def test_a_known_name_stands_for_layers_as_ours_does(name: str, pattern: str) -> None:
    assert parse_sites(name) == SitePattern.parse(name) == SitePattern.parse(pattern)
    assert str(parse_sites(name)) == pattern


def test_the_table_holds_sites_and_every_stream() -> None:
    meant = {parse_sites(name.replace("<layer>", "2")) for name in HOOK_NAMES}
    assert {site.stream for site in meant if isinstance(site, Site)} == set(STREAMS)
    assert not set(NO_SITES) & {name.rpartition(".")[2].partition("[")[0] for name in HOOK_NAMES}


@pytest.mark.parametrize("part", NO_SITES)
def test_a_name_without_a_site_says_why_and_which_there_are(part: str) -> None:
    nnterp = not part.startswith("hook_")
    for name in (part, f"{part}[3]") if nnterp else (part, f"blocks.3.{part}", f"blocks.*.attn.{part}", f"{part}[1]"):
        for parse in (Site.parse, SitePattern.parse, parse_sites):
            with pytest.raises(SiteError, match="means no site") as caught:
                parse(name)
            assert NO_SITES[part] in str(caught.value) and "blocks.<layer>.resid_mid" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("blocks.3.hook_resid_mdi", "'blocks.<layer>.hook_resid_mid'"),
        ("blocks.3.hook_attn", "'blocks.<layer>.hook_attn_out'"),
        ("layer_output[3]", "'layers_output[<layer>]'"),
        ("layers_output", "'layers_output[<layer>]'"),
    ],
)
def test_a_misspelt_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(SiteError, match="no hook that means a site") as caught:
        parse_sites(name)
    assert f"Did you mean {near}" in str(caught.value)


@pytest.mark.parametrize("name", ["layers_output[-1]", "blocks.-1.hook_resid_pre"])
def test_layers_count_from_0_under_every_name(name: str) -> None:
    with pytest.raises(SiteError):
        parse_sites(name)
    with pytest.raises(SiteError, match="needs a layer, counted from 0"):
        Site.parse(name)


@pytest.mark.parametrize("name", ["blocks.3.hook_resid_pre[1]", "layers_output[3][1]", "hook_embed[2]"])
def test_only_head_out_has_heads_under_every_name(name: str) -> None:
    with pytest.raises(SiteError):
        parse_sites(name)


@pytest.mark.parametrize("text", ["embed", "blocks.3.resid_pre", "blocks.*.per_layer_out", "", "blocks", "a.b", "x[3]"])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert own_form(text) == text


def test_names_mix_and_each_site_is_there_once() -> None:
    sites = resolve_sites(["blocks.1.hook_resid_pre", "layers_input[1]", "blocks.1.resid_pre", "layers_output[*]"], 2)
    assert [str(site) for site in sites] == ["blocks.1.resid_pre", "blocks.0.resid_post", "blocks.1.resid_post"]
