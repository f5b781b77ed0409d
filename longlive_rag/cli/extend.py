"""`longlive-rag extend`: make a take longer."""

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
@click.option("--seconds", metavar="TIMECODE", required=True, help="Time to add, such as 90 or 1:30.")
@click.option(
    "--prompt", metavar="PROMPT", help="Switch to PROMPT where the take ends now.  [default: the last prompt]"
)
@CUT
@with_changes
def extend(folder: Path, seconds: str, prompt: str | None, cut: str | None, as_json: bool, **changes: Any) -> None:
    """Make a take longer, in place; the existing part stays as it is, frame for frame.

    The result is the take you would have got by asking for the full length at the start (with the prompt as a cue).
    If the take was stopped early, the missing part is made as well.

    \b
    Examples:
      longlive-rag extend takes/first --seconds 20
      longlive-rag extend takes/first --seconds 20 --prompt "a red circle jumps in a meadow"
      longlive-rag extend takes/first --seconds 10 --cut "a red circle jumps in a desert"
    """
    from longlive_rag.sessions.resuming import Changes, extended_take, open_take

    changed = Changes(**changes)
    with refuse_bad_input(FLAGS):
        words, is_cut = words_of(prompt, cut)
        take = open_take(folder, changed.backbone)
        added = seconds_of(seconds, take.request.output.fps)
    go_on(take, changed, lambda: extended_take(take, added, words, changed, note, is_cut), as_json)
