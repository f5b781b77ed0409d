"""How far apart views are on a backbone, and which of them open memory: the table in memory.md.

    python docs/views.py [BACKBONE]

Makes takes of 120 s with memory, of 4 subjects in 3 stories, and prints a row a story.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eval.scenarios import Story, read_scenarios, stories
from longlive_rag.config import Cue
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.scripts import sample_subjects
from longlive_rag.weights.load import load_pipeline
from retrieval.policy import FirstShowings, RetrievalRules, unit

STORIES, SUBJECTS, SEED, SECONDS = ("many-characters", "long-absence", "long-stare"), 4, 1, 120
OLDER_FRAMES = 16  # 4 s
SHOWN_WITHIN_S = 12.0
ESTABLISH_FRAMES = 32  # 8 s
WINDOW_FRAMES = 12  # tiny-world's
STEPS = RetrievalRules(establish_frames=ESTABLISH_FRAMES, settle_frames=WINDOW_FRAMES)
GATES = (replace(STEPS, new_view=0.95), STEPS)


class Row(NamedTuple):
    """One take.

    Attributes:
        farthest: largest distance to what is older than 4 s, while each new one is first shown; else after 8 s.
        ten_steps: ten median steps of the gate that learns them.
        opened: by gate, how many of the new ones opened memory.
        openings: by gate, how often memory opened.
    """

    farthest: list[float]
    ten_steps: float
    opened: list[int]
    openings: list[int]


def embeddings(pipe: LongLiveRAGPipeline, story: Story, seed: int) -> NDArray[np.float32]:
    """[frames, D] unit vectors of one take's latent frames."""
    cues = tuple(Cue(at, prompt) for at, prompt in story.cues)
    made = pipe([pipe.request(story.prompt, seconds=SECONDS, seed=seed, cues=cues)])
    assert pipe.encoder is not None
    with torch.no_grad():
        return unit(pipe.encoder.encode(made.latents)[0].float().numpy())


def openings(units: NDArray[np.float32], rules: RetrievalRules) -> tuple[list[int], float]:
    """(frames at which memory opened, ten median steps)."""
    gate = FirstShowings()
    held: list[int] = []
    opened: list[int] = []
    for frame in range(1, len(units)):
        alike = float((units[held] @ units[frame]).max()) if held else -np.inf
        is_closed = not opened or frame >= opened[-1] + rules.establish_frames

        lately = float(units[frame - WINDOW_FRAMES] @ units[frame]) if frame >= WINDOW_FRAMES else -np.inf
        if gate.admits(frame, rules, partial(float, alike), partial(float, lately)):
            held.append(frame)
            if is_closed:
                opened.append(frame)
    return opened, 1 - gate.new_below(None)


def first_shown(story: Story) -> list[float]:
    """Seconds at which somebody is told of for the first time, but for who is there from the start."""
    known, found = {tuple(story.prompt.split()[:3])}, []
    for at, prompt in story.cues:
        if (who := tuple(prompt.split()[:3])) not in known:
            known.add(who)
            found.append(at)
    return found


def row_of(units: NDArray[np.float32], new: list[float]) -> Row:
    """Of the embeddings of a take, and when somebody new is told of."""
    likeness, seconds = units @ units.T, (4 * np.arange(len(units)) - 3) / 16
    far = np.array([1 - likeness[frame, 1 : max(2, frame - OLDER_FRAMES)].max() for frame in range(len(units))])
    spans = [(at, at + SHOWN_WITHIN_S) for at in new]
    inside = [(seconds >= a) & (seconds < b) for a, b in spans or [(8.0, SECONDS)]]
    at = [openings(units, rules) for rules in GATES]
    hits = [sum(any(a <= seconds[frame] < b for frame in frames) for a, b in spans) for frames, _ in at]
    return Row([float(far[part].max()) for part in inside], at[-1][1], hits, [len(frames) for frames, _ in at])


def main() -> None:
    pipe = load_pipeline(sys.argv[1] if len(sys.argv) > 1 else "tiny-world", device="cpu")
    subjects = sample_subjects(SUBJECTS, SEED)
    for name in STORIES:
        told = stories(subjects, [name], read_scenarios(), (SECONDS,))
        rows = [row_of(embeddings(pipe, story, seed), first_shown(story)) for seed, story in enumerate(told)]
        far = [each for row in rows for each in row.farthest]
        steps = [row.ten_steps for row in rows]
        opened, total = (np.sum([getattr(row, part) for row in rows], 0) for part in ("opened", "openings"))
        print(
            f"{name}: new {sum(len(first_shown(story)) for story in told)}, farthest {min(far):.4f} to {max(far):.4f}"
        )
        print(f"  median {np.median(far):.4f}; ten steps {min(steps):.4f} to {max(steps):.4f}")
        print(f"  below 0.95: {opened[0]} opened, {total[0]} openings; by steps: {opened[1]} and {total[1]}")


if __name__ == "__main__":
    main()
