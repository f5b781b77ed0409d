"""The finished video, written block by block; however the run ends, the file on disk plays.

A video may be cut anywhere: what follows a cut is encoded independently of everything before, as in a separate file.
Frames before a cut can be kept, bit for bit, when the rest is remade.

While it is written, the file is a fragmented MP4 with one fragment per frame: a killed process leaves a file that plays
up to its last frame. `close` rewrites it without re-encoding into a plain MP4 with its index in front.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from backbone.errors import FieldError
from longlive_rag.media.label import CornerLabel
from longlive_rag.media.sums import add_sum, begin_sums, sha256_of
from longlive_rag.timeline import SEGMENT_SECONDS
from retrieval.files import part_of

FRAGMENTED = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
INDEX_IN_FRONT = {"movflags": "faststart"}
ENCODER_THREADS = 4
FRAMES_AFTER_SYNC = 2
KEEP_MARGIN = FRAMES_AFTER_SYNC + 1
"""The frames before a cut are safely on disk once this many frames after it are."""
TAGS = ("title", "comment", "description")
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,gif,ivf,yuv4mpegpipe,asf,mxf,nut,h264,hevc,av1,"
    "mpegvideo,m4v,apng"
)
"""FFmpeg's names of the formats that we open."""
OnPacket = Callable[[av.Packet, VideoStream], None]


@dataclass(frozen=True)
class Codec:
    """How frames are encoded.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        license: licence of the encoder library.
        options: its settings.
        rewrapped: whether a file wraps packets differently than the encoder emits them.
    """

    encoder: str
    license: str
    options: Mapping[str, str]
    rewrapped: bool = False


# VP9 is the default because neither its encoder nor its format restricts selling the result; H.264 also plays on older
# devices, but its encoder here is x264, under the GPL. No look-ahead: each frame is on disk before the next.
CODECS: dict[str, Codec] = {
    "vp9": Codec(
        "libvpx-vp9",
        "BSD-3-Clause",
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "row-mt": "1"},
    ),
    "h264": Codec("libx264", "GPL-2.0-or-later", {"crf": "18", "preset": "veryfast", "tune": "zerolatency"}, True),
}


class VideoWriter:
    """Writes an MP4 file frame by frame, as the frames are made.

    Args:
        path: the file; an existing one is replaced.
        width, height: size in pixels of the frames that will be written.
        fps: constant number of frames per second.
        upscale: factor between the frames' sides and the video's (Lanczos filter).
        codec: a key of `CODECS`.
        tags: metadata of the file, such as comment and description.
        label: text in the lower left corner of every frame; None for none.
        keyframe_every: the most frames from one keyframe to the next; two seconds' worth by default.
        sums: whether to keep hashes beside the file to find damage later; see `longlive_rag.media.sums`.
        on_packet: called with every packet before it is written, and the stream it goes to.
        begin: (a video of the same kind, number of its frames) to start with, copied without re-encoding; they must end
            at a cut. The video may be the file itself, which is unchanged until they are copied.

    Raises:
        ValueError: if the size of the video is odd, or the codec is unknown or not in this build of PyAV.
        OSError: if the file can't be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: int,
        upscale: int = 1,
        codec: str = "vp9",
        tags: Mapping[str, str] | None = None,
        label: str | None = None,
        keyframe_every: int | None = None,
        sums: bool = False,
        begin: tuple[Path, int] | None = None,
        on_packet: OnPacket | None = None,
    ) -> None:
        check_codec(codec)
        if (width * upscale) % 2 or (height * upscale) % 2:
            raise ValueError(f"the video would be {width * upscale}x{height * upscale}; both sides must be even")
        self.path = Path(path)
        self.width, self.height, self.fps = width * upscale, height * upscale, fps
        self._frame_shape = (height, width, 3)
        self._label = None if label is None else CornerLabel(label, self.width, self.height)
        self._codec = CODECS[codec]
        self._keyframe_every = keyframe_every or SEGMENT_SECONDS * fps
        self._sums, self._on_packet = sums, on_packet
        self._encoder: Any = None
        self._to_pixels, self._to_picture = VideoReformatter(), VideoReformatter()  # each caches its filter's tables
        self._frames_encoded = 0
        self._frames_since_cut = 0
        target = self.path if begin is None else part_of(self.path)
        self._file = _WholeFragments(target)
        if sums and begin is None:
            begin_sums(self.path)
        try:
            self._container = av.open(self._file, "w", format="mp4", options=FRAGMENTED)
            self._container.metadata.update(tags or {})
            self._stream = self._add_stream()
            if begin is not None:
                self._copy(*begin)
                if sums:
                    begin_sums(self.path)
                target.replace(self.path)
        except BaseException:
            self._file.close()
            target.unlink(missing_ok=True)
            raise
        self._closed = False

    def write(self, frames: np.ndarray) -> None:
        """Append frames [F, H, W, 3] uint8 RGB.

        Raises:
            ValueError: if shape or dtype is wrong.
            OSError: if the disk refuses (full, quota); `close` then keeps what was written before.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._frame_shape:
            raise ValueError(
                f"frames are {frames.dtype} {list(frames.shape)}; "
                f"this video takes uint8 [F, {self._frame_shape[0]}, {self._frame_shape[1]}, 3]"
            )
        for frame in frames:
            self._encode(self._to_video(frame))
            self._frames_encoded += 1
            self._frames_since_cut += 1
            if self._frames_since_cut == FRAMES_AFTER_SYNC:  # the muxer holds one frame back
                self._file.sync()
                if self._sums and self._frames_encoded > FRAMES_AFTER_SYNC:
                    self._file.say_sum(self.path, self._frames_encoded - FRAMES_AFTER_SYNC)

    def cut(self) -> None:
        """Make what is written from now on independent of what was written before."""
        if self._encoder is not None:
            self._encode(None)
        self._encoder, self._frames_since_cut = None, 0

    def close(self) -> int:
        """Finish the file and return how many frames it holds. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._finish_fragments()
            if self._file.kept_bytes:
                put_index_in_front(self.path, self.fps)
                if self._sums:
                    add_sum(self.path, count_frames(self.path), self.path.stat().st_size, sha256_of(self.path))
        return count_frames(self.path) if self._file.kept_bytes else 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add_stream(self) -> VideoStream:
        """Add the container's stream, whose encoder only describes it."""
        stream = self._container.add_stream(self._codec.encoder, rate=self.fps, options=dict(self._codec.options))
        assert isinstance(stream, VideoStream)
        self._set_up(stream.codec_context)
        return stream

    def _new_encoder(self) -> Any:
        encoder: Any = av.CodecContext.create(self._codec.encoder, "w")
        encoder.options = dict(self._codec.options)
        encoder.time_base = Fraction(1, self.fps)
        encoder.framerate = Fraction(self.fps)
        self._set_up(encoder)
        return encoder

    def _set_up(self, encoder: Any) -> None:
        encoder.width, encoder.height, encoder.pix_fmt = self.width, self.height, "yuv420p"
        encoder.gop_size = self._keyframe_every
        encoder.thread_count = min(ENCODER_THREADS, os.cpu_count() or 1)
        encoder.colorspace, encoder.color_range = Colorspace.ITU709, ColorRange.MPEG
        encoder.color_primaries, encoder.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def _to_video(self, frame: np.ndarray) -> av.VideoFrame:
        source = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if self._label is not None:  # drawn at the video's size, so that it is sharp
            large = self._to_pixels.reformat(source, self.width, self.height, interpolation=Interpolation.LANCZOS)
            source = av.VideoFrame.from_ndarray(self._label.draw(large.to_ndarray()), format="rgb24")
        picture = self._to_picture.reformat(
            source,
            width=self.width,
            height=self.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.LANCZOS | Interpolation.ACCURATE_RND,
        )
        picture.pts = self._frames_encoded
        return picture

    def _encode(self, picture: av.VideoFrame | None) -> None:
        if self._encoder is None:
            self._encoder = self._new_encoder()
        for packet in self._encoder.encode(picture):
            packet.duration = 1  # in frames; encoders omit it, so the last frame would have no length
            self._mux(packet)
        self._file.keep()

    def _mux(self, packet: av.Packet) -> None:
        if self._on_packet is not None:
            self._on_packet(packet, self._stream)
        packet.stream = self._stream
        self._container.mux(packet)

    def _copy(self, source: Path, frames: int) -> None:
        with open_video(source) as container:
            stream = container.streams.video[0]
            to_stream = av.BitStreamFilterContext("h264_mp4toannexb", stream) if self._codec.rewrapped else None
            packets = (packet for packet in container.demux(stream) if packet.size)
            for packet in islice(packets, frames):
                for ready in to_stream.filter(packet) if to_stream else [packet]:
                    ready.time_base = Fraction(1, self.fps)
                    ready.pts = ready.dts = self._frames_encoded
                    ready.duration = 1
                    self._mux(ready)
                    self._frames_encoded += 1
        if self._frames_encoded != frames:
            raise ValueError(f"{source} has {self._frames_encoded} frames, fewer than the {frames} to be kept")
        self._file.sync()

    def _finish_fragments(self) -> None:
        try:
            if not self._file.failed and self._encoder is not None:
                self._encode(None)
            self._container.close()
            self._file.keep()
        except OSError:
            if not self._file.failed:
                raise
        finally:
            self._file.close()


class _WholeFragments:
    """A file for FFmpeg to write to, truncated to its last whole fragment if the disk fails."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # it may be a link to someone else's file
        self._file = path.open("x+b", buffering=0)
        self._digest, self._kept_digest = hashlib.sha256(), hashlib.sha256()
        self.kept_bytes = 0
        self.failed = False

    def write(self, data: bytes) -> int:
        if self.failed:
            return len(data)  # the trailer of a file that will be truncated anyway
        try:
            view = memoryview(data)
            self._digest.update(view)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self.failed = True
            raise
        return len(data)

    def keep(self) -> None:
        """Mark what was written so far as whole."""
        if not self.failed:
            self.kept_bytes, self._kept_digest = self._file.tell(), self._digest.copy()

    def say_sum(self, video: Path, frames: int) -> None:
        """Record the hash of the kept bytes, which hold so many frames, beside the video."""
        if not self.failed:
            add_sum(video, frames, self.kept_bytes, self._kept_digest.hexdigest())

    def sync(self) -> None:
        """Flush what was written so far to the disk."""
        if not self.failed:
            os.fsync(self._file.fileno())

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if self._file.closed:
            return
        if self.failed:
            self._file.truncate(self.kept_bytes)
        os.fsync(self._file.fileno())
        self._file.close()


def check_codec(codec: str) -> None:
    """Raise FieldError unless `codec` is known and this build of PyAV has its encoder."""
    if codec not in CODECS:
        raise FieldError("codec", codec, f"it must be one of {', '.join(CODECS)}")
    if CODECS[codec].encoder not in av.codecs_available:
        shown = f"{codec!r}, but the PyAV installed here was built without {CODECS[codec].encoder}"
        raise FieldError("codec", codec, shown=shown)


def put_index_in_front(path: Path, fps: int) -> None:
    """Rewrite an MP4 with its index in front, atomically; if the disk is full, it is left unchanged."""
    rewritten = part_of(path)
    rewritten.unlink(missing_ok=True)
    try:
        with (
            open_video(path) as source,
            av.open(str(rewritten), "w", format="mp4", options=INDEX_IN_FRONT) as target,
        ):
            target.metadata.update({name: source.metadata[name] for name in TAGS if name in source.metadata})
            frames = source.streams.video[0]
            assert frames.time_base is not None
            frame_duration = round(1 / (fps * frames.time_base))
            stream = target.add_stream_from_template(frames)
            for packet in source.demux(frames):
                if packet.size:
                    packet.stream, packet.duration = stream, frame_duration
                    target.mux(packet)
        with rewritten.open("rb") as file:
            os.fsync(file.fileno())
        rewritten.replace(path)
    except OSError:
        rewritten.unlink(missing_ok=True)
    except BaseException:
        rewritten.unlink(missing_ok=True)
        raise


def count_frames(path: str | os.PathLike[str]) -> int:
    """Count the frames in a video file one by one, without trusting its header."""
    with open_video(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def read_tags(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata that was given to a video file."""
    with open_video(path) as container:
        return {name: container.metadata[name] for name in TAGS if name in container.metadata}


def safe_frames(path: Path) -> int:
    """Count the leading frames that are safely on disk, even if the writer or the machine died.

    Returns 0 if the file can't be read at all.
    """
    whole, closed = _whole_frames(path)
    return whole if closed else max(0, whole - KEEP_MARGIN)


def whole_frames(path: Path) -> int:
    """Count the leading frames that can be shown, even if the writer died; 0 if the file can't be read."""
    return _whole_frames(path)[0]


def _whole_frames(path: Path) -> tuple[int, bool]:
    """Count the whole leading frames; also return whether the file was closed."""
    try:
        size = path.stat().st_size
        with open_video(path) as container:
            closed = container.streams.video[0].frames > 0  # a fragmented file states no count
            packets = [packet for packet in container.demux(video=0) if packet.size]
    except (OSError, ValueError):  # PyAV's errors derive from these
        return 0, True
    inside = takewhile(lambda packet: packet.pos is not None and packet.pos + packet.size <= size, packets)
    return sum(1 for _ in inside), closed


def read_frames(path: str | os.PathLike[str], start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames of a video file of constant rate, each [H, W, 3] uint8 RGB.

    Args:
        path: the video file.
        start, stop: the range of frames, from 0; decoding begins at the keyframe before it.
    """
    if start:
        with open_video(path) as container:
            frames = _numbered(container, start)
            first = next(frames, None)
            if first is not None and first[0] <= start:
                yield from _within(chain([first], frames), start, stop)
                return
    with open_video(path) as container:  # also if the file has no index to seek by
        yield from _within(_numbered(container, 0), start, stop)


def read_frame(path: str | os.PathLike[str], number: int) -> np.ndarray:
    """Read one frame of a video file of constant rate, [H, W, 3] uint8 RGB, decoding only what is needed for it.

    Raises:
        ValueError, OSError: if the file can't be read or has no such frame.
    """
    frame = next(read_frames(path, number, number + 1), None)
    if frame is None:
        raise ValueError(f"{path} has no frame {number}")
    return frame


def copy_frames(
    source: str | os.PathLike[str], target: str | os.PathLike[str], frames: range, tags: Mapping[str, str]
) -> bool:
    """Copy a range of frames into another MP4 without re-encoding, if it begins with a keyframe.

    Returns:
        Whether it does; otherwise nothing is written.
    """
    with open_video(source) as container:
        stream = container.streams.video[0]
        every = ticks_per_frame(stream)
        packets = islice((packet for packet in container.demux(stream) if packet.size), frames.start, frames.stop)
        first = next(packets, None)
        if first is None or not first.is_keyframe:
            return False
        with av.open(str(target), "w", format="mp4", options=INDEX_IN_FRONT) as written:
            written.metadata.update(tags)
            copied = written.add_stream_from_template(stream)
            for place, packet in enumerate(chain([first], packets)):
                packet.stream, packet.pts, packet.dts = copied, place * every, place * every
                packet.duration = every
                written.mux(packet)
    return True


def _within(frames: Iterator[tuple[int, Any]], start: int, stop: int | None) -> Iterator[np.ndarray]:
    reformatter = VideoReformatter()
    for number, frame in frames:
        if stop is not None and number >= stop:
            return
        if number >= start:
            yield reformatter.reformat(frame, format="rgb24").to_ndarray()


def read_some_frames(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frames of a video file by increasing number, each [H, W, 3] uint8 RGB; missing ones are left out.

    Only what these frames depend on is decoded, and the file needs no index.
    """
    reformatter = VideoReformatter()
    with open_video(path) as container:
        decoder = container.streams.video[0].codec_context
        for first, packets in _groups(container):
            wanted = [number for number in numbers if first <= number < first + len(packets)]
            if wanted:
                needed = [*packets[: wanted[-1] - first + 1], None]
                for number, frame in enumerate(chain.from_iterable(map(decoder.decode, needed)), first):
                    if number in wanted:
                        yield number, reformatter.reformat(frame, format="rgb24").to_ndarray()
                decoder.flush_buffers()


def _groups(container: Any) -> Iterator[tuple[int, list[av.Packet]]]:
    """Yield the packets from one keyframe to the next, with the number of their first frame."""
    first, group = 0, list[av.Packet]()
    for packet in container.demux(video=0):
        if packet.size:
            if packet.is_keyframe:
                yield first, group
                first, group = first + len(group), []
            group.append(packet)
    yield first, group


def _numbered(container: Any, start: int) -> Iterator[tuple[int, Any]]:
    """Decode frames from the keyframe before `start` on, with their numbers."""
    stream = container.streams.video[0]
    every = ticks_per_frame(stream)
    if start:
        container.seek(start * every, stream=stream)
    for frame in container.decode(stream):
        yield round(frame.pts / every), frame


def ticks_per_frame(stream: Any) -> int:
    """Duration of a frame of a stream of constant rate, in units of its time base.

    Raises:
        ValueError: if the stream states none, as in a damaged file.
    """
    rate, base = stream.average_rate, stream.time_base
    ticks = round(1 / (rate * base)) if rate and base else 0
    if ticks < 1:
        raise ValueError(f"{stream.container.name} can't be read as a video: it states no frame rate")
    return ticks


def open_video(path: str | os.PathLike[str]) -> Any:
    """Open a file that itself holds a video; lists of other files, and text that FFmpeg would draw, are refused.

    Raises:
        ValueError, OSError: if it can't be read (PyAV's errors derive from these) or holds no video.
    """
    nothing = f"{path} can't be read as a video: it holds none"
    try:
        container = av.open(str(path), options={"format_whitelist": FORMATS})
    except av.error.ArgumentError as error:  # another format
        raise ValueError(nothing) from error
    if not container.streams.video:
        container.close()
        raise ValueError(nothing)
    return container
