"""Blocks of a take as files that a browser can append one to another: the very packets of its video, wrapped anew."""

from __future__ import annotations

import io
import os
import secrets
import struct
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.video.stream import VideoStream

from longlive_rag.takes.folder import NEWEST
from longlive_rag.timeline import Timeline
from retrieval.files import appearing, check_plain

ONE_FRAGMENT = {"movflags": "frag_custom+empty_moov+default_base_moof"}
VP9_MIME = 'video/mp4; codecs="vp09.00.10.08"'


@dataclass(frozen=True)
class Packet:
    """An encoded frame."""

    data: bytes
    is_key: bool


class Film(Protocol):
    """The segments of one take.

    Attributes:
        timeline: of what is there or is being made.
        stamps: of each block that is there; a segment's address has it, so that what is under an address never changes.
        keys: whether each block can be decoded without those before it.
    """

    timeline: Timeline
    stamps: list[str]
    keys: list[bool]

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4."""
        ...


def wrapped(stream: VideoStream, packets: Sequence[Packet], first_frame: int, fps: int) -> bytes:
    """Packets as an MP4 of one fragment, with its own header; times are those in the take.

    Args:
        stream: that they are of.
        packets: of frames that follow each other.
        first_frame: number of the first one in the take.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=ONE_FRAGMENT) as container:
        copied = container.add_stream_from_template(stream)
        copied.time_base = Fraction(1, fps)
        for place, packet in enumerate(packets):
            ready = av.Packet(packet.data)
            ready.stream, ready.time_base, ready.duration = copied, Fraction(1, fps), 1
            ready.pts = ready.dts = place
            ready.is_keyframe = packet.is_key
            container.mux(ready)
        assert copied.time_base is not None
        begin = round(first_frame / (fps * copied.time_base))
    return _moved(buffer.getvalue(), begin)


def _moved(data: bytes, begin: int) -> bytes:
    """A file of one fragment whose time begins at `begin` instead of 0: its box `tfdt`, of version 1, says so."""
    place = data.index(b"tfdt", data.index(b"moof")) + 4
    assert data[place] == 1
    return data[: place + 4] + struct.pack(">Q", begin) + data[place + 12 :]


class DiskFilm:
    """Segments cut from a take's video.

    Args:
        video: the file.
        timeline: of a take of any length at its rate.
        frames: how many of its frames are good, in whole blocks; None is all.
        stamps: of the blocks, where they were known already.
        newest: a block that follows those, as a segment, if the video has the beginning of it.

    Raises:
        ValueError, OSError: if it can't be read.
    """

    def __init__(
        self,
        video: Path,
        timeline: Timeline,
        frames: int | None = None,
        stamps: Sequence[str] = (),
        newest: bytes | None = None,
    ) -> None:
        check_plain(video)
        self._video, self._newest = video, b""
        keys: list[bool] = []
        rest: list[Packet] = []
        with av.open(str(video)) as container:
            stream = _picture_of(container)
            self.mime = mime_of(stream)
            for packet in container.demux(stream):
                if packet.size and (frames is None or len(keys) < frames):
                    keys.append(packet.is_keyframe)
                elif packet.size:
                    rest.append(Packet(bytes(packet), packet.is_keyframe))
        if newest is not None and rest:
            block = _packets_of(newest, len(keys), timeline.fps)
            if block[: len(rest)] == rest:
                self._newest = newest
                keys += [packet.is_key for packet in block]
        self.timeline = Timeline(len(keys), timeline.fps, timeline.frames_per_block, timeline.temporal_factor)
        blocks = self.timeline.blocks if keys else 0
        new = secrets.token_hex(6)
        self.stamps = [*stamps[:blocks], *[new] * (blocks - len(stamps))]
        self.keys = [keys[self.timeline.pixels_of(block).start] for block in range(blocks)]

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4; OSError if the video isn't there any more."""
        if self._newest and block == len(self.stamps) - 1:
            return self._newest
        frames = self.timeline.pixels_of(block)
        check_plain(self._video)
        for seek in (True, False):  # a file without an index is read from its beginning
            with av.open(str(self._video)) as container:
                stream = _picture_of(container)
                packets = _packets_between(container, stream, frames, seek)
                if len(packets) == len(frames):
                    return wrapped(stream, packets, frames.start, self.timeline.fps)
        raise OSError(f"{self._video} is not what it was")


def _picture_of(container: Any) -> Any:
    if not container.streams.video:
        raise OSError(f"{container.name} holds no video")
    return container.streams.video[0]


def _packets_of(segment: bytes, first_frame: int, fps: int) -> list[Packet]:
    """Of a segment that begins with a frame of the take; none if it is another one, or damaged."""
    try:
        with av.open(io.BytesIO(segment), "r") as container:
            stream = _picture_of(container)
            found = [packet for packet in container.demux(stream) if packet.size]
            if not found or round(found[0].pts * found[0].time_base * fps) != first_frame:
                return []
            return [Packet(bytes(packet), packet.is_keyframe) for packet in found]
    except (OSError, ValueError):  # PyAV's errors are of these kinds
        return []


def _packets_between(container: Any, stream: Any, frames: range, seek: bool) -> list[Packet]:
    every = round(1 / (stream.average_rate * stream.time_base))
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
    """What a browser must be told of the segments of a stream."""
    extra = stream.codec_context.extradata
    if stream.codec_context.name == "h264" and extra:
        return f'video/mp4; codecs="avc1.{extra[1:4].hex().upper()}"'
    return VP9_MIME


@dataclass
class LiveFilm:
    """Segments of a take that is being made, kept in a temporary file: its video has no index yet.

    `on_packet` in the thread that writes the video, `segment` from any.

    Attributes:
        timeline: of the take as it was asked for.
        before: what there was of the take, where it is gone on with.
        kept: blocks of `before` that stay as they are.
        folder: of the take; its newest block is kept there, since its video would lack the end of it after a kill.
    """

    timeline: Timeline
    before: DiskFilm | None = None
    kept: int = 0
    folder: Path | None = None
    stamps: list[str] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    mime: str = VP9_MIME

    def __post_init__(self) -> None:
        if self.before is not None:
            self.stamps, self.keys = self.before.stamps[: self.kept], self.before.keys[: self.kept]
            self.mime = self.before.mime
        self._new = secrets.token_hex(6)
        beside = self.folder and self.folder.parent
        self._file = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115  # it lives as long as this
        self._places: list[tuple[int, int]] = []  # where each block lies in the file, and its bytes
        self._end = 0
        self._pending: list[Packet] = []
        self._lock = threading.Lock()

    def on_packet(self, packet: av.Packet, stream: VideoStream) -> None:
        """A packet of the video, in order from its first frame on."""
        self._pending.append(Packet(bytes(packet), packet.is_keyframe))
        block = len(self._places)
        frames = self.timeline.pixels_of(block)
        if len(self._pending) == len(frames):
            self._keep(wrapped(stream, self._pending, frames.start, self.timeline.fps), self._pending[0].is_key)
            self._pending = []

    def _keep(self, data: bytes, is_key: bool) -> None:
        with self._lock:
            block = len(self._places)
            os.pwrite(self._file.fileno(), data, self._end)
            self._places.append((self._end, len(data)))
            self._end += len(data)
            if block >= len(self.stamps):
                self.stamps.append(self._new)
                self.keys.append(is_key)
        if self.folder is not None and block >= self.kept:
            with suppress(OSError), appearing(self.folder / NEWEST) as part:  # a full disk is the video's matter
                part.write_bytes(data)

    def segment(self, block: int) -> bytes:
        """A block as a fragmented MP4."""
        with self._lock:
            place = self._places[block] if block < len(self._places) else None
        if place is not None:
            return os.pread(self._file.fileno(), place[1], place[0])
        assert self.before is not None  # its video is untouched until the first packet comes
        return self.before.segment(block)
