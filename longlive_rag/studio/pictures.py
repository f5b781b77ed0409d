"""Single frames of a take as JPEG, decoded from its segments."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import av
from PIL import Image

from longlive_rag.studio.segments import Film

KEPT = 1024
WIDEST = 4096
QUALITY = 85


class Pictures:
    """Frames as JPEG; the most recently requested are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[tuple[str, ...], int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, film: Film, frame: int, width: int | None) -> bytes:
        """A frame as JPEG.

        Args:
            frame: number of an existing frame in the take.
            width: in pixels, at most the frame's own, which is also the default.
        """
        key = (tuple(film.stamps[number] for number in _needed(film, frame)), frame, width or 0)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = _encoded(decoded(film, frame), width)
        with self._lock:
            self._kept[key] = data
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return data


def decoded(film: Film, frame: int) -> Image.Image:
    """A frame as a picture, decoded from the last keyframe block up to it."""
    needed = _needed(film, frame)
    place = frame - film.timeline.pixels_of(needed.start).start
    decoder = None
    for number in needed:
        with av.open(io.BytesIO(film.segment(number)), "r") as container:
            stream = container.streams.video[0]
            if decoder is None:
                decoder = av.CodecContext.create(stream.codec_context.name, "r")
                decoder.extradata, decoder.thread_count = stream.codec_context.extradata, 1
            for packet in [each for each in container.demux(stream) if each.size]:
                for picture in decoder.decode(packet):  # type: ignore[attr-defined]
                    if not place:
                        return picture.to_image()  # type: ignore[no-any-return]
                    place -= 1
    raise ValueError(f"frame {frame} can't be decoded")


def _needed(film: Film, frame: int) -> range:
    """The blocks that are needed to decode a frame."""
    block = film.timeline.block_at(frame)
    first = max(number for number in range(block + 1) if film.keys[number] or not number)
    return range(first, block + 1)


def _encoded(picture: Image.Image, width: int | None) -> bytes:
    if width is not None and width < picture.width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
