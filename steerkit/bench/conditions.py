"""The cases: what is attached, how big it is, and the proof that it does what it says before anybody times it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

import torch

from steerkit.api.direction import Direction
from steerkit.api.intervention import Gate, Placement
from steerkit.bench.by_hand import BY_HAND, BY_HAND_CASES, by_hand
from steerkit.bench.measure import MeasurementError
from steerkit.engine.sites.taps import register_tap
from steerkit.errors import nearest
from steerkit.session import ablate, add
from steerkit.types import Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.bench.workloads import Workload
    from steerkit.engine.lowering.edits import Mode
    from steerkit.session.model import LiveModel

MODES: Final = ("fold", "hook")
ALL_MODES: Final = (*MODES, BY_HAND)
"""With what stands beside them for contrast, where it is asked for."""
ATTACHED_CASES: Final = ("add_all", "ablate_all", "rank8_ablate_all")
"""Those whose attaching and detaching is timed."""
SHARE: Final = 0.2
"""An added vector's norm, as a share of the stream's own at its site: enough to show, not enough to drown the model."""

TOLERANCE: Final = 1e-5
"""Of the size of the logits: 1e-4 where they are of order 10. In float32."""

TOLERANCE_HALF: Final = 0.05
"""In bfloat16 and float16, root mean square over root mean square. A rounded stream can't do better in a deep model."""

Rows = tuple[tuple[Placement, ...], ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """What the unsteered stream looks like, for the sizes of vectors and thresholds.

    Args:
        norms: mean norm of ``resid_pre`` by layer.
        gate_site: where the gate reads.
        gate_values: the stream there, ``[tokens, d_model]``.
    """

    norms: tuple[float, ...]
    gate_site: Site
    gate_values: Tensor


@dataclass(frozen=True, eq=False)
class Case:
    """A case of a benchmark on one model: interventions for every row alike, or one tuple of them per row."""

    case: str
    shared: tuple[Placement, ...] = ()
    rows: Rows | None = None


def observe(live: LiveModel, workload: Workload) -> Stream:
    """Run the workload's prompts once and look at the stream."""
    sites = live.layout.sites_of("resid_pre")
    gate_site = sites[len(sites) // 3]
    norms: list[float] = []
    held: list[Tensor] = []

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(x: Tensor) -> None:
            norms.append(float(x.detach().float().norm(dim=-1).mean()))
            if site == gate_site:
                held.append(x.detach().float().flatten(0, 1).cpu())

        return read

    handles = [register_tap(live.hf_model, live.layout.tap(site), reader(site)) for site in sites]
    try:
        with torch.no_grad():
            live.hf_model(workload.ids, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return Stream(tuple(norms), gate_site, held[0])


@dataclass(frozen=True, eq=False)
class _Maker:
    """Draws directions for one model. The same names give the same ones."""

    live: LiveModel
    stream: Stream
    batch: int

    def direction(self, site: Site, seed: int, rank: int = 1) -> Direction:
        """Random vectors at a site, each with ``SHARE`` of the stream's norm there."""
        generator = torch.Generator().manual_seed(1000 * seed + max(site.layer, 0))
        vectors = torch.randn(rank, self.live.layout.d_model, generator=generator)
        norm = SHARE * self.stream.norms[max(site.layer, 0)]
        return Direction(vectors / vectors.norm(dim=1, keepdim=True) * norm, site, name=f"random {seed}")

    def present(self, seed: int, rank: int = 1) -> Direction:
        """The stream's mean, and random vectors beside it. To take out a direction that a wide stream hardly has
        changes little more than rounding does in half precision, and a check of it would prove nothing."""
        drawn = self.direction(self.sites[0], seed, rank)
        vectors = drawn.vectors.clone()
        mean = self.stream.gate_values.mean(dim=0)
        vectors[0] = mean / mean.norm() * vectors[0].norm()
        return drawn.replace(vectors=vectors)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The stream before every block."""
        return self.live.layout.sites_of("resid_pre")

    def idle(self) -> Case:
        nothing = self.direction(self.sites[-1], 0)
        return Case("idle", (add(nothing, coefficient=0.0), ablate(nothing, coefficient=0.0)))

    def add_one(self) -> Case:
        return Case("add_one", (add(self.direction(self.sites[len(self.sites) // 2], 1)),))

    def add_all(self, seed: int = 2) -> Case:
        return Case("add_all", tuple(add(self.direction(site, seed)) for site in self.sites))

    def ablate_all(self) -> Case:
        return Case("ablate_all", (ablate(self.present(3)),))

    def rank8(self) -> Case:
        return Case("rank8_ablate_all", (ablate(self.present(4, rank=8)),))

    def rows(self) -> Case:
        return Case("rows", rows=tuple(self.add_all(10 + row).shared for row in range(self.batch)))

    def gated(self) -> Case:
        site = self.stream.gate_site
        gate = Gate(self._unit(site), self._threshold(site), site=site)
        made = tuple(add(self.direction(later, 6), gate=gate) for later in self.sites[site.layer + 1 :])
        return Case("gated", made)

    def _unit(self, site: Site) -> Direction:
        vectors = self.direction(site, 5).vectors
        return Direction(vectors / vectors.norm(), site, name="gate")

    def _threshold(self, site: Site) -> float:
        """In the widest gap near the median, so that no token is so close to it that rounding decides."""
        ordered = (self.stream.gate_values @ self._unit(site).vectors[0]).sort().values
        middle = ordered[len(ordered) // 3 : 2 * len(ordered) // 3 + 2]
        gap = int((middle[1:] - middle[:-1]).argmax()) if len(middle) > 1 else 0
        return float(middle[gap : gap + 2].mean())


_BUILDERS: Final[Mapping[str, Callable[[_Maker], Case]]] = MappingProxyType(
    {
        "idle": _Maker.idle,
        "add_one": _Maker.add_one,
        "add_all": _Maker.add_all,
        "ablate_all": _Maker.ablate_all,
        "rank8_ablate_all": _Maker.rank8,
        "rows": _Maker.rows,
        "gated": _Maker.gated,
    }
)

CASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "idle": "an emptied condition: every coefficient is 0",
        "add_one": "one vector at one layer",
        "add_all": "a vector at every layer",
        "ablate_all": "ablation at every writer",
        "rank8_ablate_all": "rank-8 ablation at every writer",
        "rows": "every row its own vectors at every layer",
        "gated": "a vector at every later layer, where the token projects on a direction",
    }
)
"""What each case is, in words."""

COMPILED_CASES: Final = tuple(case for case in CASES if case != "gated")
"""What can stand in prepared sites. Gates look at values, which a compiled graph doesn't wait for."""


def build(case: str, live: LiveModel, stream: Stream, batch: int) -> Case:
    """The interventions of a case, sized for a model.

    Args:
        case: a name from ``CASES``.
        live: the model.
        stream: what its unsteered stream looks like.
        batch: rows of the workload.
    """
    return _BUILDERS[case](_Maker(live, stream, batch))


@contextmanager
def steered(live: LiveModel, condition: Case, mode: str) -> Iterator[None]:
    """Run the body under a condition: calls of the transformers model itself are steered."""
    lowering = cast("Mode", mode)
    if mode == BY_HAND:
        with by_hand(live, condition):
            yield
    elif condition.rows is not None:
        with live.steer_rows(condition.rows, mode=lowering):
            yield
    else:
        with live.steer(*condition.shared, mode=lowering):
            yield


def known_cases(names: Sequence[str] | None) -> tuple[str, ...]:
    """The cases asked for, in the order of ``CASES``; all of them without names.

    Raises:
        MeasurementError: for a name that isn't one.
    """
    return known_names(names, tuple(CASES), "case")


def known_modes(names: Sequence[str] | None) -> tuple[str, ...]:
    """The modes asked for; ``MODES`` without names. Raises as ``known_cases``."""
    return known_names(names, ALL_MODES, "mode") if names else MODES


def measured(cases: Sequence[str], modes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Which cases are measured in which modes: by hand only what has hooks of its own."""
    return tuple((case, mode) for case in cases for mode in modes if mode != BY_HAND or case in BY_HAND_CASES)


def known_names(names: Sequence[str] | None, known: Sequence[str], kind: str) -> tuple[str, ...]:
    """The names asked for, in the order of the known ones. Raises as ``known_cases``."""
    for name in names or ():
        if name not in known:
            raise MeasurementError(f"Unknown {kind} {name!r}. {nearest(name, known, kind)}")
    return tuple(name for name in known if not names or name in names)
