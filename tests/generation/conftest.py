"""What tests of the block loop share."""

from __future__ import annotations

import pytest
import torch

from backbone.transformer import CausalWanTransformer


@pytest.fixture(scope="module")
def transformer() -> CausalWanTransformer:
    """A small transformer with random weights, for prompts [1, 7, 20] and latents of 16 channels."""
    torch.manual_seed(3)
    return CausalWanTransformer(
        num_attention_heads=2, attention_head_dim=24, num_layers=2, ffn_dim=96, freq_dim=32, text_dim=20, text_length=7
    ).eval()
