"""Many takes from a list of prompts: what a retrieval encoder is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from longlive_rag.config import TakeRequest
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset
from longlive_rag.takes.branch import is_finished
from longlive_rag.takes.folder import RECORD, check_take_folder
from longlive_rag.takes.record import TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter


def missing_takes(requests: Sequence[TakeRequest], folder: Path, preset: Preset) -> list[tuple[TakeRequest, Path]]:
    """The takes of a corpus that are not finished yet, and where each goes.

    Raises:
        ValueError: if a folder holds a finished take of something else, or can't be written.
    """
    weights = backbone_id(preset.folder)
    folders = [folder / f"take-{index:04d}" for index in range(len(requests))]
    wanted = zip(requests, folders, strict=True)
    left = [(request, place) for request, place in wanted if not is_finished(place, request, weights)]
    for request, place in left:
        check_not_finished(place)
        check_take_folder(place, request, overwrite=True)
    return left


def check_not_finished(folder: Path) -> None:
    """Raise ValueError if a finished take is there; one that is half made may be replaced."""
    if (folder / RECORD).exists() and read_record(folder).status == "finished":
        raise ValueError(f"{folder} holds a finished take of something else; choose another folder, or remove it")


def make_corpus(
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
            if record.error is not None:
                raise OSError(record.error.message)
