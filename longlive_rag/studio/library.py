"""Takes on disk, under ids that the server gives out; browsers never see a path."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longlive_rag.config import MemoryConfig
from longlive_rag.generation.cues import directed_at
from longlive_rag.media.segments import FinishedError
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.rights.policy import pick_policy
from longlive_rag.studio import schema
from longlive_rag.studio.segments import DiskFilm, Film, GrowingFilm
from longlive_rag.takes.branch import backbone_of
from longlive_rag.takes.folder import CHECKPOINTS, LATENTS, RECORD, VIDEO
from longlive_rag.takes.library import Library, LibraryTake, frames_like, search_words
from longlive_rag.takes.record import TakeRecord, plain, read_record
from longlive_rag.takes.remember import find_remembered
from longlive_rag.timeline import Timeline
from retrieval.lock import is_being_written
from retrieval.selection import Selection
from retrieval.store import LatentStore, block_numbers

FOUND_AT_MOST = 200
LIKE_AT_MOST = 50
DELETED = ".longlive-rag-deleted-"
ENDLESS = 10**9  # frames of a timeline longer than any take


class UnknownTakeError(Exception):
    """No take has this id, or not any more."""


class InUseError(Exception):
    """A take is needed as it is; says by what."""


def stamp_of(path: Path) -> tuple[int, ...]:
    """A value that changes when the file does; OSError if there is no such file."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass
class Kept:
    """A value read from a file, valid while the file's stamp stays the same."""

    stamp: tuple[int, ...]
    value: Any


class Takes:
    """The takes under a folder. Thread-safe.

    Args:
        root: the folder; links in it are not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock = threading.RLock()
        self._ids: dict[Path, str] = {}
        self._folders: dict[str, Path] = {}
        self._records: dict[str, Kept] = {}
        self._films: dict[str, Kept] = {}
        self._opening: dict[str, threading.Lock] = {}  # by take: one thread at a time reads its video

    def scan(self) -> dict[str, tuple[int, ...]]:
        """All takes on disk, with the stamps of their records."""
        found = {}
        for place, inside, files in os.walk(self.root):
            inside[:] = sorted(name for name in inside if name[:1] != "." and name not in (LATENTS, CHECKPOINTS))
            path = Path(place) / RECORD
            if RECORD in files and not path.is_symlink():
                try:
                    found[self.id_of(Path(place))] = stamp_of(path)
                except OSError:  # deleted meanwhile
                    continue
        return found

    @property
    def ids(self) -> set[str]:
        """All ids that were given out."""
        with self._lock:
            return set(self._folders)

    def id_of(self, folder: Path) -> str:
        """The id of a take's folder, a new one if it has none yet."""
        with self._lock:
            if folder not in self._ids:
                self._ids[folder] = secrets.token_urlsafe(9)
                self._folders[self._ids[folder]] = folder
            return self._ids[folder]

    def id_at(self, path: str) -> str | None:
        """The id of a take that a record names by its path; None if it isn't in the library."""
        with self._lock:
            return self._ids.get(Path(path).resolve())

    def folder(self, take: str) -> Path:
        """The folder of a take, which is inside the folder of takes and not reached through links.

        Raises:
            UnknownTakeError: if there is no such folder.
        """
        with self._lock:
            folder = self._folders.get(take)
        if folder is None or folder.resolve() != folder or not folder.is_relative_to(self.root) or not folder.is_dir():
            raise UnknownTakeError
        return folder

    def free_folder(self, name: str) -> Path:
        """A folder for a new take, called `name`, with a number if that is taken."""
        folder, number = self.root / name, 1
        while folder.exists() or folder in self._ids:
            number += 1
            folder = self.root / f"{name}-{number}"
        return folder

    def set_aside(self, take: str) -> Path:
        """Take a take out of the library, by renaming its folder to a hidden one; returns that.

        Raises:
            UnknownTakeError: if it no longer exists.
            InUseError: if another process is making it, or its folder holds other takes.
        """
        folder = self.folder(take)
        if is_being_written(folder / LATENTS):
            raise InUseError(f"{folder.name} is being made by another process; wait for it, or stop it")
        if folder == self.root or any(record.parent != folder for record in folder.rglob(RECORD)):
            raise InUseError(f"the folder of {folder.name} is also a folder of takes; delete it by hand")
        hidden = self.root / f"{DELETED}{secrets.token_urlsafe(9)}"
        folder.rename(hidden)
        return hidden

    def remove_set_aside(self) -> None:
        """Remove what a studio that was killed had set aside."""
        for left in self.root.glob(f"{DELETED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def record(self, take: str) -> TakeRecord:
        """A take's record.

        Raises:
            UnknownTakeError: if it no longer exists.
            ValueError: if it can't be read.
        """
        folder = self.folder(take)
        try:
            stamp = stamp_of(folder / RECORD)
        except OSError as error:
            raise UnknownTakeError from error
        with self._lock:
            kept = self._records.get(take)
        if kept is None or kept.stamp != stamp:
            kept = Kept(stamp, read_record(folder))
            with self._lock:
                self._records[take] = kept
        record: TakeRecord = kept.value
        return record

    def film(self, take: str) -> Film:
        """The segments of a take; a take that is being made gets more of them.

        Raises:
            UnknownTakeError: if it no longer exists.
            ValueError, OSError: if it has no video, or one that can't be read.
        """
        with self._opening_of(take):
            record, video = self.record(take), self.folder(take) / VIDEO
            kept = self._films.get(take)
            if record.status == "running":
                asked = replace(timeline_of(record), pixel_frames=record.request.pixel_frames)
                film = kept.value if kept is not None and isinstance(kept.value, GrowingFilm) else None
                growing = film if film is not None and film.asked == asked else GrowingFilm(video, asked)
                with suppress(FinishedError):  # its record will say so in a moment
                    growing.refresh()
                    self._films[take] = Kept((), growing)
                    return growing
            stamp = stamp_of(video)
            if kept is None or kept.stamp != stamp:
                kept = self._films[take] = Kept(stamp, DiskFilm(video, timeline_of(record)))
            known: Film = kept.value
            return known

    def _opening_of(self, take: str) -> threading.Lock:
        with self._lock:
            return self._opening.setdefault(take, threading.Lock())

    # ---- for the page ----

    def facts(self, take: str) -> schema.TakeFacts:
        """Facts about a take that isn't being made here now."""
        record, folder = self.record(take), self.folder(take)
        frames = self._frames(take, record)
        made = replace(timeline_of(record), pixel_frames=frames)
        status: schema.Status = record.status
        if status == "running" and not is_being_written(folder / LATENTS):
            status = "interrupted"
        return schema.TakeFacts(
            **facts_of(record, self),
            id=take,
            name=folder.name,
            status=status,
            frames=frames,
            made_seconds=frames / record.video.fps,
            blocks=made.blocks if frames else 0,
        )

    def listed(self, ids: Iterable[str]) -> schema.TakeList:
        """Facts about takes, newest first, and those that can't be read, by name; deleted ones are in neither."""
        found, left_out = [], []
        for take in ids:
            with suppress(UnknownTakeError):
                try:
                    found.append(self.facts(take))
                except (ValueError, OSError) as error:
                    folder = self.folder(take)
                    if (folder / RECORD).is_file():
                        left_out.append(schema.LeftOut(id=take, name=folder.name, reason=str(error)))
        found.sort(key=lambda facts: (facts.started, facts.name), reverse=True)
        return schema.TakeList(takes=found, left_out=sorted(left_out, key=lambda each: each.name))

    def search(self, words: str) -> list[str]:
        """Ids of takes whose prompts are like `words`, best first; ValueError if `words` contains no word."""
        hits = search_words(self._library(), words, FOUND_AT_MOST).hits
        return list(dict.fromkeys(self.id_of(hit.take.folder) for hit in hits))

    def like(self, folder: Path, record: TakeRecord, frame: int, frames: int) -> list[schema.FrameHit]:
        """Moments of all takes that look most like a frame of one, best first.

        Args:
            folder, record: of the take, which may be in progress.
            frame: number of the frame.
            frames: number of frames that the take has.

        Raises:
            ValueError: if the frame has nothing to compare it by.
        """
        found = frames_like(self._library(), LibraryTake(folder, record, frames), frame, LIKE_AT_MOST)
        return [
            schema.FrameHit(
                take=self.id_of(hit.take.folder),
                frame=hit.shown,
                seconds=hit.shown / hit.take.fps,
                similarity=hit.similarity,
            )
            for hit in found.hits
        ]

    def _library(self) -> Library:
        takes = []
        for take in self.scan():
            try:
                record = self.record(take)
                takes.append(LibraryTake(self.folder(take), record, self._frames(take, record)))
            except (UnknownTakeError, ValueError, OSError):
                continue
        return Library(tuple(takes))

    def _frames(self, take: str, record: TakeRecord) -> int:
        if record.status != "running":
            return record.video.frames
        try:
            return self.film(take).timeline.pixel_frames
        except (ValueError, OSError):
            return 0

    def selections(self, take: str) -> list[Selection]:
        """What the blocks of a take remembered; read from the blocks themselves if the take was killed."""
        record, folder = self.record(take), self.folder(take)
        if record.status != "running" or not (folder / LATENTS).is_dir() or not block_numbers(folder / LATENTS):
            return list(record.selections)
        store = LatentStore(folder / LATENTS)
        found = (store.record(block).selection for block in range(store.blocks))
        return [selection for selection in found if selection is not None]


def timeline_of(record: TakeRecord) -> Timeline:
    """The timeline of a take's blocks and frames, without an end."""
    factor = record.video.temporal_factor or backbone_of(record, Path(record.run.folder)).temporal_factor
    return Timeline(ENDLESS, record.video.fps, record.request.context.frames_per_block, factor)


def facts_of(record: TakeRecord, takes: Takes) -> dict[str, Any]:
    """Facts from a take's record that don't depend on how much of it is made."""
    origin, rights, request = record.branched_from, record.rights, record.request
    unknown = [word for words in record.run.unknown_words.values() for word in words]
    return {
        "prompt": request.prompt,
        "seconds": request.seconds,
        "fps": request.output.fps,
        "width": request.output.width * request.output.upscale,
        "height": request.output.height * request.output.upscale,
        "backbone": Path(record.run.backbone).name,
        "seed": str(request.seed),
        "started": record.started,
        "parent": takes.id_at(origin.take) if origin else None,
        "parent_block": origin.blocks if origin else None,
        "parent_seconds": timeline_of(record).starts_at(origin.blocks) if origin else None,
        "labels": schema.RightsLabels(license_policy=rights.license_policy, label=rights.label) if rights else None,
        "unknown_words": list(dict.fromkeys(unknown)),
    }


def segments_of(take: str, film: Film, blocks: int) -> list[schema.SegmentFacts]:
    """The first blocks of a film, for the page."""
    return [segment_of(take, film, block) for block in range(min(blocks, len(film.stamps)))]


def segment_of(take: str, film: Film, block: int) -> schema.SegmentFacts:
    """A block of a film, for the page."""
    frames = film.timeline.pixels_of(block)
    return schema.SegmentFacts(
        block=block,
        first_frame=frames.start,
        frames=len(frames),
        seconds=frames.start / film.timeline.fps,
        key=film.keys[block],
        url=f"/api/takes/{take}/segments/{block}-{film.stamps[block]}.mp4",
    )


def memory_of(
    selection: Selection, asked: MemoryConfig, timeline: Timeline, others: list[tuple[Path, int]], takes: Takes
) -> schema.BlockMemory:
    """What a block remembered, for the page.

    Args:
        asked: the memory of the take's request.
        others: take and latent frame of each remembered frame of other takes, in order; numbered -N to -1.
    """
    remembered = []
    for number, similarity in zip(selection.frames, selection.similarities, strict=True):
        take, latent = None, number
        if number < 0:
            folder, latent = others[number] if others else (None, number)
            take = takes.id_at(str(folder)) if folder else None
        second = timeline.second_of(latent) if latent >= 0 else None
        remembered.append(
            schema.RememberedFrame(
                latent_frame=latent,
                frame=None if second is None else round(second * timeline.fps),
                seconds=second,
                similarity=similarity,
                take=take,
            )
        )
    policy = directed_at(asked, timeline, selection.block).policy
    return schema.BlockMemory(
        block=selection.block, seconds=timeline.starts_at(selection.block), policy=policy, remembered=remembered
    )


def steering_of(memory: MemoryConfig) -> list[schema.SteeringFacts]:
    """Directions that memory was given, for the page."""
    return [
        schema.SteeringFacts(
            seconds=each.seconds, verb=each.verb, start=each.start, end=each.end, policy=each.policy or None
        )
        for each in memory.steering
    ]


def other_frames(record: TakeRecord) -> list[tuple[Path, int]]:
    """Take and latent frame of each frame that a take remembers of other takes; empty if those are lost."""
    request = record.request
    if not request.memory.remember:
        return []
    try:
        preset = backbone_of(record, Path(record.run.folder))
        geometry = read_geometry(preset, request.output, request.memory.encoder)
        spans = find_remembered(request.memory.remember, preset, request.output, geometry, pick_policy("any"))
    except (ValueError, OSError):
        return []
    return [(span.take, frame) for span in spans for frame in span.frames]


def history_of(record: TakeRecord) -> list[dict[str, Any]]:
    """The history of a take, as plain data."""
    return [plain(entry) for entry in record.history]
