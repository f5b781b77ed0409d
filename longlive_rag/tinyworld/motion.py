"""How the characters of tiny-world move: one position per pixel frame, from the actions they are cued to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.grammar import MEETS

SIZE_PX = 64
"""The side of the screen; positions are in its pixels."""
WAITS = "waits"
"""The action of a character that has not appeared yet."""

_WALK_PX, _STRIDE_PX = 1.0, 2.0  # pixels per frame: strolling; coming or going
_MARGIN_PX, _OFFSTAGE_PX = 15.0, 20.0
_MEETING_PX = 16.0  # from the side of the screen
_JUMP_PX, _FLIGHT_FRAMES, _JUMP_PERIOD = 14.0, 14, 16
_TURN_PERIOD, _BREATH_PERIOD = 32, 32


@dataclass(frozen=True)
class Cue:
    """The character does `action` from pixel frame `frame` on."""

    frame: int
    action: str


@dataclass
class Track:
    """A character's position by pixel frame: `x` in the scene, feet `y` above the ground line, in pixels."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    facing: NDArray[np.float32]
    stretch: NDArray[np.float32]


class _Body:
    """The state of one character from frame to frame; a `guest` is the one who is met."""

    def __init__(self, first_action: str, guest: bool) -> None:
        self.x = -_OFFSTAGE_PX if first_action == "returns" else SIZE_PX / 2
        self.x = SIZE_PX + _OFFSTAGE_PX if first_action == WAITS else self.x
        self.guest = guest
        self.y = self.velocity = 0.0
        self.facing = self.direction = -1.0 if guest else 1.0
        self.phase = 0
        self.rest = 0

    def begin(self, action: str) -> None:
        self.phase = 0
        if action == "leaves" and abs(self.x - SIZE_PX / 2) > _STRIDE_PX:  # towards the nearer side
            self.direction = float(np.sign(self.x - SIZE_PX / 2))

    def step(self, action: str) -> None:
        if action == "walks" or (action == "jumps" and not 0 < self.x < SIZE_PX):
            self._walk()
        elif action == "leaves":
            self.x = float(np.clip(self.x + _STRIDE_PX * self.direction, -_OFFSTAGE_PX, SIZE_PX + _OFFSTAGE_PX))
        elif action == "returns":
            self._approach(SIZE_PX / 2)
        elif action == MEETS:
            self._approach(SIZE_PX - _MEETING_PX if self.guest else _MEETING_PX)
            if abs(self.x - SIZE_PX / 2) < SIZE_PX / 2 and self.phase > 8:
                self.direction = -1.0 if self.guest else 1.0
        elif action == "turns" and self.phase % (_TURN_PERIOD // 2) == _TURN_PERIOD // 4:
            self.direction = -self.direction
        if action == "jumps":
            self._jump()
        self._fall()
        self.facing += float(np.clip(self.direction - self.facing, -0.35, 0.35))
        self.phase += 1

    def _walk(self) -> None:
        if self.x <= _MARGIN_PX:
            self.direction = 1.0
        elif self.x >= SIZE_PX - _MARGIN_PX:
            self.direction = -1.0
        self.x += _WALK_PX * self.direction

    def _approach(self, target: float) -> None:
        distance = target - self.x
        if abs(distance) >= _STRIDE_PX:
            self.direction = float(np.sign(distance))
            self.x += _STRIDE_PX * self.direction

    def _jump(self) -> None:
        self.rest = max(0, self.rest - 1)
        if self.y == 0.0 and self.velocity == 0.0 and self.rest == 0:
            self.velocity = 4 * _JUMP_PX / _FLIGHT_FRAMES
            self.rest = _JUMP_PERIOD

    def _fall(self) -> None:
        if self.velocity == 0.0 and self.y == 0.0:
            return
        gravity = 8 * _JUMP_PX / _FLIGHT_FRAMES**2
        self.y += self.velocity - gravity / 2
        self.velocity -= gravity
        if self.y <= 1e-3:
            self.y = self.velocity = 0.0

    def stretch(self, action: str) -> float:
        if self.y > 0:
            return 1.0 + 0.02 * min(abs(self.velocity), 4.0)
        if action in ("walks", "leaves", "returns", MEETS):
            return 1.0 + 0.04 * float(np.sin(2 * np.pi * self.phase / 12))
        return 1.0 + 0.05 * float(np.sin(2 * np.pi * self.phase / _BREATH_PERIOD))


def simulate(cues: tuple[Cue, ...], frames: int, guest: bool = False) -> Track:
    """Simulate a character's movement over `frames` pixel frames; a `guest` is the one met and comes from the right."""
    starts = {cue.frame: cue.action for cue in cues}
    action = cues[0].action
    body = _Body(action, guest)
    rows = np.zeros((4, frames), np.float32)
    for frame in range(frames):
        if frame in starts:
            action = starts[frame]
            body.begin(action)
        rows[:, frame] = body.x, body.y, body.facing, body.stretch(action)
        body.step(action)
    return Track(*rows)
