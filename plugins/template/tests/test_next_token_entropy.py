"""The evaluator under steerkit's own suite, and its value where it is known."""

import math

import pytest
import torch

import steerkit_template.next_token_entropy as plugin
from steerkit.api.evaluator import Outputs
from steerkit.testing import EvaluatorSuite


class TestNextTokenEntropy(EvaluatorSuite):
    plugin = plugin


def test_of_a_coin_it_is_log_2():
    logits = torch.full((2, 5), -torch.inf)
    logits[0, :2] = 0.0
    logits[1] = 1.0
    coin, dice = TestNextTokenEntropy().evaluator().score(Outputs(["a", "b"], next_token_logits=logits.clamp(min=-1e4)))
    assert coin.value == pytest.approx(math.log(2))
    assert dice.value == pytest.approx(math.log(5))
