"""How blocks, latent frames, pixel frames and seconds of a take correspond.

The first latent frame of a take decodes to one pixel frame, every later one to `temporal_factor` (4 for Wan's VAE).
So a take's first block is shorter than the others, and the last one is trimmed to the requested length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SEGMENT_SECONDS = 2
"""Approximate length of a video segment; a take can be resumed from the end of a segment."""


@dataclass(frozen=True)
class Timeline:
    """The arithmetic of one take.

    Attributes:
        pixel_frames: pixel frames of the finished video.
        fps: pixel frames per second.
        frames_per_block: latent frames per block.
        temporal_factor: pixel frames per latent frame after the first.
    """

    pixel_frames: int
    fps: int
    frames_per_block: int
    temporal_factor: int

    @property
    def segment_blocks(self) -> int:
        """Blocks per segment of the take's video."""
        block = self.frames_per_block * self.temporal_factor
        return max(1, round(SEGMENT_SECONDS * self.fps / block))

    @property
    def blocks(self) -> int:
        """Blocks needed to cover the video."""
        return self.block_at(self.pixel_frames - 1) + 1

    @property
    def latent_frames(self) -> int:
        """Number of latent frames in all blocks."""
        return self.blocks * self.frames_per_block

    def latents_of(self, block: int) -> range:
        """The latent frames of a block."""
        first = block * self.frames_per_block
        return range(first, first + self.frames_per_block)

    def pixels_of(self, block: int) -> range:
        """The pixel frames of a block, trimmed to the length of the video."""
        latents = self.latents_of(block)
        stop = min(self._pixels_before(latents.stop), self.pixel_frames)
        return range(min(self._pixels_before(latents.start), stop), stop)

    def block_at(self, pixel_frame: int) -> int:
        """The block that holds a pixel frame."""
        return self.latent_at(pixel_frame) // self.frames_per_block

    def cue_block(self, seconds: float) -> int:
        """The block at which a cue takes over: the first that begins at or after `seconds`, but never block 0."""
        pixel_frame = self._pixels_in(seconds)
        block = max(1, self.block_at(int(pixel_frame)))
        return block if self._pixels_before(block * self.frames_per_block) >= pixel_frame else block + 1

    def starts_at(self, block: int) -> float:
        """The second of the take at which a block begins."""
        return self._pixels_before(block * self.frames_per_block) / self.fps

    def second_of(self, latent_frame: int) -> float:
        """The second of the take at which a latent frame begins."""
        return self._pixels_before(latent_frame) / self.fps

    def latents_between(self, start_seconds: float, end_seconds: float) -> range:
        """The latent frames that have a pixel frame within a span."""
        first, last = int(self._pixels_in(start_seconds)), math.ceil(self._pixels_in(end_seconds)) - 1
        return range(self.latent_at(first), self.latent_at(max(first, last)) + 1)

    def latents_in(self, seconds: float) -> int:
        """The number of latent frames that last this long, at least one; 0 for 0 s."""
        return max(1, round(seconds * self.fps / self.temporal_factor)) if seconds else 0

    def latent_at(self, pixel_frame: int) -> int:
        """The latent frame that holds a pixel frame."""
        return -(-pixel_frame // self.temporal_factor)

    def _pixels_in(self, seconds: float) -> float:
        """Pixel frames in `seconds`, rounded so that the time at which a frame begins gives exactly its number."""
        return round(seconds * self.fps, 6)

    def _pixels_before(self, latent_frame: int) -> int:
        return 0 if latent_frame == 0 else 1 + (latent_frame - 1) * self.temporal_factor
