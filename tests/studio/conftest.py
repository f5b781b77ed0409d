"""A studio with the tests' random backbone, a window that looks at it, and a real one in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


# ---- in a browser, at the address of a module's `server` ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browsing import CHROMIUM, playwright

    with playwright.sync_playwright() as started:
        arguments = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser_window(browser: Any, server: Any) -> Iterator[Any]:
    """One window for all tests, since the first one that says something directs."""
    size = {"width": 1280, "height": 720}
    context = browser.new_context(viewport=size, permissions=["clipboard-read", "clipboard-write"])
    window = context.new_page()
    window.goto(server.address)
    yield window
    context.close()


@pytest.fixture
def page(browser_window: Any) -> Iterator[Any]:
    """The window, as it is after a reload; nothing may fail in it but what the server refuses."""
    faults: list[str] = []

    def note(said: Any) -> None:
        if said.type == "error" and "Failed to load resource" not in said.text and "WebSocket" not in said.text:
            faults.append(said.text)

    def crash(error: Any) -> None:
        faults.append(str(error))

    browser_window.on("pageerror", crash)
    browser_window.on("console", note)
    browser_window.reload()
    yield browser_window
    browser_window.remove_listener("pageerror", crash)
    browser_window.remove_listener("console", note)
    assert faults == []
