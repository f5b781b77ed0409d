"""The studio's server as a process, and at which address: this machine's, or another one with TLS."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from backbone.errors import FieldError
from longlive_rag.studio.server import Studio, build_app

HERE = ("127.0.0.1", "localhost", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
WARNING = (
    "warning: the studio is open to the network without TLS; whoever sees its traffic has its token, and directs takes"
)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: an address or a name of this machine.
        port: 0 is any that is free.
        tls_cert, tls_key: files of a certificate and its key; both or none.
        insecure: whether it may be on a network without them.
        names: other hosts that browsers may call it by.

    Raises:
        FieldError: if others could listen in, the files don't fit, or a name has more than a name in it.
    """

    host: str = "127.0.0.1"
    port: int = 8160
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_cert" if self.tls_cert is None else "tls_key"
            raise FieldError(missing, None, "a certificate and its key are given together", "missing")
        if not self.is_here and self.tls_cert is None and not self.insecure:
            wanted = "an address of a network needs --tls-cert and --tls-key, or --insecure-network"
            raise FieldError("host", self.host, wanted)
        for name in self.names:
            if not NAME.fullmatch(name):
                raise FieldError("allow_host", name, "it must be a name or an address without a port")
        self._check_certificate()

    def _check_certificate(self) -> None:
        if self.tls_cert is None or self.tls_key is None:
            return
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # nobody is asked for one
        except OSError as error:
            shown = f"{self.tls_cert}, with the key {self.tls_key}"
            reason = error.strerror or str(error)
            raise FieldError("tls_cert", str(self.tls_cert), f"both must be PEM files ({reason})", shown) from error

    @property
    def is_here(self) -> bool:
        """Whether only this machine reaches it."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host.lower() == "localhost"

    @property
    def scheme(self) -> str:
        """What it speaks."""
        return "http" if self.tls_cert is None else "https"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What browsers may call it, without a port; the first is what is printed."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        own = socket.gethostname() if self.host in EVERYWHERE else own
        here = HERE if self.is_here or self.host in EVERYWHERE else ()
        return tuple(dict.fromkeys(name.lower() for name in (own, *here, *self.names)))

    def listen(self) -> socket.socket:
        """A socket that is bound to it; ValueError if that can't be."""
        try:
            family, kind, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with ExitStack() as until_bound:
                listening = until_bound.enter_context(socket.socket(family, kind))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(place)
                listening.listen()  # before the address is said: who opens it at once waits, and is not refused
                until_bound.pop_all()
                return listening
        except OSError as error:
            raise ValueError(f"can't listen at {self.host}, port {self.port}: {error.strerror}") from error


def serve(
    takes: Path,
    backbones: Sequence[str],
    address: Address,
    say: Callable[[str], None],
    browser: bool = True,
    warn: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Serve until Ctrl-C; the take that is being made then ends with its block.

    Args:
        takes: folder of takes.
        backbones: names or folders; the first is the default.
        address: where.
        say: told where it can be opened.
        browser: whether it is opened.
        warn: told what others could do.

    Raises:
        ValueError: if a backbone isn't there, or the address can't be had.
        OSError: if the folder can't be made.
    """
    with address.listen() as listening:
        studio = Studio(takes, backbones)
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
        with suppress(KeyboardInterrupt):  # it comes again when everything is ended
            uvicorn.Server(config).run(sockets=[listening])
