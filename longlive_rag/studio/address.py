"""Where a server listens: on this machine, or on a network with TLS."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import FieldError, Name

HERE = ("127.0.0.1", "localhost", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: an address or a name of this machine.
        port: 0 picks a free one.
        tls_cert, tls_key: files of a certificate and its key; both or none.
        insecure: whether it may listen on a network without them.
        names: more host names that browsers may use.

    Raises:
        FieldError: if a network address lacks TLS and `insecure`, the files don't fit, or a name isn't a host name.
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
            raise FieldError(missing, None, "give a certificate and its key together", "missing")
        if not self.is_here and self.tls_cert is None and not self.insecure:
            wanted = "a network address needs --tls-cert and --tls-key, or --insecure-network"
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
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # so that it never prompts for one
        except OSError as error:
            shown = f"{self.tls_cert}, with the key {self.tls_key}"
            reason = error.strerror or str(error)
            raise FieldError("tls_cert", str(self.tls_cert), f"both must be PEM files ({reason})", shown) from error

    @property
    def is_here(self) -> bool:
        """Whether only this machine can reach it."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host.lower() == "localhost"

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "http" if self.tls_cert is None else "https"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names that browsers may use, without a port; the first is printed."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        own = socket.gethostname() if self.host in EVERYWHERE else own
        here = HERE if self.is_here or self.host in EVERYWHERE else ()
        return tuple(dict.fromkeys(name.lower() for name in (own, *here, *self.names)))

    def listen(self) -> socket.socket:
        """A listening socket at this address; FieldError if it can't be opened."""
        try:
            family, kind, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with ExitStack() as until_bound:
                listening = until_bound.enter_context(socket.socket(family, kind))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(place)
                listening.listen()  # before the address is printed, so that early connections wait and aren't refused
                until_bound.pop_all()
                return listening
        except OSError as error:
            claim = f"can't listen at {self.host}, port {self.port}: {error.strerror}"
            wanted = ("choose another with ", Name("port"), " (0 takes any that is free) or ", Name("host"))
            raise FieldError("port", self.port, wanted, claim=claim) from error
