"""Other examples that an evaluator looks at beside its own: what the unsteered model gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerkit.api.evaluator import Outputs
from steerkit.engine.reading.monitors import read_along

if TYPE_CHECKING:
    from steerkit.engine.measuring.jobs import Job
    from steerkit.engine.measuring.setting import Setting
    from steerkit.engine.reading.capture import Key


def reference_name(name: str) -> str:
    """What a setting's examples are called that a job refers to as ``name``, apart from those that are scored."""
    return f"{name} (reference)"


def read_references(setting: Setting, job: Job, keys: Sequence[Key]) -> None:
    """Read what a job refers to, unless it is there. To be called while nothing steers."""
    for name in job.needs.references:
        missing = [key for key in keys if (name, key) not in setting.plain.referred]
        if not missing:
            continue
        setting.observer.step(f"activations on {name}, for {job.title}")
        read = read_along(setting.live, setting.prompts(reference_name(name)), (), missing)
        for key in missing:
            setting.plain.referred[name, key] = [one.activations[key] for one in read]


def with_references(setting: Setting, job: Job, keys: Sequence[Key], outputs: Outputs) -> Outputs:
    """Outputs with what the unsteered model gives for the examples that a job refers to."""
    if not job.needs.references:
        return outputs
    found = {}
    for name in job.needs.references:
        examples = setting.examples[reference_name(name)]
        activations = {key: setting.plain.referred[name, key] for key in keys}
        found[name] = Outputs([one.text for one in examples], examples=examples, activations=activations)
    return replace(outputs, references=found)
