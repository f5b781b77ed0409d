"""Sessions over two nodes of a Ray cluster on this machine, one of which is killed in mid-take."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from backbone.errors import FieldError
from longlive_rag.config import Cue
from longlive_rag.engines.on_ray import RayWorkers, ray_engine
from longlive_rag.engines.supervisor import Supervisor
from longlive_rag.studio.live import LOST
from longlive_rag.takes.record import read_record
from tests.engines.making import (
    OTHER,
    PATIENCE_S,
    PROMPT,
    ended,
    has_blocks,
    kill_worker_of,
    make_order,
    unlike_undisturbed,
    wait_for,
)
from tests.served import Served

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Callable[..., Any]]:
    """Starts a cluster, which has ended when the test has."""
    from ray.cluster_utils import Cluster

    made: list[Any] = []

    def start(**head: float) -> Any:
        made.append(Cluster(initialize_head=True, head_node_args=head))
        return made[-1]

    yield start
    ray.shutdown()
    for each in made:
        each.shutdown()


def test_workers_import_nothing_once_they_are_started_in_threads() -> None:
    """Two threads that import modules which need each other can deadlock, and Python ends one import with an error."""
    script = """if True:
        import sys
        from longlive_rag.engines.on_ray import RayWorkers
        workers = RayWorkers(None, 1, 0.0)
        known = set(sys.modules)
        link = workers.start(0)
        next(link.messages())
        link.kill()
        print(sorted(name for name in set(sys.modules) - known if name.startswith(("pydantic", "starlette"))))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "[]\n", done.stderr


def test_a_killed_node_and_a_killed_actor_change_no_take(cluster, pipeline_folder: Path, tmp_path: Path) -> None:
    nodes = cluster(num_cpus=1)
    lost = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    workers = RayWorkers(nodes.address, None, None)
    assert workers.count == 2
    workers.idle_s = None  # both are there before the first take begins
    engine = Supervisor(workers, tmp_path / "state")
    while any(each.state != "idle" for each in engine.workers()):
        time.sleep(0.05)
    orders = [make_order(pipeline_folder, tmp_path / f"take{seed}", seed, 40.0) for seed in (0, 1)]
    sessions = [engine.submit(order) for order in orders]
    for session in sessions:
        wait_for(engine, session, has_blocks(2))
    said = [engine.direct(session, OTHER) for session in sessions]
    nodes.remove_node(lost, allow_graceful=False)
    while sum(engine.facts(session).restarts for session in sessions) == 0:
        time.sleep(0.02)
    for session in sessions:
        if engine.facts(session).state == "running":
            kill_worker_of(engine, session)
    facts = [ended(engine, session) for session in sessions]
    engine.close()
    assert [each.state for each in facts] == ["finished", "finished"]
    assert sum(each.restarts for each in facts) == 2
    for seed, second in enumerate(said):
        assert read_record(tmp_path / f"take{seed}").request.cues == (Cue(second, OTHER),)
        assert unlike_undisturbed(pipeline_folder, tmp_path / f"take{seed}", tmp_path / f"whole{seed}") == []


def test_parked_at_the_end_and_given_back_when_idle(
    cluster, pipeline_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    nodes = cluster(num_cpus=2)
    monkeypatch.chdir(pipeline_folder.parent)  # another one than the cluster was started in
    first = ray_engine(tmp_path / "state", nodes.address, workers=1)
    session = first.submit(make_order(Path(pipeline_folder.name), tmp_path / "take", 0, 20.0))
    wait_for(first, session, has_blocks(2))
    first.close()
    assert read_record(tmp_path / "take").status == "interrupted"
    second = Supervisor(RayWorkers(nodes.address, 1, 0, idle_s=0.5), tmp_path / "state")
    assert ended(second, session).state == "finished"
    wait_for(second, session, lambda _: second.workers()[0].state == "waiting")
    wait_for(second, session, lambda _: ray.available_resources().get("CPU") == 2)
    second.close()
    assert unlike_undisturbed(Path(pipeline_folder.name), tmp_path / "take", tmp_path / "whole") == []


def actors_of(nodes: Any) -> list[psutil.Process]:
    """The workers that are there, as processes."""
    raylet = psutil.Process(nodes.head_node.all_processes["raylet"][0].process.pid)
    return [each for each in raylet.children() if "_Actor" in " ".join(each.cmdline())]


def heard(socket: Any, kind: str, **facts: object) -> dict[str, Any]:
    """The next event of a kind with these facts."""
    while True:
        event = json.loads(socket.recv(PATIENCE_S))
        inside = event["take"] if isinstance(event.get("take"), dict) else event
        if event["type"] == kind and all(inside.get(name) == value for name, value in facts.items()):
            return event


def test_the_studio_has_its_takes_made_there(cluster, tmp_path: Path) -> None:
    nodes, folder, backbone = cluster(num_cpus=1), tmp_path / "takes", Path("tiny-world")
    served = Served(folder, backbone, "--engine", "ray", "--address", nodes.address)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture, "PNG")
    with served.events() as socket:
        upload = served.client.post("/api/uploads", content=picture.getvalue()).json()["id"]
        order = {"prompt": PROMPT, "seconds": 12.0, "start_image": upload}
        take = served.client.post("/api/takes", json=order).json()["id"]
        while heard(socket, "block")["segment"]["block"] < 2:
            pass
        said = served.client.post(f"/api/takes/{take}/commands", json={"do": "direct", "prompt": OTHER}).json()
        (actor,) = actors_of(nodes)
        os.kill(actor.pid, signal.SIGKILL)
        assert heard(socket, "note")["message"] == LOST
        heard(socket, "take", status="finished")
        (made,) = (path for path in folder.iterdir() if (path / "take.json").is_file())
        assert [cue.seconds for cue in read_record(made).request.cues] == [said["takes_over_at"]]
        assert unlike_undisturbed(backbone, made, tmp_path / "whole") == []
        served.client.post("/api/takes", json={"prompt": OTHER, "seconds": 600.0})
        heard(socket, "block")
        assert served.end(signal.SIGTERM) == 0
    (other,) = (path for path in folder.iterdir() if path != made)  # and no pictures
    assert read_record(other).status == "interrupted"
    assert not [actor for actor in actors_of(nodes) if actor.is_running() and actor.status() != psutil.STATUS_ZOMBIE]


def test_places_are_counted_in_gpus(cluster) -> None:
    """Ray only counts them; no take is made here."""
    nodes = cluster(num_cpus=4, num_gpus=2)
    assert RayWorkers(nodes.address, None, None).count == 2
    assert RayWorkers(nodes.address, None, 0.25).count == 8
    assert RayWorkers(nodes.address, None, 0).count == 4
    with pytest.raises(FieldError, match="workers is 0"):
        RayWorkers(nodes.address, 0, None)


def test_no_cluster_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        ray_engine(tmp_path / "state", "127.0.0.1:1")
    assert not (tmp_path / "state").exists()
