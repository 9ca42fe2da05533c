"""Mistakes that a Python user makes are told at once, in a sentence, and never later as something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import steerkit
from steerkit.errors import SteerkitError
from steerkit.session.model import LiveModel
from steerkit.types import Positions
from tests.conftest import tiny_live

SITE = "blocks.1.resid_pre"
NAN = float("nan")
ONE = steerkit.Direction(torch.ones(1, 32), SITE)


def _estimated(positive: object, **settings: object) -> Callable[[Path], object]:
    def estimate(folder: Path) -> object:
        live: LiveModel = tiny_live("llama")
        return steerkit.estimate_direction(live, positive, [[4, 5]], **{"site": SITE, **settings})  # type: ignore[arg-type]

    return estimate


def _stored_in_a_file(folder: Path) -> Path:
    (folder / "kept").write_text("")
    return steerkit.run_recipe("quickstart", out=folder, store=folder / "kept")


MISTAKES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: steerkit.add(ONE, coefficient=NAN), "'coefficient': nan is not finite"),
    (lambda folder: steerkit.add(ONE, coefficient=[NAN]), "is not finite"),
    (lambda folder: steerkit.add(ONE, coefficient=torch.tensor(NAN)), "the coefficient nan is not finite"),
    (lambda folder: steerkit.intervention("set_projection", ONE, value=NAN), "'value': nan is not finite"),
    (lambda folder: steerkit.gate(ONE, above=NAN), "threshold is one finite number"),
    (lambda folder: steerkit.load_model(""), "not by ''"),
    (lambda folder: steerkit.gate(ONE, above=1.0, at="propmt"), "Did you mean 'prompt'?"),  # type: ignore[arg-type]
    (lambda folder: steerkit.Monitor("m", ONE, 1.0, sites=()), "has no site"),
    (lambda folder: ONE.replace(nme="other"), "Did you mean 'name'?"),  # type: ignore[call-arg]
    (lambda folder: steerkit.Direction(torch.full((1, 32), NAN), SITE), "holds NaN or infinite values"),
    (lambda folder: ONE.replace(vectors=torch.full((1, 32), NAN)), "holds NaN or infinite values"),
    (_estimated([[1, 2]], site=3), "3 is neither a site"),
    (_estimated([1, 2, 3]), "The positive class is one row of token ids"),
    (_estimated(torch.tensor([1, 2, 3])), "The positive class is one row of token ids"),
    (_estimated(torch.rand(2, 3)), "holds token ids, whole numbers"),
    (_estimated([[10**6, 2]]), "Token id 1000000 is none of the model's"),
    (_estimated("one text"), "The positive class is one text"),
    (_stored_in_a_file, "is no folder. Choose another --store."),
]


@pytest.mark.parametrize(("mistake", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_told_where_it_is_made(mistake: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(SteerkitError) as caught:
        mistake(tmp_path)
    assert said in str(caught.value)


def test_rows_of_token_ids_are_prompts_as_a_list_and_as_a_tensor() -> None:
    rows = [[1, 2], [3, 9]]
    listed, stacked = (_estimated(given)(Path()) for given in (rows, torch.tensor(rows)))
    assert isinstance(listed, steerkit.Direction) and isinstance(stacked, steerkit.Direction)
    assert listed.positions == Positions("", (-1,)) and torch.equal(listed.vectors, stacked.vectors)
