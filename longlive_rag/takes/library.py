"""The takes in a folder as a library: list them, and find frames by words or by another frame."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError
from longlive_rag.media.video import count_frames
from longlive_rag.presets.preset import load_preset
from longlive_rag.takes.folder import LATENTS, RECORD
from longlive_rag.takes.record import TakeRecord, TakeRun, read_record
from longlive_rag.timecode import parse_timecode, shown_timecode
from longlive_rag.timeline import Timeline
from retrieval.policy import hybrid_keys, unit
from retrieval.store import DamagedError, LatentStore

if TYPE_CHECKING:
    from retrieval.index import FrameIndex

Vectors = NDArray[np.float32]
# Maps prompts to unit vectors [N, P]; a row of zeros for prompts that can't be encoded.
PromptUnits = Callable[[Sequence[str]], Vectors]

WORDS = re.compile(r"\w+")
WORD_WEIGHT = 0.5  # weight of the words themselves; the rest is their embedding's
APART_SECONDS = 1.0


@dataclass(frozen=True)
class LibraryTake:
    """A take in a library.

    Attributes:
        folder: folder of the take.
        record: its record.
        frames: number of pixel frames in its video.
    """

    folder: Path
    record: TakeRecord
    frames: int

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.record.video.fps

    @property
    def timeline(self) -> Timeline:
        """The timeline of what was made."""
        factor = self.record.video.temporal_factor or load_preset(self.record.run.backbone).temporal_factor
        return Timeline(self.frames, self.fps, self.record.request.context.frames_per_block, factor)

    @property
    def prompts(self) -> list[tuple[range, str]]:
        """The pixel frames made under each prompt, in order."""
        starts = [(0, self.record.request.prompt)]
        starts += [(round(cue.seconds * self.fps), cue.prompt) for cue in self.record.cues]
        ends = [start for start, _ in starts[1:]] + [self.frames]
        spans = [(range(start, min(end, self.frames)), words) for (start, words), end in zip(starts, ends, strict=True)]
        return [(frames, words) for frames, words in spans if len(frames)]

    def describe(self) -> dict[str, Any]:
        """Describe the take as plain data."""
        request, video = self.record.request, self.record.video
        return {
            "take": str(self.folder),
            "status": self.record.status,
            "started": self.record.started,
            "seconds": self.frames / self.fps,
            "width": video.width,
            "height": video.height,
            "fps": self.fps,
            "backbone": self.record.run.backbone,
            "seed": request.seed,
            "prompt": request.prompt,
            "cues": [cue.prompt for cue in self.record.cues],
        }


@dataclass(frozen=True)
class Library:
    """Takes under a folder.

    Attributes:
        takes: the takes, in order of their folders' names.
        left_out: (folder, reason) of those that can't be used.
    """

    takes: tuple[LibraryTake, ...]
    left_out: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Hit:
    """Frames found by a search.

    Attributes:
        take: the take they belong to.
        frames: pixel frames, numbered in the take.
        shown: the frame to show.
        similarity: similarity to the query; 1 is identical.
        prompt: the prompt they were made under.
    """

    take: LibraryTake
    frames: range
    shown: int
    similarity: float
    prompt: str

    def as_dict(self) -> dict[str, Any]:
        """The hit as plain data."""
        fps = self.take.fps
        return {
            "take": str(self.take.folder),
            "from_seconds": self.frames.start / fps,
            "to_seconds": self.frames.stop / fps,
            "frame": self.shown,
            "similarity": round(self.similarity, 4),
            "prompt": self.prompt,
        }


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        hits: the hits, best first.
        left_out: (folder, reason) of takes that could not be searched.
    """

    hits: tuple[Hit, ...]
    left_out: tuple[tuple[Path, str], ...] = field(default=())


def open_library(root: Path) -> Library:
    """Open all takes in a folder and its subfolders, without following links.

    Raises:
        ValueError: if there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; name one that holds takes")
    takes, left_out = [], []
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if RECORD in files:
            try:
                takes.append(_open_take(Path(folder)))
            except (ValueError, OSError) as error:
                left_out.append((Path(folder), str(error)))
    return Library(tuple(takes), tuple(left_out))


def search_words(library: Library, text: str, limit: int, prompt_units: PromptUnits | None = None) -> Found:
    """Find the parts of takes whose prompt is most similar to `text`, best first; stored latents are not needed.

    Args:
        library: the takes to search.
        text: the words to search for.
        limit: maximum number of results.
        prompt_units: embeds prompts; the cosine similarity of embeddings and that of the words (rare words count more)
            each make up half of the similarity. None compares words only.

    Raises:
        ValueError: if there are no words in `text`.
    """
    if not WORDS.search(text):
        raise FieldError("text", text, "describe in words what to find")
    spans = [(take, frames, words) for take in library.takes for frames, words in take.prompts]
    if not spans:
        return Found(())
    distinct = list(dict.fromkeys(words for _, _, words in spans))
    from retrieval.index import FrameIndex  # FAISS is slow to import and not needed to list takes

    keys = _word_units([*distinct, text])
    if prompt_units is not None:
        keys = hybrid_keys(prompt_units([*distinct, text]), keys, WORD_WEIGHT)
    index = FrameIndex(keys.shape[1], keep_short=prompt_units is not None)
    index.add(keys[:-1])
    ranked = [(distinct[place], value) for place, value in index.search(keys[-1], range(len(distinct)), len(distinct))]
    hits = [
        Hit(take, frames, frames[len(frames) // 2], similarity, words)
        for best, similarity in ranked
        for take, frames, words in spans
        if words == best and similarity > 0
    ]
    return Found(tuple(hits[:limit]))


def search_frame(
    library: Library, take: Path, timecode: str, limit: int, apart_seconds: float = APART_SECONDS
) -> Found:
    """Find the frames whose stored embeddings are most similar to that of a given frame, best first.

    Args:
        library: the takes to search, except those of another backbone or encoder, or without embeddings.
        take: the take of the given frame, in the library or not.
        timecode: timecode of the given frame.
        limit: maximum number of frames.
        apart_seconds: frames of one take closer together than this, or this close to the given frame, count as one
            moment, of which only the best is returned.

    Raises:
        ValueError: if there is no such frame, or it has no embedding.
    """
    asked = _open_take(take)
    seconds = parse_timecode(timecode, asked.fps)
    if round(seconds * asked.fps, 6) >= asked.frames:
        raise FieldError("frame", timecode, f"{take} lasts {asked.frames / asked.fps:g} s", f"at {timecode}")
    return frames_like(library, asked, math.floor(round(seconds * asked.fps, 6)), limit, apart_seconds)


def frames_like(
    library: Library, asked: LibraryTake, pixel: int, limit: int, apart_seconds: float = APART_SECONDS
) -> Found:
    """Find the frames most similar to a pixel frame of a take; see `search_frame`.

    Raises:
        ValueError: if it has no embedding.
    """
    from retrieval.index import FrameIndex  # as above

    embeddings, reason = _embeddings(asked)
    latent = asked.timeline.latent_at(pixel)
    if latent >= len(embeddings):
        where = f"the frame at {shown_timecode(pixel / asked.fps)} of {asked.folder}"
        raise ValueError(f"{where} has no embedding: {reason or 'it is not stored'}")
    index = FrameIndex(embeddings.shape[1])
    places: list[tuple[LibraryTake, int]] = []
    left_out = []
    for one in library.takes:
        stored, reason = _comparable(asked, one, embeddings.shape[1])
        if reason:
            left_out.append((one.folder, reason))
        if len(stored):
            index.add(stored)
            places += [(one, frame) for frame in range(len(stored))]
    hits = _moments(index, places, embeddings[latent], (asked, pixel), limit, apart_seconds)
    return Found(tuple(hits), tuple(left_out))


def _moments(
    index: FrameIndex,
    places: list[tuple[LibraryTake, int]],
    query: Vectors,
    asked: tuple[LibraryTake, int],
    limit: int,
    apart_seconds: float,
) -> list[Hit]:
    """The best frames, one per moment."""
    taken: dict[Path, list[float]] = {asked[0].folder.resolve(): [asked[1] / asked[0].fps]}
    hits: list[Hit] = []
    pool = min(len(places), 8 * limit)
    seen = 0
    while len(hits) < limit and seen < len(places):
        found = index.search(query, range(len(places)), pool)
        for place, similarity in found[seen:]:
            take, frame = places[place]
            pixels = _pixels(take.timeline, frame)
            second, moments = pixels.start / take.fps, taken.setdefault(take.folder.resolve(), [])
            if len(hits) < limit and len(pixels) and all(abs(second - other) >= apart_seconds for other in moments):
                moments.append(second)
                words = next(words for frames, words in take.prompts if pixels.start in frames)
                hits.append(Hit(take, pixels, pixels.start, similarity, words))
        if len(found) < pool:  # an approximate index may return fewer
            break
        seen, pool = pool, min(len(places), 2 * pool)
    return hits


def _pixels(timeline: Timeline, latent: int) -> range:
    """Pixel frames of a latent frame; none where the video is trimmed."""
    start, stop = (round(timeline.second_of(frame) * timeline.fps) for frame in (latent, latent + 1))
    return range(start, min(stop, timeline.pixel_frames))


def _comparable(asked: LibraryTake, take: LibraryTake, dim: int) -> tuple[Vectors, str]:
    """A take's embeddings [N, D] that may be compared, and why others are left out."""
    ours, theirs = asked.record, take.record
    none = np.empty((0, dim), np.float32)
    if _identity(ours.run) != _identity(theirs.run):
        return none, f"it was made with another backbone ({theirs.run.backbone})"
    if ours.request.memory.encoder != theirs.request.memory.encoder:
        return none, f"its embeddings are from another encoder ({theirs.request.memory.encoder})"
    stored, reason = _embeddings(take)
    if len(stored) and stored.shape[1] != dim:
        return none, f"its embeddings have {stored.shape[1]} dimensions, not {dim}"
    return (stored, reason) if len(stored) else (none, reason)


def _identity(run: TakeRun) -> str:
    return run.backbone_id or run.backbone


def _embeddings(take: LibraryTake) -> tuple[Vectors, str]:
    """Embeddings [N, D] of a take's first N latent frames, and why there are no more."""
    parts, reason = [], ""
    try:
        store = LatentStore(take.folder / LATENTS)
        for block in range(store.blocks):
            found = store.record(block).embeddings
            if found is None:
                reason = "it has no embeddings (it was made without memory)"
                break
            parts.append(found)
    except DamagedError as damage:
        reason = str(damage)
    except ValueError as error:
        reason = str(error)
    return (np.concatenate(parts), reason) if parts else (np.empty((0, 0), np.float32), reason)


def _open_take(folder: Path) -> LibraryTake:
    record = read_record(folder)
    frames = record.video.frames
    if record.status == "running":  # being made, or killed: the record does not have it yet
        path = folder / record.video.file
        frames = count_frames(path) if path.is_file() else 0
    return LibraryTake(folder, record, frames)


def _word_units(texts: Sequence[str]) -> Vectors:
    """Represent texts as unit vectors [N, words] of their words, weighted by rarity among the texts."""
    bags = [set(WORDS.findall(text.lower())) for text in texts]
    vocabulary = {word: place for place, word in enumerate(sorted(set().union(*bags)))}
    counts = np.zeros((len(texts), max(1, len(vocabulary))), np.float32)
    for row, bag in enumerate(bags):
        counts[row, [vocabulary[word] for word in bag]] = 1
    return unit(counts * np.log1p(len(texts) / np.maximum(counts.sum(0), 1)))
