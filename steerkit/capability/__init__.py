"""Capability tasks of lm-evaluation-harness on a model as it is steered at the moment: what steering costs elsewhere.

``texts`` has the tokens and the passes (no harness in it), ``harness`` is the model as the harness sees it and one
evaluation, ``scores`` what an evaluation gave and differences from the baseline, ``runs`` the conditions of a finished
run. The harness is an extra, ``steerkit-torch[lm-eval]``, and is imported when a task is evaluated.
"""

from steerkit.capability.harness import evaluate_tasks
from steerkit.capability.runs import Capability, capability_of_run
from steerkit.capability.scores import TaskScore

__all__ = ["Capability", "TaskScore", "capability_of_run", "evaluate_tasks"]
