"""The format under steerkit's own suite, and what is particular to it."""

import json

import pytest
import torch

import steerkit_template.vector_list as plugin
from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Given
from steerkit.errors import ArtifactError
from steerkit.testing import FormatSuite
from steerkit.types import Site


class TestVectorList(FormatSuite):
    plugin = plugin


def test_every_digit_is_kept_and_anybody_can_read_it(tmp_path):
    path, suite = tmp_path / "d.json", TestVectorList()
    vectors = torch.tensor([[0.1, -1e-30, 3.0e38]])
    path.write_bytes(suite.format().write(Contents({"d": Direction(vectors, "blocks.1.resid_pre", name="d")})).data)
    assert json.loads(path.read_text())["vector_list"]["d"]["site"] == "blocks.1.resid_pre"
    assert torch.equal(suite.format().read(path).directions["d"].vectors, vectors)
    with pytest.raises(ArtifactError, match=r"not at blocks\.2"):
        suite.format().read(path, Given(site=Site.parse("blocks.2.resid_pre")))


def test_several_sites_are_refused_with_what_to_do():
    many = Direction({"blocks.0.resid_pre": torch.ones(1, 4), "blocks.1.resid_pre": torch.ones(1, 4)}, name="d")
    with pytest.raises(ArtifactError, match=r"direction\.at"):
        TestVectorList().format().write(Contents({"d": many}))
