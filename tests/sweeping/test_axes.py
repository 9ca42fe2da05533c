"""What is swept: values as command lines and Python write them, their product, and what is wrong with them."""

from __future__ import annotations

import pytest

from steerkit.errors import SteerkitError
from steerkit.sweeping.axes import MOST, axes_of, faults, points_of, read_axes


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("seed=1,2,3", "seed", (1, 2, 3)),
        ("seed=1", "seed", (1,)),
        ("model.source=gpt2,tiny-random:llama", "model.source", ("gpt2", "tiny-random:llama")),
        ("a.b=[1, 2],[3]", "a.b", ([1, 2], [3])),
        ('a={b: "x, y"},{c: [1, 2]}', "a", ({"b": "x, y"}, {"c": [1, 2]})),
        ('title="a, b",c', "title", ("a, b", "c")),
        (r'title="a \", b",c', "title", ('a ", b', "c")),
        ("title='a, b',it's, so", "title", ("a, b", "it's", "so")),
        ("evaluate[0].data = x , y", "evaluate.0.data", ("x", "y")),
        ("x=null,no,1e-4", "x", (None, "no", 1e-4)),
        ("x=a=b,c", "x", ("a=b", "c")),
    ],
)
def test_values_are_parted_at_commas_outside_of_brackets_and_quotes(
    text: str, key: str, values: tuple[object, ...]
) -> None:
    (axis,), problems = read_axes([text])
    assert (axis.key, axis.values, problems) == (key, values, [])


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (["seed"], "--over seed: expected a dotted key with its values"),
        (["=1"], "--over =1: expected a dotted key"),
        (["seed="], "--over seed=: no value"),
        (["seed=1,,2"], "--over seed=1,,2: an empty value"),
        (["x=[1,2"], "--over x=[1,2: not YAML"),
        (["seed=1,2,1"], "--over seed: 1 is there twice"),
        (["a=[1],[2],[1]"], "--over a: [1] is there twice"),
        (["seed=1", "seed=2"], "--over seed: is swept twice"),
        (["a[0].b=1", "a.0.b=2"], "--over a.0.b: is swept twice"),
        (["model={source: a}", "model.source=b"], "--over model.source: lies within what --over model sets"),
        (["model.source=b", "model={source: a}"], "--over model: lies within what --over model.source sets"),
    ],
)
def test_what_is_wrong_with_them_is_told_of_the_option(over: list[str], told: str) -> None:
    _, problems = read_axes(over)
    assert any(str(one).startswith(told) for one in problems), [str(one) for one in problems]


def test_values_that_only_look_alike_are_two() -> None:
    assert not read_axes(["a=1,1.0,'1',true"])[1]
    assert not read_axes(["model.source=a", "model.sources=b", "seed=1"])[1], "no key within another one"


def test_every_combination_comes_once_and_the_last_setting_changes_first() -> None:
    axes, _ = read_axes(["model.source=a,b", "seed=1,2"])
    points = points_of(axes)
    assert [tuple(point.settings.values()) for point in points] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert points[1].overrides == ("model.source=a", "seed=2")


def test_python_says_the_same_as_the_command_line() -> None:
    theirs, _ = axes_of({"model.source": ["no", "b"], "x": ([1, {"y": None}], 1e-4)})
    ours, _ = read_axes(['model.source="no",b', "x=[1, {y: null}],1e-4"])
    assert [one.values for one in theirs] == [one.values for one in ours]
    for point, other in zip(points_of(theirs), points_of(ours), strict=True):
        assert [read_axes([text])[0][0].values for text in point.overrides] == [
            read_axes([text])[0][0].values for text in other.overrides
        ]


@pytest.mark.parametrize("over", [["seed"], {"seed": "12"}, {"seed": 1}, {1: [2]}, {"x": [float("nan")]}, {"x": [{1}]}])
def test_what_python_can_t_mean_is_told(over: object) -> None:
    with pytest.raises(SteerkitError, match="over"):
        axes_of(over)  # type: ignore[arg-type]


def test_settings_beside_them_and_their_number_are_held_to_them() -> None:
    axes, _ = read_axes(["model.source=a,b"])
    assert [str(one) for one in faults(axes, ["model={source: c}", "seed=1"])] == [
        "--set model={source: c}: is swept with --over model.source too"
    ]
    assert "nothing to sweep over" in str(faults([], [])[0])
    many, _ = read_axes([f"seed={','.join(map(str, range(MOST // 2)))}", "x=1,2"])
    assert not faults(many, [])
    many, _ = read_axes([f"seed={','.join(map(str, range(MOST // 2 + 1)))}", "x=1,2"])
    assert "1,002 runs are more than a sweep takes, which is 1,000" in str(faults(many, [])[0])
