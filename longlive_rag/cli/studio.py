"""`longlive-rag studio`: direct takes in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from longlive_rag.cli.errors import Refused, refuse_bad_input
from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--takes",
    type=click.Path(path_type=Path),
    default=Path("takes"),
    metavar="FOLDER",
    show_default=True,
    help="Folder of takes.",
)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME|FOLDER",
    help=f"A known name ({', '.join(BUILT_IN)}) or a pipeline folder; repeat for more, the first is the default.  "
    f"[default: {DEFAULT_BACKBONE}]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8160, metavar="N", show_default=True, help="0 is any free one."
)
@click.option("--no-browser", is_flag=True, help="Print the address and open nothing.")
def studio(takes: Path, backbones: tuple[str, ...], port: int, no_browser: bool) -> None:
    """Direct takes in a browser: watch, scrub, remember, branch, compare.

    Prints one address, which works on this machine only. Ctrl-C ends the studio; takes are on disk as always.

    \b
    Examples:
      longlive-rag studio
      longlive-rag studio --takes takes --backbone models/longlive --no-browser
    """
    try:
        from longlive_rag.studio.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn", "websockets"):
            raise
        raise Refused(f"{error.name} is missing; the studio needs it: pip install 'longlive-rag[studio]'") from error
    with refuse_bad_input():
        serve(takes, backbones or (DEFAULT_BACKBONE,), port, click.echo, not no_browser)
