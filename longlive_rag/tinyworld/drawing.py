"""How a character of tiny-world looks: its outline, pattern, eyes, hat and bag, drawn with soft-edged coverage.

Lengths are in radii of the body unless they say pixels: `u` points right, `v` down, the feet are at `v = 1`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.grammar import COLOURS, SHAPES

TINTS_DEGREES: tuple[float, ...] = (-9.0, 0.0, 9.0)
"""Hidden trait `tint`: how far a body's hue is from its colour's nominal hue."""
PATTERNS: tuple[str, ...] = ("plain", "belly", "band", "split")
HATS: tuple[str, ...] = ("none", "tall", "flat")
BAGS: tuple[str, ...] = ("none", "bag")
SIZES_PX: tuple[float, ...] = (19.0, 23.5, 28.0)
"""Hidden trait `size`: width of the body."""
HIDDEN_VALUES: dict[str, tuple[str, ...] | tuple[float, ...]] = {
    "tint": TINTS_DEGREES, "size": SIZES_PX, "pattern": PATTERNS, "hat": HATS, "bag": BAGS
}  # fmt: skip
"""Values of each hidden trait; no prompt can name them."""
EDGE_PX = 2.0
REACH_PX = 22.0
"""No part of a character extends further to the side of its middle."""

WIDEST_RADII, TALLEST_RADII = 1.4, 1.9
"""How far a bag extends to the side of the body's middle, and a hat above it, in radii."""

_SATURATION, _BRIGHT, _DARK_HUES_VALUE = 0.86, 0.93, 0.80
_HAT_RGB, _BAG_RGB, _EYE, _PUPIL = (0.17, 0.16, 0.20), (0.30, 0.23, 0.19), 0.97, 0.10
# Where eyes and hats sit: lower in outlines that are narrow at the top.
_EYE_LINE = {"circle": -0.15, "square": -0.15, "triangle": 0.10}
_HAT_LINE = {"circle": -0.90, "square": -0.92, "triangle": -0.66}


@dataclass(frozen=True)
class Character:
    """A character: `shape` and `colour` can be prompted, the rest is hidden. `tint` is in degrees of hue."""

    shape: str
    colour: str
    tint: float = 0.0
    size_px: float = 23.5
    pattern: str = "plain"
    hat: str = "none"
    bag: str = "none"

    def rgb(self) -> NDArray[np.float32]:
        """Return the body colour, [3] in 0..1."""
        value = _DARK_HUES_VALUE if self.colour in ("green", "blue", "purple") else _BRIGHT
        hue = (COLOURS[self.colour] + self.tint) % 360.0
        return np.asarray(colorsys.hsv_to_rgb(hue / 360.0, _SATURATION, value), np.float32)


def sample_character(rng: np.random.Generator, colour: str | None = None, shape: str | None = None) -> Character:
    """Draw a character with random hidden traits, and a random colour and shape unless given."""
    return Character(
        shape=shape or str(rng.choice(SHAPES)),
        colour=colour or str(rng.choice(list(COLOURS))),
        tint=float(rng.choice(TINTS_DEGREES)),
        size_px=float(rng.choice(SIZES_PX)),
        pattern=str(rng.choice(PATTERNS)),
        hat=str(rng.choice(HATS)),
        bag=str(rng.choice(BAGS)),
    )


def composite(
    frames: NDArray, who: Character, x: NDArray, y: NDArray, facing: NDArray, stretch: NDArray, ground_px: float
) -> None:
    """Draw one character and its shadow onto `frames` [F, H, W, 3] in 0..1, in place.

    Args:
        frames: [F, H, W, 3] in 0..1.
        who: the character.
        x, y: [F], its middle and the height of its feet above the ground, in pixels.
        facing: [F], -1 (left) to 1 (right).
        stretch: [F], 1 at rest; a taller body is narrower.
        ground_px: row of the ground line.
    """
    left, right = max(0, int(x.min() - REACH_PX)), min(frames.shape[2], int(x.max() + REACH_PX) + 1)
    if left >= right:
        return
    frames = frames[:, :, left:right]
    x, y, facing, stretch = (each[:, None, None].astype(np.float32) for each in (x, y, facing, stretch))
    columns = np.arange(left, right, dtype=np.float32)[None, None, :] + 0.5
    rows = np.arange(frames.shape[1], dtype=np.float32)[None, :, None] + 0.5
    radius = who.size_px / 2
    shadow = np.sqrt(((columns - x) / (radius * (0.95 - 0.02 * y))) ** 2 + ((rows - ground_px) / (0.3 * radius)) ** 2)
    frames *= 1 - 0.25 * np.clip((1.25 - shadow) / 0.5, 0, 1)[..., None]
    u = (columns - x) / radius * stretch
    v = (rows - (ground_px - y - radius * stretch)) / radius / stretch
    _blend(frames, coverage(outline(who.shape, u, v) * radius), body_colours(who, u, v, facing))
    if who.hat != "none":
        _blend(frames, coverage(hat_distance(who, u, v) * radius), _HAT_RGB)
    if who.bag != "none":
        _blend(frames, coverage(bag_distance(u, v, facing) * radius), _BAG_RGB)


def body_colours(who: Character, u: NDArray, v: NDArray, facing: NDArray | float) -> NDArray[np.float32]:
    """Return the painted body, [..., 3]: base colour and light, pattern, then two eyes on the side that it faces."""
    radius = who.size_px / 2
    light = np.clip(1.0 - 0.12 * (v + 0.3 * u), 0.82, 1.12)
    colour = np.minimum(who.rgb() * light[..., None], 1.0)
    if who.pattern == "belly":
        belly = coverage((np.sqrt(u**2 + (v - 0.52) ** 2) - 0.44) * radius)[..., None]
        colour = colour + belly * (0.45 * (1 - colour))
    elif who.pattern == "band":
        band = coverage((np.abs(v - 0.46) - 0.24) * radius)[..., None]
        colour = colour * (1 - 0.52 * band)
    elif who.pattern == "split":
        colour = colour * (1 - 0.48 * coverage(u * radius + 0 * v)[..., None])
    for side in (-1.0, 1.0):
        eye_u, eye_v = u - (0.26 * facing + 0.30 * side), v - _EYE_LINE[who.shape]
        white = coverage((np.sqrt(eye_u**2 + (eye_v / 1.25) ** 2) - 0.27) * radius)[..., None]
        pupil = coverage((np.sqrt((eye_u - 0.08 * facing) ** 2 + eye_v**2) - 0.16) * radius)[..., None]
        colour = colour * (1 - white) + white * _EYE
        colour = colour * (1 - pupil) + pupil * _PUPIL
    return colour.astype(np.float32)


def outline(shape: str, u: NDArray, v: NDArray) -> NDArray:
    """Return the approximate signed distance to a shape of radius 1, whose bottom is at v = 1."""
    if shape == "circle":
        return np.sqrt(u**2 + v**2) - 1.0
    if shape == "square":
        a, b = np.abs(u) - 0.82, np.abs(v) - 0.88
        return np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2) + np.minimum(np.maximum(a, b), 0) - 0.12
    if shape == "triangle":
        return np.maximum(np.abs(u) * 0.87 - (v + 1.05) * 0.49, v - 0.95)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def hat_distance(who: Character, u: NDArray, v: NDArray) -> NDArray:
    """Return the signed distance to the hat: `tall` is a narrow crown, `flat` a wide brim."""
    line = _HAT_LINE[who.shape]
    if who.hat == "tall":
        return _box(u, v, 0.42, line - 0.95, line)
    if who.hat == "flat":
        return _box(u, v, 0.85, line - 0.42, line + 0.04)
    raise ValueError(f"a hat must be one of {', '.join(HATS)}, not {who.hat!r}")


def bag_distance(u: NDArray, v: NDArray, facing: NDArray | float) -> NDArray:
    """Return the signed distance to the bag, carried on the side that the body faces."""
    return _box(u - 0.98 * facing, v, 0.40, 0.08, 0.90)


def coverage(distance_px: NDArray) -> NDArray:
    """Convert signed distance in pixels (negative inside) to coverage 0..1 with a soft edge."""
    return np.clip(0.5 - distance_px / EDGE_PX, 0.0, 1.0)


def _box(u: NDArray, v: NDArray, half_width: float, top: float, bottom: float) -> NDArray:
    return np.maximum(np.abs(u) - half_width, np.maximum(top - v, v - bottom))


def _blend(frames: NDArray, cover: NDArray, colour: NDArray | tuple[float, ...]) -> None:
    frames *= 1 - cover[..., None]
    frames += cover[..., None] * np.asarray(colour, np.float32)
