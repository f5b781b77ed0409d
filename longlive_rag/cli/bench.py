"""`longlive-rag bench`: seconds per block, by stage, next to a roofline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import DTYPE, page_budgets, with_page_budgets
from retrieval.budgets import PagePrecision

if TYPE_CHECKING:
    from longlive_rag.diagnostics.bench import ArmFigures, Report, Subject

PROMPT = "a red circle walks in a meadow"


@click.command()
@click.option("--backbone", default="tiny-world", show_default=True, help="Name of a preset, or a pipeline folder.")
@click.option(
    "--shape", type=click.Choice(["bench-small", "wan-1.3b"]), help="Use random weights of this size instead."
)
@click.option("--blocks", default=10, show_default=True, help="Blocks to measure, after the warm-up.")
@click.option("--compare", default="memory", show_default=True, help="Arms to run interleaved, with commas.")
@DTYPE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: one per core.")
@with_page_budgets()
@click.option("--search", metavar="N,N,...", help="Measure only the search, at these numbers of frames.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def bench(
    backbone: str,
    shape: str | None,
    blocks: int,
    compare: str,
    dtype: str,
    device: str,
    threads: int | None,
    gpu_gib: float,
    host_gib: float,
    page_precision: PagePrecision,
    search: str | None,
    as_json: bool,
) -> None:
    """Measure seconds per block and frames per second, end to end and by stage.

    The run warms up on the real code path until cache and memory are full, then takes medians. Each figure comes with
    its roofline: the block's matrix products and attention calls alone, measured in the same run at the
    same shapes and dtype. Several arms run interleaved, block by block, and their ratios are of paired blocks.

    \b
    Arms:
      native      only sink and recent frames
      memory      past frames come back too
      establish   the same, but memory keeps first showings and compares every frame with them
      remade      as memory, but no page is kept: each one retrieved is recomputed
      cue         native, with a cue at every block
      memory-cue  memory, with a cue at every block

    \b
    Examples:
      longlive-rag bench
      longlive-rag bench --compare native,memory --json
      longlive-rag bench --shape bench-small --compare native,memory --dtype float32
      longlive-rag bench --compare native,memory,remade
      longlive-rag bench --shape bench-small --compare memory,establish
      longlive-rag bench --shape bench-small --compare native,cue
      longlive-rag bench --search 10000
    """
    import torch

    from longlive_rag.diagnostics.bench import run

    if threads:
        torch.set_num_threads(threads)
    with refuse_bad_input():
        if search:
            _bench_search(search, as_json)
            return
        budgets = page_budgets(gpu_gib, host_gib, page_precision)
        subject = _subject(backbone, shape, dtype, device)
        report = run(subject, compare.split(","), blocks, lambda line: click.echo(line, err=True), budgets)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else _table(report))


def _bench_search(sizes: str, as_json: bool) -> None:
    from longlive_rag.diagnostics.search_bench import measure_search

    try:
        frames = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise ValueError(f"--search is {sizes!r}; give numbers of frames such as 10000,1000000") from error
    figures = [measure_search(count, progress=lambda line: click.echo(line, err=True)) for count in frames]
    if as_json:
        click.echo(json.dumps([vars(one) for one in figures], indent=2))
        return
    for one in figures:
        kind = "exact" if one.exact else f"approximate, recall@6 {one.recall:.3f}"
        click.echo(
            f"{one.frames} frames of {one.embedding_dim}: median {one.median_ms:.2f} ms, p99 {one.p99_ms:.2f} ms, "
            f"{kind}; filled in {one.build_seconds:.1f} s"
        )


def _subject(backbone: str, shape: str | None, dtype: str, device: str) -> Subject:
    from longlive_rag.diagnostics.bench import pipeline_subject, random_subject
    from longlive_rag.weights.load import load_pipeline, pick_device, pick_dtype

    if shape:
        target = pick_device(device)
        return random_subject(shape, pick_dtype(dtype, target), target)
    pipe = load_pipeline(backbone, dtype=dtype, device=device)
    return pipeline_subject(pipe, backbone, PROMPT)


def _table(report: Report) -> str:
    conditions = report.conditions
    what = "end to end" if conditions["includes_decode"] else "transformer only, without decoding"
    lines = [
        f"{conditions['subject']}: {conditions['parameters'] / 1e6:.1f} M parameters, {conditions['dtype']}, "
        f"{conditions['device']}, {conditions['threads']} threads, {conditions['cpu_capability']}, "
        f"torch {conditions['torch']}",
        f"latent frame {conditions['latent_shape'][1]}x{conditions['latent_shape'][2]} "
        f"({conditions['tokens_per_frame']} tokens), medians of {conditions['blocks']} blocks after "
        f"{conditions['warm_up_blocks']} of warm-up; {what}",
    ]
    lines += [_arm_lines(arm, conditions["includes_decode"]) for arm in report.arms]
    lines += [f"{names}: {ratio:.3f}x seconds per block" for names, ratio in report.ratios.items()]
    memory = ", ".join(f"{name} {count / 2**30:.2f} GiB" for name, count in report.peak_memory_bytes.items())
    return "\n".join([*lines, f"peak memory: {memory}"])


def _arm_lines(arm: ArmFigures, includes_decode: bool) -> str:
    stages = "  ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in arm.stages.items() if seconds)
    speed = f"{arm.transformer_frames_per_second:.1f} frames/s transformer only"
    if includes_decode:
        speed = f"{arm.frames_per_second:.1f} frames/s end to end, {speed}"
    pages = ""
    if arm.pages and arm.pages["fetched"]:
        pages = (
            f"\n  pages: {arm.pages['fetched']} fetched, {arm.pages['from_gpu']} from the GPU tier, "
            f"{arm.pages['from_host']} from the host tier, {arm.pages['remade']} recomputed, "
            f"{arm.pages['seconds_waited'] * 1000:.1f} ms spent waiting for copies"
        )
    return (
        f"{arm.arm}: {arm.seconds_per_block:.3f} s per block, {speed}, {arm.retrieved_frames} past frames retrieved\n"
        f"  by stage, ms: {stages}\n"
        f"  roofline (matrix products and attention alone): {arm.roofline_seconds:.3f} s; "
        f"the block without decoding takes {arm.over_roofline:.2f}x{pages}"
    )
