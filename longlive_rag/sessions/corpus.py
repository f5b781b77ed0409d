"""Making many takes from a list of prompts, to train a retrieval encoder on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.generation.block import Block
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset
from longlive_rag.sessions.opening import Labels, Opening, load_backbone, provenance_of
from longlive_rag.sessions.ray_workers import Cluster, work_on_ray
from longlive_rag.sessions.side_by_side import make_together
from longlive_rag.takes.branch import is_finished
from longlive_rag.takes.folder import RECORD, check_take_folder
from longlive_rag.takes.record import TakeRun, read_record

NO_CHECKPOINTS = CheckpointConfig(gib=0)  # a corpus is only read; resuming one of its takes reruns all commits


Wanted = Sequence[tuple[TakeRequest, Path]]
"""The requests with each take's folder; requests differ only in prompt and seed."""


@dataclass(frozen=True)
class Chunk:
    """Takes made side by side.

    Attributes:
        requests, folders: the request and the folder of each take.
    """

    requests: tuple[TakeRequest, ...]
    folders: tuple[Path, ...]

    @property
    def frames(self) -> int:
        """Number of pixel frames of all takes."""
        return sum(request.pixel_frames for request in self.requests)


def chunks_of(wanted: Wanted, batch: int) -> list[Chunk]:
    """Split takes into chunks of up to `batch`."""
    parts = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
    return [Chunk(*zip(*part, strict=True)) for part in parts]


def missing_takes(requests: Sequence[TakeRequest], folder: Path, preset: Preset) -> list[tuple[TakeRequest, Path]]:
    """List the takes of a corpus that are not finished yet, with their folders.

    Raises:
        ValueError: if a folder holds a finished take of another request, or can't be written.
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
    """Raise ValueError if the folder holds a finished take; an unfinished one may be replaced."""
    if (folder / RECORD).exists() and read_record(folder).status == "finished":
        raise ValueError(f"{folder} holds a finished take of another request; choose another folder, or remove it")


def make_corpus(
    pipe: LongLiveRAGPipeline,
    run: TakeRun,
    wanted: Wanted,
    batch: int,
    on_frames: Callable[[int], None],
) -> None:
    """Make takes, `batch` side by side; unfinished takes are made anew.

    Args:
        on_frames: called with the number of newly finished pixel frames, over all takes of a batch.

    Raises:
        TakeStopped: on KeyboardInterrupt.
        TakeFailed: if disk or memory runs out.
    """

    def on_block(block: Block) -> None:
        on_frames(len(block.pixels) * len(block.pixel_frames))

    for chunk in chunks_of(wanted, batch):
        make_together(pipe, chunk.requests, chunk.folders, run, NO_CHECKPOINTS, on_block)


def make_corpus_on_ray(
    preset: Preset, opening: Opening, wanted: Wanted, batch: int, cluster: Cluster, on_frames: Callable[[int], None]
) -> None:
    """Make takes as `make_corpus` does, with the workers of a Ray cluster; all nodes must share the folders.

    Args:
        preset, opening: the backbone, which each worker opens on its own device.
        cluster: the cluster, and the number of workers.
        on_frames: called with the number of pixel frames of every finished chunk.

    Raises:
        FieldError, OSError: see `work_on_ray`.
        TakeFailed: if disk or memory runs out.
    """
    chunks = [Chunk(each.requests, tuple(map(Path.resolve, each.folders))) for each in chunks_of(wanted, batch)]
    begin = partial(_begin_on_ray, preset, opening, cluster.threads)
    gpus = cluster.gpus_for(preset, opening.precision.dtype)
    for chunk in work_on_ray(cluster, opening.device, gpus, begin, chunks):
        on_frames(chunk.frames)


def _begin_on_ray(preset: Preset, opening: Opening, threads: int | None, device: str) -> Callable[[Chunk], None]:
    """Load the backbone on a worker's device and return a function that makes takes there."""
    pipe, run = load_backbone(preset, replace(opening, device=device), provenance_of(preset, Labels()), threads)

    def make(chunk: Chunk) -> None:
        make_together(pipe, chunk.requests, chunk.folders, run, NO_CHECKPOINTS)

    return make
