"""`longlive-rag studio`: direct takes in a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.servers import (
    BACKBONES,
    engine_options,
    listening_at,
    needing,
    open_engine,
    takes_option,
)
from longlive_rag.cli.settings import FLAGS
from longlive_rag.presets.preset import DEFAULT_BACKBONE


@click.command()
@takes_option("Folder of takes.")
@BACKBONES
@listening_at(8160)
@engine_options
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
    **engine: Any,
) -> None:
    """Direct takes in a browser: watch, scrub, remember, branch, compare.

    The command prints an address, which works only on this machine unless you set --host. Anyone with the address has
    full control. One take is made at a time. Ctrl-C ends the studio; takes stay on disk.

    \b
    Examples:
      longlive-rag studio
      longlive-rag studio --takes takes --backbone models/longlive --no-browser
      longlive-rag studio --engine ray --address head:6379
      longlive-rag studio --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --no-browser
    """
    with needing("studio"):
        from longlive_rag.studio.address import Address
        from longlive_rag.studio.serving import serve
    from longlive_rag.takes.folder import check_folder_writable

    with refuse_bad_input(FLAGS):
        check_folder_writable(takes)
        address = Address(host, port, tls_cert, tls_key, insecure_network, allow_host)
        opened = partial(open_engine, workers=1, **engine)
        warn = partial(click.echo, err=True)
        serve(takes, backbones or (DEFAULT_BACKBONE,), address, opened, click.echo, not no_browser, warn)
