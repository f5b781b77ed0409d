"""Shared by commands that make a take: the progress bar, early exits and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longlive_rag.cli.errors import Failed, Stopped, one_line
from retrieval.files import in_words

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.sessions.making import TakeEnded, TakeJob
    from longlive_rag.takes.record import TakeRecord
    from longlive_rag.takes.writer import TakeWriter
    from retrieval.budgets import PageCounters

PROGRESS = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} frames, {rate_noinv_fmt} end to end, "
PROGRESS += "{remaining} left{postfix}"


def note(sentence: str) -> None:
    """Print a note on stderr that the user may want to act on."""
    click.echo(f"Note: {sentence}.", err=True)


def load(backbone: str, dtype: str = "auto", device: str = "auto") -> LongLiveRAGPipeline:
    """Load a pipeline by name or folder, without the progress bars of libraries."""
    from longlive_rag.sessions.opening import quiet_libraries
    from longlive_rag.weights.load import load_pipeline

    with quiet_libraries():
        return load_pipeline(backbone, dtype, device)


def make(job: TakeJob) -> TakeRecord:
    """Make a take with a progress bar and return its record.

    Raises:
        Stopped: on Ctrl-C; what is finished is kept.
        Failed: if disk or memory runs out; what is finished is kept.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=job.request.pixel_frames,
        initial=job.writer.frames_before,
        unit=" frames",
        bar_format=PROGRESS,
        smoothing=0,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        file=sys.stderr,
    )

    def on_block(block: Block, take: TakeWriter) -> None:
        bar.set_postfix_str(f"{take.frames_retrieved} past frames retrieved{of_pages(take.pages)}", refresh=False)
        bar.update(len(block.pixel_frames))

    with said_as_exit_codes(), bar:
        return job.run(on_block)


@contextmanager
def said_as_exit_codes() -> Iterator[None]:
    """Turn an early end of the take made in the `with` body into one line and an exit code."""
    from longlive_rag.sessions.making import TakeFailed, TakeStopped

    try:
        yield
    except TakeStopped as ended:
        raise Stopped(f"{ended.reason}; {kept(ended)}") from ended
    except TakeFailed as ended:
        raise Failed(f"{one_line(ended.reason)}; {kept(ended)}") from ended


def kept(ended: TakeEnded) -> str:
    """Describe what an early end leaves behind."""
    from longlive_rag.takes.folder import in_shell

    record, folder = ended.record, ended.folder
    if record is None:
        return f"{folder} has its video, but there was no room for its record"
    video = record.video
    if not video.frames:
        return "nothing was finished, so nothing was written"
    there = f"kept the first {video.seconds:.1f} s ({video.frames} frames) in {folder / video.file}"
    return f"{there}; to continue: longlive-rag resume {in_shell(folder)}" if record.latents else there


def of_pages(pages: PageCounters | None) -> str:
    """Describe what the page cache holds and had to recompute, for the progress bar."""
    if pages is None or not pages.fetched:
        return ""
    held = f", {in_words(pages.gpu_bytes + pages.host_bytes)} of pages"
    return f"{held}, {pages.remade} recomputed" if pages.remade else held


def first_showings(admitted: Sequence[tuple[int, int]], frames_kept_out: int) -> str:
    """Describe what entered memory: ranges [first, after the last] of latent frames."""
    kept_frames = sum(after - first for first, after in admitted)
    showings = f"{len(admitted)} first {'showing' if len(admitted) == 1 else 'showings'}"
    return f"memory kept {kept_frames} of {kept_frames + frames_kept_out} latent frames, those of {showings}"


def report(record: TakeRecord, folder: Path, as_json: bool) -> None:
    """Print what was made and where it is."""
    from longlive_rag.takes.folder import CONTACT_SHEET, MEMORY_MAP, RECORD
    from longlive_rag.takes.record import plain
    from longlive_rag.timecode import shown_timecode

    video, timings, memory = record.video, record.timings, record.memory
    paths = {
        "video": folder / video.file,
        "contact_sheet": folder / CONTACT_SHEET,
        "memory_map": folder / MEMORY_MAP,
        "record": folder / RECORD,
    }
    if as_json:
        result = {
            "status": record.status,
            "take": str(folder),
            **{name: str(path) for name, path in paths.items()},
            "frames": video.frames,
            "seconds": video.seconds,
            "generated_in_seconds": timings.seconds,
            "frames_per_second": timings.frames_per_second,
            "seconds_by_stage": timings.by_stage,
            **plain(memory),
            "cues": [plain(cue) for cue in record.cues],
            "unknown_words": record.run.unknown_words,
        }
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    new = timings.new_frames
    frames = f"{video.frames} frames" if new == video.frames else f"{video.frames} frames, {new} made in this run"
    click.echo(
        f"{video.seconds:g} s of video ({frames}) in {timings.seconds:.1f} s: "
        f"{timings.frames_per_second:.1f} frames per second end to end"
    )
    retrieved = f"{memory.frames_retrieved} past frames retrieved"
    remembered = f"{retrieved} in {memory.blocks_with_memory} of {video.blocks} blocks"
    click.echo(remembered if record.request.context.memory_frames else "memory was off")
    if memory.admitted is not None and memory.frames_kept_out:
        click.echo(first_showings(memory.admitted, memory.frames_kept_out))
    for cue in record.cues:
        cut = " (a cut)" if cue.cut else ""
        click.echo(f"cue {cue.cue}{cut} took over at {shown_timecode(cue.seconds)}: {cue.prompt}")
    labels = {"watch": "video", "frames": "contact_sheet", "memory": "memory_map", "how": "record"}
    for label, name in labels.items():
        click.echo(f"  {label:<7} {paths[name]}")
