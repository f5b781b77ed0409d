"""Decide yourself which past frames a block remembers, and compare that with the policies that are there.

python examples/own_policy.py

Handing a function to `stream` as `choose` is the quickest way to try something out. A policy that looks at what frames
show, and has a name on the command line, is a plug-in of a few lines: CONTRIBUTING.md has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from longlive_rag import Block, Choose, LongLiveRAGPipeline, find_folder

PROMPT, SECONDS, SEED = "a blue square stands in a desert", 9, 1


def by_octaves(places: int) -> Choose:
    """A policy that takes the newest candidates 1, 2, 4, 8, ... back: dense where the past is recent, sparse beyond."""

    def choose(take: int, block: int, candidates: Sequence[int]) -> list[int]:
        back = [2**place for place in range(places)]
        return [candidates[-frames] for frames in back if frames <= len(candidates)]

    return choose


def report(name: str, blocks: Iterable[Block]) -> None:
    """Print which latent frames the last block of a take remembered."""
    for block in blocks:
        last = block
    (selection,) = last.selections
    frames = ", ".join(str(frame) for frame in sorted(selection.frames))
    print(f"{name:<10}  block {last.index} remembered the latent frames {frames}")


def main() -> None:
    """Make the same take under three policies."""
    torch.set_num_threads(1)  # faster for so small a backbone
    pipe = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))
    every_frame = replace(pipe.memory, establish=0)  # all of the past is there to choose from
    for name in ("similar", "stratified"):  # installed policies go by their names
        memory = replace(every_frame, policy=name)
        report(name, pipe.stream(PROMPT, seconds=SECONDS, seed=SEED, memory=memory))
    choose = by_octaves(pipe.context.memory_frames)
    report("by_octaves", pipe.stream(PROMPT, seconds=SECONDS, seed=SEED, memory=every_frame, choose=choose))


if __name__ == "__main__":
    main()
