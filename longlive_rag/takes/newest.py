"""The newest block of a take being made, as a file, because the video lacks its end until the next block begins."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import av
from av.video.stream import VideoStream

from longlive_rag.media.segments import Packet, wrapped
from longlive_rag.takes.folder import NEWEST
from longlive_rag.timeline import Timeline
from retrieval.files import appearing


class NewestBlock:
    """Keeps the newest block of a take in its folder, so that it can be shown at once, even after a kill.

    Args:
        folder: folder of the take.
        timeline: timeline of the take as requested.
        kept: number of blocks at its beginning that are already in the video.
    """

    def __init__(self, folder: Path, timeline: Timeline, kept: int) -> None:
        self._path, self._timeline = folder / NEWEST, timeline
        self._block = kept
        self._skipped = timeline.pixels_of(kept).start  # packets of these blocks that are still to come
        self._packets: list[Packet] = []

    def on_packet(self, packet: av.Packet, stream: VideoStream) -> None:
        """Take a packet of the video before it is written, in order from its first frame."""
        if self._skipped:
            self._skipped -= 1
            return
        self._packets.append(Packet(bytes(packet), packet.is_keyframe))
        frames = self._timeline.pixels_of(self._block)
        if len(self._packets) < len(frames):
            return
        with suppress(OSError), appearing(self._path) as part:  # the video writer handles a full disk
            part.write_bytes(wrapped(stream, self._packets, frames.start, self._timeline.fps))
        self._packets, self._block = [], self._block + 1
