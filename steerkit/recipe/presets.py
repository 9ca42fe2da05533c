"""Searches that papers describe, under one name: what ``preset:`` in section ``search`` stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from steerkit.errors import nearest
from steerkit.recipe.document import Path
from steerkit.selection import ARDITI_2024, COSMIC, Rule

HARMFUL, HARMLESS, TOKENS = "harmful", "harmless", "tokens"
COEFFICIENTS: Final = "coefficients"
FOUND: Final = "found"
"""Tokens that are found in the preset's own data: in the harmful, against the harmless."""


@dataclass(frozen=True)
class Expanded:
    """A preset as a recipe would write it out.

    Args:
        search: the keys of a search.
        sources: path within ``search`` to where within ``preset`` its value was told, by the longest that begins a
            path; ``()`` for what the preset itself gives.
        problems: ``(path within preset, what is wrong)``; then there is no search.
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[Path, Path] = field(default_factory=dict)
    problems: tuple[tuple[Path, str], ...] = ()


def expand_preset(written: Any) -> Expanded:
    """What a preset stands for, or what is wrong with how it is written, at the key that is wrong.

    Args:
        written: ``{name: {what the preset must be told}}``, or the name alone.
    """
    if isinstance(written, str):
        written = {written: {}}
    if isinstance(written, dict) and len(written) > 1:
        # Laid over a recipe that has another one, both are there.
        names = " and ".join(map(str, written))
        return _wrong((), f"expected one preset, not {names}; in a recipe that extends another, null takes one away")
    if not isinstance(written, dict) or not written:
        return _wrong((), f"expected one preset with what it needs, as in {_EXAMPLE}")
    ((name, told),) = written.items()
    if name not in _PRESETS:
        return _wrong((name,), f"unknown preset {name!r}. {nearest(str(name), _PRESETS, 'preset')}")
    told = {} if told is None else told
    if not isinstance(told, dict):
        return _wrong((name,), f"expected a mapping (key: value) of what {name} needs, as in {_EXAMPLE}")
    preset = _PRESETS[name]
    known = (*preset.needed, *preset.optional)
    problems: list[tuple[Path, str]] = [
        ((name, key), f"{name} takes no {key!r}. {nearest(str(key), known, 'key')}") for key in told if key not in known
    ]
    problems += [
        ((name, key), f"expected a data reference, as in {_EXAMPLE}")
        for key in preset.needed
        if key in told and not isinstance(told[key], str)
    ]
    missing = [key for key in preset.needed if key not in told]
    # A key that is nearly right says by itself what is missing.
    if missing and not any(path[1:] for path, _ in problems):
        message = f"{name} needs {' and '.join(missing)}, each a data reference, as in {_EXAMPLE}"
        problems.append(((name,), message))
    if problems:
        return Expanded(problems=tuple(problems))
    search, sources = preset.build(told)
    if COEFFICIENTS in told:
        search[COEFFICIENTS] = told[COEFFICIENTS]
        sources[(COEFFICIENTS,)] = (COEFFICIENTS,)
    return Expanded(search, {(): (name,), **{path: (name, *source) for path, source in sources.items()}})


def _wrong(path: Path, message: str) -> Expanded:
    return Expanded(problems=((path, message),))


Told: TypeAlias = Mapping[str, Any]
Built: TypeAlias = tuple[dict[str, Any], dict[Path, Path]]


def _arditi2024(told: Told) -> Built:
    """Arditi et al. 2024 (arXiv 2406.11717), section 2.3: what ablation leaves of refusal, subject to what addition
    induces and to how much else ablation changes."""
    tokens = {TOKENS: told[TOKENS]} if TOKENS in told else {}
    if found := told.get(TOKENS) == FOUND:
        tokens = {TOKENS: {"found_in": told[HARMFUL], "against": told[HARMLESS]}}
    scores = {
        "refusal_score": ("refusal_score", HARMFUL, "ablate", tokens),
        "steering_score": ("refusal_score", HARMLESS, "add", tokens),
        "kl_div_score": ("kl_divergence", HARMLESS, "ablate", {}),
    }
    search, sources = _built(told, scores, ARDITI_2024)
    for score in ("refusal_score", "steering_score") if found else ():
        at = ("scores", score, "refusal_score", TOKENS)
        sources |= {(*at, "found_in"): (HARMFUL,), (*at, "against"): (HARMLESS,)}
    return search, sources


def _cosmic(told: Told) -> Built:
    """Siu et al. 2025 (COSMIC, arXiv 2506.00085): how like the other class's activations each class's become, harmful
    prompts under ablation and harmless ones under addition, on the layers where the classes are least alike."""
    own = {key: told[key] for key in _LIKENESS if key in told}
    own.setdefault("classes", [told[HARMFUL], told[HARMLESS]])
    scores = {
        "comply_score": ("activation_cosine", HARMFUL, "ablate", {"like": told[HARMLESS], **own}),
        "refuse_score": ("activation_cosine", HARMLESS, "add", {"like": told[HARMFUL], **own}),
        "kl_div_score": ("kl_divergence", HARMLESS, "ablate", {}),
    }
    search, sources = _built(told, scores, COSMIC)
    for score, key in (("comply_score", HARMLESS), ("refuse_score", HARMFUL)):
        at = ("scores", score, "activation_cosine")
        sources[(*at, "like")] = (key,)
        if "classes" not in told:
            sources |= {(*at, "classes", place): (one,) for place, one in enumerate((HARMFUL, HARMLESS))}
    return search, sources


def _built(told: Told, scores: Mapping[str, tuple[str, str, str, Mapping[str, Any]]], rule: Rule) -> Built:
    """A search of scores, each by an evaluator on the data that a key tells, under an intervention, with options."""
    written: dict[str, Any] = {}
    sources: dict[Path, Path] = {}
    for name, (evaluator, data, under, options) in scores.items():
        written[name] = {evaluator: {"data": told[data], "under": [under], **options}}
        at = ("scores", name, evaluator)
        sources[(*at, "data")] = (data,)
        sources |= {(*at, key): (key,) for key in options if key in told}
    return {"scores": written, **_as_written(rule)}, sources


def _as_written(rule: Rule) -> dict[str, Any]:
    bounds = {}
    for bound in rule.bounds:
        limits = {"at_least": bound.at_least, "at_most": bound.at_most}
        bounds[bound.name] = {
            "score": bound.score,
            **{key: value for key, value in limits.items() if value is not None},
        }
    layers = {} if rule.layers is None else {"layers_below": rule.layers.share}
    aim = list(rule.aims) if rule.plus else rule.objective
    return {"maximise" if rule.maximise else "minimise": aim, "subject_to": bounds, **layers}


@dataclass(frozen=True)
class _Preset:
    build: Callable[[Told], Built]
    needed: tuple[str, ...]
    optional: tuple[str, ...]


_LIKENESS: Final = ("classes", "share", "stream", "positions", "combine")
"""Options of ``activation_cosine`` that the preset passes on."""
_PRESETS: Final[Mapping[str, _Preset]] = {
    "arditi2024": _Preset(_arditi2024, (HARMFUL, HARMLESS), (TOKENS, COEFFICIENTS)),
    "cosmic": _Preset(_cosmic, (HARMFUL, HARMLESS), (*_LIKENESS, COEFFICIENTS)),
}
_EXAMPLE: Final = "preset: {arditi2024: {harmful: harmful.validation, harmless: harmless.validation, tokens: [I]}}"
