"""Options of the commands that serve takes: `studio`, `serve` and `mcp`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE

Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]


def takes_option(help_: str) -> Decorate:
    """Make the option `--takes`, the folder that is served."""
    return click.option(
        "--takes",
        type=click.Path(path_type=Path),
        default=Path("takes"),
        metavar="FOLDER",
        show_default=True,
        help=help_,
    )


BACKBONES: Decorate = click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME|FOLDER",
    help=f"A known name ({', '.join(BUILT_IN)}) or a pipeline folder. Repeat for more; the first is the default.  "
    f"[default: {DEFAULT_BACKBONE}]",
)


def listening_at(port: int) -> Decorate:
    """Make the options for where a server listens, as `studio.address.Address` takes them; `port` is the default."""
    options = (
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            metavar="N",
            show_default=True,
            help="Port to listen on; 0 picks a free one.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            metavar="ADDRESS",
            show_default=True,
            help="Address to listen on; a network address needs --tls-cert and --tls-key, or --insecure-network.",
        ),
        click.option(
            "--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="TLS certificate (PEM), for HTTPS."
        ),
        click.option(
            "--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Private key of the certificate (PEM)."
        ),
        click.option("--insecure-network", is_flag=True, help="Allow a network address without TLS."),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
