"""How much a character still changes while it is first shown: the table in tiny-world-tuning.md.

    longlive-rag world subjects --count 32 --seed 21 -o subjects.json
    longlive-rag eval compare --arms docs/drift/settling.toml --prompts subjects.json \
      --scenarios-file docs/drift/first-showing.json --scenario first-showing --horizons 15 --exploratory \
      --embed-every 4 --workers 2 --threads 1 --batch 8 -o runs/settling
    python docs/settling.py runs/settling

A character comes in and stands, and walks from the story's origin on. The script reads the traits in the 4 s before the
origin, in the opening (seconds 1 to 5 after it, as in every comparison) and in the 4 s after that, by the rules for
takes, and prints for each arm the share of the takes in which all of them agree. What memory holds of a first showing
can be of one look only where they do.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.oracle import OracleEmbedder, open_oracle
from eval.plan import Cell, read_plan
from eval.runs import take_folder
from eval.traits import Trait, kept_traits
from eval.windows import DriftWindows
from longlive_rag.media.video import read_frames

READ_EVERY, FPS = 4, 16  # frames; tiny-world's
SPAN_S = 4.0
PAIRS = (("before", "opening"), ("after", "opening"), ("after", "before"))


def spans(oracle: OracleEmbedder, run: Path, cell: Cell) -> dict[str, Mapping[str, Trait]]:
    """The traits seen before the opening, in it and after it, in every fourth frame."""
    origin_s = cell.story.origin_s
    origins = {"before": -SPAN_S - 1, "opening": 0.0, "after": SPAN_S}  # an opening begins 1 s after its origin
    windows = {name: DriftWindows(origin_s + later) for name, later in origins.items()}
    first, last = windows["before"].opening[0], windows["after"].opening[1]
    video = enumerate(read_frames(take_folder(run, cell) / "video.mp4", stop=round(last * FPS)))
    frames = {number / FPS: frame for number, frame in video if number % READ_EVERY == 0 and number / FPS >= first}
    read, seconds = oracle.trait_values(oracle.embed(np.stack(list(frames.values())))), np.array(list(frames))
    return {
        name: kept_traits(read, seconds, last, tuple(oracle.traits), each).opening for name, each in windows.items()
    }


def agree(one: Mapping[str, Trait], other: Mapping[str, Trait], traits: Sequence[str]) -> bool:
    """Whether both show every trait, and all alike."""
    return all(trait in one and one[trait] == other.get(trait) for trait in traits)


def main(run: Path) -> None:
    """Print a line for each arm."""
    plan, oracle = read_plan(run), open_oracle()
    traits, by_arm = tuple(oracle.traits), defaultdict(list)
    for cell in plan.cells:
        seen = spans(oracle, run, cell)
        by_arm[cell.arm.name].append([agree(seen[one], seen[other], traits) for one, other in PAIRS])
    print("arm", *(f"{one} = {other}" for one, other in PAIRS), sep=" | ")
    for arm, rows in by_arm.items():
        print(arm, *(f"{share:.0%}" for share in np.mean(rows, axis=0)), f"{len(rows)} takes", sep=" | ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
