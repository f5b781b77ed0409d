"""How the studio feels, in figures: a real server, a real browser, the demo backbone.

`python -m tests.studio.figures --seconds 60 --seeks 100 --seed 0 [-o FILE.json]` plays a take while it is made, directs it
every few seconds, then seeks in it, and prints how many frames were dropped, how long words take to be seen, how long a
seek takes, and how many frames were not those that `video.mp4` has there. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 16
BLOCK_FRAMES = 12
DIRECT_EVERY_S = 5.0
PATIENCE_MS = 120_000
SAMPLE = 48
"""Frames are compared at this size: colours are converted by other code in a browser."""
PROMPTS = ("a red circle jumps in a meadow", "a red circle walks in a meadow")
ARGUMENTS = ("--autoplay-policy=no-user-gesture-required", "--no-sandbox")

WATCH = """() => {
    const stage = document.querySelector("studio-app").shadowRoot.querySelector("studio-stage");
    const video = stage.shadowRoot.querySelector("video");
    const seen = (window.seen = {video, frames: [], stalls: 0});
    video.addEventListener("waiting", () => seen.stalls++);
    const next = (now, facts) => {
        seen.frames.push([now, Math.round(facts.mediaTime * %d)]);
        video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
}""" % FPS
QUALITY = """() => {
    const {droppedVideoFrames, totalVideoFrames} = window.seen.video.getVideoPlaybackQuality();
    return {dropped: droppedVideoFrames, total: totalVideoFrames, stalls: window.seen.stalls};
}"""
SHOWN = "() => Number(window.seen.video.dataset.frame)"
SEEK = """([frame, text]) => new Promise((resolve) => {
    const transport = document.querySelector("studio-app").shadowRoot.querySelector("studio-transport");
    const entry = transport.shadowRoot.querySelector("[aria-label=Timecode]");
    const {video} = window.seen;
    const begun = performance.now();
    const shown = (now, facts) => {
        if (Math.round(facts.mediaTime * %d) !== frame) return void video.requestVideoFrameCallback(shown);
        const took = performance.now() - begun;
        const canvas = Object.assign(document.createElement("canvas"), {width: %d, height: %d});
        const context = canvas.getContext("2d", {willReadFrequently: true});
        context.imageSmoothingQuality = "high";
        context.drawImage(video, 0, 0, canvas.width, canvas.height);
        resolve([took, [...context.getImageData(0, 0, canvas.width, canvas.height).data]]);
    };
    video.requestVideoFrameCallback(shown);
    entry.focus();
    entry.value = text;
    entry.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true, composed: true}));
})""" % (FPS, SAMPLE, SAMPLE)


@contextmanager
def studio(takes: Path, *options: str) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-m", "longlive_rag", "studio", "--takes", str(takes), "--port", "0", "--no-browser"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@contextmanager
def opened(address: str) -> Iterator[Any]:
    """The studio's page in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(address)
        yield page
        browser.close()


def begin(page: Any, seconds: float, seed: int) -> None:
    """A take through the page's own dialog."""
    page.get_by_role("button", name="New take", exact=True).click()
    dialog = page.get_by_role("dialog", name="New take")
    dialog.get_by_role("textbox", name="Prompt").fill(PROMPTS[1])
    dialog.get_by_role("textbox", name="Seconds").fill(f"{seconds:g}")
    dialog.get_by_role("textbox", name="Seed").fill(str(seed))
    dialog.get_by_role("button", name="Start").click()


def play_live(page: Any, seconds: float) -> dict[str, Any]:
    """Watch a take that is being made, and direct it."""
    page.wait_for_function(f"{SHOWN.removeprefix('() => ')} > 4", timeout=PATIENCE_MS)
    before, begun_s, told = page.evaluate(QUALITY), time.monotonic(), []
    first = page.evaluate(SHOWN)
    while time.monotonic() - begun_s < seconds:
        if time.monotonic() - begun_s >= (len(told) + 1) * DIRECT_EVERY_S:
            told.append(direct(page, PROMPTS[len(told) % 2]))
        page.wait_for_timeout(50)
    after, took_s = page.evaluate(QUALITY), time.monotonic() - begun_s
    shown = page.evaluate(SHOWN) - first
    return {
        "seconds": round(took_s, 1),
        "frames_played": shown,
        "rate": round(shown / took_s, 2),
        "dropped": after["dropped"] - before["dropped"],
        "stalls": after["stalls"] - before["stalls"],
        "directions": len(told),
        "blocks_until_seen": spread_of([blocks for blocks, _ in told]),
        "seconds_until_seen": spread_of([seconds for _, seconds in told]),
    }


def direct(page: Any, prompt: str) -> tuple[float, float]:
    """Blocks and seconds from Enter to the first frame of the first block under the new words."""
    entry = page.get_by_role("textbox", name="Direction", exact=True)
    entry.fill(prompt)
    cues = page.get_by_role("list", name="Cues").get_by_role("listitem")
    before, frame, begun_s = cues.count(), page.evaluate(SHOWN), time.monotonic()
    entry.press("Enter")
    while cues.count() == before:
        page.wait_for_timeout(10)
    at = page.evaluate(CUE_FRAME)
    page.wait_for_function(f"{SHOWN.removeprefix('() => ')} >= {at}", timeout=PATIENCE_MS, polling="raf")
    return (at - frame) / BLOCK_FRAMES, time.monotonic() - begun_s


CUE_FRAME = """() => {
    const app = document.querySelector("studio-app");
    const cues = app.state.take.cues.map((cue) => Math.round(cue.seconds * %d));
    return Math.max(...cues);
}""" % FPS


def seek(page: Any, video: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Jumps to frames of a finished take, and what was shown there."""
    frames = decoded(video)
    took, wrong = [], 0
    for _ in range(count):
        number = draw.randrange(len(frames))
        text = f"00:{number // (60 * FPS):02d}:{number // FPS % 60:02d}:{number % FPS:02d}"
        milliseconds, pixels = page.evaluate(SEEK, [number, text])
        took.append(milliseconds)
        shown = np.array(pixels, np.float32).reshape(SAMPLE, SAMPLE, 4)[..., :3]
        near = range(max(0, number - 6), min(len(frames), number + 7))
        errors = {other: float(np.abs(shown - frames[other]).mean()) for other in near}
        wrong += errors[number] > min(errors.values()) + 0.25
    return {"seeks": count, "wrong": wrong, "milliseconds": spread_of(took)}


def decoded(video: Path) -> list[np.ndarray]:
    """All frames, [SAMPLE, SAMPLE, 3] float32."""
    with av.open(str(video)) as container:
        pictures = (frame.to_image().reduce(frame.width // SAMPLE) for frame in container.decode(video=0))
        return [np.asarray(picture, np.float32) for picture in pictures]


def spread_of(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the largest."""
    if not values:
        return {}
    return {
        "median": round(statistics.median(values), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
        "max": round(max(values), 2),
    }


def measured(seconds: float, seeks: int, seed: int, folder: Path) -> dict[str, Any]:
    """All figures."""
    with studio(folder) as address, opened(address) as page:
        begin(page, seconds + 30, seed)
        page.wait_for_selector("studio-stage video[data-frame]", timeout=PATIENCE_MS)
        page.evaluate(WATCH)
        played = play_live(page, seconds)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Extend", exact=True).wait_for(timeout=PATIENCE_MS)
        page.wait_for_function("document.querySelector('studio-app').state.take.status !== 'live'", timeout=PATIENCE_MS)
        found = seek(page, next(folder.glob("*/video.mp4")), seeks, random.Random(seed))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"machine": machine, "seed": seed, "live": played, "seek": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of live play")
    parser.add_argument("--seeks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(given.seconds, given.seeks, given.seed, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
