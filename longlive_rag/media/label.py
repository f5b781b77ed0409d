"""A label in the corner of every frame."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE_OF_HEIGHT = 0.045
MIN_PX = 10
MARGIN_OF_LINE = 0.6
SHADE = 0.55


class CornerLabel:
    """White text on a shaded box, in the lower left corner of frames of one size.

    Args:
        text: the text.
        width, height: size of the frames in pixels.
    """

    def __init__(self, text: str, width: int, height: int) -> None:
        size = max(MIN_PX, round(LINE_OF_HEIGHT * height))
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(text)
        while right - left > 0.9 * width and size > 6:
            size -= 1
            font = ImageFont.load_default(size)
            left, top, right, bottom = font.getbbox(text)
        pad = round(MARGIN_OF_LINE * size / 2)
        box = Image.new("L", (min(width, round(right - left) + 2 * pad), min(height, round(bottom - top) + 2 * pad)))
        ImageDraw.Draw(box).text((pad - left, pad - top), text, 255, font)
        self._ink = np.asarray(box, dtype=np.float32)[..., None] / 255

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """Return a copy of a frame [H, W, 3] uint8 with the label on it."""
        marked = frame.copy()
        height, width = self._ink.shape[:2]
        corner = marked[-height:, :width].astype(np.float32) * (1 - SHADE)
        marked[-height:, :width] = np.round(corner + (255 - corner) * self._ink)
        return marked
