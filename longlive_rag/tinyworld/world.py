"""The procedural world that tiny-world is trained on: scripts in, 64x64 pixels at 16 fps out.

A *script* says who acts where and does what from which frame on. `simulate` turns it into one position a frame,
`render` into pixels. Both are deterministic: the same script gives the same picture. Everything is numpy.

Characters are large, saturated and soft-edged; places are pale. That keeps a small VAE honest and lets a classical
reader (see `oracle`) find the character without any model. Hidden traits, which no prompt names, are the exact hue, the
size and the belly of a character, and the horizon, light and clouds of a place.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.grammar import ACTIONS, COLOURS, PLACES, SHAPES, Sentence
from longlive_rag.tinyworld.scenery import place_image

SIZE_PX = 64
FPS = 16
BELLIES: tuple[str, ...] = ("plain", "pale", "band")
PLACE_VARIATIONS = 8  # few and distinct: a model of four steps can choose one, but only blur a continuum

_WALK_PX, _EXIT_PX = 1.0, 1.5  # pixels per frame
_MARGIN_PX, _OFFSTAGE_PX = 14.0, 18.0
_JUMP_PX, _FLIGHT_FRAMES, _JUMP_PERIOD = 14.0, 14, 16
_TURN_PERIOD, _BREATH_PERIOD = 32, 32


@dataclass(frozen=True)
class Character:
    """Who: `shape` and `colour` can be prompted; the rest is hidden. `hue_shift` in degrees, `size_px` across."""

    shape: str
    colour: str
    hue_shift: float = 0.0
    size_px: float = 22.0
    belly: str = "plain"

    def rgb(self) -> NDArray[np.float32]:
        """The body colour, [3] in 0..1."""
        hue = (COLOURS[self.colour] + self.hue_shift) % 360.0
        value = 0.80 if self.colour in ("green", "blue", "purple") else 0.93
        return np.asarray(colorsys.hsv_to_rgb(hue / 360.0, 0.86, value), np.float32)


@dataclass(frozen=True)
class Place:
    """Where: `name` can be prompted; `variation` seeds its horizon, light and clouds."""

    name: str
    variation: int = 0


@dataclass(frozen=True)
class Cue:
    """From pixel frame `frame` on, the actor does `action`."""

    frame: int
    action: str


@dataclass(frozen=True)
class Actor:
    """A character with what it does when. `cues` start at frame 0 and are in order."""

    character: Character
    cues: tuple[Cue, ...]

    def __post_init__(self) -> None:
        frames = [cue.frame for cue in self.cues]
        if not frames or frames[0] != 0 or sorted(set(frames)) != frames:
            raise ValueError(f"cues must start at frame 0 and rise, got frames {frames}")
        for cue in self.cues:
            if cue.action not in ACTIONS:
                raise ValueError(f"unknown action {cue.action!r}; known: {', '.join(ACTIONS)}")


@dataclass(frozen=True)
class Script:
    """A scene of `frames` pixel frames."""

    place: Place
    actors: tuple[Actor, ...]
    frames: int

    def sentence(self, frame: int, actor: int = 0) -> Sentence:
        """What the prompt says at pixel frame `frame`."""
        who = self.actors[actor]
        action = [cue.action for cue in who.cues if cue.frame <= frame][-1]
        return Sentence(who.character.colour, who.character.shape, action, self.place.name)


@dataclass
class Track:
    """Where an actor is, one entry a pixel frame. Feet at `y` above the ground line, in pixels."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    facing: NDArray[np.float32]
    stretch: NDArray[np.float32]
    phase: NDArray[np.int32] = field(repr=False, default_factory=lambda: np.zeros(0, np.int32))

    def on_stage(self) -> NDArray[np.bool_]:
        """[frames], True where the actor's centre is inside the picture."""
        return (self.x > 0) & (self.x < SIZE_PX)


class _Body:
    """The state of one actor from frame to frame."""

    def __init__(self, first_action: str) -> None:
        self.x = -_OFFSTAGE_PX if first_action == "returns" else SIZE_PX / 2
        self.y = self.velocity = 0.0
        self.facing = self.direction = 1.0
        self.phase = 0
        self.rest = 0

    def begin(self, action: str) -> None:
        self.phase = 0
        if action == "returns" and 0 < self.x < SIZE_PX:
            return
        if action == "returns":
            self.direction = 1.0 if self.x <= 0 else -1.0

    def step(self, action: str) -> None:
        if action == "walks" or (action == "jumps" and not 0 < self.x < SIZE_PX):
            self._walk()
        elif action == "leaves":
            self.x = float(np.clip(self.x + _EXIT_PX * self.direction, -_OFFSTAGE_PX, SIZE_PX + _OFFSTAGE_PX))
        elif action == "returns":
            self._approach_centre()
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

    def _approach_centre(self) -> None:
        distance = SIZE_PX / 2 - self.x
        if abs(distance) >= _EXIT_PX:
            self.direction = float(np.sign(distance))
            self.x += _EXIT_PX * self.direction

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
        if action in ("walks", "leaves", "returns"):
            return 1.0 + 0.05 * float(np.sin(2 * np.pi * self.phase / 8))
        return 1.0 + 0.06 * float(np.sin(2 * np.pi * self.phase / _BREATH_PERIOD))


def simulate(actor: Actor, frames: int) -> Track:
    """One actor's movement over `frames` pixel frames."""
    starts = {cue.frame: cue.action for cue in actor.cues}
    body = _Body(actor.cues[0].action)
    rows = np.zeros((4, frames), np.float32)
    phases = np.zeros(frames, np.int32)
    action = actor.cues[0].action
    for frame in range(frames):
        if frame in starts:
            action = starts[frame]
            body.begin(action)
        rows[:, frame] = body.x, body.y, body.facing, body.stretch(action)
        phases[frame] = body.phase
        body.step(action)
    x, y, facing, stretch = rows
    return Track(x, y, facing, stretch, phases)


def render(script: Script, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """Pixel frames `start`..`stop` of a script.

    Returns:
        [F, 64, 64, 3] uint8 RGB.
    """
    stop = script.frames if stop is None else stop
    background, ground = place_image(script.place.name, script.place.variation, SIZE_PX)
    frames = np.repeat(background[None], stop - start, axis=0)
    for actor in script.actors:
        _draw(frames, actor.character, simulate(actor, stop), start, ground)
    return np.clip(frames * 255 + 0.5, 0, 255).astype(np.uint8)


def _draw(frames: NDArray, who: Character, track: Track, start: int, ground: float) -> None:
    """Composites one character and its shadow onto `frames` [F, H, W, 3] in 0..1, in place."""
    x, y = track.x[start:, None, None], track.y[start:, None, None]
    stretch, facing = track.stretch[start:, None, None], track.facing[start:, None, None]
    columns = np.arange(SIZE_PX, dtype=np.float32)[None, None, :] + 0.5
    rows = np.arange(SIZE_PX, dtype=np.float32)[None, :, None] + 0.5
    radius = who.size_px / 2

    shadow_width = radius * (0.95 - 0.02 * y)
    shadow = np.sqrt(((columns - x) / shadow_width) ** 2 + ((rows - ground) / (0.3 * radius)) ** 2)
    frames *= 1 - 0.28 * np.clip((1.25 - shadow) / 0.5, 0, 1)[..., None]

    # Body coordinates: u right, v down, both 1 at the radius; the feet stay on the ground while the body stretches.
    u = (columns - x) / radius * stretch
    v = (rows - (ground - y - radius * stretch)) / radius / stretch
    body = _coverage(_shape_distance(who.shape, u, v) * radius)
    colour = _body_colours(who, u, v, radius, facing)
    frames *= 1 - body[..., None]
    frames += body[..., None] * colour


def _body_colours(who: Character, u: NDArray, v: NDArray, radius: float, facing: NDArray) -> NDArray:
    """The painted body, [F, H, W, 3]: base colour, belly, then two eyes on the side that it faces."""
    base = who.rgb()
    light = np.clip(1.0 - 0.13 * (v + 0.35 * u), 0.8, 1.15)[..., None]
    colour = np.minimum(base * light, 1.0)
    if who.belly == "pale":
        belly = _coverage((np.sqrt((u - 0.15 * facing) ** 2 + (v - 0.5) ** 2) - 0.38) * radius)[..., None]
        colour = colour + belly * (0.35 * (1 - colour))
    elif who.belly == "band":
        band = _coverage((np.abs(v - 0.42) - 0.17) * radius)[..., None]
        colour = colour * (1 - 0.35 * band)
    for side in (-1.0, 1.0):
        eye_u, eye_v = u - (0.30 * facing + 0.30 * side), v + 0.12
        white = _coverage((np.sqrt(eye_u**2 + (eye_v / 1.25) ** 2) - 0.27) * radius)[..., None]
        pupil = _coverage((np.sqrt((eye_u - 0.08 * facing) ** 2 + eye_v**2) - 0.15) * radius)[..., None]
        colour = colour * (1 - white) + white * 0.97
        colour = colour * (1 - pupil) + pupil * 0.10
    return colour.astype(np.float32)


def _coverage(distance_px: NDArray) -> NDArray:
    """Signed distance in pixels (negative inside) -> coverage 0..1 over an edge of 1.6 pixels."""
    return np.clip(0.5 - distance_px / 1.6, 0.0, 1.0)


def _shape_distance(shape: str, u: NDArray, v: NDArray) -> NDArray:
    """Approximate signed distance to a shape of radius 1 (v points down); the bottom of each shape is at v = 1."""
    if shape == "circle":
        return np.sqrt(u**2 + v**2) - 1.0
    if shape == "square":
        a, b = np.abs(u) - 0.68, np.abs(v + 0.0) - 0.78
        return np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2) + np.minimum(np.maximum(a, b), 0) - 0.22
    if shape == "diamond":
        return (np.abs(u) * 1.12 + np.abs(v) - 0.96) * 0.68 - 0.03
    if shape == "triangle":
        return np.maximum(np.abs(u) * 0.87 - (v + 1.05) * 0.49, v - 0.95)
    if shape == "heart":
        lobes = np.sqrt((np.abs(u) - 0.48) ** 2 + (v + 0.40) ** 2) - 0.54
        point = np.maximum(np.abs(u) * 0.80 + (v - 1.0) * 0.62, -0.40 - v)
        return np.minimum(lobes, point)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def sample_character(rng: np.random.Generator, colour: str | None = None, shape: str | None = None) -> Character:
    """A character with random hidden traits; colour and shape too unless given."""
    return Character(
        shape=shape or SHAPES[rng.integers(len(SHAPES))],
        colour=colour or list(COLOURS)[rng.integers(len(COLOURS))],
        hue_shift=float(rng.uniform(-6, 6)),
        size_px=float(rng.uniform(20, 26)),
        belly=BELLIES[rng.integers(len(BELLIES))],
    )


def sample_place(rng: np.random.Generator, name: str | None = None) -> Place:
    """A place with a random variation; its name too unless given."""
    return Place(name or list(PLACES)[rng.integers(len(PLACES))], int(rng.integers(PLACE_VARIATIONS)))


def script_for(sentence: Sentence, frames: int, seed: int) -> Script:
    """The world's own answer to one prompt, with hidden traits drawn from `seed`."""
    rng = np.random.default_rng(seed)
    who = sample_character(rng, sentence.colour, sentence.shape)
    return Script(sample_place(rng, sentence.place), (Actor(who, (Cue(0, sentence.action),)),), frames)
