"""Figures reported alongside drift, because a frozen, copied or fading video must not win.

All are computed from small versions of the frames (antialiased, BT.601 luma), so that they hardly depend on resolution;
none needs a model. They compare arms of one comparison and are not the figures of papers, whose imaging quality is
MUSIQ and whose dynamic degree is optical flow.

    motion      mean absolute change of luma from frame to frame, 0..1; also of the last 5 s alone
    moving      the same for visible changes only: changes of up to 4 grey levels don't count
    exposure    mean luma, 0..1
    saturation  mean of (max - min) over the channels, 0..1
    sharpness   mean absolute Laplacian of luma, 0..1
    repetition  share of seconds that repeat what an earlier second showed; also of the last 5 s alone
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.drift import Floats
from eval.windows import LAST_S, TOLERANCE_S, within

SMALL_SIDE_PX = 128  # the shorter side, for exposure, sharpness and motion
THUMBNAIL_PX = 16
SAME_PICTURE_RMS = 1.0 / 255  # of thumbnails; below it: re-encoding; above it: one step of a small character
NOISY_PICTURE_RMS, NOISY_CELL = 3.0 / 255, 16.0 / 255  # noise is small but everywhere; a step is large in a few cells
CANDIDATES = 8  # candidates compared cell by cell
VISIBLE = 4.0 / 255  # change of luma; below it: codec noise and faint flicker; above it: a moving edge
REPEAT_AFTER_S = 2.0  # frames closer in time are alike anyway
SAMPLES_PER_SECOND = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Looks:
    """Per-frame figures of a video.

    Attributes:
        motion, moving: [T] change from the previous frame, and its visible part; 0 for the first frame.
        exposure, saturation, sharpness: [T].
        thumbnails: [T, THUMBNAIL_PX**2 * 3] float32 in 0..1.
    """

    motion: Floats
    moving: Floats
    exposure: Floats
    saturation: Floats
    sharpness: Floats
    thumbnails: NDArray[np.float32]


class LooksMeter:
    """Gathers `Looks` from a stream of frames."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._thumbnails: list[NDArray[np.float32]] = []
        self._last: NDArray[np.float32] | None = None

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Add the next frames, [N, H, W, 3] uint8 RGB."""
        for frame in frames:
            picture = Image.fromarray(frame)
            small = np.asarray(_shorter_side(picture, SMALL_SIDE_PX), np.float32) / 255
            luma: NDArray[np.float32] = (small @ LUMA).astype(np.float32)
            change = np.abs(luma - (luma if self._last is None else self._last))
            motion, moving = float(change.mean()), float(np.maximum(change - VISIBLE, 0).mean())
            red, green, blue = small[..., 0], small[..., 1], small[..., 2]  # much faster than along the last axis
            highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
            saturation = float((highest - lowest).mean())
            self._rows.append((motion, moving, float(luma.mean()), saturation, _sharpness(luma)))
            thumbnail = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
            self._thumbnails.append((np.asarray(thumbnail, np.float32).ravel() / 255).astype(np.float32))
            self._last = luma

    def looks(self) -> Looks:
        """The figures of all frames so far."""
        motion, moving, exposure, saturation, sharpness = np.array(self._rows, np.float64).T
        return Looks(motion, moving, exposure, saturation, sharpness, np.stack(self._thumbnails))


def change_of(values: Floats) -> float:
    """Mean change from frame to frame over the whole video, given `motion` or `moving` [T]."""
    return float(values[1:].mean()) if len(values) > 1 else 0.0


def last_change(values: Floats, seconds: Floats, end_s: float) -> float:
    """Mean change over the last 5 s before `end_s`, to expose a freeze in the seconds at which drift is measured."""
    return float(values[within(seconds, (end_s - LAST_S, end_s))].mean())


def first_last_change(values: Floats, seconds: Floats, end_s: float) -> float:
    """|mean over the last 5 s before `end_s` - mean over the first 5 s| of a per-frame series [T].

    The form of Rolling Forcing's imaging drift (2509.25161).
    """
    first, last = values[within(seconds, (0, LAST_S))], values[within(seconds, (end_s - LAST_S, end_s))]
    return abs(float(last.mean() - first.mean()))


def repetition(looks: Looks, seconds: Floats) -> float:
    """Share of seconds whose frames, in order, equal as many frames that begin at least 2 s earlier.

    A freeze counts as repetition, as does a loop of any length, even under a little noise. Whole seconds are compared,
    by up to 8 frames each: a single similar frame, as occurs in every walk, is not a repetition. 0 for videos shorter
    than 3 s.
    """
    return _share_repeated(looks, seconds, REPEAT_AFTER_S)


def last_repetition(looks: Looks, seconds: Floats, end_s: float) -> float:
    """Repetition in the last 5 s before `end_s`, where a repeat of the opening would look like no drift."""
    return _share_repeated(looks, seconds, end_s - LAST_S)


def _share_repeated(looks: Looks, seconds: Floats, start_s: float) -> float:
    """Share of the whole seconds from `start_s` on that repeat an earlier stretch."""
    rows = looks.thumbnails.astype(np.float64)
    squares = (rows**2).sum(axis=1)
    end_s = seconds[-1] * len(seconds) / max(1, len(seconds) - 1)  # the last frame lasts as long as the others
    first = math.ceil(max(start_s, REPEAT_AFTER_S) - TOLERANCE_S)
    repeated = []
    for second in range(first, int(end_s + TOLERANCE_S)):
        chosen = _some_of(np.flatnonzero(within(seconds, (second, second + 1))))
        earlier = np.flatnonzero(seconds <= second - REPEAT_AFTER_S + TOLERANCE_S)
        if len(chosen) and len(earlier):
            frames = earlier[:, None] + (chosen - chosen[0])[None]
            products = rows[chosen] @ rows[: frames.max() + 1].T
            apart = squares[chosen] + squares[frames] - 2 * products[np.arange(len(chosen)), frames]
            repeated.append(_is_shown(rows, chosen, frames, apart.mean(axis=1) / rows.shape[1]))
    return float(np.mean(repeated)) if repeated else 0.0


def _is_shown(rows: Floats, chosen: NDArray[np.intp], frames: NDArray[np.intp], apart: Floats) -> bool:
    """Whether the `chosen` frames equal one of the stretches `frames` [N, chosen] at mean square distances [N]."""
    if apart.min() < SAME_PICTURE_RMS**2:
        return True
    near = [place for place in np.argsort(apart)[:CANDIDATES] if apart[place] < NOISY_PICTURE_RMS**2]
    return any(np.abs(rows[chosen] - rows[frames[place]]).max() < NOISY_CELL for place in near)


def _some_of(frames: NDArray[np.intp]) -> NDArray[np.intp]:
    """Pick up to `SAMPLES_PER_SECOND` of a second's frames, evenly spaced, including the first."""
    steps = np.arange(min(len(frames), SAMPLES_PER_SECOND))
    return frames[steps * len(frames) // max(1, len(steps))]


def _shorter_side(picture: Image.Image, side: int) -> Image.Image:
    scale = side / min(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def _sharpness(luma: NDArray[np.float32]) -> float:
    middle = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.abs(around / 4 - middle).mean())
