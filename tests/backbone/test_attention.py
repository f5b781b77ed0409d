"""Backends of attention: the same function, and refused where they can't be used."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from backbone.attention import BACKENDS, LOSSY, UNMASKED, attention, why_not
from backbone.errors import FieldError
from backbone.transformer import Attention, CausalWanTransformer
from longlive_rag.sessions.opening import Attention as Choices

HERE = [name for name in BACKENDS if why_not(name, torch.device("cpu"), torch.float32, 16) is None]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("masked", [False, True])
def test_what_can_be_used_here_is_the_softmax_of_the_products(backend: str, masked: bool) -> None:
    query, key, value = draw(2, 5, 3, 16), draw(2, 9, 3, 16), draw(2, 9, 3, 16) * 2
    mask = None
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / 4
    if masked:
        mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
        mask[1, :, :, 4:] = False
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)
    torch.testing.assert_close(attention(query, key, value, mask, backend), expected, rtol=1e-5, atol=1e-5)


def test_the_default_is_torchs_own_call_to_the_bit() -> None:
    query, key, value = draw(1, 5, 3, 16), draw(1, 9, 3, 16), draw(1, 9, 3, 16)
    turned = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value))).transpose(1, 2)
    assert torch.equal(attention(query, key, value), turned)


def test_what_cant_be_used_here_says_why() -> None:
    assert {"native", "native_math"} <= set(HERE)
    cpu = torch.device("cpu")
    assert "sageattention" in str(why_not("sage", cpu, torch.bfloat16, 128))
    assert "bfloat16" in str(why_not("native_cudnn", cpu, torch.float32, 128))


@pytest.mark.parametrize("backend", UNMASKED)
def test_a_backend_without_masks_refuses_one(backend: str) -> None:
    query = draw(1, 5, 3, 16)
    with pytest.raises(FieldError, match="does not support masks"):
        attention(query, query, query, torch.ones(1, 1, 1, 5, dtype=torch.bool), backend)


def test_names_are_those_that_can_be_asked_for() -> None:
    assert get_args(Choices) == tuple(BACKENDS)
    assert set(LOSSY) | set(UNMASKED) <= set(BACKENDS)


def test_a_transformer_attends_by_the_backend_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CausalWanTransformer(num_attention_heads=2, attention_head_dim=24, num_layers=2, ffn_dim=96, text_dim=20)
    assert model.attention_backend == "native"
    model.set_attention_backend("native_math")
    assert model.attention_backend == "native_math"
    used = []
    monkeypatch.setattr("backbone.transformer.attention", lambda *call: used.append(call[-1]) or call[0])
    with torch.no_grad():
        model(draw(1, 16, 1, 4, 6), torch.zeros(1), draw(1, 7, 20))
    assert used == ["native_math"] * 4
    assert sum(isinstance(module, Attention) for module in model.modules()) == 4
    with pytest.raises(FieldError, match="it must be one of native, "):
        model.set_attention_backend("fast")
