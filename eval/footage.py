"""A video to measure, from a file or a take; decoded once, in batches, at any resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from longlive_rag.media.video import open_video
from longlive_rag.takes.folder import VIDEO
from longlive_rag.takes.inspection import check_video
from longlive_rag.takes.record import TakeRecord, read_record

BATCH_FRAMES = 32
SAME_RATE = 1e-3  # relative; containers round times to milliseconds
ROUNDING_S = 2e-3  # for the same reason


@dataclass(frozen=True)
class Footage:
    """What is known about a video before it is decoded.

    Attributes:
        path: the file.
        name: what the user called it.
        width, height: size in pixels.
        fps: average frames per second by the frames' times, or the header's if they have none.
        frames: number of frames, counted rather than read from the header.
        backbone: the backbone of a take, as named in its record; None for a video file.
        end_s: when the last frame ends, in seconds from the first; None if that is `frames` / `fps`.
    """

    path: Path
    name: str
    width: int
    height: int
    fps: float
    frames: int
    backbone: str | None = None
    end_s: float | None = None

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.fps if self.end_s is None else self.end_s


def find_footage(path: Path) -> Footage:
    """Inspect a video file, or the video in a take's folder, without decoding it.

    Raises:
        ValueError: if there is no video, it can't be read, or the take isn't finished.
    """
    record = _finished_record(path) if path.is_dir() else None
    if record is not None:
        check_video(path, record)
    video, said = (path, None) if record is None else (path / VIDEO, record.video.frames)
    if not video.is_file():
        raise ValueError(f"{path} does not exist; name a video file or the folder of a take")
    try:
        with open_video(video) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            frames = len(packets)
            timed = [packet for packet in packets if packet.pts is not None]
            shown = sorted((_seconds(one, one.pts), _seconds(one, one.duration)) for one in timed)
            track_end_s = _track_end(stream, frames)
            rate = stream.average_rate or stream.guessed_rate
            width, height = stream.codec_context.width, stream.codec_context.height
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} can't be read as a video: {_reason(error)}") from error
    if not frames or not rate:
        raise ValueError(f"{path} can't be read as a video: it holds no frames")
    if said not in (None, frames):
        raise ValueError(
            f"{path} is damaged: its record says {said} frames, but its video has {frames}; "
            "longlive-rag resume fixes it"
        )
    backbone = None if record is None else record.run.backbone
    fps = _rate_by_times([begin_s for begin_s, _ in shown], float(rate))
    end_s = _end_by_times(shown, track_end_s, fps) if len(shown) == frames else None
    return Footage(video, str(path), width, height, fps, frames, backbone, end_s)


def read_batches(footage: Footage, batch_frames: int = BATCH_FRAMES) -> Iterator[tuple[NDArray, NDArray]]:
    """Decode a video once, from its first frame to its last.

    Yields:
        (seconds [N] float64 from the first frame on, frames [N, H, W, 3] uint8 RGB), N up to `batch_frames`.

    Raises:
        ValueError: if the file is damaged and not all of its frames can be decoded.
    """
    seconds: list[float] = []
    pictures: list[NDArray] = []
    decoded = 0
    for second, picture in _decode(footage):
        if pictures and picture.shape != pictures[0].shape:
            raise ValueError(f"{footage.name} changes its size at {second:.2f} s, so it can't be measured")
        seconds.append(second)
        pictures.append(picture)
        decoded += 1
        if len(pictures) == batch_frames:
            yield np.array(seconds), np.stack(pictures)
            seconds, pictures = [], []
    if pictures:
        yield np.array(seconds), np.stack(pictures)
    if decoded != footage.frames:
        raise ValueError(f"{footage.name} is damaged: {decoded} of its {footage.frames} frames can be decoded")


def _decode(footage: Footage) -> Iterator[tuple[float, NDArray]]:
    first: float | None = None
    reformatter = VideoReformatter()
    try:
        with open_video(footage.path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                at = number / footage.fps if frame.time is None else float(frame.time)
                first = at if first is None else first
                yield at - first, reformatter.reformat(frame, format="rgb24").to_ndarray()
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{footage.name} is damaged: {_reason(error)}") from error


def _finished_record(folder: Path) -> TakeRecord:
    """The record of a finished take."""
    record = read_record(folder)
    if record.status != "finished":
        raise ValueError(
            f"the take in {folder} is {record.status}, not finished; "
            f"measure {folder / VIDEO} itself if that is what you want"
        )
    return record


def _rate_by_times(times_s: list[float], said: float) -> float:
    """Frames per second by the frames' own times; the header's value if the two agree up to rounding."""
    if len(times_s) < 2 or max(times_s) <= min(times_s):
        return said
    real = (len(times_s) - 1) / (max(times_s) - min(times_s))
    return said if abs(real - said) <= SAME_RATE * said else real


def _end_by_times(shown: list[tuple[float, float]], track_end_s: float | None, fps: float) -> float | None:
    """When the last frame ends, counted from the first; None if the frame rate gives the same, or nothing is known.

    Durations of packets may be made up from a header's rate, so they are only trusted if they fill the gaps between
    frames. Otherwise the last frame is assumed to last the mean duration.

    Args:
        shown: (begin, duration) of every frame in seconds, increasing.
        track_end_s: when the track ends by its header; None if it does not say.
    """
    first_s, (last_s, lasts_s) = shown[0][0], shown[-1]
    fills = all(abs(begin_s + long_s - next_s) <= ROUNDING_S for (begin_s, long_s), (next_s, _) in pairwise(shown))
    if track_end_s is not None and track_end_s > last_s:
        lasts_s = track_end_s - last_s
    elif not (fills and lasts_s) and len(shown) > 1:
        lasts_s = (last_s - first_s) / (len(shown) - 1)
    end_s = last_s + lasts_s - first_s
    return end_s if end_s > 0 and abs(end_s - len(shown) / fps) > ROUNDING_S else None


def _track_end(stream: VideoStream, frames: int) -> float | None:
    """When a track ends by its header, in seconds; None if it does not say, or its frame count is not `frames`."""
    if not stream.duration or stream.time_base is None or stream.frames != frames:
        return None
    return float((stream.duration + (stream.start_time or 0)) * stream.time_base)


def _seconds(packet: av.Packet, ticks: int | None) -> float:
    return float((ticks or 0) * packet.time_base)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
