"""`longlive-rag extend`: a take becomes longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.going_on import TAKE, Options, go_on, open_take, with_options
from longlive_rag.cli.settings import FLAGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@TAKE
@click.option("--seconds", type=float, required=True, help="How much longer the take becomes.")
@click.option("--prompt", help="Takes over where the take ended until now; left out, the newest prompt stays.")
@with_options
def extend(folder: Path, seconds: float, prompt: str | None, **options: Any) -> None:
    """Make a take longer, in place: what there is stays as it is, frame for frame.

    The result is the take that would have been made had it been asked for so long from the start (with the prompt as a
    cue). If the take was stopped early, the missing part is made, too.

    \b
    Examples:
      longlive-rag extend takes/first --seconds 20
      longlive-rag extend takes/first --seconds 20 --prompt "a red circle jumps in a meadow"
    """
    from longlive_rag.takes.branch import extended

    chosen = Options(**options)
    with refuse_bad_input(FLAGS):
        take = open_take(folder, chosen.backbone)
        request = extended(take.request, seconds, prompt)
    go_on(take, folder, request, "extended", chosen)
