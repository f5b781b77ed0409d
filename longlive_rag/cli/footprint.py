"""`longlive-rag footprint`: peak memory over takes of growing length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbone.errors import FieldError
from longlive_rag.cli.errors import check_writable, refuse_bad_input
from longlive_rag.cli.making import load
from longlive_rag.cli.settings import BACKBONE, DEVICE, DTYPE, FLAGS, THREADS, page_budgets, with_page_budgets
from longlive_rag.timecode import parse_duration
from retrieval.budgets import PageBudgets, PagePrecision

if TYPE_CHECKING:
    from longlive_rag.diagnostics.footprint import Footprint, Sample

PROMPT = "a red circle walks in a meadow"


@click.command()
@click.option(
    "--seconds", "lengths", default="60,240,960", show_default=True, help="Lengths of takes, in increasing order."
)
@BACKBONE
@click.option(
    "--shape", type=click.Choice(["bench-small", "wan-1.3b"]), help="Use random weights of this size instead."
)
@click.option("--steps", default=4, show_default=True, type=click.IntRange(1, 4), help="Denoising steps, with --shape.")
@with_page_budgets(gpu="0", host="32MiB")
@DTYPE
@DEVICE
@THREADS
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curve here (.png).")
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON.")
def footprint(
    lengths: str,
    backbone: str,
    shape: str | None,
    steps: int,
    gpu_gib: float,
    host_gib: float,
    page_precision: PagePrecision,
    dtype: str,
    device: str,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure memory use over one long take, block by block, with its latents on disk. It should stay flat.

    A shorter take is the beginning of a longer one, so one run gives the peaks for all lengths. Page budgets are small
    by default, so that not all pages can be kept.

    \b
    Examples:
      longlive-rag footprint --seconds 60,240,960 -o flat.png
      longlive-rag footprint --shape bench-small --steps 1 --seconds 15,60 --page-host-gib 128MiB
    """
    import torch

    from longlive_rag.diagnostics.footprint import check_lengths, draw, measure
    from longlive_rag.media.charts import check_charts

    if threads:
        torch.set_num_threads(threads)
    with refuse_bad_input(FLAGS):
        asked = _lengths(lengths)
        check_lengths(asked)
        budgets = page_budgets(gpu_gib, host_gib, page_precision)
        if output and output.suffix != ".png":
            raise ValueError(f"--output is {output}; its name must end in .png")
        check_writable(output)
        if output:
            check_charts("--output")
        samples = _samples(backbone, shape, steps, asked[-1], budgets, dtype, device)
        curve = measure(samples, asked, lambda line: click.echo(line, err=True))
    if output:
        draw({shape or backbone: curve}, output)
    click.echo(json.dumps(_as_dict(curve), indent=2) if as_json else _table(curve))


def _samples(
    backbone: str, shape: str | None, steps: int, seconds: float, budgets: PageBudgets, dtype: str, device: str
) -> Iterator[Sample]:
    from longlive_rag.diagnostics.footprint import samples_of_pipeline, samples_of_subject
    from longlive_rag.diagnostics.subjects import random_subject
    from longlive_rag.weights.load import pick_device, pick_dtype

    if shape:
        target = pick_device(device)
        subject = random_subject(shape, pick_dtype(dtype, target), target)
        return samples_of_subject(subject, seconds, budgets, steps)
    return samples_of_pipeline(load(backbone, dtype, device), PROMPT, seconds, budgets)


def _lengths(text: str) -> list[float]:
    try:
        return [parse_duration(word) for word in text.split(",")]
    except ValueError as error:
        raise FieldError("seconds", text, "they must be increasing numbers such as 60,240,960 or 1:00,4:00") from error


def _as_dict(curve: Footprint) -> dict[str, object]:
    return {
        "peaks_bytes": {f"{length:g}": count for length, count in curve.peaks.items()},
        "spread_bytes": curve.spread_bytes,
        "samples": [vars(sample) for sample in curve.samples],
    }


def _table(curve: Footprint) -> str:
    lines = [f"{length:>6g} s: peak {count / 2**20:.1f} MiB" for length, count in curve.peaks.items()]
    last = curve.samples[-1]
    lines.append(
        f"difference between peaks: {curve.spread_bytes / 2**20:.1f} MiB; {last.pages_remade} pages recomputed"
    )
    return "\n".join([*lines, f"memory holds {last.frames_admitted} of {last.latent_frames} latent frames"])
