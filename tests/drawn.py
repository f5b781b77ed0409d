"""Takes whose frames say which they are, without a backbone: a record from the samples, and a video of stripes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from longlive_rag.media.video import VideoWriter
from longlive_rag.takes.folder import RECORD, VIDEO
from longlive_rag.timeline import Timeline

SAMPLE = Path(__file__).parent / "takes/samples/memory" / RECORD
BITS = 12
STRIPE, HEIGHT = 16, 96


def drawn_take(folder: Path, frames: int, fps: int = 16, parent: Path | None = None, **request: Any) -> Path:
    """A finished take of so many frames, with tiny-world's blocks.

    Args:
        parent: another take, whose first two blocks it claims as its own.
        request: changes to the sample's request.
    """
    folder.mkdir(parents=True)
    size = {"width": STRIPE * BITS, "height": HEIGHT, "fps": fps}
    timeline = Timeline(frames, fps, frames_per_block=3, temporal_factor=4)
    with VideoWriter(folder / VIDEO, **size) as video:
        for block in range(timeline.blocks):
            if block % timeline.segment_blocks == 0:
                video.cut()
            video.write(np.stack([striped(number) for number in timeline.pixels_of(block)]))
    record = json.loads(SAMPLE.read_text())
    record["video"] |= {**size, "frames": frames, "seconds": frames / fps, "blocks": timeline.blocks}
    record["request"] |= {"seconds": frames / fps, "output": {**size, "upscale": 1}, **request}
    if parent is not None:
        record["branched_from"] = {"take": str(parent), "blocks": 2, "at": f"0:{timeline.starts_at(2):g}"}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def striped(number: int) -> np.ndarray:
    """[height, width, 3] uint8: a number below 2 ** BITS in white and black stripes, the lowest bit first."""
    bits = np.array([255 * (number >> place & 1) for place in range(BITS)], dtype=np.uint8)
    return np.broadcast_to(np.repeat(bits, STRIPE)[None, :, None], (HEIGHT, STRIPE * BITS, 3))


def number_in(picture: np.ndarray) -> int:
    """The number that a picture like that of `striped` shows, at any size."""
    height, width = picture.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return sum(int(picture[height // 2, middle].mean() > 127) << place for place, middle in enumerate(middles))
