"""The attention call, through diffusers' dispatcher: by which of its backends is a name."""

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

# (query, key, value, mask) -> attended, as `attention`.
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
"""diffusers' backends by name: torch's own and those of installed packages; none is fetched when it is used."""
LOSSY = ("sage",)
"""Those that round queries, keys or values further than the tensors' dtype."""
UNMASKED = ("native_flash", "flash", "flash_3", "sage")
"""Those that can't leave anything out of the context."""


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str = "native") -> Tensor:
    """Scaled dot-product attention.

    Args:
        query, key, value: [B, tokens, heads, head_dim].
        mask: [B or 1, 1, queries or 1, keys], True = see.
        backend: a key of `BACKENDS`.

    Returns:
        [B, tokens, heads, head_dim].

    Raises:
        FieldError: if there is a mask, and the backend is one of `UNMASKED`.
    """
    if mask is not None and backend in UNMASKED:
        raise FieldError("attention", backend, "it takes no mask, and takes made side by side need one. Use native")
    return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=BACKENDS[backend])


def why_not(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a backend can't be used on this machine, in words; None if it can: a small call has been made."""
    query = torch.zeros(1, 16, 2, head_dim, dtype=dtype, device=device)
    try:
        _check_attention_backend_requirements(BACKENDS[backend])
        for check in _AttentionBackendRegistry._constraints[BACKENDS[backend]]:
            check(query=query, key=query, value=query, attn_mask=None, is_causal=False)
        attention(query, query, query, backend=backend)
    except Exception as error:  # whatever a kernel says of a device or dtype that it isn't for
        return f"{error}".splitlines()[0].strip().rstrip(".") if f"{error}" else type(error).__name__
    return None
