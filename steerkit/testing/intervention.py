"""Conformance of interventions: ``InterventionSuite``.

from steerkit.testing import InterventionSuite
import my_package.mirror as plugin

class TestMirror(InterventionSuite):
    plugin = plugin

    def definition(self, x, vectors):
        unit = vectors / vectors.norm()
        return x - 2 * (x @ unit.T) @ unit
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import nn

from steerkit.api.architecture import Block, Layout, Tap, Writer
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import InterventionSpec
from steerkit.api.intervention import Affine, Intervention, Placement, Pointwise
from steerkit.engine.hooking.attach import attached
from steerkit.engine.lowering.algebra import apply_update
from steerkit.engine.lowering.lower import at_sites
from steerkit.engine.sequence.positions import Frame, frame_of_prompts
from steerkit.engine.sites.taps import register_tap
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import SteerkitError
from steerkit.testing._suite import PluginSuite
from steerkit.types import RESID_PRE, Positions, Site

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from steerkit.types import ResidualStream, Vectors

N_LAYERS, D_MODEL = 3, 32


class InterventionSuite(PluginSuite[InterventionSpec]):
    """Inherit it, set ``plugin``, and write ``definition``. The model is a tiny random Llama.

    Class attributes:
        rank: of the direction that the checks use.
        zero: options under which the intervention does nothing; None where there are none.
    """

    _hook: ClassVar[str] = "steerkit_interventions"
    rank: ClassVar[int] = 1
    zero: ClassVar[Mapping[str, Any] | None] = {"coefficient": 0.0}

    def definition(self, x: ResidualStream, vectors: Vectors) -> ResidualStream:
        """What the intervention does to ``x`` under the options of ``options()``, written out literally.

        Args:
            x: ``[batch, pos, d_model]``, float64.
            vectors: ``[rank, d_model]``, float64, of the direction; of several, one below the other.
        """
        raise NotImplementedError(f"Write {type(self).__name__}.definition: the formula that the update is held to.")

    def direction(self, number: int = 0) -> Direction:
        """One of the directions under test: random, with a norm that isn't 1, and with a name of its own."""
        vectors = 0.5 * torch.randn(self.rank, D_MODEL, generator=_generator(1 + 10 * number))
        return Direction(vectors, self.site(), name=f"random-{number}")

    def directions(self) -> tuple[Direction, ...]:
        """The directions under test, as many as the spec takes."""
        return tuple(self.direction(number) for number in range(self.spec().directions))

    def site(self) -> Site:
        """The one site that checks on a model act at."""
        return Site(RESID_PRE, 1)

    def intervention(
        self,
        sites: Sequence[Site] | None = None,
        positions: Positions = Positions("all"),
        **changes: Any,
    ) -> Placement:
        """The intervention under test, placed."""
        made = self.implementation()(self.options(**changes), self.directions())
        assert isinstance(made, Intervention), "Derive the implementation from steerkit.api.intervention.Intervention."
        return Placement(made, None if sites is None else tuple(sites), positions)

    def x(self) -> ResidualStream:
        """Values of a residual stream, ``[2, 5, d_model]``, float64."""
        return 2 * torch.randn(2, 5, D_MODEL, generator=_generator(2), dtype=torch.float64)

    # What it says

    def test_update_is_its_definition(self) -> None:
        """The declared algebra or function, applied to random values, is the literal formula."""
        x, vectors = self.x(), _vectors(self.directions())
        expected = self.definition(x.clone(), vectors)
        for site in self.intervention().sites_on(tiny_layout()):
            update = _update(self.intervention(), site)
            assert update is not None, f"The update at {site} is nothing under the suite's options."
            found = apply_update(_as_double(update), x)
            error = float((found - expected).abs().max())
            assert error < 1e-5, f"The update at {site} is {error:.1e} away from the definition."
            assert not torch.equal(found, x), "The update changes nothing, so this check says nothing."

    def test_affine_updates_are_well_formed(self) -> None:
        """Shapes fit, values are finite, and reads come with writes."""
        for site in self.intervention().sites_on(tiny_layout()):
            update = _update(self.intervention(), site)
            if not isinstance(update, Affine):
                continue
            assert (update.reads is None) == (update.writes is None), "Reads come with writes."
            if update.reads is not None and update.writes is not None:
                assert update.reads.shape == update.writes.shape and update.reads.ndim == 2
            assert update.bias is None or update.bias.shape == (D_MODEL,)
            for value in (update.reads, update.writes, update.bias):
                assert value is None or bool(torch.isfinite(value).all()), "An update holds NaN or infinite values."

    def test_leaves_its_input_alone(self) -> None:
        """Neither the values nor the direction are written into."""
        made, x = self.intervention(), self.x()
        for site in made.sites_on(tiny_layout()):
            update = _update(made, site)
            if isinstance(update, Pointwise):
                update.function(x)
        assert torch.equal(x, self.x()), "The function writes into its argument."
        assert torch.equal(_vectors(made.directions), _vectors(self.directions())), "The direction was written into."

    def test_default_sites_are_the_models(self) -> None:
        """Without sites of the user's, it acts at some that the model has, none twice."""
        layout = tiny_layout()
        sites = self.intervention().sites_on(layout)
        assert sites and len(set(sites)) == len(sites), f"Default sites {[str(site) for site in sites]}."
        for site in sites:
            layout.require(site)

    def test_sites_of_the_user_win(self) -> None:
        """Named sites are used as they are named, and one that isn't there is refused."""
        named = (Site("mlp_out", 2), Site(RESID_PRE, 0))
        assert self.intervention(sites=named).sites_on(tiny_layout()) == named
        with pytest.raises(SteerkitError):
            self.intervention(sites=[Site(RESID_PRE, N_LAYERS)]).sites_on(tiny_layout())

    def test_takes_another_direction(self) -> None:
        """Controls put random directions in its place: everything else stays."""
        directions = self.directions()
        if not directions:
            pytest.skip("takes no direction")
        others = {
            one.name: one.with_vectors(torch.randn(self.rank, D_MODEL, generator=_generator(5 + number)))
            for number, one in enumerate(directions)
        }
        made = self.intervention(sites=[self.site()], positions=Positions.parse(-1)).with_directions(others)
        assert made.sites_on(tiny_layout()) == (self.site(),) and made.positions == Positions.parse(-1)
        update = _update(made, self.site())
        assert update is not None
        expected = self.definition(self.x(), _vectors(tuple(others.values())))
        error = (apply_update(_as_double(update), self.x()) - expected).abs().max()
        assert float(error) < 1e-5, "With another direction the update isn't the definition with its vectors."

    def test_zero_is_nothing(self) -> None:
        """Under ``zero`` there is no update, so nothing is attached and logits are bit-identical."""
        if self.zero is None:
            pytest.skip("has no options under which it does nothing")
        made = self.intervention(**self.zero)
        assert not at_sites([made], tiny_layout()).slots, "A zero intervention attaches something."
        model = small_model()
        plain = _logits(model)
        with steered(model, [made]):
            assert torch.equal(_logits(model), plain)

    # What it does to a model

    def test_acts_at_its_site(self) -> None:
        """On a live model the stream at the site becomes the definition of what it was."""
        model, tap = small_model(), tiny_layout().tap(self.site())
        before = seen(model, tap)
        with steered(model, [self.intervention(sites=[self.site()])]):
            after = seen(model, tap)
        expected = self.definition(before.double(), _vectors(self.directions()))
        error = float((after.double() - expected).abs().max())
        assert error < 1e-4, f"The stream at {self.site()} is {error:.1e} away from the definition."

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_edits_its_positions_only(self, side: str) -> None:
        """With positions named, the other tokens of the site keep their bits, padding among them."""
        model, tap = small_model(), tiny_layout().tap(self.site())
        frame = frame_of_prompts([4, 6], [(), ()], width=6, padding_side=side)
        before = seen(model, tap)
        with steered(model, [self.intervention([self.site()], Positions.parse("prompt[-2:]"))], frame):
            after = seen(model, tap)
        ends = [6, 6] if side == "left" else [4, 6]
        edited = torch.zeros(2, 6, dtype=torch.bool)
        for row, end in enumerate(ends):
            edited[row, end - 2 : end] = True
        assert torch.equal(before[~edited], after[~edited]), "A token that wasn't meant has changed."
        expected = self.definition(before.double(), _vectors(self.directions()))
        assert float((after.double() - expected)[edited].abs().max()) < 1e-4, "A token that was meant isn't edited."

    def test_composes(self) -> None:
        """Twice at one site is the definition of the definition."""
        model, tap = small_model(), tiny_layout().tap(self.site())
        made = self.intervention(sites=[self.site()])
        before, vectors = seen(model, tap).double(), _vectors(self.directions())
        with steered(model, [made, made]):
            after = seen(model, tap).double()
        expected = self.definition(self.definition(before, vectors), vectors)
        assert float((after - expected).abs().max()) < 1e-4

    @pytest.mark.parametrize("fails", [False, True])
    def test_leaves_no_trace(self, fails: bool) -> None:
        """After the block, and after an exception in it, hooks, bits and logits are what they were."""
        model = small_model()
        bits, hooks, plain = _bits(model), _hooks(model), _logits(model)
        try:
            with steered(model, [self.intervention()]):
                assert not torch.equal(_logits(model), plain), "At its default sites it changes no logit."
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert _hooks(model) == hooks, "A hook is left on the model."
        assert all(torch.equal(bits[name], value) for name, value in _bits(model).items()), "A weight has changed."
        assert torch.equal(_logits(model), plain)

    def test_works_in_bfloat16(self) -> None:
        """Vectors are cast to the model's dtype: logits stay bfloat16 and finite, and change."""
        model = tiny_model("llama", n_layers=N_LAYERS, d_model=D_MODEL, dtype=torch.bfloat16)
        plain = _logits(model)
        with steered(model, [self.intervention()]):
            logits = _logits(model)
        assert logits.dtype == torch.bfloat16 and bool(torch.isfinite(logits).all())
        assert not torch.equal(logits, plain)


def small_model() -> PreTrainedModel:
    """The tiny random Llama that the checks run on, float32."""
    return tiny_model("llama", n_layers=N_LAYERS, d_model=D_MODEL)


def tiny_layout() -> Layout:
    """Its layout, written out here, so that the suite depends on no adapter."""
    blocks = []
    for layer in range(N_LAYERS):
        path = f"model.layers.{layer}"
        writers = (Writer("attn_out", Tap(f"{path}.self_attn")), Writer("mlp_out", Tap(f"{path}.mlp")))
        blocks.append(Block(path, writers, Tap(f"{path}.post_attention_layernorm", "input")))
    return Layout(D_MODEL, "model", Tap("model.embed_tokens"), tuple(blocks), "model.norm", "lm_head")


@contextmanager
def steered(
    model: nn.Module, placements: Sequence[Placement | Intervention[Any]], frame: Frame | None = None
) -> Iterator[None]:
    """The model under interventions; ``frame`` says where prompts lie."""
    layout = tiny_layout()
    with attached(model, layout, at_sites(placements, layout)) as cursor:
        cursor.set_frame(frame)
        yield


def _tokens() -> Tensor:
    return torch.randint(6, 250, (2, 6), generator=_generator(3))


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    logits: Tensor = model(input_ids=_tokens()).logits
    return logits


def seen(model: nn.Module, tap: Tap) -> Tensor:
    """What passes the tap, after whatever is attached there already."""
    values: list[Tensor] = []
    handle = register_tap(model, tap, lambda x: values.append(x.detach().clone()))
    try:
        _logits(model)
    finally:
        handle.remove()
    return values[0]


def _update(placement: Placement, site: Site) -> Affine | Pointwise | None:
    return placement.intervention.update(site, tiny_layout())


def _vectors(directions: Sequence[Direction]) -> Tensor:
    return torch.cat([torch.zeros(0, D_MODEL), *(one.vectors for one in directions)]).double()


def _as_double(update: Affine | Pointwise) -> Affine | Pointwise:
    if isinstance(update, Pointwise):
        return update
    parts = (update.reads, update.writes, update.bias)
    return Affine(*(None if part is None else part.double() for part in parts))


def _bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(value) for name, value in model.state_dict().items()}


def _hooks(model: nn.Module) -> list[tuple[str, int]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [(f"{name}.{kind}", len(getattr(module, kind))) for name, module in model.named_modules() for kind in kinds]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
