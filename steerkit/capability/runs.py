"""Conditions of a finished run on capability tasks, beside the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit import stages
from steerkit.artifacts.files import require_file
from steerkit.artifacts.rundir import write_json
from steerkit.baking.asked import Asked, read_asked, require_model
from steerkit.capability.harness import evaluate_tasks, require_harness
from steerkit.capability.scores import Difference, TaskScore, difference
from steerkit.catalog import Catalog
from steerkit.errors import DataError
from steerkit.progress import SILENT, Observer

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

FILE: Final = "capability.json"
SCHEMA: Final = 1


@dataclass(frozen=True)
class Capability:
    """What conditions of a run do on capability tasks.

    Args:
        scores: of each condition, the baseline first.
        file: where they were written.
    """

    scores: Mapping[str, tuple[TaskScore, ...]]
    file: Path

    def difference(self, condition: str, score: TaskScore) -> Difference | None:
        """How a condition's score differs from the baseline's; None for the baseline itself."""
        base = {one.key: one for one in self.scores[stages.BASELINE]}
        return None if condition == stages.BASELINE or score.key not in base else difference(score, base[score.key])


def capability_of_run(
    run: str | Path,
    conditions: Sequence[str],
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include: str | Path | None = None,
    num_fewshot: int | None = None,
    chat_template: bool = False,
    file: str | Path | None = None,
    observer: Observer = SILENT,
    catalog: Catalog | None = None,
) -> Capability:
    """Evaluate tasks on conditions of a finished run and on the baseline, and write ``capability.json``.

    Args:
        run: the run directory.
        conditions: as the run's results name them; a control (``warmer/random-1``) is one too.
        tasks: see ``evaluate_tasks``, as for the next four.
        limit: most examples of each task.
        include: a folder with tasks of one's own.
        num_fewshot: examples before each question.
        chat_template: whether contexts go through the chat template, with the run's system prompt. A condition with a
            system prompt needs it.
        file: where the scores are written; ``capability.json`` of the run directory if not given.
        observer: told what is done.
        catalog: plugins; discovered if not given.

    Raises:
        ArtifactError: where the run can't be read, or has changed since.
        UnknownNameError: where the run has no such condition, or the harness no such task.
        DataError: for a condition with a system prompt where no template renders it.
        SteerkitError: what ``evaluate_tasks`` raises besides.
    """
    if file is not None:
        require_file(Path(file), "scores", "Choose another --json.")
    require_harness()
    wanted = [name for name in dict.fromkeys(conditions) if name != stages.BASELINE]
    # The baseline has no interventions, and its plan is the run's.
    asked = {name: read_asked(run, name, catalog, folds=False) for name in (stages.BASELINE, *wanted)}
    _require_rendered(asked, chat_template)
    require_file(
        asked[stages.BASELINE].run.path / FILE if file is None else Path(file), "scores", "Choose another --json."
    )
    first = asked[stages.BASELINE]
    observer.step(f"loading {first.plan.loading.source}")
    live = stages.load(first.plan)
    require_model(first, live)
    scores: dict[str, tuple[TaskScore, ...]] = {}
    for name, one in asked.items():
        observer.step(f"{name}: {', '.join(tasks)}")
        with live.steer(*one.condition.placements, mode=one.condition.mode):
            scores[name] = evaluate_tasks(
                live,
                tasks,
                limit=limit,
                include=include,
                num_fewshot=num_fewshot,
                chat_template=chat_template,
                system_prompt=one.condition.system_prompt,
            )
    found = Capability(scores, Path(file) if file is not None else first.run.path / FILE)
    settings = {"limit": limit, "num_fewshot": num_fewshot, "chat_template": chat_template, "tasks": list(tasks)}
    write_json(found.file, _facts(found, first, live, settings))
    return found


def _require_rendered(asked: Mapping[str, Asked], chat_template: bool) -> None:
    told = [name for name, one in asked.items() if one.condition.system_prompt is not None]
    if told and not chat_template:
        raise DataError(
            f"Condition {told[0]} has a system prompt, which a task's bare text has no place for. Add --chat-template "
            "(in Python chat_template=True), or leave the condition out."
        )


def _facts(found: Capability, asked: Asked, live: LiveModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": asked.run.path.name,
        "model": {"source": live.source, "weights_sha256": live.weights_hash},
        "harness": {"lm_eval": version("lm_eval"), **settings},
        "scores": [_row(found, name, score) for name, scores in found.scores.items() for score in scores],
    }


def _row(found: Capability, condition: str, score: TaskScore) -> dict[str, Any]:
    apart = found.difference(condition, score)
    row = {name: value for name, value in asdict(score).items() if name != "by_example"}
    return {"condition": condition, **row, "difference": None if apart is None else asdict(apart)}
