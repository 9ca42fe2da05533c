"""Conformance of architecture adapters: ``ArchitectureSuite``.

from steerkit.testing import ArchitectureSuite
import my_package.falcon as plugin

class TestFalcon(ArchitectureSuite):
    plugin = plugin

    def model(self):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", num_hidden_layers=2, ...))
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.api.hookspecs import ArchitectureSpec, ModelFacts, NoOptions
from steerkit.api.intervention import Affine, Intervention, Placement
from steerkit.engine.hooking.attach import attached
from steerkit.engine.lowering.lower import at_sites
from steerkit.engine.sequence.positions import Frame, Turn, frame_of_prompts
from steerkit.engine.sequence.sequences import CACHES, cache_among
from steerkit.engine.sites.behaviours import Behaviours, behaviours_of, takes_positions
from steerkit.engine.sites.selftest import SelfTestReport, self_test
from steerkit.engine.sites.selftest_passes import bench
from steerkit.engine.sites.taps import submodule
from steerkit.engine.sites.tested import try_layouts
from steerkit.engine.tiny.models import randomise
from steerkit.errors import SteerkitError
from steerkit.testing._suite import PluginSuite
from steerkit.testing._traces import assert_same, other_output, state_of
from steerkit.testing.wrong_layouts import other_splits, swapped_writers, wrong_sums
from steerkit.types import EMBED, HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE, Positions, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS, TURNS, STEPS = (5, 3), ((Turn("user", (1, 3)),), (Turn("user", (0, 2)),)), 3
POSITIONS = ("all", "prompt", "generated", "last", "instruction", "post_instruction", "-2")


@dataclass(frozen=True)
class Built:
    """A random model with its layout."""

    model: PreTrainedModel
    layout: Layout

    @cached_property
    def behaviours(self) -> Behaviours:
        """What its passes may rely on, without steering: which promises about padding and caches apply to it."""
        with torch.no_grad(), bench(self.model, self.layout, 0) as on:
            return Behaviours.of(behaviours_of(on))

    @property
    def cache_name(self) -> str:
        """What the model calls what it keeps of tokens that it has read."""
        taken = inspect.signature(self.model.forward).parameters
        return next((name for name in CACHES if name in taken), CACHES[0])

    @property
    def keeps_states(self) -> bool:
        """Whether it keeps states in place of keys, which don't tell how many tokens they were made of."""
        return self.cache_name == CACHES[1]

    def new_cache(self) -> DynamicCache | None:
        """What a first pass is given: of states one that is known from the start, else the model makes its own."""
        return DynamicCache(config=self.model.config) if self.keeps_states else None

    @property
    def takes_positions(self) -> bool:
        """Whether it is told where tokens stand."""
        return takes_positions(submodule(self.model, self.layout.base))

    def logits(self, ids: Tensor, *placements: Placement, frame: Frame | None = None) -> Tensor:
        """``[batch, pos]`` tokens without padding to logits under interventions."""
        program = at_sites(placements, self.layout)
        with torch.no_grad(), attached(self.model, self.layout, program) as cursor:
            cursor.set_frame(frame)
            logits: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        return logits


class _Added(Intervention[NoOptions]):
    """Adds a coefficient times a vector: one for all sites, or a random one for each."""

    def __init__(self, coefficient: float, vector: Tensor | None = None) -> None:
        super().__init__(NoOptions())
        self._coefficient, self._vector = coefficient, vector

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """Sites are always given."""
        return ()

    def update(self, site: Site, layout: Layout) -> Affine:
        """An update even for coefficient 0, so that what is attached is seen to do nothing."""
        if self._vector is not None:
            return Affine(bias=self._coefficient * self._vector)
        generator = torch.Generator().manual_seed(site.layer + 7)
        return Affine(bias=self._coefficient * torch.randn(layout.width(site), generator=generator))


def add_random(sites: Sequence[Site], coefficient: float, positions: str = "all") -> Placement:
    """A coefficient times a random vector, added at sites; each site has its own vector."""
    return Placement(_Added(coefficient), tuple(sites), Positions.parse(positions))


class ArchitectureSuite(PluginSuite[ArchitectureSpec]):
    """Inherit it, set ``plugin``, and write ``model``. Nothing is downloaded.

    Class attributes:
        variants: names of the models to check, where there are several; ``model`` finds one in ``self.variant``.
        special_tokens: of the tokenizer, where the adapter recognises a checkpoint by them.
    """

    variants: ClassVar[tuple[str, ...]] = ("model",)
    special_tokens: ClassVar[frozenset[str]] = frozenset()
    variant: str = ""

    def model(self) -> PreTrainedModel:
        """A small causal language model, built anew, with 2 layers or more.

        Its weights don't matter: the suite draws parameters and saved buffers anew, so that none is 0 or 1 by chance.
        """
        raise NotImplementedError(f"Write {type(self).__name__}.model(): it returns a small random model.")

    def adapter(self) -> ArchitectureAdapter:
        """The adapter under test."""
        adapter: ArchitectureAdapter = self.implementation()()
        return adapter

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each check that takes a model on each variant."""
        if "built" in metafunc.fixturenames:
            metafunc.parametrize("built", self.variants, indirect=True)

    @pytest.fixture
    def built(self, request: pytest.FixtureRequest) -> Built:
        """The model of a variant, all of it random, in float32."""
        self.variant = str(request.param)
        return self.built_from(self.model())

    def built_from(self, model: PreTrainedModel) -> Built:
        """A model, drawn anew, with the layout that is under test."""
        randomise(model, seed=1)
        model.float().eval()
        adapter = self.adapter()
        layout = adapter.layout(model)
        if type(adapter).without is not ArchitectureAdapter.without:
            # Of a layout that is found and not declared, what the model passes is under test.
            layouts = try_layouts(model, layout, adapter)
            layout = layouts[-1][0] if layouts[-1][1].passed else layout
        return Built(model, layout)

    def test_claims_the_model(self, built: Built) -> None:
        """The spec claims the model by what its checkpoint says."""
        config = built.model.config
        facts = ModelFacts(str(config.model_type), config.to_dict(), self.special_tokens)
        assert self.spec().claims(facts), f"{self.spec().name!r} doesn't claim model type {facts.model_type!r}."
        assert facts.model_type not in self.spec().refuses

    def test_self_test_passes(self, built: Built) -> None:
        """The live model is what the adapter declares, in float32."""
        self._self_test(built).raise_if_failed()

    def test_another_split_of_heads_is_caught(self, built: Built) -> None:
        """Heads of half the width, or of twice the width, are not what the model has."""
        for what, wrong in other_splits(built.layout):
            self._assert_refused(built, wrong, what, "heads_apart")

    def test_swapped_writers_are_caught(self, built: Built) -> None:
        """What mixes tokens is called attention, and what doesn't is not."""
        for what, wrong in swapped_writers(built.layout):
            self._assert_refused(built, wrong, what, "mixing")

    def test_a_wrong_sum_is_caught(self, built: Built) -> None:
        """A writer that is left out, or whose factor is 1 % off."""
        for what, wrong in wrong_sums(built.layout):
            self._assert_refused(built, wrong, what, "block_sum")

    def _assert_refused(self, built: Built, wrong: Layout, what: str, check: str) -> None:
        failed = self_test(built.model, wrong).failed
        assert check in failed, f"{what}: {check!r} lets it pass (failed: {sorted(failed) or 'nothing'})."

    def test_bfloat16_works(self, built: Built) -> None:
        """The same in bfloat16; an edit leaves the dtype as it is."""
        built.model.bfloat16()
        self._self_test(built).raise_if_failed()
        logits = built.logits(_tokens(built), add_random(built.layout.sites(), 0.5))
        assert logits.dtype is torch.bfloat16 and bool(logits.isfinite().all())

    def test_zero_coefficient_is_bit_identical(self, built: Built) -> None:
        """Adding zero times a vector at every site changes no bit, although it is attached."""
        ids = _tokens(built)
        zero = add_random(built.layout.sites(), 0.0)
        assert len(at_sites([zero], built.layout).slots) == len(built.layout.sites())
        # The write at resid_mid goes through attn_out, which it must leave alone too.
        assert torch.equal(built.logits(ids, zero), built.logits(ids))

    def test_an_edit_at_a_site_is_an_edit_at_the_place_it_names(self, built: Built) -> None:
        """Sites that name one sum at two of its ends take edits alike, and every site's edit shows."""
        ids, plain = _tokens(built), built.logits(_tokens(built))
        for layer, block in enumerate(built.layout.blocks):
            pairs = []
            if block.writers:
                # What is added last is multiplied with the whole sum.
                factor = block.keep(len(block.writers)) * self._scale(built, layer)
                pairs = [(Site(block.writers[-1].stream, layer), Site(RESID_POST, layer), factor)]
            if block.resid_mid is not None:
                pairs.append((Site(block.writers[0].stream, layer), Site(RESID_MID, layer), 1.0))
            if layer + 1 < built.layout.n_layers:
                pairs.append((Site(RESID_POST, layer), Site(RESID_PRE, layer + 1), 1.0))
            for one, other, factor in pairs:
                first = built.logits(ids, _add_vector(built.layout, one, 1.0))
                second = built.logits(ids, _add_vector(built.layout, other, factor))
                _assert_close(first, second, 1e-4, f"edits at {one} and {other}")
                assert (first - plain).abs().max() > 1e-3, f"An edit at {one} shows nowhere."

    def test_an_edit_at_the_heads_passes_their_projection(self, built: Built) -> None:
        """Adding a vector at ``head_out`` is adding its image under the output projection at ``attn_out``."""
        ids = _tokens(built)
        for layer, block in enumerate(built.layout.blocks):
            if block.heads is None or not block.writers or len(block.writers[0].projections) != 1:
                continue
            projection = built.model.get_submodule(block.writers[0].projections[0])
            vector = torch.randn(block.heads.n_heads * block.heads.d_head, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                # Linear but for its bias, whichever way round its weight lies.
                image = projection(vector[None])[0] - projection(torch.zeros_like(vector)[None])[0]
            at_heads = built.logits(ids, _add_vector(built.layout, Site(HEAD_OUT, layer), 1.0, vector))
            site = Site(block.writers[0].stream, layer)
            factor = block.writers[0].tap.factor
            at_writer = built.logits(ids, _add_vector(built.layout, site, factor, image))
            _assert_close(at_heads, at_writer, 1e-4, f"edits at {Site(HEAD_OUT, layer)} and {site}")

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("positions", POSITIONS)
    def test_cached_equals_uncached(self, built: Built, positions: str, side: str) -> None:
        """What is edited depends on a token's place, not on how many passes its sequence takes."""
        _require_behaviour(built.behaviours.cached, "gives behind its cache what whole passes give")
        _require_behaviour(built.behaviours.left_padding, "reads a padded prompt as alone")
        ids, mask = _padded(built, side)
        frame = frame_of_prompts(LENGTHS, TURNS, width=max(LENGTHS), padding_side=side, growing=True)
        edit = add_random(_written(built.layout), 0.5, positions)
        program = at_sites([edit], built.layout)
        with torch.no_grad(), attached(built.model, built.layout, program) as cursor:
            cursor.set_frame(frame)
            whole = _pass(built, ids, mask, 0, ids.shape[1], None).logits
            cursor.set_frame(frame)
            output = _pass(built, ids, mask, 0, max(LENGTHS), built.new_cache(), use_cache=True)
            stepwise = [output.logits]
            for column in range(max(LENGTHS), ids.shape[1]):
                cache = cache_among(output)
                output = _pass(built, ids, mask, column, column + 1, cache, use_cache=True)
                stepwise.append(output.logits)
        real = mask.bool()
        _assert_close(torch.cat(stepwise, 1)[real], whole[real], 2e-4, "with and without cache")
        with torch.no_grad():
            plain = _pass(built, ids, mask, 0, ids.shape[1], None).logits
        assert (whole[real] - plain[real]).abs().max() > 1e-3, f"An edit at positions {positions!r} shows nowhere."

    @pytest.mark.parametrize("positions", ["all", "-1", "instruction"])
    def test_padding_changes_nothing(self, built: Built, positions: str) -> None:
        """A prompt alone, padded on the left and padded on the right gives the same logits at its tokens."""
        edit = add_random(_written(built.layout), 0.5, positions)
        program = at_sites([edit], built.layout)
        found: dict[str, Tensor] = {}
        sides = [side for side in ("left", "right") if built.behaviours.pads(side)]
        _require_behaviour(bool(sides), "reads a padded prompt as alone")
        for side in sides:
            ids, mask = _padded(built, side)
            ids, mask = ids[:, : max(LENGTHS)], mask[:, : max(LENGTHS)]
            frame = frame_of_prompts(LENGTHS, TURNS, width=max(LENGTHS), padding_side=side)
            with torch.no_grad(), attached(built.model, built.layout, program) as cursor:
                cursor.set_frame(frame)
                found[side] = _pass(built, ids, mask, 0, ids.shape[1], None).logits[1][mask[1].bool()]
            alone = ids[1:][mask[1:].bool()][None]
        single = frame_of_prompts(LENGTHS[1:], TURNS[1:], width=LENGTHS[1], padding_side="left")
        expected = built.logits(alone, edit, frame=single)[0]
        for side, logits in found.items():
            _assert_close(logits, expected, 2e-4, f"padded on the {side}")

    def test_blocks_may_give_a_tensor_or_a_tuple(self, built: Built) -> None:
        """Sites are the same whichever of the two a block returns; versions of transformers differ."""
        ids = _tokens(built)
        edit = add_random(built.layout.sites(), 0.5)
        expected = built.logits(ids, edit)
        with ExitStack() as stack:
            for block in built.layout.blocks:
                stack.callback(other_output(built.model.get_submodule(block.module)))
            _assert_close(built.logits(ids, edit), expected, 1e-5, "with a tensor and with a tuple")
            self._self_test(built).raise_if_failed()

    def test_an_exception_leaves_no_trace(self, built: Built) -> None:
        """Hooks and bits are those of before, after an exception in the body."""
        before = state_of(built.model)
        edit = add_random(built.layout.sites(), 0.5)
        with pytest.raises(ZeroDivisionError), attached(built.model, built.layout, at_sites([edit], built.layout)):
            built.model(input_ids=_tokens(built))
            raise ZeroDivisionError
        assert_same(before, state_of(built.model))

    def test_a_half_failed_attach_leaves_no_trace(self, built: Built) -> None:
        """A site that can't be attached takes the ones before it back off."""
        blocks = built.layout.blocks
        broken = replace(built.layout, blocks=(*blocks[:-1], replace(blocks[-1], module="not.there")))
        before = state_of(built.model)
        program = at_sites([add_random(broken.sites(), 0.5)], broken)
        with pytest.raises(SteerkitError, match=r"not\.there"), attached(built.model, broken, program):
            raise AssertionError("attached in spite of a missing module")
        assert_same(before, state_of(built.model))

    def test_the_self_test_leaves_no_trace(self, built: Built) -> None:
        """Not even in train mode, which it leaves while it runs, and not when it ends in an error."""
        built.model.train()
        before = state_of(built.model)
        try:
            self._self_test(built)
        finally:
            assert_same(before, state_of(built.model))
        assert built.model.training

    def _self_test(self, built: Built) -> SelfTestReport:
        return self_test(built.model, built.layout, adapter=self.spec().name)

    def _scale(self, built: Built, layer: int) -> float:
        path = built.layout.blocks[layer].scale
        if path is None:
            return 1.0
        parent, _, name = path.rpartition(".")
        return float(getattr(built.model.get_submodule(parent), name))


def _add_vector(layout: Layout, site: Site, coefficient: float, vector: Tensor | None = None) -> Placement:
    """A coefficient times one vector, the same at whatever site."""
    drawn = torch.randn(layout.width(site), generator=torch.Generator().manual_seed(0))
    return Placement(_Added(coefficient, drawn if vector is None else vector), (site,))


def _assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance, msg=lambda text: f"{what}: {text}")


def _written(layout: Layout) -> list[Site]:
    """A site of each kind, at different layers."""
    last = layout.n_layers - 1
    writers = layout.blocks[last].writers
    sites = [Site(EMBED), Site(RESID_PRE, 1), Site(writers[-1].stream if writers else RESID_POST, last)]
    return sites + ([Site(RESID_MID, 0)] if layout.blocks[0].resid_mid is not None else [])


def _tokens(built: Built, length: int = 6) -> Tensor:
    vocabulary = int(built.model.config.get_text_config().vocab_size)
    return torch.randint(6, vocabulary, (2, length), generator=torch.Generator().manual_seed(3))


def _padded(built: Built, side: str) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths, padded on a side, with tokens generated behind them."""
    width = max(LENGTHS)
    ids = _tokens(built, width + STEPS)
    mask = torch.ones_like(ids)
    for row, length in enumerate(LENGTHS):
        padding = slice(0, width - length) if side == "left" else slice(length, width)
        prompt = ids[row, :length].clone()
        ids[row, :width] = 0
        ids[row, width - length : width] = prompt
        if side == "right":
            ids[row, :width] = 0
            ids[row, :length] = prompt
        mask[row, padding] = 0
    return ids, mask


def _require_behaviour(has: bool, what: str) -> None:
    """Skip a promise that rests on what the model doesn't do without steering either."""
    if not has:
        pytest.skip(f"Not a model that {what}, without steering either.")


def _pass(built: Built, ids: Tensor, mask: Tensor, start: int, stop: int, cache: Any, use_cache: bool = False) -> Any:
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    more = {"position_ids": places[:, start:stop]} if built.takes_positions else {}
    return built.model(
        input_ids=ids[:, start:stop],
        attention_mask=mask[:, start if built.keeps_states else 0 : stop],
        **more,
        **{built.cache_name: cache},
        use_cache=use_cache,
    )
