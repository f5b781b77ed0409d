"""Exports of parts of a take: a video, pictures or a contact sheet. Frames come from the take's own video."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from longlive_rag.media.pictures import CueMark, contact_sheet, sheet_frames
from longlive_rag.media.video import VideoWriter, copy_frames, count_frames, read_frames, read_tags
from longlive_rag.rights.provenance import DIGITAL_SOURCE
from longlive_rag.takes.inspection import check_video
from longlive_rag.takes.record import TakeRecord, read_record
from longlive_rag.timecode import shown_timecode
from retrieval.files import appearing

WRITTEN_AT_ONCE = 16  # frames


@dataclass(frozen=True)
class CueFrame:
    """Where a prompt begins.

    Attributes:
        number: number of the cue, from 1; 0 is the take's first prompt.
        frame: first frame of the video made under it.
        block: block at which it took over.
        prompt: its words.
        cut: whether it begins another shot.
    """

    number: int
    frame: int
    block: int
    prompt: str
    cut: bool = False


@dataclass(frozen=True)
class Excerpt:
    """A range of a take's video.

    Attributes:
        take: folder of the take.
        record: record of the whole take.
        frames: pixel frames of the range, numbered in the take.
        video_frames: number of frames in the whole video.
    """

    take: Path
    record: TakeRecord
    frames: range
    video_frames: int

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.record.video.fps

    @property
    def video(self) -> Path:
        """The take's video."""
        return self.take / self.record.video.file

    @property
    def seed(self) -> int:
        """Seed of the take."""
        return self.record.request.seed

    @property
    def cues(self) -> list[CueFrame]:
        """The prompts that begin within the range, in order."""
        found = [CueFrame(0, 0, 0, self.record.request.prompt)]
        for cue in self.record.cues:
            found.append(CueFrame(cue.cue, round(cue.seconds * self.fps), cue.block, cue.prompt, cue.cut))
        return [cue for cue in found if cue.frame in self.frames]

    @property
    def prompt(self) -> str:
        """The current prompt at its first frame."""
        begun = [cue.prompt for cue in self.record.cues if round(cue.seconds * self.fps) <= self.frames.start]
        return begun[-1] if begun else self.record.request.prompt

    @property
    def shots(self) -> list[tuple[int, Excerpt]]:
        """The parts of the range in each shot, with the shot's number in the take, from 1."""
        cuts = [round(cue.seconds * self.fps) for cue in self.record.cues if cue.cut]
        spans = zip([0, *cuts], [*cuts, self.video_frames], strict=True)
        parts = [range(max(start, self.frames.start), min(end, self.frames.stop)) for start, end in spans]
        return [(number, replace(self, frames=part)) for number, part in enumerate(parts, start=1) if part]

    def pictures(self) -> Iterator[np.ndarray]:
        """Its frames, each [H, W, 3] uint8 RGB."""
        return read_frames(self.video, self.frames.start, self.frames.stop)

    def tags(self) -> dict[str, str]:
        """The tags of the take's video on its origin and rights, and which part of it this is."""
        tags = read_tags(self.video) or _plain_tags(self.record)
        if len(self.frames) == self.video_frames:
            return tags
        try:
            facts = json.loads(tags.get("description", "{}"))
        except ValueError:  # not written by us
            return tags
        span = {"take": self.take.name, "from_frame": self.frames.start, "to_frame": self.frames.stop}
        return {**tags, "description": json.dumps({**facts, "excerpt_of": span}, ensure_ascii=False)}


def open_excerpt(take: Path, start_seconds: float = 0.0, end_seconds: float | None = None) -> Excerpt:
    """Open a range of a take: every frame shown at some time from `start_seconds` to before `end_seconds`.

    Raises:
        ValueError: if it is not a take, its video is damaged or missing, or the range is outside it.
    """
    record = read_record(take)
    fps = record.video.fps
    video = take / record.video.file
    count = count_frames(video) if video.is_file() else 0
    if not count:
        raise ValueError(f"{take} has no video yet")
    check_video(take, record)
    end = count / fps if end_seconds is None else end_seconds
    if not 0 <= start_seconds < end or round(end * fps, 6) > count:
        raise ValueError(
            f"the range is {shown_timecode(start_seconds)} to {shown_timecode(end)}; it must be within {take}, 0:00 "
            f"to {shown_timecode(count / fps)}, and start before it ends"
        )
    frames = range(math.floor(round(start_seconds * fps, 6)), math.ceil(round(end * fps, 6)))
    return Excerpt(take, record, frames, count)


def export_video(excerpt: Excerpt, path: Path, codec: str | None = None) -> bool:
    """Write an MP4 of the range, with the rights record of the take's video.

    Args:
        excerpt: what to write.
        path: path of the file, which is written atomically.
        codec: a key of `CODECS`; default is the take's.

    Returns:
        Whether frames were copied; otherwise they were re-encoded. They are copied if the range begins with a keyframe
        (there is one about every two seconds) and the codec is the take's.
    """
    made = excerpt.record.video
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        copied = codec in (None, made.codec) and copy_frames(excerpt.video, part, excerpt.frames, excerpt.tags())
        if not copied:
            _encode(excerpt, part, codec or made.codec)
    return copied


def export_frames(excerpt: Excerpt, folder: Path) -> int:
    """Write every frame of the range as `frame_NNNNNN.png`, numbered in the take, and return how many.

    The folder is written atomically.
    """
    numbered = zip(excerpt.frames, excerpt.pictures(), strict=False)
    return _write_pictures(folder, ((f"frame_{number:06d}.png", picture) for number, picture in numbered), excerpt)


def export_stills(excerpt: Excerpt, folder: Path) -> int:
    """Write the first frame under each prompt that begins in the range as `cue_NN_frame_NNNNNN.png`.

    Cue 00 is the take's first prompt. The folder is written atomically.

    Raises:
        ValueError: if no prompt begins in the range.
    """
    cues = excerpt.cues
    if not cues:
        raise ValueError("no cue takes over in this range, so there are no stills; choose a longer range")
    stills = (
        (f"cue_{cue.number:02d}_frame_{cue.frame:06d}.png", picture)
        for cue in cues
        for picture in read_frames(excerpt.video, cue.frame, cue.frame + 1)
    )
    return _write_pictures(folder, stills, excerpt)


def export_sheet(excerpt: Excerpt, path: Path) -> None:
    """Write a contact sheet of the range: evenly spaced frames with their times in the take."""
    first, fps = excerpt.frames.start, excerpt.fps
    marks = [CueMark(cue.frame / fps, cue.prompt, cue.cut) for cue in excerpt.cues if cue.number]
    facts = f"{shown_timecode(first / fps)} to {shown_timecode(excerpt.frames.stop / fps)} of {excerpt.take.name}, "
    facts += f"{fps} frames a second, seed {excerpt.seed}, backbone {excerpt.record.run.backbone}"
    shown = sheet_frames(excerpt.video, excerpt.frames)
    save_picture(contact_sheet(shown, fps, excerpt.prompt, facts, marks), path, excerpt.tags())


def save_picture(picture: Image.Image, path: Path, tags: Mapping[str, str]) -> None:
    """Write a PNG with text in its metadata, atomically."""
    info = PngInfo()
    for name, text in tags.items():
        info.add_itxt(name.capitalize(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        picture.save(part, format="PNG", pnginfo=info)


def _write_pictures(folder: Path, named: Iterable[tuple[str, np.ndarray]], excerpt: Excerpt) -> int:
    tags, count = excerpt.tags(), 0
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, picture in named:
            save_picture(Image.fromarray(picture), part / name, tags)
            count += 1
        if folder.is_dir():
            folder.rmdir()  # it is empty; others were refused earlier
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _encode(excerpt: Excerpt, path: Path, codec: str) -> None:
    made = excerpt.record.video
    frames, tags = excerpt.pictures(), excerpt.tags()
    with VideoWriter(path, width=made.width, height=made.height, fps=made.fps, codec=codec, tags=tags) as video:
        while some := [frame for _, frame in zip(range(WRITTEN_AT_ONCE), frames, strict=False)]:
            video.write(np.stack(some))


def _plain_tags(record: TakeRecord) -> dict[str, str]:
    """Tags for a video that has lost its metadata: at least that it was generated, and by what."""
    model, seed = record.run.backbone, record.request.seed
    facts = {"generated_by_ai": True, "digital_source_type": DIGITAL_SOURCE, "model": model, "seed": seed}
    return {"comment": f"Generated by AI: model {model}, seed {seed}", "description": json.dumps(facts)}
