"""`longlive-rag doctor`: what this machine has, and what it can run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import DTYPE, named_option

if TYPE_CHECKING:
    from longlive_rag.weights.findings import Finding

SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command()
@click.option("--backbone", metavar="NAME|FOLDER", help="Also check whether this backbone would run here and how fast.")
@DTYPE
@named_option(
    "--takes",
    "takes",
    was="--folder",
    type=click.Path(path_type=Path),
    default="takes",
    metavar="FOLDER",
    show_default=True,
    help="Folder of takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(backbone: str | None, dtype: str, takes: Path, as_json: bool) -> None:
    """Check this machine: Python, torch, GPU, FAISS, video, disk, memory. Nothing is loaded or changed.

    Exit code 1 if something will not work.

    \b
    Examples:
      longlive-rag doctor
      longlive-rag doctor --backbone longlive
    """
    from longlive_rag.diagnostics.doctor import examine

    findings = examine(takes)
    if backbone is not None:
        with refuse_bad_input():
            findings += judged(backbone, dtype)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(line(finding))
    if any(finding.verdict == "bad" for finding in findings):
        raise SystemExit(1)


def judged(backbone: str, dtype: str) -> list[Finding]:
    """Judge whether a backbone, by name or folder, would run here; a known one need not be downloaded yet."""
    from longlive_rag.diagnostics.doctor import device_memory, flops_per_second, judge, kind_of
    from longlive_rag.presets.needs import estimate
    from longlive_rag.presets.precision import pick_precision
    from longlive_rag.presets.preset import preset_to_plan_with

    device, memory = device_memory()
    chosen = pick_precision(dtype, kind_of(device)).dtype
    needs = estimate(preset_to_plan_with(backbone), chosen, kind_of(device))
    return judge(needs, device, memory, flops_per_second(chosen))


def line(finding: Finding) -> str:
    """Format a finding as one line."""
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{SIGNS[finding.verdict]} {finding.what}: {finding.found}{advice}"
