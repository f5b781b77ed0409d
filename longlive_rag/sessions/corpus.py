"""Many takes from a list of prompts: what a retrieval encoder is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.generation.block import Block
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset
from longlive_rag.sessions.side_by_side import make_together
from longlive_rag.takes.branch import is_finished
from longlive_rag.takes.folder import RECORD, check_take_folder
from longlive_rag.takes.record import TakeRun, read_record

NO_CHECKPOINTS = CheckpointConfig(gib=0)  # a corpus is read; resuming a take of it runs its commits again


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

    Raises:
        TakeStopped: on KeyboardInterrupt.
        TakeFailed: if disk or memory run out.
    """

    def on_block(block: Block) -> None:
        on_frames(len(block.pixels) * len(block.pixel_frames))

    for start in range(0, len(wanted), batch):
        requests, folders = zip(*wanted[start : start + batch], strict=True)
        make_together(pipe, requests, folders, run, NO_CHECKPOINTS, on_block)
