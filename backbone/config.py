"""What a block may see and how it is sampled: two frozen dataclasses, validated when built."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

from backbone.errors import FieldError, Name

RopeScheme = Literal["relative", "absolute"]


@dataclass(frozen=True)
class ContextConfig:
    """The attention window of one block, counted in latent frames.

    Attributes:
        window_frames: frames one attention may see: sink + memory + local; also what the cache holds.
        sink_frames: first frames of the take, kept in attention for ever (the frame sink).
        memory_frames: K, frames brought back by retrieval. 0 is the native backbone.
        recency_guard_frames: R, the newest frames that have left the cache and may not be retrieved yet.
        frames_per_block: frames denoised together.
        rope: `relative` (temporal position is the slot in the cache) or `absolute` (true frame number).

    Raises:
        FieldError: if the numbers don't fit each other.
    """

    window_frames: int = 12
    sink_frames: int = 1
    memory_frames: int = 6
    recency_guard_frames: int = 5
    frames_per_block: int = 3
    rope: RopeScheme = "relative"

    def __post_init__(self) -> None:
        for name in ("window_frames", "frames_per_block"):
            if getattr(self, name) < 1:
                raise FieldError(name, getattr(self, name), "it must be at least 1")
        for name in ("sink_frames", "memory_frames", "recency_guard_frames"):
            if getattr(self, name) < 0:
                raise FieldError(name, getattr(self, name), "it must be 0 or more")
        if self.rope not in get_args(RopeScheme):
            raise FieldError("rope", self.rope, f"it must be one of {', '.join(get_args(RopeScheme))}")
        self._check_sum()

    def _check_sum(self) -> None:
        window, sink, memory, block = map(Name, ("window_frames", "sink_frames", "memory_frames", "frames_per_block"))
        taken = self.sink_frames + self.memory_frames
        if taken >= self.window_frames:
            raise FieldError(
                "window_frames",
                self.window_frames,
                "their sum must be below the window",
                claim=(
                    sink, " + ", memory, f" is {self.sink_frames} + {self.memory_frames} = {taken}, which leaves no "
                    "local frame in ", window, f" = {self.window_frames}",
                ),
            )  # fmt: skip
        if self.local_frames < self.frames_per_block:
            raise FieldError(
                "window_frames",
                self.window_frames,
                f"widen the window to at least {taken + self.frames_per_block}",
                claim=(
                    f"the window leaves {self.local_frames} local frames (", window, f" {self.window_frames} - ", sink,
                    f" {self.sink_frames} - ", memory, f" {self.memory_frames}), but a block has ", block,
                    f" = {self.frames_per_block}",
                ),
            )  # fmt: skip

    @property
    def local_frames(self) -> int:
        """Newest frames that attention sees, the current block included."""
        return self.window_frames - self.sink_frames - self.memory_frames


@dataclass(frozen=True)
class SamplerConfig:
    """Few-step sampling along the shifted schedule.

    Attributes:
        denoising_steps: steps before the shift, falling, each in (0, num_train_timesteps].
        timestep_shift: a in sigma(s) = a s / (1 + (a - 1) s), s = step / num_train_timesteps.
        num_train_timesteps: the model's timestep is this times sigma.
        context_timestep: the timestep at which clean frames are run for their keys and values.

    Raises:
        FieldError: if a value can't be.
    """

    denoising_steps: tuple[int, ...] = (1000, 750, 500, 250)
    timestep_shift: float = 5.0
    num_train_timesteps: int = 1000
    context_timestep: float = 0.0

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1:
            raise FieldError("num_train_timesteps", self.num_train_timesteps, "it must be at least 1")
        steps = tuple(self.denoising_steps)
        object.__setattr__(self, "denoising_steps", steps)
        inside = all(0 < step <= self.num_train_timesteps for step in steps)
        falling = all(a > b for a, b in itertools.pairwise(steps))
        if not steps or not inside or not falling:
            raise FieldError(
                "denoising_steps",
                list(steps),
                f"it must be one or more falling numbers in 1..{self.num_train_timesteps}, such as 1000,750,500,250",
            )
        if not 0 < self.timestep_shift < math.inf:
            shown = str(self.timestep_shift)
            raise FieldError("timestep_shift", self.timestep_shift, "it must be a number above 0", shown)
        if not 0 <= self.context_timestep <= self.num_train_timesteps:
            wanted, shown = f"it must be in 0..{self.num_train_timesteps}", str(self.context_timestep)
            raise FieldError("context_timestep", self.context_timestep, wanted, shown)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise level of each step: x_sigma = (1 - sigma) x0 + sigma eps."""
        a = self.timestep_shift
        return tuple(
            a * s / (1 + (a - 1) * s) for s in (step / self.num_train_timesteps for step in self.denoising_steps)
        )
