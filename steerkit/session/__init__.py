"""What a Python user calls: joins the catalog of plugins and the engine.

import steerkit

model = steerkit.load_model("smollm2-135m-instruct")
warmth = steerkit.estimate_direction(model, positive, negative, site="blocks.15.resid_pre")
with model.steer(steerkit.add(warmth, coefficient=4.0)):
    print(model.generate("How was your day?"))
"""

from steerkit.session.estimation import capture, estimate_direction, estimate_directions
from steerkit.session.models import load_model, wrap
from steerkit.session.words import ablate, add, gate, intervention

__all__ = [
    "ablate",
    "add",
    "capture",
    "estimate_direction",
    "estimate_directions",
    "gate",
    "intervention",
    "load_model",
    "wrap",
]
