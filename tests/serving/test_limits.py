"""Keys, scopes, quotas and rates: what is over is refused, and by which name."""

from __future__ import annotations

import datetime
import errno
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_api import KEYS, OTHER, PROMPT, SECRETS, Api

from backbone.errors import FieldError
from longlive_rag.serving import ledger, limits
from longlive_rag.serving.guard import REQUEST_ID
from longlive_rag.serving.keys import ApiKey, Keys, read_keys
from longlive_rag.serving.limits import Buckets, OverQuotaError, Usage, check_quotas

KEY = "a-secret-0123456789"


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_of_keys(tmp_path):
    path = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"another-secret-of-b").hexdigest()
    path.write_text(
        f'[[keys]]\nname = "a"\nkey = "{KEY}"\ntakes_at_once = 2\n[[keys]]\nname = "b"\nsha256 = "{digest}"\n'
    )
    keys = read_keys(path)
    assert (keys.of(KEY).name, keys.of(KEY).takes_at_once, keys.of(KEY).scopes) == ("a", 2, ("read", "make"))
    assert keys.of("another-secret-of-b").name == "b"
    assert keys.of(digest) is None
    assert keys.of("") is None


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "keys"),
        ("keys = []", "keys"),
        ('[[keys]]\nname = "a"', "keys[0].key"),
        ('[[keys]]\nname = "../a"\nkey = "0123456789abcdef"', "keys[0].name"),
        ('[[keys]]\nname = ".serve"\nkey = "0123456789abcdef"', "keys[0].name"),
        ('[[keys]]\nname = "a"\nkey = "short"', "keys[0].key"),
        ('[[keys]]\nname = "a"\nsha256 = "abc"', "keys[0].sha256"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\nscopes = ["write"]', "keys[0].scopes[0]"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\nscopes = []', "keys[0].scopes"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\ntakes = 3', "keys[0].takes"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\ntakes_at_once = 0', "keys[0].takes_at_once"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\n' * 2, "name"),
    ],
)
def test_a_file_of_keys_that_can_not_be(tmp_path, text, field):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(FieldError) as refused:
        read_keys(path)
    assert refused.value.field == field
    assert str(path) in str(refused.value)
    assert "0123456789abcdef" not in str(refused.value)


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 600))
def test_a_bucket_lets_no_more_through_than_a_burst_and_its_rate(pauses, a_minute):
    now = 0.0
    buckets = Buckets(lambda: now)
    passed = 0
    for pause in pauses:
        now += pause
        wait = buckets.take("a", a_minute)
        passed += not wait
        if wait:  # and after that long there is one
            now += wait * (1 + 1e-9) + 1e-9
            assert not buckets.take("a", a_minute)
            passed += 1
    assert passed <= max(1, a_minute / 3) + now * a_minute / 60 + 1e-6


def test_buckets_are_of_one_name_each_and_not_without_end():
    buckets = Buckets(lambda: 0.0)
    assert [bool(buckets.take("a", 3)) for _ in range(2)] == [False, True]
    assert not buckets.take("b", 3)
    for number in range(5000):
        buckets.take(str(number), 3)
    assert len(buckets._level) == 4096


def test_seconds_of_a_day_are_kept_over_a_restart_and_begin_again_the_next(tmp_path):
    day = datetime.date(2026, 11, 26)
    key = ApiKey(name="a", key=KEY, seconds_a_day=10)
    Usage(tmp_path / "usage.json", lambda: day).charge(key, 8)
    usage = Usage(tmp_path / "usage.json", lambda: day)
    with pytest.raises(OverQuotaError) as over:
        usage.charge(key, 2.5)
    assert over.value.quota == "seconds_a_day"
    assert over.value.retry_s > 0
    assert "2 s left" in str(over.value)
    usage.charge(key, 2)
    usage.give_back("a", 4)
    assert usage.seconds("a") == 6
    later = Usage(tmp_path / "usage.json", lambda: day + datetime.timedelta(1))
    assert later.seconds("a") == 0
    later.charge(key, 10)
    assert later.seconds("a") == 10


def test_seconds_that_a_full_disk_refuses_are_not_counted(tmp_path, monkeypatch):
    key, usage = ApiKey(name="a", key=KEY, seconds_a_day=10), Usage(tmp_path / "usage.json")
    usage.charge(key, 8)
    with monkeypatch.context() as full:
        full.setattr(limits, "write_document", no_space)
        with pytest.raises(OSError, match="No space"):
            usage.charge(key, 2)
        assert usage.seconds("a") == 8
        usage.give_back("a", 5)
        assert usage.seconds("a") == 3
    usage.charge(key, 1)
    assert Usage(tmp_path / "usage.json").seconds("a") == 4


def test_takes_and_bytes():
    key = ApiKey(name="a", key=KEY, takes_at_once=2, disk_gib=1)
    check_quotas(key, 1, 2**29, 2**29)
    for quota, facts in (("takes_at_once", (2, 0, 0)), ("disk_gib", (0, 2**29, 2**29 + 1))):
        with pytest.raises(OverQuotaError) as over:
            check_quotas(key, *facts)
        assert over.value.quota == quota
    check_quotas(ApiKey(name="b", key=KEY), 10**6, 2**60, 2**60)


def test_quotas_by_the_api(stuck: Api):
    for seconds, status, code in ((4, 429, "quota_seconds_a_day"), (2, 200, None), (1, 429, "quota_takes_at_once")):
        answer = stuck.post("/v1/videos", "small", json={"prompt": PROMPT, "seconds": seconds})
        assert answer.status_code == status
        if code:
            assert answer.json()["error"]["code"] == code
            assert int(answer.headers["retry-after"]) >= 1
    assert stuck.videos.usage.seconds("small") == 2
    assert stuck.make("bob")["status"] == "queued"  # nobody else is meant


def test_what_a_full_disk_refuses_leaves_nothing_behind(stuck: Api, monkeypatch):
    made, longer = stuck.make(seconds=2)["id"], {"seconds": 1}
    stuck.post(f"/v1/videos/{made}/cancel")
    stuck.until_ended(made)
    finished = stuck.videos.ledger.entries[made].model_copy(update={"result": "finished"})
    stuck.videos.ledger.put(finished)

    def full(*_args, **_kwargs):  # once the video is on the ledger
        monkeypatch.setattr(ledger, "write_document", no_space)
        monkeypatch.setattr(limits, "write_document", no_space)
        no_space()

    for path, order in (("/v1/videos", {"prompt": OTHER, "seconds": 3}), (f"/v1/videos/{made}/extend", longer)):
        monkeypatch.setattr(stuck.engine, "submit", full)
        monkeypatch.setattr(stuck.videos.making, "_order", lambda entry: None)
        answer = stuck.post(path, json=order)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_space")
        assert [each["id"] for each in stuck.get("/v1/videos").json()["data"]] == [made]
        assert stuck.get(f"/v1/videos/{made}").json()["status"] == "completed"
        assert stuck.videos.taken(KEYS[0])[0] == 0
        assert stuck.videos.usage.seconds("alice") == 0
        monkeypatch.undo()


def test_an_order_that_is_looked_at_for_long_holds_up_no_other(stuck: Api, monkeypatch):
    looks, go_on, submit = threading.Event(), threading.Event(), stuck.engine.submit

    def slow(order, owner):
        if order.request.prompt == OTHER:
            looks.set()
            assert go_on.wait(60)
        return submit(order, owner)

    monkeypatch.setattr(stuck.engine, "submit", slow)
    with ThreadPoolExecutor() as pool:
        making = pool.submit(stuck.make, prompt=OTHER)
        assert looks.wait(60)
        other = stuck.make("bob")["id"]
        assert stuck.post(f"/v1/videos/{other}/cancel", "bob").status_code == 200
        assert stuck.until_ended(other)["error"]["code"] == "cancelled"
        (video,) = (each["id"] for each in stuck.get("/v1/videos").json()["data"])
        assert stuck.ask("DELETE", f"/v1/videos/{video}").json()["error"]["code"] == "not_ready"
        cancelling = pool.submit(stuck.post, f"/v1/videos/{video}/cancel")
        assert not wait([making, cancelling], 0.2).done
        go_on.set()
        assert (making.result(60)["id"], cancelling.result(60).status_code) == (video, 200)
    assert stuck.until_ended(video)["error"]["code"] == "cancelled"


def test_an_order_that_was_cancelled_takes_its_own_bytes(stuck: Api):
    pinned = {"memory_pin": [[number, number + 1] for number in range(3000)]}
    video = stuck.make("bob", seconds=3600, settings=pinned)["id"]
    stuck.post(f"/v1/videos/{video}/cancel", "bob")
    stuck.until_ended(video)
    assert stuck.videos.taken(ApiKey(name="bob"))[1] > 3000 * len("[0,1],")


def test_seconds_go_back_to_the_key_that_they_were_taken_from(stuck: Api):
    video = stuck.make(seconds=3)["id"]
    stuck.post(f"/v1/videos/{video}/cancel")
    stuck.until_ended(video)
    stuck.make(seconds=2)
    for _ in range(2):
        assert stuck.post(f"/v1/videos/{video}/resume", "admin").status_code == 200
        assert [stuck.videos.usage.seconds(name) for name in ("alice", "admin")] == [2, 3]
        stuck.post(f"/v1/videos/{video}/cancel")
        stuck.until_ended(video)
        assert [stuck.videos.usage.seconds(name) for name in ("alice", "admin")] == [2, 0]


def test_rates_by_the_api(stuck: Api):
    statuses = [stuck.get("/v1/videos", "small").status_code for _ in range(12)]
    assert (statuses[:10], statuses[-1]) == ([200] * 10, 429)
    assert stuck.get("/v1/videos", "bob").status_code == 200
    strangers = [stuck._client.get("/v1/videos", headers={"Authorization": f"Bearer x{n}"}) for n in range(30)]
    assert [strangers[0].status_code, strangers[-1].status_code] == [401, 429]
    assert stuck.get("/v1/videos", "bob").status_code == 200


@pytest.mark.parametrize("header", [None, "", "Basic abc", f"Bearer {SECRETS['alice']}x", SECRETS["alice"], "Bearer "])
def test_nothing_without_a_key(stuck: Api, header):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("GET", "/v1/videos"), ("POST", "/v1/videos"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nothing"),
    ):  # fmt: skip
        answer = stuck._client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert stuck._client.get(path, headers=headers).status_code == 200, path


def test_scopes(stuck: Api):
    video = stuck.make()["id"]
    for method, path in (("POST", "/v1/videos"), ("DELETE", f"/v1/videos/{video}"), ("GET", "/metrics")):
        answer = stuck.ask(method, path, "viewer")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope"), path
    assert stuck.get("/v1/videos", "viewer").status_code == 200
    assert stuck.get("/metrics", "alice").status_code == 403


def test_every_answer_has_an_id_of_its_request(stuck: Api):
    assert stuck.get("/v1/videos", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for theirs in ("a b", "x" * 65, "<script>"):
        found = stuck.get("/v1/videos", headers={"X-Request-Id": theirs}).headers["x-request-id"]
        assert REQUEST_ID.fullmatch(found)
        assert found != theirs
    assert stuck._client.get("/v1/videos").headers["x-request-id"]


def test_two_keys_are_not_one():
    for keys in ([], [ApiKey(name="a", key=KEY), ApiKey(name="b", key=KEY)]):
        with pytest.raises(FieldError):
            Keys(keys)
