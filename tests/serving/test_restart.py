"""A server that ends, however it does, loses no video; the next one goes on with all of them, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from video_api import OTHER, PROMPT, Api, until

from longlive_rag.cli.serve import serve as command
from longlive_rag.serving.ledger import Ledger
from longlive_rag.takes.record import read_record

SECRET = "a-secret-of-the-tests"


def video_of(folder: Path) -> bytes:
    return (folder / "video.mp4").read_bytes()


def test_what_is_made_and_what_waits_goes_on(tmp_path, pipeline_folder):
    with Api(tmp_path / "plain", pipeline_folder) as api:
        plain = video_of(api.folder(api.made(seconds=12, seed=5)["id"]))
    with Api(tmp_path / "takes", pipeline_folder) as api:
        source = api.made(seconds=2)["id"]
        running = api.make(seconds=12, seed=5)["id"]
        waiting = [api.make(seconds=1, prompt=OTHER)["id"]]
        waiting.append(api.post(f"/v1/videos/{source}/remix", json={"prompt": OTHER, "at": 1}).json()["id"])
        waiting.append(api.post(f"/v1/videos/{source}/extend", json={"seconds": 1}).json()["id"])
        until(lambda: api.get(f"/v1/videos/{running}").json(), lambda found: found["seconds_made"] > 1)
    assert Ledger(tmp_path / "takes").close() is None  # it was let go
    with Api(tmp_path / "takes", pipeline_folder) as api:
        assert api.get("/readyz").status_code == 200
        ended = {video: api.until_ended(video) for video in [running, *waiting]}
        assert {found["status"] for found in ended.values()} == {"completed"}
        assert ended[source]["seconds"] == "3"
        assert video_of(api.folder(running)) == plain
        assert api.videos.usage.seconds("alice") == 2 + 12 + 1 + 1 + 1


def test_what_the_engine_has_lost_is_asked_for_again(tmp_path, pipeline_folder):
    """Its state is deleted, as of another kind of engine: the ledger alone knows what was asked for."""
    with Api(tmp_path / "takes", pipeline_folder) as api:
        done = api.made()["id"]
        begun = api.make(seconds=20)["id"]
        until(lambda: api.get(f"/v1/videos/{begun}").json(), lambda found: found["seconds_made"] > 1)
        fresh = api.make()["id"]
    shutil.rmtree(tmp_path / "takes" / ".serve" / "engine")
    ledger = Ledger(tmp_path / "takes")
    ledger.put(ledger.entries[done].model_copy(update={"result": None}))  # it had ended, but that was not written
    ledger.close()
    with Api(tmp_path / "takes", pipeline_folder) as api:
        assert [api.until_ended(video)["status"] for video in (done, begun, fresh)] == ["completed"] * 3
        assert read_record(api.folder(begun)).history[-1].what == "resumed"


def test_what_can_not_go_on_fails_and_hinders_no_other(tmp_path, pipeline_folder):
    with Api(tmp_path / "takes", pipeline_folder, workers=0) as api:
        lost, fine = api.make(model="random")["id"], api.make()["id"]
    shutil.rmtree(tmp_path / "takes" / ".serve" / "engine")
    ledger = Ledger(tmp_path / "takes")
    ledger.put(ledger.entries[lost].model_copy(update={"model": "gone"}))
    ledger.close()
    with Api(tmp_path / "takes", pipeline_folder) as api:
        found = api.until_ended(lost)
        assert (found["status"], found["error"]["code"]) == ("failed", "failed")
        assert "random" in found["error"]["message"]
        assert api.until_ended(fine)["status"] == "completed"


def test_a_server_answers_while_it_queues_what_waits(tmp_path, pipeline_folder, monkeypatch):
    with Api(tmp_path / "takes", pipeline_folder, workers=0) as api:
        first, second, third = (api.make()["id"] for _ in range(3))
    shutil.rmtree(tmp_path / "takes" / ".serve" / "engine")
    api = Api(tmp_path / "takes", pipeline_folder)
    looks, go_on, submit = threading.Event(), threading.Event(), api.engine.submit

    def slow(order, owner):
        looks.set()
        assert go_on.wait(60)
        return submit(order, owner)

    monkeypatch.setattr(api.engine, "submit", slow)
    with api, ThreadPoolExecutor() as pool:
        assert looks.wait(60)
        assert [api.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 503]
        assert {each["status"] for each in api.get("/v1/videos").json()["data"]} == {"queued"}
        assert api.post(f"/v1/videos/{second}/cancel").status_code == 200
        assert api.until_ended(second)["error"]["code"] == "cancelled"
        cancelling = pool.submit(api.post, f"/v1/videos/{first}/cancel")  # its order is being looked at
        assert not wait([cancelling], 0.2).done
        go_on.set()
        assert cancelling.result(60).status_code == 200
        until(lambda: api.get("/readyz").status_code, lambda status: status == 200)
        assert api.until_ended(third)["status"] == "completed"
        assert api.until_ended(first)["status"] in ("completed", "failed")


def test_what_the_queue_has_no_room_for_waits_until_one_ends(tmp_path, pipeline_folder):
    with Api(tmp_path / "takes", pipeline_folder, workers=0) as api:
        videos = [api.make()["id"] for _ in range(4)]
    shutil.rmtree(tmp_path / "takes" / ".serve" / "engine")
    with Api(tmp_path / "takes", pipeline_folder, waiting=1) as api:
        assert [api.until_ended(video)["status"] for video in videos] == ["completed"] * 4


def test_deleted_means_deleted(tmp_path, pipeline_folder):
    with Api(tmp_path / "takes", pipeline_folder) as api:
        video = api.made()["id"]
        folder = api.folder(video)
        (api.videos.ledger.folder / "trash" / "left").mkdir()  # of a server that was killed meanwhile
        (api.videos.ledger.folder / "pictures" / "video_x.png").write_bytes(b"of an order that it did not get to")
        api.ask("DELETE", f"/v1/videos/{video}")
        assert not folder.exists()
    with Api(tmp_path / "takes", pipeline_folder) as api:
        assert api.get("/v1/videos").json()["data"] == []
        for name in ("trash", "pictures"):
            assert list((api.videos.ledger.folder / name).iterdir()) == []


def test_a_source_is_not_deleted_while_another_is_made_of_it(tmp_path, pipeline_folder):
    with Api(tmp_path / "takes", pipeline_folder) as api:
        video = api.made(seconds=2)["id"]
        long = api.make(seconds=300)["id"]
        remix = api.post(f"/v1/videos/{video}/remix", json={"prompt": OTHER, "at": 1}).json()["id"]
        remembering = api.make(remember=[{"video": video, "from": 0, "to": 1}])["id"]
        for user in (remix, remembering):
            answer = api.ask("DELETE", f"/v1/videos/{video}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_ready")
            assert user in answer.json()["error"]["message"]
            api.post(f"/v1/videos/{user}/cancel")
            api.until_ended(user)
        api.post(f"/v1/videos/{long}/cancel")
        api.until_ended(long)
        assert api.ask("DELETE", f"/v1/videos/{video}").status_code == 200


def test_two_servers_do_not_share_a_folder(tmp_path, pipeline_folder):
    with Api(tmp_path / "takes", pipeline_folder), pytest.raises(ValueError, match="another"):
        Api(tmp_path / "takes", pipeline_folder)


# ---- the command ----


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--api-key", "short"],
        ["--api-key", SECRET, "--keys", "keys.toml"],
        ["--keys", "nowhere.toml"],
        ["--api-key", SECRET, "--backbone", "nothing"],
        ["--api-key", SECRET, "--host", "0.0.0.0"],
        ["--api-key", SECRET, "--tls-key", "key.pem"],
        ["--api-key", SECRET, "--license-policy", "commercial"],
        ["--api-key", SECRET, "--workers", "0"],
        ["--api-key", SECRET, "--device", "tpu"],
        ["--api-key", SECRET, "--address", "somewhere:1"],
        ["--api-key", SECRET, "--max-seconds", "0"],
    ],
)
def test_what_it_refuses(tmp_path, monkeypatch, pipeline_folder, options):
    monkeypatch.delenv("LONGLIVE_RAG_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    named = [] if "--backbone" in options else ["--backbone", str(pipeline_folder)]
    ran = CliRunner().invoke(command, ["--takes", "takes", "--port", "0", *named, *options])
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stderr
    assert not list((tmp_path / "takes").rglob("*.json")) if (tmp_path / "takes").exists() else True


class Served:
    """`longlive-rag serve` as a process."""

    def __init__(self, takes: Path, *options: str) -> None:
        command = [sys.executable, "-m", "longlive_rag", "serve", "--takes", str(takes), "--port", "0", *options]
        self.log = takes.with_name(f"{takes.name}.log").open("a+")
        environment = os.environ | {"LONGLIVE_RAG_API_KEY": SECRET}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        assert self.process.stdout is not None
        found = re.match(r"(http://127\.0\.0\.1:\d+)/v1$", self.process.stdout.readline())
        assert found, self.process.wait()
        self.client = httpx.Client(
            base_url=found[1], headers={"Authorization": f"Bearer {SECRET}"}, timeout=60, trust_env=False
        )
        until(lambda: self.client.get("/readyz").status_code, lambda status: status == 200)

    def get(self, video: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/videos/{video}").json()
        return found

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Its exit code, and how long it took."""
        self.client.close()
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.log.close()
        return code, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sigterm_parks_and_the_next_start_goes_on(tmp_path, pipeline_folder, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    options = ["--backbone", str(pipeline_folder), "--engine", engine]
    order = {"prompt": PROMPT, "seconds": 24, "seed": 9}
    served = Served(tmp_path / "takes", *options)
    plain = served.client.post("/v1/videos", json=order).json()["id"]
    until(lambda: served.get(plain)["status"], lambda status: status == "completed")
    expected = served.client.get(f"/v1/videos/{plain}/content").content
    video = served.client.post("/v1/videos", json=order).json()["id"]
    until(lambda: served.get(video)["seconds_made"], lambda seconds: 1 < seconds < 24)
    code, seconds = served.end()
    assert (code, seconds < 10) == (0, True), seconds
    served = Served(tmp_path / "takes", *options)
    assert served.get(video)["status"] in ("queued", "in_progress")
    until(lambda: served.get(video)["status"], lambda status: status == "completed")
    assert served.client.get(f"/v1/videos/{video}/content").content == expected
    assert served.end(signal.SIGINT)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "takes.log").read_text().splitlines() if line.startswith("{")]
    assert {"video queued", "video finished", "request"} <= {line["event"] for line in lines}
    assert SECRET not in (tmp_path / "takes.log").read_text()
    assert "circle" not in (tmp_path / "takes.log").read_text()  # no prompt


@pytest.mark.slow
def test_killed_and_started_again(tmp_path, pipeline_folder):
    options = ["--backbone", str(pipeline_folder)]
    served = Served(tmp_path / "takes", *options)
    videos = [served.client.post("/v1/videos", json={"prompt": PROMPT, "seconds": 30, "seed": 9}).json()["id"]]
    videos.append(served.client.post("/v1/videos", json={"prompt": PROMPT, "seconds": 1}).json()["id"])
    until(lambda: served.get(videos[0])["seconds_made"], lambda seconds: seconds > 1)
    served.end(signal.SIGKILL)
    served = Served(tmp_path / "takes", *options)
    for video in videos:
        until(lambda video=video: served.get(video)["status"], lambda status: status == "completed")
    served.end()
