"""What pages may cost, and what a page cache has done: plain data, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

PagePrecision = Literal["same", "bfloat16", "float8"]
PAGE_PRECISIONS = get_args(PagePrecision)


GPU_BYTES = 4 * 2**30


@dataclass(frozen=True)
class PageBudgets:
    """What pages may cost.

    Attributes:
        gpu_bytes: of the GPU tier; what one block fetches is always there, even above it. Without a GPU there is no
            such tier. None is `GPU_BYTES`, where nobody has looked what is free.
        host_bytes: of the host tier, pinned where there is a GPU.
        precision: of the host tier: `same` as the transformer's, `bfloat16` or `float8`.
        remake_stale: make a page again that was made under an earlier prompt.
    """

    gpu_bytes: int | None = None
    host_bytes: int = 8 * 2**30
    precision: PagePrecision = "same"
    remake_stale: bool = True

    @property
    def on_gpu(self) -> int:
        """Bytes of the GPU tier."""
        return GPU_BYTES if self.gpu_bytes is None else self.gpu_bytes


def host_slots(gpu_pages: int, host_pages: int, past_pages: int) -> int:
    """How many pages of the host tier will be used: none before the GPU's tier is full.

    Args:
        gpu_pages, host_pages: that the tiers have room for.
        past_pages: that there can be.
    """
    return min(host_pages, past_pages) if past_pages > gpu_pages else 0


@dataclass
class PageCounters:
    """What a page cache has done.

    Attributes:
        fetched: pages asked for.
        from_gpu, from_host: of those, found in this tier.
        remade: of those, made again from latents, because they were in no tier or stale.
        stale: of the remade, those that were there, but made under an earlier prompt.
        prefetched: pages copied to the GPU before they were asked for.
        evicted: pages dropped from the last tier that had room for them.
        bytes_copied: between tiers and into them.
        seconds_waited: for copies, where the transformer had to.
        gpu_pages, host_pages: resident now.
        gpu_bytes, host_bytes: allocated now.
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
