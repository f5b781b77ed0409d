"""`longlive-rag branch`: another ending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.going_on import TAKE, Options, go_on, open_take, with_options
from longlive_rag.cli.settings import FLAGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@TAKE
@click.option(
    "--at",
    required=True,
    metavar="TIMECODE",
    help="Where it goes another way: 12.5, 0:12.5 or 00:00:12:08; the next block begins the new part.",
)
@click.option("-o", "--output", "target", required=True, metavar="FOLDER", help="Folder of the new take.")
@click.option("--prompt", help="Takes over there; later cues are dropped. Left out, they stay and the noise changes.")
@click.option("--seed", type=int, help="Of the noise from there on. Default: as it was, or without --prompt the next.")
@click.option("--seconds", type=float, help="Length of the new take. Default: as the other one.")
@with_options
def branch(
    folder: Path,
    at: str,
    target: str,
    prompt: str | None,
    seed: int | None,
    seconds: float | None,
    **options: Any,
) -> None:
    """Make a new take that begins as TAKE does and then goes another way; TAKE is only read.

    The common part is copied, not made again. The two takes share no file: either can be moved or deleted. TAKE may
    be played, or even be made, meanwhile.

    \b
    Examples:
      Another ending from 0:20 on:
        longlive-rag branch takes/first --at 0:20 -o takes/jump --prompt "a red circle jumps in a meadow"
      The same words, another outcome:
        longlive-rag branch takes/first --at 00:00:12:08 -o takes/again
    """
    from longlive_rag.takes.branch import branched, copy_start
    from longlive_rag.takes.folder import check_take_folder
    from longlive_rag.timecode import parse_timecode

    chosen = Options(**options)
    with refuse_bad_input(FLAGS):
        take = open_take(folder, chosen.backbone)
        at_seconds = parse_timecode(at, take.request.output.fps)
        request, blocks = branched(take.request, take.timeline, take.blocks, at_seconds, prompt, seed, seconds)
        if not target:
            raise ValueError("--output is empty; name a folder for the new take, such as takes/branch")
        check_take_folder(Path(target), request, hint="")
    begins = take.timeline.starts_at(blocks)
    click.echo(f"The first {begins:g} s are those of {folder}; the new part begins with the block there.", err=True)
    go_on(
        take,
        Path(target),
        request,
        "branched",
        chosen,
        prepare=lambda: copy_start(folder, take.record, Path(target), request, take.timeline, blocks),
    )
