"""`longlive-rag studio`: direct takes in a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from longlive_rag.cli.errors import Refused, refuse_bad_input
from longlive_rag.cli.servers import BACKBONES, listening_at, takes_option
from longlive_rag.presets.preset import DEFAULT_BACKBONE

FLAGS = {"host": "--host", "tls_cert": "--tls-cert", "tls_key": "--tls-key", "allow_host": "--allow-host"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@takes_option("Folder of takes.")
@BACKBONES
@listening_at(8160)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another host name to accept. Repeat for more.")
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
def studio(
    takes: Path,
    backbones: tuple[str, ...],
    port: int,
    host: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_host: tuple[str, ...],
    insecure_network: bool,
    no_browser: bool,
) -> None:
    """Direct takes in a browser: watch, scrub, remember, branch, compare.

    The command prints an address, which works only on this machine unless you set --host. Anyone with the address has
    full control. Ctrl-C ends the studio; takes stay on disk.

    \b
    Examples:
      longlive-rag studio
      longlive-rag studio --takes takes --backbone models/longlive --no-browser
      longlive-rag studio --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --no-browser
    """
    try:
        from longlive_rag.studio.address import Address
        from longlive_rag.studio.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn", "websockets"):
            raise
        raise Refused(f"{error.name} is not installed; to add it: pip install 'longlive-rag[studio]'") from error
    with refuse_bad_input(FLAGS):
        address = Address(host, port, tls_cert, tls_key, insecure_network, allow_host)
        warn = partial(click.echo, err=True)
        serve(takes, backbones or (DEFAULT_BACKBONE,), address, click.echo, not no_browser, warn)
