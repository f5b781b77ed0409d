"""The request for a take: one plain dataclass per concern, validated before any model is loaded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, Literal, get_args

from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError, Name
from backbone.knobs import Knob, check_knobs, knobs_of
from retrieval.budgets import PageBudgets, PagePrecision

Span = tuple[float, float]  # from and to, in seconds
StalePages = Literal["remake", "keep"]
EncoderKind = Literal["autoencoder", "mean_pool"]
SteerVerb = Literal["pin", "exclude", "establish", "policy", "unpin", "unexclude"]
CheckpointMode = Literal["exact", "light"]

SEARCH = "similar"
"""The default policy, which needs no plug-in."""

MAX_SECONDS = 24 * 60 * 60
MAX_RETRIES = 8
MAX_PIXELS = 8192
MAX_FPS = 240
BLOCKS_PER_REPEATED = 12
"""Resuming a take reruns at most about one block in this many."""


_search = partial(Knob, needs_memory=True, of_search=True)
_pages = partial(Knob, needs_memory=True)
COSINE = {"at_least": -1.0, "at_most": 1.0}
SHARE = {"at_least": 0.0, "below": 1.0}
GIB: dict[str, Any] = {"at_least": 0, "at_most": 100_000, "unit": "GiB"}


@dataclass(frozen=True)
class Steering:
    """A change to memory while the take runs.

    Attributes:
        seconds: time in the take; it applies from the next block on.
        verb: `pin` or `exclude` a span, undo this with `unpin` or `unexclude`, set what memory admits with
            `establish`, or how it picks frames with `policy`.
        start, end: the span, in seconds; 0 for verbs without one.
        establish, new_view: for `establish`, as in `MemoryConfig`; None leaves `new_view` unchanged.
        policy: for `policy`, its name.

    Raises:
        FieldError: if a field is invalid; names the field, the value and what is expected.
    """

    seconds: float
    verb: SteerVerb
    start: float = 0.0
    end: float = 0.0
    establish: float = 0.0
    new_view: float | Literal["steps"] | None = None
    policy: str = ""

    def __post_init__(self) -> None:
        if self.verb not in get_args(SteerVerb):
            raise FieldError("verb", self.verb, f"it must be one of {', '.join(get_args(SteerVerb))}")
        if not all(map(math.isfinite, (self.seconds, self.start, self.end))):
            shown = f"{self.start:g}-{self.end:g} at {self.seconds:g} s"
            raise FieldError(self.verb, (self.start, self.end), "times must be finite", shown)
        knobs = knobs_of(MemoryConfig)
        knobs["establish"].check(self.establish)
        if self.new_view is not None:
            knobs["new_view"].check(self.new_view)
        if (self.verb == "policy") != bool(self.policy):
            raise FieldError("policy", self.policy, "name it, such as stratified; 'plugins' lists what is installed")

    @property
    def is_span(self) -> bool:
        """Whether it applies to a span of seconds."""
        return self.verb not in ("establish", "policy")


@dataclass(frozen=True)
class MemoryConfig:
    """How the take remembers itself. Spans are (from, to), in seconds of the take.

    Attributes:
        gpu_gib, host_gib: budgets of the page cache; `auto` is the GPU memory that is free when the take begins.
        pin: spans to bring back once they have left the window; they get at most half of memory.
        admit_above: minimum similarity to an anchor; None admits everything.
        prompt_weight: w in the score (1 - w) cos(latents) + w cos(prompts).
        like_words: minimum similarity of prompts if they are part of the score; it does not apply to pins.
        diversity: d in maximal marginal relevance.
        establish: seconds admitted of each new view; 0 admits everything.
        new_view: cosine similarity below which a view is new; `steps`, or None, derives it from the take's own steps.
        policy: picks among what is left after pins and stratified frames.
        steering: changes to what is pinned, excluded or admitted, and to the policy, while the take runs.

    Raises:
        FieldError: if a field is invalid; names the field, the value and what is expected.
    """

    enabled: Annotated[bool, Knob("--memory", "Retrieve past frames or not (the native backbone).")] = True
    encoder: Annotated[EncoderKind, _pages("--encoder", "How frames are embedded for memory search.")] = "autoencoder"
    gpu_gib: Annotated[
        float | Literal["auto"],
        _pages(
            "--page-gpu-gib",
            "GPU memory for the page cache; auto uses what is free. The K pages of one block always fit.",
            was="--memory-gpu-gib",
            word="auto",
            **GIB,
        ),
    ] = "auto"
    host_gib: Annotated[
        float,
        _pages(
            "--page-host-gib",
            "Host memory for the page cache; pinned if there is a GPU.",
            was="--memory-host-gib",
            **GIB,
        ),
    ] = 8.0
    page_precision: Annotated[
        PagePrecision,
        _pages("--page-precision", "Precision of pages in host memory; float8 has one scale per layer and head."),
    ] = "same"
    stale_pages: Annotated[
        StalePages,
        _pages("--stale-pages", "Remake pages made before the last cue when they come back, or keep them as they are."),
    ] = "remake"
    exclude: Annotated[
        tuple[Span, ...], _search("--exclude", "Span of seconds that is never brought back. Repeat for more.")
    ] = ()
    pin: Annotated[
        tuple[Span, ...], _search("--pin", "Span of seconds that is brought back first. Repeat for more.")
    ] = ()
    anchor: Annotated[
        Span | None, _search("--anchor", "Span of seconds that frames are compared with, for --admit-above.")
    ] = None
    admit_above: Annotated[
        float | None,
        _search(
            "--admit-above", "Only remember frames at least this similar (cosine) to a frame of --anchor.", **COSINE
        ),
    ] = None
    prompt_weight: Annotated[
        float, _search("--prompt-weight", "Weight of prompt similarity in memory search.", **SHARE)
    ] = 0.0
    like_words: Annotated[
        float,
        _search(
            "--like-words",
            "With --prompt-weight: only bring back frames whose prompt is at least this similar (MaxSim) to the "
            "current one; of frames of other scenes, none if the prompt says the very words of an earlier scene; and "
            "none at all for the first block after such a prompt. With --establish: a prompt less similar to those of "
            "all that memory holds opens it.",
            **SHARE,
        ),
    ] = 0.5
    diversity: Annotated[
        float,
        _search(
            "--diversity", "0 picks the most similar frames; towards 1, frames that differ from each other.", **SHARE
        ),
    ] = 0.0
    spread: Annotated[
        int,
        _search(
            "--stratified",
            "How many of memory's frames are a stratified sample of the past, one from each of as many stretches.",
            at_least=0,
            was="--spread",
        ),
    ] = 0
    establish: Annotated[
        float,
        _search(
            "--establish",
            "Keep only first showings in memory: this many seconds of each new view.",
            at_least=0,
            at_most=MAX_SECONDS,
            unit="seconds",
            off="Keep all past frames in memory, not only first showings.",
        ),
    ] = 0.0
    new_view: Annotated[
        float | Literal["steps"] | None,
        _search(
            "--new-view",
            "For --establish: a view is new if its similarity (cosine, -1 to 1) to everything in memory is below X. "
            "With steps, the default where the preset sets no number, X is 1 minus ten times the take's median step, "
            "the distance from an admitted frame to the nearest one admitted before it.",
            word="steps",
            **COSINE,
        ),
    ] = None
    policy: Annotated[str, _pages("--policy", "How past frames are picked; 'plugins' lists installed policies.")] = (
        SEARCH
    )
    retry: Annotated[
        int,
        _pages(
            "--retry",
            "Remake a block, up to this many times, if it is less similar to the frames memory brought back than they "
            "are to each other; the best is kept.",
            at_least=0,
            at_most=MAX_RETRIES,
        ),
    ] = 0
    remember: Annotated[
        tuple[str, ...],
        _search("--remember", "Remember another take's frames from the start: TAKE or TAKE@FROM-TO. Repeat for more."),
    ] = ()
    steering: tuple[Steering, ...] = ()

    def __post_init__(self) -> None:
        for name in ("exclude", "pin"):
            object.__setattr__(self, name, tuple(_as_span(name, span) for span in getattr(self, name)))
        if self.anchor is not None:
            object.__setattr__(self, "anchor", _as_span("anchor", self.anchor))
        object.__setattr__(self, "remember", tuple(self.remember))
        object.__setattr__(self, "steering", _as_steering(self.steering))
        check_knobs(self)
        self._check_gate()

    def _check_gate(self) -> None:
        if (self.anchor is None) != (self.admit_above is None):
            one, other = ("anchor", "admit_above") if self.admit_above is None else ("admit_above", "anchor")
            claim = (Name(one), " is set but ", Name(other), " is not")
            raise FieldError(other, None, "the gate needs both", claim=claim)

    def with_steering(self, steering: Iterable[Steering]) -> MemoryConfig:
        """The config after applying `steering`: its spans added, and the last gate and policy."""
        spans: dict[str, list[Span]] = {"pin": list(self.pin), "exclude": list(self.exclude)}
        establish, new_view, policy = self.establish, self.new_view, self.policy
        for steer in sorted(steering, key=lambda steer: steer.seconds):
            span = (steer.start, steer.end)
            if steer.verb in spans:
                spans[steer.verb].append(span)
            elif steer.is_span:
                kept = steer.verb.removeprefix("un")
                spans[kept] = [each for each in spans[kept] if each != span]
            elif steer.verb == "policy":
                policy = steer.policy
            else:
                establish, new_view = steer.establish, new_view if steer.new_view is None else steer.new_view
        pin, exclude = tuple(spans["pin"]), tuple(spans["exclude"])
        return replace(
            self, pin=pin, exclude=exclude, establish=establish, new_view=new_view, policy=policy, steering=()
        )

    @property
    def budgets(self) -> PageBudgets:
        """Budgets of the page cache, in bytes."""
        return PageBudgets(
            gpu_bytes=None if self.gpu_gib == "auto" else int(self.gpu_gib * 2**30),
            host_bytes=int(self.host_gib * 2**30),
            precision=self.page_precision,
            remake_stale=self.stale_pages == "remake",
        )


@dataclass(frozen=True)
class OutputConfig:
    """Size and frame rate of the video.

    Attributes:
        height, width: size in pixels, before upscaling.
        fps: pixel frames per second.
        upscale: factor by which each side of the written video is enlarged.
    """

    height: Annotated[int, Knob("--height", "Height in pixels, before upscaling.", at_least=1, at_most=MAX_PIXELS)] = (
        480
    )
    width: Annotated[int, Knob("--width", "Width in pixels, before upscaling.", at_least=1, at_most=MAX_PIXELS)] = 832
    fps: Annotated[int, Knob("--fps", "Frames per second of the video.", at_least=1, at_most=MAX_FPS)] = 16
    upscale: Annotated[int, Knob("--upscale", "Upscaling factor for each side of the video.", at_least=1)] = 1

    def __post_init__(self) -> None:
        check_knobs(self)
        for name in ("height", "width"):
            side = getattr(self, name) * self.upscale
            if side > MAX_PIXELS:
                wanted = f"each side of a video can have at most {MAX_PIXELS} pixels"
                raise FieldError("upscale", self.upscale, wanted, f"{self.upscale}, which makes the {name} {side}")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints from which a take can be resumed.

    Attributes:
        mode: `exact` resumes bit for bit as if nothing had happened; `light` stores nothing and recomputes the
            window's keys and values from latents, which is close.
        gib: disk space for checkpoints; once it is used up, no more are written, and resuming repeats the commits
            since the newest one.

    Raises:
        FieldError: if a field is invalid; names the field, the value and what is expected.
    """

    mode: Annotated[
        CheckpointMode,
        Knob(
            "--checkpoint",
            "Store checkpoints, so that the take can be resumed exactly, or store none (light), so that a resumed take "
            "is close to, but not the same as, an uninterrupted one.",
        ),
    ] = "exact"
    gib: Annotated[float, Knob("--checkpoint-gib", "Disk space for checkpoints.", **GIB)] = 4.0

    def __post_init__(self) -> None:
        check_knobs(self)

    def changed(self, mode: CheckpointMode | None, gib: float | None) -> CheckpointConfig:
        """A copy with the values that are not None."""
        return replace(self, mode=mode or self.mode, gib=self.gib if gib is None else gib)


def checkpoint_spacing(blocks: int, every_blocks: int) -> int:
    """Number of blocks from one checkpoint to the next, once a take has `blocks` blocks.

    Args:
        every_blocks: checkpoints are written after multiples of this many blocks.
    """
    return max(1, blocks // BLOCKS_PER_REPEATED // every_blocks) * every_blocks


PARTS: dict[str, Any] = {
    "context": ContextConfig, "memory": MemoryConfig, "sampler": SamplerConfig, "output": OutputConfig,
}  # fmt: skip
"""Parts of a request that a backbone's preset fills in, by name."""


@dataclass(frozen=True)
class Cue:
    """A prompt and the second of the take at which it takes over.

    Attributes:
        cut: whether it begins another shot: the picture does not continue, and memory is all that is left of the past.
    """

    seconds: float
    prompt: str
    cut: bool = False


@dataclass(frozen=True)
class Reseed:
    """A noise seed and the second of the take at which it takes over, from the next block on like a cue."""

    seconds: float
    seed: int


@dataclass(frozen=True)
class TakeRequest:
    """Everything that determines what a take shows; equal requests on one machine give equal takes.

    Attributes:
        prompt: the first prompt.
        seconds: length of the take.
        cues: prompts that take over later.
        seed: seed of the noise.
        context, sampler, memory, output: see their classes.
        start_image: a PNG or JPEG file that becomes the first latent frame.
        reseeds: seeds that take over later, as in a branch.

    Raises:
        ValueError: if the request is invalid; names the field, the value and what is expected. A `FieldError` if a
            single field is to blame.
    """

    prompt: str
    seconds: float
    cues: tuple[Cue, ...] = ()
    seed: Annotated[int, Knob("--seed", "Noise seed; the same seed gives the same take.")] = 0
    context: ContextConfig = field(default_factory=ContextConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    start_image: str | None = None
    reseeds: tuple[Reseed, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cues", _as_cues(self.cues))
        check_knobs(self)
        if not self.memory.enabled and self.context.memory_frames:
            object.__setattr__(self, "context", replace(self.context, memory_frames=0))
        check_seconds(self.seconds, self.output.fps)
        for seed in (self.seed, *(reseed.seed for reseed in self.reseeds)):
            if not 0 <= seed < 2**64:
                raise FieldError("seed", seed, "it must be a whole number from 0 to 2**64 - 1")
        for position, prompt in enumerate([self.prompt, *(cue.prompt for cue in self.cues)]):
            where = "the prompt" if position == 0 else f"the prompt of cue {position}"
            if not _is_text(prompt):
                raise ValueError(f"{where} is not valid UTF-8: {prompt!a}")
            if not prompt.strip():
                wanted = "describe what to show, such as 'a red circle walks in a meadow'"
                raise FieldError("prompt", prompt, wanted, claim=f"{where} is empty")
        self._check_cues()
        self._check_spans()

    def _check_spans(self) -> None:
        memory = self.memory.with_steering(self.memory.steering)
        anchors = [memory.anchor] if memory.anchor else []
        for steer in self.memory.steering:
            if not 0 <= steer.seconds < self.seconds:
                what = f"{steer.start:g}-{steer.end:g}" if steer.is_span else steer.policy or f"{steer.establish:g}"
                raise ValueError(
                    f"{steer.verb} {what} is at {steer.seconds:g} s; it must be within the take, 0-{self.seconds:g} s"
                )
            if steer.verb in ("pin", "exclude"):
                self._check_span(steer.verb, (steer.start, steer.end), f"the direction at {steer.seconds:g} s")
        for name, spans in (("exclude", memory.exclude), ("pin", memory.pin), ("anchor", anchors)):
            for span in spans:
                self._check_span(name, span)
        for pinned, excluded in _overlapping(memory.pin, memory.exclude):
            shown = f"{pinned[0]:g}-{pinned[1]:g} s, but {excluded[0]:g}-{excluded[1]:g} s is excluded"
            raise FieldError("pin", pinned, "drop one of them", shown)
        self._check_remember()
        if memory.spread > self.context.memory_frames:
            shown = f"{memory.spread}, but memory brings back {self.context.memory_frames} frames"
            raise FieldError("spread", memory.spread, shown=shown)

    def _check_span(self, name: str, span: Span, where: str = "") -> None:
        start, end = span
        if not 0 <= start < end or not start < self.seconds:
            wanted = f"it must begin within the take, 0-{self.seconds:g} s, and end after it begins"
            shown = f"{start:g}-{end:g} s"
            claim = f"{name} is {shown}" if where else None  # a direction is not an option of the command line
            raise FieldError(name, span, wanted, shown, claim, where)

    def _check_remember(self) -> None:
        if not self.memory.remember:
            return
        first, rope = self.memory.remember[0], self.context.rope
        if rope != "relative":
            shown = (f"{first!r}, but ", Name("rope"), f" is {rope!r}")
            wanted = ("another take's frames have no frame number in this one: use ", Name("rope"), " 'relative'")
            raise FieldError("remember", first, wanted, shown)
        if not self.context.memory_frames:
            raise FieldError("remember", first, "turn memory on", f"{first!r}, but memory is off")

    def _check_cues(self) -> None:
        previous = 0.0
        for number, cue in enumerate(self.cues, start=1):
            if not math.isfinite(cue.seconds) or cue.seconds <= 0:
                wanted = (
                    "a cut must come after the start of the first shot"
                    if cue.cut
                    else ("a cue must come after the start, where the prompt applies")
                )
                raise ValueError(f"cue {number} is at {cue.seconds:g} s; {wanted}")
            if cue.seconds <= previous:
                raise ValueError(
                    f"cue {number} is at {cue.seconds:g} s, not after the one before it at {previous:g} s; "
                    "put cues in order"
                )
            if cue.seconds >= self.seconds:
                raise ValueError(
                    f"cue {number} is at {cue.seconds:g} s, past the end of a {self.seconds:g} s take; "
                    "move it before the end"
                )
            previous = cue.seconds

    @property
    def pixel_frames(self) -> int:
        """Number of pixel frames in the finished video."""
        return round(self.seconds * self.output.fps)


def check_seconds(seconds: float, fps: int) -> None:
    """Raise FieldError unless a take of `seconds` at `fps` has at least one frame and lasts at most a day."""
    if not 0 <= seconds <= MAX_SECONDS or round(seconds * fps) < 1:
        raise FieldError("seconds", seconds, f"it must be from {1 / fps:g} (one frame) to {MAX_SECONDS} (a day)")


def _is_text(words: str) -> bool:
    """Whether a string has no lone surrogates, which is how invalid UTF-8 arrives from a shell."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in words)


def _as_span(name: str, span: Iterable[float]) -> Span:
    times = tuple(float(value) for value in span)
    if len(times) != 2 or not all(map(math.isfinite, times)):
        raise FieldError(name, times, "a span has a start and an end in seconds, such as (2, 3.5)")
    return times[0], times[1]


def _overlapping(spans: Sequence[Span], others: Iterable[Span]) -> Iterator[tuple[Span, Span]]:
    """Each span that overlaps one of `others`, with that one; in n log n, because a document may hold many."""
    ordered = sorted(others)
    latest_end = list(accumulate((end for _, end in ordered), max))
    for span in spans:
        before = bisect_left(ordered, (span[1],))  # those that begin before it ends
        if before and latest_end[before - 1] > span[0]:
            yield span, next(other for other in ordered[:before] if other[1] > span[0])


def _as_steering(steering: Iterable[Steering | Mapping[str, Any]]) -> tuple[Steering, ...]:
    return tuple(steer if isinstance(steer, Steering) else Steering(**steer) for steer in steering)


def _as_cues(cues: Iterable[Cue | tuple[float, str]]) -> tuple[Cue, ...]:
    return tuple(cue if isinstance(cue, Cue) else Cue(float(cue[0]), *cue[1:]) for cue in cues)
