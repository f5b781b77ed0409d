"""Shared by `resume`, `extend` and `branch`: options, and making the rest of a take with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import make, report
from longlive_rag.cli.settings import (
    DEVICE,
    FLAGS,
    GPUS,
    POLICY,
    PROMPT_EMBEDS,
    VAE_DEVICE,
    options,
    with_checkpoints_kept,
)

if TYPE_CHECKING:
    from longlive_rag.sessions.making import TakeJob
    from longlive_rag.sessions.resuming import Changes, OpenTake

TAKE = click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))


with_changes = options(
    click.option("--backbone", metavar="NAME|FOLDER", help="The take's backbone, if it was moved."),
    DEVICE,
    VAE_DEVICE,
    GPUS,
    PROMPT_EMBEDS,
    with_checkpoints_kept,
    POLICY,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (progress stays on stderr)."),
)
"""The options for `Changes`, in order, and --json."""


CUT = click.option("--cut", metavar="PROMPT", help="Like --prompt, but begin another shot there.")


def words_of(prompt: str | None, cut: str | None) -> tuple[str | None, bool]:
    """The new prompt, if any, and whether it begins another shot."""
    if prompt is not None and cut is not None:
        raise ValueError("--prompt and --cut are both given; drop one of them")
    return (prompt, False) if cut is None else (cut, True)


def go_on(
    take: OpenTake, changes: Changes, open_job: Callable[[], AbstractContextManager[TakeJob]], as_json: bool
) -> None:
    """Make what a take lacks and report the result; under torchrun, ranks above 0 assist rank 0 instead.

    Args:
        open_job: checks the input, claims the folder and loads the backbone.
    """
    from longlive_rag.sessions.resuming import opening_of
    from longlive_rag.sessions.several_gpus import follow_launched

    with refuse_bad_input(FLAGS):
        if follow_launched(take.preset, opening_of(take, changes), changes.license_policy):
            return
    with ExitStack() as held:
        with refuse_bad_input(FLAGS):
            job = held.enter_context(open_job())
        record = make(job)
    report(record, job.writer.folder, as_json)
