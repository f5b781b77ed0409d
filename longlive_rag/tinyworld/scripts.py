"""Scripts to train on: one character, a new cue every few seconds."""

from __future__ import annotations

import numpy as np

from longlive_rag.tinyworld.grammar import held_out
from longlive_rag.tinyworld.world import FPS, Actor, Character, Cue, Place, Script, sample_character, sample_place

FIRST_BLOCK_PX, BLOCK_PX = 9, 12  # cues begin with a block, as they do when a take is made
OPENINGS = ("stands", "walks", "jumps", "turns")
SHORTEST_CUE_S, LONGEST_CUE_S = 2.0, 6.0
LEAVE_PROBABILITY = 0.2


def sample_script(rng: np.random.Generator, frames: int) -> Script:
    """A character at a place who changes what it does every 2 to 6 seconds; who has left returns.

    Combinations that `held_out` reserves never occur.
    """
    opening = "leaves" if rng.random() < 0.06 else "returns" if rng.random() < 0.06 else str(rng.choice(OPENINGS))
    cues = [Cue(0, opening)]
    while True:
        frame = _block_start(cues[-1].frame + rng.uniform(SHORTEST_CUE_S, LONGEST_CUE_S) * FPS)
        if frame >= frames:
            break
        cues.append(Cue(frame, _next_action(rng, cues[-1].action)))
    character, place = _training_pair(rng)
    return Script(place, (Actor(character, tuple(cues)),), frames)


def _training_pair(rng: np.random.Generator) -> tuple[Character, Place]:
    while True:
        character, place = sample_character(rng), sample_place(rng)
        if not held_out(character.colour, character.shape, place.name):
            return character, place


def _next_action(rng: np.random.Generator, action: str) -> str:
    if action == "leaves":
        return "returns"
    if rng.random() < LEAVE_PROBABILITY:
        return "leaves"
    return str(rng.choice([other for other in OPENINGS if other != action]))


def _block_start(frame: float) -> int:
    """The first pixel frame of a block at or after `frame`."""
    return FIRST_BLOCK_PX + BLOCK_PX * max(0, int(np.ceil((frame - FIRST_BLOCK_PX) / BLOCK_PX)))
