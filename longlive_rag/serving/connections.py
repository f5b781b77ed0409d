"""Limits on connections: each must send a request within seconds, and no single address can hold all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
MOST = 512
MOST_OF_ONE_ADDRESS = 256


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with `HEADER_SECONDS` for the head of a request, counted from the connection or the first byte.

    At most `MOST` connections are open, `MOST_OF_ONE_ADDRESS` from one address; any more are closed at once.
    """

    _open: ClassVar[Counter[str]] = Counter()  # by address; of all servers in this process

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        self._address = self.client[0] if self.client else ""
        self._open[self._address] += 1
        if self._open[self._address] > MOST_OF_ONE_ADDRESS or self._open.total() > MOST:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.scope
        if self._waiting is None and self.cycle is not None and self.cycle.response_complete:
            self._wait()  # for the rest of the next request
        super().data_received(data)
        if self.scope is not before:
            self._stop_waiting()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop_waiting()
        self._forget()  # another protocol takes over here
        super().handle_websocket_upgrade(event)

    def _forget(self) -> None:
        self._open[self._address] -= 1
        if not self._open[self._address]:
            del self._open[self._address]

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
