"""Seconds per block and frames per second of real takes, compared with the block's matrix products alone.

Each arm makes a take as `generate` does, storing latents and writing video, in a temporary folder. It is measured after
a warm-up through the real path that fills the cache and the memory. Arms are interleaved block by block, so that a slow
minute of the machine affects all of them.
"""

from __future__ import annotations

import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from backbone.attention import attention
from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError
from backbone.transformer import CausalWanTransformer
from longlive_rag.config import Cue, MemoryConfig, TakeRequest
from longlive_rag.generation.behind import AHEAD
from longlive_rag.generation.block import Block
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.rights.provenance import Provenance
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.writer import TakeWriter
from longlive_rag.timeline import Timeline

TRANSFORMER_STAGES = ("recache", "retrieve", "assemble", "denoise", "commit", "encode")
OTHER_STAGES = ("decode", "store", "write", "checkpoint", "text")
STAGES = TRANSFORMER_STAGES + OTHER_STAGES
FPS_DEFINED = {
    "transformer": "finding past frames, denoising and committing, nothing else",
    "decoded": "the transformer, then pixels in host memory",
    "written": "all that `generate` does, one after the other: latents and checkpoints stored, video written",
    "generate": "all of it as `generate` does it, while the next block is being denoised",
}
"""What each figure of frames per second counts."""
SIDE_BY_SIDE = (TRANSFORMER_STAGES, ("decode",), ("store", "checkpoint"), ("write",))
"""The groups of stages that `generate` runs at the same time, each in its own thread."""
EIGHT_LATENTS_S = 2.0


@dataclass(frozen=True)
class ArmKind:
    """What an arm's blocks do.

    Attributes:
        memory: whether past frames come back.
        cued: whether every block begins with a cue, so that the window is recached and retrieved pages are stale.
        keeps_pages: whether the page cache keeps pages; if not, each retrieved one is recomputed from its latent.
        establish_s: length of the first showings that memory keeps.
        gains: factors on memory's keys where there is only noise and where there is none; None leaves the preset's.
    """

    memory: bool = False
    cued: bool = False
    keeps_pages: bool = True
    establish_s: float = 0.0
    gains: tuple[float, float] | None = None


ARMS = {
    "native": ArmKind(),
    "memory": ArmKind(memory=True),
    "establish": ArmKind(memory=True, establish_s=EIGHT_LATENTS_S),  # soon closed
    "gain": ArmKind(memory=True, gains=(0.8, 1.8)),
    "remade": ArmKind(memory=True, keeps_pages=False),
    "cue": ArmKind(cued=True),
    "memory-cue": ArmKind(memory=True, cued=True),
}
"""The arms that can be measured."""


@dataclass(frozen=True)
class ArmFigures:
    """One arm's figures.

    Attributes:
        arm: a key of `ARMS`.
        seconds_per_block: median of everything that `generate` does.
        frames_per_second: pixel frames, by the keys of `FPS_DEFINED`; over all measured blocks together, so that
            occasional work, such as a checkpoint, counts as in a take. `generate` comes from another take of as many
            blocks and is left out if it was not requested.
        stages: median seconds per block of each stage; the mean for checkpoints, which not every block has.
        roofline_seconds: median of the block's matrix products and attention calls alone.
        over_roofline: the transformer's seconds as a multiple of the roofline.
        over_longest: seconds per block of `generate` as a multiple of the longest of `SIDE_BY_SIDE`: 1 if everything
            else is hidden behind it; None if `generate` was not requested.
        retrieved_frames: past frames in the context of the last block.
        pages: counters of the page cache, including the warm-up; None without memory.
    """

    arm: str
    seconds_per_block: float
    frames_per_second: dict[str, float]
    stages: dict[str, float]
    roofline_seconds: float
    over_roofline: float
    over_longest: float | None
    retrieved_frames: int
    pages: dict[str, float] | None


@dataclass(frozen=True)
class Report:
    """All arms of one run, and its conditions."""

    conditions: dict[str, Any]
    arms: list[ArmFigures]
    ratios: dict[str, float]
    peak_memory_bytes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return asdict(self)


def run(
    pipe: LongLiveRAGPipeline,
    name: str,
    prompt: str,
    arms: Sequence[str],
    blocks: int,
    progress: Callable[[str], None] = lambda _: None,
    memory: MemoryConfig | None = None,
    deadline_s: float | None = None,
    behind: bool = True,
) -> Report:
    """Measure `blocks` blocks of each arm, interleaved with their rooflines.

    Args:
        pipe: the backbone.
        name: how to name it in the report.
        prompt: prompt of the takes.
        arms: keys of `ARMS`.
        blocks: number of blocks to measure.
        progress: called with each line of progress.
        memory: settings of the arms with memory; by default the preset's, with every past frame searched.
        deadline_s: time of `time.monotonic` after which no round of blocks begins, except the first.
        behind: whether to also measure each arm as `generate` runs it, overlapped with the denoising of the next block.

    Raises:
        FieldError: for an unknown or repeated arm, or fewer than one block.
    """
    if not arms or len(set(arms)) < len(arms) or not set(arms) <= ARMS.keys():
        raise FieldError("arms", list(arms), f"name each of {','.join(ARMS)} at most once", repr(",".join(arms)))
    if blocks < 1:
        raise FieldError("blocks", blocks, "it must be at least 1")
    memory = memory or replace(pipe.memory, establish=0.0, new_view=None)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="longlive-rag-bench-")))
        running: list[_Arm] = []
        for arm_name in arms:  # warmed up one by one, because a page cache gets the memory that earlier arms left
            arm = _Arm(pipe, name, prompt, arm_name, memory, blocks, folder / arm_name)
            running.append(arm)
            held.callback(arm.close)
            progress(f"warming up {arm.name}: {arm.warm_up_blocks} blocks")
            arm.warm_up()
        ahead = AHEAD if behind else 0
        for block in range(blocks):
            if block and deadline_s is not None and time.monotonic() > deadline_s:
                break
            progress(f"block {block + 1} of {blocks}")
            for arm in running:
                arm.measure()
        figures = [arm.figures() for arm in running]
        for place, arm in enumerate(running if ahead else ()):
            progress(f"{arm.name} as generate runs it: {arm.warm_up_blocks + len(arm.totals)} blocks")
            arm.close()
            figures[place] = arm.overlapped(figures[place], arm.speed_behind(ahead))
    base = figures[0]
    ratios = {
        f"{other.arm}/{base.arm}": median(b / a for a, b in zip(running[0].totals, arm.totals, strict=True))
        for arm, other in zip(running[1:], figures[1:], strict=True)
    }
    conditions = _conditions(pipe, name, len(running[0].totals), running[0].warm_up_blocks)
    conditions["frames_per_second"] = {what: FPS_DEFINED[what] for what in base.frames_per_second}
    return Report(conditions, figures, ratios, _peak_memory(pipe.device))


def request_of(
    pipe: LongLiveRAGPipeline, arm: str, prompt: str, memory: MemoryConfig, blocks: int, cued_from: int = 0
) -> TakeRequest:
    """Return the request for an arm's take of so many blocks.

    Args:
        cued_from: the first block that begins with a cue, if the arm has cues.
    """
    kind, output, context = ARMS[arm], pipe.output, pipe.context
    length = Timeline(1, output.fps, pipe.context.frames_per_block, pipe.vae.config.scale_factor_temporal)
    if kind.establish_s:
        memory = replace(memory, establish=kind.establish_s, new_view=0.5)
    if not kind.keeps_pages:
        memory = replace(memory, gpu_gib=0.0, host_gib=0.0)
    if not kind.memory:
        memory = replace(memory, enabled=False)
    cues = tuple(Cue(length.starts_at(block), prompt) for block in range(max(1, cued_from), blocks) if kind.cued)
    if kind.gains:
        context = replace(context, first_gain=kind.gains[0], memory_gain=kind.gains[1])
    return pipe.request(prompt, seconds=length.starts_at(blocks), context=context, memory=memory, cues=cues)


def warm_up_blocks(context: ContextConfig) -> int:
    """Return how many blocks it takes until the window is full and K frames may be retrieved."""
    frames = context.window_frames + context.recency_guard_frames + context.memory_frames
    return -(-frames // context.frames_per_block) + 1


def run_of(pipe: LongLiveRAGPipeline, name: str) -> TakeRun:
    """Return what an arm's take is made with; unlike `LongLiveRAGPipeline.take_run`, also for one without a folder."""
    return TakeRun(
        backbone=name,
        folder=Path(name),
        device=str(pipe.device),
        dtype=str(pipe.transformer.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        noise=PhiloxNoise.name,
        decoder=pipe.decoder,
    )


class _Arm:
    """One arm's take, its roofline and its measurements."""

    def __init__(
        self,
        pipe: LongLiveRAGPipeline,
        subject: str,
        prompt: str,
        name: str,
        memory: MemoryConfig,
        blocks: int,
        folder: Path,
    ) -> None:
        self.name = name
        self.warm_up_blocks = warm_up_blocks(pipe.context)
        request = request_of(pipe, name, prompt, memory, self.warm_up_blocks + blocks, self.warm_up_blocks - 1)
        timeline = pipe.timeline(request)
        self._pipe, self._request, self._run, self._folder = pipe, request, run_of(pipe, subject), folder
        self._writer = self._new_writer(folder)
        self._stream: Iterator[Block] = pipe.stream(request, stores=[self._writer])
        self._is_open = True
        factor = pipe.vae.config.scale_factor_spatial
        self._roofline = Roofline(
            pipe.transformer, (request.output.height // factor, request.output.width // factor), request.context,
            request.sampler,
        )  # fmt: skip
        self._timeline = timeline
        self._frames = timeline.frames_per_block * timeline.temporal_factor
        self._stages: list[dict[str, float]] = []
        self._rooflines: list[float] = []
        self.totals: list[float] = []
        self._last: Block

    def warm_up(self) -> None:
        for _ in range(self.warm_up_blocks):
            self._block()
        self._roofline.measure()

    def measure(self) -> None:
        start_s = time.perf_counter()
        stages = self._block()
        self.totals.append(time.perf_counter() - start_s)
        self._stages.append(stages)
        self._rooflines.append(self._roofline.measure())

    def _block(self) -> dict[str, float]:
        self._last = next(self._stream)
        begin_s = time.perf_counter()
        self._writer.add(self._last)
        return {**self._last.seconds, "write": time.perf_counter() - begin_s}

    def close(self) -> None:
        """Finish the take and free its memory on the device."""
        if self._is_open:
            self._is_open = False
            self._stream.close()  # type: ignore[attr-defined]
            self._writer.finish("interrupted")
            del self._stream

    def speed_behind(self, ahead: int) -> float:
        """Return the frames per second of another take of as many blocks, with up to `ahead` blocks not yet written.

        Timed from when the last block of the warm-up is written until all blocks are.
        """
        request, blocks = self._request, self.warm_up_blocks + len(self.totals)
        shorter = replace(
            request, cues=tuple(cue for cue in request.cues if self._timeline.cue_block(cue.seconds) < blocks)
        )
        shorter = replace(shorter, seconds=self._timeline.starts_at(blocks))
        writer = self._new_writer(self._folder.with_name(f"{self._folder.name}-behind"), shorter)
        written_s: list[float] = []

        def write(block: Block) -> None:
            writer.add(block)
            written_s.append(time.perf_counter())

        for _ in self._pipe.stream(shorter, stores=[writer], then=write, ahead=ahead):
            pass
        writer.finish("finished")
        return self._frames * len(self.totals) / (written_s[-1] - written_s[self.warm_up_blocks - 1])

    def overlapped(self, figures: ArmFigures, speed: float) -> ArmFigures:
        """Return `figures` with the frames per second of `generate` added."""
        longest_s = max(sum(figures.stages[stage] for stage in stages) for stages in SIDE_BY_SIDE)
        return replace(
            figures,
            frames_per_second=figures.frames_per_second | {"generate": speed},
            over_longest=self._frames / speed / longest_s,
        )

    def _new_writer(self, folder: Path, request: TakeRequest | None = None) -> TakeWriter:
        request = request or self._request
        return TakeWriter(folder, request, self._pipe.timeline(request), self._run, provenance=Provenance())

    def figures(self) -> ArmFigures:
        stages = {stage: median(block.get(stage, 0.0) for block in self._stages) for stage in STAGES}
        stages["checkpoint"] = fmean(block.get("checkpoint", 0.0) for block in self._stages)
        alone = [
            total - sum(block.get(stage, 0.0) for stage in OTHER_STAGES)
            for total, block in zip(self.totals, self._stages, strict=True)
        ]
        seconds = {
            "transformer": sum(alone),
            "decoded": sum(alone) + sum(block.get("decode", 0.0) for block in self._stages),
            "written": sum(self.totals),
        }
        roofline, pages = median(self._rooflines), self._last.pages
        return ArmFigures(
            arm=self.name,
            seconds_per_block=median(self.totals),
            frames_per_second={what: self._frames * len(alone) / counted for what, counted in seconds.items()},
            stages=stages,
            roofline_seconds=roofline,
            over_roofline=median(alone) / roofline,
            over_longest=None,
            retrieved_frames=sum(len(selection.frames) for selection in self._last.selections),
            pages=pages.as_dict() if pages else None,
        )


class Roofline:
    """Only the matrix products and attention calls of one block, on the real weights.

    There is one pass per denoising step and one for the commit, each over a block's tokens and a full context; the
    commit needs only keys and values of the last layer.
    """

    def __init__(
        self,
        model: CausalWanTransformer,
        latent_size: tuple[int, int],
        context: ContextConfig,
        sampler: SamplerConfig,
    ) -> None:
        config = model.config
        per_frame = model.tokens_per_frame(latent_size)
        tokens, seen = context.frames_per_block * per_frame, context.window_frames * per_frame
        options = {"dtype": model.dtype, "device": model.device}
        heads = (config.num_attention_heads, config.attention_head_dim)
        self._model = model
        self._steps = len(sampler.denoising_steps)
        self._latents = torch.randn(1, config.in_channels, context.frames_per_block, *latent_size, **options)
        self._x = torch.randn(1, tokens, heads[0] * heads[1], **options)
        self._wide = torch.randn(1, tokens, config.ffn_dim, **options)
        self._query = torch.randn(1, tokens, *heads, **options)
        # Every layer reads its own context from memory, as in a real block.
        self._context = torch.randn(2, config.num_layers, 1, seen, *heads, **options)
        self._text = torch.randn(2, config.num_layers, 1, config.text_length, *heads, **options)

    @torch.no_grad()
    def measure(self) -> float:
        """Return the seconds of one block."""
        _synchronize(self._x.device)
        start = time.perf_counter()
        for _ in range(self._steps):
            self._pass()
        self._pass(commit=True)
        _synchronize(self._x.device)
        return time.perf_counter() - start

    def _pass(self, commit: bool = False) -> None:
        self._model.patch_embedding(self._latents)
        for layer, block in enumerate(self._model.layers):
            if commit and layer == len(self._model.layers) - 1:
                for linear in (block.attn1.to_k, block.attn1.to_v):
                    linear(self._x)
                return
            self_attention, cross_attention = block.attn1, block.attn2
            widen, narrow = (linear for linear in block.ffn.modules() if isinstance(linear, nn.Linear))
            for linear in (self_attention.to_q, self_attention.to_k, self_attention.to_v, *self_attention.to_out):
                linear(self._x)
            attention(self._query, self._context[0, layer], self._context[1, layer])
            for linear in (cross_attention.to_q, *cross_attention.to_out):
                linear(self._x)
            attention(self._query, self._text[0, layer], self._text[1, layer])
            widen(self._x)
            narrow(self._wide)
        self._model.proj_out(self._x)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _conditions(pipe: LongLiveRAGPipeline, name: str, blocks: int, warm_up: int) -> dict[str, Any]:
    model, output = pipe.transformer, pipe.output
    factor = pipe.vae.config.scale_factor_spatial
    latent_size = (output.height // factor, output.width // factor)
    return {
        "subject": name,
        "device": device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "vae_dtype": str(pipe.vae.dtype).removeprefix("torch."),
        "decoder": pipe.decoder,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vae_parameters": sum(parameter.numel() for parameter in pipe.vae.parameters()),
        "latent_shape": [model.config.in_channels, *latent_size],
        "tokens_per_frame": model.tokens_per_frame(latent_size),
        "video": f"{output.width * output.upscale}x{output.height * output.upscale} vp9",
        "context": asdict(pipe.context),
        "sigmas": [round(sigma, 4) for sigma in pipe.sampler.sigmas],
        "batch_size": 1,
        "blocks": blocks,
        "warm_up_blocks": warm_up,
    }


def device_name(device: torch.device) -> str:
    """Return the name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def _peak_memory(device: torch.device) -> dict[str, int]:
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = {"host_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(device)
    return peak
