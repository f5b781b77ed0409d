"""The first minute of the studio in a real browser: from an empty folder to an exported branch.

STUDIO_SCREENSHOTS=FOLDER keeps a picture of each step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the studio's server is not installed: pip install 'longlive-rag[studio]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]

FPS = 16
LONGEST_MS = 120_000
VIDEO = "studio-stage video"
PIXELS = """video => {
    const size = {width: video.videoWidth, height: video.videoHeight};
    const canvas = Object.assign(document.createElement("canvas"), size);
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "longlive_rag", "studio", "--takes", str(tmp_path / "takes"), "--port", "0"]
    with subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        arguments = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(address)
        yield page
        browser.close()
        assert faults == []


def keep_picture(page: Any, name: str) -> None:
    if folder := os.environ.get("STUDIO_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def go_to(page: Any, timecode: str, frame: int) -> None:
    entry = page.get_by_role("textbox", name="Timecode")
    entry.fill(timecode)
    entry.press("Enter")
    playwright.expect(page.locator(VIDEO)).to_have_attribute("data-frame", str(frame), timeout=LONGEST_MS)


def wait_for(page: Any, attribute: str, frame: int) -> None:
    """Until the playhead is at a frame or beyond: aria-valuenow is the frame, aria-valuemax the last made one."""
    slider = page.get_by_role("slider", name="Playhead")
    end_s = time.monotonic() + LONGEST_MS / 1000
    while int(slider.get_attribute(attribute)) < frame:
        assert time.monotonic() < end_s, f"{attribute} is {slider.get_attribute(attribute)}, not {frame}"
        page.wait_for_timeout(50)


def wait_until_made(page: Any) -> None:
    """A take that is not made any more can be extended."""
    playwright.expect(page.get_by_role("button", name="Extend")).to_be_enabled(timeout=LONGEST_MS)


def test_first_minute(page: Any, tmp_path: Path) -> None:
    def button(name: str) -> Any:
        return page.get_by_role("button", name=name, exact=True)

    keep_picture(page, "1-empty")

    button("Make the demo take").click()
    library = page.get_by_role("listbox", name="Library")
    playwright.expect(library.get_by_role("option")).to_have_count(1)
    wait_for(page, "aria-valuenow", 4)
    keep_picture(page, "2-watched")

    # Making stays a few blocks ahead of the playhead, so each jump lets it go on to there.
    wait_for(page, "aria-valuemax", 5 * FPS + 8)
    go_to(page, "00:00:05:08", 5 * FPS + 8)
    shown = np.array(page.locator(VIDEO).evaluate(PIXELS)).reshape(384, 384, 4)[..., :3]
    button("Pin").last.click()
    playwright.expect(button("Pin").last).to_have_attribute("aria-pressed", "true")
    keep_picture(page, "3-pinned")

    button("Undo to here").click()
    playwright.expect(page.get_by_role("treeitem")).to_have_count(2, timeout=LONGEST_MS)
    direction = page.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a blue square jumps in a desert")
    direction.press("Enter")
    playwright.expect(page.get_by_role("list", name="Cues").get_by_role("listitem")).to_contain_text(
        ["stands", "jumps"], timeout=LONGEST_MS
    )
    keep_picture(page, "4-undone")

    wait_for(page, "aria-valuemax", 9 * FPS)
    button("Stop").click()
    wait_until_made(page)
    button("Branch here").click()
    playwright.expect(page.get_by_role("treeitem")).to_have_count(3, timeout=LONGEST_MS)
    page.get_by_role("combobox", name="Pace").select_option("As fast as it can")
    wait_until_made(page)
    keep_picture(page, "5-branched")

    button("Compare").click()
    compare = page.get_by_role("region", name="Compare")
    compare.get_by_role("combobox", name="Take to compare with").select_option(index=1)
    other = compare.locator("video")
    playwright.expect(other).to_have_js_property("readyState", 4, timeout=LONGEST_MS)
    keep_picture(page, "6-compared")

    button("Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Video of the range").click()
    assert download.value.path().stat().st_size > 0

    first = min((tmp_path / "takes").glob("*/video.mp4"), key=lambda video: len(video.parent.name))
    made = decoded_frame(first, 5 * FPS + 8)
    assert np.abs(shown.astype(int) - made).mean() < 3  # colours are converted by other code, and the canvas rounds


def decoded_frame(video: Path, number: int) -> np.ndarray:
    """[height, width, 3] of a video's frame."""
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_ndarray(format="rgb24").astype(int)
    raise AssertionError(f"{video} has no frame {number}")
