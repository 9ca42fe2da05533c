"""What a run says of the condition that is to be baked: its interventions, along the directions that the run saved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit import stages
from steerkit.artifacts.directions import load_directions
from steerkit.artifacts.provenance import code_hash
from steerkit.artifacts.reading import Run, load_run
from steerkit.artifacts.rundir import plain
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, AttachError, UnknownNameError, counted, nearest
from steerkit.plan import Plan, plan_recipe
from steerkit.plan.listed import condition_as_json
from steerkit.stages import Condition
from steerkit.types.json_text import read_json
from steerkit.types.placement import lies_in_words, quantised_in_words

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.session.model import LiveModel


@dataclass(frozen=True, eq=False)
class Asked:
    """A condition of a run, ready to be folded.

    Args:
        run: the run, read.
        plan: of the recipe that the run keeps, with the model loaded in the run's dtype.
        condition: the condition.
    """

    run: Run
    plan: Plan
    condition: Condition

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Those that its interventions use, each once."""
        found = {id(one): one for placed in self.condition.placements for one in placed.directions}
        return tuple(found.values())


def read_asked(folder: str | Path, name: str, catalog: Catalog | None = None, *, folds: bool = True) -> Asked:
    """Read a condition from a run directory.

    Args:
        folder: the run directory.
        name: the condition.
        catalog: plugins; discovered if not given.
        folds: whether it is to be folded into weights; else any condition will do, the baseline too.

    Raises:
        ArtifactError: where the directory isn't a finished run, or its files no longer belong together.
        UnknownNameError: where it has no such condition.
        AttachError: for a condition that no weights can hold, whatever the model.
    """
    run = load_run(folder)
    if name not in run.conditions:
        raise UnknownNameError(f"The run has no condition {name!r}. {nearest(name, run.conditions, 'condition')}")
    if folds:
        _require_weights(run, name)
        _require_whole(run, name)
    recipe = run.path / "recipe.yaml"
    if not recipe.is_file():
        raise ArtifactError(f"{run.path} has no recipe.yaml, which says how its conditions are built. Run it again.")
    plan = plan_recipe(recipe, (), catalog or Catalog.discover())
    # What auto came to then, whatever it would come to on this machine.
    plan = replace(plan, loading=replace(plan.loading, dtype=run.origin.model.get("dtype") or plan.loading.dtype))
    _require_same(run, plan, name)
    _require_code(run, plan, name)
    saved = run.path / "directions.safetensors"
    directions = load_directions(saved) if plan.directions else {}
    used = {one for condition in plan.conditions for one in condition.directions}
    if lacking := sorted(used - directions.keys()):
        raise ArtifactError(f"{saved} has no direction {', '.join(lacking)}, which the run's conditions use.")
    found = {one.name: one for one in stages.conditions(plan, directions)}
    return Asked(run, plan, found[name])


def require_model(asked: Asked, live: LiveModel) -> None:
    """Raise ``ArtifactError`` where the model that was loaded isn't the one that was measured."""
    measured = asked.run.origin.model.get("weights_sha256")
    if measured and live.weights_hash and measured != live.weights_hash:
        raise ArtifactError(
            f"The weights of {live.source} aren't those that the run measured: they were {measured}, and are "
            f"{live.weights_hash}. Put the model back as it was, or run the recipe again."
        )


def _require_weights(run: Run, name: str) -> None:
    """Refuse what isn't in the weights before anything is loaded."""
    entry = run.conditions[name]
    steered = [one.name for one in run.results.conditions if one.interventions and one.of is None]
    instead = f" Bake one of {', '.join(steered[:6])}." if steered else ""
    if entry.system_prompt is not None:
        rest = (
            "is a system prompt, which is text and no weights"
            if entry.prompt_only
            else "has a system prompt, which no"
            " weights can hold, beside its interventions; what the run measured was both together"
        )
        raise AttachError(f"Condition {name} {rest}, so there is nothing to bake.{instead}")
    if not entry.interventions:
        raise AttachError(f"Condition {name} is the model as it is: its checkpoint is the original.{instead}")


def _require_whole(run: Run, name: str) -> None:
    """Refuse weights that can't be changed and written as they are: quantised, in several places, or in shares."""
    model = run.results.model
    if model.quantization:
        how = quantised_in_words(model.quantization)
        why = f"its model is quantised ({how}), and weights of a few bits hold no exact change"
        instead = "Run the recipe without quantization and take that run"
    elif model.tensor_parallel:
        count = counted(model.tensor_parallel, "process", "processes")
        why = f"each weight of its model was split over {count}"
        instead = "Run the recipe without tensor_parallel and take that run"
    elif model.device_map:
        why = f"the weights of its model lay in several places ({lies_in_words(model.device_map)})"
        instead = "Run the recipe without device_map, where memory holds the model, and take that run"
    else:
        return
    raise AttachError(f"Condition {name} can't be baked: {why}. {instead}.\nNothing was written.")


def _require_code(run: Run, plan: Plan, name: str) -> None:
    """The code of the condition's interventions must be what was measured, as far as the run says which it was."""
    wanted = run.conditions[name].of or name
    then = {(one.get("kind"), one.get("name")): one.get("sha256") for one in run.origin.plugins}
    for condition in plan.conditions:
        for one in condition.interventions if condition.name == wanted else ():
            measured = then.get((one.spec.kind, one.spec.name))
            if measured and measured != code_hash(one.spec.implementation.partition(":")[0]):
                raise ArtifactError(
                    f"The code of {one.spec.name} isn't what the run in {run.path} was measured with. Run the recipe "
                    "again and take that run."
                )


def _require_same(run: Run, plan: Plan, name: str) -> None:
    """What the recipe means today must be what was measured: plugins and files may have changed since."""
    wanted = run.conditions[name].of or name
    now = {one.name: plain(condition_as_json(one, one.n_controls(plan.random_directions))) for one in plan.conditions}
    then = {one.get("name"): one for one in _listed(run.path / "plan.json")}
    if wanted == stages.BASELINE:
        return  # means the same in any recipe
    if wanted not in now or now[wanted] != then.get(wanted):
        raise ArtifactError(
            f"The recipe in {run.path} no longer means by {wanted} what it meant when it was run: a plugin has changed "
            "since, or a file of the directory has. Run the recipe again and take that run."
        )


def _listed(path: Path) -> list[dict[str, Any]]:
    try:
        found = read_json(path.read_text("utf-8"))["conditions"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} is missing or damaged: it is what says what the run did. Run it again.") from None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
