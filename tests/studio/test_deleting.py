"""Takes are deleted whole or not at all, by who directs, and never one that is needed."""

from __future__ import annotations

import shutil
import time

from windows import OTHER, Window

from longlive_rag.studio.studio import Studio
from longlive_rag.takes.record import read_record
from retrieval.lock import hold
from tests.drawn import drawn_take
from tests.thread_workers import thread_engine


def made(window: Window, seconds: float = 3.0, **message: object) -> str:
    take = window.begin(seconds, **message)
    window.ended(take)
    return take


def refused(answer) -> str:
    assert answer.status_code == 409, answer.text
    return answer.json()["error"]["message"]


def listed(window: Window) -> set[str]:
    return {each["id"] for each in window.get("/api/takes").json()["takes"]}


def test_what_came_from_a_deleted_take_goes_on_without_it(studio, window):
    take = made(window)
    branch = window.do(take, do="branch", block=2, prompt=OTHER).json()["id"]
    window.ended(branch)
    heir = made(window, remember=[{"take": take, "from": 0.5, "to": 2.0}])
    folder = studio.takes.folder(take)
    assert window.do(take, do="delete").json() == {"ok": True}
    assert window.until("gone", take=take)["deleted"]
    assert listed(window) == {branch, heir}
    assert not folder.exists()
    assert not [path for path in studio.takes.root.iterdir() if path.name.startswith(".longlive-rag-deleted-")]
    for each in (branch, heir):
        assert window.do(each, do="extend", seconds=1.5).json() == {"id": each}
        window.until("take", id=each, status="live")
        assert window.ended(each)["made_seconds"] == 4.5
    assert window.do(take, do="delete").status_code == 404


def test_a_take_that_is_made_or_made_from_stays(studio, window):
    source = made(window, 6.0)
    folder = studio.takes.folder(source)
    studio.room.set_pace(2)
    for begin in (
        lambda: window.begin(60.0, remember=[{"take": source, "from": 0.5, "to": 2.0}]),
        lambda: window.do(source, do="branch", block=1, prompt=OTHER).json()["id"],
        lambda: window.do(source, do="undo_to", block=2).json()["id"],
    ):
        take = begin()
        name = studio.takes.folder(take).name
        assert refused(window.do(take, do="delete")) == f"{name} is being made; stop it, then delete it"
        assert refused(window.do(source, do="delete")).startswith(f"{name} is being made from {folder.name}; wait")
        window.do(take, do="stop")
        while studio.room.current is not None:
            time.sleep(0.01)
    assert folder.is_dir()
    assert window.do(source, do="delete").status_code == 200


def test_a_take_of_another_process_and_a_folder_of_takes_stay(studio, window, tmp_path):
    take = made(window)
    folder = studio.takes.folder(take)
    with hold(folder / "latents"):
        assert refused(window.do(take, do="delete")).startswith(f"{folder.name} is being made by another process")
    drawn_take(folder / "more" / "inside", 20)
    assert "is also a folder of takes" in refused(window.do(take, do="delete"))
    shutil.rmtree(folder / "more")
    whole = read_record(folder)
    shutil.copy(folder / "take.json", studio.takes.root)
    root = next(each["id"] for each in window.get("/api/takes").json()["takes"] if each["name"] == "takes")
    assert "is also a folder of takes" in refused(window.do(root, do="delete"))
    assert read_record(folder) == whole


def test_who_watches_deletes_nothing(studio, client, window):
    take = made(window)
    with Window(client, studio.sessions.token) as other:
        assert "another window" in refused(other.do(take, do="delete"))
        assert listed(other) == {take}
        assert window.do(take, do="delete").status_code == 200
        assert other.until("gone", take=take)["deleted"]


def test_what_a_kill_left_is_no_take_and_goes_with_the_next_studio(studio, window, monkeypatch, pipeline_folder):
    take = made(window)

    def give_out(folder) -> None:
        (folder / "video.mp4").unlink()
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", give_out)
    answer = window.do(take, do="delete")
    monkeypatch.undo()
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].endswith("not all of it could be removed: Permission denied")
    assert listed(window) == set()
    (left,) = studio.takes.root.glob(".longlive-rag-deleted-*")
    assert (left / "take.json").is_file()
    Studio(studio.root, thread_engine, [str(pipeline_folder)]).close()
    assert not left.exists()


def test_a_folder_that_can_not_be_renamed_stays_whole(studio, window, monkeypatch):
    take = made(window)

    def rename(*_) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.rename", rename)
    assert window.do(take, do="delete").json()["error"]["message"] == "Invalid cross-device link"
    monkeypatch.undo()
    assert listed(window) == {take}
    assert window.do(take, do="delete").status_code == 200
