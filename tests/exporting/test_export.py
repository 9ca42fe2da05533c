"""A run's conditions as programs: they do what the conditions are defined to, and no weights are asked for it."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

import steerkit
from steerkit import stages
from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Intervention, Pointwise
from steerkit.api.monitor import Monitor
from steerkit.api.program import Program, ProgramModel
from steerkit.api.program_bytes import read_program
from steerkit.artifacts.directions import load_directions
from steerkit.baking.asked import read_asked
from steerkit.cli.main import main
from steerkit.engine.lowering.edits import placements_to_lower
from steerkit.errors import ArtifactError, AttachError, SiteError, SteerkitError, UnknownNameError
from steerkit.exporting import export
from steerkit.exporting.kinds import KINDS
from steerkit.exporting.lowered import program_of
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.baking.common import recipe_of, run_of, saved_model
from tests.conftest import KEPT_IN, tiny_live

IDS = torch.randint(6, 262, (2, 9), generator=torch.Generator().manual_seed(1))
PROMPTS = [6, 5]
MONITORS = {
    "watch": {"direction": "warmth", "above": 0.25, "sites": ["blocks.*.resid_pre"], "positions": "generated"},
    "set": {"direction": "warmth", "calibrate": {"data": "cold.validation", "false_alarms": 300, "side": "above"}},
}


@cache
def kept() -> Path:
    """A run with monitors, whose model is in a folder. Nothing may change it: tests that do make a copy."""
    folder = Path(mkdtemp(prefix="run-", dir=KEPT_IN[-1]))
    return run_of(recipe_of(saved_model(folder / "model", "llama"), monitors=MONITORS), folder)


class FromProgram(Intervention[Any]):
    """A program's updates as an intervention at their places, so that the engine can carry them out as defined."""

    def __init__(self, update: Any) -> None:
        super().__init__(None)
        self.one = update

    def default_sites(self, layout: Any) -> tuple[Site, ...]:
        return (self.one.site,)

    def update(self, site: Site, layout: Any) -> Affine:
        return Affine(self.one.reads, self.one.writes, self.one.bias)


def carried_out(live: LiveModel, program: Program) -> torch.Tensor:
    from steerkit.api.intervention import Placement

    placed = [Placement(FromProgram(one), positions=one.positions, schedule=one.schedule) for one in program.updates]
    with torch.no_grad(), live.steer(*placed, mode="interpret"):
        found: torch.Tensor = live.forward(IDS, prompt_lengths=PROMPTS).logits
    return found


@pytest.mark.parametrize(
    "condition", ["more", "first", "without", "both", "late", "fading", "set", "told_more", "more/random-1"]
)
def test_a_program_does_what_its_condition_is_defined_to(condition: str, tmp_path: Path) -> None:
    made = export(kept(), condition, out=tmp_path / "it")
    program = read_program(made.path)
    assert program.name == condition and made.kind == "program" and made.lost == ()
    asked = read_asked(kept(), condition, folds=False)
    live = steerkit.load_model(asked.plan.loading.source, dtype="float32", self_test=False)
    with torch.no_grad():
        plain = live.forward(IDS).logits
        with live.steer(*asked.condition.placements, mode="interpret"):
            wanted = live.forward(IDS, prompt_lengths=PROMPTS).logits
    assert (wanted - plain).abs().max() > 0.01  # the condition does something
    assert (carried_out(live, program) - wanted).abs().max() < 1e-5


def test_no_weights_are_loaded_and_no_model_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept()

    def load(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(stages, "load", load)
    assert len(export(kept(), "without", out=tmp_path / "it").program.sites) == 7


def test_a_layout_that_only_the_loaded_model_tells_is_asked_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(recipe_of("tiny-random:gpt2", control={"random_directions": 0}), tmp_path)
    asked = []
    real = stages.load
    monkeypatch.setattr(stages, "load", lambda plan: asked.append(plan) or real(plan))
    program = export(run, "without", out=tmp_path / "it").program
    assert len(asked) == 1 and program.model.model_type == "gpt2"


def test_the_same_condition_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (export(kept(), "both", out=tmp_path / name).path.read_bytes() for name in ("a", "b"))
    assert one == other


def test_what_a_program_says_of_its_model(tmp_path: Path) -> None:
    model = export(kept(), "more", out=tmp_path / "it").program.model
    told = json.loads((kept() / "provenance.json").read_text())["model"]
    assert (model.model_type, model.n_layers, model.d_model) == ("llama", 3, 32)
    assert model.template_sha256 == told["chat_template_sha256"] and model.source.endswith("model")


def test_a_system_prompt_goes_along_as_text(tmp_path: Path) -> None:
    assert export(kept(), "told_more", out=tmp_path / "it").program.system_prompt == "Be warm."
    assert export(kept(), "more", out=tmp_path / "other").program.system_prompt is None


def test_nothing_is_written_over_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("somebody's")
    with pytest.raises(ArtifactError, match="is there already"):
        export(kept(), "more", out=tmp_path / "it")
    assert (tmp_path / "it").read_text() == "somebody's"
    export(kept(), "more", out=tmp_path / "it", force=True)
    assert (tmp_path / "it").read_bytes()[:1] != b"s"


def test_kinds_have_names_of_their_own() -> None:
    assert len({kind.suffix for kind in KINDS.values()}) == len(KINDS)


def test_monitors_go_along_with_their_thresholds(tmp_path: Path) -> None:
    program = export(kept(), "baseline", out=tmp_path / "it", monitors=["watch", "set"]).program
    watch, calibrated = program.monitors
    # A block's input is its predecessor's output; the first one's is the embedding.
    assert [str(site) for site in watch.vectors] == ["embed", "blocks.0.resid_post", "blocks.1.resid_post"]
    assert (watch.threshold, watch.side, str(watch.positions)) == (0.25, "above", "generated")
    measured = {one["name"]: one for one in json.loads((kept() / "results.json").read_text())["monitors"]}
    assert calibrated.threshold == measured["set"]["above"]
    vector = load_directions(kept() / "directions.safetensors")["warmth"].vectors[0]
    assert torch.allclose(calibrated.vectors[Site.parse("blocks.0.resid_post")], vector / vector.norm())
    assert program.updates == ()


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("gated", "program has no gates"),
        ("baseline", "nothing to export"),
        ("told", "a system prompt, which is text"),
        ("nothing", "it changes nothing"),
    ],
)
def test_what_data_cant_say_is_refused_with_the_reason(condition: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(AttachError, match=says):
        export(kept(), condition, out=tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_a_function_is_refused_with_the_reason() -> None:
    class Clamped(FromProgram):
        def default_sites(self, layout: Any) -> tuple[Site, ...]:
            return (Site.parse("blocks.1.mlp_out"),)

        def update(self, site: Site, layout: Any) -> Pointwise:  # type: ignore[override]
            return Pointwise(lambda x: x.clamp(-1, 1))

    layout = tiny_live("llama").layout
    with pytest.raises(AttachError, match=r"blocks\.1\.mlp_out is a function"):
        program_of(placements_to_lower(Clamped(None)), layout, ProgramModel("llama", 3, 32), "clamped")


def test_a_monitor_between_edits_that_become_one_is_refused() -> None:
    layout = tiny_live("llama").layout
    along = Direction(torch.ones(1, 32), "blocks.0.resid_post")
    steer = placements_to_lower(steerkit.add(along, sites="blocks.1.resid_pre"))
    model = ProgramModel("llama", 3, 32)
    with pytest.raises(AttachError, match=r"before blocks\.1\.resid_pre is edited"):
        program_of(steer, layout, model, "it", [Monitor("early", along, 0.0)])
    with pytest.raises(SiteError):
        program_of((), layout, model, "it", [Monitor("far", along, 0.0, sites=(Site.parse("blocks.7.resid_pre"),))])
    same = tuple(map(Site.parse, ("blocks.0.resid_post", "blocks.1.resid_pre")))
    with pytest.raises(AttachError, match="where it reads already"):
        program_of((), layout, model, "it", [Monitor("twice", along, 0.0, sites=same)])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"condition": "mroe"}, UnknownNameError),
        ({"to": "progam"}, UnknownNameError),
        ({"monitors": ["wach"]}, UnknownNameError),
        ({"to": None}, SteerkitError),
        ({"run": "/nowhere"}, ArtifactError),
    ],
)
def test_what_isnt_there_is_told_with_what_is(words: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    asked = {"run": kept(), "condition": "more", "to": "program", "out": tmp_path / "it"} | words
    with pytest.raises(error, match=r"\w"):
        export(**asked)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_no_longer_means_what_it_meant_is_refused(tmp_path: Path) -> None:
    run = shutil.copytree(kept(), tmp_path / "run")
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("coefficient: 2.0", "coefficient: 2.5"))
    with pytest.raises(ArtifactError, match="no longer means"):
        export(run, "more", out=tmp_path / "it")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, code in (
        (["more/random-1", "--to", "program"], 0),
        (["baseline", "--to", "program", "--monitor", "watch", "--monitor", "set"], 0),
        (["gated", "--to", "program"], 2),
        (["more", "--to", "nothing"], 2),
    ):
        with pytest.raises(SystemExit) as left:
            main(["export", str(kept()), "--condition", *words])
        assert (left.value.code or 0) == code, words
        said = capsys.readouterr()
        assert "Traceback" not in said.err and bool(said.out) is (code == 0) and bool(said.err.strip()) is (code == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline.program.safetensors",
        "more-random-1.program.safetensors",
    ]


def test_every_kind_says_what_it_is() -> None:
    for name, kind in KINDS.items():
        assert kind.name == name and kind.summary.endswith(".") and kind.suffix.startswith(".")
