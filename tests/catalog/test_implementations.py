"""From a spec to its implementation, and its options as people read them."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from steerkit.api.hookspecs import EstimatorSpec, Options
from steerkit.catalog import describe_options, implementation
from steerkit.errors import PluginError


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("no_such_module_here:Thing", "can't be imported: ModuleNotFoundError"),
        ("steerkit.api.estimator:Estimater", "or 'Estimator'?"),
        ("steerkit.api.estimator:ClassStatistics", "is not a subclass of steerkit.api.estimator.Estimator"),
        ("steerkit.api.hookspecs:StatisticsKind", "is not a subclass"),
    ],
)
def test_an_implementation_that_is_not_there_is_an_error_with_its_cause(target: str, part: str) -> None:
    with pytest.raises(PluginError) as caught:
        implementation(EstimatorSpec("median", "Medians.", target))
    assert part in str(caught.value)
    assert "estimator 'median'" in str(caught.value)


def test_an_implementation_is_the_class_that_the_spec_names() -> None:
    from steerkit.api.estimator import Estimator

    assert implementation(EstimatorSpec("base", "The base.", "steerkit.api.estimator:Estimator")) is Estimator


def test_types_of_options_read_as_people_write_them() -> None:
    class Many(Options):
        a: int
        b: list[str] = Field(default=["x"])
        c: float | tuple[float, ...] | None = None
        d: Literal["p", "q"] = "p"

    found = {option.name: (option.type, option.default, option.required) for option in describe_options(Many)}
    assert found == {
        "a": ("int", None, True),
        "b": ("list[str]", ["x"], False),
        "c": ("float | tuple[float, ...] | None", None, False),
        "d": ("'p' | 'q'", "p", False),
    }


def test_a_default_that_is_computed_is_not_computed_for_a_list() -> None:
    class Computed(Options):
        a: int = 1
        b: list[int] = Field(default_factory=list)
        c: int = Field(default_factory=lambda data: data["a"] + 1)
        d: int = Field(default_factory=lambda: 1 // 0)

    found = {option.name: (option.default, option.required, option.computed) for option in describe_options(Computed)}
    assert found == {
        "a": (1, False, False),
        "b": ([], False, False),
        "c": (None, False, True),
        "d": (None, False, True),
    }
