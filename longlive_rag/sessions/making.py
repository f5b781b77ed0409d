"""Making a take: the request is checked before a model is loaded, and what is finished is kept however it ends."""

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
    """A take ended early; what is finished is kept.

    Attributes:
        reason: the reason, in one line.
        folder: folder of the take, or of the first of several made side by side.
        record: its record; None if there was no room even for that. If nothing was finished, its video has 0 frames and
            nothing was written.
    """

    def __init__(self, reason: str, folder: Path, record: TakeRecord | None) -> None:
        super().__init__(reason, folder, record)  # all arguments, so that it can be pickled
        self.reason, self.folder, self.record = reason, folder, record

    def __str__(self) -> str:
        return f"{self.folder}: {self.reason}"


class TakeStopped(TakeEnded):
    """A take was interrupted."""


class TakeFailed(TakeEnded):
    """A take failed: disk or memory ran out, values were not finite, or a policy picked invalid frames."""


@dataclass(frozen=True)
class NewTake:
    """A take to be made.

    Attributes:
        preset: preset of the backbone.
        request: what the take shows.
        folder: folder of the take.
        overwrite: whether it may replace an existing take.
        opening, labels, checkpoints: see their classes.
        pipe: the backbone, if it is already loaded.
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
    """A take that is ready to be made: checked, its folder claimed, its backbone loaded.

    Attributes:
        pipe, request: the pipeline and the request.
        writer: writes the take.
    """

    pipe: LongLiveRAGPipeline
    request: TakeRequest
    writer: TakeWriter

    def run(self, on_block: Callable[[Block, TakeWriter], None], ahead: int = AHEAD) -> TakeRecord:
        """Make the take and return its record.

        Args:
            on_block: called with every finished and written block, in the writing thread.
            ahead: how many blocks may still be in progress while the next is denoised; 0 does everything in sequence.
                See `LongLiveRAGPipeline.stream`.

        Raises:
            TakeStopped: on KeyboardInterrupt, including one raised by `on_block`.
            TakeFailed: if disk or memory runs out.
        """

        def write(block: Block) -> None:
            self.writer.add(block)
            on_block(block, self.writer)

        with ending_well(self.writer):
            exhaust(self.pipe.stream(self.request, stores=[self.writer], then=write, ahead=ahead))
            record = self.writer.finish("finished")
        return check_finished(record, self.writer.folder)


def exhaust(blocks: Iterator[Block]) -> None:
    """Run a stream to its end; however it ends, none of its threads is left running."""
    with closing(blocks):  # type: ignore[type-var]  # a generator
        for _ in blocks:
            pass


@contextmanager
def new_take(asked: NewTake, note: Note) -> Iterator[TakeJob]:
    """Check the request, claim the folder and load the backbone; the claim is held for the `with` body.

    Raises:
        ValueError: if it is invalid; names the field, the value and what is expected. Nothing was written.
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
    """Check a new take as far as configs and files allow, and claim its folder.

    Returns:
        The claim on the folder, the take's timeline, and its start image.

    Raises:
        ValueError: see `check_new_take`.
    """
    timeline, picture = check_new_take(asked)
    return TakeClaim(asked.folder, asked.overwrite), timeline, picture


def check_new_take(asked: NewTake) -> tuple[Timeline, StartImage | None]:
    """Check a new take as far as configs and files allow, without writing anything.

    Returns:
        The take's timeline, and its start image.

    Raises:
        ValueError: if the request is invalid (names the field, the value and what is expected), the folder holds
            something else, another process is writing there, or the disk is too small.
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
    """Approximate disk space for a take's latents and checkpoints; with dtype `auto`, an upper bound."""
    widest = "float32" if dtype == "auto" else dtype
    latents = timeline.latent_frames * (geometry.latent_bytes + geometry.embedding_bytes)
    return latents + checkpoint_bytes(checkpoints, timeline, request.context, geometry.page_bytes(widest))


@contextmanager
def ending_well(*takes: TakeWriter) -> Iterator[None]:
    """Finish the takes made in the `with` body if they end early.

    Raises:
        TakeStopped: on KeyboardInterrupt.
        TakeFailed: if disk or memory runs out, or a block is unusable.
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
    """Return the record of a complete take; raise TakeFailed if there was no room for its last files."""
    if record.error is not None:
        raise TakeFailed(record.error.message, folder, record)
    return record


def reason_of(error: BaseException) -> str:
    """Describe what went wrong in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _finish_failed(take: TakeWriter, error: BaseException) -> TakeRecord | None:
    """Finish a failed take; None if there is no room even for its record."""
    try:
        return take.finish("failed", error)
    except OSError:
        return None
