"""A video is made while its client listens and directs; one bad message is one error."""

from __future__ import annotations

import io
import json
import runpy
import threading
import time
from pathlib import Path
from typing import Any

import av
import pytest
from starlette.websockets import WebSocketDisconnect
from video_api import OTHER, PROMPT, SECRETS, Api, Listening, until

from longlive_rag.generation.rollout import Rollout
from longlive_rag.serving import realtime
from longlive_rag.serving.realtime import split_head
from longlive_rag.studio.segments import DiskFilm
from longlive_rag.takes.record import read_record


class Client:
    """What a client of the socket hears: messages, and the stream that it was sent."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.stream = b""
        self.blocks: list[dict[str, Any]] = []

    def say(self, **message: Any) -> None:
        self._socket.send_json(message)

    def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.receive_text())
        if message["type"] in ("init", "block"):
            data = self._socket.receive_bytes()
            assert len(data) == message["bytes"]
            self.stream += data
        if message["type"] == "block":
            self.blocks.append(message)
        return message

    def until(self, *kinds: str) -> dict[str, Any]:
        while (message := self.hear())["type"] not in kinds:
            assert message["type"] != "error", message
        return message


def frames_of(stream: bytes) -> list[int]:
    """Times of the frames of a stream, in frames."""
    with av.open(io.BytesIO(stream)) as container:
        return [round(frame.time * 16) for frame in container.decode(video=0)]


def test_a_video_is_made_directed_and_streamed(api: Api):
    with api.socket() as socket:
        client = Client(socket)
        client.say(type="start", prompt=PROMPT, seconds=300, seed=3)
        video = client.until("started")["video"]["id"]
        init = client.until("init")
        assert init["mime"].startswith("video/mp4")
        assert init["fps"] == 16
        client.until("block")
        client.say(type="prompt", prompt=OTHER)
        second = client.until("directed")["takes_over_at"]
        client.say(type="pin", **{"from": 0.0, "to": 0.5})
        assert client.until("directed")["takes_over_at"] >= second
        client.say(type="policy", name="stratified")
        client.until("directed")
        while client.blocks[-1]["seconds"] < second:
            client.until("block")
        client.say(type="stop")
        ended = client.until("ended")["video"]
        assert (ended["id"], ended["status"], ended["error"]["code"]) == (video, "failed", "cancelled")
    record = read_record(api.folder(video))
    assert (record.cues[0].prompt, record.cues[0].seconds) == (OTHER, second)
    assert {steer.verb for steer in record.request.memory.steering} == {"pin", "policy"}
    assert [block["block"] for block in client.blocks] == list(range(len(client.blocks)))
    assert frames_of(client.stream) == list(range(record.video.frames))  # all of it came, and once
    with av.open(str(api.folder(video) / "video.mp4")) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    with av.open(io.BytesIO(client.stream)) as stream:
        assert [bytes(packet) for packet in stream.demux(video=0) if packet.size] == packets


def test_a_block_is_sent_before_the_next_one_is_finished(api: Api, monkeypatch):
    made, finished, go_on = Rollout.next_block, list[int](), threading.Event()

    def held(self):
        block = made(self)
        if block.index == 3:
            go_on.wait(20)
        finished.append(block.index)
        return block

    monkeypatch.setattr(Rollout, "next_block", held)
    with api.socket() as socket:
        client = Client(socket)
        client.say(type="start", prompt=PROMPT, seconds=300, on_leave="stop")
        while not client.blocks or client.blocks[-1]["block"] < 2:
            client.until("block")
        assert finished == [0, 1, 2]
        go_on.set()
        client.say(type="stop")
        client.until("ended")
    assert frames_of(client.stream) == list(range(len(frames_of(client.stream))))


def test_attached_to_one_that_is_there(api: Api):
    video = api.made(seconds=3)["id"]
    with api.socket("viewer") as socket:
        client = Client(socket)
        client.say(type="attach", id=video)
        assert client.hear()["error"]["code"] == "video_not_found"
    with api.socket() as socket:
        client = Client(socket)
        client.say(type="attach", id=video, from_block=2)
        assert client.until("ended")["video"]["status"] == "completed"
        assert client.blocks[0]["block"] == 2
        client.say(type="attach", id=video)  # the socket is free again
        client.until("ended")


BAD = (
    ("{", None),
    ("[]", None),
    ('{"type": "dance"}', None),
    ('{"type": "start"}', "prompt"),
    ('{"type": "start", "prompt": "x", "cues": [{"seconds": 1}]}', "cues[0].prompt"),
    ('{"type": "start", "prompt": "x", "settings": {"x": 1}}', "settings.x"),
    ('{"type": "start", "prompt": "x", "license_policy": "any"}', "license_policy"),
    ('{"type": "pin", "from": "x", "to": 1}', "from"),
    ('{"type": "prompt", "prompt": "x"}', None),
    ('{"type": "stop"}', None),
    ('{"type": "attach", "id": "../../etc"}', None),
    ("[" * 60_000, None),
    ("\ud83d", None),
)


def test_one_bad_message_is_one_error(stuck: Api):
    with stuck.socket() as socket:
        client = Client(socket)
        for text, param in BAD:
            socket.send_text(text.encode("utf-8", "replace").decode())
            answer = client.hear()
            assert answer["type"] == "error", text
            assert answer["error"]["param"] == param, text
        client.say(type="start", prompt=PROMPT)
        assert client.until("started")["video"]["status"] == "queued"
        client.say(type="start", prompt=PROMPT)
        assert client.hear()["error"]["code"] == "busy"
        client.say(type="prompt", prompt=OTHER)
        assert client.hear()["type"] == "error"  # it waits for a worker
        client.say(type="stop")
        assert client.until("ended")["video"]["error"]["code"] == "cancelled"


@pytest.mark.parametrize(
    ("key", "message"), [("viewer", {"type": "start", "prompt": PROMPT}), ("viewer", {"type": "stop"})]
)
def test_scopes(stuck: Api, key, message):
    with stuck.socket(key) as socket:
        socket.send_json(message)
        assert json.loads(socket.receive_text())["error"]["code"] == "insufficient_scope"


def test_who_listens_is_told_that_the_video_was_deleted(api: Api, monkeypatch):
    video = api.made(seconds=1)["id"]

    def deleted(film, block):
        api.ask("DELETE", f"/v1/videos/{video}")
        raise FileNotFoundError

    monkeypatch.setattr(DiskFilm, "segment", deleted)
    with api.socket() as socket:
        client = Client(socket)
        client.say(type="attach", id=video)
        client.until("started")
        assert client.hear()["error"]["code"] == "video_not_found"
        client.say(type="attach", id=video)  # the socket is free again
        assert client.hear()["error"]["code"] == "video_not_found"


def test_one_key_may_not_have_all_sockets(stuck: Api, monkeypatch):
    monkeypatch.setattr(realtime, "MAX_OF_ONE_KEY", 2)
    with stuck.socket() as first, stuck.socket() as second:
        for socket in (first, second):
            socket.send_text("{")
            assert json.loads(socket.receive_text())["type"] == "error"
        with stuck.socket() as third, pytest.raises(WebSocketDisconnect) as closed:
            third.receive_text()
        assert closed.value.code == realtime.TOO_MANY
        with stuck.socket("bob") as other:
            other.send_text("{")
            assert json.loads(other.receive_text())["type"] == "error"


def test_messages_count_as_requests_and_wait(stuck: Api):
    with stuck.socket("small") as socket:  # 30 a minute, 10 of them at once
        begin_s = time.monotonic()
        for _ in range(11):
            socket.send_text("{")
            assert json.loads(socket.receive_text())["type"] == "error"
        assert time.monotonic() - begin_s > 3  # with the socket itself two too many, of one every 2 s


def test_no_socket_without_a_key(stuck: Api):
    with pytest.raises(WebSocketDisconnect), stuck.socket("") as socket:
        socket.receive_text()


@pytest.mark.parametrize(("on_leave", "seconds", "result"), [("finish", 6, "finished"), ("stop", 300, "stopped")])
def test_what_becomes_of_it_when_its_client_leaves(api: Api, on_leave, seconds, result):
    with api.socket() as socket:
        client = Client(socket)
        client.say(type="start", prompt=PROMPT, seconds=seconds, on_leave=on_leave)
        video = client.until("started")["video"]["id"]
        client.until("block")
    api.until_ended(video)
    assert until(lambda: api.videos.ledger.entries[video].result, bool) == result


def test_the_example(listening: Listening, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGLIVE_RAG_API_KEY", SECRETS["alice"])
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "realtime_client.py"))
    example["main"](f"{listening.url.replace('http', 'ws')}/v1/realtime/video")
    said = capsys.readouterr().out
    assert "directed" in said
    assert said.splitlines()[-1] == "{'type': 'ended'}"
    assert frames_of((tmp_path / "realtime.mp4").read_bytes()) == list(range(192))


def test_heads_are_split_at_the_first_fragment():
    def box(kind: bytes, size: int) -> bytes:
        return (size + 8).to_bytes(4, "big") + kind + b"moof" * (size // 4)

    head, body = box(b"ftyp", 16) + box(b"moov", 40), box(b"moof", 8) + box(b"mdat", 8)
    assert split_head(head + body) == (head, body)
    assert split_head(head) == (head, b"")
    assert split_head(b"\0" * 20)[1] == b""
