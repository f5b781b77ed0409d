"""A model hub on this machine: as much of its HTTP interface as `huggingface_hub` uses to fetch a repository."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000
"""From here on a file has a published SHA-256, as files in large-file storage have."""


class Hub:
    """Serves `folder/<owner>/<repo>/<file>`; use it in a `with` block.

    Attributes:
        endpoint: what HF_ENDPOINT is to be.
        asked: (method, path, Range header) of every request.
        published: file name -> SHA-256 that the hub claims, where it is not the file's own.
        broken_after: bytes of a large file after which a connection breaks, once; None for never.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str | None]] = []
        self.published: dict[str, str] = {}
        self.broken_after: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str) -> list[tuple[str, bytes]]:
        root = self.folder / repo
        return [(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()]

    def sha256(self, name: str, content: bytes) -> str:
        return self.published.get(name, hashlib.sha256(content).hexdigest())


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/[^/]+", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if listing and (self.hub.folder / listing[1]).is_dir():
            self._json(self._info(listing[1]) if listing[2] == "revision" else self._tree(listing[1]))
        elif file and (self.hub.folder / file[1] / file[2]).is_file():
            self._file(file[2], (self.hub.folder / file[1] / file[2]).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _info(self, repo: str) -> dict[str, object]:
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": "0", **self._lfs(name, content, "sha256")}
            for name, content in self.hub.files(repo)
        ]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}

    def _tree(self, repo: str) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": "0", **self._lfs(name, content, "oid")}
            for name, content in self.hub.files(repo)
        ]

    def _lfs(self, name: str, content: bytes, key: str) -> dict[str, object]:
        if len(content) < LARGE_BYTES:
            return {}
        return {"lfs": {key: self.hub.sha256(name, content), "size": len(content), "pointerSize": 134}}

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(asked[1]) if asked else 0
        part = content[begin:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{self.hub.sha256(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command != "GET":
            return
        breaks = self.hub.broken_after
        if breaks is not None and len(part) > breaks:
            self.hub.broken_after = None
            self.wfile.write(part[:breaks])
            self.close_connection = True
            return
        self.wfile.write(part)
