"""A browser's side of the studio, without a browser."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

HOST = "127.0.0.1:8160"
PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in a desert"


class Window:
    """A page: a session with its secret, and its events."""

    def __init__(self, client: TestClient, token: str) -> None:
        self.client = client
        self.secret = client.post("/api/session", json={"token": token}).json()["secret"]
        self.headers = {"Authorization": f"Bearer {self.secret}"}
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._socket = client.websocket_connect("/api/events", headers={"host": HOST})

    def __enter__(self) -> Window:
        self._open = self._socket.__enter__()
        self._open.send_json({"secret": self.secret})
        assert self._open.receive_json()["type"] == "hello"
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._socket.__exit__(None, None, None)

    def _listen(self) -> None:
        while True:
            try:
                self.events.put(json.loads(self._open.receive_text()))
            except Exception:  # it was closed
                return

    def say(self, **message: Any) -> None:
        self._open.send_json(message)

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=self.headers)

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, headers=self.headers, json=body)

    def do(self, take: str, **command: Any) -> Any:
        return self.post(f"/api/takes/{take}/commands", **command)

    def begin(self, seconds: float = 6.0, **message: Any) -> str:
        answer = self.post("/api/takes", **{"prompt": PROMPT, "seconds": seconds, **message})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def until(self, kind: str, **facts: Any) -> dict[str, Any]:
        """The next event of a kind with these facts."""
        while True:
            event = self.events.get(timeout=60)
            inside = event.get("take") if isinstance(event.get("take"), dict) else event
            if event["type"] == kind and all(inside.get(name, event.get(name)) == v for name, v in facts.items()):
                return event

    def silent(self, seconds: float = 1.5) -> bool:
        """Whether no block comes for some time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                if self.events.get(timeout=left)["type"] == "block":
                    return False
            except queue.Empty:
                return True
        return True

    def block(self, number: int) -> dict[str, Any]:
        """The event of a block."""
        while True:
            event = self.until("block")
            if event["segment"]["block"] == number:
                return event

    def ended(self, take: str, status: str = "finished") -> dict[str, Any]:
        return self.until("take", id=take, status=status)["take"]
