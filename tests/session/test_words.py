"""The words of a Python session: positions, schedules, gates, and coefficients that are tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import steerkit
from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Gate, Intervention, Placement
from steerkit.catalog import Catalog
from steerkit.errors import AttachError, PositionError, ScheduleError, SiteError, SteerkitError
from steerkit.testing.intervention import tiny_layout
from steerkit.types import Positions, Schedule, Site

SITE = Site("resid_pre", 1)


def direction(rank: int = 1) -> Direction:
    return Direction(torch.arange(1.0, 1 + 3 * rank).reshape(rank, 3), SITE, name="warmth")


def bias(built: Placement) -> torch.Tensor:
    update = built.intervention.update(SITE, tiny_layout())
    assert isinstance(update, Affine) and update.bias is not None
    return update.bias


@pytest.mark.parametrize("name", ["add", "ablate", "intervention"])
def test_every_way_of_building_takes_the_words(name: str) -> None:
    gate = steerkit.gate(direction(), above=3)
    words: Any = {"positions": "from_token(</think>)", "schedule": "linear(1, 0, 64)", "gate": gate, "sites": "embed"}
    if name == "intervention":
        built = steerkit.intervention("add", direction(), coefficient=2.0, **words)
    else:
        built = getattr(steerkit, name)(direction(), coefficient=2.0, **words)
    assert built.positions == Positions("from_token", after="</think>")
    assert built.schedule == Schedule("linear", (1, 0, 64))
    assert built.gate is gate
    assert built.intervention.options.coefficient == 2.0
    plain = steerkit.ablate(direction())
    assert (plain.positions, plain.schedule, plain.gate, plain.factor) == (Positions("all"), Schedule(), None, None)


@pytest.mark.parametrize("schedule", [[1, 0.5], (1.0, 0.5), Schedule("list", (1, 0.5))])
def test_a_schedule_may_be_a_list(schedule: Any) -> None:
    assert steerkit.add(direction(), schedule=schedule).schedule == Schedule("list", (1, 0.5))


@pytest.mark.parametrize("positions", [[-3, -1], (-3, -1), "[-3, -1]"])
def test_positions_may_be_a_list(positions: Any) -> None:
    assert steerkit.add(direction(), positions=positions).positions == Positions("", (-3, -1))


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        ({"schedule": "linear(1, 0)"}, ScheduleError, "takes 3 finite numbers"),
        ({"schedule": "lin(1, 0, 3)"}, ScheduleError, "Did you mean 'linear'"),
        ({"positions": "lst"}, PositionError, "Did you mean 'last'"),
        ({"gate": "harm"}, SteerkitError, "a gate comes from steerkit.gate(direction, above=3.0), not str"),
        ({"gate": {"above": 3}}, SteerkitError, "not dict"),
        ({"gate": direction()}, SteerkitError, "not Direction"),
        ({"gates": None}, SteerkitError, "gates"),
    ],
)
def test_words_that_are_none_say_what_to_write(words: Any, error: type[SteerkitError], part: str) -> None:
    with pytest.raises(error) as caught:
        steerkit.add(direction(), **words)
    assert part in str(caught.value)


def test_a_plugin_of_ones_own_needs_to_know_no_word() -> None:
    """Its own ``__init__`` takes options and directions, and nothing is set on what it makes."""
    catalog = Catalog.discover()
    entry = catalog.entry("intervention", "add")
    assert entry.spec is not None
    own = replace(entry, spec=replace(entry.spec, implementation=f"{__name__}:Own"))
    catalog = replace(catalog, entries=tuple(own if one is entry else one for one in catalog.entries))
    gate = steerkit.gate(direction(), below=1)
    built = steerkit.intervention("add", direction(), schedule=[2], gate=gate, catalog=catalog)
    assert type(built.intervention).__name__ == "Own"
    assert set(vars(built.intervention)) == {"options", "directions"}
    assert (built.schedule, built.gate) == (Schedule("list", (2,)), gate)


class Own(Intervention):
    def __init__(self, options: Any, directions: Any) -> None:
        super().__init__(options, directions)

    def default_sites(self, layout: Any) -> Any:
        return (SITE,)

    def update(self, site: Site, layout: Any) -> None:
        return None


# Gates.


def test_a_gate_in_every_form() -> None:
    plain = steerkit.gate(direction(), above=3)
    assert isinstance(plain, Gate)
    assert (plain.threshold, plain.side, plain.site, plain.at) == (3.0, "above", SITE, "token")
    assert (plain.positions, plain.prepass) == (Positions("last"), False)
    full = steerkit.gate(direction(), below=-1, site="embed", at="prompt", positions="instruction", prepass=True)
    assert (full.threshold, full.side, full.site, full.at) == (-1.0, "below", Site("embed"), "prompt")
    assert (full.positions, full.prepass) == (Positions("instruction"), True)
    assert steerkit.gate(direction(), above=0).threshold == 0.0
    assert steerkit.gate(direction(), at="prompt", positions=[-2, -1], below=1).positions == Positions("", (-2, -1))


@pytest.mark.parametrize(
    "threshold", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), torch.tensor([2]), torch.tensor(2.0).double()]
)
def test_a_threshold_is_any_one_number(threshold: Any) -> None:
    found = steerkit.gate(direction(), above=threshold).threshold
    assert found == 2.0 and type(found) is float


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        ({}, SteerkitError, "takes one threshold: gate(direction, above=3.0) or gate(direction, below=3.0)"),
        ({"above": 1, "below": 2}, SteerkitError, "takes one threshold"),
        ({"above": float("nan")}, SteerkitError, "one finite number"),
        ({"below": float("-inf")}, SteerkitError, "one finite number"),
        ({"above": True}, SteerkitError, "one finite number"),
        ({"above": "3"}, SteerkitError, "one finite number"),
        ({"above": torch.tensor([1.0, 2.0])}, SteerkitError, "one finite number"),
        ({"above": torch.tensor(float("nan"))}, SteerkitError, "one finite number"),
        ({"above": torch.tensor(True)}, SteerkitError, "one finite number"),
        ({"above": torch.tensor(1j)}, SteerkitError, "one finite number"),
        ({"above": 1, "site": "blocks.1.resid_pree"}, SiteError, "Did you mean 'resid_pre'"),
        ({"above": 1, "at": "promt"}, AttachError, "not 'promt'"),
        ({"above": 1, "prepass": True}, AttachError, "prepass is for gates that a row's prompt decides"),
        ({"above": 1, "positions": "instruction"}, PositionError, "positions are for at='prompt'"),
        ({"above": 1, "at": "prompt", "positions": "generated"}, PositionError, "tokens of the prompt"),
        ({"above": 1, "at": "prompt", "positions": "from_token(x)"}, PositionError, "not 'from_token(x)'"),
        ({"above": 1, "at": "prompt", "positions": "lst"}, PositionError, "Did you mean 'last'"),
    ],
)
def test_a_gate_that_cannot_be_says_what_to_write(words: Any, error: type[SteerkitError], part: str) -> None:
    with pytest.raises(error) as caught:
        steerkit.gate(direction(), **words)
    assert part in str(caught.value)


def test_a_gate_needs_a_direction_that_decides() -> None:
    with pytest.raises(SteerkitError, match=r"A gate takes a Direction, .* not Tensor"):
        steerkit.gate(torch.ones(3), above=1)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="one finite vector"):
        steerkit.gate(direction(2), above=1)
    with pytest.raises(AttachError, match="one finite vector"):
        steerkit.gate(direction().with_vectors(torch.zeros(1, 3)), above=1)


# Coefficients that are tensors.


@pytest.mark.parametrize("name", ["add", "ablate"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_one_element_is_a_factor(name: str, shape: tuple[int, ...]) -> None:
    coefficient = torch.full(shape, 4.0, requires_grad=True)
    built = getattr(steerkit, name)(direction(), coefficient=coefficient, schedule="exponential(0.9)")
    assert built.factor is coefficient
    assert built.intervention.options.coefficient == 1.0
    assert built.schedule == Schedule("exponential", (0.9,))
    built.factor.sum().backward()
    assert coefficient.grad is not None and coefficient.grad.sum() == 1


def test_a_factor_says_what_the_number_says() -> None:
    coefficient = torch.tensor(-2.5)
    tensor, number = (steerkit.add(direction(2), coefficient=one) for one in (coefficient, -2.5))
    assert number.factor is None and tensor.factor is not None
    assert torch.equal(tensor.factor * bias(tensor), bias(number))


def test_one_for_each_vector_multiplies_the_vectors() -> None:
    coefficient = torch.tensor([2.0, -3.0], dtype=torch.float64, requires_grad=True)
    built = steerkit.add(direction(2), coefficient=coefficient, sites="embed", positions="last")
    assert built.factor is None and built.positions == Positions("last")
    assert built.direction.name == "warmth" and built.direction.vectors.dtype == torch.float32
    assert torch.equal(bias(built).detach(), bias(steerkit.add(direction(2), coefficient=[2.0, -3.0])))
    bias(built).sum().backward()
    assert coefficient.grad is not None
    assert coefficient.grad.tolist() == direction(2).vectors.sum(1).tolist()


def test_gradients_flow_to_vectors_and_coefficients_at_once() -> None:
    vectors, coefficient = torch.ones(2, 3, requires_grad=True), torch.tensor([2.0, 5.0], requires_grad=True)
    built = steerkit.add(Direction(vectors, SITE), coefficient=coefficient)
    bias(built).sum().backward()
    assert vectors.grad is not None and vectors.grad.tolist() == [[2, 2, 2], [5, 5, 5]]
    assert coefficient.grad is not None and coefficient.grad.tolist() == [3, 3]


def test_whole_numbers_are_numbers() -> None:
    built = steerkit.add(direction(), coefficient=torch.tensor(3))
    assert built.factor is not None and built.factor.dtype == torch.float32 and float(built.factor) == 3
    assert bias(steerkit.add(direction(2), coefficient=torch.tensor([1, 2]))).tolist() == [9, 12, 15]


@pytest.mark.parametrize(
    ("name", "coefficient", "part"),
    [
        ("add", torch.tensor(float("nan")), "add: the coefficient nan is not finite"),
        ("add", torch.tensor([1.0, float("inf")]), "add: the coefficient [1.0, inf] is not finite"),
        ("ablate", torch.tensor(float("-inf"), requires_grad=True), "ablate: the coefficient -inf is not finite"),
        ("add", torch.tensor([1.0, 2.0, 3.0]), "one for each vector of the direction, not torch.float32 of shape [3]"),
        ("add", torch.ones(2, 1), "of shape [2, 1]"),
        ("add", torch.ones(0), "of shape [0]"),
        ("ablate", torch.ones(2), "holds real numbers: one element, not torch.float32 of shape [2]"),
        ("add", torch.tensor(True), "not torch.bool"),
        ("add", torch.tensor(1j), "not torch.complex64"),
    ],
)
def test_tensors_that_are_no_coefficient_are_refused(name: str, coefficient: torch.Tensor, part: str) -> None:
    with pytest.raises(SteerkitError) as caught:
        getattr(steerkit, name)(direction(2), coefficient=coefficient)
    assert part in str(caught.value)


def test_a_tensor_does_not_excuse_a_missing_direction() -> None:
    with pytest.raises(SteerkitError, match="takes a Direction"):
        steerkit.add("warmth", coefficient=torch.tensor(1.0))  # type: ignore[arg-type]


# Names.


def test_the_names_are_there_and_cost_no_torch() -> None:
    assert {"Gate", "Schedule", "gate"} <= set(dir(steerkit))
    assert (steerkit.Gate, steerkit.Schedule) == (Gate, Schedule)
    code = "import sys, steerkit; steerkit.gate, steerkit.Schedule, steerkit.Gate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# What is misspelt, or no value at all.

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: steerkit.gate(direction(), above=1, at="propmt"),  # type: ignore[arg-type]
            "A gate is at 'token' or 'prompt', not 'propmt'. Did you mean 'prompt'? Available: prompt, token.",
        ),
        (
            lambda: steerkit.gate(direction(), abov=1),  # type: ignore[call-arg]
            "gate has no argument 'abov'. Did you mean 'above'? "
            "Available: above, at, below, direction, positions, prepass, site.",
        ),
        (
            lambda: Gate(direction(), 1.0, "abov"),  # type: ignore[arg-type]
            "A gate is 'above' or 'below' its threshold, not 'abov'. Did you mean 'above'? Available: above, below.",
        ),
        (lambda: Gate(direction(), "x"), "A gate's threshold is a finite number, not 'x'."),  # type: ignore[arg-type]
        (lambda: Gate(3, 1.0), "A gate reads along one steerkit.Direction, not a int."),  # type: ignore[arg-type]
        (
            lambda: steerkit.Monitor("m", direction(), 1.0, "belw"),  # type: ignore[arg-type]
            "Monitor 'm' is 'above' or 'below' its threshold, not 'belw'. Did you mean 'below'? "
            "Available: above, below.",
        ),
        (
            lambda: steerkit.intervention(3, direction()),  # type: ignore[arg-type]
            "Unknown intervention 3. Available: ablate, add, affine_concept_editing, set_projection.",
        ),
        (
            lambda: steerkit.add(direction(), coeficient=2),
            "intervention 'add', option 'coeficient': there is none of that name. Did you mean 'coefficient'? "
            "Available: coefficient, gate, options, positions, schedule, sites.",
        ),
        (
            lambda: steerkit.add(direction(), positon="all"),
            "intervention 'add', option 'positon': there is none of that name. Did you mean 'positions' or 'options'? "
            "Available: coefficient, gate, options, positions, schedule, sites.",
        ),
        (
            lambda: steerkit.add(direction(), coefficient=NAN),
            "intervention 'add', option 'coefficient': nan is not finite: write a number such as 4.0. "
            "Its options: coefficient.",
        ),
        (
            lambda: steerkit.add(direction(), coefficient=[INF]),
            "intervention 'add', option 'coefficient': [inf] is not finite: write a number such as 4.0. "
            "Its options: coefficient.",
        ),
        (
            lambda: steerkit.ablate(direction(), coefficient=NAN),
            "intervention 'ablate', option 'coefficient': expected a finite number, not nan. "
            "Its options: coefficient, at, rank.",
        ),
        (
            lambda: steerkit.ablate(direction(), coefficient="x"),  # type: ignore[arg-type]
            "intervention 'ablate', option 'coefficient': expected a number, not \"x\". "
            "Its options: coefficient, at, rank.",
        ),
        (
            lambda: steerkit.add(direction(), schedule=[]),
            "A schedule's list holds one or more finite numbers, a factor for each generated token, as in "
            "[1, 0.5, 0.25]. For 1 throughout, leave the schedule out.",
        ),
        (
            lambda: steerkit.add(direction(), sites=[]),
            "Intervention 'add' is given no site; leave sites out for its own choice.",
        ),
        (
            lambda: steerkit.add(direction(), sites=3),
            "3 is neither a site, such as 'blocks.14.resid_pre', nor a list of sites.",
        ),
    ],
)
def test_every_door_says_what_to_write(call: Callable[[], object], said: str) -> None:
    with pytest.raises(SteerkitError) as caught:
        call()
    assert str(caught.value) == said
