"""A classical reader of tiny-world's pictures: is a character there, where, and of which colour.

It knows the world's rules (characters are saturated, places pale) and nothing of any model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.grammar import COLOURS

SATURATION = 0.42  # places stay below 0.3, bodies are painted at 0.86
DARKEST = 0.25
SMALLEST_AREA = 0.012  # of the picture; the smallest body covers about 0.06


@dataclass(frozen=True)
class Reading:
    """What is seen in one frame.

    Attributes:
        present: whether enough saturated pixels form a character.
        colour: name of the hue that most of its pixels are nearest to; None if absent.
        centre: (x, y) in fractions of the picture; None if absent.
        area: saturated pixels as a fraction of the picture.
    """

    present: bool
    colour: str | None
    centre: tuple[float, float] | None
    area: float


def read_frame(frame: NDArray[np.uint8]) -> Reading:
    """Read one frame [H, W, 3] uint8 RGB, of any size."""
    rgb = frame.astype(np.float32) / 255
    value, low = rgb.max(-1), rgb.min(-1)
    body = (value > DARKEST) & ((value - low) / np.maximum(value, 1e-6) > SATURATION)
    area = float(body.mean())
    if area < SMALLEST_AREA:
        return Reading(False, None, None, area)
    rows, columns = np.nonzero(body)
    centre = (float(columns.mean() + 0.5) / frame.shape[1], float(rows.mean() + 0.5) / frame.shape[0])
    return Reading(True, _dominant_colour(rgb[body]), centre, area)


def _dominant_colour(pixels: NDArray[np.float32]) -> str:
    """The named hue that most of `pixels` [N, 3] are nearest to, on the circle of hues."""
    hues = _hue_degrees(pixels)
    names = list(COLOURS)
    away = np.abs(hues[:, None] - np.array([COLOURS[name] for name in names])[None])
    nearest = np.minimum(away, 360 - away).argmin(1)
    return names[int(np.bincount(nearest, minlength=len(names)).argmax())]


def _hue_degrees(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hue of RGB pixels [N, 3], in degrees (the hexagon formula of HSV)."""
    red, green, blue = pixels.T
    high, low = pixels.max(1), pixels.min(1)
    spread = np.maximum(high - low, 1e-6)
    hue = np.where(
        high == red,
        (green - blue) / spread % 6,
        np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return 60 * hue
