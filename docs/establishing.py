"""The picture of docs/memory.md: a take, how far each of its frames is from what memory holds, and when memory is open.

    python docs/establishing.py

Makes a take of 70 s of tiny-world and writes docs/images/establishing.png.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eval.scenarios import Story, read_scenarios, stories
from longlive_rag.config import Cue, MemoryConfig
from longlive_rag.generation.directions import retrieval_rules
from longlive_rag.media.charts import DPI, FAINT, SERIES_COLORS, TEXT, WIDTH_IN
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.scripts import sample_subjects
from longlive_rag.weights.load import load_pipeline
from retrieval.policy import FirstShowings, unit

PICTURE = Path(__file__).parent / "images" / "establishing.png"
SECONDS, EVERY_S, SUBJECT = 70, 5, 1


class Traced(NamedTuple):
    """What the gate saw of a take, a row a latent frame.

    Attributes:
        seconds: where it begins.
        distance: 1 - cosine to the most similar frame in memory; NaN while there is none.
        limit: what a new view is farther than.
        state: 0 closed, 1 waiting for a new view to settle, 2 open.
    """

    seconds: NDArray[np.float64]
    distance: NDArray[np.float64]
    limit: NDArray[np.float64]
    state: NDArray[np.int64]


def traced(pipe: LongLiveRAGPipeline, latents: torch.Tensor, fps: float) -> Traced:
    """Ask the gate again, frame by frame, about the latents [1, T, C, h, w] of a take."""
    assert pipe.encoder is not None
    with torch.no_grad():
        units = unit(pipe.encoder.encode(latents)[0].float().numpy())
    timeline = pipe.timeline(pipe.request("a red circle walks", seconds=SECONDS))
    window = pipe.context.window_frames
    rules, gate = retrieval_rules(by_steps(pipe), timeline, window), FirstShowings()
    held: list[int] = []
    rows = []
    for frame in range(len(units)):
        alike = float((units[held] @ units[frame]).max()) if held else -np.inf
        lately = float(units[frame - window] @ units[frame]) if frame >= window else -np.inf
        enters = frame >= pipe.context.sink_frames and gate.admits(
            frame, rules, partial(float, alike), partial(float, lately)
        )
        held += [frame] if enters else []
        rows.append((max(0, 4 * frame - 3) / fps, 1 - alike, 1 - gate.new_below(None), 2 * enters))
    seconds, distance, limit, state = (np.array(column) for column in zip(*rows, strict=True))
    for opens in np.flatnonzero(np.diff(state) > 0)[1:] + 1:
        state[opens - window : opens] = 1
    return Traced(seconds, np.where(np.isfinite(distance), distance, np.nan), limit, state)


def by_steps(pipe: LongLiveRAGPipeline) -> MemoryConfig:
    """Memory whose new views the take's own steps tell."""
    return replace(pipe.memory, new_view=None)


def draw(trace: Traced, pictures: list[NDArray[np.uint8]], story: Story) -> Figure:
    """Frames above, distances in the middle, memory below."""
    figure = Figure((WIDTH_IN, 3.9), dpi=DPI, layout="constrained")
    strip, curve, bar = figure.subplots(3, 1, sharex=True, height_ratios=(1.15, 1.6, 0.35))
    for place, picture in enumerate(pictures):
        strip.imshow(picture, extent=(place * EVERY_S + 0.1, (place + 1) * EVERY_S - 0.1, 0, 1), aspect="auto")
    strip.set(ylim=(0, 1), yticks=[])
    strip.set_title("what the take shows, every 5 s", loc="left", fontsize=9, color=TEXT)
    curve.semilogy(trace.seconds, np.maximum(trace.distance, 1e-6), color=SERIES_COLORS[0], lw=1.2)
    curve.semilogy(trace.seconds, np.maximum(trace.limit, 1e-6), color=SERIES_COLORS[2], lw=1.2, ls="--")
    curve.set(ylim=(1e-4, 1))
    curve.set_title(
        "distance to the nearest frame in memory (line), and beyond what a view is new (dashes)",
        loc="left", fontsize=9, color=TEXT,
    )  # fmt: skip
    for state, color in ((0, "#e3e6ec"), (1, SERIES_COLORS[1]), (2, "#3a9b5c")):
        bar.fill_between(trace.seconds, 0, 1, where=trace.state == state, step="post", color=color, lw=0)
    bar.set(ylim=(0, 1), yticks=[], xlim=(0, SECONDS), xlabel="seconds of the take")
    bar.set_title(
        "memory: open (green), waiting for a new view to settle (orange), closed (grey)",
        loc="left", fontsize=9, color=TEXT,
    )  # fmt: skip
    for at, _ in story.cues:
        curve.axvline(at, color=FAINT, lw=0.6, ls=":")
    for axes in (strip, curve, bar):
        axes.tick_params(labelsize=8, colors=FAINT)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def main() -> None:
    pipe = load_pipeline("tiny-world", device="cpu")
    (story,) = stories(sample_subjects(SUBJECT + 1, 1)[SUBJECT:], ["many-characters"], read_scenarios(), (120,))
    story = Story(story.id, story.scenario, story.prompt, tuple(cue for cue in story.cues if cue[0] < SECONDS))
    cues = tuple(Cue(at, prompt) for at, prompt in story.cues)
    made = pipe([pipe.request(story.prompt, seconds=SECONDS, seed=1, cues=cues, memory=by_steps(pipe))])
    fps = pipe.output.fps
    pictures = [made.frames[0][int((place + 0.9) * EVERY_S * fps)] for place in range(SECONDS // EVERY_S)]
    draw(traced(pipe, made.latents, fps), pictures, story).savefig(PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
