"""The procedural world that tiny-world is trained on: scripts in, 64x64 pixels at 16 fps out.

A *script* says who is where and does what from which frame on, and how the camera pans. `render` turns it into pixels;
the same script always gives the same pixels. Everything is numpy.

Characters are large, saturated and soft-edged; places are pale. That suits a small VAE and lets a classical reader (see
`oracle`) find the characters without a model. Hidden traits, which no prompt names, are the tint, size, pattern, hat
and bag of a character, and the variation (horizon, light, clouds, props) of a place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longlive_rag.tinyworld.drawing import TALLEST_RADII, WIDEST_RADII, Character, composite, sample_character
from longlive_rag.tinyworld.grammar import ACTIONS, MEETS, PLACES, Sentence
from longlive_rag.tinyworld.motion import SIZE_PX, WAITS, Cue, Track, simulate
from longlive_rag.tinyworld.scenery import GROUND, MARGIN, place_image

FPS = 16
PLACE_VARIATIONS = 8  # few and distinct: a four-step model can choose one of them, but would only blur a continuum
DISSOLVE_FRAMES = 12  # duration of a change of place
LONGEST_PAN_PX = 4.0
_DRAWN_TOGETHER = 16  # frames; as many as fit in the processor's cache

__all__ = ["FPS", "SIZE_PX", "Actor", "Camera", "Character", "Cue", "Place", "Script", "render", "script_for"]


@dataclass(frozen=True)
class Place:
    """A place: `name` can be prompted; `variation` seeds its horizon, light, clouds and props."""

    name: str
    variation: int = 0


@dataclass(frozen=True)
class Camera:
    """A slow pan by at most `reach_px` to each side, back and forth in `period` frames, starting at `phase` of 1."""

    reach_px: float = 0.0
    period: int = 240
    phase: float = 0.0

    def shift_px(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return how far right the camera looks in frames `start`..`stop`, in pixels."""
        turn = np.arange(start, stop) / self.period + self.phase
        return (self.reach_px * np.sin(2 * np.pi * turn)).astype(np.float32)


@dataclass(frozen=True)
class Actor:
    """A character and its actions over time. `cues` start at frame 0 and are in order."""

    character: Character
    cues: tuple[Cue, ...]

    def __post_init__(self) -> None:
        frames = [cue.frame for cue in self.cues]
        if not frames or frames[0] != 0 or sorted(set(frames)) != frames:
            raise ValueError(f"cues are at frames {frames}; they must start at 0 and increase")
        known = (*ACTIONS, MEETS, WAITS)
        for cue in self.cues:
            if cue.action not in known:
                raise ValueError(f"unknown action {cue.action!r}; known: {', '.join(known)}")

    def action(self, frame: int) -> str:
        """Return what the character does in pixel frame `frame`."""
        return next(cue.action for cue in reversed(self.cues) if cue.frame <= frame)


@dataclass(frozen=True)
class Script:
    """A scene of `frames` pixel frames.

    Attributes:
        places: (first pixel frame, place), in order, starting at frame 0.
        actors: the character that prompts name, then perhaps the guest it meets; for a film, its cast.
        frames: length.
        camera: the camera.
        leads: for a film, (first pixel frame, actor that prompts name), in order; films have no guests.
    """

    places: tuple[tuple[int, Place], ...]
    actors: tuple[Actor, ...]
    frames: int
    camera: Camera = Camera()
    leads: tuple[tuple[int, int], ...] = ()

    def place(self, frame: int) -> Place:
        """Return the place of pixel frame `frame`."""
        return next(place for first, place in reversed(self.places) if first <= frame)

    def sentence(self, frame: int) -> Sentence:
        """Return the content of the prompt at pixel frame `frame`."""
        lead = next((actor for first, actor in reversed(self.leads) if first <= frame), 0)
        who, action = self.actors[lead].character, self.actors[lead].action(frame)
        guest = self.actors[1].character if action == MEETS else None
        other = None if guest is None else (guest.colour, guest.shape)
        return Sentence(who.colour, who.shape, action, self.place(frame).name, other)

    def tracks(self, frames: int | None = None) -> list[Track]:
        """Return where each actor is, over the first `frames` frames (all by default)."""
        count = self.frames if frames is None else frames
        return [
            simulate(actor.cues, count, guest=index > 0 and not self.leads) for index, actor in enumerate(self.actors)
        ]

    def on_screen(self) -> NDArray[np.bool_]:
        """Return [actors, frames], True where an actor's middle is inside the picture."""
        shift = self.camera.shift_px(0, self.frames)
        return np.stack([(track.x - shift > 0) & (track.x - shift < SIZE_PX) for track in self.tracks()])


def actor_cover(script: Script, cell_px: int) -> NDArray[np.float32]:
    """Return the share of every square cell of the picture that actors cover, by boxes around body, hat and bag.

    Returns:
        [F, SIZE_PX / cell_px, SIZE_PX / cell_px] in 0..1.
    """
    edges = np.arange(0, SIZE_PX, cell_px)

    def overlap(low: NDArray, high: NDArray) -> NDArray:  # [F] to [F, cells]
        ends = np.minimum(high[:, None], edges + cell_px), np.maximum(low[:, None], edges)
        return np.clip(ends[0] - ends[1], 0, None) / cell_px

    cover = np.zeros((script.frames, len(edges), len(edges)), np.float32)
    shift = script.camera.shift_px(0, script.frames)
    for actor, track in zip(script.actors, script.tracks(), strict=True):
        radius = actor.character.size_px / 2
        feet, x = GROUND * SIZE_PX - track.y, track.x - shift
        columns = overlap(x - WIDEST_RADII * radius, x + WIDEST_RADII * radius)
        rows = overlap(feet - (1 + TALLEST_RADII) * radius * track.stretch, feet)
        cover = np.maximum(cover, rows[:, :, None] * columns[:, None, :])
    return cover


def render(script: Script, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """Render pixel frames `start`..`stop` of a script.

    Returns:
        [F, 64, 64, 3] uint8 RGB.
    """
    stop = script.frames if stop is None else stop
    tracks = script.tracks(stop)
    shift = script.camera.shift_px(0, stop)
    out = np.empty((stop - start, SIZE_PX, SIZE_PX, 3), np.uint8)
    for first in range(start, stop, _DRAWN_TOGETHER):
        shown = slice(first, min(first + _DRAWN_TOGETHER, stop))
        frames = _background(script, shown, shift[shown])
        for actor, track in zip(script.actors, tracks, strict=True):
            composite(
                frames, actor.character, track.x[shown] - shift[shown], track.y[shown], track.facing[shown],
                track.stretch[shown], GROUND * SIZE_PX,
            )  # fmt: skip
        out[shown.start - start : shown.stop - start] = np.clip(frames * 255 + 0.5, 0, 255)
    return out


def _background(script: Script, shown: slice, shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """Render only the places, [F, 64, 64, 3] in 0..1, panned; a new place dissolves into view."""
    frames = np.arange(shown.start, shown.stop)
    out: NDArray[np.float32] | None = None
    for index, (since, place) in enumerate(script.places):
        until = script.places[index + 1][0] + DISSOLVE_FRAMES if index + 1 < len(script.places) else np.inf
        if since >= shown.stop or until <= shown.start:
            continue
        picture = _panned(place_image(place.name, place.variation, SIZE_PX), shift)
        if out is None:
            out = picture
        else:
            visible = np.clip((frames - since + 1) / DISSOLVE_FRAMES, 0, 1).astype(np.float32)[:, None, None, None]
            out += visible * (picture - out)
    assert out is not None
    return out


def _panned(picture: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the camera sees of a wide picture, [F, 64, 64, 3], interpolating linearly between pixels."""
    left = round(MARGIN * SIZE_PX) + shift
    whole = np.floor(left).astype(np.int64)
    part = (left - whole).astype(np.float32)[:, None, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(picture, SIZE_PX, axis=1)  # [64, positions, 3, 64]
    near = windows[:, whole].transpose(1, 0, 3, 2)
    if not part.any():
        return np.ascontiguousarray(near)
    far = windows[:, whole + 1].transpose(1, 0, 3, 2)
    return np.ascontiguousarray(near * (1 - part) + far * part)


def sample_place(rng: np.random.Generator, name: str | None = None) -> Place:
    """Draw a place with a random variation, and a random name unless given."""
    return Place(name or str(rng.choice(list(PLACES))), int(rng.integers(PLACE_VARIATIONS)))


def sample_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera that stands still or pans gently."""
    if rng.random() < 0.5:
        return Camera()
    return Camera(float(rng.uniform(2, LONGEST_PAN_PX)), int(rng.integers(160, 320)), float(rng.random()))


def script_for(sentence: Sentence, frames: int, seed: int) -> Script:
    """Return the world's own script for one prompt, with hidden traits drawn from `seed`."""
    rng = np.random.default_rng(seed)
    who = sample_character(rng, sentence.colour, sentence.shape)
    place = sample_place(rng, sentence.place)
    actors = [Actor(who, (Cue(0, sentence.action),))]
    if sentence.other is not None:
        guest = sample_character(rng, *sentence.other)
        actors.append(Actor(guest, (Cue(0, WAITS), Cue(1, MEETS))))
    return Script(((0, place),), tuple(actors), frames, sample_camera(rng))
