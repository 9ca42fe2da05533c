"""The intervention under steerkit's own suite, and what is particular to it."""

import pytest
import torch

import steerkit_template.cap as plugin
from steerkit.api.direction import Direction
from steerkit.errors import DataError
from steerkit.testing import InterventionSuite
from steerkit.testing.intervention import tiny_layout
from steerkit.types import Site
from steerkit_template._cap import Cap


class TestCap(InterventionSuite):
    plugin = plugin
    settings = {"limit": 0.25}
    zero = None  # no limit does nothing to every stream

    def definition(self, x, vectors):
        unit = vectors[0] / vectors[0].norm()
        component = x @ unit
        return x + (component.clamp(max=0.25) - component)[..., None] * unit


@pytest.mark.parametrize("vectors", [torch.zeros(1, 4), torch.ones(2, 4)], ids=["zero", "rank-2"])
def test_refuses_a_direction_that_it_cant_use(vectors):
    site = Site.parse("blocks.0.resid_pre")
    with pytest.raises(DataError, match="cap: direction 'd'"):
        Cap(plugin.CapOptions(), Direction(vectors, site, name="d")).update(site, tiny_layout())
