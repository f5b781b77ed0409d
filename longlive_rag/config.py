"""What a take is asked to be: one plain dataclass a concern, refused before any model loads if it can't be done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from backbone.config import ContextConfig, SamplerConfig

EncoderKind = Literal["autoencoder", "mean_pool"]

MAX_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class MemoryConfig:
    """How the take remembers itself.

    Attributes:
        enabled: off is the native backbone: sink and local frames only.
        encoder: which embedding memory is searched by.
    """

    enabled: bool = True
    encoder: EncoderKind = "autoencoder"

    def __post_init__(self) -> None:
        if self.encoder not in get_args(EncoderKind):
            raise ValueError(f"encoder is {self.encoder!r}; it must be one of {', '.join(get_args(EncoderKind))}")


@dataclass(frozen=True)
class OutputConfig:
    """Size and rate of the video.

    Attributes:
        height, width: pixels that the model makes.
        fps: pixel frames a second.
        upscale: each side of the written video is this many times the model's.
    """

    height: int = 480
    width: int = 832
    fps: int = 16
    upscale: int = 1

    def __post_init__(self) -> None:
        for name in ("height", "width", "fps", "upscale"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Cue:
    """A prompt and the second of the take at which it takes over."""

    seconds: float
    prompt: str


@dataclass(frozen=True)
class TakeRequest:
    """Everything that decides what a take shows; equal requests on one machine give equal takes.

    Raises:
        ValueError: naming the field, the value and what would be right.
    """

    prompt: str
    seconds: float
    cues: tuple[Cue, ...] = ()
    seed: int = 0
    context: ContextConfig = field(default_factory=ContextConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cues", _as_cues(self.cues))
        if not self.memory.enabled and self.context.memory_frames:
            object.__setattr__(self, "context", replace(self.context, memory_frames=0))
        check_seconds(self.seconds, self.output.fps)
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must be a whole number from 0 to 2**64 - 1")
        for position, prompt in enumerate([self.prompt, *(cue.prompt for cue in self.cues)]):
            if not prompt.strip():
                where = "the prompt" if position == 0 else f"the prompt of cue {position}"
                raise ValueError(f"{where} is empty; say what is to be seen, such as 'a red circle walks in a meadow'")
        self._check_cues()

    def _check_cues(self) -> None:
        previous = 0.0
        for number, cue in enumerate(self.cues, start=1):
            if not math.isfinite(cue.seconds) or cue.seconds <= 0:
                raise ValueError(
                    f"cue {number} is at {cue.seconds:g} s; a cue must come after the start (the prompt is there)"
                )
            if cue.seconds <= previous:
                raise ValueError(
                    f"cue {number} is at {cue.seconds:g} s, not after the one before it at {previous:g} s; "
                    "put cues in order of time"
                )
            if cue.seconds >= self.seconds:
                raise ValueError(
                    f"cue {number} is at {cue.seconds:g} s, past the end of a {self.seconds:g} s take; "
                    "move it before the end"
                )
            previous = cue.seconds

    @property
    def pixel_frames(self) -> int:
        """Pixel frames of the finished video."""
        return round(self.seconds * self.output.fps)


def check_seconds(seconds: float, fps: int) -> None:
    """Raise ValueError unless a take of `seconds` at `fps` has at least one frame and is within a day."""
    if not math.isfinite(seconds) or round(seconds * fps) < 1 or seconds > MAX_SECONDS:
        raise ValueError(f"seconds is {seconds:g}; it must be from {1 / fps:g} (one frame) to {MAX_SECONDS} (a day)")


def _as_cues(cues: Iterable[Cue | tuple[float, str]]) -> tuple[Cue, ...]:
    return tuple(cue if isinstance(cue, Cue) else Cue(float(cue[0]), cue[1]) for cue in cues)
