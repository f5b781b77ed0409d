"""Access to the studio: only a browser that uses its host name, its page and its token."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
MAX_JSON_BYTES = MIB
MAX_UPLOAD_BYTES = 20 * MIB
MAX_SESSIONS = 32
UPLOADS = "/api/uploads"
EVENTS = "/api/events"
USUAL_PORTS = {"http": 80, "https": 443}
OPEN_PATHS = ("/api/session",)
ABSOLUTE = re.compile(r"(?<![\w.:/-])(?:/[^\s/'\":;,()]+){2,}")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Sessions:
    """The token in the printed address, and the secrets that were exchanged for it.

    Attributes:
        token: 256 bits.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._used: dict[str, float] = {}  # secret: when it was last used
        self._lock = threading.Lock()

    def begin(self, token: str) -> str | None:
        """A new session's secret; None if the token is wrong. If there are too many, the longest idle one goes."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        secret = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._used) >= MAX_SESSIONS:
                del self._used[min(self._used, key=self._used.__getitem__)]
            self._used[secret] = time.monotonic()
        return secret

    def knows(self, secret: str) -> bool:
        """Whether a secret belongs to a session."""
        with self._lock:
            known = [each for each in self._used if hmac.compare_digest(each.encode(), secret.encode())]
            for each in known:
                self._used[each] = time.monotonic()
        return bool(known)


@dataclass
class Guard:
    """Checks requests before anything reads them, and adds `HEADERS` to every response.

    Attributes:
        app: answers the requests that pass.
        sessions: see `Sessions`.
        port: the server's port.
        hosts: accepted host names, without a port; the first is the one to use.
        scheme: `http` or `https`.
    """

    app: ASGIApp
    sessions: Sessions
    port: int
    hosts: tuple[str, ...]
    scheme: str
    _hosts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = tuple(f"{name}:{self.port}" for name in self.hosts)
        is_usual = self.port == USUAL_PORTS[self.scheme]  # then browsers leave it out
        self._hosts = (*named, *self.hosts) if is_usual else named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        limit = MAX_UPLOAD_BYTES if scope["path"] == UPLOADS else MAX_JSON_BYTES
        await self.app(scope, limited(receive, limit), _with_headers(send, scope["path"]))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts, origins = values_of(headers, "host"), values_of(headers, "origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, f"the studio only answers requests to {self._hosts[0]}"
        if origins and origins != [f"{self.scheme}://{hosts[0].lower()}"]:
            return 403, "requests from other pages are refused"
        if scope["type"] == "websocket":
            return None if scope["path"] == EVENTS else (404, "there is nothing here")
        return self._http_refusal(scope, headers)

    def _http_refusal(self, scope: Scope, headers: list[tuple[str, str]]) -> tuple[int, str] | None:
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"{method} is not supported here"
        if not path.startswith("/api"):
            return None if method != "POST" else (405, "POST is not supported here")
        lengths = values_of(headers, "content-length")
        limit = MAX_UPLOAD_BYTES if path == UPLOADS else MAX_JSON_BYTES
        if any(not length.isdigit() or int(length) > limit for length in lengths):
            return 413, f"a request may have at most {limit // MIB} MiB"
        kinds = [kind.split(";")[0].strip().lower() for kind in values_of(headers, "content-type")]
        if method == "POST" and path != UPLOADS and kinds != ["application/json"]:
            return 415, "send JSON, with Content-Type: application/json"
        if path in OPEN_PATHS:
            return None
        secret = bearer(values_of(headers, "authorization"))
        if secret is None or not self.sessions.knows(secret):
            return 401, "this needs the address that the studio printed; open it again"
        return None


def bearer(values: Iterable[str]) -> str | None:
    """The secret in a header `Authorization: Bearer SECRET`; None unless there is exactly one."""
    found = list(values)
    kind, _, secret = found[0].partition(" ") if len(found) == 1 else ("", "", "")
    return secret.strip() if kind.lower() == "bearer" and secret.strip() else None


def values_of(headers: list[tuple[str, str]], name: str) -> list[str]:
    """The values of all headers with this name."""
    return [value for each, value in headers if each == name]


def names_only(text: str) -> str:
    """Text with each path shortened to its last name."""
    return ABSOLUTE.sub(lambda found: Path(found.group()).name, text)


def error_body(message: str, fields: Iterable[dict[str, Any]] = ()) -> bytes:
    """The body of an error response."""
    return json.dumps({"error": {"message": message, "fields": list(fields)}}).encode()


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": message[:100]})
        return
    wrapped = _with_headers(send, scope["path"])
    kind = [(b"content-type", b"application/json")]
    await wrapped({"type": "http.response.start", "status": status, "headers": kind})
    await wrapped({"type": "http.response.body", "body": error_body(message)})


def _with_headers(send: Send, path: str) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            ours = {**HEADERS, "cache-control": "no-store" if path.startswith("/api") else "no-cache"}
            new = [(name.encode(), value.encode()) for name, value in ours.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *new]}
        await send(message)

    return with_headers


def limited(receive: Receive, limit: int) -> Receive:
    """A `receive` for bodies of at most `limit` bytes; HTTPException 413 if there are more."""
    count = 0

    async def limited() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise HTTPException(413, f"a request may have at most {limit // MIB} MiB")
        return message

    return limited
