"""A sweep: every run as it would be by itself, a failure that costs itself alone, and what a second call does."""

from __future__ import annotations

import csv
import errno
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import steerkit
from steerkit.artifacts.store import STORE
from steerkit.artifacts.sweeps import load_sweep
from steerkit.errors import ArtifactError, ExecutorError, ParallelError, RecipeError, SteerkitError, UnknownNameError
from steerkit.executors.base import Call, Finished, Unit
from steerkit.executors.chosen import Chosen
from steerkit.plan import plan_recipe
from steerkit.run import execute, run_recipe
from steerkit.sweeping import jobs
from steerkit.sweeping.axes import axes_of, read_axes
from steerkit.sweeping.members import notes_of
from steerkit.sweeping.sweep import LOCK, plan_sweep
from tests.small_run import STABLE, carried
from tests.sweeping.small import MODELS, RECIPE, REFUSED, listed, states

OVER: dict[str, list[Any]] = {"model.source": MODELS, "seed": [1, 2]}


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's own page takes as long as the run: those of ``swept`` are there, and looked at."""
    monkeypatch.setattr(jobs, "write_report", lambda path: (path / "report.html").touch())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, one of whose models is refused."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.yaml").write_text(RECIPE)
    found = steerkit.sweep(folder / "small.yaml", OVER, out=folder / "sweep")
    assert repr(found) == (
        f"<steerkit sweep small over model.source, seed: 6 runs, 4 finished, 2 failed; {folder / 'sweep'}>"
    )
    return folder / "sweep"


def test_every_run_has_the_bytes_that_it_has_by_itself(swept: Path, tmp_path: Path) -> None:
    members = [one for one in listed(swept)["members"] if one["state"] == "finished"]
    assert [one["settings"] for one in members] == [
        {"model.source": model, "seed": seed} for model in MODELS if model != REFUSED for seed in (1, 2)
    ]
    assert len({one["run"] for one in members}) == 4
    overrides = [f"{key}={value}" for key, value in members[-1]["settings"].items()]
    alone = run_recipe(swept.parent / "small.yaml", overrides=overrides, out=tmp_path)
    for name in STABLE:
        assert (swept / members[-1]["run"] / name).read_bytes() == (alone / name).read_bytes(), name
    assert (swept / members[-1]["run"] / "report.html").is_file()


def test_a_model_that_is_refused_costs_its_own_runs(swept: Path) -> None:
    failed = [one for one in listed(swept)["members"] if one["state"] == "failed"]
    assert [one["settings"] for one in failed] == [{"model.source": REFUSED, "seed": seed} for seed in (1, 2)]
    assert all(one["run"] is None and "No layout can be read off this model" in one["error"] for one in failed)
    assert all("traceback" not in one for one in failed), "a sentence is all that a user's mistake needs"
    found = steerkit.read_sweep(swept)
    ((places, why),) = found.failures
    assert places == (2, 3) and why == failed[0]["error"]
    assert {row["over_model.source"] for row in found.rows()} == {MODELS[0], MODELS[2]}


def test_numbers_for_other_programs_are_those_of_the_runs(swept: Path) -> None:
    results = {}
    for one in listed(swept)["members"]:
        if one["run"]:
            records = json.loads((swept / one["run"] / "results.json").read_text())["records"]
            for record in records:
                place = (*one["settings"].values(), record["condition"], record["evaluator"])
                results[place] = record["value"]
    with (swept / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {
        (row["over_model.source"], int(row["over_seed"]), row["condition"], row["evaluator"]): float(row["value"])
        for row in rows
    } == results
    told = json.loads((swept / "comparison.json").read_text())
    assert [one["error"] for one in told["failed"]] == [why for *_, why in steerkit.read_sweep(swept).failures] * 2
    for table in told["tables"]:
        for cell in table["cells"]:
            if cell["column"] == REFUSED:
                assert cell["value"] is None and cell["absent"] == "failed" and not cell["measured"]
                continue
            pair = [results[(cell["column"], seed, cell["condition"], table["evaluator"])] for seed in (1, 2)]
            assert cell["value"] == pytest.approx(sum(pair) / 2, abs=1e-12)
            assert [cell["low"], cell["high"]] == sorted(pair)


def test_the_same_sweep_again_runs_what_failed_and_nothing_else(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listed(swept)
    ran: list[int] = []

    def counted(plan: Any, *args: Any, **kwargs: Any) -> Path:
        ran.append(plan.seed)
        return execute(plan, *args, **kwargs)

    monkeypatch.setattr(jobs, "execute", counted)
    done = carried(monkeypatch)
    steerkit.sweep(swept.parent / "small.yaml", OVER, out=swept)
    assert ran == [1, 2] and not done
    assert listed(swept) == before


def test_more_values_are_run_beside_those_that_are_there(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first ones aren't asked for in between, and a sweep that grew is the one that was whole."""
    out = tmp_path / "sweep"
    steerkit.sweep(recipe, {"seed": [1, 2]}, out=out)
    first = {one["settings"]["seed"]: one["run"] for one in listed(out)["members"]}
    steerkit.sweep(recipe, {"seed": [3]}, out=out)
    assert states(out) == {"seed=3": "finished"} and len(listed(out)["others"]) == 2
    done = carried(monkeypatch)
    grown = steerkit.sweep(recipe, {"seed": [1, 2, 3]}, out=out)
    assert not done and "others" not in listed(out)
    assert {one["settings"]["seed"]: one["run"] for one in listed(out)["members"]}.items() > first.items()
    whole = steerkit.sweep(recipe, {"seed": [1, 2, 3]}, out=tmp_path / "whole", store=out / STORE)
    names = ("comparison.json", "comparison.csv")
    same = [(grown.path / name).read_text() == (whole.path / name).read_text() for name in names]
    assert not any(same), "they name their own run directories"
    assert [one.rows for one in grown.tables] == [one.rows for one in whole.tables]


def test_runs_share_what_they_have_in_common(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "conditions.warmer.0.add.coefficient"
    steerkit.sweep(recipe, {key: [1]}, out=tmp_path / "sweep")
    done = carried(monkeypatch)
    steerkit.sweep(recipe, {key: [1, 2]}, out=tmp_path / "sweep")
    assert {task.title for task in done} == {"condition warmer and 2 controls"}


def test_what_is_changed_is_run_again(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    steerkit.sweep(recipe, {"seed": [1]}, out=out)
    (before,) = listed(out)["members"]
    recipe.write_text(RECIPE.replace("ice two", "ice cube"))
    steerkit.sweep(recipe, {"seed": [1]}, out=out)
    (after,) = listed(out)["members"]
    assert after["state"] == "finished" and after["run"] != before["run"]
    (out / after["run"] / "results.json").unlink()
    assert steerkit.read_sweep(out).failed.keys() == {0}, "a run whose directory was emptied can't be shown"
    steerkit.sweep(recipe, {"seed": [1]}, out=out)
    assert listed(out)["members"][0]["run"] not in (after["run"], before["run"])


def test_an_interrupted_sweep_goes_on_where_it_was(
    swept: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    over: dict[str, list[Any]] = {"model.source": [MODELS[0]], "seed": [1, 2]}
    with monkeypatch.context() as patch:
        before = carried(patch, dies_at=8)
        with pytest.raises(KeyboardInterrupt):
            steerkit.sweep(recipe, over, out=out)
    assert [*states(out).values()] == ["finished", "running"]
    assert "not run yet" in repr(steerkit.read_sweep(out))
    after = carried(monkeypatch)
    steerkit.sweep(recipe, over, out=out)
    assert set(states(out).values()) == {"finished"}
    assert not {task.key for task in before} & {task.key for task in after}
    for mine, theirs in zip(listed(out)["members"], listed(swept)["members"], strict=False):
        for name in STABLE[:-1]:
            if name != "plan.json":  # which names the recipe's file
                assert (out / mine["run"] / name).read_bytes() == (swept / theirs["run"] / name).read_bytes(), name


def test_what_no_user_causes_costs_its_run_and_says_where(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(plan: Any, *args: Any, **kwargs: Any) -> Path:
        if plan.seed == 1:
            raise ValueError("a <plugin> divides\nby zero")
        return execute(plan, *args, **kwargs)

    monkeypatch.setattr(jobs, "execute", fails)
    found = steerkit.sweep(recipe, {"seed": [1, 2]}, out=tmp_path / "sweep")
    first, second = load_sweep(found.path).members
    assert first.state == "failed" and first.error == "ValueError: a <plugin> divides"
    assert "in fails" in (first.traceback or "") and second.state == "finished"
    page = (found.path / "report.html").read_text()
    assert "a &lt;plugin&gt; divides" in page and "in fails" in page


def test_a_full_disk_ends_the_sweep(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jobs, "execute", full)
    with pytest.raises(OSError, match="No space left"):
        steerkit.sweep(recipe, {"seed": [1, 2]}, out=tmp_path / "sweep")
    assert states(tmp_path / "sweep") == {"seed=1": "running", "seed=2": "waiting"}


def test_a_run_of_another_recipe_than_was_checked_is_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*args: Any) -> Any:
        recipe.write_text(RECIPE.replace("3.0", "4.0"))
        return plan_recipe(*args)

    monkeypatch.setattr(jobs, "plan_recipe", changed)
    found = steerkit.sweep(recipe, {"seed": [1]}, out=tmp_path / "sweep")
    assert [why for *_, why in found.failures] == [jobs.CHANGED]


def test_a_worker_that_does_not_see_the_directory_says_so(recipe: Path, tmp_path: Path) -> None:
    steerkit.sweep(recipe, {"seed": [1]}, out=tmp_path / "sweep")
    (member,) = load_sweep(tmp_path / "sweep").members
    job = jobs.Job(0, str(recipe), ("seed=1",), None, member.recipe_hash, tmp_path / "elsewhere")
    assert "doesn't see the sweep in" in (jobs.run_job(job).error or "")


def test_workers_give_the_same_bytes(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    over: dict[str, list[Any]] = {"model.source": [MODELS[0], REFUSED], "seed": [1]}
    steerkit.sweep(swept.parent / "small.yaml", over, out=out, executor="processes", workers=1, threads=1)
    mine, refused = listed(out)["members"]
    assert (mine["state"], refused["state"]) == ("finished", "failed")
    for name in STABLE:
        theirs = swept / listed(swept)["members"][0]["run"] / name
        assert (out / mine["run"] / name).read_bytes() == theirs.read_bytes(), name


class Elsewhere:
    """Two workers: the one that was given something last is done first, and whatever has seed 2 kills its worker."""

    size = 2

    def __init__(self, most: list[int]) -> None:
        self.most, self.held = most, list[Call]()

    def hand(self, job: Unit | Call) -> None:
        assert isinstance(job, Call)
        self.held.append(pickle.loads(pickle.dumps(job)) and job)
        self.most.append(len(self.held))

    def finished(self) -> Finished:
        job = self.held.pop()
        if "seed=2" in job.name:
            return Finished(
                job, error=ExecutorError("seed=2: given up after 3 workers died of it (killed by SIGKILL).")
            )
        return Finished(job, job.function(*job.arguments))

    def close(self) -> None:
        self.most.append(-1)


def test_workers_have_as_many_runs_as_they_are_and_one_that_is_lost_costs_its_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most: list[int] = []
    monkeypatch.setattr(Chosen, "open_workers", lambda *args, **kwargs: Elsewhere(most))
    found = steerkit.sweep(recipe, {"seed": [1, 2, 3]}, out=tmp_path / "sweep", executor="processes")
    assert states(found.path) == {"seed=1": "finished", "seed=2": "failed", "seed=3": "finished"}
    assert [why for *_, why in found.failures] == ["seed=2: given up after 3 workers died of it (killed by SIGKILL)."]
    assert most == [1, 2, 2, -1], "two at a time, and closed in the end"


# What is refused before anything is run


def test_mistakes_of_all_runs_are_told_at_once_each_with_the_runs_that_have_it(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("kl_divergence", "kl_divergance"))
    over: dict[str, list[Any]] = {"model.source": ["tiny-random:llama", "tiny-random:nothing"], "seed": [1, "b", "c"]}
    with pytest.raises(RecipeError) as caught:
        steerkit.sweep(recipe, over, out=tmp_path / "sweep")
    head, *lines = str(caught.value).splitlines()
    assert head == f"{recipe.resolve()}, 6 runs: 4 problems" and lines[-1] == "Nothing was run."
    misspelt, unknown, *seeds = sorted(lines[:-1], key=lambda line: ("--over" in line, "tiny" not in line, line))
    assert "kl_divergance" in misspelt and not misspelt.endswith(")"), "all runs have it"
    assert unknown.endswith("(model.source=tiny-random:nothing)")
    assert seeds == [f'  --over seed: expected a whole number, not "{letter}" (seed={letter})' for letter in ("b", "c")]
    assert not (tmp_path / "sweep").exists()


def test_a_note_is_told_once_with_the_runs_that_have_it(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("evaluate:", "  without: [{ablate: {direction: warmth}}]\nevaluate:"))

    def look(*_: Any) -> Any:
        raise SteerkitError("nothing is known.")

    axes, problems = read_axes([f"model.source=tiny-random:llama,{REFUSED}", "seed=1,2"])
    planned = plan_sweep(str(recipe), axes, problems, look=look)
    told = [note for note in notes_of(planned.members, axes) if "nothing is known" in note]
    assert len(told) == 1 and told[0].endswith(f"nothing is known. (model.source={REFUSED})")


def test_two_runs_that_are_one_are_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"control=false: is the same run as control="):
        over = {"control": [{"random_directions": 0}, False]}
        steerkit.sweep(recipe, over, out=tmp_path / "sweep")


def test_a_directory_is_one_sweep_s_and_one_process_s(recipe: Path, tmp_path: Path, swept: Path) -> None:
    with pytest.raises(SteerkitError, match="holds a sweep of another recipe"):
        steerkit.sweep(recipe, {"seed": [1]}, out=swept)
    out = tmp_path / "held"
    out.mkdir()
    with FileLock(out / LOCK), pytest.raises(SteerkitError, match="Another process runs the sweep in"):
        steerkit.sweep(recipe, {"seed": [1]}, out=out)
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_processes_that_run_one_model_run_no_sweep(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SteerkitError, match="isn't started with torchrun"):
        steerkit.sweep(recipe, {"seed": [1]}, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("executor", [None, "processes"])
def test_a_run_that_no_sweep_can_have_is_refused_before_any_begins(
    recipe: Path, tmp_path: Path, executor: str | None
) -> None:
    over = {"model.tensor_parallel": [1, 2]}
    with pytest.raises(ParallelError, match=r"no run over 2 processes .* one recipe at a time, with torchrun"):
        steerkit.sweep(recipe, over, out=tmp_path / "sweep", executor=executor)
    assert not (tmp_path / "sweep").exists()


def test_every_kind_of_placement_is_asked_of_the_workers(recipe: Path, tmp_path: Path) -> None:
    over = {"model.device_map": [None, {"": "cpu", "lm_head": "disk"}]}
    with pytest.raises(ExecutorError, match=r"model\.device_map spreads one model over devices"):
        steerkit.sweep(recipe, over, out=tmp_path / "sweep", executor="processes")
    assert not (tmp_path / "sweep").exists()


def test_workers_have_one_kind_of_device(recipe: Path, tmp_path: Path) -> None:
    over = {"model.device": ["cpu", "auto"]}
    with pytest.raises(SteerkitError, match=r"the sweep's runs name auto and cpu \(model\.device\)\. Sweep over one"):
        steerkit.sweep(recipe, over, out=tmp_path / "sweep", executor="processes")
    assert not (tmp_path / "sweep").exists()


def test_its_directory_is_that_of_its_recipe_and_settings(recipe: Path) -> None:
    def folder(over: dict[str, list[Any]], *overrides: str) -> Path:
        axes, problems = axes_of(over)
        return plan_sweep(str(recipe), axes, problems, overrides).folder

    first = folder({"seed": [1], "model.dtype": ["float32"]})
    assert first.parent == Path("sweeps") and first.name.startswith("small-")
    assert folder({"model.dtype": ["float32"], "seed": [1, 2]}) == first, "which grows"
    assert len({first, folder({"seed": [1]}), folder({"seed": [1]}, "model.dtype=float32")}) == 3


def test_what_is_no_sweep_is_told(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not the directory of a sweep"):
        steerkit.read_sweep(tmp_path)
    with pytest.raises(UnknownNameError, match="ovre"):
        steerkit.sweep(recipe, ovre={"seed": [1]})  # type: ignore[call-arg]
    with pytest.raises(SteerkitError, match=r"write \['seed=1'\]"):
        steerkit.sweep(recipe, {"seed": [1]}, overrides="seed=1")
    with pytest.raises(ExecutorError, match="has no workers"):
        steerkit.sweep(recipe, {"seed": [1]}, workers=2)
    folder = tmp_path / "sweep"
    folder.mkdir()
    for text, told in (
        ("{", "is damaged"),
        ('{"schema_version": 9}', "this steerkit reads 1"),
        ("[]", "schema_version"),
    ):
        (folder / "sweep.json").write_text(text)
        with pytest.raises(ArtifactError, match=told):
            steerkit.read_sweep(folder)
