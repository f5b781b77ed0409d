"""How much the subject itself moves, since a frozen subject in front of a moving background is still frozen.

This needs an embedder that can tell which pixels are the subject's. The change of luma between successive embedded
frames is measured where the subject is in either: a subject that walks, turns or breathes changes there, whatever the
rest of the picture does; one that stands still does not, whatever moves behind it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.companions import LUMA, VISIBLE
from eval.drift import Floats
from eval.windows import LAST_S, within

SMALLEST_SUBJECT = 0.01  # of the picture; less is noise


@runtime_checkable
class MaskingEmbedder(Protocol):
    """An embedder that knows where the subject is."""

    def masks(self, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map frames [N, H, W, 3] to masks [N, h, w], of any size, True where the subject is."""
        ...


class SubjectMeter:
    """Gathers the subject's own motion from the embedded frames of a video, in order."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._last: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None

    def add(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
        """Add the next frames [N, H, W, 3] with the subject's masks [N, h, w]."""
        for frame, mask in zip(frames, masks, strict=True):
            size = (mask.shape[1], mask.shape[0])
            small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX), np.float32) / 255
            luma = (small @ LUMA).astype(np.float32)
            self._values.append(self._change(luma, mask))
            self._last = luma, mask

    def _change(self, luma: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
        if self._last is None or min(mask.mean(), self._last[1].mean()) < SMALLEST_SUBJECT:
            return np.nan
        change = np.abs(luma - self._last[0])[mask | self._last[1]]
        return float(np.maximum(change - VISIBLE, 0).mean())

    def moving(self) -> Floats:
        """Mean visible change of the subject's pixels since the previous embedded frame, [E], 0..1; NaN if the subject
        is not seen in both."""
        return np.array(self._values, np.float64)


def subject_figures(moving: Floats, seconds: Floats, end_s: float) -> dict[str, float]:
    """Mean up to `end_s`, and over the last 5 s before it; NaN if the subject is never seen."""
    spans = {"subject_moving": (0.0, end_s), "last_subject_moving": (end_s - LAST_S, end_s)}
    inside = {name: moving[within(seconds, span)] for name, span in spans.items()}
    return {name: float(np.nanmean(each)) if not np.isnan(each).all() else np.nan for name, each in inside.items()}
