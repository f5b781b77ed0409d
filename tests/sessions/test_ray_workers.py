"""Workers of a Ray cluster and their GPUs: Ray only counts these, so that a CPU can pretend to have some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from backbone.errors import FieldError
from longlive_rag.presets.preset import load_preset, preset_to_plan_with
from longlive_rag.sessions.ray_workers import Cluster, check_device, connect, device_of, work_on_ray


def test_a_worker_uses_the_gpu_that_it_was_given():
    cases = [
        (("cpu", [1], "1"), "cpu"),
        (("auto", [], None), "auto"),  # the cluster has no GPU
        (("cuda", [1], "1"), "cuda:0"),  # Ray lets the process see this one alone
        (("auto", [3], "3"), "cuda:0"),
        (("auto", [1], None), "cuda:1"),  # Ray was told to leave the variable alone
        (("auto", ["5"], "4,5"), "cuda:1"),  # and the node's own is set
        (("auto", ["GPU-8f"], "GPU-8f"), "cuda:0"),
    ]
    for given, device in cases:
        assert device_of(*given) == device, given


def test_what_ray_can_not_give_is_refused():
    for device in ("cuda:1", "mps"):
        with pytest.raises(FieldError, match=f"device is '{device}'.*auto, cpu or cuda"):
            check_device(device)
    for gpus in (0.0, -1.0, 2.0):
        with pytest.raises(FieldError, match=r"gpus_per_worker.*above 0 and at most 1"):
            Cluster(gpus=gpus)
    with pytest.raises(FieldError, match="workers is 0"):
        Cluster(workers=0)


def test_a_small_backbone_shares_its_gpu():
    assert Cluster().gpus_for(load_preset("tiny-world"), "float32") == 0.25
    assert Cluster().gpus_for(preset_to_plan_with("longlive"), "bfloat16") == 1
    assert Cluster(gpus=0.5).gpus_for(preset_to_plan_with("longlive"), "bfloat16") == 0.5


def test_no_address_is_a_new_cluster_unless_the_environment_names_one(monkeypatch):
    ray, addresses = pytest.importorskip("ray"), []
    monkeypatch.setattr(ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect(None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    connect(None)
    connect("ray://head")
    assert addresses == ["local", "auto", "ray://head"]


def begin_to_note(folder: Path, at_once: int, device: str):
    """Notes where each job is done, until so many workers are there at once."""

    def note(job: int) -> None:
        said = {"device": device, "sees": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}
        (folder / f"{job}.part").write_text(json.dumps(said))
        (folder / f"{job}.part").rename(folder / f"{job}.json")
        while len({json.loads(path.read_text())["pid"] for path in folder.glob("*.json")}) < at_once:
            time.sleep(0.05)

    return note


NOTE_PLACES = """
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import ray, torch
from longlive_rag.sessions.ray_workers import Cluster, work_on_ray
from tests.sessions.test_ray_workers import begin_to_note
asked, gpus, workers, folder = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
ray.init("local", num_cpus=4, num_gpus=2, log_to_driver=False)
begin = partial(begin_to_note, folder, int(sys.argv[5]))
done = sorted(work_on_ray(Cluster(workers), asked, gpus, begin, list(range(8))))
assert done == list(range(8)), done
"""


def places(folder: Path, asked: str, gpus: float, workers: int, at_once: int) -> list[dict]:
    """Where eight jobs were done, on a pretended node of two GPUs; in a process, since Ray keeps its first settings."""
    folder.mkdir()
    command = [sys.executable, "-c", NOTE_PLACES, asked, str(gpus), str(workers), str(folder), str(at_once)]
    subprocess.run(command, check=True, timeout=300)
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


@pytest.mark.slow
def test_workers_are_spread_over_the_gpus(tmp_path):
    pytest.importorskip("ray")
    whole = {(each["pid"], each["sees"], each["device"]) for each in places(tmp_path / "1", "cuda", 1, 3, at_once=2)}
    assert {(sees, device) for _, sees, device in whole} == {("0", "cuda:0"), ("1", "cuda:0")}
    assert len(whole) == 2  # the third worker waits for a GPU

    shared = {(each["pid"], each["sees"]) for each in places(tmp_path / "2", "cuda", 0.5, 4, at_once=4)}
    assert set(Counter(sees for _, sees in shared)) == {"0", "1"}

    assert {each["device"] for each in places(tmp_path / "3", "cpu", 1, 2, at_once=2)} == {"cpu"}


@pytest.mark.slow
def test_a_cluster_without_a_gpu_is_refused():
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=1, num_gpus=0, log_to_driver=False)
    try:
        with pytest.raises(FieldError, match="the Ray cluster has no GPU"):
            list(work_on_ray(Cluster(), "cuda", 1, lambda device: print, [1]))
    finally:
        ray.shutdown()
