"""What a director meets on odd days: other rates, foreign names, odd files, networks that stall, small windows.

Most takes are drawn, so that each frame says its number; a few are made, by the tests' random backbone.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import (
    IN_A_BROWSER,
    VIDEO,
    assert_accessible,
    begin,
    button,
    drop,
    expect,
    go_to,
    keep_picture,
    open_take,
    shown_picture,
    wait_for,
)
from drawn import drawn_take, number_in

from tests.served import Forked

pytestmark = IN_A_BROWSER

MANY = 60
FOREIGN = "مربع أزرق في الصحراء 🎬 \u202e a blue square"
WORD = "x" * 3000
DRAG = """kind => {
    const dataTransfer = new DataTransfer();
    dataTransfer.setData("text/plain", "words");
    const event = new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true});
    return document.querySelector("studio-app").dispatchEvent(event);
}"""
OUTSIDE = """() => {
    const found = [];
    const look = (root) => {
        for (const element of root.querySelectorAll("*")) {
            if (element.shadowRoot) look(element.shadowRoot);
            const box = element.getBoundingClientRect();
            const isControl = element.matches("button, input, select") && element.checkVisibility();
            if (isControl && (box.left < 0 || box.right > innerWidth)) found.push(element.outerHTML.slice(0, 80));
        }
    };
    look(document);
    return found;
}"""


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of drawn takes."""
    folder = tmp_path_factory.mktemp("page") / "takes"
    for fps in (24, 25, 30):
        drawn_take(folder / f"at-{fps}", 5 * fps, fps)
    drawn_take(folder / "tree", 400)
    drawn_take(folder / "tree-2", 100, parent=folder / "tree", prompt="a green hill")
    drawn_take(folder / "egg", 50, parent=folder / "hen")
    drawn_take(folder / "hen", 50, parent=folder / "egg")
    drawn_take(folder / "été", 50, prompt=FOREIGN)
    drawn_take(folder / f"long-{'name-' * 40}end", 50, prompt=WORD)
    return folder


@pytest.fixture(scope="module")
def server(takes: Path, pipeline_folder: Path) -> Iterator[Forked]:
    served = Forked(takes, pipeline_folder)
    yield served
    served.process.kill()


class Held:
    """What a network holds back from the page, until `let_go`.

    Args:
        holds: whether it does so with a message of the server's.
    """

    def __init__(self, holds: Callable[[str], bool]) -> None:
        self.holds, self.messages, self.socket = holds, list[str](), None

    def between(self, socket: Any) -> None:
        """For `route_web_socket`."""
        self.socket, server = socket, socket.connect_to_server()
        server.on_message(self._from_server)
        socket.on_message(server.send)

    def _from_server(self, message: str) -> None:
        if self.holds(message):
            self.messages.append(message)
        else:
            self.socket.send(message)

    def let_go(self) -> None:
        self.holds = lambda _: False
        for message in self.messages:
            self.socket.send(message)


@pytest.fixture
def held(page: Any) -> Iterator[Callable[[Callable[[str], bool]], Held]]:
    """Holds messages of the server's back, after a reload."""

    def hold(holds: Callable[[str], bool]) -> Held:
        held = Held(holds)
        page.route_web_socket("**/api/events", held.between)
        page.reload()
        return held

    yield hold
    page.unroute_all()


def changed(page: Any, **fields: Any) -> None:
    """Answers that describe a take have these fields from now on."""

    def answer(route: Any) -> None:
        response = route.fetch()
        facts = response.json()
        route.fulfill(response=response, json=facts | {key: make(facts) for key, make in fields.items()})

    page.route(re.compile(r"/api/takes/[^/?]+$"), answer)


def playhead(page: Any) -> Any:
    return page.get_by_role("slider", name="Playhead")


# ---- frames ----


@pytest.mark.parametrize("fps", [24, 25, 30])
def test_frames_at_other_rates(page: Any, fps: int) -> None:
    open_take(page, f"at-{fps}")
    for frame in [fps - 1, fps, *random.Random(fps).sample(range(5 * fps - 1), 10)]:
        seconds, frames = divmod(frame, fps)
        go_to(page, f"00:00:{seconds:02}:{frames:02}", frame)
        assert number_in(shown_picture(page)) == frame
        assert playhead(page).get_attribute("aria-valuetext") == f"00:00:{seconds:02}:{frames:02}"
        page.keyboard.press("ArrowRight")
        expect(page.locator(VIDEO)).to_have_attribute("data-frame", str(frame + 1))
        assert number_in(shown_picture(page)) == frame + 1


def test_playhead_stays_where_it_was_sent_while_the_network_stalls(page: Any) -> None:
    open_take(page, "tree")
    go_to(page, "0:02", 32)
    page.route("**/segments/**", lambda _: None)
    page.keyboard.press(" ")
    page.keyboard.press("End")
    page.keyboard.press(" ")
    page.wait_for_timeout(300)
    expect(playhead(page)).to_have_attribute("aria-valuenow", "399")
    open_take(page, "tree-2")  # another take's picture is still shown
    page.keyboard.press(" ")
    expect(button(page, "Pause")).to_be_visible()
    page.keyboard.press(" ")
    page.wait_for_timeout(300)
    expect(playhead(page)).to_have_attribute("aria-valuenow", "0")
    page.unroute_all()


def test_direction_of_a_made_take_takes_over_at_the_first_block_from_a_moment_on(page: Any) -> None:
    open_take(page, "at-24")
    direction = page.get_by_role("textbox", name="Direction", exact=True)
    direction.fill("a hill")
    when = page.get_by_role("textbox", name="Takes over at")
    when.fill("0:05.1")
    direction.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("“0:05.1” is past what is made; name a moment up to 0:05.0")
    for moment, block in (
        ("0:01.5", 4),
        ("00:00:01:21", 4),
        ("00:00:01:22", 5),
    ):  # blocks begin at 0, 9, 21, 33, 45, 57
        when.fill(moment)
        with page.expect_request("**/commands") as asked:
            direction.press("Enter")
        assert asked.value.post_data_json["block"] == block, moment


def test_broken_video_is_said(page: Any) -> None:
    changed(page, mime=lambda _: 'video/mp4; codecs="nothing"')
    open_take(page, "at-25")
    expect(page.get_by_role("alert")).to_contain_text("This browser can't play")
    page.unroute_all()
    page.reload()
    page.route("**/segments/**", lambda route: route.fulfill(body=b"\xff" * 200, content_type="video/mp4"))
    open_take(page, "at-30")
    expect(page.get_by_role("alert")).to_contain_text("can't be decoded")
    page.unroute_all()


def test_last_frame_is_reached_where_a_busy_machine_drops_it(page: Any) -> None:
    open_take(page, "tree-2")
    go_to(page, "0:05", 80)
    page.evaluate("HTMLVideoElement.prototype.requestVideoFrameCallback = () => 0")
    page.keyboard.press(" ")
    expect(playhead(page)).to_have_attribute("aria-valuenow", "99")
    expect(button(page, "Play")).to_be_visible()


def test_long_reason_for_no_drift_leaves_the_strip_in_its_column(page: Any) -> None:
    reason = "its checksum does not match; " * 20
    page.route("**/drift?*", lambda route: route.fulfill(status=422, json={"error": {"message": reason, "fields": []}}))
    page.reload()
    open_take(page, "tree")
    go_to(page, "0:05", 80)
    open_take(page, "at-25")
    stage = page.get_by_role("region", name="Stage")
    expect(stage.locator("#shown")).to_have_text("0:00.0")
    expect(page.get_by_text("its checksum").first).to_be_visible()
    strip, column = playhead(page).bounding_box(), stage.bounding_box()
    assert strip["x"] + strip["width"] <= column["x"] + column["width"]
    page.unroute_all()


# ---- the library and its trees ----


def test_library_is_not_called_empty_before_it_is_read(page: Any) -> None:
    page.route("**/api/studio", lambda _: None)
    page.reload()
    expect(page.locator("studio-library")).to_contain_text("Reading the takes")
    page.unroute_all()
    page.reload()
    open_take(page, "tree")
    expect(page).to_have_title(re.compile("^tree . Studio$"))


def test_damaged_record_is_listed_with_what_is_wrong(page: Any, takes: Path) -> None:
    open_take(page, "at-24")
    record = drawn_take(takes / "damaged", 20) / "take.json"
    entry = page.get_by_role("listbox", name="Library").locator("[data-name='damaged']")
    expect(entry).to_contain_text("a red circle")
    whole = record.read_text()
    record.write_text(whole[:200])
    expect(entry).to_contain_text("takes/damaged/take.json can't be read: ")
    expect(entry).to_be_disabled()
    page.reload()
    entry.click(force=True)
    expect(entry).to_have_attribute("aria-selected", "false")
    open_take(page, "tree")
    assert_accessible(page, "a damaged record")
    record.write_text(whole)
    open_take(page, "damaged")
    shutil.rmtree(takes / "damaged")
    expect(entry).to_have_count(0)


def test_damaged_take_is_deleted_with_the_delete_key(page: Any, takes: Path) -> None:
    record = drawn_take(takes / "damaged", 20) / "take.json"
    entry = page.get_by_role("listbox", name="Library").locator("[data-name='damaged']")
    record.write_text(record.read_text()[:200])
    expect(entry).to_be_disabled()
    entry.click(force=True)
    page.keyboard.press("Delete")
    dialog = page.get_by_role("dialog", name="Delete take")
    expect(dialog.get_by_role("heading", name="Delete damaged?")).to_be_visible()
    button(dialog, "Delete").click()
    expect(entry).to_have_count(0)
    expect(page.get_by_role("log")).to_have_text("damaged was deleted")
    assert not (takes / "damaged").exists()


def test_deleting_is_asked_about_and_can_be_left(page: Any, takes: Path) -> None:
    folders = [drawn_take(takes / f"superfluous-{letter}", 20) for letter in "ab"]
    library, dialog = page.get_by_role("listbox", name="Library"), page.get_by_role("dialog", name="Delete take")
    open_take(page, "superfluous-a")
    button(page, "Delete …").click()
    expect(dialog.get_by_role("heading", name="Delete superfluous-a?")).to_be_visible()
    assert_accessible(page, "delete")
    page.keyboard.press("Enter")  # the focus is on Cancel
    expect(dialog).to_be_hidden()
    for folder in folders:
        assert folder.is_dir()
        library.locator(f"[data-name='{folder.name}']").focus()
        page.keyboard.press("Delete")
        button(dialog, "Delete").click()
        expect(library.locator(f"[data-name='{folder.name}']")).to_have_count(0)
        expect(page.get_by_role("log")).to_have_text(f"{folder.name} was deleted")
        assert not folder.exists()
    expect(page).to_have_title("Studio")  # none is open
    expect(button(page, "Delete …")).to_be_disabled()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_search_leaves_tree_and_comparison_as_they_are(page: Any) -> None:
    open_take(page, "tree")
    items = page.get_by_role("tree", name="Branches").get_by_role("treeitem")
    expect(items).to_have_count(2)
    expect(items.nth(1)).to_contain_text("at 0:01.3")  # 21 frames
    button(page, "Compare").click()
    compare = page.get_by_role("region", name="Compare")
    compare.get_by_role("combobox", name="Take to compare with").select_option("at-24, 0:05.0")
    options = page.get_by_role("listbox", name="Library").get_by_role("option")
    search = page.get_by_role("textbox", name="Search")
    search.fill("green hill")
    expect(options.first).to_contain_text("tree-2")
    expect(options.first).to_have_attribute("tabindex", "0")  # the open take isn't among them
    expect(items).to_have_count(2)
    expect(compare.locator("video")).to_have_count(1)
    search.fill("🎬")
    expect(page.locator("studio-library")).to_contain_text("No take has these words")
    expect(page.get_by_role("alert")).to_have_count(0)
    search.fill("")
    expect(options).not_to_have_count(0)


def test_takes_that_are_each_others_parents(page: Any) -> None:
    open_take(page, "egg")
    items = page.get_by_role("tree", name="Branches").get_by_role("treeitem")
    expect(items).to_have_count(2)
    expect(items.nth(0)).to_contain_text("hen")


def test_pictures_are_fetched_where_they_are_seen(page: Any, takes: Path) -> None:
    options = page.get_by_role("listbox", name="Library").get_by_role("option")
    for number in range(MANY):
        shutil.copytree(takes / "at-24", takes / f"copy-{number:02}")
    asked = set[str]()
    page.on("request", lambda request: "/frame/" in request.url and asked.add(request.url))
    page.reload()
    expect(options).to_have_count(MANY + 9)
    page.wait_for_timeout(500)
    assert 0 < len(asked) < MANY / 2
    before = len(asked)
    options.last.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert before < len(asked) < MANY
    for number in range(MANY):
        shutil.rmtree(takes / f"copy-{number:02}")
    expect(options).to_have_count(9)


def test_names_beyond_ascii_are_kept(page: Any) -> None:
    open_take(page, "été")
    button(page, "Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Video of the range").click()
    assert download.value.suggested_filename == "été.mp4"
    prompt = page.get_by_role("list", name="Cues").get_by_text("مربع")
    assert prompt.evaluate("element => getComputedStyle(element).unicodeBidi") == "isolate"


def test_ticks_of_a_long_take_are_few(page: Any) -> None:
    def many(facts: dict[str, Any]) -> list[dict[str, Any]]:
        last = facts["segments"][-1]
        first, frames = last["first_frame"], last["frames"]
        more = [{**last, "block": last["block"] + n, "first_frame": first + n * frames} for n in range(1, 4000)]
        return [*facts["segments"], *more]

    changed(page, segments=many)
    open_take(page, "tree")
    expect(page.locator("studio-timeline .tick").first).to_be_attached()
    assert 50 < page.locator("studio-timeline .tick").count() <= 200
    page.unroute_all()


# ---- what is given ----


def test_odd_files_and_ranges_are_refused_in_words(page: Any) -> None:
    dialog = page.get_by_role("dialog", name="New take")
    for name, kind, data, size, said in (
        ("notes.txt", "text/plain", b"nothing to see", 0, "PNG or JPEG"),
        ("drawing.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 0, "PNG or JPEG"),
        ("large.png", "image/png", b"", 30 * 2**20, "at most 20 MiB"),
    ):
        drop(page, name, kind, data, size)
        expect(dialog.get_by_role("alert")).to_contain_text(said)
        place = dialog.locator(".field").filter(has_text="Start image")
        expect(place.get_by_role("alert")).to_have_count(1)
    dialog.get_by_role("textbox", name="Prompt", exact=True).fill("a hill")
    dialog.get_by_role("combobox", name="Remember another take").select_option("at-24")
    dialog.get_by_role("textbox", name="Range to remember").fill("the end")
    button(dialog, "Start").click()
    expect(dialog.get_by_role("alert")).to_contain_text("“the end” is not a range")
    expect(dialog).to_be_visible()


def test_prompt_and_length_are_refused_where_they_are_written(page: Any) -> None:
    button(page, "New take").click()
    dialog = page.get_by_role("dialog", name="New take")
    dialog.get_by_role("textbox", name="Prompt", exact=True).fill("a hill")
    for name, odd, right, said in (
        ("Seconds", "0:1O", "0:01", "'0:1O' is not a timecode"),
        ("Prompt", "red " * 2000, "a hill", "at most 4000 characters"),
        ("Prompt", "red " * 400, "a hill", "is too long: this backbone reads at most"),
    ):
        entry = dialog.get_by_role("textbox", name=name, exact=True)
        entry.fill(odd)
        button(dialog, "Start").click()
        expect(dialog.get_by_role("alert")).to_contain_text(said)
        place = dialog.locator("label").filter(has=page.get_by_role("textbox", name=name, exact=True))
        expect(place.get_by_role("alert")).to_have_count(1)
        expect(entry).to_be_focused()
        entry.fill(right)


def test_text_that_is_dragged_is_no_picture(page: Any) -> None:
    for kind in ("dragover", "drop"):
        assert page.evaluate(DRAG, kind), kind  # the text box that it is dropped in takes it
    expect(page.get_by_role("dialog", name="New take")).to_be_hidden()


def test_keys_are_the_dialogs_while_one_is_open(page: Any) -> None:
    open_take(page, "tree")
    for opener, heading in (("New take", "New take"), ("Keys", "Keys"), ("Runs", "Runs")):
        button(page, opener).click()
        page.get_by_role("dialog").get_by_role("heading", name=heading).click()
        for key in (" ", "i", "End", "?"):
            page.keyboard.press(key)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Play")).to_be_visible()
    expect(button(page, "Clear marks")).to_be_disabled()
    assert playhead(page).get_attribute("aria-valuenow") == "0"


def test_space_plays_after_a_click_and_presses_what_was_reached_by_keys(page: Any) -> None:
    open_take(page, "tree")
    marks = page.locator("studio-transport .range")
    for mark in ("In", "Out"):
        button(page, mark).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    expect(button(page, "Pause")).to_be_visible()
    page.keyboard.press("k")
    expect(marks.nth(1)).to_have_text("00:00:00:00")
    page.keyboard.press("Tab")  # from "Out"
    expect(button(page, "Clear marks")).to_be_focused()
    page.keyboard.press(" ")
    expect(marks.nth(1)).to_have_text(re.compile("^..$"))
    expect(button(page, "Play")).to_be_visible()


def test_export_menu_by_keys(page: Any) -> None:
    open_take(page, "tree")
    button(page, "Export").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(button(page, "Export")).to_be_focused()


# ---- while a take is made ----


def test_end_is_pressed_before_there_is_a_block(page: Any, held: Any) -> None:
    blocks = held(lambda message: '"type":"block"' in message)
    changed(page, segments=lambda _: [], frames=lambda _: 0, blocks=lambda _: 0)
    begin(page, "a red circle walks in a meadow", 6, "1 block ahead")
    expect(page.get_by_role("banner")).to_contain_text("live")
    expect(page.get_by_role("region", name="Stage")).to_contain_text("The first block is being made")
    page.keyboard.press("End")
    page.keyboard.press("l")
    page.wait_for_timeout(300)
    page.unroute_all()
    blocks.let_go()
    wait_for(page, "aria-valuenow", 8)
    expect(page.get_by_role("region", name="Stage")).not_to_contain_text("The first block is being made")
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()


def test_cue_that_is_moved_stays_where_it_was_dropped_and_follows_the_keys_before_it_is_listed(
    page: Any, held: Any
) -> None:
    cues, handle = held(lambda _: False), page.locator("studio-timeline .handle")
    begin(page, "a red circle stands in a meadow", 20, "1 block ahead")
    button(page, "Pause").click()
    page.get_by_role("textbox", name="Direction", exact=True).fill("a red circle jumps in a meadow")
    page.get_by_role("textbox", name="Takes over at").fill("0:10")
    button(page, "Direct").click()
    expect(handle).to_have_count(1)

    def seconds() -> float:
        return float(re.search(r"at 0:([\d.]+):", handle.get_attribute("aria-label"))[1])

    cues.holds = lambda message: '"type":"cues"' in message
    planned_s, box, lane = seconds(), handle.bounding_box(), playhead(page).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + lane["width"] / 4, y, steps=4)
    dropped_s = seconds()
    assert dropped_s > planned_s + 4
    with page.expect_response("**/commands"):
        page.mouse.up()
    page.wait_for_timeout(300)
    assert seconds() == dropped_s

    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    cues.let_go()
    expect(handle).not_to_have_attribute("aria-label", re.compile(f" 0:{dropped_s}:"))
    expect(handle).to_be_focused()
    assert dropped_s - 1 < seconds() < dropped_s
    expect(page.get_by_role("alert")).to_have_count(0)
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()


def test_next_direction_is_not_emptied_by_the_answer_to_the_one_before(page: Any) -> None:
    asked = list[Any]()
    begin(page, "a red circle stands in a meadow", 20, "1 block ahead")
    button(page, "Pause").click()
    page.route("**/commands", lambda route: asked.append(route))
    words, at = (page.get_by_role("textbox", name=name, exact=True) for name in ("Direction", "Takes over at"))
    words.fill("a red circle jumps in a meadow")
    at.fill("0:06")
    with page.expect_request("**/commands"):
        button(page, "Direct").click()
    words.fill("a red circle turns in a meadow")
    asked[0].continue_()
    expect(at).to_have_value("")
    expect(words).to_have_value("a red circle turns in a meadow")
    page.unroute_all()
    button(page, "Direct").click()
    expect(words).to_have_value("")
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()


def test_cue_stays_under_the_pointer_when_another_one_has_been_moved(page: Any, held: Any) -> None:
    cues, handles = held(lambda _: False), page.locator("studio-timeline .handle")
    begin(page, "a red circle stands in a meadow", 20, "1 block ahead")
    button(page, "Pause").click()
    for words, at in (("a red circle jumps in a meadow", "0:06"), ("a red circle turns in a meadow", "0:14")):
        page.get_by_role("textbox", name="Direction", exact=True).fill(words)
        page.get_by_role("textbox", name="Takes over at").fill(at)
        button(page, "Direct").click()
        expect(page.get_by_role("button", name=re.compile(f"^Planned cue .*{words}"))).to_have_count(1)
    cues.holds = lambda message: '"type":"cues"' in message

    def grab(number: int) -> None:
        box = handles.nth(number).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y, steps=4)

    grab(0)
    with page.expect_response("**/commands"):
        page.mouse.up()
    grab(1)
    dragged = handles.nth(1).get_attribute("aria-label")
    cues.let_go()
    page.wait_for_timeout(300)
    expect(handles.nth(1)).to_have_class("handle dragged")
    expect(handles.nth(1)).to_have_attribute("aria-label", dragged)
    with page.expect_response("**/commands"):
        page.mouse.up()
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()


def test_start_says_that_it_was_pressed(page: Any) -> None:
    asked = list[Any]()
    page.route(
        "**/api/takes", lambda route: asked.append(route) if route.request.method == "POST" else route.continue_()
    )
    button(page, "New take").click()
    dialog = page.get_by_role("dialog", name="New take")
    dialog.get_by_role("textbox", name="Prompt", exact=True).fill("a hill")
    dialog.get_by_role("textbox", name="Seconds", exact=True).fill("1")
    button(dialog, "Start").click()
    expect(button(dialog, "Starting …")).to_be_disabled()
    asked[0].continue_()
    page.unroute_all()
    expect(dialog).to_be_hidden()
    expect(playhead(page)).to_be_focused()
    expect(button(page, "Extend")).to_be_enabled()


def test_refusal_goes_with_the_next_try_and_plans_with_the_end(page: Any) -> None:
    begin(page, "a red circle stands in a meadow", 20, "1 block ahead")
    wait_for(page, "aria-valuemax", 8)
    direction, when = (page.get_by_role("textbox", name=name, exact=True) for name in ("Direction", "Takes over at"))
    for moment, said in (("0:00", "“Takes over at” is 0 s, but the take is already at"), ("soon", "is not a timecode")):
        direction.fill("a hill")
        when.fill(moment)
        direction.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(said)
        expect(page.get_by_role("alert")).to_have_count(1)
    when.fill("0:15")
    direction.press("Enter")
    planned = page.locator("studio-timeline .handle")
    expect(planned).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()
    expect(planned).to_have_count(0)
    expect(button(page, "Withdraw")).to_have_count(0)
    expect(page.get_by_role("list", name="Cues").get_by_text("a hill")).to_be_visible()
    expect(button(page, "Undo to here")).to_be_focused()  # "Stop" can't have the focus any more


def test_who_watches_sees_what_memory_is_told(page: Any, browser: Any, server: Forked) -> None:
    begin(page, "a red circle stands in a meadow", 20, "1 block ahead")
    wait_for(page, "aria-valuemax", 8)
    context = browser.new_context()
    other = context.new_page()
    other.goto(server.address)
    expect(other.get_by_role("banner")).to_contain_text("live")
    button(page, "Pin").last.click()
    told = other.get_by_role("group", name="Pinned and excluded").get_by_role("button")
    expect(told).to_contain_text(["Pinned"])
    context.close()
    page.get_by_role("group", name="Pinned and excluded").get_by_role("button").click()
    expect(page.get_by_role("group", name="Pinned and excluded")).to_have_count(0)
    button(page, "Stop").click()
    expect(button(page, "Extend")).to_be_enabled()


def test_play_ends_with_a_take_that_ends_late(page: Any, held: Any) -> None:
    """Its record is written some time after its last block, so the last frame is shown before it is said to be made."""
    end = held(lambda message: '"type":"take"' in message and '"interrupted"' in message)
    begin(page, "a red circle jumps in a meadow", 20, "1 block ahead")
    wait_for(page, "aria-valuemax", 8)
    page.keyboard.press("l")
    button(page, "Go to end").click()
    button(page, "Stop").click()
    page.wait_for_timeout(1000)
    last = playhead(page).get_attribute("aria-valuemax")
    expect(playhead(page)).to_have_attribute("aria-valuenow", last)
    expect(button(page, "Pause")).to_be_visible()
    end.let_go()
    expect(button(page, "Play")).to_be_visible()
    expect(button(page, "Go to end")).to_have_attribute("aria-pressed", "false")


# ---- connections ----


def test_take_that_was_begun_while_the_page_was_cut_off(browser: Any, tmp_path: Path, pipeline_folder: Path) -> None:
    served = Forked(tmp_path / "takes", pipeline_folder)
    context = browser.new_context()
    page, cut_off = context.new_page(), Held(lambda message: '"hello"' not in message)
    page.route_web_socket("**/api/events", cut_off.between)
    page.goto(served.address)
    expect(button(page, "Make the demo take")).to_be_visible()
    page.wait_for_timeout(500)
    served.client.post("/api/takes", json={"prompt": "a hill", "seconds": 1.0})
    page.wait_for_timeout(500)
    expect(button(page, "Make the demo take")).to_be_visible()
    cut_off.socket.close()
    expect(page.get_by_role("listbox", name="Library").get_by_role("option")).to_have_count(1)
    context.close()
    served.process.kill()


def test_a_window_too_many_says_so_and_comes_in_later(page: Any) -> None:
    refused = []

    def refuse(socket: Any) -> None:
        if len(refused) < 3:
            refused.append(socket)
            socket.close(code=1013, reason="16 windows of the studio are open; close one of them")
        else:
            socket.connect_to_server()

    page.route_web_socket("**/api/events", refuse)
    page.reload()
    expect(page.get_by_role("alert")).to_have_text(re.compile("16 windows"))
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(refused) == 3
    page.unroute_all()


# ---- small windows ----


@pytest.mark.parametrize("width", [390, 700, 1000])
def test_narrow_windows_show_everything(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    try:
        for name in ("tree", f"long-{'name-' * 40}end", "été"):
            open_take(page, name)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
            assert page.evaluate(OUTSIDE) == []
            assert page.locator(VIDEO).bounding_box()["width"] > min(width, 350) * 0.9
        keep_picture(page, f"narrow-{width}")
        assert_accessible(page, f"{width} pixels")
        button(page, "New take").click()
        assert page.evaluate(OUTSIDE) == []
        keep_picture(page, f"narrow-{width}-new-take")
        page.keyboard.press("Escape")
        button(page, "Compare").click()
        page.get_by_role("combobox", name="Take to compare with").select_option("tree, 0:25.0")
        assert page.evaluate(OUTSIDE) == []
        page.get_by_role("textbox", name="Timecode").fill(WORD)
        page.get_by_role("textbox", name="Timecode").press("Enter")
        box = page.get_by_role("alert").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    finally:
        page.set_viewport_size({"width": 1280, "height": 720})
