"""The studio as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
import httpx
from websockets.sync.client import ClientConnection, connect

from longlive_rag.engines.local import LocalWorkers
from longlive_rag.engines.supervisor import Supervisor
from longlive_rag.studio.address import Address
from longlive_rag.studio.serving import serve
from tests.forked import context

ADDRESS = re.compile(r"(https?)://(\S+):(\d+)/#(\S+)")


class Served:
    """`longlive-rag studio` in a process of its own.

    Attributes:
        address: that it says, token and all.
    """

    def __init__(self, takes: Path, backbone: Path, *options: object, trusted: Path | None = None) -> None:
        self.address = self._start(takes, backbone, *map(str, options)).strip()
        found = ADDRESS.search(self.address)
        assert found, self.end(signal.SIGKILL) or self.said
        self.scheme, self.name, self.port, token = found.groups()
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self.trust = ssl.create_default_context(cafile=trusted) if trusted else None
        self.client = httpx.Client(base_url=self.url, timeout=120, verify=self.trust or True)
        self.secret = self.client.post("/api/session", json={"token": token}).json()["secret"]
        self.client.headers["Authorization"] = f"Bearer {self.secret}"

    @contextmanager
    def events(self) -> Iterator[ClientConnection]:
        with connect(f"{self.url.replace('http', 'ws')}/api/events", ssl=self.trust, origin=self.url) as socket:
            socket.send(json.dumps({"secret": self.secret}))
            yield socket

    def _start(self, takes: Path, backbone: Path, *options: str) -> str:
        command = [sys.executable, "-m", "longlive_rag", "studio", "--takes", str(takes), "--backbone", str(backbone)]
        self.process: Any = subprocess.Popen(
            [*command, "--port", "0", "--no-browser", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        return str(self.process.stdout.readline())

    def end(self, number: int) -> int:
        if hasattr(self, "client"):
            self.client.close()
        self.process.send_signal(number)
        self.said = self.process.communicate(timeout=60)[1]
        return self.process.returncode


class Forked(Served):
    """The same, forked off a process that has imported everything, so that it is there at once and a kill hits work."""

    def _start(self, takes: Path, backbone: Path, *_: str) -> str:
        forked = context()
        reader, writer = forked.Pipe(duplex=False)
        self.process = forked.Process(target=_serve, args=(takes, backbone, writer))
        self.process.start()
        writer.close()
        return str(reader.recv())

    def end(self, number: int) -> int:
        self.client.close()
        os.kill(self.process.pid, number)
        self.process.join(60)
        return int(self.process.exitcode)


def _serve(takes: Path, backbone: Path, told: Connection) -> None:
    serve(takes, [str(backbone)], Address(port=0), _forked_worker, told.send, browser=False)


def _forked_worker(state: Path) -> Supervisor:
    return Supervisor(LocalWorkers(["cpu"], "fork"), state)
