"""Conformance suites, tiny random models and the literal oracle, for plugins of ours and of anyone. Needs pytest.

A suite is a class of checks that a test class inherits; nothing is downloaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

# Their assertions are to be explained as if they stood in the test file itself.
for _room in ("_suite", "architecture", "estimator", "intervention", "evaluator"):
    pytest.register_assert_rewrite(f"{__name__}.{_room}")

if TYPE_CHECKING:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.sources import TINY_MODEL_TYPES
    from steerkit.testing.architecture import ArchitectureSuite
    from steerkit.testing.estimator import EstimatorSuite
    from steerkit.testing.evaluator import EvaluatorSuite
    from steerkit.testing.intervention import InterventionSuite
    from steerkit.testing.oracle import oracle_logits, oracle_weights

_HOMES = {
    "ArchitectureSuite": "steerkit.testing.architecture",
    "EstimatorSuite": "steerkit.testing.estimator",
    "EvaluatorSuite": "steerkit.testing.evaluator",
    "InterventionSuite": "steerkit.testing.intervention",
    "oracle_logits": "steerkit.testing.oracle",
    "oracle_weights": "steerkit.testing.oracle",
    "TINY_MODEL_TYPES": "steerkit.sources",
    "tiny_model": "steerkit.engine.tiny.models",
    "tiny_tokenizer": "steerkit.engine.tiny.models",
}

__all__ = [
    "TINY_MODEL_TYPES",
    "ArchitectureSuite",
    "EstimatorSuite",
    "EvaluatorSuite",
    "InterventionSuite",
    "oracle_logits",
    "oracle_weights",
    "tiny_model",
    "tiny_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
