"""What a take's record says of its video, its cues and its start image."""

from __future__ import annotations

import hashlib

from longlive_rag.config import TakeRequest
from longlive_rag.media.start_image import StartImage
from longlive_rag.media.video import CODECS
from longlive_rag.takes.folder import START_IMAGE
from longlive_rag.takes.record import CueFacts, StartImageFacts, VideoFacts
from longlive_rag.timeline import Timeline


def video_facts(
    request: TakeRequest, timeline: Timeline, codec: str, frames: int, blocks: int, sha256: str | None
) -> VideoFacts:
    """The video so far.

    Args:
        codec: name of its codec.
        frames: number of pixel frames that it has.
        blocks: number of blocks that were written to it.
        sha256: of the file; None while it is written.
    """
    output, known = request.output, CODECS[codec]
    return VideoFacts(
        file="video.mp4",
        codec=codec,
        encoder=known.encoder,
        encoder_license=known.license,
        width=output.width * output.upscale,
        height=output.height * output.upscale,
        fps=output.fps,
        frames=frames,
        seconds=frames / output.fps,
        blocks=blocks,
        temporal_factor=timeline.temporal_factor,
        sha256=sha256,
    )


def cue_facts(request: TakeRequest, timeline: Timeline, blocks: int) -> tuple[CueFacts, ...]:
    """When the cues were to take over and when they did, of a take with so many blocks."""
    at = [timeline.cue_block(cue.seconds) for cue in request.cues]
    return tuple(
        CueFacts(
            cue=number,
            prompt=cue.prompt,
            asked_seconds=cue.seconds,
            seconds=timeline.starts_at(block),
            block=block,
            reached=block < blocks,
            cut=cue.cut,
        )
        for number, (cue, block) in enumerate(zip(request.cues, at, strict=True), start=1)
    )


def start_image_facts(image: StartImage) -> StartImageFacts:
    """The picture that a take begins with."""
    return StartImageFacts(
        file=START_IMAGE,
        sha256_of_pixels=hashlib.sha256(image.pixels.tobytes()).hexdigest(),
        fitted=image.in_words,
    )
