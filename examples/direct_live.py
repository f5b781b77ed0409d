"""Direct a take while it is made, then branch it: another ending after the same first seconds.

python examples/direct_live.py
"""

from __future__ import annotations

import torch

from longlive_rag import LiveTake, LongLiveRAGPipeline, find_folder
from longlive_rag.takes.branch import branched

SECONDS = 9


def main() -> None:
    """Make a take and tell it on the way what comes next; branch it where it was told."""
    torch.set_num_threads(1)  # faster for so small a backbone
    pipe = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))
    live = LiveTake(pipe, pipe.request("a red circle walks in a meadow", seconds=SECONDS, seed=1))
    blocks, turn = [], 0.0
    for block in live:  # a server iterates in one thread and directs from another
        blocks.append(block)
        if block.index == 3:
            print(f"{live.pin((0.5, 2.0)):.2f} s  memory brings 0.50-2.00 back first")
            print(f"{live.establish(4.0):.2f} s  memory keeps the first 4 s of each new view")
        if block.index == 5:
            turn = live.direct("a red circle leaves in a meadow")
            print(f"{turn:.2f} s  the circle is told to leave")

    # The session is a request now: streaming it makes the same take. Its branch is another request.
    request, common = branched(
        live.request, pipe.timeline(live.request), len(blocks), turn, prompt="a red circle jumps in a meadow"
    )
    branch = list(pipe.stream(request))
    same = [torch.equal(a.latents, b.latents) for a, b in zip(blocks, branch, strict=True)]
    print(f"the branch at {turn:.2f} s: blocks 0-{common - 1} are equal bit for bit: {all(same[:common])}")
    print(f"and the others differ: {not any(same[common:])}")


if __name__ == "__main__":
    main()
