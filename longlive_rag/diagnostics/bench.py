"""Seconds per block, beside what the block's matrix products and attention calls alone would take.

Figures are medians over blocks of one run, taken after a warm-up through the real path until the cache and the memory
are full. Arms are interleaved, block by block, so that a slow minute of the machine hits all of them.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from backbone.attention import attention
from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError, Name
from backbone.transformer import CausalWanTransformer
from backbone.vae import StreamingDecoder
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.generation.stopwatch import Stopwatch
from longlive_rag.pipeline import LongLiveRAGPipeline
from retrieval.budgets import PageBudgets
from retrieval.encoder import LatentAutoencoder, LatentEncoder, MeanPoolEncoder
from retrieval.policy import RetrievalRules

STAGES = ("recache", "retrieve", "assemble", "denoise", "commit", "encode", "decode")


@dataclass(frozen=True)
class ArmKind:
    """What an arm's blocks do.

    Attributes:
        memory: past frames come back.
        cued: every block begins with a cue, so the window is recached, and pages are stale when they come back.
        budgets: of the pages, whatever the run's are.
        rules: what is admitted and picked.
    """

    memory: bool = False
    cued: bool = False
    budgets: PageBudgets | None = None
    rules: RetrievalRules | None = None


ARMS = {
    "native": ArmKind(),
    "memory": ArmKind(memory=True),
    "establish": ArmKind(memory=True, rules=RetrievalRules(establish_frames=8, new_view=0.5)),  # soon closed
    "remade": ArmKind(memory=True, budgets=PageBudgets(gpu_bytes=0, host_bytes=0)),
    "cue": ArmKind(cued=True),
    "memory-cue": ArmKind(memory=True, cued=True),
}
"""What can be measured. `remade` keeps no page, so each that comes back is made again from its latent."""


@dataclass(frozen=True)
class Shape:
    """A backbone of random weights, for comparisons that need no checkpoint.

    Attributes:
        width, heads, layers, ffn_dim: of the transformer.
        latent_size: (height, width) of a latent frame.
        context: what a block sees.
    """

    width: int
    heads: int
    layers: int
    ffn_dim: int
    latent_size: tuple[int, int]
    context: ContextConfig


SHAPES = {
    "bench-small": Shape(384, 3, 6, 2240, (30, 52), ContextConfig()),
    "wan-1.3b": Shape(1536, 12, 30, 8960, (60, 104), ContextConfig()),
}


@dataclass(frozen=True)
class Subject:
    """What is measured: a backbone and everything that a block needs.

    Attributes:
        name: preset, folder or shape.
        transformer: the backbone, on its device in its dtype.
        encoder: for memory.
        decoder: makes a fresh streaming decoder; None where there is no VAE, and then nothing is decoded.
        prompt_embeds: [1, text tokens, text_dim].
        latent_shape: (C, h, w).
        pixel_frames_per_block: of every block but the first.
        context, sampler: the preset.
    """

    name: str
    transformer: CausalWanTransformer
    encoder: LatentEncoder
    decoder: Callable[[], StreamingDecoder] | None
    prompt_embeds: Tensor
    latent_shape: tuple[int, int, int]
    pixel_frames_per_block: int
    context: ContextConfig
    sampler: SamplerConfig


@dataclass(frozen=True)
class ArmFigures:
    """Medians of one arm.

    Attributes:
        arm: a key of `ARMS`.
        seconds_per_block: end to end.
        frames_per_second: pixel frames, end to end (transformer only where there is no VAE to decode with).
        transformer_frames_per_second: the same without decoding.
        stages: seconds per block of each stage.
        roofline_seconds: the block's matrix products and attention calls alone.
        over_roofline: the block without decoding, as a multiple of the roofline.
        retrieved_frames: past frames in the context of the last block.
        pages: what the page cache did, warm-up included; None without memory.
    """

    arm: str
    seconds_per_block: float
    frames_per_second: float
    transformer_frames_per_second: float
    stages: dict[str, float]
    roofline_seconds: float
    over_roofline: float
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
        """Plain data for JSON."""
        return asdict(self)


def random_subject(shape: str, dtype: torch.dtype, device: torch.device) -> Subject:
    """A backbone of random weights in one of `SHAPES`; seeded, so that every run does the same work."""
    sizes = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device(device):
        transformer = CausalWanTransformer(
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.width // sizes.heads,
            num_layers=sizes.layers,
            ffn_dim=sizes.ffn_dim,
        )
        config = transformer.config
        encoder = LatentAutoencoder(config.in_channels, *sizes.latent_size).eval()
        embeds = torch.randn(1, config.text_length, config.text_dim)
    return Subject(
        name=shape,
        transformer=transformer.to(dtype).eval(),
        encoder=encoder,
        decoder=None,
        prompt_embeds=embeds,
        latent_shape=(config.in_channels, *sizes.latent_size),
        pixel_frames_per_block=4 * sizes.context.frames_per_block,
        context=sizes.context,
        sampler=SamplerConfig(),
    )


def pipeline_subject(pipe: LongLiveRAGPipeline, name: str, prompt: str) -> Subject:
    """The backbone of an opened pipeline folder, at its preset's size."""
    factor = pipe.vae.config.scale_factor_spatial
    size = (pipe.output.height // factor, pipe.output.width // factor)
    return Subject(
        name=name,
        transformer=pipe.transformer,
        encoder=pipe.encoder if pipe.encoder is not None else MeanPoolEncoder(),
        decoder=lambda: StreamingDecoder(pipe.vae),
        prompt_embeds=pipe.embed([prompt]),
        latent_shape=(pipe.transformer.config.in_channels, *size),
        pixel_frames_per_block=pipe.context.frames_per_block * pipe.vae.config.scale_factor_temporal,
        context=pipe.context,
        sampler=pipe.sampler,
    )


def run(
    subject: Subject,
    arms: Sequence[str],
    blocks: int,
    progress: Callable[[str], None] = lambda _: None,
    budgets: PageBudgets | None = None,
) -> Report:
    """Measure `blocks` blocks of each arm, interleaved with their rooflines; `budgets` are of the memory's pages.

    Raises:
        FieldError: for an unknown arm, the same one twice, or fewer than one block.
    """
    if not arms or len(set(arms)) < len(arms) or not set(arms) <= ARMS.keys():
        claim = (Name("arms"), f" are {','.join(arms)!r}")
        raise FieldError("arms", list(arms), f"name each of {','.join(ARMS)} at most once", claim=claim)
    if blocks < 1:
        raise FieldError("blocks", blocks, "it must be at least 1")
    running = [_Arm(subject, arm, budgets or PageBudgets()) for arm in arms]
    for arm in running:
        progress(f"warming up {arm.name}: {arm.warm_up_blocks} blocks")
        arm.warm_up()
    for block in range(blocks):
        progress(f"block {block + 1} of {blocks}")
        for arm in running:
            arm.measure()
    figures = [arm.figures() for arm in running]
    base = figures[0]
    ratios = {
        f"{other.arm}/{base.arm}": median(b / a for a, b in zip(running[0].totals, arm.totals, strict=True))
        for arm, other in zip(running[1:], figures[1:], strict=True)
    }
    return Report(_conditions(subject, blocks, running[0].warm_up_blocks), figures, ratios, _peak_memory(subject))


class _Arm:
    """One arm's rollout, decoder, roofline and stopwatch readings."""

    def __init__(self, subject: Subject, name: str, budgets: PageBudgets) -> None:
        self.name = name
        self._subject = subject
        self._kind = ARMS[name]
        memory = self._kind.memory
        self._context = subject.context if memory else replace(subject.context, memory_frames=0)
        self._rollout = Rollout(
            subject.transformer,
            self._context,
            subject.sampler,
            PhiloxNoise([0]),
            subject.latent_shape,
            encoder=subject.encoder if memory else None,
            rules=self._kind.rules,
            budgets=self._kind.budgets or budgets,
        )
        self._rollout.direct(subject.prompt_embeds)
        self._decoder = subject.decoder() if subject.decoder else None
        self._roofline = Roofline(subject, self._context)
        self._stages: list[dict[str, float]] = []
        self._rooflines: list[float] = []
        self.totals: list[float] = []
        self._retrieved = 0

    @property
    def warm_up_blocks(self) -> int:
        """Until the window is full and K frames may be retrieved, by the larger of the arms."""
        context = self._subject.context
        frames = context.window_frames + context.recency_guard_frames + context.memory_frames
        return -(-frames // context.frames_per_block) + 1

    def warm_up(self) -> None:
        for left in reversed(range(self.warm_up_blocks)):
            self._block(self._kind.cued and not left)
        self._roofline.measure()

    def measure(self) -> None:
        start = time.perf_counter()
        self._stages.append(self._block(self._kind.cued))
        self.totals.append(time.perf_counter() - start)
        self._rooflines.append(self._roofline.measure())

    def _block(self, cued: bool = False) -> dict[str, float]:
        watch = Stopwatch(self._subject.transformer.device)
        if cued:
            self._rollout.direct(self._subject.prompt_embeds)
        finished = self._rollout.next_block()
        self._retrieved = sum(len(selection.frames) for selection in finished.selections)
        if self._decoder is not None:
            with watch.stage("decode"):
                self._decoder.decode(finished.latents.transpose(1, 2)).cpu()
        return {**finished.seconds, **watch.read()}

    def figures(self) -> ArmFigures:
        stages = {stage: median(block.get(stage, 0.0) for block in self._stages) for stage in STAGES}
        total, roofline = median(self.totals), median(self._rooflines)
        without_decode = median(t - s.get("decode", 0.0) for t, s in zip(self.totals, self._stages, strict=True))
        frames = self._subject.pixel_frames_per_block
        pages = self._rollout.page_counters()
        return ArmFigures(
            arm=self.name,
            seconds_per_block=total,
            frames_per_second=frames / total,
            transformer_frames_per_second=frames / without_decode,
            stages=stages,
            roofline_seconds=roofline,
            over_roofline=without_decode / roofline,
            retrieved_frames=self._retrieved,
            pages=pages.as_dict() if pages else None,
        )


class Roofline:
    """The matrix products and attention calls of one block, on the real weights, and nothing else.

    One pass a denoising step and one for the commit, each over a block's tokens and a full context; of the last layer
    the commit needs keys and values alone.
    """

    def __init__(self, subject: Subject, context: ContextConfig) -> None:
        model = subject.transformer
        config = model.config
        per_frame = model.tokens_per_frame(subject.latent_shape[1:])
        tokens, seen = context.frames_per_block * per_frame, context.window_frames * per_frame
        options = {"dtype": model.dtype, "device": model.device}
        heads = (config.num_attention_heads, config.attention_head_dim)
        self._model = model
        self._steps = len(subject.sampler.denoising_steps)
        self._latents = torch.randn(
            1, config.in_channels, context.frames_per_block, *subject.latent_shape[1:], **options
        )
        self._x = torch.randn(1, tokens, heads[0] * heads[1], **options)
        self._wide = torch.randn(1, tokens, config.ffn_dim, **options)
        self._query = torch.randn(1, tokens, *heads, **options)
        # Every layer reads its own context from memory, as in the real block.
        self._context = torch.randn(2, config.num_layers, 1, seen, *heads, **options)
        self._text = torch.randn(2, config.num_layers, 1, config.text_length, *heads, **options)

    @torch.no_grad()
    def measure(self) -> float:
        """Seconds of one block."""
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


def _conditions(subject: Subject, blocks: int, warm_up_blocks: int) -> dict[str, Any]:
    model = subject.transformer
    return {
        "subject": subject.name,
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latent_shape": list(subject.latent_shape),
        "tokens_per_frame": model.tokens_per_frame(subject.latent_shape[1:]),
        "context": asdict(subject.context),
        "sigmas": [round(sigma, 4) for sigma in subject.sampler.sigmas],
        "batch_size": 1,
        "blocks": blocks,
        "warm_up_blocks": warm_up_blocks,
        "includes_decode": subject.decoder is not None,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def _peak_memory(subject: Subject) -> dict[str, int]:
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = {"host_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if subject.transformer.device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(subject.transformer.device)
    return peak
