"""The studio's server as a process: this machine only."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from longlive_rag.studio.server import Studio, build_app

ADDRESS = "127.0.0.1"


def serve(takes: Path, backbones: Sequence[str], port: int, say: Callable[[str], None], browser: bool = True) -> None:
    """Serve until Ctrl-C; the take that is being made then ends with its block.

    Args:
        takes: folder of takes.
        backbones: names or folders; the first is the default.
        port: 0 is any that is free.
        say: told the address.
        browser: whether it is opened.

    Raises:
        ValueError: if a backbone isn't there.
        OSError: if the port is taken, or the folder can't be made.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        studio = Studio(takes, backbones)
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            build_app(studio, port),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=64 * 1024,
            limit_concurrency=256,
            timeout_graceful_shutdown=5,
        )
        address = f"http://{ADDRESS}:{port}/#{studio.sessions.token}"
        say(address)
        if browser:
            threading.Timer(1.0, webbrowser.open, [address]).start()
        with suppress(KeyboardInterrupt):  # it comes again when everything is ended
            uvicorn.Server(config).run(sockets=[listening])
