"""`longlive-rag extend`: make a take longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import note
from longlive_rag.cli.resuming import TAKE, go_on, with_changes
from longlive_rag.cli.settings import FLAGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@TAKE
@click.option("--seconds", type=float, required=True, help="How many seconds to add.")
@click.option("--prompt", help="Takes over where the take ends now. Default: keep the last prompt.")
@with_changes
def extend(folder: Path, seconds: float, prompt: str | None, as_json: bool, **changes: Any) -> None:
    """Make a take longer, in place; the existing part stays as it is, frame for frame.

    The result is the take that you would have got by asking for the full length at the start (with the prompt as a
    cue). If the take was stopped early, the missing part is made too.

    \b
    Examples:
      longlive-rag extend takes/first --seconds 20
      longlive-rag extend takes/first --seconds 20 --prompt "a red circle jumps in a meadow"
    """
    from longlive_rag.sessions.resuming import Changes, extended_take, open_take

    changed = Changes(**changes)
    with refuse_bad_input(FLAGS):
        take = open_take(folder, changed.backbone)
    go_on(lambda: extended_take(take, seconds, prompt, changed, note), as_json)
