"""Encoded frames as separate files: the packets of a video, remuxed without re-encoding."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.stream import VideoStream

ONE_FRAGMENT = {"movflags": "frag_custom+empty_moov+default_base_moof"}
STAMP_BYTES = 6


@dataclass(frozen=True)
class Packet:
    """An encoded frame."""

    data: bytes
    is_key: bool


def wrapped(stream: VideoStream, packets: Sequence[Packet], first_frame: int, fps: int) -> bytes:
    """Wrap packets as an MP4 of one fragment, with its own header and the take's timestamps.

    Args:
        stream: the stream the packets belong to.
        packets: packets of consecutive frames.
        first_frame: number of the first frame in the take.
        fps: frames per second.
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
    """Make a file of one fragment begin at time `begin` instead of 0, by editing its `tfdt` box (version 1)."""
    place = data.index(b"tfdt", data.index(b"moof")) + 4
    assert data[place] == 1
    return data[: place + 4] + struct.pack(">Q", begin) + data[place + 12 :]


def stamp_of(packets: Sequence[Packet]) -> str:
    """Identify packets by a hash of their content."""
    digest = hashlib.blake2b(digest_size=STAMP_BYTES)
    for packet in packets:
        digest.update(packet.data)
    return digest.hexdigest()


class FinishedError(ValueError):
    """Raised for a video that is no longer being written."""


def split_fragments(data: bytes) -> list[int]:
    """Find where the fragments end in an MP4 that is written with one fragment per frame.

    Args:
        data: bytes that start at the beginning of a box; an incomplete fragment at the end is ignored.

    Returns:
        The end of each complete fragment, in bytes of `data`.

    Raises:
        FinishedError: if there are frames outside of fragments.
    """
    place, ends, is_open = 0, list[int](), False
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size < 8 or place + size > len(data):
            break
        place += size
        if kind == b"mdat" and not is_open:
            raise FinishedError("it is not written with one fragment per frame")
        if kind == b"mdat":
            ends.append(place)
        is_open = kind == b"moof" or (is_open and kind != b"mdat")
    return ends
