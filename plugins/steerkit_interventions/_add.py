"""``x ← x + Σ c_k v_k``: activation addition, section 2.4 of Arditi et al., 2024 (arXiv 2406.11717)."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine, Intervention
from steerkit.types import Site
from steerkit_interventions._numbers import one_per_vector
from steerkit_interventions._span import weighted_sum
from steerkit_interventions.add import AddOptions


class Add(Intervention[AddOptions]):
    """Adds the direction's vectors, raw, each times its coefficient. Differentiable in the vectors."""

    def default_sites(self, layout: Layout) -> Sequence[Site]:
        """The sites at which the direction was estimated."""
        return self.direction.sites

    def update(self, site: Site, layout: Layout) -> Affine | None:
        """The bias ``Σ c_k v_k``, ``[d_model]`` in the direction's dtype; None where every coefficient is 0.

        Of a direction at several sites, the vectors of this one.

        Raises:
            AttachError: where a list of coefficients doesn't have one for each vector, or a direction at several
                sites has no vectors at this one.
        """
        direction = self.direction if self.direction.is_single else self.direction.at(site)
        coefficients = one_per_vector(self.options.coefficient, direction, "add", "coefficient")
        if not any(coefficients):
            return None
        return Affine(bias=weighted_sum(direction.vectors, coefficients))
