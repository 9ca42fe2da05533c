"""``steerkit init``: what it writes is valid as it is and runs, and nothing of the user's is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.cli.init import starter_files
from steerkit.cli.main import main
from steerkit.cli.placing import place
from steerkit.errors import ArtifactError
from steerkit.plan import plan_recipe

TINY = "tiny-random:llama"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("behaviour", "name"),
    [
        ("warmth", "warmth"),
        ("  sea  shanties ", "sea_shanties"),
        ("Ärger \"und\" Zorn: {1} # & 'x' [y]", "arger_und_zorn_1_x_y"),
        ("no", "no_behaviour"),
        ("null", "null_behaviour"),
        ("e5", "e5"),
    ],
)
@pytest.mark.parametrize("source", [TINY, "tiny-random:gemma3_text", "somebody/a-model", "smollm2-135m-instruct"])
def test_what_it_writes_is_valid_as_it_is(folder: Path, behaviour: str, name: str, source: str) -> None:
    place(folder / "out", starter_files(behaviour, source))
    plan = plan_recipe(folder / "out" / f"{name}.yaml", (), Catalog.discover())
    assert plan.recipe.name == name and plan.recipe.model.source == source
    assert [direction.name for direction in plan.directions] == [name]
    assert behaviour.split()[0] in plan.recipe.description
    positive = json.loads((folder / "out" / "data" / f"with_{name}.jsonl").read_text("utf-8").splitlines()[0])
    assert positive["text"].startswith(f"Answer with {' '.join(behaviour.split())}. ")
    assert not {"with", "without"} & set(plan.notes)


def test_it_runs_and_says_what_to_do_next(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, "init", "warmth", "--model", TINY, "--ask", "Be warm.")
    assert (code, err) == (0, "")
    assert "steerkit check warmth/warmth.yaml" in out and "steerkit run warmth/warmth.yaml" in out
    small = ["--set", "report.samples.n=1", "--set", "control.random_directions=1"]
    code, out, _ = run(capsys, "run", "warmth/warmth.yaml", "--out", "runs", *small)
    assert code == 0 and "like_asked on asked" in out
    (results,) = folder.glob("runs/*/results.json")
    values = {(one["evaluator"], one["condition"]): one["value"] for one in json.loads(results.read_text())["records"]}
    assert values["like_asked", "prompted"] != values["like_asked", "baseline"]
    assert "Be warm. " in (folder / "warmth/data/with_warmth.jsonl").read_text()


def test_it_never_overwrites(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert run(capsys, "init", "warmth", "--model", TINY)[0] == 0
    (folder / "warmth" / "data" / "questions.jsonl").write_text("mine")
    (folder / "warmth" / "warmth.yaml").unlink()
    before = held(folder)
    code, _, err = run(capsys, "init", "warmth", "--model", TINY)
    assert code == 2 and "there already. Nothing was written" in err
    assert held(folder) == before
    assert run(capsys, "init", "warmth", "--model", TINY, "--out", "elsewhere")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "--model", TINY], "one line of 1 to 60 characters"),
        (["w" * 61, "--model", TINY], "one line of 1 to 60 characters"),
        (["温かさ", "--model", TINY], "begin with one of the letters a to z"),
        (["warmth", "--model", ""], "wouldn't be valid: expected at least 1 character. Nothing was written."),
        (["warmth", "--model", "tiny-random:nothing"], "no tiny model 'nothing'"),
        (["warmth", "--model", TINY, "--ask", "\x1b"], "one line of 1 to 60 characters"),
        (["warmth", "--model", TINY, "--out", ""], "--out names no folder"),
        (["warmth", "--model", TINY, "--out", "file/below"], "Nothing was written: choose another folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], said: str
) -> None:
    (folder / "file").write_text("a file")
    code, _, err = run(capsys, "init", *arguments)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert held(folder) == {"file": b"a file"}


def test_a_model_folder_that_is_there_is_named_whole(folder: Path) -> None:
    """Paths in a recipe are relative to it, and those of a command to where it runs."""
    (folder / "model").mkdir()
    files = starter_files("warmth", "model")
    assert json.dumps(str(folder / "model")) in files["warmth.yaml"]


def test_half_of_the_files_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="Nothing was written"):
        place(folder / "out", {"a.txt": "a", "b/c.txt": "c", "a.txt/d": "d"})
    assert held(folder) == {} and not (folder / "out").exists()

    written = Path.open

    def interrupted(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "b.txt":
            raise KeyboardInterrupt
        return written(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place(folder / "out", {"a.txt": "a", "b.txt": "b"})
    assert held(folder) == {} and not (folder / "out").exists()
