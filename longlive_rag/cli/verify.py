"""`longlive-rag verify`: replay golden trajectories."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.settings import FLAGS, page_budgets, with_page_budgets
from retrieval.budgets import PagePrecision


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="Where to replay: cpu or cuda.")
@with_page_budgets()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a line per file.")
def verify(
    files: tuple[Path, ...], device: str, gpu_gib: float, host_gib: float, page_precision: PagePrecision,
    as_json: bool,
) -> None:  # fmt: skip
    """Replay golden trajectories and compare the results, in float32.

    A golden FILE holds a whole generation: weights, noise and prompts in; latents and retrieved frames out. A file
    passes if every block retrieves the same past frames in the same order and the relative error of its
    latents and embeddings is below 1e-3. Exit code 1 if any file fails.

    \b
    Examples:
      longlive-rag verify tests/golden/*.safetensors
      longlive-rag verify --json tests/golden/rag_ae.safetensors
    Show the effect of keeping no pages, or keeping them in 8 bits:
      longlive-rag verify --page-host-gib 0 tests/golden/rag_ae.safetensors
      longlive-rag verify --page-precision float8 tests/golden/rag_ae.safetensors
    """
    from longlive_rag.diagnostics.verify import Golden, replay
    from longlive_rag.weights.load import pick_device

    with refuse_bad_input(FLAGS):
        budgets = page_budgets(gpu_gib, host_gib, page_precision)
        target = str(pick_device(device))
        for path in files:
            Golden.read(path)
    verdicts = []
    for path in files:
        with refuse_bad_input():
            verdict = replay(path, target, budgets)
        verdicts.append(verdict)
        if not as_json:
            click.echo(_line(verdict))
    if as_json:
        click.echo(json.dumps([{**asdict(verdict), "passed": verdict.passed} for verdict in verdicts], indent=2))
    if not all(verdict.passed for verdict in verdicts):
        raise SystemExit(1)


def _line(verdict: object) -> str:
    from longlive_rag.diagnostics.verify import Verdict

    assert isinstance(verdict, Verdict)
    word = "ok  " if verdict.passed else "FAIL"
    embeddings = "" if verdict.embedding_error is None else f", embeddings {verdict.embedding_error:.1e}"
    selections = "selections equal" if verdict.selections_equal else f"selections differ: {verdict.first_difference}"
    return (
        f"{word} {verdict.file}: {verdict.blocks} blocks, latents {verdict.latent_error:.1e}{embeddings}, {selections}"
    )
