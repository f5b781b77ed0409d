"""A take's record, `take.json`, as typed models. No other module knows its keys."""

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
from longlive_rag.takes.folder import RECORD, check_own_files, in_shell
from retrieval.budgets import PageCounters
from retrieval.selection import Selection

TakeStatus = Literal["running", "finished", "interrupted", "failed"]
TakeEvent = Literal["generated", "resumed", "extended", "branched"]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=10**9)]
Number = int | float  # keeps the type it was given


@dataclass(frozen=True)
class TakeRun:
    """What a take was made with, beyond its request; see `LongLiveRAGPipeline.take_run`.

    Attributes:
        backbone: name of the backbone, as the user knows it.
        folder: the pipeline folder.
        device, dtype: device and precision of the backbone.
        vae_dtype: precision of the decoder; older versions decoded in float32.
        threads: CPU threads per operation.
        noise: name of the noise source.
        codec: codec of the video, a key of `CODECS`.
        load_seconds: time until the backbone was ready.
        unknown_words: words of the prompts that the backbone has never read, by prompt.
        backbone_id: distinguishes one backbone's latents from another's; see `geometry.backbone_id`.
        batch: number of takes made side by side; the last bits depend on it.
        decoder: decoder of the latents, `full` or `tiny`.
        compiled, compiled_decoder: whether the transformer's layers and the VAE's decoder were compiled; the last bits
            depend on it.
        attention: attention backend; the last bits depend on it, and more with `sage`.
        gpus: number of GPUs that made it together; the last bits depend on it.
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
        """The precision it was made in."""
        return Precision(self.dtype, self.vae_dtype)


class Rights(Document):
    """The terms of the weights, and the take's labels.

    `files` are those it was made with; `remembered`, if any, other ones, with which takes that it remembers were made.
    """

    generated_by_ai: bool
    digital_source_type: str
    label: OutputLabel
    phase: str | None
    visible_label: str | None
    license_policy: LicensePolicy
    weights_allow: Use
    files: tuple[FileRights, ...]
    remembered: tuple[FileRights, ...] = ()

    @field_serializer("files", "remembered", mode="wrap")
    def _as_before(self, files: tuple[FileRights, ...], write: SerializerFunctionWrapHandler) -> Any:
        """Write terms recorded by users as before publishers' terms were supported."""
        written = write(files)
        for record in (file["record"] for file in written if file["record"] is not None):
            if record["basis"] == "recorded":
                del record["basis"], record["page"]
        return written

    @classmethod
    def of(cls, provenance: Provenance) -> Rights:
        """Build the record from a provenance."""
        others: dict[str, Any] = {"remembered": provenance.remembered} if provenance.remembered else {}
        return cls(
            generated_by_ai=True,
            digital_source_type=DIGITAL_SOURCE,
            label=provenance.label,
            phase=provenance.phase,
            visible_label=provenance.visible_text,
            license_policy=provenance.policy,
            weights_allow=provenance.allowed_use,
            files=provenance.files,
            **others,
        )


class VideoFacts(Document):
    """The video as it is: `frames` is in pixel frames, `seconds` its length; `sha256` is set once it is finished."""

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
    """A cue, numbered from 1: when it was requested, when it took over, whether the take reached it, and whether it
    begins another shot."""

    cue: AtLeastOne
    prompt: str
    asked_seconds: Number
    seconds: Seconds
    block: Count
    reached: bool
    cut: bool = False


class MemoryFacts(Document):
    """What memory did. `admitted` is spans of latent frames, (first, after the last), None if unknown;
    `page_gpu_bytes` is the page budget that `auto` chose on a GPU."""

    frames_retrieved: Count
    blocks_with_memory: Count
    frames_admitted: Count | None = None
    frames_kept_out: Count | None = None
    admitted: tuple[tuple[Count, Count], ...] | None = None
    pages: PageCounters | None = None
    page_gpu_bytes: Count | None = None


class LatentsFacts(Document):
    """Where the latents are, and of how many blocks."""

    folder: str
    blocks: Count


class CheckpointFacts(Document):
    """Settings of checkpoints, the block counts after which there is one, and why no more are written."""

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
    """What was done to the take, when, and from which block."""

    what: TakeEvent
    started: str
    from_block: Count


class Timings(Document):
    """Times of the newest history entry: in total and by stage."""

    seconds: float
    new_frames: int = 0
    frames_per_second: float
    by_stage: dict[str, float]


class Failure(Document):
    """Why the take failed."""

    message: str
    traceback: str


class TakeRecord(Sealed):
    """A take's record. Parts with a default may be missing in records of older versions, `error` if there was none.

    Attributes:
        started: start time, as ISO 8601.
        versions: versions of Python, longlive-rag and the libraries, by name.
        selections: selections of the blocks that remembered something.
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
        """First block of each shot that the take reached, increasing."""
        return (0, *(cue.block for cue in self.cues if cue.cut and cue.reached))

    @property
    def checkpoint_config(self) -> CheckpointConfig:
        """The take's checkpoint settings."""
        facts = self.checkpoints
        return CheckpointConfig(facts.mode, facts.gib) if facts else CheckpointConfig()


def plain(part: Document) -> dict[str, Any]:
    """Convert a record, or part of one, to plain data as in `take.json`, without fields that were not set."""
    return part.model_dump(exclude_unset=True)


def read_record(take: Path, check: bool = True) -> TakeRecord:
    """Read a take's record.

    Args:
        check: verify that it is as it was written.

    Raises:
        ValueError: if `take` is not a take, or its record can't be read or is from a newer version.
    """
    path = take / RECORD
    if take.is_file():
        raise ValueError(f"{take} is a file; a take is a folder")
    if not path.is_file():
        raise ValueError(f"{take} is not a take: it {f'has no {RECORD}' if take.is_dir() else 'does not exist'}")
    check_own_files(take)
    try:
        return read_document(path, TakeRecord, check)
    except BrokenChecksumError as error:
        accept = f"longlive-rag take repair --accept-record {in_shell(take)}"
        raise ValueError(f"{error}; `{accept}` accepts it as it is") from error
    except FieldError as error:  # front ends must not mistake its fields for options
        raise ValueError(str(error)) from error


def write_record(take: Path, record: TakeRecord) -> TakeRecord:
    """Write a take's record atomically, and return it with its checksum.

    Raises:
        OSError: if writing fails.
    """
    return write_document(take / RECORD, record, only_set=True)
