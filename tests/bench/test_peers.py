"""The comparison with other libraries: its arithmetic, its definition, and that it never times a wrong answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.peers import clocks, harness, model
from benchmarks.peers.clocks import bootstrap, difference, interleave, ratios
from benchmarks.peers.definition import EVERY_WRITER, PLACES, ablating, adding, count, literal, mean_difference
from benchmarks.peers.definition import mean_difference_by_hand as best
from benchmarks.peers.drivers import hand_written
from benchmarks.peers.environments import PEERS, REQUIREMENTS, fingerprint
from benchmarks.peers.table import markdown, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write(tmp_path_factory.mktemp("peers") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return harness.plain(str(folder))


# Arithmetic


def test_a_ratio_is_the_median_over_rounds_and_not_of_medians() -> None:
    found = ratios([1.0, 4.0, 30.0], [1.0, 2.0, 10.0])
    assert found["ratio"] == 2.0
    assert (found["ratio_min"], found["ratio_max"], found["n"]) == (1.0, 3.0, 3)
    assert found["extra_s"] == 2.0


def test_the_interval_holds_the_median_and_narrows_with_rounds() -> None:
    few, many = [1.0, 1.1, 1.3], [1.0, 1.1, 1.3] * 20
    assert bootstrap(few)[0] <= 1.1 <= bootstrap(few)[1]
    assert bootstrap(many)[1] - bootstrap(many)[0] < bootstrap(few)[1] - bootstrap(few)[0]


def test_a_difference_is_in_units_of_the_logits_size() -> None:
    wanted = torch.tensor([100.0, 0.0])
    assert difference(wanted + 0.01, wanted) == pytest.approx(0.001, rel=1e-3)
    assert difference(torch.tensor([1.01]), torch.tensor([1.0])) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("found", [torch.zeros(3), torch.tensor([float("nan"), 0.0])])
def test_what_cannot_be_compared_is_an_error_and_not_a_zero(found: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape|NaN"):
        difference(found, torch.zeros(2))


def test_every_round_runs_every_case_once_and_the_order_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks.gc, "collect", lambda: 0)  # a second each among all that the suite holds
    seen: list[str] = []

    def case(name: str) -> Any:
        @contextmanager
        def entered() -> Iterator[Any]:
            yield lambda: None, lambda: seen.append(name)

        return entered

    samples = interleave({name: case(name) for name in "abc"}, repeats=4, warm_up=1)
    rounds = [seen[start : start + 3] for start in range(0, len(seen), 3)]
    assert len(rounds) == 5
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({one[0] for one in rounds}) > 1
    assert all(len(times) == 4 for clocks in samples.values() for times in clocks.values())


# The definition


def test_the_model_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    again = model.write(tmp_path / "again")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_ablating_every_writer_leaves_the_direction_nowhere(loaded: tuple[Any, Any]) -> None:
    llama, _ = loaded
    direction = torch.randn(model.WIDTH, generator=torch.Generator().manual_seed(0))
    unit, ids = direction / direction.norm(), torch.arange(4, 16)[None]

    def left(places: tuple[str, ...]) -> float:
        with torch.no_grad(), literal(llama, places, ablating(direction)):
            return max(float((h @ unit).abs().max()) for h in llama(ids, output_hidden_states=True).hidden_states[:-1])

    assert left(EVERY_WRITER) < 1e-4
    assert left(("resid_post",)) > 1e-2  # the embedding still holds it
    assert count(EVERY_WRITER, model.LAYERS) == 61


def test_adding_at_a_middle_place_moves_both_branches_and_no_hook_is_left(loaded: tuple[Any, Any]) -> None:
    llama, _ = loaded
    vectors, ids = torch.ones(model.LAYERS, model.WIDTH), torch.arange(4, 16)[None]

    def hooks() -> int:
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in llama.modules())

    found, before = {}, hooks()  # transformers keeps some of its own where hidden states were asked for
    for place in PLACES[1:4]:
        with torch.no_grad(), literal(llama, [place], adding(vectors)):
            found[place] = llama(ids).logits
    assert torch.allclose(found["attn_out"], found["resid_mid"], atol=1e-4)
    assert not torch.allclose(found["attn_out"], found["resid_pre"], atol=1e-2)
    assert hooks() == before
    with pytest.raises(ValueError, match="Unknown places"), literal(llama, ["mlp_in"], adding(vectors)):
        pass


def test_the_best_loop_by_hand_extracts_what_the_definition_does(loaded: tuple[Any, Any]) -> None:
    llama, tokenizer = loaded
    texts, others = model.prompts(7, 1), model.prompts(5, 2)
    wanted = mean_difference(llama, tokenizer(texts)["input_ids"], tokenizer(others)["input_ids"])
    assert difference(best(tokenizer, llama, texts, others), wanted) < 1e-4


# Checks


def study(monkeypatch: pytest.MonkeyPatch, folder: Path, driver: type) -> harness.Study:
    module = SimpleNamespace(PACKAGES=[], IMPORTS="", VARIANTS=[""], HOW={}, Driver=driver)
    monkeypatch.setattr(harness, "load", lambda name: module)
    monkeypatch.setattr(harness, "PREFILL_SHAPE", (2, 16))
    monkeypatch.setattr(harness, "EXTRACTION_PROMPTS", 4)
    return harness.Study("fake", str(folder), repeats=1, tokens=6)


def test_hand_written_hooks_are_right(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    found = study(monkeypatch, folder, hand_written.Driver)
    for case in ("add_all", "ablate"):
        for phase in ("decode", "prefill"):
            assert found.check("", case, phase)["status"] == "ok"
    assert found.records[-1]["removes_everywhere"] is True
    assert found.records[-1]["places"] == 90
    assert found.check("", "extract", "extract")["status"] == "ok"


def test_a_fast_wrong_answer_is_wrong_and_what_breaks_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    class Idle(hand_written.Driver):
        @contextmanager
        def add_all(self, vectors: torch.Tensor) -> Iterator[harness.Steered]:
            yield harness.Steered(self.model)

        @contextmanager
        def ablate(self, direction: torch.Tensor) -> Iterator[harness.Steered]:
            raise RuntimeError("no such hook")
            yield

    found = study(monkeypatch, folder, Idle)
    assert found.check("", "add_all", "prefill")["status"] == "wrong"
    assert found.check("", "add_all", "decode")["status"] == "wrong"
    broken = found.check("", "ablate", "decode")
    assert broken["status"] == "failed"
    assert "no such hook" in broken["reason"]


# Environments and tables


def test_pins_are_exact_and_comments_do_not_count() -> None:
    for name in {peer.environment for peer in PEERS} - {""}:
        lines = [line for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines), name
        assert "torch==2.13.0" in lines
        assert any(line.startswith("transformers==") for line in lines)
    assert fingerprint("# why\na==1\nb==2\n") == fingerprint("b==2\na==1")
    assert fingerprint("a==1") != fingerprint("a==2")


def test_a_library_that_failed_has_a_row_with_its_reason() -> None:
    peers = {
        "gone": {
            "title": "gone",
            "failed": "did not install: no such version",
            "date": "2026-11-22",
            "machine": {"cpu": "some", "cores": 2, "python": "3.11"},
            "sizes": {"repeats": 9, "tokens": 48},
        }
    }
    table, notes = rows(peers)
    assert table[0][:2] == ["gone", "failed [1]"]
    assert notes == ["did not install: no such version"]
    assert "no such version" in markdown(peers)
