"""Operations on the takes of one folder, as plain typed calls; no path leads outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from backbone.errors import FieldError
from longlive_rag.config import Cue
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.precision import Precision
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.rights.policy import pick_policy
from longlive_rag.sessions.asking import build_request
from longlive_rag.sessions.making import NewTake, TakeJob, new_take
from longlive_rag.sessions.opening import Labels, Note, Opening, quiet_libraries
from longlive_rag.sessions.resuming import Changes, OpenTake, branched_take, extended_take, open_take
from longlive_rag.takes.folder import CONTACT_SHEET, MEMORY_MAP, RECORD
from longlive_rag.takes.record import TakeRecord

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline

Part = Literal["video", "frames", "stills", "sheet", "otio", "cues"]
SUFFIXES: dict[Part, str] = {"video": ".mp4", "sheet": ".png", "otio": ".otio", "cues": ".txt"}
OnBlock = Callable[[float, float], None]
"""Called after every block with the seconds of video that are made, and that were requested."""
Loaded = tuple[Path, Precision]
"""Folder and precision of a loaded backbone."""


class LaterPrompt(BaseModel):
    """A prompt that takes over later."""

    at: Annotated[float, Field(description="Second of the take.")]
    prompt: Annotated[str, Field(description="The prompt from there on.")]
    cut: Annotated[bool, Field(description="Whether another shot begins there.")] = False


class TakeFacts(BaseModel):
    """A take on disk. Paths are on this machine."""

    take: str
    status: str
    prompt: str
    seed: int
    backbone: str
    seconds: float
    frames: int
    frames_retrieved: int
    video: str
    contact_sheet: str
    memory_map: str
    notes: list[str] = []


class FoundFrames(BaseModel):
    """Frames of one take that a search found."""

    take: str
    from_seconds: float
    to_seconds: float
    similarity: float
    prompt: str


class TakeDrift(BaseModel):
    """Identity drift D of one take at one horizon: 0 is none, higher is worse; null where no subject is seen."""

    take: str
    embedder: str
    horizon_seconds: float
    drift: float | None
    likeness_in_the_opening: float | None
    likeness_at_the_horizon: float | None
    share_of_frames_that_show_the_subject: float


class Exported(BaseModel):
    """A file or folder that was written."""

    path: str
    facts: dict[str, Any]


@dataclass
class Tools:
    """Takes of one folder, made on one backbone. One take is made at a time; the backbone stays loaded.

    Attributes:
        root: folder of the takes.
        backbone: for new takes: a known name or a pipeline folder.
        opening: how the backbone is opened.
        license_policy: None is the one in force.

    Raises:
        ValueError: if the backbone is missing, or there is no such policy.
    """

    root: Path
    backbone: str
    opening: Opening = field(default_factory=Opening)
    license_policy: str | None = None

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.preset: Preset = load_preset(self.backbone)
        pick_policy(self.license_policy)
        self._pipe: LongLiveRAGPipeline | None = None
        self._loaded: Loaded | None = None

    def make(
        self,
        prompt: str,
        seconds: float,
        take: str,
        seed: int,
        cues: Sequence[LaterPrompt],
        memory: bool,
        on_block: OnBlock,
    ) -> TakeFacts:
        """Make a take. Raises ValueError naming what is wrong, and TakeEnded if the take ends early."""
        later = tuple(Cue(cue.at, cue.prompt, cue.cut) for cue in cues)
        settings = {} if memory else {"memory_enabled": False}
        request = build_request(self.preset, Schedule(prompt, later, seconds), seed, settings)
        loaded = self.preset.folder, self.opening.precision
        pipe = self._pipe if self._loaded == loaded else None
        labels = Labels(self.license_policy)
        asked = NewTake(self.preset, request, self._new(take, "take"), opening=self.opening, labels=labels, pipe=pipe)
        return self._made(lambda note: new_take(asked, note), loaded, on_block)

    def extend(self, take: str, seconds: float, prompt: str | None, cut: bool, on_block: OnBlock) -> TakeFacts:
        """Make a take longer by some seconds. Raises as `make`."""
        there = open_take(self._take(take))
        changes, loaded = self._changes(there), loaded_by(there)
        return self._made(lambda note: extended_take(there, seconds, prompt, changes, note, cut), loaded, on_block)

    def branch(
        self,
        take: str,
        at: float,
        new_take: str,
        prompt: str | None,
        seconds: float | None,
        seed: int | None,
        on_block: OnBlock,
    ) -> TakeFacts:
        """Give a take another ending, in a new take. Raises as `make`."""
        there, folder = open_take(self._take(take)), self._new(new_take, "new_take")
        changes, loaded = self._changes(there), loaded_by(there)
        return self._made(
            lambda note: branched_take(there, at, folder, changes, note, prompt, seed, seconds), loaded, on_block
        )

    def search(
        self, text: str | None, like_take: str | None, like_second: float | None, limit: int
    ) -> list[FoundFrames]:
        """Frames whose prompts match some words, or that look like a frame of a take; best first."""
        from longlive_rag.takes.library import open_library, search_frame, search_words
        from longlive_rag.timecode import format_timecode

        takes = open_library(self.root)
        if (text is None) == (like_take is None):
            raise FieldError("text", text, "give either text, or like_take and like_second")
        if text is not None:
            found = search_words(takes, text, limit)
        else:
            assert like_take is not None
            found = search_frame(takes, self._take(like_take), format_timecode(like_second or 0.0), limit)
        return [
            FoundFrames(
                take=self._name(hit.take.folder),
                from_seconds=hit.frames.start / hit.take.fps,
                to_seconds=hit.frames.stop / hit.take.fps,
                similarity=round(hit.similarity, 4),
                prompt=hit.prompt,
            )
            for hit in found.hits
        ]

    def compare(self, takes: Sequence[str], horizons: Sequence[float] | None) -> list[TakeDrift]:
        """Identity drift of takes at the same horizons. Raises ValueError if one is too short."""
        from eval.single import drift_rows, measure_videos

        folders = [self._take(take) for take in takes]
        if not folders:
            raise FieldError("takes", list(takes), "name at least one")
        with quiet_libraries():
            rows = drift_rows(measure_videos(folders, horizons))
        return [
            TakeDrift(
                take=self._name(Path(row["video"])),
                embedder=row["embedder"],
                horizon_seconds=row["horizon_s"],
                drift=row["drift"],
                likeness_in_the_opening=row["opening"],
                likeness_at_the_horizon=row["last"],
                share_of_frames_that_show_the_subject=row["seen"],
            )
            for row in rows
        ]

    def export(self, take: str, part: Part, output: str, start: float, end: float | None) -> Exported:
        """Write a part of a take to a new file, or a new folder of pictures."""
        from longlive_rag.takes.export import open_excerpt
        from longlive_rag.takes.parts import write_part

        path, suffix = self._new(output, "output"), SUFFIXES.get(part, "")
        if path.suffix.lower() != suffix:
            raise FieldError("output", output, f"its name must end in {suffix}" if suffix else "name a folder")
        inside = next((parent for parent in path.parents if (parent / RECORD).is_file()), None)
        if inside is not None and inside.is_relative_to(self.root):
            raise FieldError("output", output, f"it must not be inside the take {self._name(inside)}")
        facts = write_part(part, open_excerpt(self._take(take), start, end), path)
        return Exported(path=str(facts.pop("path")), facts=facts)

    # ---- folders ----

    def _inside(self, name: str, key: str) -> Path:
        """The path of a name in the folder of takes; FieldError if it, or a link on the way, leads outside."""
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or any(part.startswith(".") or "\0" in part for part in path.parts):
            raise FieldError(key, name, "it must be a name inside the folder of takes, such as first or tests/first")
        found = self.root.joinpath(*path.parts)
        if found.resolve() != found:
            raise FieldError(key, name, "the path must not go through a link")
        return found

    def _take(self, name: str) -> Path:
        folder = self._inside(name, "take")
        if not (folder / RECORD).is_file():
            raise FieldError("take", name, "there is no take of that name")
        return folder

    def _new(self, name: str, key: str) -> Path:
        path = self._inside(name, key)
        if path.exists():
            raise FieldError(key, name, "something has that name already; choose another")
        return path

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    # ---- making ----

    def _changes(self, there: OpenTake) -> Changes:
        pipe = self._pipe if self._loaded == loaded_by(there) else None
        return Changes(device=self.opening.device, license_policy=self.license_policy, pipe=pipe)

    def _made(
        self, open_: Callable[[Note], AbstractContextManager[TakeJob]], loaded: Loaded, on_block: OnBlock
    ) -> TakeFacts:
        notes: list[str] = []
        with open_(notes.append) as job:
            self._pipe, self._loaded = job.pipe, loaded
            asked, fps = job.request.seconds, job.request.output.fps
            # Nothing ahead: `on_block` must be called in the thread that runs the client's call.
            record = job.run(lambda block, take: on_block(block.pixel_frames.stop / fps, asked), ahead=0)
        return self._facts(job.writer.folder, record, notes)

    def _facts(self, folder: Path, record: TakeRecord, notes: list[str]) -> TakeFacts:
        return TakeFacts(
            take=self._name(folder),
            status=record.status,
            prompt=record.request.prompt,
            seed=record.request.seed,
            backbone=record.run.backbone,
            seconds=record.video.seconds,
            frames=record.video.frames,
            frames_retrieved=record.memory.frames_retrieved,
            video=str(folder / record.video.file),
            contact_sheet=str(folder / CONTACT_SHEET),
            memory_map=str(folder / MEMORY_MAP),
            notes=notes,
        )


def loaded_by(there: OpenTake) -> Loaded:
    """Folder and precision that a take's backbone is loaded with."""
    return there.preset.folder, there.record.run.precision
