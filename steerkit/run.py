"""The main path: from a recipe to a run directory, top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit import stages
from steerkit.artifacts.provenance import describe_run
from steerkit.artifacts.rundir import RunDirectory, write_json, write_text
from steerkit.catalog import Catalog
from steerkit.plan import DataRef, Plan, plan_recipe
from steerkit.progress import SILENT, Noted, Observer

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.measuring.evaluate import ConditionScores
    from steerkit.session.model import LiveModel


def run_recipe(
    recipe: str | Path, *, overrides: Sequence[str] = (), out: str | Path = "runs", observer: Observer | None = None
) -> Path:
    """Run a recipe and return its run directory. ``steerkit.report.write_report`` makes the report from it.

    Args:
        recipe: path of a recipe, or the name of a shipped one.
        overrides: settings such as ``"seed=1"`` or ``"conditions.warmer.0.add.coefficient=2"``.
        out: where run directories go. An unfinished run of the same recipe there is continued.
        observer: told what is done; nobody by default.

    Raises:
        RecipeError: with every problem of the recipe; nothing was run.
    """
    plan = plan_recipe(recipe, overrides, Catalog.discover())
    return execute(plan, Path(out), observer or SILENT)


def execute(plan: Plan, out: Path, observer: Observer) -> Path:
    """Carry out a plan."""
    observer.step(f"loading {plan.recipe.model.source}")
    model = stages.load(plan)
    provenance = _provenance(plan, model)
    digest = _digest(provenance)
    with RunDirectory.open(out, plan.recipe.name, digest) as directory:
        observer = Noted(observer, directory.note)
        observer.step(f"{'continuing' if directory.resumed else 'writing'} {directory.path}")
        write_text(directory.path / "recipe.yaml", plan.recipe.to_yaml())
        write_json(directory.path / "plan.json", plan.to_json())
        write_json(directory.path / "provenance.json", {"run_hash": digest, **provenance})

        # What can't work is found here, before hours of measuring: evaluators, then sites, widths and positions.
        evaluation = stages.evaluation(plan, model, observer)
        directions = _directions(plan, model, directory, observer)
        conditions = stages.conditions(plan, directions)
        evaluation.monitor(stages.monitors(plan, directions, model.layout.n_layers))
        stages.require_possible(conditions, evaluation, model)

        separation = directory.stage("separation by layer", lambda: stages.separations(plan, model, observer))
        scores: dict[str, ConditionScores] = {}
        for group in stages.groups(conditions, evaluation):
            observer.step(stages.announce(group, len(scores), len(conditions)))
            found = directory.stage(
                stages.name_group(group),
                partial(
                    evaluation.run_many,
                    [condition.steered for condition in group],
                    samples=group[0].kind != "control",
                    names=[condition.name for condition in group],
                ),
                pack=stages.pack_group,
                unpack=stages.unpack_group,
            )
            scores.update(zip((condition.name for condition in group), found, strict=True))

        results, samples = stages.collect(plan, model, directions, conditions, scores, separation)
        directory.finish(results, samples)
        return directory.path


def _directions(plan: Plan, model: LiveModel, directory: RunDirectory, observer: Observer) -> dict[str, Direction]:
    """Directions have a file of their own, which is the stage's output as well."""
    from steerkit.artifacts.directions import load_directions, save_directions

    if not plan.directions:
        return {}
    path = directory.path / "directions.safetensors"
    if not path.exists():
        with directory.timed("directions"):
            save_directions(path, list(stages.estimate(plan, model, observer).values()))
    return load_directions(path)


def _digest(provenance: Mapping[str, object]) -> str:
    """What results depend on: all of the provenance but how and from where the run was started."""
    counts = {key: value for key, value in provenance.items() if key not in ("argv", "git")}
    return sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()


def _provenance(plan: Plan, model: LiveModel) -> dict[str, object]:
    data = {str(DataRef(name, split)): rows for name, splits in plan.data.items() for split, rows in splits.items()}
    return describe_run(
        recipe_hash=plan.hash,
        seed=plan.recipe.seed,
        data=data,
        model=stages.facts_of(model),
        plugins=stages.plugins_of(plan, model),
        folder=plan.source.parent if plan.source is not None else Path.cwd(),
    )
