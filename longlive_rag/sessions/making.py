"""A take is made: what is asked is checked before a model loads, and what was finished is kept however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from longlive_rag.config import CheckpointConfig, TakeRequest
from longlive_rag.generation.behind import AHEAD
from longlive_rag.generation.cues import cue_blocks, snapped
from longlive_rag.generation.directions import check_policy
from longlive_rag.media.start_image import StartImage, read_start_image
from longlive_rag.presets.geometry import Geometry, read_geometry
from longlive_rag.presets.needs import checkpoint_bytes
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import pick_policy
from longlive_rag.sessions.opening import Labels, Note, Opening, provenance_of
from longlive_rag.sessions.several_gpus import opened_backbone
from longlive_rag.takes.branch import timeline_of
from longlive_rag.takes.folder import TakeClaim, check_take_folder
from longlive_rag.takes.remember import find_remembered
from longlive_rag.timeline import Timeline

if TYPE_CHECKING:
    from longlive_rag.generation.block import Block
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.takes.record import TakeRecord
    from longlive_rag.takes.writer import TakeWriter


class TakeEnded(Exception):
    """A take ended early; what was finished is kept.

    Attributes:
        reason: in one line.
        folder: of the take; of several made side by side, of the first.
        record: its record; None where there was no room even for that. Its video's frames are 0 where nothing was
            finished, and then nothing was written.
    """

    def __init__(self, reason: str, folder: Path, record: TakeRecord | None) -> None:
        super().__init__(reason, folder, record)  # all of them, so that it can come from another process
        self.reason, self.folder, self.record = reason, folder, record

    def __str__(self) -> str:
        return f"{self.folder}: {self.reason}"


class TakeStopped(TakeEnded):
    """It was interrupted."""


class TakeFailed(TakeEnded):
    """Disk or memory ran out, what was made is not a picture any more, or a policy picked what it may not."""


@dataclass(frozen=True)
class NewTake:
    """What is asked for.

    Attributes:
        preset: of the backbone.
        request: what the take shows.
        folder: where it goes.
        overwrite: whether it may replace a take that is there.
        opening, labels, checkpoints: see there.
        pipe: the backbone, where it is loaded already.
    """

    preset: Preset
    request: TakeRequest
    folder: Path
    overwrite: bool = False
    opening: Opening = field(default_factory=Opening)
    labels: Labels = field(default_factory=Labels)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    pipe: LongLiveRAGPipeline | None = None


@dataclass(frozen=True)
class TakeJob:
    """A take that can be made: checked, its folder claimed, its backbone loaded.

    Attributes:
        pipe, request: what makes it, and what is asked.
        writer: writes it.
    """

    pipe: LongLiveRAGPipeline
    request: TakeRequest
    writer: TakeWriter

    def run(self, on_block: Callable[[Block, TakeWriter], None], ahead: int = AHEAD) -> TakeRecord:
        """Make the take; returns its record.

        Args:
            on_block: called with every block that is finished and written, in the thread that writes.
            ahead: how many blocks may be under way behind the one that is denoised; 0 does one thing after the other.
                See `LongLiveRAGPipeline.stream`.

        Raises:
            TakeStopped: on KeyboardInterrupt, also one that `on_block` raises.
            TakeFailed: if disk or memory run out.
        """

        def write(block: Block) -> None:
            self.writer.add(block)
            on_block(block, self.writer)

        with ending_well(self.writer):
            exhaust(self.pipe.stream(self.request, stores=[self.writer], then=write, ahead=ahead))
            record = self.writer.finish("finished")
        return check_finished(record, self.writer.folder)


def exhaust(blocks: Iterator[Block]) -> None:
    """Let a stream make all its blocks; however that ends, nothing of it runs any more."""
    with closing(blocks):  # type: ignore[type-var]  # a generator
        for _ in blocks:
            pass


@contextmanager
def new_take(asked: NewTake, note: Note) -> Iterator[TakeJob]:
    """Check what is asked, claim the folder, load the backbone; the claim is held for the `with` body.

    Raises:
        ValueError: naming the field, the value and what would be right; nothing was written.
        OSError: if the folder can't be written.
    """
    from longlive_rag.takes.writer import TakeWriter

    request, folder = asked.request, asked.folder
    with ExitStack() as held:
        provenance = provenance_of(asked.preset, asked.labels)
        claim, timeline, picture = claim_new_take(asked)
        held.enter_context(claim)
        for sentence in snapped(request, timeline):
            note(sentence)
        if picture is not None:
            note(f"start image: {picture.in_words}")
        opened = opened_backbone(asked.preset, request, asked.opening, provenance, note, asked.pipe)
        pipe, run = held.enter_context(opened)
        writer = TakeWriter(
            folder, request, timeline, run, checkpoint=asked.checkpoints, claim=claim, provenance=provenance
        )
        yield TakeJob(pipe, request, writer)


def claim_new_take(asked: NewTake) -> tuple[TakeClaim, Timeline, StartImage | None]:
    """Refuse what can't be made, as far as configs and files tell, and hold the folder.

    Returns:
        The claim of the folder, the take's timeline, and its picture.

    Raises:
        ValueError: as `check_new_take`.
    """
    timeline, picture = check_new_take(asked)
    return TakeClaim(asked.folder, asked.overwrite), timeline, picture


def check_new_take(asked: NewTake) -> tuple[Timeline, StartImage | None]:
    """Refuse what can't be made, as far as configs and files tell; leaves no trace.

    Returns:
        The take's timeline, and its picture.

    Raises:
        ValueError: naming the field, the value and what would be right; if the folder holds something else, another
            process writes there, or the disk has no room.
    """
    request, preset = asked.request, asked.preset
    check_policy(request.memory)
    geometry = read_geometry(preset, request.output, request.memory.encoder)
    find_remembered(request.memory.remember, preset, request.output, geometry, pick_policy(asked.labels.license_policy))
    picture = None
    if request.start_image is not None:
        picture = read_start_image(Path(request.start_image), request.output)
    timeline = timeline_of(request, preset)
    cue_blocks(request, timeline)
    room = stored_bytes(request, timeline, geometry, asked.opening.dtype, asked.checkpoints)
    check_take_folder(asked.folder, request, asked.overwrite, room)
    return timeline, picture


def stored_bytes(
    request: TakeRequest, timeline: Timeline, geometry: Geometry, dtype: str, checkpoints: CheckpointConfig
) -> int:
    """What a take's latents and checkpoints will take of the disk, roughly; with `auto` at most."""
    widest = "float32" if dtype == "auto" else dtype
    latents = timeline.latent_frames * (geometry.latent_bytes + geometry.embedding_bytes)
    return latents + checkpoint_bytes(checkpoints, timeline, request.context, geometry.page_bytes(widest))


@contextmanager
def ending_well(*takes: TakeWriter) -> Iterator[None]:
    """Finish the takes that are made in the `with` body, should they end early.

    Raises:
        TakeStopped: on KeyboardInterrupt.
        TakeFailed: if disk or memory run out, or a block can't be used.
    """
    import torch

    from longlive_rag.generation.block import NotFiniteError
    from retrieval.policies import PolicyError

    try:
        yield
    except KeyboardInterrupt as error:
        records = [take.finish("interrupted") for take in takes]
        raise TakeStopped("Stopped", takes[0].folder, records[0]) from error
    except (OSError, MemoryError, torch.OutOfMemoryError, NotFiniteError, PolicyError) as error:
        kept = [_finish_failed(take, error) for take in takes]
        raise TakeFailed(reason_of(error), takes[0].folder, kept[0]) from error
    except BaseException as error:
        for take in takes:
            take.finish("failed", error)
        raise


def check_finished(record: TakeRecord, folder: Path) -> TakeRecord:
    """The record of a take that was made to its end; raises TakeFailed if its last files found no room."""
    if record.error is not None:
        raise TakeFailed(record.error.message, folder, record)
    return record


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _finish_failed(take: TakeWriter, error: BaseException) -> TakeRecord | None:
    """Finish a take that gave out; None if there is no room even for its record."""
    try:
        return take.finish("failed", error)
    except OSError:
        return None
