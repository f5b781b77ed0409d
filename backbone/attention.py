"""The attention call, through diffusers' dispatcher, with a choice of backends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)
from torch import Tensor

from backbone.errors import FieldError

# (query, key, value, mask) -> attended, as in `attention`.
AttentionCall = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

BACKENDS = {
    "native": AttentionBackendName.NATIVE,
    "native_cudnn": AttentionBackendName._NATIVE_CUDNN,
    "native_efficient": AttentionBackendName._NATIVE_EFFICIENT,
    "native_flash": AttentionBackendName._NATIVE_FLASH,
    "native_math": AttentionBackendName._NATIVE_MATH,
    "flash": AttentionBackendName.FLASH,
    "flash_3": AttentionBackendName._FLASH_3,
    "xformers": AttentionBackendName.XFORMERS,
    "sage": AttentionBackendName.SAGE,
}
"""diffusers' backends by name: torch's own and those of installed packages, but none that download kernels on use."""
LOSSY = ("sage",)
"""Backends that round queries, keys or values further than the tensors' dtype."""
UNMASKED = ("native_flash", "flash", "flash_3", "sage")
"""Backends without support for masks."""


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str = "native") -> Tensor:
    """Compute scaled dot-product attention.

    Args:
        query, key, value: [B, tokens, heads, head_dim].
        mask: [B or 1, 1, queries or 1, keys], True = attend.
        backend: a key of `BACKENDS`.

    Returns:
        [B, tokens, heads, head_dim].

    Raises:
        FieldError: if there is a mask and the backend is one of `UNMASKED`.
    """
    if mask is not None and backend in UNMASKED:
        raise FieldError(
            "attention", backend, "it does not support masks, which takes made side by side need. Use native"
        )
    return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=BACKENDS[backend])


def why_not(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Make a small call and say why a backend can't be used on this machine; None if it can."""
    query = torch.zeros(1, 16, 2, head_dim, dtype=dtype, device=device)
    try:
        _check_attention_backend_requirements(BACKENDS[backend])
        for check in _AttentionBackendRegistry._constraints[BACKENDS[backend]]:
            check(query=query, key=query, value=query, attn_mask=None, is_causal=False)
        attention(query, query, query, backend=backend)
    except Exception as error:  # kernels raise all sorts on an unsupported device or dtype
        return f"{error}".splitlines()[0].strip().rstrip(".") if f"{error}" else type(error).__name__
    return None
