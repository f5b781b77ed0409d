"""`longlive-rag resume`: a take goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.generate import report
from longlive_rag.cli.going_on import TAKE, OpenTake, Options, go_on, open_take, with_options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@TAKE
@with_options
def resume(folder: Path, **options: Any) -> None:
    """Go on with a take after Ctrl-C, a kill, a loss of power or a full disk, until it is as long as was asked for.

    On the same machine the finished take is, bit for bit, the one that would have been made without the stop (unless
    it is made with --checkpoint light). A finished take is left as it is; if its video is gone or cut
    off, the video is made again.

    \b
    Examples:
      longlive-rag resume takes/first
      The folder was moved to a machine where the backbone lies elsewhere:
        longlive-rag resume takes/fox --backbone /models/longlive
    """
    chosen = Options(**options)
    with refuse_bad_input():
        take = open_take(folder, chosen.backbone)
    if _is_whole(take):
        if chosen.as_json:
            report(take.record, folder, as_json=True)
        else:
            click.echo(f"{folder} is finished; to make it longer: longlive-rag extend {folder} --seconds 10")
        return
    go_on(take, folder, take.request, "resumed", chosen)


def _is_whole(take: OpenTake) -> bool:
    from longlive_rag.media.video import safe_frames
    from longlive_rag.takes.folder import VIDEO

    finished = take.record["status"] == "finished" and take.blocks >= take.timeline.blocks
    return finished and safe_frames(take.folder / VIDEO) >= take.record["video"]["frames"]
