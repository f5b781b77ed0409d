"""The six places of tiny-world: pale still pictures with a ground line for characters to stand on.

They are wider than the screen, so that the camera can pan. What can't be prompted (horizon, hills, clouds, props,
light) follows from the number of the variation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.grammar import PLACES

MARGIN = 0.125
"""How far the picture extends beyond each side of the screen, as a fraction of the screen's side."""
GROUND = 0.82
"""Where characters stand, as a fraction of the screen's height."""

_Painter = Callable[["_Canvas", np.random.Generator], None]


class _Canvas:
    """A picture being painted back to front, in 0..1 RGB, with coordinates in fractions of the screen's side."""

    def __init__(self, size_px: int, top: tuple[float, ...], bottom: tuple[float, ...]) -> None:
        axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
        extra = round(MARGIN * size_px)
        self.x = ((np.arange(size_px + 2 * extra, dtype=np.float32) - extra + 0.5) / size_px)[None, :]
        self.y = axis[:, None]
        ramp = self.y[..., None]
        self.soft = 2.0 / size_px
        self.rgb = np.broadcast_to(
            np.asarray(top, np.float32) * (1 - ramp) + np.asarray(bottom, np.float32) * ramp, (*self._shape(), 3)
        ).copy()

    def _shape(self) -> tuple[int, int]:
        return self.y.shape[0], self.x.shape[1]

    def paint(self, distance: NDArray, colour: tuple[float, ...], opacity: float = 1.0) -> None:
        """Fill where `distance` (in fractions of the side) is negative, with a soft edge."""
        cover = opacity * np.clip(0.5 - distance / self.soft, 0, 1)[..., None]
        self.rgb = self.rgb * (1 - cover) + cover * np.asarray(colour, np.float32)

    def ground(self, line: NDArray | float, top: tuple[float, ...], bottom: tuple[float, ...]) -> None:
        """Fill everything below `line` with a vertical gradient."""
        depth = np.clip((self.y - line) / 0.45, 0, 1)
        cover = np.clip(0.5 - (line - self.y) / self.soft, 0, 1) * np.ones(self._shape(), np.float32)
        cover = cover[..., None]
        shade = np.asarray(top, np.float32) * (1 - depth[..., None]) + np.asarray(bottom, np.float32) * depth[..., None]
        self.rgb = self.rgb * (1 - cover) + cover * shade

    def hill(self, centre: float, height: float, width: float, base: float, colour: tuple[float, ...]) -> None:
        """Paint a smooth bump on the line `base`."""
        top = base - height * np.exp(-(((self.x - centre) / width) ** 2))
        self.paint(top - self.y, colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: tuple[float, ...], opacity: float = 1.0) -> None:
        """Paint an ellipse."""
        away = np.sqrt(((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2)
        self.paint((away - 1) * min(rx, ry), colour, opacity)

    def box(self, left: float, right: float, top: float, bottom: float, colour: tuple[float, ...]) -> None:
        """Paint a rectangle."""
        self.paint(np.maximum(np.maximum(left - self.x, self.x - right),
                              np.maximum(top - self.y, self.y - bottom)), colour)  # fmt: skip


def _clouds(canvas: _Canvas, rng: np.random.Generator, colour: tuple[float, ...], count: int = 2) -> None:
    for _ in range(int(rng.integers(0, count + 1))):
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.22)
        canvas.disc(x, y, 0.13, 0.045, colour, 0.9)
        canvas.disc(x + 0.04, y - 0.03, 0.07, 0.045, colour, 0.9)


def _bush(canvas: _Canvas, x: float, line: float, colour: tuple[float, ...]) -> None:
    canvas.disc(x, line, 0.10, 0.075, colour)
    canvas.disc(x + 0.05, line - 0.05, 0.065, 0.06, colour)


def _meadow(canvas: _Canvas, rng: np.random.Generator) -> None:
    _clouds(canvas, rng, (0.97, 0.97, 0.97))
    line = 0.62 + rng.uniform(-0.04, 0.04)
    canvas.hill(rng.uniform(0.1, 0.9), 0.16, 0.3, line, (0.76, 0.83, 0.75))
    canvas.ground(line, (0.78, 0.87, 0.73), (0.70, 0.82, 0.65))
    if rng.random() < 0.6:
        _bush(canvas, rng.uniform(0.05, 0.95), line, (0.62, 0.75, 0.60))


def _desert(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.disc(rng.uniform(0.15, 0.85), 0.15, 0.075, 0.075, (0.99, 0.97, 0.90))
    line = 0.60 + rng.uniform(-0.04, 0.04)
    canvas.hill(rng.uniform(0.0, 1.0), 0.12, 0.35, line, (0.86, 0.80, 0.71))
    canvas.ground(line, (0.91, 0.85, 0.74), (0.86, 0.78, 0.66))
    if rng.random() < 0.6:  # a cactus
        x = rng.uniform(0.05, 0.95)
        canvas.box(x - 0.035, x + 0.035, line - 0.16, line + 0.05, (0.68, 0.74, 0.62))
        canvas.box(x + 0.03, x + 0.11, line - 0.09, line - 0.03, (0.68, 0.74, 0.62))


def _beach(canvas: _Canvas, rng: np.random.Generator) -> None:
    _clouds(canvas, rng, (0.98, 0.98, 0.97))
    sea = 0.46 + rng.uniform(-0.04, 0.04)
    canvas.ground(sea, (0.66, 0.76, 0.80), (0.76, 0.84, 0.86))
    if rng.random() < 0.5:  # an island
        canvas.hill(rng.uniform(0.0, 1.0), 0.09, 0.16, sea + 0.01, (0.76, 0.80, 0.74))
    shore = 0.66 + 0.03 * np.sin(2 * np.pi * (canvas.x * 0.8 + rng.uniform()))
    canvas.ground(shore, (0.94, 0.91, 0.83), (0.89, 0.84, 0.74))


def _snow(canvas: _Canvas, rng: np.random.Generator) -> None:
    line = 0.62 + rng.uniform(-0.04, 0.04)
    for _ in range(2):
        centre, height = rng.uniform(0, 1), rng.uniform(0.22, 0.34)
        peak = line - height + np.abs(canvas.x - centre) * 0.9
        canvas.paint(peak - canvas.y, (0.70, 0.74, 0.79))
        canvas.paint(np.maximum(peak - canvas.y, canvas.y - (line - height + 0.09)), (0.93, 0.95, 0.97))
    canvas.ground(line, (0.95, 0.96, 0.98), (0.88, 0.91, 0.95))
    if rng.random() < 0.6:  # a fir
        x = rng.uniform(0.05, 0.95)
        slope = np.abs(canvas.x - x) * 2.2 - (canvas.y - line + 0.22)
        canvas.paint(np.maximum(slope * 0.4, canvas.y - line - 0.02), (0.64, 0.72, 0.69))


def _city(canvas: _Canvas, rng: np.random.Generator) -> None:
    line = 0.66 + rng.uniform(-0.04, 0.04)
    left = -MARGIN - rng.uniform(0, 0.12)
    while left < 1 + MARGIN:
        width, top = rng.uniform(0.16, 0.26), rng.uniform(0.2, 0.45)
        grey = rng.uniform(0.56, 0.68)
        canvas.box(left, left + width - 0.01, top, 1.0, (grey, grey + 0.01, grey + 0.04))
        canvas.box(left + 0.045, left + 0.105, top + 0.07, top + 0.14, (0.86, 0.84, 0.77))
        left += width
    canvas.ground(line, (0.66, 0.66, 0.68), (0.58, 0.58, 0.61))


def _forest(canvas: _Canvas, rng: np.random.Generator) -> None:
    line = 0.66 + rng.uniform(-0.04, 0.04)
    offset = rng.uniform(-0.1, 0.1)
    for index in range(-1, 5):
        x = 0.12 + 0.27 * index + offset + rng.uniform(-0.04, 0.04)
        tone = rng.uniform(-0.03, 0.03)
        canvas.box(x - 0.032, x + 0.032, 0.2, line + 0.02, (0.60, 0.55, 0.51))
        canvas.disc(x, 0.20, 0.15, 0.17 + rng.uniform(-0.03, 0.03), (0.60 + tone, 0.69 + tone, 0.61 + tone))
    canvas.ground(line, (0.69, 0.74, 0.64), (0.60, 0.65, 0.56))


_PAINTERS: dict[str, tuple[_Painter, tuple[float, ...], tuple[float, ...]]] = {
    "meadow": (_meadow, (0.78, 0.87, 0.94), (0.93, 0.96, 0.97)),
    "desert": (_desert, (0.90, 0.90, 0.90), (0.97, 0.93, 0.86)),
    "beach": (_beach, (0.80, 0.89, 0.95), (0.96, 0.96, 0.95)),
    "snow": (_snow, (0.78, 0.82, 0.87), (0.91, 0.93, 0.95)),
    "city": (_city, (0.80, 0.81, 0.86), (0.92, 0.89, 0.88)),
    "forest": (_forest, (0.82, 0.88, 0.86), (0.90, 0.93, 0.88)),
}
assert set(_PAINTERS) == set(PLACES)


@lru_cache(maxsize=256)
def place_image(name: str, variation: int, size_px: int = 64) -> NDArray[np.float32]:
    """Paint the still picture of a place, `MARGIN` wider than the screen on each side.

    Returns:
        [size_px, size_px (1 + 2 MARGIN), 3] float32 RGB in 0..1 (cached: do not write to it).
    """
    if name not in _PAINTERS:
        raise ValueError(f"unknown place {name!r}; known: {', '.join(_PAINTERS)}")
    painter, top, bottom = _PAINTERS[name]
    rng = np.random.default_rng(variation)
    canvas = _Canvas(size_px, top, bottom)
    painter(canvas, rng)
    return np.clip(canvas.rgb * rng.uniform(0.94, 1.03), 0, 1).astype(np.float32)
