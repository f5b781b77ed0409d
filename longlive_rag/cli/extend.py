"""`longlive-rag extend`: a take becomes longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.continuing import TAKE, go_on, with_changes
from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import note
from longlive_rag.cli.settings import FLAGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@TAKE
@click.option("--seconds", type=float, required=True, help="How much longer the take becomes.")
@click.option("--prompt", help="Takes over where the take ended until now; left out, the newest prompt stays.")
@with_changes
def extend(folder: Path, seconds: float, prompt: str | None, as_json: bool, **changes: Any) -> None:
    """Make a take longer, in place: what there is stays as it is, frame for frame.

    The result is the take that would have been made had it been asked for so long from the start (with the prompt as a
    cue). If the take was stopped early, the missing part is made, too.

    \b
    Examples:
      longlive-rag extend takes/first --seconds 20
      longlive-rag extend takes/first --seconds 20 --prompt "a red circle jumps in a meadow"
    """
    from longlive_rag.sessions.continuing import Changes, extended_take, open_take

    changed = Changes(**changes)
    with refuse_bad_input(FLAGS):
        take = open_take(folder, changed.backbone)
    go_on(lambda: extended_take(take, seconds, prompt, changed, note), as_json)
