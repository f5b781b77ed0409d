"""Peak memory over the length of a take, measured.

One long take gives the whole curve: a shorter take is, bit for bit, the beginning of a longer one, so the peak up to
second s is the peak of a take of s seconds. What the process held before the first block is not subtracted.
"""

from __future__ import annotations

import platform
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from backbone.errors import FieldError
from longlive_rag.diagnostics.subjects import Subject
from longlive_rag.generation.behind import AHEAD
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.charts import Line, add_legend, draw_lines, new_chart, save_chart, start_at_zero
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageBudgets, PageCounters
from retrieval.store import BlockRecord, LatentWriter


@dataclass(frozen=True)
class Sample:
    """Memory up to the end of a block.

    Attributes:
        seconds: length of the take so far.
        host_bytes: peak resident memory of the process so far.
        gpu_bytes: peak allocated GPU memory so far; 0 without a GPU.
        pages_remade: pages recomputed so far.
        latent_frames: latent frames of the take so far.
        frames_admitted: how many of these memory has admitted.
    """

    seconds: float
    host_bytes: int
    gpu_bytes: int
    pages_remade: int
    latent_frames: int = 0
    frames_admitted: int = 0


@dataclass(frozen=True)
class Footprint:
    """A curve and its peaks at the requested lengths."""

    samples: list[Sample]
    peaks: dict[float, int]

    @property
    def spread_bytes(self) -> int:
        """Difference between the largest and the smallest peak."""
        return max(self.peaks.values()) - min(self.peaks.values())


def measure(blocks: Iterator[Sample], lengths: Sequence[float], progress: Callable[[str], None]) -> Footprint:
    """Collect all samples and find the peak of each length in seconds."""
    samples = []
    for sample in blocks:
        samples.append(sample)
        progress(f"{sample.seconds:.0f} s: {sample.host_bytes / 2**20:.0f} MiB")
    on_gpu = any(sample.gpu_bytes for sample in samples)
    sizes = [(sample.seconds, sample.gpu_bytes if on_gpu else sample.host_bytes) for sample in samples]
    peaks = {
        length: max(size for place, (_, size) in enumerate(sizes) if place == 0 or sizes[place - 1][0] < length)
        for length in lengths
    }
    return Footprint(samples, peaks)


def check_lengths(lengths: Sequence[float]) -> None:
    """Raise FieldError unless the lengths are positive and increasing."""
    if not lengths or any(length <= 0 for length in lengths) or sorted(set(lengths)) != list(lengths):
        shown = repr(",".join(f"{seconds:g}" for seconds in lengths))
        raise FieldError("seconds", list(lengths), "they must be increasing numbers such as 60,240,960", shown)


def samples_of_pipeline(
    pipe: LongLiveRAGPipeline, prompt: str, seconds: float, budgets: PageBudgets
) -> Iterator[Sample]:
    """Yield samples of a whole take with its store, decoded while the next block is denoised."""
    memory = replace(
        pipe.memory,
        gpu_gib=budgets.on_gpu / 2**30,
        host_gib=budgets.host_bytes / 2**30,
        page_precision=budgets.precision,
    )
    request = pipe.request(prompt, seconds=seconds, memory=memory)
    timeline = pipe.timeline(request)
    reset_peak()
    admitted = 0
    with tempfile.TemporaryDirectory() as folder, LatentWriter(Path(folder)) as store:
        for block in pipe.stream(request, stores=[store], ahead=AHEAD):
            admitted += len(block.entered[0]) if block.entered else 0
            yield _sample(timeline, block.index, pipe.transformer.device, block.pages, admitted)


def samples_of_subject(subject: Subject, seconds: float, budgets: PageBudgets, steps: int) -> Iterator[Sample]:
    """Yield samples of a rollout of random weights with its store, without decoding."""
    context, fps = subject.context, 16
    timeline = Timeline(round(seconds * fps), fps, context.frames_per_block, 4)
    sampler = replace(subject.sampler, denoising_steps=subject.sampler.denoising_steps[:steps])
    reset_peak()
    with tempfile.TemporaryDirectory() as folder, LatentWriter(Path(folder)) as store:
        rollout = Rollout(
            subject.transformer,
            context,
            sampler,
            PhiloxNoise([0]),
            subject.latent_shape,
            encoder=subject.encoder,
            budgets=budgets,
            past=lambda _, frames: store.latents(frames),
        )
        rollout.direct(subject.prompt_embeds)
        admitted = 0
        for index in range(timeline.blocks):
            done = rollout.next_block()
            latents = done.latents[0].float().cpu().numpy()
            store.append(BlockRecord(index, latents, None, None, "", None, done.seconds))
            admitted += len(done.entered[0]) if done.entered else 0
            yield _sample(timeline, index, subject.transformer.device, rollout.page_counters(), admitted)


def _sample(timeline: Timeline, block: int, device: torch.device, pages: PageCounters | None, admitted: int) -> Sample:
    return Sample(
        seconds=timeline.starts_at(block + 1),
        host_bytes=peak_resident_bytes(),
        gpu_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        pages_remade=pages.remade if pages else 0,
        latent_frames=timeline.latents_of(block).stop,
        frames_admitted=admitted,
    )


def peak_resident_bytes() -> int:
    """Return this process's peak resident memory since `reset_peak`, or since it began if the system can't reset it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def reset_peak() -> None:
    """Forget the peak so far, such as that of loading; only works on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def draw(curves: dict[str, Footprint], path: Path) -> None:
    """Draw curves by name: seconds of the take on the x axis, memory from zero on the y axis."""
    figure, (axes,) = new_chart(4.6)
    for number, (name, curve) in enumerate(curves.items()):
        seconds = [sample.seconds for sample in curve.samples]
        draw_lines(axes, [Line(seconds, [_bytes(sample) / 2**20 for sample in curve.samples], name, number)])
    axes.set(xlabel="seconds of the take", ylabel="peak memory so far, MiB")
    start_at_zero(axes)
    add_legend(figure)
    save_chart(figure, path)


def _bytes(sample: Sample) -> int:
    return sample.gpu_bytes or sample.host_bytes
