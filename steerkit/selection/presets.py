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

COSMIC: Final = Rule(
    objective="comply_score",
    bounds=(Bound("kl", "kl_div_score", at_most=0.1),),
    layers=LayerBound(0.8),
    maximise=True,
    plus=("refuse_score",),
)
"""Siu et al. 2025 (COSMIC, arXiv 2506.00085), which looks at activations and at no token: ``comply_score`` is how like
harmless prompts' activations those of harmful ones become under ablation, ``refuse_score`` how like harmful prompts'
those of harmless ones become under addition, each a cosine; their sum is to be large. ``kl_div_score`` as above, with
the same bounds on it and on layers as the authors' code has. That code also passes over some late layers at the last
position, by where the two scores peak there; this rule doesn't."""

PRESETS: Final[Mapping[str, Rule]] = {"arditi2024": ARDITI_2024, "cosmic": COSMIC}
