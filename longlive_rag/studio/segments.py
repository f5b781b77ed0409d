"""Blocks of a take as files that a browser can append to each other, during and after generation."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

import av

from longlive_rag.media.segments import Packet, split_fragments, stamp_of, wrapped
from longlive_rag.media.video import ticks_per_frame
from longlive_rag.takes.folder import NEWEST
from longlive_rag.timeline import Timeline
from retrieval.files import check_plain, open_plain

VP9_MIME = 'video/mp4; codecs="vp09.00.10.08"'


class Film(Protocol):
    """The segments of one take.

    Attributes:
        stamps: a hash of each block's content; it is part of a segment's address, so the content at an address never
            changes.
        keys: whether each block can be decoded without those before it.
        mime: MIME type with codecs, for the browser.
    """

    stamps: list[str]
    keys: list[bool]
    mime: str

    @property
    def timeline(self) -> Timeline:
        """Timeline of the blocks made so far."""
        ...

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4."""
        ...


class DiskFilm:
    """Segments cut from a take's finished video.

    Args:
        video: the file.
        timeline: the take's timeline, without an end.

    Raises:
        ValueError, OSError: if it can't be read.
    """

    def __init__(self, video: Path, timeline: Timeline) -> None:
        check_plain(video)
        self._video = video
        self.stamps: list[str] = []
        self.keys: list[bool] = []
        block: list[Packet] = []
        frames = 0
        with _reading(str(video)) as (container, stream):
            self.mime = mime_of(stream)
            for packet in _packets(container, stream):
                block.append(packet)
                frames += 1
                if len(block) == len(timeline.pixels_of(len(self.stamps))):
                    self._add(block)
                    block = []
        if block:
            self._add(block)
        self.timeline = replace(timeline, pixel_frames=frames)

    def _add(self, block: list[Packet]) -> None:
        self.stamps.append(stamp_of(block))
        self.keys.append(block[0].is_key)

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4; OSError if the video is gone or changed."""
        frames = self.timeline.pixels_of(block)
        check_plain(self._video)
        for seek in (True, False):  # a file without an index is read from its beginning
            with _reading(str(self._video)) as (container, stream):
                packets = _packets_between(container, stream, frames, seek)
                if len(packets) == len(frames):
                    return wrapped(stream, packets, frames.start, self.timeline.fps)
        raise OSError(f"{self._video} has changed")


@contextmanager
def _reading(video: str | io.BytesIO) -> Iterator[tuple[Any, Any]]:
    """A container and its stream of pictures; ValueError or OSError if it can't be read or has none."""
    name = video if isinstance(video, str) else "the video"
    try:
        with av.open(video, "r") as container:
            if not container.streams.video or container.streams.video[0].codec_context is None:
                raise ValueError(f"{name} can't be read as a video: it holds none")
            yield container, container.streams.video[0]
    except (av.error.InvalidDataError, av.error.EOFError) as error:  # PyAV's other errors are ValueErrors and OSErrors
        raise ValueError(f"{name} can't be read as a video: {error.strerror}") from error


def _packets(container: Any, stream: Any) -> Iterator[Packet]:
    return (Packet(bytes(packet), packet.is_keyframe) for packet in container.demux(stream) if packet.size)


def _packets_between(container: Any, stream: Any, frames: range, seek: bool) -> list[Packet]:
    every = ticks_per_frame(stream)
    if seek and frames.start:
        container.seek(frames.start * every, stream=stream)
    found = []
    for packet in container.demux(stream):
        number = None if packet.pts is None else round(packet.pts / every)
        if number is not None and packet.size and number in frames:
            found.append(Packet(bytes(packet), packet.is_keyframe))
        if number is not None and number >= frames.stop - 1:
            break
    return found


def mime_of(stream: Any) -> str:
    """MIME type with codecs of the segments of a stream."""
    extra = stream.codec_context.extradata
    if stream.codec_context.name == "h264" and extra:
        return f'video/mp4; codecs="avc1.{extra[1:4].hex().upper()}"'
    return VP9_MIME


class GrowingFilm:
    """Segments of a take's video that another process is writing, or was writing when it was killed.

    The newest block is in its own file; see `NewestBlock`.

    Args:
        video: the file.
        timeline: timeline of the whole requested take.

    Attributes:
        asked: that timeline.
    """

    def __init__(self, video: Path, timeline: Timeline) -> None:
        self._video, self.asked = video, timeline
        self._lock = threading.Lock()
        self._begin_anew(0)

    def _begin_anew(self, inode: int) -> None:
        self._inode, self.mime = inode, VP9_MIME
        self._head = b""  # the file up to the end of its first frame; decoding the others needs it
        self._ends: list[int] = []  # end of each frame's fragment, in bytes of the file
        self._rest: list[Packet] = []  # packets of a block that isn't complete
        self._whole = 0  # complete blocks
        self._newest = b""
        self.stamps: list[str] = []
        self.keys: list[bool] = []

    @property
    def timeline(self) -> Timeline:
        """Timeline of the blocks made so far."""
        blocks = len(self.stamps)
        return replace(self.asked, pixel_frames=self.asked.pixels_of(blocks - 1).stop if blocks else 0)

    def refresh(self) -> None:
        """Read what was written since the last call.

        Raises:
            FinishedError: if the video is finished.
            ValueError, OSError: if it can't be read.
        """
        with self._lock:
            check_plain(self._video.with_name(NEWEST))
            newest = _content_of(self._video.with_name(NEWEST))  # first, so that the video is at least as new
            with open_plain(self._video) as file:
                there = os.fstat(file.fileno())
                if there.st_ino != self._inode or there.st_size < (self._ends or [0])[-1]:  # its beginning was copied
                    self._begin_anew(there.st_ino)
                self._read_on(file)
            self._add_newest(newest)

    def _read_on(self, file: IO[bytes]) -> None:
        begin = self._ends[-1] if self._ends else 0
        file.seek(begin)
        data = file.read()
        ends = split_fragments(data)
        if not ends:
            return
        self._head = self._head or data[: ends[0]]
        with self._opened(begin, data[: ends[-1]]) as (stream, packets):
            self.mime = mime_of(stream)
        self._ends += [begin + end for end in ends]
        for packet in packets:
            self._rest.append(packet)
            if len(self._rest) == len(self.asked.pixels_of(self._whole)):
                self._set(self._whole, self._rest)
                self._whole, self._rest = self._whole + 1, []

    @contextmanager
    def _opened(self, begin: int, data: bytes) -> Iterator[tuple[Any, list[Packet]]]:
        """The stream, and the frames of a part of the file; the part begins at 0 or at the end of a frame."""
        before = self._head if begin else b""
        with _reading(io.BytesIO(before + data)) as (container, stream):
            yield stream, list(_packets(container, stream))[1 if begin else 0 :]

    def _add_newest(self, newest: bytes) -> None:
        """Add the newest block if it follows the complete ones and the video contains its beginning."""
        self._newest = b""
        frames = self.asked.pixels_of(self._whole)
        has_begun = self._rest or len(frames) == 1  # the video lacks one frame
        block = _packets_of(newest, frames.start, self.asked.fps) if has_begun else []
        if block and len(block) == len(frames) and block[: len(self._rest)] == self._rest:
            self._set(self._whole, block)
            self._newest = newest
            if not self._head:
                self.mime = _mime_in(newest)
        else:
            del self.stamps[self._whole :], self.keys[self._whole :]

    def _set(self, block: int, packets: list[Packet]) -> None:
        self.keys[block:] = [packets[0].is_key]
        self.stamps[block:] = [stamp_of(packets)]

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4; OSError if it is gone or changed."""
        with self._lock:
            if block == self._whole and self._newest:
                return self._newest
            if block >= self._whole:
                raise OSError(f"{self._video} has changed")
            frames = self.asked.pixels_of(block)
            begin = self._ends[frames.start - 1] if frames.start else 0
            end = self._ends[frames.stop - 1]
            with open_plain(self._video) as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    raise OSError(f"{self._video} has changed")
                file.seek(begin)
                data = file.read(end - begin)
            with self._opened(begin, data) as (stream, packets):
                return wrapped(stream, packets, frames.start, self.asked.fps)


def _mime_in(segment: bytes) -> str:
    with _reading(io.BytesIO(segment)) as (_, stream):
        return mime_of(stream)


def _content_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _packets_of(segment: bytes, first_frame: int, fps: int) -> list[Packet]:
    """Packets of a segment that begins with this frame; none if it is another segment, or damaged."""
    try:
        with _reading(io.BytesIO(segment)) as (container, stream):
            found = [packet for packet in container.demux(stream) if packet.size]
            if not found or round(found[0].pts * found[0].time_base * fps) != first_frame:
                return []
            return [Packet(bytes(packet), packet.is_keyframe) for packet in found]
    except (OSError, ValueError):
        return []
