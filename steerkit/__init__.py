"""steerkit: steer language models by their activations, and measure honestly what that does.

Names are imported when they are first used, so that ``import steerkit`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.api.direction import Direction as Direction
    from steerkit.api.intervention import Gate as Gate
    from steerkit.api.monitor import Completion as Completion
    from steerkit.api.monitor import Monitor as Monitor
    from steerkit.api.monitor import TokenEvent as TokenEvent
    from steerkit.artifacts.directions import load_directions as load_directions
    from steerkit.artifacts.directions import save_directions as save_directions
    from steerkit.baking import Baked as Baked
    from steerkit.baking import bake as bake
    from steerkit.capability import evaluate_tasks as evaluate_tasks
    from steerkit.errors import SteerkitError as SteerkitError
    from steerkit.exporting import Exported as Exported
    from steerkit.exporting.file import export as export
    from steerkit.report.compare import compare_runs as compare_runs
    from steerkit.report.frames import read_run as read_run
    from steerkit.report.sweep import read_sweep as read_sweep
    from steerkit.run import run_recipe as run_recipe
    from steerkit.session import ablate as ablate
    from steerkit.session import add as add
    from steerkit.session import capture as capture
    from steerkit.session import estimate_direction as estimate_direction
    from steerkit.session import estimate_directions as estimate_directions
    from steerkit.session import gate as gate
    from steerkit.session import intervention as intervention
    from steerkit.session import load_model as load_model
    from steerkit.session import wrap as wrap
    from steerkit.session.model import LiveModel as LiveModel
    from steerkit.session.saved import LoadedCondition as LoadedCondition
    from steerkit.session.saved import load_condition as load_condition
    from steerkit.session.saved import save_condition as save_condition
    from steerkit.session.turns import ConversationTokens as ConversationTokens
    from steerkit.session.turns import chat_template_sha256 as chat_template_sha256
    from steerkit.session.turns import conversation_tokens as conversation_tokens
    from steerkit.sweeping.sweep import sweep as sweep
    from steerkit.types import Example as Example
    from steerkit.types import Message as Message
    from steerkit.types import Positions as Positions
    from steerkit.types import Schedule as Schedule
    from steerkit.types import Site as Site

__version__ = "0.2.0"

_HOMES = {
    "Baked": "steerkit.baking",
    "Completion": "steerkit.api.monitor",
    "ConversationTokens": "steerkit.session.turns",
    "Direction": "steerkit.api.direction",
    "Example": "steerkit.types",
    "Exported": "steerkit.exporting",
    "Gate": "steerkit.api.intervention",
    "LiveModel": "steerkit.session.model",
    "LoadedCondition": "steerkit.session.saved",
    "Message": "steerkit.types",
    "Monitor": "steerkit.api.monitor",
    "Positions": "steerkit.types",
    "Schedule": "steerkit.types",
    "Site": "steerkit.types",
    "SteerkitError": "steerkit.errors",
    "TokenEvent": "steerkit.api.monitor",
    "ablate": "steerkit.session",
    "add": "steerkit.session",
    "bake": "steerkit.baking",
    "capture": "steerkit.session",
    "chat_template_sha256": "steerkit.session.turns",
    "compare_runs": "steerkit.report.compare",
    "conversation_tokens": "steerkit.session.turns",
    "estimate_direction": "steerkit.session",
    "estimate_directions": "steerkit.session",
    "evaluate_tasks": "steerkit.capability",
    "export": "steerkit.exporting",
    "gate": "steerkit.session",
    "intervention": "steerkit.session",
    "load_condition": "steerkit.session.saved",
    "load_directions": "steerkit.artifacts.directions",
    "load_model": "steerkit.session",
    "read_run": "steerkit.report.frames",
    "read_sweep": "steerkit.report.sweep",
    "run_recipe": "steerkit.run",
    "save_condition": "steerkit.session.saved",
    "save_directions": "steerkit.artifacts.directions",
    "sweep": "steerkit.sweeping.sweep",
    "wrap": "steerkit.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
