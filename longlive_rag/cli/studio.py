"""`longlive-rag studio`: direct takes in a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from longlive_rag.cli.errors import Refused, refuse_bad_input
from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE

FLAGS = {"host": "--host", "tls_cert": "--tls-cert", "tls_key": "--tls-key", "allow_host": "--allow-host"}


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
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    show_default=True,
    help="Another one needs --tls-cert and --tls-key, or --insecure-network.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate for https, as PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, as PEM.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name that it is opened by; repeatable.")
@click.option("--insecure-network", is_flag=True, help="Allow an address of a network without TLS.")
@click.option("--no-browser", is_flag=True, help="Print the address and open nothing.")
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

    Prints one address, which works on this machine only, unless --host says otherwise. Whoever has the address can do
    everything. Ctrl-C ends the studio; takes are on disk as always.

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
        raise Refused(f"{error.name} is missing; the studio needs it: pip install 'longlive-rag[studio]'") from error
    with refuse_bad_input(FLAGS):
        address = Address(host, port, tls_cert, tls_key, insecure_network, allow_host)
        warn = partial(click.echo, err=True)
        serve(takes, backbones or (DEFAULT_BACKBONE,), address, click.echo, not no_browser, warn)
