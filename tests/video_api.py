"""The API over an engine whose workers are threads of this process, with the tests' random backbone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from openai import OpenAI
from starlette.testclient import TestClient

from longlive_rag.engines.supervisor import Limits, Supervisor
from longlive_rag.presets.preset import load_preset
from longlive_rag.rights.policy import pick_policy
from longlive_rag.serving.connections import PatientProtocol
from longlive_rag.serving.keys import ApiKey, Keys
from longlive_rag.serving.ledger import HIDDEN
from longlive_rag.serving.making import Setup
from longlive_rag.serving.server import build_app
from longlive_rag.serving.videos import Videos
from longlive_rag.sessions.opening import Labels
from tests.thread_workers import ThreadWorkers

PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in a desert"
SECRETS = {name: f"secret-of-{name}-0123456789" for name in ("alice", "bob", "admin", "viewer", "small")}
KEYS = (
    ApiKey(name="alice", key=SECRETS["alice"], requests_a_minute=None),
    ApiKey(name="bob", key=SECRETS["bob"], requests_a_minute=None),
    ApiKey(name="admin", key=SECRETS["admin"], scopes=("read", "make", "admin"), requests_a_minute=None),
    ApiKey(name="viewer", key=SECRETS["viewer"], scopes=("read",), requests_a_minute=None),
    ApiKey(name="small", key=SECRETS["small"], takes_at_once=1, seconds_a_day=3, requests_a_minute=30),
)


class Api:
    """A server's parts, and what a client of one key says to it."""

    def __init__(self, takes: Path, backbone: Path, workers: int = 1, waiting: int = 100, **app: Any) -> None:
        self.takes = takes
        (takes / HIDDEN).mkdir(parents=True, exist_ok=True)
        self.engine = Supervisor(ThreadWorkers(workers), takes / HIDDEN / "engine", Limits(waiting=waiting))
        presets = {"random": load_preset(str(backbone))}
        self.videos = Videos(takes, self.engine, Setup(presets, labels=Labels(pick_policy("any"))))
        self.app = build_app(self.videos, Keys(KEYS), **app)
        self._client = TestClient(self.app, raise_server_exceptions=False)

    def __enter__(self) -> Api:
        self._client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__(None, None, None)

    def ask(self, method: str, path: str, key: str = "alice", **request: Any) -> Any:
        headers = {"Authorization": f"Bearer {SECRETS[key]}", **request.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **request)

    def get(self, path: str, key: str = "alice", **request: Any) -> Any:
        return self.ask("GET", path, key, **request)

    def post(self, path: str, key: str = "alice", **request: Any) -> Any:
        return self.ask("POST", path, key, **request)

    def make(self, key: str = "alice", **order: Any) -> dict[str, Any]:
        """Queue a video."""
        answer = self.post("/v1/videos", key, json={"prompt": PROMPT, "seconds": 1.5, **order})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until_ended(self, video: str, key: str = "admin") -> dict[str, Any]:
        return until(lambda: self.get(f"/v1/videos/{video}", key).json(), is_ended)

    def made(self, key: str = "alice", **order: Any) -> dict[str, Any]:
        """A video that was made."""
        found = self.until_ended(self.make(key, **order)["id"])
        assert found["status"] == "completed", found
        return found

    def folder(self, video: str) -> Path:
        """Of its take."""
        return self.videos.ledger.take_folder(self.videos.ledger.entries[video])

    def socket(self, key: str = "alice") -> Any:
        headers = {"Authorization": f"Bearer {SECRETS[key]}"} if key else {}
        return self._client.websocket_connect("/v1/realtime/video", headers=headers)


def is_ended(video: dict[str, Any]) -> bool:
    return video["status"] in ("completed", "failed")


def until(look: Callable[[], Any], is_it: Callable[[Any], bool], seconds: float = 120) -> Any:
    """What is seen as soon as it is what is waited for."""
    deadline = time.monotonic() + seconds
    while not is_it(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


class Listening:
    """An API at a real address."""

    def __init__(self, api: Api) -> None:
        self.api = api
        config = uvicorn.Config(api.app, port=0, http=PatientProtocol, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Listening:
        self._thread.start()
        until(lambda: self._server.started, bool)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)

    def client(self, key: str = "alice") -> OpenAI:
        return OpenAI(api_key=SECRETS[key], base_url=f"{self.url}/v1", max_retries=0)
