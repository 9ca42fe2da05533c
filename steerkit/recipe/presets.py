"""Searches that papers describe, under one name: what ``preset:`` in section ``search`` stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from steerkit.errors import SteerkitError, nearest
from steerkit.selection import ARDITI_2024, Rule


def preset_search(written: Any) -> dict[str, Any]:
    """A search as a recipe would write it out.

    Args:
        written: ``{name: {what the preset must be told}}``.

    Raises:
        SteerkitError: for a preset that there isn't, or that isn't told what it needs.
    """
    if isinstance(written, str):
        written = {written: {}}
    if not isinstance(written, dict) or len(written) != 1:
        raise SteerkitError(f"expected one preset with what it needs, as in {_EXAMPLE}")
    ((name, told),) = written.items()
    if name not in _PRESETS:
        raise SteerkitError(f"unknown preset {name!r}. {nearest(str(name), _PRESETS, 'preset')}")
    if not isinstance(told, dict):
        raise SteerkitError(f"expected a mapping (key: value) of what {name} needs, as in {_EXAMPLE}")
    build, needed, optional = _PRESETS[name]
    for key in told:
        if key not in (*needed, *optional):
            raise SteerkitError(f"{name} takes no {key!r}. {nearest(str(key), [*needed, *optional], 'key')}")
    missing = [key for key in needed if not isinstance(told.get(key), str)]
    if missing:
        raise SteerkitError(f"{name} needs {' and '.join(missing)}, each a data reference, as in {_EXAMPLE}")
    return build(told)


def _arditi2024(told: Mapping[str, Any]) -> dict[str, Any]:
    """Arditi et al. 2024 (arXiv 2406.11717), section 2.3: what ablation leaves of refusal, subject to what addition
    induces and to how much else ablation changes."""
    tokens = {"tokens": told["tokens"]} if "tokens" in told else {}
    return {
        "scores": {
            "refusal_score": {"refusal_score": {"data": told["harmful"], "under": ["ablate"], **tokens}},
            "steering_score": {"refusal_score": {"data": told["harmless"], "under": ["add"], **tokens}},
            "kl_div_score": {"kl_divergence": {"data": told["harmless"], "under": ["ablate"]}},
        },
        **_as_written(ARDITI_2024),
    }


def _as_written(rule: Rule) -> dict[str, Any]:
    bounds = {}
    for bound in rule.bounds:
        limits = {"at_least": bound.at_least, "at_most": bound.at_most}
        bounds[bound.name] = {
            "score": bound.score,
            **{key: value for key, value in limits.items() if value is not None},
        }
    layers = {} if rule.layers is None else {"layers_below": rule.layers.share}
    return {"maximise" if rule.maximise else "minimise": rule.objective, "subject_to": bounds, **layers}


_Preset = tuple[Callable[[Mapping[str, Any]], dict[str, Any]], tuple[str, ...], tuple[str, ...]]
_PRESETS: Final[Mapping[str, _Preset]] = {"arditi2024": (_arditi2024, ("harmful", "harmless"), ("tokens",))}
_EXAMPLE: Final = "preset: {arditi2024: {harmful: harmful.validation, harmless: harmless.validation, tokens: [I]}}"
