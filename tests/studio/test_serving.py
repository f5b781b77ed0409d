"""The real server, started by the command, killed and started again; and the schema that both sides share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import gethostname

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from windows import PROMPT

from longlive_rag.cli.studio import studio as command
from longlive_rag.studio.schema import json_schema
from longlive_rag.takes.record import read_record
from retrieval.store import LatentStore
from tests.served import Served


@pytest.mark.slow
def test_what_was_shown_is_there_after_a_kill_and_goes_on_bit_for_bit(tmp_path, pipeline_folder, pipe):
    takes = tmp_path / "takes"
    served = Served(takes, pipeline_folder)
    with served.events() as socket:
        answer = served.client.post("/api/takes", json={"prompt": PROMPT, "seconds": 9.0})
        take = answer.json()["id"]
        served.client.post(f"/api/takes/{take}/commands", json={"do": "direct", "prompt": "a blue square", "at": 3.0})
        shown = 0
        while shown < 7:
            event = json.loads(socket.recv(60))
            shown = event["segment"]["block"] + 1 if event["type"] == "block" else shown
        served.end(signal.SIGKILL)
    folder = next(takes.iterdir())
    assert LatentStore(folder / "latents").blocks >= shown
    served = Served(takes, pipeline_folder)
    facts = served.client.get("/api/takes").json()["takes"]
    assert [each["status"] for each in facts] == ["interrupted"]
    take = facts[0]["id"]
    for segment in served.client.get(f"/api/takes/{take}").json()["segments"]:
        assert served.client.get(segment["url"]).status_code == 200
    assert served.client.post(f"/api/takes/{take}/commands", json={"do": "resume"}).json() == {"id": take}
    for _ in range(600):
        if served.client.get(f"/api/takes/{take}").json()["status"] == "finished":
            break
        time.sleep(0.1)
    assert served.end(signal.SIGINT) == 0
    request = read_record(folder).request
    assert [cue.prompt for cue in request.cues] == ["a blue square"]
    again = np.concatenate([block.latents[0].numpy() for block in pipe.stream(request)])
    store = LatentStore(folder / "latents")
    assert np.array_equal(store.latents(range(store.frames)), again)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_finished(tmp_path, pipeline_folder):
    served = Served(tmp_path / "takes", pipeline_folder)
    with served.events() as socket:
        served.client.post("/api/takes", json={"prompt": PROMPT, "seconds": 600.0})
        while json.loads(socket.recv(60))["type"] != "block":
            pass
        assert served.end(signal.SIGINT) == 0
    record = read_record(next((tmp_path / "takes").iterdir()))
    assert record.status == "interrupted"
    assert record.request.seconds == 600.0
    assert record.video.sha256


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """One that vouches for itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=studio.example"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:studio.example", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return cert, key


def test_on_a_network_it_speaks_tls(tmp_path, pipeline_folder, certificate):
    cert, key = certificate
    options = ("--host", "0.0.0.0", "--tls-cert", cert, "--tls-key", key, "--allow-host", "studio.example")
    served = Served(tmp_path / "takes", pipeline_folder, *options, trusted=cert)
    assert (served.scheme, served.name) == ("https", gethostname().lower())
    assert served.client.get("/api/studio").status_code == 200
    for host, status in (("studio.example", 200), (served.name, 200), ("evil.example", 421)):
        assert served.client.get("/api/studio", headers={"host": f"{host}:{served.port}"}).status_code == status
    for scheme, status in (("https", 200), ("http", 403)):
        origin = f"{scheme}://127.0.0.1:{served.port}"
        assert served.client.get("/api/studio", headers={"origin": origin}).status_code == status
    with served.events() as socket:
        assert json.loads(socket.recv(60))["type"] == "hello"
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{served.url}/api/studio")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{served.url.replace('https', 'http')}/api/studio")
    assert served.end(signal.SIGINT) == 0
    assert served.said == ""


def test_a_network_without_tls_is_warned_of(tmp_path, pipeline_folder):
    served = Served(tmp_path / "takes", pipeline_folder, "--host", "0.0.0.0", "--insecure-network")
    assert served.scheme == "http"
    assert httpx.get(f"{served.url}/api/studio").status_code == 401
    assert served.client.get("/api/studio").status_code == 200
    assert served.end(signal.SIGINT) == 0
    assert served.said.startswith("warning: ")
    assert served.said.count("\n") == 1


def test_without_the_extra_it_is_one_sentence(tmp_path):
    code = "import sys; sys.modules['fastapi'] = None; from longlive_rag.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "studio", "--takes", str(tmp_path / "takes")], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert ran.stderr.strip().count("\n") == 0
    assert "pip install 'longlive-rag[studio]'" in ran.stderr
    assert not (tmp_path / "takes").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "somewhere:1"], "--address is for a Ray cluster"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker is for a Ray cluster"),
        (["--engine", "ray", "--device", "cpu"], "--device is 'cpu'"),
        (["--engine", "ray", "--gpus-per-worker", "2"], "--gpus-per-worker is 2"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["--device", "tpu"], "--device is 'tpu'"),
    ],
)
def test_where_takes_can_not_be_made(tmp_path, options, words):
    if "ray" in options:
        pytest.importorskip("ray")
    given = ["--takes", str(tmp_path / "takes"), "--port", "0", "--no-browser", *options]
    ran = CliRunner().invoke(command, given)
    assert ran.exit_code == 2, ran.output
    (line,) = ran.stderr.strip().splitlines()
    assert words in line
    assert list((tmp_path / "takes").iterdir()) == []


WITHOUT_TORCH = """
import sys
from pathlib import Path
from longlive_rag.engines.local import local_engine
from longlive_rag.studio.studio import Studio

if __name__ == "__main__":
    studio = Studio(Path(sys.argv[1]), lambda state: local_engine(state, 1, "cpu"))
    print(*studio.words("tiny-world", "a red xyz"), "torch" in sys.modules)
    studio.close()
"""


def test_the_server_looks_at_words_without_torch(tmp_path):
    script = tmp_path / "server.py"  # a file: its worker is spawned
    script.write_text(WITHOUT_TORCH)
    ran = subprocess.run([sys.executable, str(script), str(tmp_path / "takes")], capture_output=True, text=True)
    assert ran.stdout.split() == ["xyz", "False"], ran.stderr


def test_the_schema_has_every_message():
    names = json_schema()["$defs"]
    assert {"TakeDetail", "BlockEvent", "Direct", "NewTakeMessage", "ErrorAnswer", "Playhead"} <= set(names)
