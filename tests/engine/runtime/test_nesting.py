"""Passes inside of passes: what a hook runs while a pass goes on gets what it gets alone, and so does that pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.intervention import Affine
from steerkit.engine.runtime.nesting import INTERRUPTED
from steerkit.engine.sequence.tally import Tally, counting_edited_tokens
from steerkit.errors import AttachError, PositionError
from steerkit.session.model import LiveModel
from tests.conftest import assert_clean
from tests.engine.conditions import Given, Trace, vectors
from tests.engine.runtime.test_ownership import IDS, PROMPTS, add, bare, fresh, logits

READS, WRITES = vectors(32, 1, 7) / 32**0.5, vectors(32, 1, 8)
BIAS = 3 * vectors(32, 1, 1)[0]
SHORT = IDS[:, :4]
BLOCK, MIXER = "model.layers.0", "model.layers.1.self_attn"

CONDITIONS: dict[str, Given] = {
    "all": Given({"blocks.1.resid_pre": Affine(bias=BIAS), "blocks.1.attn_out": Affine(READS, WRITES)}),
    "positions": Given({"blocks.1.attn_out": Affine(bias=BIAS), "blocks.1.mlp_out": Affine(READS, WRITES)}, "[1,2]"),
    "roles": Given({"blocks.0.resid_pre": Affine(bias=BIAS), "blocks.1.mlp_out": Affine(bias=BIAS)}, "prompt"),
    "resid_mid": Given({"blocks.1.resid_mid": Affine(READS, WRITES), "blocks.1.mlp_out": Affine(bias=BIAS)}, "[1,2]"),
}


class Inside:
    """A hook that runs something inside of every pass but its own."""

    def __init__(self, live: LiveModel, where: str, run: Callable[[], Any]) -> None:
        self._run, self._busy = run, False
        self.found: list[Any] = []
        self.handle = live.model.get_submodule(where).register_forward_hook(self)

    def __call__(self, *given: Any) -> None:
        if not self._busy:
            self._busy = True
            try:
                self.found.append(self._run())
            finally:
                self._busy = False


def short(live: LiveModel) -> Tensor:
    found: Tensor = live.hf_model(input_ids=SHORT, use_cache=False).logits.detach()
    return found


def trained(live: LiveModel, condition: Given, mode: Any, how: str) -> list[Tensor]:
    """Logits of a pass and the gradients of every parameter."""
    live.model.zero_grad()
    with nullcontext() if how == "request" else live.steer(condition, mode=mode):
        if how == "request":
            found = live.forward(IDS, use_cache=False, prompt_lengths=[3, 4], steer=[condition] * 2).logits
        elif how == "block":
            found = live.forward(IDS, use_cache=False, prompt_lengths=[3, 4]).logits
        else:
            found = live.hf_model(input_ids=IDS, use_cache=False).logits
    # Behind the block: what is computed again goes back to what was on the model.
    found.log_softmax(-1)[:, -1].pow(2).mean().backward()
    return [found.detach(), *(one.grad.clone() for one in live.model.parameters() if one.grad is not None)]


CASES = [
    (name, how, mode)
    for name in CONDITIONS
    for how, mode in (("bare", "fold"), ("bare", "hook"), ("block", "hook"), ("request", "hook"))
    # Nobody says where the prompts of a bare pass end.
    if (name, how) != ("roles", "bare")
]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # of the pass in a block's pass
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
@pytest.mark.parametrize(("name", "how", "mode"), CASES)
def test_a_pass_around_another_is_what_it_is_alone(name: str, how: str, mode: Any, checkpointing: bool | None) -> None:
    """Its logits and gradients, to the bit, where a hook between two blocks or inside of one runs a shorter pass."""
    live, condition = fresh(), CONDITIONS[name]
    model: Any = live.hf_model
    model.train()
    model.requires_grad_(True)
    if checkpointing is not None:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": checkpointing})
    trace = Trace(live.model)
    # A bare pass inside of a request gets what its blocks say, and no block says anything of it.
    refused = (name, how) == ("roles", "block")
    with nullcontext() if how == "request" or refused else live.steer(condition, mode=mode):
        expected = short(live)

    def run() -> Tensor:
        if not refused:
            return short(live)
        # Where it is computed again behind the block nobody refuses it, so torch must keep nothing of it.
        with torch.no_grad():
            if not live.steering.shared.here():
                return short(live)
            with pytest.raises(PositionError, match="prompt_lengths"):
                short(live)
            return expected

    alone = trained(live, condition, mode, how)
    assert len(alone) > 10
    for where in (BLOCK, MIXER):
        inside = Inside(live, where, run)
        found = trained(live, condition, mode, how)
        inside.handle.remove()
        assert len(inside.found) == 1 + (checkpointing is not None and where == MIXER)
        # What is computed again behind the block has no block around it, so neither has a pass inside of that.
        assert torch.equal(inside.found[0], expected)
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other)
    assert_clean(live)
    trace.check()


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_request_inside_of_a_request_leaves_it_its_hooks(side: str) -> None:
    """Hooks that came off and went on again inside of a module's call are called as they were."""
    live = fresh()
    condition = CONDITIONS["resid_mid"]
    expected, other = logits(live, steer=[condition] * 2), logits(live, steer=[add(2, "[0]"), None])
    block, nested = live.model.get_submodule("model.layers.1"), []

    def inside(*given: Any) -> None:
        handle.remove()
        nested.append(logits(live, steer=[add(2, "[0]"), None]))
        nested.append(live.generate(PROMPTS, max_new_tokens=2))

    register = block.register_forward_pre_hook if side == "input" else block.register_forward_hook
    handle: Any = register(inside)
    answers = live.generate(PROMPTS, max_new_tokens=2)
    nested.clear()
    handle = register(inside)
    assert torch.equal(logits(live, steer=[condition] * 2), expected)
    assert torch.equal(nested[0], other) and nested[1] == answers
    assert_clean(live)


def test_what_is_read_and_counted_is_a_request_s_own() -> None:
    """Neither the values nor the edited tokens of a pass inside of it."""
    live = fresh()

    def read() -> tuple[Tensor, dict[Any, int]]:
        with counting_edited_tokens(Tally()) as tally, live.steer(add(1, "[1,2]"), mode="hook"):
            (statistics,) = live.capture(PROMPTS, "blocks.1.resid_post", "all", progress=False).values()
        return statistics.mean, {place: n for (place, _), n in tally.edited.items()}

    mean, counts = read()
    assert counts == {0: 2, 1: 2}
    for run in (lambda: short(live), lambda: live.generate(PROMPTS[:1], max_new_tokens=2), lambda: logits(live)):
        inside = Inside(live, BLOCK, run)
        found, counted = read()
        inside.handle.remove()
        assert inside.found and torch.equal(found, mean) and counted == counts
    assert_clean(live)


def test_a_pass_around_an_interrupted_one_is_not_trusted() -> None:
    """An interrupt skips the hooks behind a pass. A hook that swallows it is told so; the next pass is right."""
    live = fresh()
    trace = Trace(live.model)

    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        other = live.model.get_submodule("model.layers.1").register_forward_hook(interrupt)
        try:
            short(live)
        except KeyboardInterrupt:
            pass
        finally:
            other.remove()

    with live.steer(add(1, "[1,2]"), mode="hook"):
        expected = bare(live)
        for call in (bare, logits):
            inside = Inside(live, BLOCK, run)
            with pytest.raises(AttachError, match=INTERRUPTED[:40]):
                call(live)
            inside.handle.remove()
            assert torch.equal(call(live), expected)
    assert_clean(live)
    trace.check()
