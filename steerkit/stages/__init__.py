"""The stages of a run: a plan as tasks, tasks carried out, and their outputs read. ``run.py`` knows the order.

A task (``tasks``) is a plain value with a key. ``graph`` makes the tasks of a plan, ``carry`` carries one out with a
model, ``packing`` knows outputs as bytes, and ``records`` turns them into results. All of it reads the plan, and
nothing of the recipe or of a catalog.
"""

from steerkit.stages.carry import Bench, carry_out
from steerkit.stages.completed import completed, completion_lines, completion_tasks
from steerkit.stages.condition import Condition, conditions, random_like, require_monitors, require_possible
from steerkit.stages.filter import filter_tasks, filtered
from steerkit.stages.graph import Graph, make_graph
from steerkit.stages.kept_model import let_go, prepare
from steerkit.stages.model import facts_of, load, model_use, plugins_of
from steerkit.stages.packing import read_direction, read_estimates
from steerkit.stages.preview import Preview, preview
from steerkit.stages.records import (
    Collected,
    collect,
    describe_condition,
    evaluated_examples,
    read_scores,
    read_separations,
)
from steerkit.stages.saved import saved_direction
from steerkit.stages.search import candidate_rows, describe_search
from steerkit.stages.suffixes import read_suffixes
from steerkit.stages.task_groups import GroupTasks
from steerkit.stages.tasks import ModelUse, Task
from steerkit.stages.thresholds import calibrated
from steerkit.stages.titles import BASELINE
from steerkit.stages.tokens import token_tasks, with_tokens

__all__ = [
    "BASELINE",
    "Bench",
    "Collected",
    "Condition",
    "Graph",
    "GroupTasks",
    "ModelUse",
    "Preview",
    "Task",
    "calibrated",
    "candidate_rows",
    "carry_out",
    "collect",
    "completed",
    "completion_lines",
    "completion_tasks",
    "conditions",
    "describe_condition",
    "describe_search",
    "evaluated_examples",
    "facts_of",
    "filter_tasks",
    "filtered",
    "let_go",
    "load",
    "make_graph",
    "model_use",
    "plugins_of",
    "prepare",
    "preview",
    "random_like",
    "read_direction",
    "read_estimates",
    "read_scores",
    "read_separations",
    "read_suffixes",
    "require_monitors",
    "require_possible",
    "saved_direction",
    "token_tasks",
    "with_tokens",
]
