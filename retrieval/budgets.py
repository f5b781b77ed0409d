"""Budgets and counters of the page cache: plain data, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

PagePrecision = Literal["same", "bfloat16", "float8"]
PAGE_PRECISIONS = get_args(PagePrecision)


GPU_BYTES = 4 * 2**30


@dataclass(frozen=True)
class PageBudgets:
    """Budgets of the page cache.

    Attributes:
        gpu_bytes: size of the GPU tier, which always has room for what one block fetches, even beyond this. Without a
            GPU there is no such tier. None is `GPU_BYTES`, for when free memory has not been measured.
        host_bytes: size of the host tier, which is pinned if there is a GPU.
        precision: precision of the host tier: `same` as the transformer's, `bfloat16` or `float8`.
        remake_stale: whether to remake pages made under an earlier prompt.
    """

    gpu_bytes: int | None = None
    host_bytes: int = 8 * 2**30
    precision: PagePrecision = "same"
    remake_stale: bool = True

    @property
    def on_gpu(self) -> int:
        """Size of the GPU tier in bytes."""
        return GPU_BYTES if self.gpu_bytes is None else self.gpu_bytes


def host_slots(gpu_pages: int, host_pages: int, past_pages: int) -> int:
    """Number of host pages that will be used: none unless the GPU tier fills up.

    Args:
        gpu_pages, host_pages: capacities of the tiers.
        past_pages: maximum number of pages there can be.
    """
    return min(host_pages, past_pages) if past_pages > gpu_pages else 0


@dataclass
class PageCounters:
    """Counters of a page cache.

    Attributes:
        fetched: pages requested.
        from_gpu, from_host: requested pages found in this tier.
        remade: requested pages recomputed from latents, because they were in no tier or stale.
        stale: remade pages that were in a tier, but made under an earlier prompt.
        prefetched: pages copied to the GPU before they were requested.
        evicted: pages dropped from the last tier that had room for them.
        bytes_copied: bytes copied between tiers and into them.
        seconds_waited: time that the transformer waited for copies.
        gpu_pages, host_pages: pages resident now.
        gpu_bytes, host_bytes: bytes allocated now.
    """

    fetched: int = 0
    from_gpu: int = 0
    from_host: int = 0
    remade: int = 0
    stale: int = 0
    prefetched: int = 0
    evicted: int = 0
    bytes_copied: int = 0
    seconds_waited: float = 0.0
    gpu_pages: int = 0
    host_pages: int = 0
    gpu_bytes: int = 0
    host_bytes: int = 0

    def as_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {**asdict(self), "seconds_waited": round(self.seconds_waited, 4)}
