"""A studio with the tests' random backbone, and a window that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from windows import HOST, Window

from longlive_rag.studio.address import HERE
from longlive_rag.studio.server import build_app
from longlive_rag.studio.studio import Studio
from tests.thread_workers import thread_engine


@pytest.fixture
def studio(tmp_path: Path, pipeline_folder: Path) -> Studio:
    return Studio(tmp_path / "takes", thread_engine, [str(pipeline_folder)])


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(build_app(studio, 8160, HERE), base_url=f"http://{HOST}", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def window(studio: Studio, client: TestClient) -> Iterator[Window]:
    with Window(client, studio.sessions.token) as window:
        yield window
