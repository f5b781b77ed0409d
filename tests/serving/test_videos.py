"""What can be done with a video, and what is refused, field by field."""

from __future__ import annotations

import base64
import errno
import io
import json

import pytest
from PIL import Image
from video_api import OTHER, PROMPT, Api, is_ended, until

from longlive_rag.sessions.resuming import open_take
from longlive_rag.takes.record import read_record

PNG_URL = "data:image/png;base64,"


def error_of(answer) -> tuple[int, str | None, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return answer.status_code, error["param"], error["code"]


@pytest.mark.parametrize(
    ("order", "param", "code"),
    [
        ({}, "prompt", "missing_field"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
        ({"prompt": "\ud800"}, None, "invalid_value"),
        ({"prompt": PROMPT, "negative_prompt": "blur"}, "negative_prompt", "unknown_field"),
        ({"prompt": PROMPT, "model": "sora-2"}, "model", "invalid_value"),
        ({"prompt": PROMPT, "seconds": 0}, "seconds", "invalid_value"),
        ({"prompt": PROMPT, "seconds": 4000}, "seconds", "invalid_value"),
        ({"prompt": PROMPT, "seconds": "long"}, "seconds", "invalid_value"),
        ({"prompt": PROMPT, "size": "96"}, "size", "invalid_value"),
        ({"prompt": PROMPT, "size": "97x64"}, "size", "invalid_value"),
        ({"prompt": PROMPT, "size": "3200x3200"}, "size", "invalid_value"),
        ({"prompt": PROMPT, "seed": -1}, "seed", "invalid_value"),
        ({"prompt": PROMPT, "cues": [{"seconds": 1}]}, "cues[0].prompt", "missing_field"),
        ({"prompt": PROMPT, "cues": [{"seconds": 9, "prompt": OTHER}]}, None, "invalid_value"),
        ({"prompt": PROMPT, "path": "x"}, "path", "unknown_field"),
        ({"prompt": PROMPT, "body": {"query": 1}}, "body", "unknown_field"),
        ({"prompt": PROMPT, "settings": {"memory_polcy": "similar"}}, "settings.memory_polcy", "invalid_value"),
        ({"prompt": PROMPT, "settings": {"memory_new_view": "x"}}, "settings.memory_new_view", "invalid_value"),
        ({"prompt": PROMPT, "settings": {"output_fps": 240}}, "settings.output_fps", "invalid_value"),
        (
            {"prompt": PROMPT, "settings": {"context_window_frames": 99}},
            "settings.context_window_frames",
            "invalid_value",
        ),
        (
            {"prompt": PROMPT, "settings": {"sampler_denoising_steps": list(range(1000, 0, -1))}},
            "settings.sampler_denoising_steps",
            "invalid_value",
        ),
        ({"prompt": PROMPT, "settings": {"memory_policy": "best"}}, "settings.memory_policy", "invalid_value"),
        ({"prompt": PROMPT, "settings": {"output_fps": 0}}, "settings.output_fps", "invalid_value"),
        ({"prompt": PROMPT, "settings": {"memory_gpu_gib": 80}}, "settings.memory_gpu_gib", "invalid_value"),
        ({"prompt": PROMPT, "settings": {"memory_remember": ["/etc"]}}, "settings.memory_remember", "invalid_value"),
        ({"prompt": PROMPT, "remember": [{"video": "../x", "from": 0, "to": 1}]}, "remember", "invalid_value"),
        ({"prompt": PROMPT, "input_reference": {"image_url": "http://x/y.png"}}, "input_reference", "invalid_value"),
        ({"prompt": PROMPT, "input_reference": {"image_url": PNG_URL + "%"}}, "input_reference", "invalid_value"),
        ({"prompt": PROMPT, "license_policy": "any"}, "license_policy", "unknown_field"),
        ([], None, "invalid_value"),
    ],
)  # fmt: skip
def test_what_can_not_be_made_is_refused_by_its_field(stuck: Api, order, param, code):
    answer = stuck.post("/v1/videos", content=json.dumps(order), headers={"content-type": "application/json"})
    assert error_of(answer) == (400, param, code)
    assert stuck.get("/v1/videos").json()["data"] == []
    assert stuck.videos.usage.seconds("alice") == 0
    assert list((stuck.takes / ".serve" / "pictures").iterdir()) == []


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"seconds": -1}, "seconds is -1; it should be"),
        ({"seconds": "long"}, "seconds is 'long'; it should be a valid number"),
        ({"size": "big"}, "size is 'big'; it should be WIDTHxHEIGHT, such as 384x384"),
        ({"seed": "x" * 100}, "seed: it should be"),
        ({"path": 1}, "unknown field path"),
        ({"settings": {"memory_anchor": [1]}}, "settings.memory_anchor is [1]; [1] is missing"),
        ({"settings": {"output_fps": 99}}, "settings.output_fps is 99; this server makes at most 64"),
    ],
)
def test_a_refusal_repeats_the_value_and_says_what_would_be_right(stuck: Api, order, message):
    answer = stuck.post("/v1/videos", json={"prompt": PROMPT} | order)
    assert answer.json()["error"]["message"].startswith(message)


def test_a_picture_that_does_not_fit_on_the_disk_leaves_nothing(stuck: Api, monkeypatch):
    def full(picture, path, *_args, **_kwargs):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    monkeypatch.setattr(Image.Image, "save", full)
    url = PNG_URL + base64.b64encode(data.getvalue()).decode()
    answer = stuck.post("/v1/videos", json={"prompt": PROMPT, "input_reference": {"image_url": url}})
    assert error_of(answer) == (503, None, "no_space")
    assert list((stuck.takes / ".serve" / "pictures").iterdir()) == []


def test_sizes_and_lengths(api: Api):
    video = api.made(size="64x64", seconds="1.03", seed=2**63 - 1)
    assert (video["size"], video["seconds_made"], video["seed"]) == ("64x64", 1.0, 2**63 - 1)  # 16 frames
    record = read_record(api.folder(video["id"]))
    assert (record.video.width, record.video.height, record.video.frames) == (64, 64, 16)


def test_only_its_own_key_sees_a_video(api: Api):
    video = api.made()["id"]
    for method, path in (
        ("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/resume"),
    ):  # fmt: skip
        assert error_of(api.ask(method, f"/v1/videos/{video}{path}", "bob"))[::2] == (404, "video_not_found")
    for path, order in (("/remix", {"prompt": OTHER}), ("/extend", {"seconds": 1})):
        assert error_of(api.post(f"/v1/videos/{video}{path}", "bob", json=order))[::2] == (404, "video_not_found")
    remembering = {"prompt": PROMPT, "remember": [{"video": video, "from": 0, "to": 1}]}
    assert error_of(api.post("/v1/videos", "bob", json=remembering))[:2] == (400, "remember")
    assert error_of(api.get("/v1/videos", "bob", params={"after": video}))[::2] == (404, "video_not_found")
    assert video not in [each["id"] for each in api.get("/v1/videos", "bob").json()["data"]]
    assert video in [each["id"] for each in api.get("/v1/videos", "admin").json()["data"]]
    assert api.get(f"/v1/videos/{video}", "admin").json()["id"] == video
    assert error_of(api.ask("DELETE", f"/v1/videos/{video}", "viewer"))[::2] == (403, "insufficient_scope")
    assert api.get(f"/v1/videos/{video}/content").status_code == 200


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "alice", ".serve", "video_", "%00", "x" * 5000]
)
def test_an_id_is_no_path(stuck: Api, name):
    for path in (f"/v1/videos/{name}", f"/v1/videos/{name}/content"):
        assert stuck.get(path).status_code == 404
    assert stuck.ask("DELETE", f"/v1/videos/{name}").status_code == 404


def test_content_by_ranges_and_its_pictures(api: Api):
    video = api.made()["id"]
    whole = api.get(f"/v1/videos/{video}/content")
    assert whole.headers["content-type"] == "video/mp4"
    part = api.get(f"/v1/videos/{video}/content", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert api.get(f"/v1/videos/{video}/content", headers={"Range": "bytes=99999999-"}).status_code == 416
    for variant, kind in (("thumbnail", "JPEG"), ("spritesheet", "PNG")):
        answer = api.get(f"/v1/videos/{video}/content", params={"variant": variant})
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.format == kind
    assert error_of(api.get(f"/v1/videos/{video}/content", params={"variant": "x"})) == (
        400,
        "variant",
        "invalid_value",
    )


def test_a_remix_from_a_second_on_shares_what_comes_before(api: Api):
    video = api.made(seconds=3, seed=4)["id"]
    answer = api.post(f"/v1/videos/{video}/remix", json={"prompt": OTHER, "at": 1.0, "seconds": 2.5})
    remix = api.until_ended(answer.json()["id"])
    assert (remix["status"], remix["remixed_from_video_id"], remix["seconds"]) == ("completed", video, "2.5")
    record = read_record(api.folder(remix["id"]))
    assert record.branched_from is not None
    assert [cue.prompt for cue in record.cues] == [OTHER]
    late = api.post(f"/v1/videos/{video}/remix", json={"prompt": OTHER, "at": 2.9, "seconds": 2})
    assert error_of(late) == (400, "at", "invalid_value")


def test_extended_in_place(api: Api):
    video = api.made()["id"]
    before = api.get(f"/v1/videos/{video}/content").content
    longer = api.post(f"/v1/videos/{video}/extend", json={"seconds": 1, "prompt": OTHER})
    assert longer.json()["id"] == video
    assert longer.json()["status"] in ("queued", "in_progress")
    ended = api.until_ended(video)
    assert (ended["status"], ended["seconds"], ended["seconds_made"]) == ("completed", "2.5", 2.5)
    assert api.get(f"/v1/videos/{video}/content").content != before
    assert error_of(api.post(f"/v1/videos/{video}/extend", json={"seconds": 4000})) == (400, "seconds", "invalid_value")
    assert api.get(f"/v1/videos/{video}").json()["status"] == "completed"


def test_cancelled_and_resumed(api: Api):
    used = api.videos.usage.seconds("alice")
    video = api.make(seconds=300)["id"]
    until(lambda: api.get(f"/v1/videos/{video}").json(), lambda found: found["seconds_made"] > 0)
    for path in ("/content", ""):
        answer = api.ask("GET" if path else "DELETE", f"/v1/videos/{video}{path}")
        assert error_of(answer)[::2] == (409, "not_ready")
    api.post(f"/v1/videos/{video}/cancel")
    ended = api.until_ended(video)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "cancelled")
    assert 0 < ended["seconds_made"] < 300
    assert api.videos.usage.seconds("alice") == pytest.approx(
        used + ended["seconds_made"], abs=0.01
    )  # the rest is given back
    assert api.get(f"/v1/videos/{video}/content").status_code == 200  # what was made is there
    again = api.post(f"/v1/videos/{video}/resume").json()
    assert (again["status"], again["error"], again["id"]) == ("queued", None, video) or again["status"] == "in_progress"
    assert api.videos.usage.seconds("alice") == pytest.approx(used + 300, abs=0.01)
    api.post(f"/v1/videos/{video}/cancel")
    assert api.until_ended(video)["seconds_made"] >= ended["seconds_made"]
    assert open_take(api.folder(video)).blocks > 0


def test_remembered_frames_of_another_video(api: Api):
    video = api.made(seconds=2)["id"]
    other = api.made(remember=[{"video": video, "from": 0, "to": 1}])
    (spec,) = read_record(api.folder(other["id"])).request.memory.remember
    assert video in spec


def test_a_picture_inside_json(api: Api):
    file = io.BytesIO()
    Image.new("RGB", (90, 64), (10, 200, 10)).save(file, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    video = api.made(input_reference={"image_url": url})
    assert read_record(api.folder(video["id"])).start_image is not None
    assert list((api.takes / ".serve" / "pictures").iterdir()) == []  # the take has it


def test_pages_of_a_list(stuck: Api):
    ids = [stuck.make()["id"] for _ in range(3)]
    first = stuck.get("/v1/videos", params={"limit": 2}).json()
    assert [each["id"] for each in first["data"]] == [ids[2], ids[1]]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[2], ids[1])
    rest = stuck.get("/v1/videos", params={"limit": 2, "after": ids[1]}).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert [each["place"] for each in rest["data"] + first["data"]] == [0, 2, 1]
    assert error_of(stuck.get("/v1/videos", params={"limit": 1000})) == (400, "limit", "invalid_value")
    full = stuck.post("/v1/videos", json={"prompt": PROMPT})
    assert error_of(full) == (503, None, "queue_full")
    assert full.headers["retry-after"]
    assert len(stuck.videos.ledger.entries) == 3
    assert is_ended(stuck.post(f"/v1/videos/{ids[0]}/cancel").json()) or is_ended(stuck.until_ended(ids[0]))


def picture_file() -> tuple[str, bytes, str]:
    file = io.BytesIO()
    Image.new("RGB", (48, 32)).save(file, "PNG")
    return "start.png", file.getvalue(), "image/png"


def test_a_form_that_is_not_understood(stuck: Api):
    for fields, param in (
        ({"prompt": PROMPT, "cues[][seconds]": ["1", "2"], "cues[][prompt]": OTHER}, "cues"),
        ({"prompt": PROMPT, "cues": "[{"}, "cues"),
        ({"prompt": [PROMPT, OTHER]}, "prompt"),
        ({"prompt": PROMPT, "a[b][c]": "x"}, "a[b][c]"),
        ({"prompt": PROMPT, "settings": "1", "settings[x]": "1"}, "settings"),
    ):
        answer = stuck.post("/v1/videos", data=fields, files={"input_reference": picture_file()})
        assert error_of(answer)[:2] == (400, param), fields
    kind = stuck.post("/v1/videos", content="prompt", headers={"content-type": "text/plain"})
    assert error_of(kind)[::2] == (415, "unsupported_media_type")


def test_what_it_says_of_itself(stuck: Api):
    (model,) = stuck.get("/v1/models").json()["data"]
    assert (model["size"], model["size_step"], model["fps"]) == ("96x64", "32x32", 16)
    assert "memory_policy" in [setting["key"] for setting in model["settings"]]
    described = stuck.get("/openapi.json").json()
    assert described["paths"].keys() >= {"/v1/videos", "/v1/videos/{video}/remix", "/v1/models", "/metrics"}
    page = stuck.get("/docs").text
    assert "/v1/videos/{video}/extend" in page
    assert "script" not in page
    assert "https://" not in page
