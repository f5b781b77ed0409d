"""What is too large, too slow or a bomb is refused or bounded, and others are served meanwhile."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from video_api import PROMPT, SECRETS, Api, Listening, until

from longlive_rag.serving import connections, guard

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI ends its own service


def bomb(side: int = 20_000) -> bytes:
    """A PNG of `side` squared black pixels, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side * (side // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zipped_text() -> bytes:
    """A PNG whose text unpacks to 64 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    text = b"bomb\0\0" + zlib.compress(b"x" * 64_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("data", [bomb(), zipped_text(), b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_a_picture_that_is_a_bomb_or_none(stuck: Api, data):
    assert len(data) < 2**20
    answer = stuck.post("/v1/videos", data={"prompt": PROMPT}, files={"input_reference": ("a.png", data)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input_reference"
    assert stuck.videos.ledger.entries == {}
    assert list((stuck.takes / ".serve" / "pictures").iterdir()) == []


def test_ten_megabytes_of_prompt(stuck: Api):
    words = "x" * 10_000_000
    answer = stuck.post("/v1/videos", json={"prompt": words})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    answer = stuck.post("/v1/videos", data={"prompt": words}, files={"input_reference": ("a.png", b"")})
    assert answer.status_code == 400
    assert len(answer.text) < 1000

    def chunks():
        for _ in range(160):
            yield b"x" * 65536

    answer = stuck.post("/v1/videos", content=chunks(), headers={"content-type": "application/json"})  # of no length
    assert answer.status_code == 413
    assert stuck.post("/v1/videos/x/remix", json={"prompt": words}).status_code == 413


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", str(2**70)])
def test_odd_lengths(stuck: Api, length):
    headers = {"content-type": "application/json", "content-length": length}
    assert stuck.post("/v1/videos", content=b"{}", headers=headers).status_code == 413


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 50_000, "\ufeff{}", "NaN", '{"prompt": "x", "seconds": NaN}', "1" * 100_000,
     '{"prompt": "a", "seconds": 1e999}', '{"prompt": "a", "seed": 1' + "0" * 5000 + "}"],
)  # fmt: skip
def test_json_that_is_none(stuck: Api, text):
    for path in ("/v1/videos", "/v1/videos/x/remix", "/v1/videos/x/extend"):
        answer = stuck.post(path, content=text.encode(), headers={"content-type": "application/json"})
        assert answer.status_code in (400, 404), path
        assert len(answer.text) < 1500


def test_a_form_of_many_parts(stuck: Api):
    many = {f"field{number}": "x" for number in range(5000)}
    answer = stuck.post("/v1/videos", data=many, files={"input_reference": ("a.png", b"")})
    assert answer.status_code == 400
    broken = b"--x\r\nContent-Disposition: form-data; name=prompt"
    answer = stuck.post("/v1/videos", content=broken, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 400
    answer = stuck.post("/v1/videos", content=broken, headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400


def connect(listening: Listening, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", listening.port), timeout=30)
    client.sendall(sent)
    return client


def is_closed(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:  # it was reset
        return True


HEAD = f"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['alice']}\r\n"


def test_slow_heads_and_slow_bodies_are_ended(listening: Listening, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    silent, half = connect(listening, b""), connect(listening, HEAD.encode())
    second = connect(listening, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"ok" not in answer.partition(b"\r\n\r\n")[2]:
        answer += second.recv(65536)
    time.sleep(0.1)  # it is whole here; the server knows so, too
    second.sendall(b"GET /healthz HTTP/1.1\r\nHo")
    slow = connect(listening, (HEAD + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
    begin = time.monotonic()
    assert b" 408 " in slow.recv(65536)
    for client in (silent, half, second):
        assert is_closed(client)
    assert time.monotonic() - begin < 20
    assert listening.client().models.list().data


def test_one_address_may_not_have_all_connections(listening: Listening, monkeypatch):
    monkeypatch.setattr(connections, "MOST_OF_ONE_ADDRESS", 20)
    until(lambda: connections.PatientProtocol._open.total(), lambda count: count < 10)
    clients = [connect(listening, HEAD.encode()) for _ in range(30)]
    refused = until(lambda: sum(closed_now(each) for each in clients), lambda count: count >= 10)
    assert refused < 30
    for each in clients:
        each.close()
    until(lambda: connections.PatientProtocol._open.total(), lambda count: count < 10)
    assert listening.client().models.list().data


def closed_now(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_client_that_does_not_read_is_let_go(listening: Listening, monkeypatch):
    video = listening.client().videos.create_and_poll(prompt=PROMPT, seconds="1", poll_interval_ms=50)
    path = listening.api.folder(video.id) / "video.mp4"
    path.write_bytes(path.read_bytes() + b"\0" * 50_000_000)
    monkeypatch.setattr(guard, "SEND_SECONDS", 0.5)
    head = f"GET /v1/videos/{video.id}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['alice']}\r\n\r\n"
    client = connect(listening, head.encode())
    time.sleep(2)
    received = 0
    while data := client.recv(2**20):
        received += len(data)
    assert received < 50_000_000


def test_it_says_that_it_is_well_while_orders_have_all_threads(listening: Listening):
    headers = {"Authorization": f"Bearer {SECRETS['alice']}"}

    def resume(number: int) -> int:
        return httpx.post(f"{listening.url}/v1/videos/{number}/resume", headers=headers, timeout=120).status_code

    with ThreadPoolExecutor(60) as clients:
        with listening.api.videos._lock:  # as while another order is put on the ledger
            asked = [clients.submit(resume, number) for number in range(60)]
            time.sleep(2)
            for path in ("/healthz", "/readyz"):
                assert httpx.get(f"{listening.url}{path}", timeout=20).status_code == 200
            assert not any(each.done() for each in asked)
        assert {each.result() for each in asked} == {404}


def test_what_is_not_http_and_what_is_no_route(listening: Listening):
    client = connect(listening, b"\x16\x03\x01\x02\x00\x01" + b"\0" * 200)
    assert b"400" in client.recv(65536) or is_closed(client)
    client = connect(listening, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n")
    assert b"400" in client.recv(65536) or is_closed(client)
    headers = {"Authorization": f"Bearer {SECRETS['bob']}"}
    for method, path, code in (("GET", "/v1/nothing", "not_found"), ("PUT", "/v1/videos", "method_not_allowed")):
        answer = httpx.request(method, f"{listening.url}{path}", headers=headers)
        assert answer.json()["error"]["code"] == code
