"""How often somebody is seen who should be away, in takes of published comparisons.

    python docs/away.py docs/drift/today docs/drift/sharp_old

It counts from `GONE_S` after a prompt with "leaves" (what a character needs to walk out) until the next prompt. It
prints, by folder, story and arm, the share of that time in which somebody is seen, and the share of the takes in which
that is more than `OFTEN`. The figures in docs/drift.md are from it.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from eval.plan import Cell, Story
from eval.takes import Takes
from eval.windows import within

GONE_S, OFTEN = 4.0, 0.05


def away(story: Story, end_s: float) -> list[tuple[float, float]]:
    """Spans of a take, in seconds, in which nobody should be in the picture."""
    prompts = [*story.prompts, (end_s, "")]
    return [(start + GONE_S, stop) for (start, said), (stop, _) in pairwise(prompts) if " leaves " in said]


def seen_away(takes: Takes, cell: Cell) -> float | None:
    """Share of a take's frames within these spans that show somebody; None if there are none."""
    per_frame = takes.measures(cell).per_frame
    seconds = np.array(per_frame.seconds)
    (cosines,) = per_frame.cosine.values()
    is_seen = ~np.isnan(np.array(cosines, np.float64))
    is_away = np.zeros(len(seconds), bool)
    for span in away(cell.story, takes.plan.seconds):
        is_away |= within(seconds, span)
    return float(is_seen[is_away].mean()) if is_away.any() else None


def lines(folder: Path) -> list[str]:
    """One line for each story and arm of a published comparison."""
    takes, shares = Takes.published(folder), dict[tuple[str, str], list[float]]()
    for cell in takes.plan.cells:
        if (share := seen_away(takes, cell)) is not None:
            shares.setdefault((cell.story.scenario, cell.arm.name), []).append(share)
    return [
        f"{story}, {arm}: seen {np.mean(found):.1%} of the time, in {np.mean(np.array(found) > OFTEN):.0%} of the takes"
        for (story, arm), found in shares.items()
    ]


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        print("\n".join(f"{folder.name}: {line}" for line in lines(folder)))
