"""The adapter under steerkit's own suite: every published shape of the block."""

from transformers import AutoConfig, AutoModelForCausalLM

import steerkit_template.gpt_neox as plugin
from steerkit.testing import ArchitectureSuite
from steerkit.types import RESID_MID


class TestGPTNeoX(ArchitectureSuite):
    plugin = plugin
    variants = ("parallel", "sequential")

    def model(self):
        config = AutoConfig.for_model(
            "gpt_neox",
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            use_parallel_residual=self.variant == "parallel",
        )
        return AutoModelForCausalLM.from_config(config)

    def test_only_sequential_blocks_have_a_middle(self, built):
        has_middle = bool(built.layout.sites_of(RESID_MID))
        assert has_middle is (self.variant == "sequential")
