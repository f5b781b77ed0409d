"""The precision a backbone runs in, decided in one place: by default bfloat16 on a GPU and float32 on a CPU."""

from __future__ import annotations

from typing import NamedTuple

from backbone.errors import FieldError

DTYPES = ("float32", "bfloat16")


class Precision(NamedTuple):
    """Names of dtypes; the retrieval encoder is always float32.

    Attributes:
        dtype: of the transformer.
        vae_dtype: of the VAE or the tiny decoder.
    """

    dtype: str
    vae_dtype: str


def pick_precision(dtype: str, device: str, vae_dtype: str | None = None) -> Precision:
    """Decide the dtypes of a backbone.

    Args:
        dtype: of the transformer: one of `DTYPES`, or `auto`, which is bfloat16 on a GPU and float32 on a CPU.
        device: kind of device, `cuda` or `cpu`.
        vae_dtype: one of `DTYPES`; None is the transformer's on a GPU, and float32 on a CPU, where the VAE's
            convolutions are no faster in bfloat16.

    Raises:
        FieldError: if a dtype is none of these.
    """
    if dtype not in ("auto", *DTYPES):
        raise FieldError("dtype", dtype, f"it must be one of auto, {', '.join(DTYPES)}")
    if vae_dtype is not None and vae_dtype not in DTYPES:
        raise FieldError("vae_dtype", vae_dtype, f"it must be one of {', '.join(DTYPES)}")
    on_gpu = device == "cuda"
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu else "float32"
    return Precision(dtype, vae_dtype or (dtype if on_gpu else "float32"))
