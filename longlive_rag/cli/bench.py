"""`longlive-rag bench`: seconds per block, by stage, compared with a roofline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import load
from longlive_rag.cli.settings import BACKBONE, DECODER, DEVICE, DTYPE, FLAGS, THREADS, with_page_budgets
from longlive_rag.sessions.opening import Decoder, Opening, check_decoder_fits
from retrieval.budgets import PagePrecision

if TYPE_CHECKING:
    from longlive_rag.diagnostics.bench import ArmFigures, Report
    from longlive_rag.pipeline import LongLiveRAGPipeline

PROMPT = "a red circle walks in a meadow"


@click.command()
@BACKBONE
@click.option(
    "--shape", type=click.Choice(["bench-small", "wan-1.3b"]), help="Use random weights of this size instead."
)
@click.option("--blocks", default=10, show_default=True, help="Blocks to measure after the warm-up.")
@click.option("--compare", default="memory", show_default=True, help="Arms to run interleaved, comma-separated.")
@DTYPE
@DECODER
@DEVICE
@THREADS
@with_page_budgets()
@click.option("--search", metavar="N,N,...", help="Measure only the search, at these index sizes in frames.")
@click.option(
    "--allowed",
    metavar="N,N,...",
    help="With --search: search again where only this many of the frames may be found, in a row and scattered.",
)
@click.option(
    "--gpu-report",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Measure this GPU with random weights and write a report to FOLDER; see above.",
)
@click.option("--minutes", default=30.0, show_default=True, help="Time limit for all of --gpu-report.")
@click.option(
    "--steps",
    metavar="NAMES",
    help="Only these steps of --gpu-report, comma-separated, such as bench,vae; docs/benchmarks.md lists them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def bench(
    backbone: str,
    shape: str | None,
    blocks: int,
    compare: str,
    dtype: str,
    decoder: Decoder,
    device: str,
    threads: int | None,
    gpu_gib: float,
    host_gib: float,
    page_precision: PagePrecision,
    search: str | None,
    allowed: str | None,
    gpu_report: Path | None,
    minutes: float,
    steps: str | None,
    as_json: bool,
) -> None:
    """Measure seconds per block and frames per second: transformer alone, with decoding, and end to end.

    Each arm makes a take as 'generate' does, storing latents and writing the video, in a temporary folder. Medians are
    taken after a warm-up that fills the cache and memory. Each figure comes with its roofline: the block's matrix
    products and attention calls alone, measured in the same run at the same shapes and dtype. Several arms run
    interleaved, block by block, and ratios are of paired blocks.

    \b
    Arms:
      native      sink and recent frames only
      memory      past frames are brought back as well
      establish   like memory, but only first showings are kept, and every frame is compared with them
      gain        like memory, attended to more sharply as noise fades (--first-gain 0.8, --memory-gain 1.8)
      remade      like memory, but no pages are kept: each retrieved page is recomputed
      cue         native, with a cue at every block
      memory-cue  memory, with a cue at every block

    \b
    Examples:
      longlive-rag bench
      longlive-rag bench --compare native,memory --json
      longlive-rag bench --shape bench-small --compare native,memory --dtype float32
      longlive-rag bench --compare native,memory,remade
      longlive-rag bench --shape bench-small --compare memory,establish
      longlive-rag bench --shape bench-small --compare memory,gain
      longlive-rag bench --shape bench-small --compare native,cue
      longlive-rag bench --search 10000
      longlive-rag bench --search 1000000 --allowed 6,1000,50000
      longlive-rag bench --gpu-report reports/h100 --minutes 30

    --gpu-report needs a GPU but no weights: they are random, at the size of Wan2.1-1.3B unless --shape says otherwise.
    It measures blocks without and with memory, the attention kernel, the kernels of a block, ways to decode, page
    copies, and takes from prompt to video, each in a share of --minutes; steps that no longer fit are skipped.
    report.json and report.md are written after each step. Run it again with the same folder to add the missing steps;
    on a machine without a GPU, it rewrites report.md from report.json.
    """
    import torch

    from longlive_rag.diagnostics.bench import run

    if threads:
        torch.set_num_threads(threads)
    with refuse_bad_input({**FLAGS, "arms": "--compare", "steps": "--steps"}):
        if allowed and not search:
            raise ValueError("--allowed is given without --search; add --search N")
        if search:
            _bench_search(_frames("--search", search), _frames("--allowed", allowed), as_json)
            return
        if gpu_report:
            _report(gpu_report, shape, device, minutes, steps, as_json)
            return
        pipe = _open(backbone, shape, dtype, device, decoder)
        memory = replace(
            pipe.memory,
            establish=0.0,
            new_view=None,
            gpu_gib=gpu_gib,
            host_gib=host_gib,
            page_precision=page_precision,
        )
        say = partial(click.echo, err=True)
        report = run(pipe, shape or backbone, PROMPT, compare.split(","), blocks, say, memory)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else _table(report))


def _frames(flag: str, sizes: str | None) -> list[int]:
    """The numbers of frames that an option lists."""
    try:
        return [int(size) for size in sizes.split(",")] if sizes else []
    except ValueError as error:
        raise ValueError(f"{flag} is {sizes!r}; it must be numbers of frames such as 10000,1000000") from error


def _bench_search(sizes: list[int], allowed: list[int], as_json: bool) -> None:
    from longlive_rag.diagnostics.search_bench import measure_search

    say = partial(click.echo, err=True)
    figures = [one for frames in sizes for one in measure_search(frames, allowed=allowed, progress=say)]
    if as_json:
        click.echo(json.dumps([vars(one) for one in figures], indent=2))
        return
    for one in figures:
        among = "scattered" if one.scattered else "in a row" if one.allowed < one.frames else "all"
        kind = "exact" if one.exact else f"approximate, recall@6 {one.recall:.3f}"
        click.echo(
            f"{one.frames} frames of {one.embedding_dim}, {one.allowed} allowed ({among}): median {one.median_ms:.2f} "
            f"ms, p99 {one.p99_ms:.2f} ms, {kind}; filled in {one.build_seconds:.1f} s"
        )


def _report(folder: Path, shape: str | None, device: str, minutes: float, steps: str | None, as_json: bool) -> None:
    import torch

    from longlive_rag.diagnostics.gpu_page import PAGE
    from longlive_rag.diagnostics.gpu_report import REPORT, Asked, rewrite_page, run_report
    from longlive_rag.weights.load import pick_device

    chosen = tuple(step.strip() for step in steps.split(",")) if steps else ()
    target = pick_device(device)
    if target.type == "cpu" and shape in (None, "wan-1.3b"):
        if shape is None and (folder / REPORT).is_file():  # a report from another machine
            rewrite_page(folder)
            click.echo(folder / PAGE)
            return
        raise ValueError("--gpu-report needs a GPU; to try it on a CPU, add --shape bench-small")
    dtype = "bfloat16" if target.type == "cuda" else "float32"
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu"
    asked = Asked(folder, shape or "wan-1.3b", str(target), name, dtype, minutes, chosen)
    report = run_report(asked, make_take, partial(click.echo, err=True))
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        click.echo(f"{folder / PAGE}: {sum(step.status == 'done' for step in report.steps.values())} steps")


def make_take(backbone: Path, prompt: str, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Make a take as `generate` does and return its record as plain values. See `gpu_steps.MakeTake`."""
    from longlive_rag.generation.cues import Schedule
    from longlive_rag.presets.preset import load_preset
    from longlive_rag.sessions.asking import build_request
    from longlive_rag.sessions.making import NewTake, new_take
    from longlive_rag.takes.record import plain

    preset = load_preset(str(backbone))
    schedule = Schedule(prompt, (), options["seconds"])
    request = build_request(preset, schedule, 0, {"memory_enabled": options["memory"]})
    opening = Opening(device=options["device"], dtype=options["dtype"], decoder=options["decoder"])
    with new_take(NewTake(preset, request, folder, opening=opening), lambda _: None) as job:
        return plain(job.run(lambda *_: None))


def _open(backbone: str, shape: str | None, dtype: str, device: str, decoder: Decoder) -> LongLiveRAGPipeline:
    import torch

    from longlive_rag.diagnostics.subjects import random_pipeline
    from longlive_rag.presets.precision import pick_precision
    from longlive_rag.presets.preset import load_preset
    from longlive_rag.weights.load import pick_device

    if shape:
        target = pick_device(device)
        names = pick_precision(dtype, target.type)
        pipe = random_pipeline(shape, getattr(torch, names.dtype), target, getattr(torch, names.vae_dtype))
    else:
        check_decoder_fits(load_preset(backbone), Opening(decoder=decoder))
        pipe = load(backbone, dtype, device)
    pipe.decoder = decoder
    return pipe


def _table(report: Report) -> str:
    conditions = report.conditions
    lines = [
        f"{conditions['subject']}: {conditions['parameters'] / 1e6:.1f} M parameters, {conditions['dtype']}, "
        f"{conditions['decoder']} decoder in {conditions['vae_dtype']}, {conditions['device']}, "
        f"{conditions['threads']} threads, "
        f"{conditions['cpu_capability']}, torch {conditions['torch']}",
        f"latent frame {conditions['latent_shape'][1]}x{conditions['latent_shape'][2]} "
        f"({conditions['tokens_per_frame']} tokens), video {conditions['video']}; {conditions['blocks']} blocks after "
        f"{conditions['warm_up_blocks']} of warm-up",
        "frames/s: " + "; ".join(f"{what} = {counts}" for what, counts in conditions["frames_per_second"].items()),
    ]
    lines += [_arm_lines(arm) for arm in report.arms]
    lines += [f"{names}: {ratio:.3f}x seconds per block" for names, ratio in report.ratios.items()]
    memory = ", ".join(f"{name} {count / 2**30:.2f} GiB" for name, count in report.peak_memory_bytes.items())
    return "\n".join([*lines, f"peak memory: {memory}"])


def _arm_lines(arm: ArmFigures) -> str:
    stages = "  ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in arm.stages.items() if seconds)
    speed = ", ".join(f"{what} {frames:.1f}" for what, frames in arm.frames_per_second.items())
    if arm.over_longest is not None:
        speed += f"; a block of generate takes {arm.over_longest:.2f}x its longest stage"
    pages = ""
    if arm.pages and arm.pages["fetched"]:
        pages = (
            f"\n  pages: {arm.pages['fetched']} fetched, {arm.pages['from_gpu']} from the GPU tier, "
            f"{arm.pages['from_host']} from the host tier, {arm.pages['remade']} recomputed, "
            f"{arm.pages['seconds_waited'] * 1000:.1f} ms spent waiting for copies"
        )
    return (
        f"{arm.arm}: {arm.seconds_per_block:.3f} s per block, {arm.retrieved_frames} past frames retrieved\n"
        f"  frames/s: {speed}\n"
        f"  by stage, ms: {stages}\n"
        f"  roofline (matrix products and attention alone): {arm.roofline_seconds:.3f} s; "
        f"the transformer takes {arm.over_roofline:.2f}x{pages}"
    )
