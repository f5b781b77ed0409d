"""Videos that look like less drift and are not, and one that is: none of the first may be claimed, the last must be.

Native is a character whose hidden traits change at 6 s. Each cheat is another way of making its takes, in which drift,
as it is defined, falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageFilter

from eval import measure as measuring
from eval.comparisons import Comparison
from eval.footage import Footage
from eval.guardrails import Guarded, guardrails, in_state
from eval.measure import measure
from eval.measures import Measures
from eval.oracle import open_oracle
from eval.plan import ARMS, Plan
from eval.results import compare_all, verdict
from eval.scenarios import Story
from eval.takes import TakeFigures, Takes
from longlive_rag.tinyworld.drawing import sample_character
from longlive_rag.tinyworld.grammar import COLOURS, PLACES, SHAPES, Sentence
from longlive_rag.tinyworld.world import Actor, Script, render, script_for

WORLD_FPS, FPS = 16, 4
SECONDS, HORIZONS_S = 24.0, (12.0, 24.0)
DRIFTS_AT_S = 6.0
PROMPTS = 7
SIDE = 64


@dataclass(frozen=True)
class Scene:
    """Renderings of one prompt, each [F, SIDE, SIDE, 3] uint8: the same place and movements.

    Attributes:
        true: the character, to the end.
        drifted: with other hidden traits.
        others: other characters altogether.
        empty: nobody.
        elsewhere: the character, to the end, in another place.
    """

    sentence: Sentence
    true: np.ndarray
    drifted: np.ndarray
    others: list[np.ndarray]
    empty: np.ndarray
    elsewhere: np.ndarray

    @property
    def native(self) -> np.ndarray:
        """The character until it drifts."""
        return joined((self.true, 0, DRIFTS_AT_S), (self.drifted, DRIFTS_AT_S, SECONDS))


def frame_of(second: float) -> int:
    """At the rate of the clips."""
    return round(second * FPS)


def joined(*parts: tuple[np.ndarray, float, float]) -> np.ndarray:
    """Frames from..to (seconds) of clips, one after another."""
    return np.concatenate([clip[frame_of(start) : frame_of(end)] for clip, start, end in parts])


def scene(number: int) -> Scene:
    """The scene of a prompt."""
    rng = np.random.default_rng(number)
    shape, colour = SHAPES[number % 3], list(COLOURS)[number % len(COLOURS)]
    place, other = (list(PLACES)[(number + number // len(COLOURS) + step) % len(PLACES)] for step in (0, 1))
    sentence = Sentence(colour, shape, "walks", place)
    script, away = (
        script_for(replace(sentence, place=one), round(SECONDS * WORLD_FPS), number) for one in (place, other)
    )
    who = script.actors[0].character
    changed = replace(
        who,
        hat=next(hat for hat in ("tall", "none") if hat != who.hat),
        pattern=next(pattern for pattern in ("plain", "belly") if pattern != who.pattern),
    )
    strangers = []
    while len(strangers) < 2:
        stranger = sample_character(rng)
        if stranger.shape != shape and stranger.colour != colour:
            strangers.append(stranger)

    def clip(character, places=script.places) -> np.ndarray:
        actors = (Actor(character, script.actors[0].cues),) if character else ()
        frames = render(Script(places, actors, script.frames, script.camera))[:: WORLD_FPS // FPS]
        light = 1 - 0.12 * np.arange(len(frames)) / len(frames)  # the sun goes down: no second is quite like another
        return (frames * light[:, None, None, None]).astype(np.uint8)

    others = [clip(stranger) for stranger in strangers]
    return Scene(sentence, clip(who), clip(changed), others, clip(None), clip(who, away.places))


Cheat = Callable[[Scene], np.ndarray]


def _seen_in_one_frame(s: Scene) -> np.ndarray:
    frames = []
    for end in HORIZONS_S:
        begun = sum(map(len, frames)) / FPS
        frames += [joined((s.native, begun, end - 5)), joined((s.empty, end - 5, end - 0.25))]
        frames += [joined((s.true, end - 0.25, end))]
    return np.concatenate(frames)


def _opening_again(s: Scene) -> np.ndarray:
    return joined((s.native, 0, SECONDS - 5), (s.true, 1, 6))


def _frozen_under_a_flicker(s: Scene) -> np.ndarray:
    still = np.repeat(s.true[frame_of(1)][None], len(s.true) - frame_of(1), axis=0).astype(np.float32)
    ramp = np.linspace(-1, 1, SIDE)[None, :, None, None] * np.sin(np.arange(len(still)) * 2.1)[:, None, None, None]
    return np.concatenate([s.true[: frame_of(1)], np.clip(still + 2.5 * ramp, 0, 255).astype(np.uint8)])


def _someone_new_every_half_second(s: Scene) -> np.ndarray:
    steps = np.arange(len(s.true)) // (FPS // 2)
    frames = np.stack([s.others[step % len(s.others)][place] for place, step in enumerate(steps)])
    return np.concatenate([s.true[: frame_of(1)], frames[frame_of(1) :]])


def _someone_else_from_1_s_on(s: Scene) -> np.ndarray:
    return joined((s.true, 0, 1), (s.others[0], 1, SECONDS))


def _frozen_before_the_first_horizon(s: Scene) -> np.ndarray:
    still = np.repeat(s.true[frame_of(HORIZONS_S[0] - 5)][None], frame_of(5), axis=0)
    return np.concatenate([s.true[: frame_of(HORIZONS_S[0] - 5)], still, s.drifted[frame_of(HORIZONS_S[0]) :]])


def _someone_else_in_the_opening(s: Scene) -> np.ndarray:
    return joined((s.true, 0, 1), (s.others[0], 1, 5), (s.native, 5, SECONDS))


def _loop_with_noise(s: Scene) -> np.ndarray:
    loop = np.resize(s.true[: frame_of(3)], s.true.shape).astype(np.float32)
    return np.clip(loop + np.random.default_rng(0).normal(0, 2.5, loop.shape), 0, 255).astype(np.uint8)


def _slow_fade(s: Scene) -> np.ndarray:
    share = np.linspace(1, 0.35, len(s.true))[:, None, None, None]
    return (s.true * share + 128 * (1 - share)).astype(np.uint8)


def _two_halves(s: Scene) -> np.ndarray:
    half = np.concatenate([s.true[:, :, : SIDE // 2], s.others[0][:, :, SIDE // 2 :]], axis=2)
    return np.concatenate([s.true[: frame_of(1)], half[frame_of(1) :]])


def _tiny(s: Scene) -> np.ndarray:
    small = [np.asarray(Image.fromarray(frame).resize((20, 20), Image.Resampling.BOX)) for frame in s.true]
    frames = s.empty.copy()
    frames[:, 22:42, 22:42] = small
    return np.concatenate([s.true[: frame_of(1)], frames[frame_of(1) :]])


def _to_one_side(s: Scene) -> np.ndarray:
    """The character is pushed out of the picture by half."""
    pushed = np.roll(s.true, SIDE // 2, axis=2)
    return joined((s.native, 0, 5), (pushed, 5, SECONDS))


def _blurred(s: Scene) -> np.ndarray:
    soft = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1.2))) for frame in s.true]
    return np.concatenate([s.true[: frame_of(1)], np.stack(soft)[frame_of(1) :]])


def _hardly_moving(s: Scene) -> np.ndarray:
    return s.true[np.arange(len(s.true)) // 6]


def _frozen_before_a_moving_background(s: Scene) -> np.ndarray:
    still, empty = s.true[frame_of(1)], s.empty[frame_of(1)]
    who = (np.abs(still.astype(int) - empty) > 6).any(axis=-1)[..., None]
    light = 1 - 0.12 * np.arange(len(s.true)) / len(s.true)
    frames = [np.where(who, still, np.roll(empty, 2 * place, axis=1)) * light[place] for place in range(len(s.true))]
    return np.concatenate([s.true[: frame_of(1)], np.stack(frames).astype(np.uint8)[frame_of(1) :]])


def _background_only(s: Scene) -> np.ndarray:
    return joined((s.true, 0, 5), (s.empty, 5, SECONDS))


def _copy_of_frame_1(s: Scene) -> np.ndarray:
    return np.repeat(s.true[:1], len(s.true), axis=0)


def _blank(s: Scene) -> np.ndarray:
    return np.concatenate([s.true[: frame_of(1)], np.full_like(s.true, 200)[frame_of(1) :]])


def _back_and_forth(s: Scene) -> np.ndarray:
    there = s.true[: frame_of(3)]
    return np.resize(np.concatenate([there, there[::-1]]), s.true.shape)


CHEATS: dict[str, tuple[Cheat, str]] = {
    "seen in one frame of the last 5 s": (_seen_in_one_frame, "subject seen"),
    "the opening again in the last 5 s": (_opening_again, "repetition in the last 5 s"),
    "frozen under a faint flicker": (_frozen_under_a_flicker, "visible motion"),
    "someone new every half second": (_someone_new_every_half_second, "likeness in the opening"),
    "someone else from 1 s on": (_someone_else_from_1_s_on, "likeness in the opening"),
    "frozen before the first horizon": (_frozen_before_the_first_horizon, "motion in the last 5 s"),
    "someone else in the opening": (_someone_else_in_the_opening, "likeness in the opening"),
    "a loop with noise": (_loop_with_noise, "repetition"),
    "a slow fade": (_slow_fade, "exposure drift"),
    "two half characters": (_two_halves, ""),
    "tiny": (_tiny, ""),
    "off to one side": (_to_one_side, ""),
    "blurred": (_blurred, "sharpness"),
    "hardly moving": (_hardly_moving, "motion"),
    "only the background": (_background_only, ""),
    "frozen before a moving background": (_frozen_before_a_moving_background, "the subject's motion"),
    "a copy of frame 1": (_copy_of_frame_1, "motion"),
    "blank": (_blank, ""),
    "never shown": (lambda s: s.empty, ""),
    "back and forth": (_back_and_forth, "repetition"),
    "never where it is told to go": (lambda s: s.elsewhere, "place as named"),
}
"""Cheat: how it is made, and a guardrail that must name it; empty where drift is not lower to begin with."""


# ---- measured and compared ----


def measured(frames: np.ndarray, prompt: str) -> Measures:
    """Of frames [F, SIDE, SIDE, 3] at `FPS`, by the oracle."""
    footage = Footage(Path("clip.mp4"), "clip.mp4", SIDE, SIDE, FPS, len(frames))
    settings = measuring.MeasureSettings(HORIZONS_S, prompts=((0.0, prompt),))
    times = np.arange(len(frames)) / FPS
    with patch.object(measuring, "read_batches", lambda _: iter([(times, frames)])):
        return measure(footage, {"tiny-world": ORACLE}, settings)


ORACLE = open_oracle()
_read_frame, _readings = ORACLE._read_frame, dict[bytes, Sequence[Any]]()


def _read_once(frame: np.ndarray) -> Sequence[Any]:
    """Cheats are made of the same frames, and what is in one depends on nothing else."""
    key = frame.tobytes()
    if key not in _readings:
        _readings[key] = _read_frame(frame)
    return _readings[key]


ORACLE._read_frame = _read_once


def compared(base: list[Measures], arm: list[Measures], scenes: list[Scene]) -> tuple[list[Comparison], list[Guarded]]:
    """The confirmatory comparisons of an arm with native, and all guardrails."""
    stories = tuple(Story(f"plain-{n}", "plain", str(each.sentence)) for n, each in enumerate(scenes))
    plan = Plan("tiny-world", (ARMS["native"], ARMS["memory"]), stories, 1, HORIZONS_S, "tiny-world")
    measures = {f"native/plain-{n}-seed0": each for n, each in enumerate(base)}
    measures |= {f"memory/plain-{n}-seed0": each for n, each in enumerate(arm)}
    figures = {name: TakeFigures.model_construct(name=name, measures=each) for name, each in measures.items()}
    comparisons = compare_all(Takes(plan, figures))
    return [c for c in comparisons if c.confirmatory], guardrails(comparisons, "tiny-world")


def verdicts(found: tuple[list[Comparison], list[Guarded]]) -> list[str]:
    """A sentence for each horizon."""
    return [verdict(c, guarded=found[1]) for c in found[0]]


def names_broken(found: tuple[list[Comparison], list[Guarded]]) -> set[str]:
    """Guardrails that are broken at any horizon."""
    return {g.companion for c in found[0] for g in in_state("broken", c, found[1])}
