"""How the studio feels, in figures: a real server, a real browser, the demo backbone.

`python -m tests.studio.figures --seconds 60 --seeks 100 --seed 0` plays a take while it is made, directs it every few
seconds, then seeks in it, and prints how many frames were dropped, how long words take to be seen, how long a seek
takes, and how many frames were not those that `video.mp4` has there. `--minutes 20` makes a long take as fast as it can
instead, plays it at 8x, and prints what page and server hold on the way. Nothing else should run meanwhile.
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
import psutil

MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"
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
    window.seen = {video, stalls: 0};
    video.addEventListener("waiting", () => window.seen.stalls++);
}"""
QUALITY = """() => {
    const {droppedVideoFrames, totalVideoFrames} = window.seen.video.getVideoPlaybackQuality();
    return {dropped: droppedVideoFrames, total: totalVideoFrames, stalls: window.seen.stalls};
}"""
SHOWN = "() => Number(window.seen.video.dataset.frame)"
ENDED = "() => Number(document.querySelector('studio-app').state.take.status !== 'live')"
LAST_CUE = """(fps) => {
    const {cues} = document.querySelector("studio-app").state.take;
    return Math.max(...cues.map((cue) => Math.round(cue.seconds * fps)));
}"""
BUFFERED = """() => {
    const {buffered} = window.seen.video;
    const spans = [...Array(buffered.length).keys()].map((place) => buffered.end(place) - buffered.start(place));
    return Math.round(spans.reduce((sum, span) => sum + span, 0));
}"""
SUBMIT = """(entry) => {
    const shown = Number(window.seen.video.dataset.frame);
    entry.form.requestSubmit();
    return shown;
}"""
SEEK = """([frame, text, fps, side]) => new Promise((resolve) => {
    const transport = document.querySelector("studio-app").shadowRoot.querySelector("studio-transport");
    const entry = transport.shadowRoot.querySelector("[aria-label=Timecode]");
    const {video} = window.seen;
    const begun = performance.now();
    const shown = (now, facts) => {
        if (Math.round(facts.mediaTime * fps) !== frame) return void video.requestVideoFrameCallback(shown);
        const took = performance.now() - begun;
        const canvas = Object.assign(document.createElement("canvas"), {width: side, height: side});
        const context = canvas.getContext("2d", {willReadFrequently: true});
        context.imageSmoothingQuality = "high";
        context.drawImage(video, 0, 0, side, side);
        resolve([took, [...context.getImageData(0, 0, side, side).data]]);
    };
    video.requestVideoFrameCallback(shown);
    entry.focus();
    entry.value = text;
    entry.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true, composed: true}));
})"""


@contextmanager
def studio(takes: Path) -> Iterator[tuple[str, int]]:
    """The address of a server, and its process."""
    command = [sys.executable, "-m", "longlive_rag", "studio", "--takes", str(takes), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server.pid
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
    dialog.get_by_role("button", name="Start", exact=True).click()


def wait_for_picture(page: Any) -> None:
    """Until the first frame is shown."""
    from playwright.sync_api import TimeoutError as TooLongError

    try:
        page.wait_for_selector("studio-stage video[data-frame]", timeout=PATIENCE_MS)
    except TooLongError as error:
        alerts = page.get_by_role("alert").all_inner_texts()
        raise AssertionError(f"no frame is shown; alerts: {alerts}; {page.inner_text('studio-app')[:500]}") from error


def play_live(page: Any, seconds: float) -> dict[str, Any]:
    """Watch a take that is being made, and direct it."""
    wait_until(page, SHOWN, 4)
    told: list[tuple[float, float]] = []
    before, begun_s = page.evaluate(QUALITY), time.monotonic()
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
    before, begun_s = cues.count(), time.monotonic()
    frame = entry.evaluate(SUBMIT)
    while cues.count() == before:
        page.wait_for_timeout(10)
    at = page.evaluate(LAST_CUE, FPS)
    wait_until(page, SHOWN, at)
    return (at - frame) / BLOCK_FRAMES, time.monotonic() - begun_s


def seek(page: Any, video: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Jumps to frames of a finished take, and what was shown there."""
    frames = decoded(video)
    took, wrong = [], 0
    for number in draw.sample(range(len(frames)), count):
        text = f"00:{number // (60 * FPS):02d}:{number // FPS % 60:02d}:{number % FPS:02d}"
        milliseconds, pixels = page.evaluate(SEEK, [number, text, FPS, SAMPLE])
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


def wait_until(page: Any, number: str, least: float) -> None:
    """Until a number is large enough; the page's own policy keeps a browser's test from waiting inside it."""
    end_s = time.monotonic() + PATIENCE_MS / 1000
    while page.evaluate(number) < least:
        assert time.monotonic() < end_s, f"{number} is below {least}"
        page.wait_for_timeout(10)


def spread_of(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the largest."""
    if not values:
        return {}
    return {
        "median": round(statistics.median(values), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
        "max": round(max(values), 2),
    }


def grown(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """What page and server hold while a long take is made and played."""
    rows: list[dict[str, float]] = []
    with studio(folder) as (address, server), opened(address) as page:
        page.get_by_role("combobox", name="Pace").select_option("As fast as it can")
        begin(page, minutes * 60, seed)
        wait_for_picture(page)
        page.evaluate(WATCH)
        for _ in range(4):  # 1x, 2x, 4x, 8x
            page.keyboard.press("l")
        counted = page.context.new_cdp_session(page)
        counted.send("Performance.enable")
        for minute in range(1, int(minutes) + 1):
            wait_until(page, SHOWN, minute * 60 * FPS - BLOCK_FRAMES)
            counted.send("HeapProfiler.collectGarbage")
            found = {each["name"]: each["value"] for each in counted.send("Performance.getMetrics")["metrics"]}
            row = {
                "minute": minute,
                "page_heap_mib": round(found["JSHeapUsedSize"] / 2**20, 1),
                "page_nodes": int(found["Nodes"]),
                "buffered_seconds": page.evaluate(BUFFERED),
                "server_mib": round(psutil.Process(server).memory_info().rss / 2**20),
                "server_files": psutil.Process(server).num_fds(),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return {"machine": MACHINE, "seed": seed, "rows": rows}


def measured(seconds: float, seeks: int, seed: int, folder: Path) -> dict[str, Any]:
    """All figures."""
    with studio(folder) as (address, _), opened(address) as page:
        begin(page, seconds + 30, seed)
        wait_for_picture(page)
        page.evaluate(WATCH)
        played = play_live(page, seconds)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Extend", exact=True).wait_for(timeout=PATIENCE_MS)
        wait_until(page, ENDED, 1)
        found = seek(page, next(folder.glob("*/video.mp4")), seeks, random.Random(seed))
    return {"machine": MACHINE, "seed": seed, "live": played, "seek": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of live play")
    parser.add_argument("--seeks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="of a take whose memory is watched instead")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.minutes:
            figures = grown(given.minutes, given.seed, Path(folder))
        else:
            figures = measured(given.seconds, given.seeks, given.seed, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
