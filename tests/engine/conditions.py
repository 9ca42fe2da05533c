"""Random conditions and the models that they are put on, for the differential tests.

Directions come from one small basis, so that ablations repeat, overlap and cancel, which is where a lowering
simplifies and may simplify too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from steerkit.api.architecture import Layout
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Affine, Gate, Intervention, Placement, Pointwise, Update
from steerkit.engine.tiny.models import VOCAB_SIZE, YI_VOCAB_SIZE, tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from steerkit.types import HEAD_OUT, RESID_POST, RESID_PRE, Positions, Schedule, Site
from tests.engine.declared import DECLARED, declared_model

MODEL_TYPES = (
    "llama",
    "yi",
    "qwen",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "granite",
    "opt",
    "gpt2",
    "gpt_oss",
    "scaled",
    "mistral",
    "mixtral",
    "falcon",
    "bloom",
    "phi",
    "olmo2",
    "mamba",
)
"""All four families, with a mixture of experts and with what Gemma puts around its writers; and layouts with factors,
with numbers on the stream, with rows and positions in one axis, and with two embeddings; and types that nobody
declared, as they are discovered."""

EXPERTS = frozenset({"qwen2_moe", "qwen3_moe", "gpt_oss", "mixtral"})
UNDECLARED = frozenset({"mistral", "mixtral", "falcon", "bloom", "phi", "olmo2", "mamba"})
MODES = ("auto", "fold", "hook", "interpret")
ALPHABET = tuple(range(70, 76))
"""Few tokens, so that ``from_token`` finds its own, early, late, twice or never."""


def vectors(width: int, rank: int, seed: int = 0) -> Tensor:
    """Random rows ``[rank, width]`` of order 1 per element."""
    return torch.randn(rank, width, generator=torch.Generator().manual_seed(seed))


class Updates(Intervention[NoOptions]):
    """Updates given as such, one per site."""

    def __init__(self, updates: Mapping[Site, Update]) -> None:
        super().__init__(NoOptions())
        self.updates = updates

    def default_sites(self, layout: Layout) -> list[Site]:
        raise AssertionError("sites are given")

    def update(self, site: Site, layout: Layout) -> Update:
        return self.updates[site]


class Given(Placement):
    """Updates given as such, one per site, in forward order or any other."""

    label: str

    def __init__(
        self,
        updates: Mapping[str, Update],
        positions: str | int = "all",
        *,
        schedule: Any = None,
        gate: Gate | None = None,
        factor: Tensor | None = None,
        label: str = "",
    ) -> None:
        parsed = {Site.parse(site): update for site, update in updates.items()}
        chosen = Schedule.parse(schedule)
        super().__init__(Updates(parsed), tuple(parsed), Positions.parse(positions), chosen, gate, factor)
        object.__setattr__(self, "label", label)

    def __repr__(self) -> str:
        parts = [self.label or ", ".join(map(str, self.sites or ())), f"at {self.positions}"]
        parts += [] if self.schedule.is_constant else [f"× {self.schedule}"]
        parts += [] if self.gate is None else [f"if {self.gate}"]
        parts += [] if self.factor is None else [f"factor {self.factor.tolist()}"]
        return f"<{' '.join(parts)}>"


@cache
def differential_model(model_type: str) -> LiveModel:
    """A two-layer model of a type, made once."""
    if model_type in DECLARED:
        return declared_model(model_type)
    if model_type in UNDECLARED:
        return wrap(tiny_model(model_type, n_layers=2), tiny_tokenizer(), adapter="auto", self_test=False)
    vocabulary = YI_VOCAB_SIZE if model_type == "yi" else VOCAB_SIZE
    return wrap(tiny_model(model_type, n_layers=2), tiny_tokenizer(vocabulary), self_test=False)


class Trace:
    """A model as it was: its modules, parameters and buffers by identity and by bits, and its hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shape = self._shape()
        self.bits = [(value, value.detach().clone()) for value in self._tensors()]

    def check(self) -> None:
        """Nothing of ours is left, and nothing of the model's is gone or changed."""
        changed = [(now, then) for now, then in zip(self._shape(), self.shape, strict=True) if now != then]
        assert not changed, changed
        tensors = self._tensors()
        assert [id(value) for value in tensors] == [id(value) for value, _ in self.bits]
        for value, bits in self.bits:
            assert torch.equal(value, bits)

    def _tensors(self) -> list[Tensor]:
        named = (self.model.named_parameters, self.model.named_buffers)
        return [value for each in named for _, value in each(remove_duplicate=False)]

    def _shape(self) -> list[object]:
        found: list[object] = []
        for name, module in self.model.named_modules(remove_duplicate=False):
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            ours = [hook for hook in hooks if not getattr(hook, "__module__", "").startswith("transformers.")]
            slots = [
                (key, value is None) for part in (module._parameters, module._buffers) for key, value in part.items()
            ]
            # On the outermost module transformers keeps notes of its own about caches.
            notes = sorted(vars(module)) if name else []
            found.append((name, type(module), ours, slots, notes, module.training))
        return found


@cache
def trace_of(model_type: str) -> Trace:
    """How a shared model was before anything touched it."""
    return Trace(differential_model(model_type).model)


# Updates


def _basis(width: int) -> Tensor:
    return torch.linalg.qr(vectors(width, 3, 99).T)[0].T.contiguous()


def _spans(width: int) -> dict[str, Tensor]:
    """Orthonormal rows of spans that overlap, contain and repeat each other."""
    a, b, c = _basis(width)
    ab, turned = (a + b) / 2**0.5, torch.stack([a + b, a - b]) / 2**0.5
    return {
        "a": a[None],
        "-a": -a[None],
        "b": b[None],
        "a+b": ab[None],
        "a,b": torch.stack([a, b]),
        "a,b turned": turned,
        "b,c": torch.stack([b, c]),
        "a,b,c": torch.stack([a, b, c]),
    }


def _functions(width: int) -> dict[str, Pointwise]:
    """Updates that aren't affine, or don't say so; none of them magnifies rounding."""
    a, b, _ = _basis(width)

    def rotate(x: Tensor) -> Tensor:
        p, q, one, other = x @ a.to(x), x @ b.to(x), a.to(x), b.to(x)
        return x + (q - p)[..., None] * one + (-p - q)[..., None] * other

    return {
        "tanh": Pointwise(torch.tanh),
        "clamp": Pointwise(lambda x: x.clamp(-0.7, 0.9)),
        "rotate": Pointwise(rotate),
        "cap": Pointwise(lambda x: x - ((x @ a.to(x)).clamp(min=0.2) - 0.2)[..., None] * a.to(x)),
        "identity": Pointwise(lambda x: x),
    }


@st.composite
def updates(draw: st.DrawFn, width: int, affine_only: bool) -> tuple[str, Update]:
    """A name and an update of a given width."""
    kinds = ["ablate", "ablate", "ablate", "add", "add", "affine", "edit"]
    kind = draw(st.sampled_from(kinds if affine_only else [*kinds, "function"]))
    if kind == "function":
        name = draw(st.sampled_from(sorted(_functions(width))))
        return name, _functions(width)[name]
    if kind == "add":
        name, size = draw(st.sampled_from(["a", "b", "a+b"])), draw(st.sampled_from([1.5, -1.5, 3.0, 0.0]))
        return f"add {size}·({name})", Affine(bias=size * _spans(width)[name][0])
    if kind == "affine":
        rank, bias, seed = draw(st.integers(0, 3)), draw(st.booleans()), draw(st.integers(0, 3))
        reads = vectors(width, rank, seed) / width**0.5 if rank else None
        writes = vectors(width, rank, seed + 10) / width**0.5 if rank else None
        return f"affine {rank}{'b' if bias else ''}{seed}", Affine(
            reads, writes, vectors(width, 1, 5)[0] if bias else None
        )
    name = draw(st.sampled_from(sorted(_spans(width))))
    rows = _spans(width)[name]
    if kind == "edit":
        mean = rows.T @ (rows @ vectors(width, 1, 6)[0])
        return f"edit {name}", Affine(-rows, rows, mean + rows[0])
    part = draw(st.sampled_from([1.0, 1.0, 1.0, 1.0, 0.5, 2.0]))
    return f"ablate {part:g}·({name})", Affine(-rows, part * rows)


def _site_groups(layout: Layout) -> dict[str, tuple[Site, ...]]:
    wide = tuple(site for site in layout.sites() if site.stream != HEAD_OUT)
    neighbours = (Site(RESID_POST, 0), Site(RESID_PRE, 1))
    return {
        "writers": layout.writer_sites(),
        "all but heads": wide,
        "block writers": tuple(site for site in layout.writer_sites() if site.layer >= 0),
        "resid_pre": layout.sites_of(RESID_PRE),
        "neighbours": neighbours,
        "embed and first": (wide[0], wide[1]),
    }


@dataclass(frozen=True)
class Known:
    """What may be asked of the rows: whether prompts' ends, the user's text or the row's end are known."""

    prompt: bool = True
    instruction: bool = False
    end: bool = True


def _positions(known: Known) -> list[str]:
    found = ["0", "[0,2]", "1:", ":2"]
    found += [f"from_token(#{ALPHABET[0]})", f"from_token(#{ALPHABET[1]})", "from_token(ab)", "from_token(c)"]
    if known.prompt:
        found += ["prompt", "generated", "last", "-2", "[-1,0]", "prompt[1:-1]", "generated[:1]", "generated[1:]"]
    if known.instruction:
        found += ["instruction", "post_instruction", "instruction[-1]", "post_instruction[1:]"]
    if known.end:
        found += ["all[-1]", "all[:-1]"]
    return found


@st.composite
def gates(draw: st.DrawFn, layout: Layout, first: Site, known: Known) -> Gate:
    """A gate that is read no later than at ``first``, or on the prompt by an extra pass."""
    order = [site for site in layout.sites() if site.stream != HEAD_OUT]
    at = draw(st.sampled_from(["token", "prompt"])) if known.prompt else "token"
    prepass = at == "prompt" and draw(st.booleans())
    before = [site for site in order if layout.order[site] <= layout.order[first]]
    site = draw(st.sampled_from(order if prepass else before))
    return _gate(
        layout.d_model,
        draw(st.integers(20, 21)),
        site,
        draw(st.sampled_from([0.05, -0.3])),
        draw(st.sampled_from(["above", "below"])),
        at,
        draw(st.sampled_from(["last", "prompt", "1:", "[0,2]"])) if at == "prompt" else "last",
        prepass,
    )


@cache
def _gate(
    width: int, seed: int, site: Site, threshold: float, side: Any, at: Any, positions: str, prepass: bool
) -> Gate:
    """One object for equal gates, so that interventions and rows share them."""
    direction = Direction(2 * vectors(width, 1, seed), site, name=f"g{seed}")
    return Gate(direction, threshold, side, at=at, positions=Positions.parse(positions), prepass=prepass)


def _n_heads(layout: Layout, site: Site) -> int:
    heads = layout.blocks[site.layer].heads
    assert heads is not None  # otherwise there is no such site
    return heads.n_heads


@st.composite
def interventions(draw: st.DrawFn, layout: Layout, known: Known, plain: bool, focus: Site | None) -> Given:
    """One intervention; ``plain``: at all tokens and always; ``focus``: a site at which it may well meet others."""
    heads = layout.sites_of(HEAD_OUT)
    # All heads of a layer side by side, and single ones, the first and the last.
    heads = (*heads, *(replace(site, head=head) for site in heads for head in (0, _n_heads(layout, site) - 1)))
    groups = _site_groups(layout)
    where = draw(st.sampled_from(["one", "one", "some", "heads", *groups, *(["writers"] * 2 if plain else [])]))
    if focus is not None and draw(st.booleans()):
        where = "focus"
    wide = groups["all but heads"]
    sites: Sequence[Site]
    if where == "focus" and focus is not None:
        sites = (focus,)
    elif where == "heads" and heads:
        sites = (draw(st.sampled_from(heads)),)
    elif where in ("one", "heads"):
        sites = (draw(st.sampled_from(wide)),)
    elif where == "some":
        sites = draw(st.lists(st.sampled_from(wide), min_size=2, max_size=3, unique=True))
    else:
        sites = groups[where]
    name, update = draw(updates(layout.width(sites[0]), affine_only=len(sites) > 3))
    label = f"{name} @ {where if where in groups else ', '.join(map(str, sites))}"
    given = {str(site): update for site in sites}
    if plain:
        return Given(given, label=label)
    positions = draw(st.sampled_from(["all"] * 6 + _positions(known)))
    schedules = [None] * 5 + (["linear(1, 0, 2)", "exponential(0.5)", [0.5, -1.0, 0.25]] if known.prompt else [])
    factor = draw(st.sampled_from([None] * 6 + [0.5, -1.0]))
    gate = None
    if draw(st.integers(0, 3)) == 0:
        gate = draw(gates(layout, min(sites, key=layout.order.__getitem__), known))
        if gate.at == "prompt" and not gate.prepass:
            positions = draw(st.sampled_from(["all", "generated", "generated[1:]"]))
    return Given(
        given,
        positions,
        schedule=draw(st.sampled_from(schedules)),
        gate=gate,
        factor=None if factor is None else torch.tensor([factor]),
        label=label,
    )


@st.composite
def conditions(draw: st.DrawFn, layout: Layout, known: Known, *, plain: bool = False, most: int = 6) -> list[Given]:
    """One to ``most`` interventions that act together."""
    focus = draw(st.none() | st.sampled_from(layout.sites()))
    return draw(st.lists(interventions(layout, known, plain, focus), min_size=1, max_size=most))


@st.composite
def row_conditions(
    draw: st.DrawFn, rows: int, layout: Layout, known: Known, *, plain: bool = False
) -> list[list[Given] | None]:
    """A condition for each row, or None; rows may share one, or interventions of one."""
    first = draw(conditions(layout, known, plain=plain, most=3))
    second = draw(conditions(layout, known, plain=plain, most=2))
    choices = [None, None, first, first, second, [*second, *first], [*first, *second[:1]]]
    return [draw(st.sampled_from(choices)) for _ in range(rows)]


def token_rows(rows: int, shortest: int = 4, longest: int = 8) -> st.SearchStrategy[list[list[int]]]:
    """Rows of tokens, each beginning with the begin token."""
    row = st.lists(st.sampled_from(ALPHABET), min_size=shortest - 1, max_size=longest - 1)
    return st.lists(row.map(lambda tail: [2, *tail]), min_size=rows, max_size=rows)
