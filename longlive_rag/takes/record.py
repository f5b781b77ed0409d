"""A take's record, `take.json`: all that it says, typed. No other module knows its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, SerializerFunctionWrapHandler, field_serializer

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig, CheckpointMode, TakeRequest
from longlive_rag.documents import BrokenChecksumError, Document, Sealed, read_document, write_document
from longlive_rag.presets.precision import Precision
from longlive_rag.rights.policy import LicensePolicy
from longlive_rag.rights.provenance import DIGITAL_SOURCE, OutputLabel, Provenance
from longlive_rag.rights.records import FileRights
from longlive_rag.rights.spdx import Use
from longlive_rag.takes.folder import RECORD, check_own_files
from retrieval.budgets import PageCounters
from retrieval.selection import Selection

TakeStatus = Literal["running", "finished", "interrupted", "failed"]
TakeEvent = Literal["generated", "resumed", "extended", "branched"]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=10**9)]
Number = int | float  # stays what it was given as


@dataclass(frozen=True)
class TakeRun:
    """What a take was made with, beyond its request; `LongLiveRAGPipeline.take_run` knows it.

    Attributes:
        backbone: its name, as the user knows it.
        folder: the pipeline folder.
        device, dtype: where and in which precision the backbone ran.
        vae_dtype: of what made the pixels; older versions decoded in float32.
        threads: of the CPU, for one operation.
        noise: name of the noise source.
        codec: of the video, a key of `CODECS`.
        load_seconds: time until the backbone was ready.
        unknown_words: words of the prompts that the backbone has never read, by prompt.
        backbone_id: tells one backbone's latents from another's; see `geometry.backbone_id`.
        batch: how many takes were made side by side; the last bits depend on it.
        decoder: that made the pixels of its latents, `full` or `tiny`.
        compiled, compiled_decoder: the transformer's layers were, and the VAE's decoder; the last bits depend on it.
        attention: the backend that computed it; the last bits depend on it, and more where it is `sage`.
        gpus: how many made it together; the last bits depend on it.
    """

    backbone: str
    folder: Annotated[Path, PlainSerializer(str)]
    device: str
    dtype: str
    threads: int
    noise: str
    codec: str = "vp9"
    load_seconds: float = 0.0
    unknown_words: dict[str, list[str]] = field(default_factory=dict)
    backbone_id: str | None = None
    batch: int = 1
    decoder: str = "full"
    compiled: bool = False
    attention: str = "native"
    vae_dtype: str = "float32"
    gpus: int = 1
    compiled_decoder: bool = False

    @property
    def precision(self) -> Precision:
        """What it was made in."""
        return Precision(self.dtype, self.vae_dtype)


class Rights(Document):
    """Under which terms the weights were, and what the take is labelled as."""

    generated_by_ai: bool
    digital_source_type: str
    label: OutputLabel
    phase: str | None
    visible_label: str | None
    license_policy: LicensePolicy
    weights_allow: Use
    files: tuple[FileRights, ...]

    @field_serializer("files", mode="wrap")
    def _as_before(self, files: tuple[FileRights, ...], write: SerializerFunctionWrapHandler) -> Any:
        """What a user has recorded is written as versions before the publishers' terms wrote it."""
        written = write(files)
        for record in (file["record"] for file in written if file["record"] is not None):
            if record["basis"] == "recorded":
                del record["basis"], record["page"]
        return written

    @classmethod
    def of(cls, provenance: Provenance) -> Rights:
        """As they are recorded."""
        return cls(
            generated_by_ai=True,
            digital_source_type=DIGITAL_SOURCE,
            label=provenance.label,
            phase=provenance.phase,
            visible_label=provenance.visible_text,
            license_policy=provenance.policy,
            weights_allow=provenance.allowed_use,
            files=provenance.files,
        )


class VideoFacts(Document):
    """The video as it is; `frames` are pixel frames, `seconds` its length; `sha256` is there once it is finished."""

    file: Literal["video.mp4"]
    codec: str
    encoder: str
    encoder_license: str
    width: AtLeastOne
    height: AtLeastOne
    fps: AtLeastOne
    frames: Count
    seconds: Seconds
    blocks: Count
    temporal_factor: AtLeastOne | None = None
    sha256: str | None = None


class CueFacts(Document):
    """A cue, numbered from 1: when it was asked for, when it took over, whether the take came so far, and whether
    another shot begins with it."""

    cue: AtLeastOne
    prompt: str
    asked_seconds: Number
    seconds: Seconds
    block: Count
    reached: bool
    cut: bool = False


class MemoryFacts(Document):
    """What memory did; `admitted` are latent frames, each (first, after the last), None where it is not known;
    `page_gpu_bytes` is the page budget that `auto` came to on a GPU."""

    frames_retrieved: Count
    blocks_with_memory: Count
    frames_admitted: Count | None = None
    frames_kept_out: Count | None = None
    admitted: tuple[tuple[Count, Count], ...] | None = None
    pages: PageCounters | None = None
    page_gpu_bytes: Count | None = None


class LatentsFacts(Document):
    """Where the latents lie, and of how many blocks."""

    folder: str
    blocks: Count


class CheckpointFacts(Document):
    """Checkpoints as they were asked for, after which blocks there is one, and why no more are written."""

    mode: CheckpointMode
    gib: Number
    after_blocks: tuple[Count, ...]
    bytes: Count
    stopped: str | None


class StartImageFacts(Document):
    """The picture that the take begins with, and how it was fitted."""

    file: str
    sha256_of_pixels: str
    fitted: str


class Origin(Document):
    """The take that this one was branched from, and how many blocks they have in common."""

    take: str
    blocks: Count
    at: str


class HistoryEntry(Document):
    """What was done to the take, when, and from which block on."""

    what: TakeEvent
    started: str
    from_block: Count


class Timings(Document):
    """Of the newest entry of the history: in all, and by stage."""

    seconds: float
    new_frames: int = 0
    frames_per_second: float
    by_stage: dict[str, float]


class Failure(Document):
    """Why the take failed."""

    message: str
    traceback: str


class TakeRecord(Sealed):
    """A take's record. Parts with a default are not in the records of older versions, `error` where none came up.

    Attributes:
        started: ISO 8601.
        versions: of Python, longlive-rag and the libraries, by name.
        selections: of the blocks that remembered something.
    """

    status: TakeStatus
    started: str
    request: TakeRequest
    run: TakeRun
    rights: Rights | None = None
    versions: dict[str, str]
    video: VideoFacts
    cues: tuple[CueFacts, ...]
    memory: MemoryFacts
    latents: LatentsFacts | None = None
    checkpoints: CheckpointFacts | None = None
    start_image: StartImageFacts | None = None
    branched_from: Origin | None = None
    history: tuple[HistoryEntry, ...] = ()
    timings: Timings
    selections: tuple[Selection, ...]
    error: Failure | None = None

    @property
    def shot_blocks(self) -> tuple[int, ...]:
        """First block of each shot that the take came to, rising."""
        return (0, *(cue.block for cue in self.cues if cue.cut and cue.reached))

    @property
    def checkpoint_config(self) -> CheckpointConfig:
        """How the take is made ready to be resumed."""
        facts = self.checkpoints
        return CheckpointConfig(facts.mode, facts.gib) if facts else CheckpointConfig()


def plain(part: Document) -> dict[str, Any]:
    """Plain values of a record or a part of it, as in `take.json`: what it left out stays out."""
    return part.model_dump(exclude_unset=True)


def read_record(take: Path, check: bool = True) -> TakeRecord:
    """A take's record.

    Args:
        check: that it is as it was written.

    Raises:
        ValueError: if `take` is not a take, or its record can't be read, or is from a newer version.
    """
    path = take / RECORD
    if not path.is_file():
        raise ValueError(f"{take} is not a take: it has no {RECORD}")
    check_own_files(take)
    try:
        return read_document(path, TakeRecord, check)
    except BrokenChecksumError as error:
        raise ValueError(f"{error}; `longlive-rag take repair --accept-record {take}` takes it as it is") from error
    except FieldError as error:  # a front end must not take its fields for options
        raise ValueError(str(error)) from error


def write_record(take: Path, record: TakeRecord) -> TakeRecord:
    """Write a take's record atomically; returns it with its checksum.

    Raises:
        OSError: if the disk refuses.
    """
    return write_document(take / RECORD, record, only_set=True)
