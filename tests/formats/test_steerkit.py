from __future__ import annotations

import steerkit_formats.steerkit as plugin
from steerkit.testing import FormatSuite


class TestConformance(FormatSuite):
    plugin = plugin
