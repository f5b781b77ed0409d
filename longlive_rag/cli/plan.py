"""`longlive-rag plan`: what a take will need, worked out before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import BACKBONE, DTYPE, FLAGS, Gibibytes, with_checkpoints, with_settings
from longlive_rag.config import CheckpointConfig, CheckpointMode
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.precision import Precision, pick_precision
from longlive_rag.presets.preset import preset_to_plan_with
from longlive_rag.sessions.asking import build_request, seconds_of

if TYPE_CHECKING:
    from longlive_rag.config import TakeRequest
    from longlive_rag.presets.needs import Plan
    from longlive_rag.presets.preset import Preset


SHARED_GIB = 4.0
"""Default page budget on the GPU for each of several takes that share it."""


@click.command()
@BACKBONE
@click.option(
    "--seconds", metavar="TIMECODE", default="30", show_default=True, help="Length of the take, such as 90 or 1:30."
)
@click.option("--cues/--no-cues", default=False, show_default=True, help="Plan for a take with several prompts.")
@click.option(
    "--gpu-gib", type=Gibibytes(positive=True), help="GPU memory available; prints the page budget that fits."
)
@click.option(
    "--host-gib", type=Gibibytes(positive=True), help="Host memory available; prints the page budget that fits."
)
@DTYPE
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the take would be made; this machine needs no GPU for it.",
)
@with_settings
@with_checkpoints
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, in bytes.")
def plan(
    backbone: str,
    seconds: str,
    cues: bool,
    gpu_gib: float | None,
    host_gib: float | None,
    dtype: str,
    device: str,
    checkpoint: CheckpointMode | None,
    checkpoint_gib: float | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Work out the GPU memory, host memory and disk that a take will need, from the backbone's configs alone.

    This works for a known backbone even before its weights are fetched.

    \b
    Examples:
      longlive-rag plan --seconds 960
      longlive-rag plan --seconds 120 --page-host-gib 0.05
      longlive-rag plan --seconds 120 --host-gib 16
      longlive-rag plan --backbone longlive --device cuda --gpu-gib 24 --host-gib 64
    """
    with refuse_bad_input(FLAGS):
        from longlive_rag.presets.needs import budgets_that_fit, disk_bytes_an_hour, sessions_at_once

        preset = preset_to_plan_with(backbone)
        precision = pick_precision(dtype, device)
        length = seconds_of(seconds, settings["output_fps"] or preset.output.fps)
        request = build_request(preset, Schedule("a plan", (), length), 0, settings)
        checkpoints = CheckpointConfig().changed(checkpoint, checkpoint_gib)
        sizes = [None if gib is None else int(gib * 2**30) for gib in (gpu_gib, host_gib)]
        result = plan_request(preset, request, precision, device, cues, checkpoints, sizes[0])
        advice = budgets_that_fit(result, *sizes)
        beside = plan_request(preset, sharing(request), precision, device, cues, checkpoints, sizes[0])
        sessions, an_hour = sessions_at_once(beside, *sizes), disk_bytes_an_hour(result, request.seconds)
    if not preset.has_weights:
        how = f"To get them: longlive-rag models fetch {backbone}"
        click.echo(f"Note: planned from the configs; the weights of {backbone} are not here yet. {how}", err=True)
    if as_json:
        totals = {"device_bytes": result.device_bytes, "host_bytes": result.host_bytes, "disk_bytes": result.disk_bytes}
        served = {"sessions_at_once": sessions, "disk_bytes_an_hour": an_hour}
        click.echo(json.dumps({**asdict(result), **totals, **served, "advice": advice}, indent=2))
    else:
        click.echo(table(result, request, device, advice))
        click.echo(f"an hour of video in takes of {request.seconds:g} s: {size(an_hour)} of disk")
        if sessions is not None:
            share = f", {SHARED_GIB:g} GiB of GPU pages each" if sharing(request) != request else ""
            takes = "take" if sessions == 1 else "takes"
            click.echo(f"at once on this machine: {sessions} {takes}, a worker each{share}")


def sharing(request: TakeRequest) -> TakeRequest:
    """The request for a take that shares a GPU: it can't use all free memory for its own pages."""
    if request.memory.gpu_gib != "auto":
        return request
    return replace(request, memory=replace(request.memory, gpu_gib=SHARED_GIB))


def plan_request(
    preset: Preset, request: TakeRequest, precision: Precision, device: str, has_cues: bool,
    checkpoints: CheckpointConfig, gpu_bytes: int | None = None,
) -> Plan:  # fmt: skip
    """Plan a request on a backbone; given a GPU's size, the text encoder is placed where a take would place it."""
    from longlive_rag.presets.geometry import read_geometry
    from longlive_rag.presets.needs import decode_bytes, estimate, make_plan, weight_bytes
    from longlive_rag.takes.folder import estimate_bytes
    from longlive_rag.timeline import Timeline

    output, context = request.output, request.context
    on_gpu, text_on_host = device == "cuda", False
    if on_gpu and gpu_bytes:
        text_on_host = not estimate(preset, precision.dtype, device).has_room_for_text(gpu_bytes)
    timeline = Timeline(request.pixel_frames, output.fps, context.frames_per_block, preset.temporal_factor)
    return make_plan(
        read_geometry(preset, output, request.memory.encoder),
        context,
        request.memory.budgets,
        timeline,
        weight_bytes(preset, *precision),
        dtype=precision.dtype,
        on_gpu=on_gpu,
        gpu_bytes=gpu_bytes,
        text_on_host=text_on_host,
        has_cues=has_cues,
        decode_bytes=decode_bytes(preset, output, device, precision.vae_dtype),
        video_bytes=estimate_bytes(request),
        view_frames=timeline.latents_in(request.memory.establish),
        checkpoints=checkpoints,
    )


def table(result: Plan, request: TakeRequest, device: str, advice: dict[str, float]) -> str:
    """Format the plan as text."""
    where = {"cpu": "host memory", "cuda": "GPU memory"}[device]
    lines = [
        f"{request.seconds:g} s of {request.output.width}x{request.output.height}: {result.blocks} blocks, "
        f"{result.latent_frames} latent frames",
        f"a page (keys and values of one latent frame): {size(result.page_bytes)}, "
        f"{size(result.stored_page_bytes)} in the host tier",
        f"pages held at most: {result.gpu_pages} on the GPU, {result.host_pages} on the host, of "
        f"{result.past_pages} that leave the window ({size(result.past_pages * result.page_bytes)})",
        *([_page_budget(result, request)] if device == "cuda" else []),
        *([_first_showings(result)] if result.view_frames else []),
        *_parts(f"peak {where}", result.device),
    ]
    lines += _parts("peak host memory", result.host) if result.host else []
    lines += _parts("disk", result.disk)
    lines += [f"to fit: --{name.replace('_', '-')} {gib:g}" for name, gib in advice.items()]
    return "\n".join(lines)


def _page_budget(result: Plan, request: TakeRequest) -> str:
    """Describe the page budget on the GPU and where it comes from."""
    budget = f"page budget on the GPU: {size(result.gpu_page_budget)}, room for "
    budget += f"{result.gpu_page_budget // result.page_bytes} pages"
    return budget + (" (auto: what --gpu-gib leaves free)" if request.memory.gpu_gib == "auto" else "")


def _first_showings(result: Plan) -> str:
    """Describe what keeping only first showings saves; how much depends on what the take will show."""
    view, every = (frames * result.memory_frame_bytes for frames in (result.view_frames, result.past_pages))
    return (
        f"memory keeps first showings: {result.view_frames} latent frames of each new view, {size(view)} of pages and "
        f"index; all of the past would be {size(every)}"
    )


def _parts(title: str, parts: dict[str, int]) -> list[str]:
    shown = sorted(((count, name) for name, count in parts.items() if count), reverse=True)
    return [f"{title}: {size(sum(parts.values()))}", *(f"  {size(count):>9}  {name}" for count, name in shown)]


def size(count: int) -> str:
    """Format a number of bytes, such as 3.2 GiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
