"""A classical reader of tiny-world's pictures: who is there, where, and with which traits.

It knows the world's rules (characters are saturated, places pale; the look of outlines, hats and bags) but no model. It
uses segmentation, moments, a histogram of hues, and templates. Every answer has a confidence; one below its threshold
counts as *unsure*.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.drawing import (
    BAGS,
    HATS,
    HIDDEN_VALUES,
    PATTERNS,
    SIZES_PX,
    TINTS_DEGREES,
    Character,
    bag_distance,
    body_colours,
    composite,
    coverage,
    hat_distance,
    outline,
)  # fmt: skip
from longlive_rag.tinyworld.grammar import COLOURS, PLACES, SHAPES
from longlive_rag.tinyworld.motion import SIZE_PX
from longlive_rag.tinyworld.scenery import MARGIN, place_image
from longlive_rag.tinyworld.world import LONGEST_PAN_PX, PLACE_VARIATIONS

SATURATION, DARKEST = 0.36, 0.34  # places stay below 0.3 in saturation, hats and bags below 0.34 in value
SMALLEST_AREA_PX = 45  # the smallest body covers about 150
WIDEST_BODY_PX = 34
WIDEST_SMEARED_PX = 42  # of bodies that walk; two that overlap are wider
WINDOW_PX = 40
HIDDEN_TRAITS: tuple[str, ...] = tuple(HIDDEN_VALUES)
"""Traits that no prompt can name."""

_HANDS = (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)
_FACINGS, _STRETCHES = (-1.0, 0.0, 1.0), (0.96, 1.0, 1.04)
_COARSE_PX, _PAN_STEP_PX, _PLACE_THRESHOLD = 4, 2, 0.1
_PLACEHOLDER = "red"  # templates are masks, so their colour does not matter
_SHIFTS = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1))


@dataclass(frozen=True)
class Trait:
    """An answer and its confidence, from 0 (a guess) to 1; it is `sure` from the trait's threshold on."""

    value: str | float
    confidence: float
    sure: bool


@dataclass(frozen=True)
class Sighting:
    """One character in one frame.

    Attributes:
        centre: (x, y) of the body in fractions of the picture.
        area_px: number of saturated pixels.
        cut_off: whether the picture's edge cuts it off; then nothing about it is sure.
        facing: -1 (left), 0 or 1 (right), by its eyes.
        shape, colour, tint, size, pattern, hat, bag: as in `drawing.Character`.
    """

    centre: tuple[float, float]
    area_px: int
    cut_off: bool
    facing: float
    shape: Trait
    colour: Trait
    tint: Trait
    size: Trait
    pattern: Trait
    hat: Trait
    bag: Trait


TRAITS: tuple[str, ...] = tuple(each.name for each in fields(Sighting) if each.type == "Trait")
# Confidence from which an answer counts as sure; chosen on renders of scripts that no reported figure uses.
_THRESHOLDS = {"shape": 0.10, "colour": 0.15, "tint": 0.10, "size": 0.10, "pattern": 0.15, "hat": 0.15, "bag": 0.15}


def true_value(who: Character, trait: str) -> str | float:
    """Return the value of one of `TRAITS` that a character has."""
    value: str | float = who.size_px if trait == "size" else getattr(who, trait)
    return value


def read_frame(frame: NDArray[np.uint8]) -> tuple[Sighting, ...]:
    """Read one frame [64, 64, 3] uint8 RGB; return its characters from left to right."""
    if frame.shape != (SIZE_PX, SIZE_PX, 3):
        raise ValueError(f"the picture is {list(frame.shape)}; those of tiny-world are [{SIZE_PX}, {SIZE_PX}, 3]")
    rgb: NDArray[np.float32] = (frame / 255).astype(np.float32)
    body = _saturated(rgb)
    return tuple(_sighting(rgb, body, columns) for columns in _bodies(body))


def count_bodies(frame: NDArray[np.uint8]) -> int:
    """Return how many characters are in a frame [64, 64, 3] uint8 RGB, including those that the edge cuts off."""
    return len(_bodies(read_mask(frame), WIDEST_SMEARED_PX))


def read_mask(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where bodies are in a frame [64, 64, 3] uint8 RGB, as [64, 64], without hats, bags and eyes."""
    return _saturated((frame / 255).astype(np.float32))


def _saturated(rgb: NDArray[np.float32]) -> NDArray[np.bool_]:
    value, low = _extremes(rgb)
    return (value > DARKEST) & ((value - low) / np.maximum(value, 1e-6) > SATURATION)


def read_place(frame: NDArray[np.uint8]) -> Trait:
    """Read the place of a frame [64, 64, 3] uint8 RGB: the one whose pictures, however panned, differ least from it."""
    rgb: NDArray[np.float32] = (frame / 255).astype(np.float32)
    value, low = _extremes(rgb)
    pale = (value > DARKEST) & ((value - low) / np.maximum(value, 1e-6) < SATURATION)
    weight = _coarse(pale[..., None].astype(np.float32))
    seen = _coarse(rgb * pale[..., None]) / np.maximum(weight, 1e-6)
    pictures, names = _places()
    errors = (np.abs(pictures - seen) * weight).sum((1, 2, 3)) / max(float(weight.sum()), 1e-6)
    by_name = {name: float(errors[names == name].min()) for name in PLACES}
    first, second = sorted(by_name, key=by_name.__getitem__)[:2]
    margin = 1 - by_name[first] / max(by_name[second], 1e-9)
    return Trait(first, margin, margin >= _PLACE_THRESHOLD)


@lru_cache(maxsize=1)
def _places() -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return coarse pictures [N, h, w, 3] of every place, variation and pan, and their names [N]."""
    pans = range(-int(LONGEST_PAN_PX), int(LONGEST_PAN_PX) + 1, _PAN_STEP_PX)
    pictures, names = [], []
    for name, variation in product(PLACES, range(PLACE_VARIATIONS)):
        wide = place_image(name, variation, SIZE_PX)
        for pan in pans:
            left = round(MARGIN * SIZE_PX) + pan
            pictures.append(_coarse(wide[:, left : left + SIZE_PX]))
            names.append(name)
    return np.stack(pictures), np.array(names)


def _coarse(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average over squares of side s: [H, W, C] to [H / s, W / s, C]."""
    side = SIZE_PX // _COARSE_PX
    return picture.reshape(side, _COARSE_PX, side, _COARSE_PX, -1).mean((1, 3))


def _bodies(body: NDArray[np.bool_], widest_px: int = WIDEST_BODY_PX) -> list[slice]:
    """Return the column ranges of the mask that hold one character each; a run wider than `widest_px` holds two."""
    profile = body.sum(0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], profile > 0, [0]]).astype(np.int8)))
    found = []
    for left, right in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if right - left > widest_px:  # two that touch each other
            third = (right - left) // 3
            cut = left + third + int(profile[left + third : right - third].argmin())
            found += [slice(left, cut), slice(cut, right)]
        else:
            found.append(slice(left, right))
    return [columns for columns in found if profile[columns].sum() >= SMALLEST_AREA_PX]


@dataclass(frozen=True)
class _Bank:
    """Masks of every outline, size, facing, stretch, hat and bag, centred on their centroid."""

    masks: NDArray[np.float32]  # [N, WINDOW_PX ** 2]
    areas: NDArray[np.float32]  # [N]
    shapes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    facing: NDArray[np.float32]
    stretch: NDArray[np.float32]
    offset: NDArray[np.float32]  # [N, 2] (x, y) from the window's middle to the body's


@lru_cache(maxsize=1)
def _bank() -> _Bank:
    masks, numbers, poses = [], [], []
    middle = SIZE_PX / 2
    for shape, size, facing, stretch, hat, bag in product(SHAPES, SIZES_PX, _FACINGS, _STRETCHES, HATS, BAGS):
        who = Character(shape, _PLACEHOLDER, 0.0, size, "plain", hat, bag)
        picture = np.full((1, SIZE_PX, SIZE_PX, 3), 0.8, np.float32)
        ground = middle + size / 2 * stretch
        at_x, at_y, turned, stretched = (np.array([number], np.float32) for number in (middle, 0.0, facing, stretch))
        composite(picture, who, at_x, at_y, turned, stretched, ground)
        value, low = _extremes(picture[0])
        mask = (value > DARKEST) & ((value - low) / value > SATURATION)
        window, (x, y) = _window(mask)
        masks.append(window.ravel())
        numbers.append((SHAPES.index(shape), SIZES_PX.index(size)))
        poses.append((facing, stretch, middle - x, middle - y))
    index, pose = np.array(numbers), np.array(poses, np.float32)
    flat = np.array(masks, np.float32)
    return _Bank(flat, flat.sum(1), index[:, 0], index[:, 1], pose[:, 0], pose[:, 1], pose[:, 2:])


def _window(mask: NDArray[np.bool_], shift: tuple[int, int] = (0, 0)) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Cut out the mask around its centroid (moved by `shift`); also return the window's middle (x, y)."""
    rows, columns = np.nonzero(mask)
    x, y = round(columns.mean() + 0.5) + shift[0], round(rows.mean() + 0.5) + shift[1]
    half = WINDOW_PX // 2
    padded = np.pad(mask, half)
    return padded[y : y + WINDOW_PX, x : x + WINDOW_PX], (x, y)


def _sighting(rgb: NDArray[np.float32], body: NDArray[np.bool_], columns: slice) -> Sighting:
    alone = np.zeros_like(body)
    alone[:, columns] = body[:, columns]
    cut_off = columns.start == 0 or columns.stop == body.shape[1]
    bank = _bank()
    windows, middles = zip(*[_window(alone, shift) for shift in _SHIFTS], strict=True)
    seen = np.array([window.ravel() for window in windows], np.float32)
    common = seen @ bank.masks.T
    overlap = common / (seen.sum(1)[:, None] + bank.areas[None] - common)
    score = overlap.max(0)
    best = int(score.argmax())
    x, y = np.asarray(middles[int(overlap[:, best].argmax())]) + bank.offset[best]

    def answer(name: str, value: str | float, confidence: float) -> Trait:
        return Trait(value, confidence, not cut_off and confidence >= _THRESHOLDS[name])

    shape, size = int(bank.shapes[best]), int(bank.sizes[best])
    shape_margin = score[best] - score[bank.shapes != shape].max()
    size_margin = score[best] - score[(bank.shapes == shape) & (bank.sizes != size)].max()
    colour, tint, colour_margin, tint_margin = _read_hue(rgb[alone])
    who = Character(SHAPES[shape], colour, tint, SIZES_PX[size])
    pose = _Pose.of(x, y, who.size_px / 2, float(bank.stretch[best]), float(bank.facing[best]))
    hat, hat_margin = _read_hat(rgb, who, pose)
    bag, bag_margin = _read_bag(rgb, pose)
    pattern, pattern_margin = _read_pattern(rgb, who, pose, alone)
    return Sighting(
        (float(x) / SIZE_PX, float(y) / SIZE_PX), int(alone.sum()), cut_off, pose.facing,
        shape=answer("shape", who.shape, min(1.0, 10 * shape_margin)), colour=answer("colour", colour, colour_margin),
        tint=answer("tint", tint, tint_margin), size=answer("size", who.size_px, min(1.0, 10 * size_margin)),
        pattern=answer("pattern", pattern, pattern_margin), hat=answer("hat", hat, hat_margin),
        bag=answer("bag", bag, bag_margin),
    )  # fmt: skip


@dataclass(frozen=True)
class _Pose:
    """Body coordinates of every pixel, as `drawing` uses them."""

    u: NDArray[np.float32]
    v: NDArray[np.float32]
    radius: float
    facing: float

    @classmethod
    def of(cls, x: float, y: float, radius: float, stretch: float, facing: float) -> _Pose:
        axis = np.arange(SIZE_PX, dtype=np.float32) + 0.5
        u = np.broadcast_to((axis - x)[None] / radius * stretch, (SIZE_PX, SIZE_PX))
        v = np.broadcast_to((axis - y)[:, None] / radius / stretch, (SIZE_PX, SIZE_PX))
        return cls(u, v, radius, facing)


def _read_hue(pixels: NDArray[np.float32]) -> tuple[str, float, float, float]:
    """Read (colour, tint, confidence of each) from body pixels [N, 3]: the named hue closest to their mean."""
    spread = pixels.max(1) - pixels.min(1)
    strong = spread >= np.median(spread)
    angles = np.deg2rad(_hue_degrees(pixels[strong]))
    nominal = np.array(list(COLOURS.values()))
    votes = np.abs((np.rad2deg(angles)[:, None] - nominal + 180) % 360 - 180).argmin(1)
    named = int(np.bincount(votes, minlength=len(nominal)).argmax())
    own = angles[votes == named]
    hue = np.rad2deg(np.arctan2(np.sin(own).mean(), np.cos(own).mean()))
    away = (hue - nominal[named] + 180) % 360 - 180
    distances = np.sort(np.abs(away - np.array(TINTS_DEGREES)))
    tint = TINTS_DEGREES[int(np.abs(away - np.array(TINTS_DEGREES)).argmin())]
    gap = TINTS_DEGREES[1] - TINTS_DEGREES[0]
    tint_margin = float(np.clip((distances[1] - distances[0]) / gap, 0, 1))
    return list(COLOURS)[named], tint, float(2 * (votes == named).mean() - 1), tint_margin


def _read_hat(rgb: NDArray[np.float32], who: Character, pose: _Pose) -> tuple[str, float]:
    """Read the hat from how dark it is where only a tall one would be, and where only a flat one would be."""
    covers = {hat: coverage(hat_distance(replace(who, hat=hat), pose.u, pose.v) * pose.radius) for hat in HATS[1:]}
    tall = _darkness(rgb, covers["tall"] * (1 - covers["flat"]))
    flat = _darkness(rgb, covers["flat"] * (1 - covers["tall"]))
    found = "none" if max(tall, flat) < 0.5 else "tall" if tall >= flat else "flat"
    margin = 2 * (0.5 - max(tall, flat)) if found == "none" else min(2 * (max(tall, flat) - 0.5), abs(tall - flat))
    return found, float(np.clip(margin, 0, 1))


def _read_bag(rgb: NDArray[np.float32], pose: _Pose) -> tuple[str, float]:
    """Read the bag from how dark it is at the hand, wherever that is, as the body may be turning."""
    hands = [coverage(bag_distance(pose.u, pose.v, facing) * pose.radius) for facing in _HANDS]
    dark = max(_darkness(rgb, hand, grey=True) for hand in hands)
    return BAGS[int(dark >= 0.5)], float(np.clip(2 * abs(dark - 0.5), 0, 1))


def _darkness(rgb: NDArray[np.float32], where: NDArray[np.float32], grey: bool = False) -> float:
    """Return how dark it is, 0 to 1, weighted by `where`; 0.5 (unknown) if that is outside the picture.

    Args:
        rgb: the picture [H, W, 3].
        where: weights [H, W].
        grey: whether to count only what has little colour, because the shaded half of a body is dark, too.
    """
    weight = float(where.sum())
    if weight < 1.0:
        return 0.5
    high, low = _extremes(rgb)
    dark = np.clip((0.56 - high) / 0.22, 0, 1)
    if grey:
        dark *= np.clip((0.32 - (high - low)) / 0.12, 0, 1)
    return float((where * dark).sum() / weight)


def _read_pattern(rgb: NDArray[np.float32], who: Character, pose: _Pose, body: NDArray[np.bool_]) -> tuple[str, float]:
    """Read the pattern: the one whose drawing, fitted in brightness, differs least from what is seen."""
    inside = body & (outline(who.shape, pose.u, pose.v) * pose.radius < -0.5)
    if inside.sum() < SMALLEST_AREA_PX / 2:
        return PATTERNS[0], 0.0
    seen, errors = rgb[inside], []
    for pattern in PATTERNS:
        painted = body_colours(replace(who, pattern=pattern), pose.u[inside], pose.v[inside], pose.facing)
        gain = (seen * painted).sum() / (painted**2).sum()
        errors.append(float(((seen - gain * painted) ** 2).mean()))
    order = np.argsort(errors)
    margin = 1 - errors[order[0]] / max(errors[order[1]], 1e-9)
    return PATTERNS[int(order[0])], float(np.clip(margin, 0, 1))


def _extremes(rgb: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the highest and lowest channel [H, W] of [H, W, 3]; much faster than reducing the last axis."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def _hue_degrees(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the hue of RGB pixels [N, 3] in degrees (the hexagon formula of HSV)."""
    red, green, blue = pixels.T
    high, low = pixels.max(1), pixels.min(1)
    spread = np.maximum(high - low, 1e-6)
    hue = np.where(
        high == red,
        (green - blue) / spread % 6,
        np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return 60 * hue
