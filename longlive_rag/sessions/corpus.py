"""Many takes from a list of prompts: what a retrieval encoder is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from longlive_rag.config import TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.takes.folder import RECORD, read_record
from longlive_rag.takes.writer import TakeRun, TakeWriter


def take_folders(folder: Path, count: int) -> list[Path]:
    """Where the takes of a corpus go."""
    return [folder / f"take-{index:04d}" for index in range(count)]


def check_not_finished(folder: Path) -> None:
    """Raise ValueError if a finished take is there; one that is half made may be replaced."""
    if (folder / RECORD).exists() and read_record(folder)["status"] == "finished":
        raise ValueError(f"{folder} holds a finished take of something else; choose another folder, or remove it")


def make_takes(
    pipe: LongLiveRAGPipeline,
    run: TakeRun,
    wanted: Sequence[tuple[TakeRequest, Path]],
    batch: int,
    on_frames: Callable[[int], None],
) -> None:
    """Make takes, `batch` side by side; a take that is half made is made anew.

    Args:
        wanted: what, and where to; requests differ in prompt and seed only.
        on_frames: called with the number of pixel frames that were finished, over all takes of a batch.
    """
    for start in range(0, len(wanted), batch):
        together = wanted[start : start + batch]
        timeline = pipe.timeline(together[0][0])
        takes = [TakeWriter(folder, request, timeline, run, item) for item, (request, folder) in enumerate(together)]
        try:
            for block in pipe.stream([request for request, _ in together], stores=takes):
                for take in takes:
                    take.add(block)
                on_frames(len(takes) * len(block.pixel_frames))
        except BaseException as error:
            for take in takes:
                take.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error)
            raise
        for take in takes:
            record = take.finish("finished")
            if record["status"] != "finished":
                raise OSError(record["error"]["message"])
