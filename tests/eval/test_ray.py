"""A comparison over the nodes of a Ray cluster on this machine, one of which is killed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.compare import Engine, compare
from eval.runs import MEASURES, NOISE, take_folder
from longlive_rag.documents import read_json
from tests.eval.arms import plan_of

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    ray.shutdown()
    made.shutdown()


def figures(take: Path) -> dict[str, Any]:
    """Everything that was measured of a take, and its noise; but for where it lies."""
    measures = read_json(take / MEASURES)
    del measures["video"]["name"], measures["checksum"]
    return {**measures, "noise": read_json(take / NOISE)}


def test_a_killed_node_changes_no_figure(cluster, tmp_path: Path) -> None:
    plan = plan_of(Path("tiny-world"), prompts=2, seeds=1, horizons_s=(10.0,))
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    done = []

    def progress(cell, finished: int, _: int) -> None:
        done.append(cell)
        if finished == 2:
            cluster.remove_node(lost, allow_graceful=False)

    spread = compare(plan, tmp_path / "ray", Engine("ray", 2, 1, cluster.address), progress)
    assert {cell.name for cell in done[1:]} == {cell.name for cell in plan.cells}
    assert len(done) == 1 + len(plan.cells)
    here = compare(plan, tmp_path / "local", Engine(threads=1))
    for cell in plan.cells:
        one, other = (figures(take_folder(tmp_path / run, cell)) for run in ("ray", "local"))
        assert one == other, cell.name
    assert spread.comparisons == here.comparisons


def test_workers_have_their_share_of_the_gpus(tmp_path: Path) -> None:
    """Ray only counts them; a take made here uses none."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2})
    free = []

    def progress(cell, *_: int) -> None:
        if cell is not None:
            free.append(ray.available_resources().get("GPU", 0))

    plan = plan_of(Path("tiny-world"), prompts=1, seeds=1, horizons_s=(10.0,), device="auto")
    try:
        compare(plan, tmp_path / "run", Engine("ray", 2, 1, made.address), progress)
    finally:
        ray.shutdown()
        made.shutdown()
    assert free == [1.75, 1.75]  # the second worker waits for a CPU; a small backbone takes a quarter


def test_no_cluster_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    plan = plan_of(Path("tiny-world"), prompts=1, seeds=1, horizons_s=(10.0,))
    with pytest.raises(OSError, match=r"no Ray cluster at 127.0.0.1:1"):
        compare(plan, tmp_path / "run", Engine("ray", 1, 1, "127.0.0.1:1"))
