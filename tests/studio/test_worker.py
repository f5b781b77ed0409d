"""The studio's worker is a process of its own: when it is lost the take goes on, and it ends with the studio."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from starlette.testclient import TestClient
from windows import HOST, OTHER, PROMPT, Window

from longlive_rag.engines.supervisor import Limits
from longlive_rag.studio.address import HERE
from longlive_rag.studio.live import LOST, PARKED
from longlive_rag.studio.server import build_app
from longlive_rag.studio.studio import Studio
from longlive_rag.takes.record import read_record
from tests.engines.making import engine_at, kill_worker_of, unlike_undisturbed


@pytest.fixture
def studio(tmp_path: Path, pipeline_folder: Path) -> Studio:
    return Studio(tmp_path / "takes", lambda state: engine_at(state, workers=1), [str(pipeline_folder)])


def shown_until_ended(window: Window, take: str) -> list[list[int]]:
    """Blocks as they are announced; a list begins with what is kept where those after it are void."""
    heard: list[list[int]] = [[]]
    while True:
        event = window.events.get(timeout=60)
        if event["type"] == "cut":
            heard.append([event["blocks"]])
        if event["type"] == "block":
            heard[-1].append(event["segment"]["block"])
            assert window.get(event["segment"]["url"]).status_code == 200
        if event["type"] == "take" and event["take"]["status"] != "live":
            assert event["take"]["status"] == "finished"
            return heard


def test_a_take_whose_worker_is_lost_goes_on(studio: Studio, window: Window, pipeline_folder: Path, tmp_path: Path):
    studio.room.set_pace(5)
    take = window.begin(12.0)
    window.block(5)
    planned = window.do(take, do="direct", prompt=OTHER, at=8.0).json()
    gone = window.do(take, do="direct", prompt="never", at=10.0).json()
    assert window.do(take, do="withdraw_cue", planned_id=gone["planned_id"]).status_code == 200
    assert kill_worker_of(studio.room.engine, studio.room.current.session)
    window.until("note", take=take, message=LOST)
    cut = window.until("cut", take=take)["blocks"]
    for number in range(cut, 6):
        assert window.block(number)["take"] == take
    assert window.silent()  # it is held where it was
    detail = window.get(f"/api/takes/{take}").json()
    assert (detail["status"], [cue["planned_id"] for cue in detail["cues"]]) == ("live", [planned["planned_id"]])
    assert detail["blocks"] == len(detail["segments"]) == 6
    moved = window.do(take, do="edit_cue", planned_id=planned["planned_id"], prompt=OTHER, at=9.0).json()
    assert kill_worker_of(studio.room.engine, studio.room.current.session)
    window.do(take, do="pace", blocks_ahead=None)
    again, (kept, *blocks) = shown_until_ended(window, take)
    assert again == []
    assert blocks == list(range(kept, 17))
    folder = studio.takes.folder(take)
    assert [(cue.seconds, cue.prompt) for cue in read_record(folder).request.cues] == [(moved["takes_over_at"], OTHER)]
    memory = [each["block"] for each in window.get(f"/api/takes/{take}").json()["memory"]]
    assert memory == sorted(set(memory))
    assert unlike_undisturbed(pipeline_folder, folder, tmp_path / "whole") == []


def test_a_take_that_waits_for_its_viewer_is_parked_and_goes_on_when_it_is_directed(
    tmp_path: Path, pipeline_folder: Path
):
    backbones = [str(pipeline_folder)]
    studio = Studio(tmp_path / "takes", lambda state: engine_at(state, 1, Limits(held_s=0.5)), backbones)
    with (
        TestClient(build_app(studio, 8160, HERE), base_url=f"http://{HOST}") as client,
        Window(client, studio.sessions.token) as window,
    ):
        studio.room.set_pace(2)
        take = window.begin(9.0)
        window.until("note", take=take, message=PARKED)
        assert [worker.session for worker in studio.room.engine.workers()] == [None]
        detail = window.get(f"/api/takes/{take}").json()
        assert (detail["status"], detail["blocks"]) == ("live", 3)
        assert window.do(take, do="direct", prompt=OTHER).json()["takes_over_at"] == detail["made_seconds"]
        window.do(take, do="pace", blocks_ahead=None)
        window.ended(take)
        folder = studio.takes.folder(take)
    assert [cue.prompt for cue in read_record(folder).request.cues] == [OTHER]
    assert unlike_undisturbed(pipeline_folder, folder, tmp_path / "whole") == []


def test_the_worker_ends_with_the_studio_and_its_take_with_its_block(tmp_path: Path, studio: Studio):
    with TestClient(build_app(studio, 8160, HERE), base_url=f"http://{HOST}") as client:
        with Window(client, studio.sessions.token) as window:
            take = window.begin(60.0, prompt=PROMPT)
            window.block(2)
            worker = psutil.Process(studio.room.engine.workers()[0].pid)
        folder = studio.takes.folder(take)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    record = read_record(folder)
    assert (record.status, record.request.seconds) == ("interrupted", 60.0)
    assert record.video.sha256
    assert not studio.temporary.exists()
