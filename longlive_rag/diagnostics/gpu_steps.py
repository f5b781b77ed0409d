"""The steps of a GPU report. Each returns a JSON-serializable dict; none depends on another's success."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from backbone.compiling import compile_decoder_for, compile_for, missing_for_compiling
from backbone.tiny_decoder import StreamingTinyDecoder
from backbone.vae import StreamingDecoder, lay_out_vae
from longlive_rag.config import TakeRequest
from longlive_rag.diagnostics.bench import request_of, run, warm_up_blocks
from longlive_rag.diagnostics.footprint import peak_resident_bytes, reset_peak
from longlive_rag.diagnostics.subjects import PROMPT, SHAPES, Shape, random_pipeline
from longlive_rag.generation.directions import retrieval_rules
from longlive_rag.generation.noise import PhiloxNoise
from longlive_rag.generation.rollout import Rollout
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.precision import pick_precision

ESTABLISH_S = 8.0
"""As in the preset `longlive-rag`."""
PROFILED_GPU_GIB = 4.0
"""Budget for pages when the transformer is measured alone: more than first showings need."""


class NotHereError(Exception):
    """Raised if this machine lacks what is to be measured."""


class MakeTake(Protocol):
    """Makes a take as `generate` does."""

    def __call__(self, backbone: Path, prompt: str, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Make a take and return its record as JSON-serializable values.

        Args:
            backbone: a pipeline folder.
            prompt: the take's prompt.
            folder: the take's folder.
            options: `seconds`, `memory` (a bool), `device`, `dtype`, `decoder`.
        """
        ...


@dataclass(frozen=True)
class Task:
    """What a step measures, and in what time.

    Attributes:
        shape, device, dtype: of the backbone.
        seconds: how long the step should take.
        work: a folder for large files, removed in the end.
        take_seconds: length of a take made end to end, if there is time for it.
        known: results of other steps, by name.
    """

    shape: str
    device: str
    dtype: str
    seconds: float
    work: Path
    take_seconds: float
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def knowing(self, results: Mapping[str, Mapping[str, Any]]) -> Task:
        """Return this task with the results of other steps."""
        return replace(self, known=results)

    @property
    def sizes(self) -> Shape:
        """Sizes of the backbone."""
        return SHAPES[self.shape]

    @property
    def on(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def kind(self) -> torch.dtype:
        """The dtype of the transformer."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind

    @property
    def tokens(self) -> tuple[int, int]:
        """Number of tokens of a block, and of a full context."""
        height, width = self.sizes.latent_size
        of_frame = (height // 2) * (width // 2)
        return self.sizes.context.frames_per_block * of_frame, self.sizes.context.window_frames * of_frame


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        about: short description.
        measure: performs it.
        least_s: roughly the seconds it needs on a GPU at full size.
        share: its share of spare time.
    """

    about: str
    measure: Callable[[Task, MakeTake], dict[str, Any]]
    least_s: float
    share: float = 0.0


# ---- tools ----


def wait_for(device: torch.device) -> None:
    """Wait until everything queued on a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, for_s: float = 0.3, at_least: int = 3) -> float:
    """Return the median seconds of a call, waiting for each one, after two to warm up."""
    times: list[float] = []
    for _ in range(2):
        work()
    wait_for(device)
    begin_s = time.perf_counter()
    while len(times) < at_least or time.perf_counter() - begin_s < for_s:
        start_s = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - start_s)
    return median(times)


def mean_seconds(work: Callable[[], object], device: torch.device, for_s: float = 0.3) -> float:
    """Return the mean seconds of a call when many are queued in a row, which keeps a GPU busy."""
    once_s = max(1e-6, seconds_of(work, device, for_s=0.0))
    runs = max(3, min(200, int(for_s / once_s)))
    wait_for(device)
    start_s = time.perf_counter()
    for _ in range(runs):
        work()
    wait_for(device)
    return (time.perf_counter() - start_s) / runs


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Yield a dict that is filled with the most that the `with` body allocates on a GPU, in total and on top."""
    peak: dict[str, int] = {}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    yield peak
    if device.type == "cuda":
        peak["gpu_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        peak["gpu_added_bytes"] = torch.cuda.max_memory_allocated(device) - before


def block_flop(sizes: Shape, tokens: int, seen: int, passes: int = 5, text: int = 512) -> dict[str, float]:
    """Return the FLOP of a block for matrix products and for attention, over a full context.

    Args:
        sizes: sizes of the backbone.
        tokens, seen: number of tokens of the block and of its context.
        passes: number of denoising steps plus the commit.
        text: number of text tokens.
    """
    width, layers = sizes.width, sizes.layers
    products = 2 * tokens * width * (6 * width + 2 * sizes.ffn_dim)
    attention = 4 * tokens * (seen + text) * width
    return {"products": float(passes * layers * products), "attention": float(passes * layers * attention)}


# ---- the steps ----


def machine(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Describe the machine, and measure its matrix products and memory alone."""
    del make_take
    device, sizes = task.on, task.sizes
    tokens, seen = task.tokens
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "host_bytes": psutil.virtual_memory().total,
        "host_free_bytes": psutil.virtual_memory().available,
        "tokens_per_block": tokens,
        "tokens_seen": seen,
        "flop_per_block": block_flop(sizes, tokens, seen),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        facts |= {
            "gpu": properties.name,
            "gpu_bytes": total,
            "gpu_free_bytes": free,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    a = torch.randn(tokens, sizes.width, device=device, dtype=task.kind)
    b = torch.randn(sizes.width, sizes.ffn_dim, device=device, dtype=task.kind)
    per_s = 2 * tokens * sizes.width * sizes.ffn_dim / mean_seconds(lambda: a @ b, device)
    facts["products_flop_per_s"] = per_s
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    facts["memory_bytes_per_s"] = 2 * source.numel() / mean_seconds(lambda: target.copy_(source), device)
    return facts


def attention(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Measure a block's attention over a full context: which kernel runs, and how fast each backend is."""
    del make_take
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device, sizes = task.on, task.sizes
    tokens, seen = task.tokens
    head = sizes.width // sizes.heads

    def random(length: int) -> Tensor:
        return torch.randn(1, length, sizes.heads, head, device=device, dtype=task.kind).transpose(1, 2)

    query, key, value = random(tokens), random(seen), random(seen)
    flop = 4 * tokens * seen * sizes.width

    def call() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    def figures() -> dict[str, Any]:
        taken_s = mean_seconds(call, device)
        return {"ms": 1000 * taken_s, "flop_per_s": flop / taken_s, "kernels": kernels_of(call, device)}

    backends: dict[str, Any] = {}
    names = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION") if device.type == "cuda" else ("MATH",)
    for name in names:
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                backends[name] = figures()
        except (RuntimeError, AttributeError) as error:
            backends[name] = {"error": " ".join(str(error).split())[:200]}
    return {"chosen": figures(), "backends": backends}


def kernels_of(call: Callable[[], object], device: torch.device) -> list[str]:
    """Name the kernels (on a CPU, operations) that a call runs, longest first."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as recorded:
        call()
        wait_for(device)
    return [kernel["name"] for kernel in _kernels(recorded, device)][:3]


def bench(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Run `longlive-rag bench` for native, first showings, and every frame searched."""
    del make_take
    end_s = time.monotonic() + 0.8 * task.seconds
    pipe = usual_pipeline(task)
    report = run(pipe, task.shape, PROMPT, ("native", "establish", "memory"), 12, deadline_s=end_s, behind=False)
    flop = sum(block_flop(task.sizes, *task.tokens).values())
    rooflines = {arm.arm: flop / arm.roofline_seconds for arm in report.arms}
    return {**report.as_dict(), "flop_per_block": flop, "roofline_flop_per_s": rooflines}


def transfer(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Measure moving a page between host and GPU, and first touching its host memory."""
    del make_take
    device, sizes = task.on, task.sizes
    of_frame = task.tokens[0] // sizes.context.frames_per_block
    page = 2 * sizes.layers * of_frame * sizes.width
    on_device = torch.zeros(page, dtype=task.kind, device=device)
    start_s = time.perf_counter()
    host = torch.empty(page, dtype=task.kind)
    host.zero_()
    touched_s = time.perf_counter() - start_s
    found: dict[str, Any] = {"page_bytes": host.nbytes, "first_touch_s": touched_s}
    found["pageable_to_gpu_bytes_per_s"] = host.nbytes / seconds_of(lambda: on_device.copy_(host), device)
    if device.type == "cuda":
        found |= _pinned_copies(host, on_device)
    found["pages_of_a_block_s"] = (
        sizes.context.memory_frames
        * host.nbytes
        / max(found.get("pinned_to_gpu_bytes_per_s", 0.0), found["pageable_to_gpu_bytes_per_s"])
    )
    return found


def _pinned_copies(host: Tensor, on_device: Tensor) -> dict[str, float]:
    """Measure the seconds to page-lock a host tensor, and the bytes per second to and from it then."""
    cuda, device = torch.cuda.cudart(), on_device.device
    start_s = time.perf_counter()
    torch.cuda.check_error(cuda.cudaHostRegister(host.data_ptr(), host.nbytes, 0))
    pin_s = time.perf_counter() - start_s
    try:
        to_gpu_s = mean_seconds(lambda: on_device.copy_(host, non_blocking=True), device)
        to_host_s = mean_seconds(lambda: host.copy_(on_device, non_blocking=True), device)
    finally:
        wait_for(device)
        cuda.cudaHostUnregister(host.data_ptr())
    return {
        "pin_s": pin_s,
        "pinned_to_gpu_bytes_per_s": host.nbytes / to_gpu_s,
        "gpu_to_pinned_bytes_per_s": host.nbytes / to_host_s,
    }


def profile(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Profile the kernels of a transformer block, native and with memory, and the gaps between them."""
    del make_take
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    pipe, device, found = new_pipeline(task), task.on, {}
    searched = replace(pipe.memory, establish=0.0, new_view=None, gpu_gib=PROFILED_GPU_GIB)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    warm = warm_up_blocks(pipe.context)
    for arm in ("native", "establish"):
        blocks = rollout_blocks(pipe, request_of(pipe, arm, PROMPT, searched, warm + 6))
        for _ in range(warm):
            blocks()
        wait_for(device)
        plain_s = seconds_of(blocks, device, for_s=0.0, at_least=2)
        with profiler(activities=activities) as recorded:
            blocks()
            wait_for(device)
        found[arm] = {"seconds_per_block": plain_s, **shares(recorded, device, plain_s)}
    return found


def rollout_blocks(pipe: LongLiveRAGPipeline, request: TakeRequest) -> Callable[[], object]:
    """Return a function that only makes a take's next block of latents."""
    memory, timeline = request.memory, pipe.timeline(request)
    factor = pipe.vae.config.scale_factor_spatial
    rollout = Rollout(
        pipe.transformer,
        request.context,
        request.sampler,
        PhiloxNoise([0]),
        (pipe.transformer.config.in_channels, request.output.height // factor, request.output.width // factor),
        encoder=pipe.encoder if request.context.memory_frames else None,
        rules=retrieval_rules(memory, timeline, request.context.window_frames),
        budgets=memory.budgets,
    )
    rollout.direct(pipe.embed([request.prompt]))
    return rollout.next_block


KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa", "mha"),
    "convolution": ("conv", "fprop", "winograd", "implicit"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "aten::mm", "aten::addmm", "aten::bmm", "splitk"),
    "copies": ("memcpy", "memset", "copy", "cat"),
}
"""Kinds of kernels by parts of their names, searched in this order; the rest is elementwise work."""


def kind_of(kernel: str) -> str:
    """Return what kind of work a kernel or operation does, by its name."""
    lower = kernel.lower()
    for kind, parts in KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return "elementwise"


def _kernels(recorded: Any, device: torch.device) -> list[dict[str, Any]]:
    """List {name, calls, seconds} of kernels (on a CPU, operations), longest first."""
    rows = []
    for event in recorded.key_averages():
        if device.type == "cuda":
            is_kernel = getattr(event, "device_type", None) == torch.autograd.DeviceType.CUDA
            micros = getattr(event, "self_device_time_total", None) or getattr(event, "self_cuda_time_total", 0.0)
        else:
            is_kernel, micros = event.key.startswith("aten::"), event.self_cpu_time_total
        if is_kernel and micros:
            rows.append({"name": event.key[:120], "calls": event.count, "seconds": micros / 1e6})
    return sorted(rows, key=lambda row: -row["seconds"])


def shares(recorded: Any, device: torch.device, block_s: float) -> dict[str, Any]:
    """Return the longest kernels, seconds by kind, and the part of a block's time without a running kernel."""
    kernels = _kernels(recorded, device)
    by_kind: dict[str, float] = {}
    for kernel in kernels:
        kind = kind_of(kernel["name"])
        by_kind[kind] = by_kind.get(kind, 0.0) + kernel["seconds"]
    launches = sum(event.count for event in recorded.key_averages() if "aunchKernel" in event.key)
    return {
        "by_kind_s": by_kind,
        "gaps_s": max(0.0, block_s - sum(by_kind.values())),
        "launches": launches,
        "kernels": kernels[:25],
    }


def vae(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Measure ways to decode a block: milliseconds, memory, and how far the pixels are from float32."""
    del make_take
    return decoded_ways(task, [name for name, way in DECODERS.items() if not way.compiled])


def vae_compiled(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Measure the same with a compiled decoder."""
    del make_take
    if task.on.type == "cpu":
        raise NotHereError("a compiled decoder is for GPUs")
    return decoded_ways(task, [name for name, way in DECODERS.items() if way.compiled])


def decoded_ways(task: Task, names: Sequence[str]) -> dict[str, Any]:
    """Measure some of `DECODERS`; each may fail alone, and none begins once the step's time is over."""
    end_s = time.monotonic() + task.seconds
    found: dict[str, Any] = {}
    exact: Tensor | None = None
    for name in names:
        way = DECODERS[name]
        if found and time.monotonic() > end_s:
            found[name] = {"skipped": "no time was left"}
            continue
        try:
            found[name], pixels = _decode_so(task, way)
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            continue
        if name == "float32":
            exact = pixels
        elif exact is not None and not way.tiny:
            found[name]["psnr_against_float32"] = _psnr(exact, pixels)
    return found


@dataclass(frozen=True)
class DecoderKind:
    """A way to decode."""

    dtype: str = "bfloat16"
    channels_last: bool = False
    compiled: bool = False
    tiny: bool = False


DECODERS = {
    "float32": DecoderKind("float32"),
    "bfloat16": DecoderKind(),
    "bfloat16, channels last": DecoderKind(channels_last=True),
    "tiny, float32": DecoderKind("float32", tiny=True),
    "tiny, bfloat16": DecoderKind(tiny=True),
    "bfloat16, compiled": DecoderKind(compiled=True),
    "bfloat16, channels last, compiled": DecoderKind(channels_last=True, compiled=True),
}


def _decode_so(task: Task, way: DecoderKind) -> tuple[dict[str, Any], Tensor]:
    pipe = new_pipeline(task, getattr(torch, way.dtype))
    device, frames = task.on, task.sizes.context.frames_per_block
    if way.channels_last:
        for module in pipe.vae.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                layout = torch.channels_last_3d if module.weight.ndim == 5 else torch.channels_last
                module.weight.data = module.weight.data.contiguous(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    shape = (1, 16, frames, *task.sizes.latent_size)
    blocks = [torch.randn(shape, generator=generator).to(device) for _ in range(3)]
    compile_s = compile_decoder_for(pipe.vae, frames, (16, *task.sizes.latent_size)) if way.compiled else 0.0
    with peak_memory(device) as peak:
        decoder = StreamingTinyDecoder(pipe.tiny_decoder) if way.tiny else StreamingDecoder(pipe.vae)
        start_s = time.perf_counter()
        first = [decoder.decode(block).float().cpu() for block in blocks]
        warm_s = time.perf_counter() - start_s
        taken_s = seconds_of(lambda: decoder.decode(blocks[0]), device, for_s=1.0, at_least=2)
    pixels = decoder.decode(blocks[0])
    figures = {
        "ms_per_block": 1000 * taken_s,
        "first_three_blocks_s": warm_s + compile_s,
        "to_host_ms": 1000 * seconds_of(lambda: _to_host(pixels, contiguous_first=False), device, for_s=0.2),
        "to_host_contiguous_first_ms": 1000 * seconds_of(lambda: _to_host(pixels, True), device, for_s=0.2),
        **peak,
    }
    if way.compiled:
        torch._dynamo.reset()
    return figures, torch.cat(first, dim=2)


def _to_host(pixels: Tensor, contiguous_first: bool) -> Tensor:
    """Convert pixels [B, 3, F, H, W] to what a video takes: [B, F, H, W, 3] uint8 on the host."""
    small = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
    return (small.contiguous() if contiguous_first else small).cpu()


def _psnr(exact: Tensor, other: Tensor) -> float:
    """Return the PSNR in decibels of pixels in [-1, 1]."""
    error = float((exact - other).square().mean())
    return float(10 * torch.log10(torch.tensor(4.0 / max(error, 1e-12))))


def generate(task: Task, make_take: MakeTake, memory: bool, decoder: str = "full") -> dict[str, Any]:
    """Make a take end to end as `generate` does, and return the times from its record."""
    backbone = saved_backbone(task)
    seconds = take_length(task)
    folder = task.work / f"take-{'memory' if memory else 'native'}-{decoder}"
    options = {
        "seconds": seconds, "memory": memory, "device": task.device, "dtype": task.dtype, "decoder": decoder,
    }  # fmt: skip
    reset_peak()
    with peak_memory(task.on) as peak:
        record = make_take(backbone, PROMPT, folder, options)
    timings, video = record["timings"], record["video"]
    return {
        "take_seconds": video["seconds"],
        "frames": video["frames"],
        "blocks": video["blocks"],
        "made_in_s": timings["seconds"],
        "frames_per_second": timings["frames_per_second"],
        "stages_per_block_s": {stage: took / video["blocks"] for stage, took in timings["by_stage"].items()},
        "load_seconds": record["run"]["load_seconds"],
        "run": record["run"],
        "memory": {name: record["memory"].get(name) for name in ("frames_retrieved", "frames_admitted", "pages")},
        "video_bytes": (folder / video["file"]).stat().st_size,
        "host_peak_bytes": peak_resident_bytes(),
        **peak,
    }


def take_length(task: Task) -> float:
    """Return the seconds of video that fit in the step's time, from 3 to the requested length."""
    fps, frames = 16, 4 * task.sizes.context.frames_per_block
    arms = {arm["arm"]: arm["seconds_per_block"] for arm in task.known.get("bench", {}).get("arms", ())}
    block_s = arms.get("establish", 1.5)
    around_s = 25.0 if task.device != "cpu" else 5.0
    fits = max(0.0, task.seconds - around_s) / (1.2 * block_s) * frames / fps
    return max(min(3.0, task.take_seconds), min(task.take_seconds, float(int(fits))))


def saved_backbone(task: Task) -> Path:
    """Return a pipeline folder of random weights, written once per run."""
    folder = task.work / task.shape
    if not (folder / "model_index.json").is_file():
        new_pipeline(task).save_pretrained(folder)
    return folder


def new_pipeline(task: Task, vae_dtype: torch.dtype = torch.float32) -> LongLiveRAGPipeline:
    """Make a pipeline of random weights in the task's shape, with the memory of the preset `longlive-rag`."""
    gc.collect()
    if task.on.type == "cuda":
        torch.cuda.empty_cache()
    return random_pipeline(task.shape, task.kind, task.on, vae_dtype, {"establish": ESTABLISH_S})


def usual_pipeline(task: Task) -> LongLiveRAGPipeline:
    """Make the same pipeline in the precision and layout that `generate` uses."""
    pipe = new_pipeline(task, getattr(torch, pick_precision(task.dtype, task.on.type).vae_dtype))
    lay_out_vae(pipe.vae)
    return pipe


def compiled(task: Task, make_take: MakeTake) -> dict[str, Any]:
    """Compile the transformer's layers; measure how long that takes, and the time per block then."""
    del make_take
    lacking = missing_for_compiling(task.on)
    if lacking or task.on.type == "cpu":
        raise NotHereError(lacking or "compiled layers are for GPUs")
    return compiled_beside_eager(task, compile_for)


def compiled_beside_eager(task: Task, compile_for: Callable[..., float]) -> dict[str, Any]:
    """Measure transformer blocks with memory before and after `compile_for` (see `backbone.compiling`)."""
    pipe = new_pipeline(task)
    warm = warm_up_blocks(pipe.context)
    request = request_of(pipe, "establish", PROMPT, replace(pipe.memory, gpu_gib=PROFILED_GPU_GIB), warm + 6)
    latent_shape = (pipe.transformer.config.in_channels, *task.sizes.latent_size)

    def block_seconds() -> float:
        blocks = rollout_blocks(pipe, request)
        for _ in range(warm):
            blocks()
        return seconds_of(blocks, task.on, for_s=0.0, at_least=4)

    eager_s = block_seconds()
    compile_s = compile_for(pipe.transformer, pipe.context, latent_shape)
    with peak_memory(task.on) as peak:
        start_s = time.perf_counter()
        compiled_s = block_seconds()
        around_s = time.perf_counter() - start_s
    return {
        "eager_s_per_block": eager_s,
        "compiled_s_per_block": compiled_s,
        "of_eager": compiled_s / eager_s,
        "compile_s": compile_s,
        "warm_up_and_blocks_s": around_s,
        **peak,
    }


STEPS: dict[str, Step] = {
    "machine": Step("matrix products and memory alone", machine, 15),
    "attention": Step("the attention kernel", attention, 12),
    "transfer": Step("pages between host and GPU", transfer, 5),
    "bench": Step("native, first showings, every frame searched", bench, 60, 3),
    "vae": Step("ways to decode", vae, 30, 1),
    "generate-memory": Step("a take with memory, end to end", lambda task, make: generate(task, make, True), 45, 2),
    "generate-native": Step("a take without memory, end to end", lambda task, make: generate(task, make, False), 40, 2),
    "profile": Step("kernels of a block", profile, 35, 1),
    "compiled": Step("compiled blocks", compiled, 60, 3),
    "vae-compiled": Step("decoding, compiled", vae_compiled, 45, 2),
    "generate-tiny": Step(
        "a take with memory and the tiny decoder", lambda task, make: generate(task, make, True, "tiny"), 35, 1
    ),
}
"""All steps, the most informative first."""
