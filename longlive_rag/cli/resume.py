"""`longlive-rag resume`: finish a take that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.making import note, report
from longlive_rag.cli.resuming import TAKE, go_on, with_changes


@click.command()
@TAKE
@with_changes
def resume(folder: Path, as_json: bool, **changes: Any) -> None:
    """Finish a take that was cut short by Ctrl-C, a kill, a power failure or a full disk.

    On the same machine, the result is bit for bit the take that would have been made without the interruption (unless
    it is made with --checkpoint light). A finished take is left as it is, but a missing or truncated video is restored.

    \b
    Examples:
      longlive-rag resume takes/first
      On another machine, where the backbone is in a different place:
        longlive-rag resume takes/fox --backbone /models/longlive
    """
    from longlive_rag.sessions.resuming import Changes, open_take, resumed_take
    from longlive_rag.takes.folder import in_shell, remove_leftovers

    changed = Changes(**changes)
    with refuse_bad_input():
        take = open_take(folder, changed.backbone)
    if not take.is_whole:
        go_on(take, changed, lambda: resumed_take(take, changed, note), as_json)
        return
    with refuse_bad_input():
        remove_leftovers(folder, finished=True)
    if as_json:
        report(take.record, folder, as_json=True)
    else:
        click.echo(f"{folder} is finished; to make it longer: longlive-rag extend {in_shell(folder)} --seconds 10")
