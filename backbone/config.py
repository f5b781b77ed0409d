"""What a block attends to and how it is sampled: two frozen dataclasses, validated on construction."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

from backbone.errors import FieldError, Name
from backbone.knobs import Knob, check_knobs

RopeScheme = Literal["relative", "absolute"]


@dataclass(frozen=True)
class ContextConfig:
    """The attention window of one block, counted in latent frames.

    Attributes:
        window_frames: sink + memory + local; also the capacity of the cache.
        sink_frames: size of the frame sink.
        memory_frames: K; 0 is the native backbone.
        recency_guard_frames: R.
        frames_per_block: frames denoised together, which count as local frames.
        rope: temporal position of a frame: its slot in the cache (`relative`) or its true number in the shot
            (`absolute`).
        memory_gain: factor on the keys of memory's frames, so that a block attends to them this much more sharply.
        first_gain: the factor where there is only noise; None is `memory_gain`. From there on it changes with the noise
            level, up to `memory_gain` where none is left (`gain_at`). The noisiest steps decide what is in the picture
            and where, the others what it looks like.
        gain_above: these factors hold only for frames whose similarity in the search, by looks and (if they are part of
            it) words, is at least this; while the window holds frames of another prompt, for those that the current one
            asks for instead, if words are part of the search: made under its very words or, if these call a scene back,
            in that scene. Others have them where they are below 1. None: for all.
        fill_from_window: memory's spare places show the oldest frames that are in the window, but not among the local
            ones, so that a block needn't wait for them to leave the window. After a cue, only frames made once half of
            the window was under the new prompt: others still show what was before.

    Raises:
        FieldError: if the numbers don't fit together.
    """

    window_frames: Annotated[int, Knob("--window", "Attention window, in latent frames.", at_least=1)] = 12
    sink_frames: Annotated[
        int, Knob("--sink", "First latent frames, kept in attention for the whole take.", at_least=0)
    ] = 1
    memory_frames: Annotated[
        int, Knob("--memory-frames", "Past frames brought back for each block (K).", at_least=0, needs_memory=True)
    ] = 6
    recency_guard_frames: Annotated[
        int,
        Knob(
            "--recency-guard",
            "Number of newest frames outside the window that can't be brought back yet (R).",
            at_least=0,
            needs_memory=True,
        ),
    ] = 5
    frames_per_block: Annotated[int, Knob("--frames-per-block", "Latent frames denoised together.", at_least=1)] = 3
    rope: Annotated[
        RopeScheme,
        Knob("--rope", "Temporal positions: slot in the cache (relative) or true frame number (absolute)."),
    ] = "relative"
    memory_gain: Annotated[
        float,
        Knob(
            "--memory-gain",
            "How strongly memory's frames are attended to: a factor on their keys. 1 is the model's own attention.",
            at_least=0.1,
            at_most=10,
            needs_memory=True,
        ),
    ] = 1.0
    first_gain: Annotated[
        float | None,
        Knob(
            "--first-gain",
            "The factor where there is only noise, as in the first denoising step, which decides who is in the "
            "picture; as noise fades, it becomes that of --memory-gain. By default, the same throughout.",
            at_least=0.1,
            at_most=10,
            needs_memory=True,
        ),
    ] = None
    gain_above: Annotated[
        float | None,
        Knob(
            "--gain-above",
            "These factors hold only for frames at least this similar to now (cosine, by looks and, with "
            "--prompt-weight, words); while the window holds frames of another prompt, only for those made under the "
            "same words, or in the scene that these words call back, so that a take goes where it is told to. Others "
            "keep the model's own attention, or less where the factor is below 1. By default, for all.",
            at_least=-1,
            at_most=1,
            needs_memory=True,
        ),
    ] = None
    fill_from_window: Annotated[
        bool,
        Knob(
            "--fill-from-window",
            "Give memory's spare places to the oldest frames in the window that a block wouldn't see, so that a "
            "character settles on its first seconds before they have left it.",
            needs_memory=True,
        ),
    ] = False

    def __post_init__(self) -> None:
        check_knobs(self)
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
        """Number of newest frames in the window, including the current block."""
        return self.window_frames - self.sink_frames - self.memory_frames

    def gain_at(self, sigma: float) -> float:
        """The factor on memory's keys at a noise level: (1 - sigma) memory_gain + sigma first_gain."""
        if self.first_gain is None:
            return self.memory_gain
        return (1 - sigma) * self.memory_gain + sigma * self.first_gain


@dataclass(frozen=True)
class SamplerConfig:
    """Few-step sampling along the shifted schedule.

    Attributes:
        denoising_steps: steps before the shift, decreasing, each in (0, num_train_timesteps].
        timestep_shift: a in sigma(s) = a s / (1 + (a - 1) s), s = step / num_train_timesteps.
        num_train_timesteps: the model's timestep is this times sigma.
        context_timestep: timestep at which clean frames are run for their keys and values.

    Raises:
        FieldError: if a value is invalid.
    """

    denoising_steps: Annotated[tuple[int, ...], Knob("--steps", "Denoising steps, such as 1000,750,500,250.")] = (
        1000,
        750,
        500,
        250,
    )
    timestep_shift: Annotated[float, Knob("--shift", "Shift of the noise schedule.", at_least=0.01, at_most=100)] = 5.0
    num_train_timesteps: Annotated[
        int,
        Knob("--train-timesteps", "Number of timesteps the backbone was trained with.", at_least=1, at_most=100_000),
    ] = 1000
    context_timestep: Annotated[
        float,
        Knob("--context-timestep", "Timestep at which finished frames are rerun to cache keys and values.", at_least=0),
    ] = 0.0

    def __post_init__(self) -> None:
        check_knobs(self)
        steps = tuple(self.denoising_steps)
        object.__setattr__(self, "denoising_steps", steps)
        inside = all(0 < step <= self.num_train_timesteps for step in steps)
        falling = all(a > b for a, b in itertools.pairwise(steps))
        if not steps or not inside or not falling:
            raise FieldError(
                "denoising_steps",
                list(steps),
                f"it must be decreasing numbers in 1..{self.num_train_timesteps}, such as 1000,750,500,250",
            )
        if self.context_timestep > self.num_train_timesteps:
            wanted = f"it must be in 0..{self.num_train_timesteps}"
            raise FieldError("context_timestep", self.context_timestep, wanted)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise level of each step: x_sigma = (1 - sigma) x0 + sigma eps."""
        a = self.timestep_shift
        return tuple(
            a * s / (1 + (a - 1) * s) for s in (step / self.num_train_timesteps for step in self.denoising_steps)
        )
