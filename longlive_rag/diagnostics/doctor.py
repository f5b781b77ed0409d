"""What this machine has, what is wrong with it, and whether a backbone would run on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from longlive_rag.presets.needs import Estimate
from longlive_rag.presets.precision import pick_precision
from longlive_rag.weights.findings import Finding
from retrieval.files import in_words

OLDEST_PYTHON = (3, 11)
LITTLE_DISK_BYTES = 2 * 10**9
MEASURED_SIZE = 1024
WELL_ABOVE_REAL_TIME = 100
MEASURED_SECONDS = 0.3
ASKING_SECONDS = 10
HOPPER = 9
"""Major compute capability of H100, H200 and GH200."""
TEXT_ADVICE = (
    "with a GPU it stays in host memory, where a prompt takes seconds to a minute; "
    "or embed prompts once (models embed-prompts) and generate with --prompt-embeds"
)


def examine(folder: Path) -> list[Finding]:
    """Examine this machine.

    Args:
        folder: where takes would be written.
    """
    return [
        _python(),
        *_torch(),
        _precision(),
        _faiss(),
        _codec(),
        _ffprobe(),
        _disk(folder),
        _memory(),
    ]


def device_memory() -> tuple[str, int]:
    """Return the device that `--device auto` picks, and its memory in bytes: the whole GPU's, or free host memory."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"GPU ({properties.name})", int(properties.total_memory)
    return "CPU", free_memory()


def free_memory() -> int:
    """Return the bytes of memory available now without swapping."""
    return int(psutil.virtual_memory().available)


def kind_of(device: str) -> str:
    """Return `cpu` or `cuda` for a device as named by `device_memory`."""
    return "cpu" if device == "CPU" else "cuda"


def flops_per_second(dtype: str) -> float:
    """Measure linear layers of this dtype on the device that `auto` picks, for a moment."""
    import torch
    from torch.nn.functional import linear

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(MEASURED_SIZE, MEASURED_SIZE, device=device, dtype=getattr(torch, dtype))
    for _ in range(2):
        linear(a, a)
    _wait(device)
    runs, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < MEASURED_SECONDS:
        for _ in range(4):
            linear(a, a)
        _wait(device)
        runs += 4
    return 2.0 * MEASURED_SIZE**3 * runs / (time.perf_counter() - begin)


def judge(needs: Estimate, device: str, memory_bytes: int, flops: float | None = None) -> list[Finding]:
    """Report whether a backbone fits on a device, how fast it would be, and what to change if not."""
    parts = ", ".join(f"{name} {in_words(count)}" for name, count in needs.bytes_by_part.items())
    fits = needs.device_bytes <= memory_bytes
    text_fits = needs.has_room_for_text(memory_bytes)
    findings = [
        Finding(
            "memory needed",
            f"about {in_words(needs.device_bytes)} of {in_words(memory_bytes)} on the {device}: {parts}",
            "ok" if fits else "bad",
            "" if fits else "a smaller --window, --height and --width, or --dtype bfloat16",
        ),
        Finding(
            "text encoder",
            f"{in_words(needs.text_encoder_bytes)} beside it, while a prompt is encoded",
            "ok" if text_fits else "note",
            "" if text_fits else TEXT_ADVICE,
        ),
        Finding("a past frame", f"{in_words(needs.page_bytes)} of keys and values while it is held in memory"),
    ]
    if flops is not None:
        speed = needs.frames_per_second(flops)
        slow = speed < 1
        findings.append(
            Finding(
                "speed",
                f"{_roughly(speed)} (transformer only; {flops / 1e12:.2g} TFLOP/s measured here)",
                "note" if slow else "ok",
                "a GPU, or a smaller backbone such as tiny-world" if slow else "",
            )
        )
    return findings


def _roughly(frames_per_second: float) -> str:
    """Put a speed in words; a small backbone is so fast that matrix products don't predict its speed."""
    if frames_per_second >= WELL_ABOVE_REAL_TIME:
        return f"more than {WELL_ABOVE_REAL_TIME} frames per second"
    if frames_per_second < 0.1:
        seconds = 1 / frames_per_second
        return f"roughly {seconds:.0f} s per frame" if seconds < 600 else f"roughly {seconds / 60:.0f} min per frame"
    return f"roughly {frames_per_second:.2g} frames per second"


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", found, "bad", "Python 3.11 or newer is needed")
    return Finding("Python", found)


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", f"can't be imported: {error}", "bad", "pip install torch, see docs/install.md")]
    threads = torch.get_num_threads()
    findings = [Finding("torch", f"{torch.__version__}, {threads} CPU {'thread' if threads == 1 else 'threads'}")]
    built = torch.version.cuda
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        facts = f"{in_words(gpu.total_memory)}, CUDA {built}, {_driver()}compute {gpu.major}.{gpu.minor}"
        findings.append(Finding("GPU", f"{gpu.name}, {facts}"))
    elif built is not None:
        findings.append(
            Finding("GPU", f"torch was built for CUDA {built}, but finds no GPU", "note", "check nvidia-smi")
        )
    elif shutil.which("nvidia-smi"):
        advice = "install the build of torch for your driver, see docs/install.md"
        findings.append(Finding("GPU", "present, but this torch was built for CPUs", "note", advice))
    else:
        findings.append(Finding("GPU", "none; tiny-world needs none, large backbones do", "note"))
    return [*findings, _attention(), *_compiling()]


def _compiling() -> list[Finding]:
    """Report whether `--compile auto` can compile on a GPU; on a CPU it never does."""
    import torch

    from backbone.compiling import missing_for_compiling

    if not torch.cuda.is_available():
        return []
    missing = missing_for_compiling(torch.device("cuda"))
    if missing is not None:
        return [
            Finding("compiling", f"not possible: {missing}", "note", "long takes are faster with it, see docs/gpus.md")
        ]
    return [Finding("compiling", "the layers of long takes are compiled; change it with --compile")]


def _attention() -> Finding:
    """Report which of torch's kernels computes attention."""
    import torch

    if not torch.cuda.is_available():
        return Finding("attention", "torch's own for CPUs")
    kernel, (major, _) = attention_kernel("cuda"), torch.cuda.get_device_capability(0)
    if major == HOPPER and kernel != "cudnn":
        advice = "cuDNN's is about twice as fast here; torch 2.11 and newer prefer it, see docs/install.md"
        return Finding("attention", kernel, "note", advice)
    return Finding("attention", kernel)


def attention_kernel(device: str) -> str:
    """Return what torch picks on a device for Wan2.1's heads in bfloat16: `cudnn`, `flash`, `efficient` or `math`."""
    import torch
    from torch.nn.attention import SDPBackend

    try:
        q = torch.zeros(1, 12, 128, 128, device=device, dtype=torch.bfloat16)
        name = str(SDPBackend(torch._fused_sdp_choice(q, q, q)).name)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return f"unknown ({error})"
    return name.removesuffix("_ATTENTION").lower()


def _precision() -> Finding:
    try:
        device, _ = device_memory()
    except (ImportError, OSError):
        return Finding("precision", "unknown without torch", "note")
    dtype, vae_dtype = pick_precision("auto", kind_of(device))
    why = (
        "CPUs are rarely faster in bfloat16"
        if device == "CPU"
        else "its tensor cores are many times faster in bfloat16"
    )
    return Finding("precision", f"{dtype} for backbones, {vae_dtype} for their VAEs: {why}; change it with --dtype")


def _driver() -> str:
    """Return the GPU's driver according to nvidia-smi, followed by a comma; empty if that fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ASKING_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = asked.stdout.split()
    return f"driver {lines[0]}, " if lines else ""


def _faiss() -> Finding:
    there = {}
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            there[name] = version(name)
        except PackageNotFoundError:
            continue
    if not there:
        return Finding("FAISS", "not installed", "bad", "pip install faiss-cpu")
    found = ", ".join(f"{name} {number}" for name, number in there.items())
    if len(there) > 1:
        return Finding("FAISS", found, "bad", "both have the same import name; keep one, see docs/install.md")
    try:
        import faiss
    except (ImportError, OSError) as error:
        return Finding(
            "FAISS", f"{found}, can't be imported: {error}", "bad", "pip install --force-reinstall faiss-cpu"
        )
    return Finding("FAISS", f"{found}, built with {faiss.get_compile_options().strip()}")


def _codec() -> Finding:
    try:
        from longlive_rag.media.video import CODECS, check_codec

        check_codec("vp9")
    except ValueError as error:
        return Finding("video", str(error), "bad", "pip install --force-reinstall av")
    except ImportError as error:
        return Finding("video", f"PyAV can't be imported: {error}", "bad", "pip install av")
    return Finding("video", f"PyAV {version('av')}, {CODECS['vp9'].encoder} ({CODECS['vp9'].license})")


def _ffprobe() -> Finding:
    where = shutil.which("ffprobe")
    return Finding("ffprobe", where or "none; only needed to inspect videos by hand")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{in_words(free)} free for {folder}"
    if not os.access(there, os.W_OK):
        return Finding("disk", f"{there} can't be written", "bad", "choose another folder with --takes")
    if free < LITTLE_DISK_BYTES:
        return Finding(
            "disk", found, "note", "free some space: a take is small, but the weights of large backbones take 17 GB"
        )
    return Finding("disk", found)


def _memory() -> Finding:
    return Finding("memory", f"{in_words(free_memory())} free, {os.cpu_count()} CPU cores")


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
