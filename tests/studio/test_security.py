"""Only this machine's browser, on the studio's own page and with its token, may do anything; a test a promise."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from windows import HOST, PROMPT, Window

from backbone.errors import FieldError
from longlive_rag.cli.studio import studio as command
from longlive_rag.studio import events, orders, schema, security
from longlive_rag.studio.address import HERE, Address
from longlive_rag.studio.server import build_app

READING = ("/api/studio", "/api/takes", "/api/takes/x", "/api/takes/x/segments/0-0.mp4", "/api/takes/x/frame/0.jpg")
DOING = ("/api/takes", "/api/takes/x/commands", "/api/takes/x/export", "/api/uploads", "/api/backbones/x/words")


def test_1_it_listens_on_this_machine_unless_it_is_told_otherwise(tmp_path):
    defaults = {param.name: param.default for param in command.params}
    assert defaults["host"] == "127.0.0.1"
    assert Address().hosts == ("127.0.0.1", "localhost", "[::1]")
    for refused in (
        ["--host", "0.0.0.0"],
        ["--host", "192.0.2.1"],
        ["--host", "::"],
        ["--host", ""],
        ["--host", "127.0.0.1.evil.example"],
        ["--host", "0.0.0.0", "--tls-cert", "cert.pem"],
        ["--host", "0.0.0.0", "--tls-cert", __file__, "--tls-key", __file__],
        ["--tls-key", "key.pem"],
        ["--allow-host", "name:80"],
        ["--allow-host", "https://name"],
        ["--host", "192.0.2.1", "--insecure-network"],  # of another machine
    ):
        ran = CliRunner().invoke(command, ["--takes", str(tmp_path / "takes"), "--no-browser", *refused])
        assert (ran.exit_code, ran.stderr.strip().count("\n"), ran.stdout) == (2, 0, ""), refused
        assert ran.stderr.startswith("Error: ")
    assert not (tmp_path / "takes").exists()


def test_1_a_port_that_is_taken_is_refused_with_what_to_type(tmp_path):
    with Address(port=0).listen() as other:
        port = other.getsockname()[1]
        ran = CliRunner().invoke(command, ["--takes", str(tmp_path / "takes"), "--no-browser", "--port", str(port)])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"Error: can't listen at 127.0.0.1, port {port}: Address already in use; "
        "choose another with --port (0 takes any that is free) or --host\n"
    )


@pytest.mark.parametrize(
    ("host", "names", "called"),
    [
        ("192.0.2.1", (), {"192.0.2.1"}),
        ("2001:db8::1", ("Studio.example",), {"[2001:db8::1]", "studio.example"}),
        ("0.0.0.0", ("studio.example",), {"studio.example", socket.gethostname().lower(), *HERE}),
        ("127.0.0.1", ("tunnel",), {"tunnel", *HERE}),
    ],
)
def test_1_another_address_is_called_by_its_own_names(studio, host, names, called):
    address = Address(host, insecure=True, names=names)
    assert set(address.hosts) == called
    for port in (8160, 443):
        app = build_app(studio, port, address.hosts, "https")
        with TestClient(app, raise_server_exceptions=False) as client:

            def status(host, origin, port=port, client=client):
                headers = {"host": host, **({"origin": origin} if origin else {})}
                return client.get("/api/studio", headers=headers).status_code

            for name in called:
                assert status(f"{name}:{port}", f"https://{name}:{port}") == 401
                assert status(f"{name}:{port}", f"http://{name}:{port}") == 403
                assert status(f"{name}:{port}", f"https://evil.example:{port}") == 403
                assert status(name, None) == (401 if port == 443 else 421)
            for name in {"evil.example", "192.0.2.2", "127.0.0.1"} - called:
                assert status(f"{name}:{port}", None) == 421


def test_2_nothing_is_said_without_a_secret_and_cookies_are_none(studio, client, window):
    assert len(studio.sessions.token) >= 43  # 256 bits in base64
    for path in READING:
        assert client.get(path).status_code == 401, path
        assert client.get(path, headers={"Authorization": f"Bearer {studio.sessions.token}"}).status_code == 401
    for path in DOING:
        assert client.post(path, json={}).status_code == 401, path
    answer = client.post("/api/session", json={"token": "x" * 43})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    answer = client.post("/api/session", json={"token": studio.sessions.token})
    assert answer.json()["secret"] not in (studio.sessions.token, window.secret)
    assert "set-cookie" not in answer.headers
    first = window.secret
    for _ in range(security.MAX_SESSIONS):
        studio.sessions.begin(studio.sessions.token)
    assert not studio.sessions.knows(first)  # the one that was idle longest made room


@pytest.mark.parametrize("said", [{}, {"secret": "x"}, {"token": "x"}, []])
def test_2_events_need_the_secret_first(client, said):
    with client.websocket_connect("/api/events", headers={"host": HOST}) as socket:
        socket.send_json(said)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1008


def test_4_a_window_too_many_is_told_so_and_may_come_again(studio, client, window, monkeypatch):
    monkeypatch.setattr(events, "MAX_WINDOWS", 1)
    with client.websocket_connect("/api/events", headers={"host": HOST}) as socket:
        socket.send_json({"secret": window.secret})
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1013  # a page that is told 1008 gives up
    assert "close one" in closed.value.reason


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8160", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8160.evil.example"]
)
def test_3_other_names_for_this_machine_are_refused(client, window, host):
    for path in ("/", "/api/studio"):
        assert client.get(path, headers={**window.headers, "host": host}).status_code == 421
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/events", headers={"host": host}):
        pass


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://127.0.0.1:8160", "http://127.0.0.1:8161",
                                    "http://localhost:8160", "http://127.0.0.1:8160.evil.example"])  # fmt: skip
def test_3_another_page_can_do_nothing(studio, client, window, origin):
    bad = {**window.headers, "origin": origin}
    assert client.get("/api/studio", headers=bad).status_code == 403
    assert client.post("/api/session", json={"token": studio.sessions.token}, headers=bad).status_code == 403
    assert client.post("/api/takes", json={"prompt": PROMPT, "seconds": 2.0}, headers=bad).status_code == 403
    assert client.options("/api/takes", headers=bad).status_code in (403, 405)  # a preflight is not granted
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/api/events", headers={"host": HOST, "origin": origin}),
    ):
        pass
    good = client.get("/api/studio", headers={**window.headers, "origin": f"http://{HOST}"})
    assert good.status_code == 200
    assert not [name for name in good.headers if name.startswith("access-control")]


def test_4_changes_are_json_with_limits(client, window):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {**window.headers, "content-type": kind}
        body = json.dumps({"prompt": PROMPT, "seconds": 2.0})
        assert client.post("/api/takes", content=body, headers=headers).status_code == 415
    large = json.dumps({"prompt": "x" * (security.MAX_JSON_BYTES + 1), "seconds": 2.0})
    headers = {**window.headers, "content-type": "application/json"}
    assert client.post("/api/takes", content=large, headers=headers).status_code == 413

    def in_pieces():
        for _ in range(3):
            yield b"x" * (security.MAX_JSON_BYTES // 2)

    assert client.post("/api/takes", content=in_pieces(), headers=headers).status_code == 413
    for method in ("put", "delete", "patch"):
        assert getattr(client, method)("/api/takes/x", headers=window.headers).status_code == 405
    assert client.get("/api/takes/x/commands", headers=window.headers).status_code in (404, 405)


def test_5_takes_are_ids_and_links_lead_nowhere(studio, client, window, tmp_path):
    take = window.begin(1.0)
    window.ended(take)
    inside = studio.takes.folder(take)
    outside = tmp_path / "outside"
    inside.rename(outside)
    (studio.takes.root / "link").symlink_to(outside)
    inside.symlink_to(outside)
    assert window.get(f"/api/takes/{take}").status_code == 404
    assert window.get("/api/takes").json()["takes"] == []
    for path in ("..%2f..%2fetc", "%2fetc%2fpasswd", "..", str(outside).replace("/", "%2f")):
        assert window.get(f"/api/takes/{path}").status_code == 404
        assert window.do(path, do="resume").status_code in (404, 405)
    inside.unlink()
    outside.rename(inside)
    video = inside / "video.mp4"
    video.rename(inside / "real.mp4")
    video.symlink_to("/etc/hostname")
    assert window.get(f"/api/takes/{take}/frame/0.jpg").status_code in (404, 422, 500)
    for path in ("/../pyproject.toml", "/..%2f..%2fserver.py", "/assets/..%2f..%2fserver.py", "/%2e%2e/server.py"):
        assert client.get(path).status_code in (404, 405)


def test_5_no_path_is_said(studio, client, window, monkeypatch, pipeline_folder):
    take = window.begin(1.0)
    window.ended(take)
    folder = studio.takes.folder(take)
    for path in (
        folder,
        folder / "video.mp4",
        pipeline_folder,
        studio.temporary / "x.png",
        studio.uploads.folder / "x.png",
        "/opt/some/where.json",
    ):
        for event in (schema.NoteEvent, schema.ErrorEvent):
            studio.hub.say(event(take=None, message=f"the file {path}: is damaged, or '{path}' isn't"))
            said = window.until(event.model_fields["type"].default)["message"]
            assert "/" not in said.replace(f"{folder.name}/", "")
            assert Path(path).name in said
    sentence = "cues/pins at 2/3 of https://example.org/a/b, and/or"
    assert studio.one_line(sentence) == sentence

    def refuse(*_):
        raise FieldError("cues", str(folder), f"it must be elsewhere than {folder}")

    monkeypatch.setattr(orders, "new_order", refuse)
    answer = window.post("/api/takes", prompt=PROMPT, seconds=2.0)
    assert answer.status_code == 422
    assert str(studio.root.parent) not in answer.text
    assert answer.json()["error"]["fields"][0]["value"] == folder.name


def png(width: int, height: int) -> bytes:
    """A small file that says that it is a large picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_6_uploads_are_pictures_decoded_and_encoded_again(studio, client, window):
    def upload(data):
        return client.post("/api/uploads", content=data, headers=window.headers)

    bad = (
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<html></html>",
        b"GIF89a",
        png(30000, 30000),
    )
    for data in bad:
        answer = upload(data)
        assert answer.status_code == 422, data[:20]
        assert answer.json()["error"]["fields"][0]["field"] == "picture"
    assert upload(b"x" * (security.MAX_UPLOAD_BYTES + 1)).status_code == 413
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG", comment=b"<script>")
    answer = upload(buffer.getvalue() + b"<script>")
    assert (answer.json()["width"], answer.json()["height"]) == (8, 6)
    path = studio.uploads.path(answer.json()["id"])
    assert b"script" not in path.read_bytes()
    assert path.is_relative_to(studio.takes.root)  # where a worker on another machine sees it


def test_7_what_a_browser_may_do_with_answers(client, window):
    for answer in (client.get("/"), window.get("/api/studio"), client.get("/api/studio"), client.get("/nothing")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert window.get("/api/studio").headers["cache-control"] == "no-store"
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", ["/etc", "../models", "https://evil.example/model", "longlive", "./random"])
def test_8_installed_backbones_only(studio, window, name):
    answer = window.post("/api/takes", prompt=PROMPT, seconds=2.0, backbone=name)
    assert (answer.status_code, answer.json()["error"]["fields"][0]["field"]) == (422, "backbone")
    assert list(studio.takes.root.iterdir()) == []


def test_9_one_director(studio, client, window):
    studio.room.set_pace(1)
    take = window.begin(9.0)
    window.block(0)
    with Window(client, studio.sessions.token) as other:
        for command_ in ({"do": "stop"}, {"do": "direct", "prompt": PROMPT}, {"do": "undo_to", "block": 1}):
            assert other.do(take, **command_).status_code == 409
    window.do(take, do="stop")
    window.ended(take, "interrupted")


@pytest.fixture
def policy(monkeypatch):
    """In force when the studio is started."""
    monkeypatch.setenv("LONGLIVE_RAG_LICENSE_POLICY", "commercial")


def test_9_the_policy_in_force(policy, studio, window):
    refused = window.post("/api/takes", prompt=PROMPT, seconds=2.0)
    assert refused.status_code == 422
    assert "commercial" in refused.json()["error"]["message"]
    assert list(studio.takes.root.iterdir()) == []
