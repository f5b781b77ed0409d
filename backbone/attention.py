"""The attention call, through diffusers' dispatcher: by which of its backends is a name."""

from __future__ import annotations

from collections.abc import Callable

from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

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


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str = "native") -> Tensor:
    """Scaled dot-product attention.

    Args:
        query, key, value: [B, tokens, heads, head_dim].
        mask: [B or 1, 1, queries or 1, keys], True = see.
        backend: a key of `BACKENDS`.

    Returns:
        [B, tokens, heads, head_dim].
    """
    return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=BACKENDS[backend])
