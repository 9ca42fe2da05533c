"""The estimator under steerkit's own suite, and what is particular to it."""

import pytest
import torch

import steerkit_template.median_difference as plugin
from steerkit.testing import EstimatorSuite
from steerkit_template._median_difference import MedianDifference


class TestMedian(EstimatorSuite):
    plugin = plugin


class TestTrimmedMean(EstimatorSuite):
    plugin = plugin
    settings = {"trim": 0.1}


@pytest.mark.parametrize("trim", [0.0, 0.2])
def test_an_outlier_counts_for_little(trim):
    suite = TestMedian()
    rows = suite.rows()
    for classes in rows.values():
        classes["positive"][0] += 1e6
    estimate = MedianDifference(plugin.MedianDifferenceOptions(trim=trim)).estimate(suite.request(rows))
    for site, vectors in estimate.vectors.items():
        assert torch.cosine_similarity(vectors[0], suite.planted(site), dim=0) > 0.95
    assert max(estimate.diagnostics["cosine with the mean difference"].values) < 0.9
