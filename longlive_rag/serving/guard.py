"""Guards the API: checks keys, rates, body sizes and slow clients, and records every request."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longlive_rag.serving.keys import ApiKey, Keys
from longlive_rag.serving.limits import Buckets
from longlive_rag.studio.security import MIB, bearer, values_of

MAX_JSON_BYTES = MIB
MAX_FORM_BYTES = 20 * MIB
FORM = "multipart/form-data"
BODY_SECONDS = 60.0
SEND_SECONDS = 60.0
OPEN_PATHS = ("/healthz", "/readyz", "/docs", "/openapi.json")
STRANGERS_A_MINUTE = 60
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    409: "conflict_error", 413: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        code: a name that programs can rely on.
        message: one sentence.
        param: the field that it is about.
        retry_s: seconds after which to retry.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_s = status, code, message, param, retry_s

    @property
    def problem(self) -> dict[str, Any]:
        """The error object that OpenAI's clients expect."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    @property
    def body(self) -> bytes:
        """Body of the response."""
        return json.dumps({"error": self.problem}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        retry = {} if self.retry_s is None else {"retry-after": str(max(1, round(self.retry_s + 0.5)))}
        return {"content-type": "application/json", **retry}


@dataclass
class Seen:
    """A request and the outcome of it.

    Attributes:
        scope: ASGI scope.
        request_id: given by the client, or generated.
        key: the client's key; None for strangers.
        status: HTTP status of the response; 499 if the client left first.
        seconds: until the response was sent.
        code: error code, if the response is an error.
    """

    scope: Scope
    request_id: str
    key: ApiKey | None = None
    status: int = 499
    seconds: float = 0.0
    code: str | None = None


@dataclass
class Guard:
    """Checks requests before anything reads them.

    Attributes:
        app: answers the requests that pass.
        keys: valid keys.
        on_request: called after every request.
    """

    app: ASGIApp
    keys: Keys
    on_request: Callable[[Seen], None]
    buckets: Buckets = field(default_factory=Buckets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        given = values_of(headers, "x-request-id")
        seen = Seen(scope, given[0] if given and REQUEST_ID.fullmatch(given[0]) else secrets.token_hex(12))
        begin_s = time.perf_counter()
        try:
            await self._answer(seen, headers, receive, _watched(send, seen))
        finally:
            seen.seconds = time.perf_counter() - begin_s
            self.on_request(seen)

    async def _answer(self, seen: Seen, headers: list[tuple[str, str]], receive: Receive, send: Send) -> None:
        scope = seen.scope
        try:
            self._admit(seen, headers)
            scope.setdefault("state", {}).update(key=seen.key, seen=seen)
            if scope["type"] == "http":
                receive = _bounded(receive, _limit(headers))
            elif seen.key is not None:
                receive = self._paced(receive, scope, seen.key)
            await self.app(scope, receive, send)
        except ApiError as error:
            seen.code = error.code
            await refuse(scope, send, error)
        except TimeoutError:
            seen.code = "client_too_slow"  # the connection is closed on the way out

    def _admit(self, seen: Seen, headers: list[tuple[str, str]]) -> None:
        if seen.scope["path"] in OPEN_PATHS:
            return
        secret = bearer(values_of(headers, "authorization"))
        seen.key = self.keys.of(secret) if secret is not None else None
        name, a_minute = _bucket(seen.key, seen.scope)
        if wait_s := self._wait_s(name, a_minute):
            raise ApiError(429, "rate_limit_exceeded", f"more than {a_minute} requests a minute", retry_s=wait_s)
        if seen.key is None:
            message = "send one of this server's keys in the header Authorization: Bearer KEY"
            raise ApiError(401, "invalid_api_key", message)
        lengths, limit = values_of(headers, "content-length"), _limit(headers)
        if any(not length.isdigit() or int(length) > limit for length in lengths):
            raise _too_large(limit)

    def _wait_s(self, name: str, a_minute: int | None) -> float:
        """Count a request; returns 0, or the seconds to wait if it is one too many."""
        return self.buckets.take(name, a_minute) if a_minute else 0.0

    def _paced(self, receive: Receive, scope: Scope, key: ApiKey) -> Receive:
        """A `receive` for sockets: each message counts as a request, and one too many waits."""
        name, a_minute = _bucket(key, scope)

        async def paced() -> Message:
            message = await receive()
            while message["type"] == "websocket.receive" and (wait_s := self._wait_s(name, a_minute)):
                await asyncio.sleep(wait_s)
            return message

        return paced


def _bucket(key: ApiKey | None, scope: Scope) -> tuple[str, int | None]:
    """The bucket that counts requests of a key, or of a stranger's address, and the requests allowed per minute."""
    if key is not None:
        return f"key {key.name}", key.requests_a_minute
    client = scope.get("client")
    return f"stranger {client[0] if client else ''}", STRANGERS_A_MINUTE


def _limit(headers: list[tuple[str, str]]) -> int:
    kinds = values_of(headers, "content-type")
    return MAX_FORM_BYTES if kinds and kinds[0].lower().startswith(FORM) else MAX_JSON_BYTES


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"a request may have at most {limit // MIB} MiB")


def _bounded(receive: Receive, limit: int) -> Receive:
    """A `receive` that refuses bodies that are too large or too slow."""
    count, until = 0, time.monotonic() + BODY_SECONDS
    whole = False

    async def bounded() -> Message:
        nonlocal count, whole
        if whole:  # all that can still come is the client's disconnect
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), until - time.monotonic())
        except TimeoutError as error:
            raise ApiError(408, "too_slow", f"a request must be sent within {BODY_SECONDS:g} s") from error
        count += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if count > limit:
            raise _too_large(limit)
        return message

    return bounded


def _watched(send: Send, seen: Seen) -> Send:
    """A `send` that adds our headers, and times out if the client doesn't read."""

    async def watched(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            seen.status = message.get("status", 101)
            given = {name.lower() for name, _ in message.get("headers", ())}
            ours = {**HEADERS, "x-request-id": seen.request_id}
            new = [(name.encode(), value.encode()) for name, value in ours.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *new]}
        await asyncio.wait_for(send(message), SEND_SECONDS)

    return watched


async def refuse(scope: Scope, send: Send, error: ApiError) -> None:
    """Send an error response; a socket is not opened."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": error.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": error.body})
