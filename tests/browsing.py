"""The studio's page in a real browser: what a person does there, and what is seen."""

from __future__ import annotations

import base64
import io
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the studio's server is not installed: pip install 'longlive-rag[studio]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[1] / "longlive_rag/studio/web/node_modules/axe-core/axe.min.js"
REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="there is no chromium: apt-get install chromium"),
]

LONGEST_MS = 60_000
VIDEO = "studio-stage video"
PICTURE = """video => {
    const size = {width: video.videoWidth, height: video.videoHeight};
    const canvas = Object.assign(document.createElement("canvas"), size);
    canvas.getContext("2d").drawImage(video, 0, 0);
    return canvas.toDataURL("image/png");
}"""
FILE = """([name, type, bytes, size]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes), new Uint8Array(size - bytes.length)], name, {type}));
    return transfer;
}"""
expect = playwright.expect
expect.set_options(timeout=LONGEST_MS)


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def keep_picture(page: Any, name: str) -> None:
    if folder := os.environ.get("STUDIO_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/studio-{name}.png")


def go_to(page: Any, timecode: str, frame: int) -> None:
    entry = page.get_by_role("textbox", name="Timecode", exact=True)
    entry.fill(timecode)
    entry.press("Enter")
    expect(page.locator(VIDEO)).to_have_attribute("data-frame", str(frame))


def wait_for(page: Any, attribute: str, frame: int) -> None:
    """Until the playhead is at a frame or beyond: aria-valuenow is the frame, aria-valuemax the last made one."""
    slider = page.get_by_role("slider", name="Playhead")
    end_s = time.monotonic() + LONGEST_MS / 1000
    while int(slider.get_attribute(attribute)) < frame:
        assert time.monotonic() < end_s, f"{attribute} is {slider.get_attribute(attribute)}, not {frame}"
        page.wait_for_timeout(50)


def open_take(page: Any, name: str) -> None:
    option = page.get_by_role("listbox", name="Library").locator(f"[data-name='{name}']")
    option.click()
    expect(option).to_have_attribute("aria-selected", "true")


def pace(page: Any, choice: str) -> None:
    page.get_by_role("combobox", name="Pace").select_option(choice)


def begin(page: Any, prompt: str, seconds: float, choice: str, **fields: str) -> None:
    """Start a take by the dialog, at a pace."""
    pace(page, choice)
    button(page, "New take").click()
    dialog = page.get_by_role("dialog", name="New take")
    for name, value in {"Prompt": prompt, "Seconds": str(seconds), **fields}.items():
        dialog.get_by_role("textbox", name=name, exact=True).fill(value)
    button(dialog, "Start").click()
    expect(dialog).to_be_hidden()


def drop(page: Any, name: str, kind: str, data: bytes, size: int = 0) -> None:
    """A file from the desktop, on the page; zeros make it `size` bytes long."""
    file = [name, kind, [*data], max(size, len(data))]
    page.dispatch_event("studio-app", "drop", {"dataTransfer": page.evaluate_handle(FILE, file)})


def shown_picture(page: Any) -> np.ndarray:
    """[height, width, 3] of what the stage shows."""
    data = page.locator(VIDEO).evaluate(PICTURE).partition(",")[2]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def assert_accessible(page: Any, where: str) -> None:
    """No serious or critical fault by axe-core."""
    if not AXE.is_file():
        assert not REQUIRED, f"{AXE} is not there: make page"
        return
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    grave = [
        (fault["id"], node["target"], node["failureSummary"])
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert grave == [], where
