"""Disks that fill up, memory that runs out, takes that vanish, windows that don't read: it says so and goes on."""

from __future__ import annotations

import errno
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from click.testing import CliRunner
from websockets.sync.client import connect
from windows import OTHER, PROMPT, Window

from longlive_rag.cli.generate import generate
from longlive_rag.cli.main import cli
from longlive_rag.config import Reseed
from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.video import VideoWriter, read_frames
from longlive_rag.presets.preset import load_preset
from longlive_rag.studio import events, schema
from longlive_rag.studio.address import HERE, Address
from longlive_rag.studio.orders import command_of
from longlive_rag.studio.server import build_app
from longlive_rag.studio.studio import Studio
from longlive_rag.takes.record import read_record
from longlive_rag.takes.writer import TakeWriter
from longlive_rag.timecode import parse_timecode
from retrieval.store import LatentStore, LatentWriter

SAMPLES = Path(__file__).parents[1] / "takes" / "samples"


def content_of(take: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and latents."""
    store = LatentStore(take / "latents")
    return np.stack(list(read_frames(take / "video.mp4"))), store.latents(range(store.frames))


def made(window: Window, seconds: float = 3.0, **message: object) -> str:
    take = window.begin(seconds, **message)
    window.ended(take)
    return take


def test_the_command_that_is_shown_makes_the_take_again(studio, window, pipeline_folder, tmp_path, monkeypatch):
    studio.room.set_pace(4)
    take = window.begin(8.0, seed=3)
    window.block(3)
    window.do(take, do="direct", prompt=OTHER)
    assert window.do(take, do="pin", **{"from": 0.2, "to": 0.9}).status_code == 200
    window.say(type="playhead", take=take, seconds=1.5)
    window.block(6)
    undone = window.do(take, do="undo_to", block=6).json()["id"]
    window.do(undone, do="pace", blocks_ahead=None)
    assert window.do(undone, do="exclude", **{"from": 1.0, "to": 1.5}).status_code == 200
    window.do(undone, do="direct", prompt="a green triangle sleeps")
    window.ended(undone)
    detail = window.get(f"/api/takes/{undone}").json()
    assert [cue["prompt"] for cue in detail["cues"]] == [OTHER, "a green triangle sleeps"]
    assert [steer["verb"] for steer in detail["steering"]] == ["pin", "exclude"]
    (tmp_path / pipeline_folder.name).symlink_to(pipeline_folder)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(cli, shlex.split(detail["command"])[1:])
    assert ran.exit_code == 0, ran.output
    folder = studio.takes.folder(undone)
    ours, theirs = content_of(folder), content_of(folder.with_name(f"{folder.name}-again"))
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_that_command_says_so_if_new_views_go_by_steps_though_the_preset_has_a_number():
    record, preset = read_record(SAMPLES / "memory"), load_preset("tiny-world")
    assert preset.memory.new_view is not None
    request = replace(record.request, memory=replace(record.request.memory, new_view=None))
    words = shlex.split(command_of(record.model_copy(update={"request": request}), "memory", None, preset))
    assert words[words.index("--new-view") + 1] == "steps"
    assert "--new-view" not in command_of(record, "memory", None, preset)


def test_that_command_has_every_frame_and_what_is_remembered():
    record, preset = read_record(SAMPLES / "memory"), load_preset("tiny-world")
    spans = ((100.0625, 100.3125), (2.0, 3.5))
    remember = ("/machine/takes/who@0:02.0625-0:05", "other/one")
    memory = replace(record.request.memory, pin=spans, diversity=0.12345678, remember=remember)
    request = replace(record.request, seconds=1100.0, memory=memory)
    command = command_of(record.model_copy(update={"request": request}), "takes/memory", None, preset)
    params = generate.make_context("generate", shlex.split(command)[2:]).params
    assert params["memory_pin"] == spans
    assert params["memory_diversity"] == 0.12345678
    assert params["memory_remember"] == ("takes/who@0:02.0625-0:05", "other/one")

    reseeded = replace(record.request, seconds=1100.0, reseeds=(Reseed(1000.875, 7),))  # at 24 frames a second
    words = shlex.split(command_of(record.model_copy(update={"request": reseeded}), "takes/b", "takes/a", preset))
    assert parse_timecode(words[words.index("--at") + 1]) == 1000.875


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("owner", "method", "give_out", "said"),
    [
        (LatentWriter, "append", full, "No space left"),
        (VideoWriter, "write", full, "No space left"),
        (TakeWriter, "update", full, "No space left"),
        (Rollout, "next_block", no_memory, "out of memory"),
    ],
)
def test_what_gives_out_is_one_sentence(studio, window, monkeypatch, owner, method, give_out, said):
    other = made(window)
    before = content_of(studio.takes.folder(other))
    studio.room.set_pace(2)
    take = window.begin(9.0)
    window.block(2)
    monkeypatch.setattr(owner, method, give_out)
    window.do(take, do="direct", prompt=OTHER)
    window.do(take, do="pace", blocks_ahead=None)
    error = window.until("error")
    assert error["take"] == take
    assert said in error["message"]
    assert "\n" not in error["message"]
    window.ended(take, "failed")
    monkeypatch.undo()
    detail = window.get(f"/api/takes/{take}").json()
    assert detail["blocks"] >= 3
    assert all(window.get(segment["url"]).status_code == 200 for segment in detail["segments"])
    assert all(np.array_equal(a, b) for a, b in zip(content_of(studio.takes.folder(other)), before, strict=True))
    made(window)
    assert window.do(take, do="resume").status_code == 200
    assert window.ended(take)["made_seconds"] == 9.0


@pytest.mark.parametrize("waits", [True, False])
def test_a_take_that_is_deleted_while_it_is_made(studio, window, waits):
    other = made(window)
    studio.room.set_pace(2 if waits else None)
    take = window.begin(60.0)
    url = window.block(2)["segment"]["url"]
    folder = studio.takes.root / studio.room.current.folder.name
    while folder.exists():  # a block may be written meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    window.do(take, do="pace", blocks_ahead=None)
    error = window.until("error")
    assert error["take"] == take
    assert str(studio.root.parent) not in error["message"]
    window.until("gone", take=take)
    for path in (f"/api/takes/{take}", url, f"/api/takes/{take}/frame/0.jpg", f"/api/takes/{take}/like?frame=0"):
        answer = window.get(path)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "there is no such take (any more)")
    assert [each["id"] for each in window.get("/api/takes").json()["takes"]] == [other]
    made(window)


def test_a_damaged_record_is_listed_in_the_words_of_the_command_line(studio, window, tmp_path, monkeypatch):
    take, other = made(window), made(window)
    record = studio.takes.folder(take) / "take.json"
    whole = record.read_text()
    for damaged in (whole[:200], whole.replace("red circle", "red square", 1)):
        record.write_text(damaged)
        event = window.until("left_out", id=take)
        listed = window.get("/api/takes").json()
        assert [each["id"] for each in listed["takes"]] == [other]
        assert listed["left_out"] == [event["take"]]
        monkeypatch.chdir(tmp_path)
        said = CliRunner().invoke(cli, ["library", "list", "takes"]).stderr
        assert said == f"Note: takes/{event['take']['name']} is left out: {event['take']['reason']}.\n"
        assert window.get(f"/api/takes/{take}").status_code == 422
        assert window.do(take, do="branch", block=1).status_code == 422
    record.write_text(whole)
    window.until("take", id=take)
    assert window.get("/api/takes").json()["left_out"] == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda _: b"", "Invalid data"),
        (lambda video: video.replace(b"vp09", b"none"), "it holds none"),
        (lambda video: video[: video.index(b"vp09") + 10], "End of file"),
    ],
)
def test_a_broken_video_has_no_pictures(studio, window, broken, said):
    take, other = made(window), made(window)
    video = studio.takes.folder(take) / "video.mp4"
    video.write_bytes(broken(video.read_bytes()))
    answer = window.get(f"/api/takes/{take}/frame/0.jpg?width=160")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith(f"this frame can't be read: {video.parent.name}/video.mp4")
    assert said in answer.json()["error"]["message"]
    assert window.get(f"/api/takes/{take}").status_code == 422
    assert {each["id"] for each in window.get("/api/takes").json()["takes"]} == {take, other}
    assert window.get(f"/api/takes/{other}/frame/0.jpg").status_code == 200


def test_what_was_read_of_a_take_is_not_said_once_it_is_being_made(studio, window, monkeypatch):
    """The folder of takes was read while the take was finished, and is spoken of when the take goes on."""
    read, may_say, said = threading.Event(), threading.Event(), threading.Event()
    listed, scan = studio.listed, studio.takes.scan

    def slowly(takes):
        found = listed(takes)
        if takes and not said.is_set():
            read.set()
            may_say.wait(60)
        return found

    def again():
        if may_say.is_set():
            said.set()
        return scan()

    monkeypatch.setattr(studio, "listed", slowly)
    monkeypatch.setattr(studio.takes, "scan", again)
    take = made(window)
    assert read.wait(60)
    studio.room.set_pace(0)
    window.do(take, do="extend", seconds=6.0)
    assert window.until("take", id=take)["take"]["status"] == "live"
    may_say.set()
    assert said.wait(60)
    window.do(take, do="pace", blocks_ahead=None)
    assert window.until("take", id=take, status="finished")["take"]["made_seconds"] == 9.0


def test_who_watches_is_told_everything(studio, client, window):
    studio.room.set_pace(2)
    with Window(client, studio.sessions.token) as other:
        take = window.begin(9.0)
        window.block(2)
        for command in ({"do": "stop"}, {"do": "direct", "prompt": OTHER}, {"do": "pace", "blocks_ahead": None}):
            assert other.do(take, **command).status_code == 409
        assert other.post("/api/takes", prompt=PROMPT, seconds=2.0).status_code == 409
        other.say(type="playhead", take=take, seconds=5.0)
        assert window.silent()
        window.do(take, do="direct", prompt=OTHER)
        assert other.do(take, do="take_over").status_code == 200
        assert window.do(take, do="stop").status_code == 409
        other.do(take, do="pace", blocks_ahead=None)
        heard = []
        while not (heard and heard[-1]["type"] == "take" and heard[-1]["take"]["status"] == "finished"):
            heard.append(other.events.get(timeout=60))
        assert [event["segment"]["block"] for event in heard if event["type"] == "block"] == list(range(13))
        assert "cues" in {event["type"] for event in heard}


@contextmanager
def served(studio: Studio) -> Iterator[str]:
    """The studio at an address, in a thread."""
    with Address(port=0).listen() as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(build_app(studio, port, HERE), timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def test_a_window_that_does_not_read_is_let_go(studio, monkeypatch):
    monkeypatch.setattr(events, "MAX_WAITING", 100)
    with served(studio) as place:
        secrets = [studio.sessions.begin(studio.sessions.token) for _ in range(2)]
        plain = {"compression": None, "ping_interval": None}
        socket = partial(connect, f"ws://{place}/api/events", **plain)
        with socket(max_queue=None) as reading, socket(max_queue=1) as slow:
            for window, secret in zip((reading, slow), secrets, strict=True):
                window.send(schema.Secret(secret=secret).model_dump_json())
                assert "hello" in window.recv(60)
            for number in range(1500):
                studio.hub.say(schema.NoteEvent(take=None, message=f"{number} {'x' * 10_000}"))
                assert f'"{number} ' in reading.recv(60)
            assert [window.secret for window in studio.hub._windows] == [secrets[0]]
            assert list(studio.director._windows) == [secrets[0]]
            slow.socket.close()


def test_a_video_that_is_gone_is_a_take_that_is_gone(studio, window):
    take = made(window)
    detail = window.get(f"/api/takes/{take}").json()
    (studio.takes.folder(take) / "video.mp4").unlink()
    for path in (detail["segments"][0]["url"], f"/api/takes/{take}/frame/3.jpg"):
        assert window.get(path).status_code == 404
    for answer in (window.get(f"/api/takes/{take}/drift"), window.post(f"/api/takes/{take}/export", what="video")):
        assert answer.status_code in (404, 422)
    made(window)
