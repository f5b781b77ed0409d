"""The frames of a video that a figure is taken from: arithmetic on seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.errors import FieldError

REFERENCE_S = 1.0
OPENING_END_S = 5.0
LAST_S = 5.0
SHORTEST_HORIZON_S = OPENING_END_S + LAST_S
TOLERANCE_S = 1e-6  # frame times are rationals in binary


@dataclass(frozen=True)
class DriftWindows:
    """The three windows of the primary endpoint, in seconds of the take.

    Attributes:
        origin_s: when the subject is first seen as it should be; 0 except in scenarios that introduce it later.
    """

    origin_s: float = 0.0

    @property
    def reference(self) -> tuple[float, float]:
        """The first second, which the subject is compared with."""
        return self.origin_s, self.origin_s + REFERENCE_S

    @property
    def opening(self) -> tuple[float, float]:
        """Seconds 1 to 5."""
        return self.origin_s + REFERENCE_S, self.origin_s + OPENING_END_S

    def last(self, horizon_s: float) -> tuple[float, float]:
        """The last 5 s before the horizon."""
        return horizon_s - LAST_S, horizon_s

    def check(
        self, horizons_s: tuple[float, ...], seconds: float, frame_s: float, name: str, may_miss_s: float = 0.0
    ) -> None:
        """Check that a video of `seconds` reaches the horizons, and that windows don't overlap.

        Args:
            frame_s: duration of one frame; a video may fall short of a horizon by half of it.
            name: name of the video, for the message.
            may_miss_s: a video may fall short of a horizon by less than this; see `end_of`.

        Raises:
            FieldError: if not; names the horizon and the longest one possible.
        """
        shortest_s = self.origin_s + SHORTEST_HORIZON_S
        for horizon_s in horizons_s:
            if not shortest_s <= horizon_s:
                claim = f"horizon {horizon_s:g} s is too short: the first {OPENING_END_S:g} s and the last "
                claim += f"{LAST_S:g} s would overlap"
                raise FieldError("horizons", horizon_s, f"it must be at least {shortest_s:g}", claim=claim)
            nearly_there = horizon_s - seconds < may_miss_s and seconds >= shortest_s
            if end_of(horizon_s, seconds, frame_s) < horizon_s and not nearly_there:
                longest_s = np.floor(seconds * 100) / 100
                fits = longest_s >= shortest_s
                wanted = f"measure it at {longest_s:g} s or less" if fits else f"drift needs at least {shortest_s:g} s"
                claim = f"{name} is {seconds:.2f} s long and does not reach the horizon of {horizon_s:g} s"
                raise FieldError("horizons", horizon_s, wanted, claim=claim)

    def check_frames(self, seconds: NDArray[np.float64], horizons_s: tuple[float, ...], name: str) -> None:
        """Check that a video has a frame in every window.

        Args:
            seconds: [T], times of the measured frames.

        Raises:
            ValueError: if not; names the window.
        """
        for start, end in (self.reference, self.opening, *(self.last(horizon_s) for horizon_s in horizons_s)):
            if not within(seconds, (start, end)).any():
                raise ValueError(
                    f"{name} has no frame to measure between {start:g} and {end:g} s; its frames are too far apart"
                )


def end_of(horizon_s: float, seconds: float, frame_s: float) -> float:
    """Where a horizon is measured: at the horizon, or at the end of a video of `seconds` that falls short of it."""
    return horizon_s if horizon_s <= seconds + frame_s / 2 else seconds


def within(seconds: NDArray[np.float64], window: tuple[float, float]) -> NDArray[np.bool_]:
    """Mask [T] of frames, given their times [T], that begin in [start, end)."""
    start, end = window
    return (seconds >= start - TOLERANCE_S) & (seconds < end - TOLERANCE_S)
