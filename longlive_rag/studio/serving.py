"""Runs the studio's server."""

from __future__ import annotations

import signal
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from longlive_rag.engines.engine import Engine
from longlive_rag.studio.address import Address
from longlive_rag.studio.server import build_app
from longlive_rag.studio.studio import Studio

WARNING = "warning: the studio is open to the network without TLS; anyone who can see its traffic can read the token"


def serve(
    takes: Path,
    backbones: Sequence[str],
    address: Address,
    open_engine: Callable[[Path], Engine],
    say: Callable[[str], None],
    browser: bool = True,
    warn: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; the take in progress then ends with its current block.

    Args:
        takes: folder of takes.
        backbones: names or folders; the first is the default.
        address: where to listen.
        open_engine: see `Studio`.
        say: called with the link to open.
        browser: whether to open it in a browser.
        warn: called with a warning if others could read the token.

    Raises:
        ValueError: if a backbone is missing, the address is unavailable, or as `open_engine`.
        OSError: if the folder can't be made, or as `open_engine`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), address.listen() as listening:  # raised again once everything has ended
        studio = Studio(takes, open_engine, backbones)
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            build_app(studio, port, address.hosts, address.scheme),
            ssl_certfile=address.tls_cert,
            ssl_keyfile=address.tls_key,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=64 * 1024,
            limit_concurrency=256,
            timeout_graceful_shutdown=5,
        )
        if not address.is_here and address.tls_cert is None:
            warn(WARNING)
        link = f"{address.scheme}://{address.hosts[0]}:{port}/#{studio.sessions.token}"
        say(link)
        if browser:
            threading.Timer(1.0, webbrowser.open, [link]).start()
        uvicorn.Server(config).run(sockets=[listening])
