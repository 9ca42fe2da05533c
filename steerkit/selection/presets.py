"""Rules that papers choose by, under the names that recipes and ``steerkit select`` know them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from steerkit.selection.rule import Bound, LayerBound, Rule

ARDITI_2024: Final = Rule(
    objective="refusal_score",
    bounds=(
        Bound("kl", "kl_div_score", at_most=0.1),
        Bound("induce", "steering_score", at_least=0.0),
    ),
    layers=LayerBound(0.8),
)
"""Arditi et al. 2024 (arXiv 2406.11717), appendix C, with the boundaries of the authors' code: a candidate on a bound
is kept. ``refusal_score`` is what ablation leaves on harmful prompts, ``steering_score`` what addition gives on
harmless ones, ``kl_div_score`` how far ablation moves the next-token distribution on harmless ones."""

PRESETS: Final[Mapping[str, Rule]] = {"arditi2024": ARDITI_2024}
