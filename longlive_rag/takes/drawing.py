"""The pictures in a take's folder: the contact sheet and the memory map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from longlive_rag.config import TakeRequest
from longlive_rag.media.pictures import CueMark, contact_sheet, memory_map, sheet_frames, timecode
from longlive_rag.takes.folder import CONTACT_SHEET, MEMORY_MAP, VIDEO
from longlive_rag.takes.memory_notes import MemoryNotes
from longlive_rag.timeline import Timeline
from retrieval.files import appearing
from retrieval.selection import Selection

PNG_LEVEL = 3
"""Compression level of pictures: half the time of the usual 6, for files a sixth larger."""


def draw_pictures(
    folder: Path, request: TakeRequest, timeline: Timeline, backbone: str, notes: MemoryNotes, blocks: int
) -> None:
    """Draw the contact sheet and the memory map.

    Args:
        timeline: of what the take's video holds.
        backbone: name of the backbone.
        notes: what memory did.
        blocks: number of blocks that were made.

    Raises:
        OSError: if they can't be written.
    """
    fps, memory, cues = timeline.fps, _memory_in_words(request, notes, blocks), _cue_marks(request, timeline)
    facts = f"{timeline.pixel_frames / fps:.1f} s at {fps} frames a second, seed {request.seed}, "
    facts += f"backbone {backbone}, {memory}"
    frames = sheet_frames(folder / VIDEO, range(timeline.pixel_frames))
    if frames:
        save_picture(contact_sheet(frames, fps, request.prompt, facts, cues), folder / CONTACT_SHEET)
    caption = f"{request.prompt}  ({memory}{_choice_in_words(request)})"
    selections = _of_this_take(notes.selections)
    drawn = memory_map(timeline, request.context, selections, caption, cues, notes.entered)
    save_picture(drawn, folder / MEMORY_MAP)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG; it appears at `path` whole or not at all."""
    with appearing(path) as part:
        picture.save(part, format="PNG", compress_level=PNG_LEVEL)


def _cue_marks(request: TakeRequest, timeline: Timeline) -> list[CueMark]:
    marks = [CueMark(timeline.starts_at(timeline.cue_block(cue.seconds)), cue.prompt, cue.cut) for cue in request.cues]
    return [mark for mark in marks if mark.seconds * timeline.fps < timeline.pixel_frames]


def _memory_in_words(request: TakeRequest, notes: MemoryNotes, blocks: int) -> str:
    if not request.context.memory_frames:
        return "memory off"
    return f"{notes.frames_retrieved} past frames retrieved in {len(notes.selections)} of {blocks} blocks"


def _choice_in_words(request: TakeRequest) -> str:
    """Describe how frames were picked, and among which; empty without memory."""
    if not request.context.memory_frames:
        return ""
    memory = request.memory
    told = [steer for steer in memory.steering if steer.verb in ("policy", "establish")]
    parts = [f"; {memory.policy}, {_admitted_in_words(memory.establish)}"]
    for steer in sorted(told, key=lambda steer: steer.seconds):
        what = steer.policy if steer.verb == "policy" else _admitted_in_words(steer.establish)
        parts.append(f"from {timecode(steer.seconds)} on {what}")
    return ", ".join(parts)


def _admitted_in_words(establish_s: float) -> str:
    """Describe the frames that a search looks through."""
    return f"among first showings of {establish_s:g} s" if establish_s else "among the whole past"


def _of_this_take(selections: Sequence[Selection]) -> list[Selection]:
    """Remove frames of other takes, which have no place on this take's map."""
    own = []
    for selection in selections:
        pairs = zip(selection.frames, selection.similarities, strict=True)
        kept = [(frame, similarity) for frame, similarity in pairs if frame >= 0]
        if kept:
            frames, similarities = zip(*kept, strict=True)
            own.append(replace(selection, frames=frames, similarities=similarities))
    return own
