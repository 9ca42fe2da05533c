"""Monitors: what they read equals a literal projection, under any condition and any way of decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.intervention import Intervention
from steerkit.api.monitor import Completion, Monitor
from steerkit.engine.reading.monitors import completion_to_read, read_along
from steerkit.errors import AttachError, DataError, PositionError, SiteError
from steerkit.session import ablate, add, gate
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from tests.conftest import assert_clean, tiny_live

PROMPTS = ["one", "two words here", "and a third prompt of some length"]


def direction(live: LiveModel, name: str = "d", site: str = "blocks.1.resid_post", seed: int = 0) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site.parse(site), name=name)


def steered(live: LiveModel) -> dict[str, list[Intervention]]:
    other = direction(live, "e", "blocks.0.resid_pre", 1)
    return {
        "plain": [],
        "added": [add(other, coefficient=3.0, positions="generated")],
        "ablated": [ablate(other)],
        "gated": [add(other, coefficient=2.0, gate=gate(other, above=0.0))],
    }


def literal(
    live: LiveModel, ids: Sequence[int], prompt: int, monitor: Monitor, interventions: Sequence[Intervention]
) -> list[float]:
    """The projection at every token, from a hook of one's own on a pass without a cache."""
    seen: list[torch.Tensor] = []
    (site,) = monitor.read_at
    block = live.model.get_submodule(f"model.layers.{site.layer}")

    def keep(module: object, args: object, output: object) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(keep)
    try:
        with live.steer(*interventions, mode="interpret"), torch.no_grad():
            live.forward(torch.tensor([list(ids)]), prompt_lengths=[prompt], use_cache=False)
    finally:
        handle.remove()
    vector = monitor.direction.vectors[0]
    return ((seen[0][0] @ vector) / vector.norm()).tolist()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
@pytest.mark.parametrize("condition", ["plain", "added", "ablated", "gated"])
def test_readings_while_decoding_are_those_of_a_whole_pass(model_type: str, condition: str) -> None:
    live = tiny_live(model_type)
    monitor = Monitor("harm", direction(live), 0.5)
    interventions = steered(live)[condition]
    with live.steer(*interventions):
        written = live.completions(PROMPTS, monitors=[monitor], max_new_tokens=6)
        assert [one.text for one in written] == live.generate(PROMPTS, max_new_tokens=6)
        texts = [
            completion_to_read(live.chat.render(text), one.token_ids)
            for text, one in zip(PROMPTS, written, strict=True)
        ]
        whole = [row.readings["harm"] for row in read_along(live, texts, [monitor])]
    for one, text, complete in zip(written, texts, whole, strict=True):
        read = one.readings["harm"]
        expected = literal(live, text.token_ids, text.prompt or 0, monitor, interventions)
        assert list(complete.values) == pytest.approx(expected, abs=1e-4)
        cut = [value for value in read.values if not math.isnan(value)]
        assert cut == pytest.approx(expected[: len(cut)], abs=1e-4)
        assert len(read.values) == len(expected) and len(cut) >= len(expected) - 1, "only what came last wasn't read"
        assert read.crossed == any(value > 0.5 for value in cut) and read.peak == max(cut)
        assert read.places == tuple(range(len(expected))) and read.prompt_tokens == text.prompt
    assert_clean(live)


def test_monitors_change_nothing(llama: LiveModel) -> None:
    monitors = [Monitor("m", direction(llama), 0.0), Monitor("n", direction(llama, "e", seed=2), 0.0, "below")]
    plain = llama.completions(PROMPTS, max_new_tokens=5)
    watched = llama.completions(PROMPTS, monitors=monitors, max_new_tokens=5)
    assert [one.token_ids for one in plain] == [one.token_ids for one in watched]
    assert all(one.readings == {} for one in plain) and all(set(one.readings) == {"m", "n"} for one in watched)


def test_positions_say_which_tokens_are_read(llama: LiveModel) -> None:
    def read(positions: str) -> Completion:
        monitor = Monitor("m", direction(llama), 0.0, positions=Positions.parse(positions))
        return llama.completions("two words here", monitors=[monitor], max_new_tokens=4)[0]

    everything, prompt, generated = (read(where).readings["m"] for where in ("all", "prompt", "generated"))
    n = everything.prompt_tokens
    assert prompt.values == everything.values[:n] and prompt.places == tuple(range(n))
    assert generated.values[:-1] == everything.values[n:-1] and generated.places == tuple(range(n, n + 4))
    assert read("last").readings["m"].values == (everything.values[n - 1],)


def test_below_and_several_sites(llama: LiveModel) -> None:
    sites = (Site("resid_post", 0), Site("resid_post", 1))
    single = [Monitor(f"m{site.layer}", direction(llama), 0.0, "below", (site,)) for site in sites]
    both = Monitor("both", direction(llama), 0.0, "below", sites)
    (row,) = llama.completions("one", monitors=[*single, both], max_new_tokens=1)
    pairs = zip(row.readings["m0"].values, row.readings["m1"].values, strict=True)
    assert list(row.readings["both"].values)[:-1] == [min(pair) for pair in pairs][:-1]
    assert row.readings["both"].crossed == (row.readings["both"].peak < 0)
    assert row.crossed == any(one.crossed for one in row.readings.values())


def test_samples_of_a_prompt_have_readings_of_their_own(llama: LiveModel) -> None:
    monitor = Monitor("m", direction(llama), 0.0)
    torch.manual_seed(0)
    rows = llama.completions(
        PROMPTS[:2], monitors=[monitor], max_new_tokens=4, do_sample=True, num_return_sequences=3, temperature=5.0
    )
    texts = [
        completion_to_read(llama.chat.render(PROMPTS[place // 3]), row.token_ids) for place, row in enumerate(rows)
    ]
    for row, whole in zip(rows, read_along(llama, texts, [monitor]), strict=True):
        read = row.readings["m"].values
        assert read[:-1] == pytest.approx(whole.readings["m"].values[: len(read) - 1], abs=1e-4)
    assert len({row.token_ids for row in rows}) > 2


def test_each_row_may_be_steered_by_itself_while_monitors_read(llama: LiveModel) -> None:
    monitor = Monitor("m", direction(llama), 0.0)
    condition = steered(llama)["ablated"]
    mixed = llama.completions(PROMPTS, monitors=[monitor], steer=[None, condition, None], max_new_tokens=3)
    plain = llama.completions(PROMPTS, monitors=[monitor], max_new_tokens=3)
    assert mixed[0].readings["m"].values[:-1] == pytest.approx(plain[0].readings["m"].values[:-1], abs=1e-4)
    assert mixed[1].readings["m"].values[:3] != pytest.approx(plain[1].readings["m"].values[:3], abs=1e-3)


def test_mistakes_are_told(llama: LiveModel) -> None:
    good = direction(llama)
    with pytest.raises(AttachError, match="isn't zero"):
        Monitor("m", good.with_vectors(torch.zeros(1, llama.layout.d_model)), 0.0)
    with pytest.raises(AttachError, match="one finite vector"):
        Monitor("m", good.with_vectors(torch.ones(2, llama.layout.d_model)), 0.0)
    with pytest.raises(AttachError, match="finite number"):
        Monitor("m", good, math.nan)
    with pytest.raises(AttachError, match="above"):
        Monitor("m", good, 0.0, "over")  # type: ignore[arg-type]
    with pytest.raises(PositionError, match="steered, not read"):
        Monitor("m", good, 0.0, positions=Positions.parse("from_token(x)"))
    with pytest.raises(AttachError, match="width 3"):
        llama.completions("one", monitors=[Monitor("m", good.with_vectors(torch.ones(1, 3)), 0.0)])
    with pytest.raises(SiteError):
        llama.completions("one", monitors=[Monitor("m", good, 0.0, sites=(Site("resid_post", 99),))])
    with pytest.raises(AttachError, match="one name"):
        llama.completions("one", monitors=[Monitor("m", good, 0.0)] * 2)
    with pytest.raises(AttachError, match="num_beams"):
        llama.completions("one", monitors=[Monitor("m", good, 0.0)], num_beams=2)


def test_of_a_direction_at_several_sites_each_vector_is_read_along_at_its_own(llama: LiveModel) -> None:
    sites = (Site("resid_post", 0), Site("resid_post", 1))
    single = [direction(llama, site=str(site), seed=site.layer) for site in sites]
    several = Direction({one.site: one.vectors for one in single}, name="several")
    with pytest.raises(AttachError, match="Name the sites to read"):
        Monitor("m", several, 0.0)
    with pytest.raises(AttachError, match=r"no vectors at blocks\.0\.resid_pre"):
        Monitor("m", several, 0.0, sites=(Site("resid_pre", 0),))
    monitors = [Monitor("both", several, 0.0, sites=several.sites)]
    monitors += [Monitor(f"m{place}", one, 0.0) for place, one in enumerate(single)]
    (row,) = llama.completions("two words", monitors=monitors, max_new_tokens=1)
    pairs = zip(row.readings["m0"].values, row.readings["m1"].values, strict=True)
    assert list(row.readings["both"].values)[:-1] == [max(pair) for pair in pairs][:-1]


def test_one_head_is_read(llama: LiveModel) -> None:
    site = Site.parse("blocks.1.head_out[1]")
    vector = torch.randn(1, llama.layout.width(site), generator=torch.Generator().manual_seed(4))
    monitor = Monitor("m", Direction(vector, site), 0.0)
    text = llama.chat.render("two words here")
    key = (site, Positions("all"))
    (read,) = read_along(llama, [text], [monitor], [key])
    captured = llama.capture("two words here", site, "all", kind="rows")[key].rows
    torch.testing.assert_close(read.activations[key], captured, rtol=1e-4, atol=1e-5)
    expected = (captured @ vector[0] / vector.norm()).tolist()
    assert list(read.readings["m"].values) == pytest.approx(expected, abs=1e-5)


def test_conversations_and_token_ids_are_completed_too(llama: LiveModel) -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    monitor = Monitor("m", direction(llama), 0.0, positions=Positions.parse("assistant[-1]"))
    (row,) = llama.completions(turns, monitors=[monitor], max_new_tokens=2)
    rendered = llama.chat.render(turns)
    span = next(turn.span for turn in rendered.turns if turn.role == "assistant")
    assert span is not None and row.readings["m"].places == tuple(range(*span))[-1:]
    assert [row.text] == llama.generate(turns, max_new_tokens=2)
    ids = torch.tensor([rendered.token_ids])
    assert [one.token_ids for one in llama.completions(ids, max_new_tokens=2)] == [row.token_ids]
    with pytest.raises(DataError, match="ends with a turn of the assistant's"):
        llama.completions(turns[:2], max_new_tokens=2)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(
    ("kind", "whole"),
    [("plain", False), ("ablated", False), ("added", True), ("gated", True)],
    ids=lambda one: str(one),
)
def test_a_pass_is_left_once_everything_is_read_unless_edits_are_counted(
    llama: LiveModel, kind: str, whole: bool, by_row: bool
) -> None:
    interventions = steered(llama)[kind]
    calls: list[int] = []
    monitor = Monitor("harm", direction(llama, site="blocks.0.resid_post"), 0.0)
    texts = llama.rendered(PROMPTS)
    last = llama.model.get_submodule(f"model.layers.{llama.layout.n_layers - 1}")
    handle = last.register_forward_hook(lambda *_: calls.append(1))
    try:
        if by_row:
            found = read_along(llama, texts, [monitor], steer=[interventions] * len(texts))
        else:
            with llama.steer(*interventions):
                found = read_along(llama, texts, [monitor])
    finally:
        handle.remove()
    assert bool(calls) is whole
    for text, one in zip(texts, found, strict=True):
        expected = literal(llama, text.token_ids, len(text.token_ids), monitor, interventions)
        assert list(one.readings["harm"].values) == pytest.approx(expected, abs=1e-4)


def test_tokens_that_a_text_lacks_are_told_with_the_monitor_or_leave_it_unread() -> None:
    live = tiny_live("llama")
    said = Monitor("said", direction(live), 0.0, positions=Positions.parse("assistant[-1]"))
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    talks = [live.chat.render(turns), live.chat.render("hi"), live.chat.render(turns)]
    with pytest.raises(PositionError, match=r"^Monitor 'said': .*row 2's conversation none of its turns"):
        read_along(live, talks, [said])
    with pytest.raises(PositionError, match=r"^Monitor 'said': .*row 1's conversation none of its turns"):
        live.completions(["hi"], monitors=[said], max_new_tokens=2)
    there, absent, again = (one.readings["said"] for one in read_along(live, talks, [said], lenient=True))
    assert there.places == again.places != () and math.isnan(absent.peak) and absent.places == ()
    assert not absent.crossed
