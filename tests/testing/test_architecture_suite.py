"""The architecture suite can fail: each of its checks goes red on a fault that it is there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch.utils.hooks import RemovableHandle

import steerkit_architectures.gemma
import steerkit_architectures.qwen
from steerkit.api.architecture import Heads, Layout, Tap
from steerkit.engine.hooking.attach import Attachment
from steerkit.engine.sites import taps
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.engine.sites.selftest import SelfTestReport
from steerkit.errors import PositionError, SelfTestError
from steerkit.testing import ArchitectureSuite
from steerkit.testing.architecture import Built
from tests.architectures.conftest import built


# Named so that pytest doesn't collect them.
class Gemma(ArchitectureSuite):
    plugin = steerkit_architectures.gemma


class Qwen1(ArchitectureSuite):
    plugin = steerkit_architectures.qwen
    name = "qwen1"


def blocks_with(layout: Layout, **declared: Any) -> Layout:
    return replace(layout, blocks=tuple(replace(block, **declared) for block in layout.blocks))


def thought_to_behave(case: Built) -> Built:
    """A model whose faults would come from steering, as far as anybody knows."""
    vars(case)["behaviours"] = Behaviours()
    return case


@pytest.mark.parametrize("what", ["another_split_of_heads_is", "swapped_writers_are", "a_wrong_sum_is"])
def test_a_self_test_that_sees_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Built(*built("gemma"))
    getattr(Gemma(), f"test_{what}_caught")(case)
    monkeypatch.setattr(SelfTestReport, "failed", frozenset())
    with pytest.raises(AssertionError, match="lets it pass"):
        getattr(Gemma(), f"test_{what}_caught")(case)


def test_a_model_that_the_spec_does_not_claim() -> None:
    with pytest.raises(AssertionError, match="doesn't claim"):
        Gemma().test_claims_the_model(Built(*built("llama")))


def test_a_layout_that_is_wrong() -> None:
    model, layout = built("gemma4_text")
    wrong = Built(model, blocks_with(layout, scale=None))
    with pytest.raises(SelfTestError, match="block_sum"):
        Gemma().test_self_test_passes(wrong)
    with pytest.raises(AssertionError, match=r"blocks\.0\.per_layer_out and blocks\.0\.resid_post"):
        Gemma().test_an_edit_at_a_site_is_an_edit_at_the_place_it_names(wrong)
    with pytest.raises(SelfTestError, match="block_sum"):
        Gemma().test_bfloat16_works(wrong)


def test_heads_that_are_read_elsewhere() -> None:
    model, layout = built("qwen2", num_key_value_heads=4)
    first = replace(layout.blocks[0], heads=Heads(Tap("model.layers.0.self_attn.q_proj"), 4, 8))
    with pytest.raises(AssertionError, match=r"blocks\.0\.head_out"):
        wrong = Built(model, replace(layout, blocks=(first, *layout.blocks[1:])))
        Gemma().test_an_edit_at_the_heads_passes_their_projection(wrong)


def test_a_model_that_minds_whose_tensor_it_gets() -> None:
    model, layout = built("gemma")
    held: list[Any] = []
    model.model.layers[0].register_forward_hook(lambda _, args, output: held.__setitem__(slice(None), [output]))
    model.model.layers[1].register_forward_pre_hook(
        lambda _, args: args if args[0] is held[0] else (1.001 * args[0], *args[1:])
    )
    with pytest.raises(AssertionError):
        Gemma().test_zero_coefficient_is_bit_identical(Built(model, layout))


def test_a_base_that_runs_after_the_blocks() -> None:
    model, layout = built("gemma")
    with pytest.raises(PositionError):
        Gemma().test_cached_equals_uncached(Built(model, replace(layout, base="lm_head")), "prompt", "left")


def test_a_model_whose_cache_holds_too_little() -> None:
    model, layout = built("gemma")

    def forget(module: Any, args: Any, kwargs: Any) -> Any:
        kwargs["past_key_values"] = None
        return args, kwargs

    model.model.layers[1].self_attn.register_forward_pre_hook(forget, with_kwargs=True)
    with pytest.raises(pytest.skip.Exception, match="behind its cache"):
        Gemma().test_cached_equals_uncached(Built(model, layout), "all", "left")
    with pytest.raises(Exception, match=r"cache|size|shape"):
        Gemma().test_cached_equals_uncached(thought_to_behave(Built(model, layout)), "all", "left")


def test_a_model_that_reads_padding() -> None:
    model, layout = built("gemma")
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args: (args[0] + args[0].mean(1, keepdim=True), *args[1:])
    )
    with pytest.raises(pytest.skip.Exception, match="padded prompt"):
        Gemma().test_padding_changes_nothing(Built(model, layout), "all")
    with pytest.raises(AssertionError, match="padded on the"):
        Gemma().test_padding_changes_nothing(thought_to_behave(Built(model, layout)), "all")


@pytest.mark.parametrize(("suite", "model_type"), [(Gemma, "gemma"), (Qwen1, "qwen")])
def test_hooks_that_know_one_kind_of_output(
    suite: type[ArchitectureSuite], model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gives_tuple = model_type == "qwen"

    def narrow(handler: taps.Handler) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            is_block = hasattr(module, "self_attn") or hasattr(module, "attn")
            if is_block and isinstance(output, tuple) != gives_tuple:
                return None
            value = output[0] if isinstance(output, tuple) else output
            new = handler(value)
            return new if new is None or not isinstance(output, tuple) else (new, *output[1:])

        return hook

    monkeypatch.setattr(taps, "output_hook", narrow)
    with pytest.raises((AssertionError, SelfTestError)):
        suite().test_blocks_may_give_a_tensor_or_a_tuple(Built(*built(model_type)))


# A half-failed attach has put nothing on the model yet, so there is nothing that could stay.
@pytest.mark.parametrize("check", ["test_an_exception_leaves_no_trace", "test_the_self_test_leaves_no_trace"])
def test_hooks_that_stay(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Built(*built("gemma"))
    monkeypatch.setattr(RemovableHandle, "remove", lambda self: None)
    monkeypatch.setattr(Attachment, "detach", lambda self: None)
    with pytest.raises(AssertionError, match="hook was left"):
        getattr(Gemma(), check)(case)


def test_bits_that_change() -> None:
    model, layout = built("gemma")
    model.lm_head.register_forward_hook(lambda module, args, output: output + 0 * module.weight.data.add_(1e-3).sum())
    with pytest.raises(AssertionError, match="Bits changed"):
        Gemma().test_an_exception_leaves_no_trace(Built(model, layout))
