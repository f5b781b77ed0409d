"""A whole take, written as `generate` writes it, with and without what runs behind; how near it is to its longest part.

Denoising, storing, decoding and writing each have a thread. A take can be no faster than the longest of them; how
long each takes is measured where nothing runs beside it, by a take that does one thing after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from longlive_rag.generation.behind import AHEAD
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.writer import TakeWriter

if TYPE_CHECKING:
    from longlive_rag.config import TakeRequest
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.takes.record import TakeRun, TakeStatus

BEHIND = {"storing": ("store",), "decoding": ("decode", "checkpoint"), "writing": ("write",)}
"""What runs behind the denoising, and the stages of a take's timings that are its own; all others are denoising's."""


@dataclass(frozen=True)
class EndToEnd:
    """One take.

    Attributes:
        seconds: from before the first block until the take is finished.
        frames: pixel frames.
        parts: seconds by part of the work; where parts run beside each other, a part's include what it waits for a
            processor that others have.
    """

    seconds: float
    frames: int
    parts: dict[str, float]

    @property
    def frames_per_second(self) -> float:
        """End to end, as `generate` says it."""
        return self.frames / self.seconds


@dataclass(frozen=True)
class Overlap:
    """Takes of one request, made in turn.

    Attributes:
        serial: one thing after the other.
        overlapped: as `generate` makes them, each after the serial one of its number.
    """

    serial: list[EndToEnd]
    overlapped: list[EndToEnd]

    @property
    def longest(self) -> str:
        """The part that takes longest."""
        return max(self.serial[0].parts, key=lambda part: median(take.parts[part] for take in self.serial))

    @property
    def over_longest(self) -> float:
        """A take's seconds as a multiple of its longest part's; median over the pairs."""
        return self._median(lambda serial: serial.parts[self.longest])

    @property
    def over_serial(self) -> float:
        """A take's seconds as a multiple of those without overlap; median over the pairs."""
        return self._median(lambda serial: serial.seconds)

    def _median(self, of: Callable[[EndToEnd], float]) -> float:
        return median(b.seconds / of(a) for a, b in zip(self.serial, self.overlapped, strict=True))


def make_take(
    pipe: LongLiveRAGPipeline, request: TakeRequest, run: TakeRun, folder: Path, ahead: int = AHEAD
) -> EndToEnd:
    """Make a take in a new folder; arguments as for `TakeWriter` and `LongLiveRAGPipeline.stream`."""
    writer = TakeWriter(folder, request, pipe.timeline(request), run, provenance=Provenance())
    stream = pipe.stream(request, stores=[writer], then=writer.add, ahead=ahead)
    status: TakeStatus = "failed"
    try:
        with closing(stream) as blocks:  # type: ignore[type-var]  # a generator
            for _ in blocks:
                pass
        status = "finished"
    finally:
        timings = writer.finish(status).timings
    parts = {part: sum(timings.by_stage.get(stage, 0.0) for stage in stages) for part, stages in BEHIND.items()}
    denoising = sum(timings.by_stage.values()) - sum(parts.values())
    return EndToEnd(timings.seconds, timings.new_frames, {"denoising": denoising, **parts})


def compare(
    pipe: LongLiveRAGPipeline,
    request: TakeRequest,
    run: TakeRun,
    folder: Path,
    pairs: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Overlap:
    """Make takes of a request in turn without and with overlap, after one that is not counted.

    Args:
        folder: an empty one, for them all.
        pairs: how many of each.
    """
    progress("warming up")
    make_take(pipe, request, run, folder / "warm-up")
    overlap = Overlap([], [])
    for pair in range(pairs):
        progress(f"pair {pair + 1} of {pairs}")
        overlap.serial.append(make_take(pipe, request, run, folder / f"serial{pair}", ahead=0))
        overlap.overlapped.append(make_take(pipe, request, run, folder / f"overlapped{pair}"))
    return overlap
