"""Where a run's model lay and in which form, in sentences."""

from __future__ import annotations

from steerkit.artifacts.reading import ModelEntry
from steerkit.errors import counted
from steerkit.types.placement import lies_in_words, quantised_in_words, rounds_activations


def quantised(model: ModelEntry) -> tuple[str, ...]:
    """That it is quantised and how, and what follows for its numbers; nothing of one that isn't."""
    if not model.quantization:
        return ()
    how = quantised_in_words(model.quantization)
    found = [f"The model is quantised ({how}): its numbers are of these weights, not of the checkpoint's own."]
    if rounds_activations(model.quantization):
        found.append(
            "The quantiser rounds activations as well, so that a change of the stream also changes how the numbers "
            "beside it are rounded: two ways to compute one intervention differ by that rounding."
        )
    return tuple(found)


def placed(model: ModelEntry) -> tuple[str, ...]:
    """All of it: quantised, over which devices it lay, and over how many processes."""
    found = list(quantised(model))
    if model.device_map:
        found.append(f"Its weights lay in several places: {lies_in_words(model.device_map)}.")
    if model.tensor_parallel:
        found.append(f"Each weight was split over {counted(model.tensor_parallel, 'process', 'processes')}.")
    return tuple(found)
