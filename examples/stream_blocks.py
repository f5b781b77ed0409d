"""Stream a take from Python: each block as soon as it is finished, with what it remembered.

python examples/stream_blocks.py
"""

from __future__ import annotations

import torch

from longlive_rag import LongLiveRAGPipeline, VideoWriter, find_folder

STAYS = "a blue square stands in a desert"
LEAVES = "a blue square leaves in a desert"
RETURNS = "a blue square returns in a desert"


def main() -> None:
    """Make 14 s in which a character leaves and returns, as a video and a line a block."""
    torch.set_num_threads(1)  # faster for so small a backbone
    pipe = LongLiveRAGPipeline.from_pretrained(find_folder("tiny-world"))
    request = pipe.request(STAYS, seconds=14, seed=1, cues=[(5, LEAVES), (9, RETURNS)])
    timeline, output = pipe.timeline(request), request.output
    with VideoWriter("stream.mp4", width=output.width, height=output.height, fps=output.fps, upscale=4) as video:
        for block in pipe.stream(request):
            video.write(block.pixels[0].numpy())  # [F, H, W, 3], the batch's only take
            line = f"{timeline.starts_at(block.index):5.2f} s  "
            if block.selections:
                remembered = block.selections[0]
                seconds = " ".join(f"{timeline.second_of(frame):.2f}" for frame in sorted(remembered.frames))
                line += f"remembers {seconds} out of {remembered.candidates} frames"
            else:
                line += "has nothing to remember yet"
            print(line if block.cue is None else f"{line}; now: {block.prompt}")
    print(f"stream.mp4: {request.pixel_frames} frames")


if __name__ == "__main__":
    main()
