"""The studio in a real browser, with a real server: from an empty folder to a server that was killed.

The tests go on from each other's takes, in this order. STUDIO_SCREENSHOTS=FOLDER keeps a picture of each step.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from browsing import (
    AXE,
    IN_A_BROWSER,
    LONGEST_MS,
    REQUIRED,
    VIDEO,
    assert_accessible,
    begin,
    button,
    drop,
    expect,
    go_to,
    keep_picture,
    open_take,
    pace,
    shown_picture,
    wait_for,
)
from PIL import Image

pytestmark = IN_A_BROWSER
FPS = 16
SEEKS = 30
HANDLE = "studio-timeline .handle"
SEED = 2**64 - 1  # more than a JavaScript number can hold exactly


class Server:
    """`longlive-rag studio` at a port that stays the same.

    Args:
        takes: its folder.
    """

    def __init__(self, takes: Path) -> None:
        self.takes = takes
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "longlive_rag", "studio", "--takes", str(self.takes), "--port", self.port]
        self.process = subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """As by kill -9."""
        self.process.kill()
        self.process.communicate()

    def record(self, name: str) -> dict[str, Any]:
        """What is on a take's record."""
        return json.loads((self.takes / name / "take.json").read_text())

    @property
    def names(self) -> set[str]:
        """The takes on the disk."""
        return {path.parent.name for path in self.takes.glob("*/take.json")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("studio") / "takes")
    yield server
    server.process.terminate()
    server.process.communicate()


def wait_until_made(page: Any) -> None:
    """A take that is not made any more can be extended."""
    expect(button(page, "Extend")).to_be_enabled()


def begin_new(page: Any, server: Server, prompt: str, seconds: float, choice: str, **fields: str) -> str:
    """Start a take by the dialog; returns its name."""
    before = server.names
    begin(page, prompt, seconds, choice, **fields)
    return new_name(page, server, before)


def new_name(page: Any, server: Server, before: set[str]) -> str:
    """Of the take that was begun, as soon as it is on the disk."""
    end_s = time.monotonic() + LONGEST_MS / 1000
    while not server.names - before:
        assert time.monotonic() < end_s, f"there is no take beside {sorted(before)}"
        page.wait_for_timeout(50)
    return (server.names - before).pop()


# ---- tests ----


def test_first_minute(page: Any, server: Server) -> None:
    expect(button(page, "Make the demo take")).to_be_visible()
    assert_accessible(page, "empty studio")
    keep_picture(page, "1-empty")

    button(page, "Make the demo take").click()
    expect(page.get_by_role("listbox", name="Library").get_by_role("option")).to_have_count(1)
    wait_for(page, "aria-valuenow", 8)
    keep_picture(page, "2-watched")

    # Making stays a few blocks ahead of the playhead, so each jump lets it go on to there.
    wait_for(page, "aria-valuemax", 5 * FPS + 8)
    go_to(page, "00:00:05:08", 5 * FPS + 8)
    button(page, "Pin").first.click()
    expect(button(page, "Pin").first).to_have_attribute("aria-pressed", "true")
    keep_picture(page, "3-pinned")

    button(page, "Undo to here").click()
    expect(page.get_by_role("treeitem")).to_have_count(2)
    direction = page.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a blue square jumps in a desert")
    direction.press("Enter")
    expect(page.get_by_role("list", name="Cues").get_by_role("listitem")).to_contain_text(["stands", "jumps"])
    wait_for(page, "aria-valuenow", 6 * FPS + 8)
    keep_picture(page, "4-undone")

    wait_for(page, "aria-valuemax", 9 * FPS)
    button(page, "Stop").click()
    wait_until_made(page)
    button(page, "Branch here").click()
    expect(page.get_by_role("treeitem")).to_have_count(3)
    pace(page, "As fast as it can")
    wait_until_made(page)
    wait_for(page, "aria-valuenow", 10 * FPS)
    keep_picture(page, "5-branched")

    button(page, "Compare").click()
    compare = page.get_by_role("region", name="Compare")
    compare.get_by_role("combobox", name="Take to compare with").select_option(index=1)
    expect(compare.locator("video")).to_have_js_property("readyState", 4)
    expect(compare.locator("path")).to_have_count(2)
    keep_picture(page, "6-compared")

    button(page, "Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Video of the range").click()
    assert download.value.path().stat().st_size > 0
    expect(page.get_by_role("log")).to_contain_text("Exported")
    keep_picture(page, "7-exported")


def test_seeks_show_the_frames_that_are_asked_for(page: Any, server: Server) -> None:
    name = max(server.names, key=len)
    with av.open(str(server.takes / name / "video.mp4")) as container:
        made = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    open_take(page, name)
    for frame in random.Random(0).sample(range(1, len(made) - 1), SEEKS):
        seconds, frames = divmod(frame, FPS)
        go_to(page, f"00:00:{seconds:02}:{frames:02}", frame)
        shown = shown_picture(page)
        # Colours are converted by other code, and the canvas rounds; the right frame is the nearest one nevertheless.
        here, *others = (np.abs(shown - made[near]).mean() for near in (frame, frame - 1, frame + 1))
        assert here < 3
        assert here <= min(others), frame


def test_no_grave_fault_for_screen_readers_and_keyboards(page: Any) -> None:
    if not AXE.is_file() and not REQUIRED:
        pytest.skip("axe-core is not installed: make page")
    expect(page.get_by_role("tree", name="Branches").get_by_role("treeitem")).to_have_count(3)
    assert_accessible(page, "open take")
    button(page, "Compare").click()
    page.get_by_role("combobox", name="Take to compare with").select_option(index=1)
    expect(page.get_by_role("region", name="Compare").locator("path")).to_have_count(2)
    assert_accessible(page, "compare")
    button(page, "Export").click()
    assert_accessible(page, "export menu")
    page.keyboard.press("Escape")
    button(page, "New take").click()
    dialog = page.get_by_role("dialog", name="New take")
    dialog.get_by_role("combobox", name="Remember another take").select_option(index=1)
    dialog.get_by_text("Settings", exact=True).click()
    assert_accessible(page, "new take")
    page.keyboard.press("Escape")
    for key, name in (("Runs", "Runs"), ("Keys", "Keys")):
        button(page, key).click()
        expect(page.get_by_role("dialog", name=name)).to_be_visible()
        assert_accessible(page, name)
        page.keyboard.press("Escape")


def test_new_take(page: Any, server: Server) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (384, 384), "olive").save(buffer, "PNG")
    drop(page, "start.png", "image/png", buffer.getvalue())
    dialog = page.get_by_role("dialog", name="New take")
    expect(dialog.get_by_role("img", name="The start image")).to_be_visible()

    entry = dialog.get_by_role("textbox", name="Prompt", exact=True)
    entry.fill("a red wizard walks in a meadow")
    expect(dialog.get_by_role("status")).to_contain_text("wizard")
    entry.fill("a red circle walks in a meadow")
    expect(dialog.get_by_role("status")).to_be_hidden()
    dialog.get_by_role("textbox", name="Seconds", exact=True).fill("0:03")
    dialog.get_by_role("textbox", name="Seed", exact=True).fill(str(SEED))
    dialog.get_by_role("combobox", name="Remember another take").select_option("blue-square-stands-desert")
    frames = dialog.get_by_role("group", name=re.compile("Frames of")).get_by_role("button")
    frames.nth(0).click()
    frames.nth(1).click()
    expect(frames.nth(1)).to_have_attribute("aria-pressed", "true")
    dialog.get_by_text("Settings", exact=True).click()
    setting = dialog.get_by_role("textbox", name="memory frames", exact=True)
    setting.fill("-2")
    dialog.get_by_text("Settings", exact=True).click()
    keep_picture(page, "new-take")
    button(dialog, "Start").click()

    expect(setting).to_be_focused()
    expect(dialog.locator("label").filter(has_text="memory frames").get_by_role("alert")).to_contain_text("is -2;")
    setting.fill("4")
    before = server.names
    button(dialog, "Start").click()
    expect(dialog).to_be_hidden()
    pace(page, "As fast as it can")
    name = new_name(page, server, before)
    wait_until_made(page)
    request = server.record(name)["request"]
    assert (request["seed"], request["seconds"]) == (SEED, 3)
    assert request["context"]["memory_frames"] == 4
    assert request["start_image"] is not None
    assert "blue-square-stands-desert@" in request["memory"]["remember"][0]


def test_cues_are_planned_moved_edited_and_withdrawn(page: Any, server: Server) -> None:
    begin_new(page, server, "a green circle stands in a forest", 20, "1 block ahead")
    button(page, "Pause").click()
    cues = page.get_by_role("list", name="Cues").get_by_role("listitem")
    direction = page.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a green circle jumps in a forest")
    page.get_by_role("textbox", name="Takes over at").fill("0:10")
    button(page, "Direct").click()
    expect(cues).to_have_count(2)
    expect(page.get_by_role("log")).to_contain_text("takes over at 0:10.")

    def planned_s() -> float:
        found = re.search(r"at (\d+):([\d.]+): a green", page.locator(HANDLE).get_attribute("aria-label"))
        assert found is not None
        return 60 * int(found[1]) + float(found[2])

    before_s = planned_s()
    box, strip = page.locator(HANDLE).bounding_box(), page.get_by_role("slider", name="Playhead").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + strip["width"] / 4, y, steps=4)
    page.mouse.up()
    expect(page.locator(HANDLE)).to_be_focused()
    assert planned_s() - before_s == pytest.approx(5, abs=0.5)

    moved_s = planned_s()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(HANDLE)).not_to_have_attribute("aria-label", re.compile(f"{moved_s:.1f}"))
    expect(page.locator(HANDLE)).to_be_focused()
    assert moved_s - planned_s() == pytest.approx(0.75, abs=0.06)

    page.keyboard.press("Enter")
    entry = page.get_by_role("textbox", name="Words of the cue")
    expect(entry).to_be_focused()
    entry.fill("a green circle leaves in a forest")
    entry.press("Enter")
    expect(cues.nth(1)).to_contain_text("leaves")

    page.locator(HANDLE).focus()
    page.keyboard.press("Delete")
    expect(cues).to_have_count(1)
    expect(page.locator(HANDLE)).to_have_count(0)


def test_memory_is_pinned_excluded_and_chosen_for(page: Any, server: Server) -> None:
    """Goes on with the take that waits for its playhead."""
    name = next(name for name in server.names if name.startswith("green"))
    policy = page.get_by_role("combobox", name="Policy")
    expect(policy).to_be_enabled()
    told = page.get_by_role("group", name="Pinned and excluded").get_by_role("button")
    for how, done in (("Pin", "Pinned"), ("Exclude", "Excluded")):
        button(page, how).last.click()
        expect(told).to_contain_text([done])
        told.first.click()
        expect(told).to_have_count(0)

    policy.select_option("stratified")
    expect(page.get_by_role("log")).to_contain_text("stratified chooses from")
    pace(page, "As fast as it can")
    button(page, "Go to end").click()
    wait_for(page, "aria-valuemax", 12 * FPS)
    button(page, "Stop").click()
    wait_until_made(page)
    button(page, "Go to end").click()
    expect(page.get_by_role("region", name="Memory")).to_contain_text("chosen by stratified")
    expect(policy).to_be_disabled()
    verbs = [told["verb"] for told in server.record(name)["request"]["memory"]["steering"]]
    assert verbs == ["pin", "unpin", "exclude", "unexclude", "policy"]

    button(page, "Resume").click()
    wait_until_made(page)
    assert server.record(name)["status"] == "finished"
    button(page, "Extend").click()
    expect(button(page, "Extend")).to_be_disabled()
    wait_until_made(page)
    assert server.record(name)["video"]["frames"] >= 29 * FPS


def test_map_leads_to_the_block_and_to_what_it_brought_back(page: Any) -> None:
    expect(page.get_by_role("banner")).to_contain_text("green")
    playhead = page.get_by_role("slider", name="Playhead")
    memory_map = page.get_by_role("application")
    box = memory_map.bounding_box()
    memory_map.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(playhead).to_have_attribute("aria-valuenow", re.compile(r"^(23|24)\d$"))
    memory_map.click(position={"x": box["width"] / 2, "y": box["height"] - 4}, modifiers=["Shift"])
    assert int(playhead.get_attribute("aria-valuenow")) < 200
    memory_map.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    past = page.get_by_role("list", name="Remembered frames").get_by_role("button", name=re.compile("Go to"))
    past.first.click()
    assert int(playhead.get_attribute("aria-valuenow")) < 230


def test_library_is_searched_by_words_and_by_a_frame(page: Any) -> None:
    options = page.get_by_role("listbox", name="Library").get_by_role("option")
    expect(page.get_by_role("banner")).to_contain_text("green")
    page.get_by_role("textbox", name="Search").fill("red meadow")
    expect(options.first).to_contain_text("red-circle")
    page.get_by_role("textbox", name="Search").fill("")
    expect(options).to_have_count(5)

    go_to(page, "0:02", 2 * FPS)
    button(page, "Find this frame").click()
    expect(options.first.locator(".similarity")).to_be_visible()
    # The best one is nearly the frame itself.
    best = options.first
    expect(best).to_contain_text("green")
    assert float(best.locator(".similarity").inner_text()) > 0.9
    frame = best.get_attribute("data-frame")
    best.click()
    expect(page.get_by_role("slider", name="Playhead")).to_have_attribute("aria-valuenow", frame)
    button(page, "Clear").click()
    expect(options).to_have_count(5)


def test_native_twin_is_one_click_away(page: Any, server: Server) -> None:
    open_take(page, next(name for name in server.names if name.startswith("red")))
    expect(page.get_by_role("img", name=re.compile("Drift curve by"))).to_be_visible()
    expect(page.locator("studio-timeline")).to_contain_text(re.compile("D30 . · D60 . · D120"))
    before = server.names
    button(page, "Compare").click()
    button(page, "Without memory").click()
    compare = page.get_by_role("region", name="Compare")
    expect(compare.locator("video")).to_have_js_property("readyState", 4)
    expect(compare.locator("path")).to_have_count(2)
    twin = server.record(new_name(page, server, before))["request"]
    assert twin["memory"]["enabled"] is False
    assert twin["seed"] == SEED


def test_runs_are_taken_along(page: Any, server: Server) -> None:
    expect(page.get_by_role("listbox", name="Library").get_by_role("option")).to_have_count(len(server.names))
    button(page, "Runs").click()
    dialog = page.get_by_role("dialog", name="Runs")
    expect(dialog.get_by_role("row")).to_have_count(len(server.names) + 1)
    keep_picture(page, "runs")
    with page.expect_download() as download:
        button(dialog, "Save as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert {row["name"] for row in rows} == server.names
    assert "memory.enabled" in rows[0]
    name = next(iter(sorted(server.names)))
    button(dialog, f"Copy {name} as command").click()
    expect(page.get_by_role("log")).to_contain_text("Copied as command")
    assert page.evaluate("navigator.clipboard.readText()").startswith("longlive-rag generate")
    button(dialog, f"Copy {name} as Python").click()
    expect(page.get_by_role("log")).to_contain_text("Copied as Python")
    assert "load_pipeline" in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize(
    ("item", "ending"),
    [
        ("Video of the range", ".mp4"),
        ("Stills of the range", ".zip"),
        ("Contact sheet", ".png"),
        ("Cues", ".txt"),
        ("OpenTimelineIO of this take", ".otio"),
        ("OpenTimelineIO of the whole branch", ".otio"),
        ("Rights page", ".md"),
    ],
)
def test_export(page: Any, server: Server, item: str, ending: str) -> None:
    open_take(page, "blue-square-stands-desert")
    go_to(page, "0:00", 0)
    page.keyboard.press("i")
    go_to(page, "0:01", FPS)
    page.keyboard.press("o")
    button(page, "Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=item, exact=True).click()
    assert download.value.suggested_filename.endswith(ending)
    assert download.value.path().stat().st_size > 0


def test_direction_of_a_made_take_is_a_branch(page: Any, server: Server) -> None:
    open_take(page, "green-circle-stands-forest")
    go_to(page, "0:26", 26 * FPS)
    before = server.names
    direction = page.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a green circle jumps in a forest")
    direction.press("Enter")
    name = new_name(page, server, before)
    expect(page.get_by_role("banner")).to_contain_text(name)
    expect(page.get_by_role("tree").get_by_role("treeitem")).to_have_count(2)
    pace(page, "As fast as it can")
    wait_until_made(page)
    cue = server.record(name)["cues"][-1]
    assert cue["prompt"] == "a green circle jumps in a forest"
    assert cue["seconds"] == pytest.approx(26.5, abs=0.75)


def test_second_window_watches_until_it_takes_over(page: Any, browser: Any, server: Server) -> None:
    name = begin_new(page, server, "a yellow triangle walks on a beach", 20, "1 block ahead")
    context = browser.new_context(viewport={"width": 2560, "height": 1440})
    other = context.new_page()
    other.goto(server.address)
    expect(other.get_by_role("banner")).to_contain_text(name)
    wait_for(other, "aria-valuenow", 4)
    direction = other.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a yellow triangle jumps on a beach")
    direction.press("Enter")
    refusal = other.get_by_role("alert")
    expect(refusal).to_contain_text("directed from another window")
    button(refusal, "Direct from here").click()
    expect(refusal).to_have_count(0)
    direction.press("Enter")
    for each in (other, page):
        expect(each.get_by_role("list", name="Cues").get_by_role("listitem")).to_have_count(2)
    keep_picture(other, "2560x1440")
    context.close()
    page.get_by_role("button", name="Stop", exact=True).click()
    button(page.get_by_role("alert"), "Direct from here").click()


def test_reload_in_mid_take_comes_back_to_it(page: Any, server: Server) -> None:
    """Of two takes, it is the one that was open, at the same frame."""
    name = next(name for name in server.names if name.startswith("yellow"))
    open_take(page, name)
    page.reload()
    expect(page.get_by_role("banner")).to_contain_text(f"{name} live")
    open_take(page, "blue-square-stands-desert")
    go_to(page, "0:03", 3 * FPS)
    page.reload()
    expect(page.get_by_role("banner")).to_contain_text("blue-square-stands-desert")
    expect(page.get_by_role("slider", name="Playhead")).to_have_attribute("aria-valuenow", str(3 * FPS))
    expect(page.locator(VIDEO)).to_have_attribute("data-frame", str(3 * FPS))


def test_blocks_that_did_not_arrive_are_asked_for_again(page: Any) -> None:
    open_take(page, "blue-square-stands-desert-2-2")
    page.route("**/segments/**", lambda route: route.abort())
    entry = page.get_by_role("textbox", name="Timecode", exact=True)
    entry.fill("0:28")
    entry.press("Enter")
    page.wait_for_timeout(500)
    assert page.locator(VIDEO).get_attribute("data-frame") != str(28 * FPS)
    page.unroute("**/segments/**")
    expect(page.locator(VIDEO)).to_have_attribute("data-frame", str(28 * FPS))


def test_take_that_is_deleted_on_disk_is_gone(page: Any, server: Server) -> None:
    name = next(name for name in server.names if name.startswith("red"))
    open_take(page, name)
    shutil.rmtree(server.takes / name)
    expect(page.get_by_role("alert")).to_contain_text(f"{name} is not on the disk any more")
    expect(page.locator(f"[role=option][data-name='{name}']")).to_have_count(0)


def test_take_goes_on_after_the_server_was_killed(page: Any, server: Server) -> None:
    open_take(page, "yellow-triangle-walks-beach")
    pace(page, "As fast as it can")
    wait_until_made(page)
    name = begin_new(page, server, "a purple square walks in a city", 12, "1 block ahead")
    wait_for(page, "aria-valuenow", 4)
    button(page, "Pause").click()
    expect(page.get_by_role("banner")).to_contain_text("live")
    server.kill()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    server.start()
    expect(page.get_by_role("alert")).to_contain_text("open the address that it printed")
    page.goto(server.address)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("banner")).to_contain_text(name)
    expect(page.get_by_role("banner")).to_contain_text("interrupted")
    pace(page, "As fast as it can")
    button(page, "Resume").click()
    expect(button(page, "Resume")).to_be_disabled()
    wait_until_made(page)
    assert server.record(name)["status"] == "finished"
    assert server.record(name)["video"]["frames"] == 12 * FPS
