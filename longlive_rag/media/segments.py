"""Encoded frames as files of their own: the very packets of a video, wrapped anew."""

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


def stamp_of(packets: Sequence[Packet]) -> str:
    """Tells packets from others by what is in them."""
    digest = hashlib.blake2b(digest_size=STAMP_BYTES)
    for packet in packets:
        digest.update(packet.data)
    return digest.hexdigest()


class FinishedError(ValueError):
    """A video is not being written any more."""


def split_fragments(data: bytes) -> list[int]:
    """Where the fragments end of an MP4 that is written a fragment a frame.

    Args:
        data: from the beginning of a box on; what is not whole at its end is left out.

    Returns:
        Where each one that is whole ends, in bytes of `data`.

    Raises:
        FinishedError: if it has frames outside of fragments.
    """
    place, ends, is_open = 0, list[int](), False
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size < 8 or place + size > len(data):
            break
        place += size
        if kind == b"mdat" and not is_open:
            raise FinishedError("it is not written a fragment a frame")
        if kind == b"mdat":
            ends.append(place)
        is_open = kind == b"moof" or (is_open and kind != b"mdat")
    return ends
