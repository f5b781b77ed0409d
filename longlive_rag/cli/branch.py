"""`longlive-rag branch`: give a take another ending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import note
from longlive_rag.cli.resuming import CUT, TAKE, go_on, with_changes, words_of
from longlive_rag.cli.settings import FLAGS
from longlive_rag.sessions.asking import seconds_of


@click.command()
@TAKE
@click.option(
    "--at",
    required=True,
    metavar="TIMECODE",
    help="Where to branch, such as 12.5, 0:12.5 or 00:00:12:08; the new part begins with the next block.",
)
@click.option("-o", "--output", "target", required=True, metavar="FOLDER", help="Folder for the new take.")
@click.option(
    "--prompt",
    metavar="PROMPT",
    help="Switch to PROMPT there and drop later cues.  [default: keep the cues and change the noise]",
)
@CUT
@click.option(
    "--seed",
    type=int,
    help="Noise seed from there on.  [default: the take's seed with --prompt or --cut, else the next one]",
)
@click.option(
    "--seconds", metavar="TIMECODE", help="Length of the new take, such as 90 or 1:30.  [default: that of TAKE]"
)
@with_changes
def branch(
    folder: Path,
    at: str,
    target: str,
    prompt: str | None,
    cut: str | None,
    seed: int | None,
    seconds: str | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Make a new take that begins like TAKE and continues differently; TAKE itself is not changed.

    The common part is copied, not generated again. The two takes share no files, so either can be moved or deleted.
    You can branch from a take while it is played or still being made.

    \b
    Examples:
      Give it another ending from 0:20 on:
        longlive-rag branch takes/first --at 0:20 -o takes/jump --prompt "a red circle jumps in a meadow"
      Keep the words, but get another outcome:
        longlive-rag branch takes/first --at 00:00:12:08 -o takes/again
    """
    from longlive_rag.sessions.resuming import Changes, branched_take, open_take
    from longlive_rag.timecode import parse_timecode

    changed = Changes(**changes)
    with refuse_bad_input(FLAGS):
        words, is_cut = words_of(prompt, cut)
        take = open_take(folder, changed.backbone)
        fps = take.request.output.fps
        at_seconds = parse_timecode(at, fps)
        length = None if seconds is None else seconds_of(seconds, fps)
        if not target:
            raise ValueError("--output is empty; name a folder for the new take, such as takes/branch")
    go_on(
        take,
        changed,
        lambda: branched_take(take, at_seconds, Path(target), changed, note, words, seed, length, is_cut),
        as_json,
    )
