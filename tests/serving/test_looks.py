"""Logs and metrics: what happened is told, and nobody's words or secrets are."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from video_api import PROMPT, SECRETS, Api, until

from longlive_rag.engines.engine import SessionFacts
from longlive_rag.serving.logs import LOGGER, JsonFormatter
from longlive_rag.serving.metrics import likeness_to_start


def metrics_of(api: Api) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels."""
    text = api.get("/metrics", "admin").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name.removeprefix("longlive_rag_"), *sample.labels.values()): sample.value for sample in samples}


def test_metrics_tell_what_happened(api: Api):
    before = metrics_of(api)
    video = api.made(seconds=3)["id"]
    found = metrics_of(api)

    def grew(*name: str) -> float:
        return found[name] - before.get(name, 0.0)

    assert grew("blocks_total") == 5  # 48 frames: 9, then 12 a block
    assert grew("videos_ended_total", "finished") == 1
    assert grew("requests_total", "POST", "/v1/videos", "200") == 1
    assert grew("request_seconds_count", "/v1/videos/{video}") >= 1
    assert grew("stage_seconds_total", "denoise") > 0
    assert not [name for name in found if video in name]  # it is over
    assert found["sessions", "running"] == found["sessions", "queued"] == 0
    assert found["memory_bytes", "server"] > 10**7
    assert found["quota_used", "alice", "seconds_a_day"] == 3
    assert found["quota_limit", "small", "takes_at_once"] == 1
    assert ("quota_limit", "alice", "takes_at_once") not in found
    assert found["quota_used", "alice", "disk_bytes"] == api.videos.ledger.entries[video].bytes > 0


def test_a_running_take_has_a_likeness_to_its_start(api: Api):
    video = api.make(seconds=300)["id"]
    found = until(lambda: metrics_of(api), lambda found: ("likeness_to_start", video) in found)
    assert -1 <= found["likeness_to_start", video] <= 1
    assert found["sessions", "running"] == 1
    assert until(lambda: metrics_of(api)["blocks_per_second",], bool) > 0
    api.post(f"/v1/videos/{video}/cancel")
    api.until_ended(video)
    assert likeness_to_start(api.folder(video)) == pytest.approx(_likeness(api.folder(video)), abs=1e-6)


def _likeness(folder):
    from retrieval.store import LatentStore

    store = LatentStore(folder / "latents")
    one, other = (store.record(block).embeddings.mean(0) for block in (0, store.blocks - 1))
    return one @ other / np.sqrt((one @ one) * (other @ other))


def test_routes_that_are_none_are_one(stuck: Api):
    for number in range(20):
        stuck.get(f"/v1/{number}")
        stuck.get(f"/v1/videos/{number}")
    routes = {name[2] for name in metrics_of(stuck) if name[0] == "requests_total"}
    assert routes <= {"other", "/v1/videos/{video}", "/metrics"}


def test_methods_that_are_none_are_one(stuck: Api):
    for number in range(20):
        stuck._client.request(f"METHOD{number}", "/v1/videos")
    stuck.get("/v1/videos")
    methods = {name[1] for name in metrics_of(stuck) if name[0] == "requests_total"}
    assert methods == {"GET", "other"}


def test_blocks_are_counted_once_where_a_session_goes_on_elsewhere(stuck: Api):
    def facts(blocks: int, worker: str, denoise: float, state: str = "running") -> SessionFacts:
        return SessionFacts("s", stuck.takes, state, blocks=blocks, worker=worker, stage_seconds={"denoise": denoise})

    for each in (
        facts(0, "a", 0), facts(3, "a", 3.0), facts(3, "b", 3.0), facts(4, "b", 4.5), facts(6, "b", 6.0, "finished"),
    ):  # fmt: skip
        stuck.videos.making.on_facts(each)
    found = metrics_of(stuck)
    assert (found["blocks_total",], found["stage_seconds_total", "denoise"]) == (6, 6.0)


@pytest.mark.parametrize("prompts", [False, True])
def test_logs(tmp_path, pipeline_folder, prompts, caplog):
    logger = logging.getLogger(LOGGER)
    logger.propagate = True
    with caplog.at_level(logging.INFO, LOGGER), Api(tmp_path / "takes", pipeline_folder, 0, log_prompts=prompts) as api:
        video = api.make(seed=1)["id"]
        api.post(f"/v1/videos/{video}/cancel", headers={"X-Request-Id": "mine"})
        api.post("/v1/videos", json={"prompt": PROMPT, "size": "1x1"})
        api.get("/healthz")
        api.until_ended(video)
        until(lambda: [record for record in caplog.records if record.getMessage() == "video stopped"], bool)
    text = "\n".join(JsonFormatter().format(record) for record in caplog.records if record.name == LOGGER)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines if "video" in line] == ["video queued", "video stopped"]
    cancel = next(line for line in lines if line.get("request_id") == "mine")
    assert (cancel["key"], cancel["method"], cancel["status"]) == ("alice", "POST", 200)
    assert next(line for line in lines if line.get("status") == 400)["code"] == "invalid_value"
    assert "/healthz" not in text
    assert (PROMPT in text) == prompts
    assert not any(secret in text for secret in SECRETS.values())
