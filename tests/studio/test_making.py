"""Takes are made, directed, undone, branched and gone on with; what is shown is what is on disk."""

from __future__ import annotations

import io
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from windows import OTHER, PROMPT, Window

from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.video import read_frames
from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.studio.segments import DiskFilm
from longlive_rag.takes.record import read_record
from retrieval.store import LatentStore

HAS_TINY_WORLD = (BUILT_IN["tiny-world"] / "model_index.json").is_file()


def folder_of(studio, take) -> Path:
    return studio.takes.folder(take)


def packets_of(data: bytes) -> list[tuple[float, bytes]]:
    with av.open(io.BytesIO(data)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]


def latents_of(folder: Path) -> np.ndarray:
    store = LatentStore(folder / "latents")
    return store.latents(range(store.frames))


def test_every_block_is_shown_and_is_what_the_video_holds(studio, window):
    take = window.begin(4.0)
    urls = [window.block(number)["segment"]["url"] for number in range(3)]
    early = window.get(urls[1]).content
    window.ended(take)
    detail = window.get(f"/api/takes/{take}").json()
    assert [segment["url"] for segment in detail["segments"]][:3] == urls  # they stay when the take is finished
    assert packets_of(window.get(urls[1]).content) == packets_of(early)
    shown = [pair for segment in detail["segments"] for pair in packets_of(window.get(segment["url"]).content)]
    video = folder_of(studio, take) / "video.mp4"
    assert [data for _, data in shown] == [data for _, data in packets_of(video.read_bytes())]
    assert [time for time, _ in shown] == pytest.approx([number / 16 for number in range(64)])
    assert detail["segments"][0]["key"]
    assert detail["segments"][3]["key"]
    assert not detail["segments"][1]["key"]
    with av.open(io.BytesIO(window.get(f"/api/takes/{take}/frame/30.jpg").content)) as picture:
        decoded = next(picture.decode(video=0)).to_ndarray(format="rgb24").astype(float)
    exact = next(read_frames(video, 30, 31)).astype(float)
    assert np.abs(decoded - exact).mean() < 12  # JPEG
    assert window.get(f"/api/takes/{take}/frame/64.jpg").status_code == 404


def test_directions_take_over_and_the_take_can_be_made_again(studio, window, pipe):
    studio.room.set_pace(3)
    take = window.begin(8.0)
    window.block(1)
    planned = window.do(take, do="direct", prompt="words that will change", at=5.0).json()
    gone = window.do(take, do="direct", prompt="never", at=6.5).json()
    assert window.do(take, do="withdraw_cue", planned_id=gone["planned_id"]).status_code == 200
    moved = window.do(take, do="edit_cue", planned_id=planned["planned_id"], prompt=OTHER, at=4.3).json()
    assert moved["takes_over_at"] < planned["takes_over_at"]
    cues = window.get(f"/api/takes/{take}").json()["cues"]
    assert [(cue["prompt"], cue["reached"], bool(cue["planned_id"])) for cue in cues] == [(OTHER, False, True)]
    assert window.do(take, do="pin", **{"from": 0.1, "to": 0.5}).status_code == 200
    assert window.do(take, do="unpin", **{"from": 0.1, "to": 0.5}).status_code == 200
    refused = window.do(take, do="unexclude", **{"from": 0.1, "to": 0.5})
    assert (refused.status_code, "excluded so far: nothing" in refused.json()["error"]["message"]) == (422, True)
    window.do(take, do="pace", blocks_ahead=None)
    window.ended(take)
    request = read_record(folder_of(studio, take)).request
    assert [cue.prompt for cue in request.cues] == [OTHER]
    assert [steer.verb for steer in request.memory.steering] == ["pin", "unpin"]
    again = torch.cat([block.latents for block in pipe.stream(request)], dim=1)[0].numpy()
    assert np.array_equal(again, latents_of(folder_of(studio, take)))


def test_a_cut_begins_another_shot_wherever_its_cue_is_moved(studio, window, pipe):
    studio.room.set_pace(2)
    take = window.begin(8.0, cues=[{"seconds": 6.0, "prompt": OTHER, "cut": True}])
    window.block(1)
    planned = window.do(take, do="direct", prompt=OTHER, at=4.0, cut=True).json()
    moved = window.do(take, do="edit_cue", planned_id=planned["planned_id"], prompt=OTHER, at=4.8).json()
    cues = window.get(f"/api/takes/{take}").json()["cues"]
    assert [(cue["seconds"] == moved["takes_over_at"], cue["cut"]) for cue in cues] == [(True, True), (False, True)]
    window.do(take, do="edit_cue", planned_id=cues[1]["planned_id"], prompt=OTHER, at=None, cut=False)
    window.do(take, do="pace", blocks_ahead=None)
    window.ended(take)
    assert [cue["cut"] for cue in window.get(f"/api/takes/{take}").json()["cues"]] == [True, False]
    request = read_record(folder_of(studio, take)).request
    assert [cue.cut for cue in request.cues] == [True, False]
    again = torch.cat([block.latents for block in pipe.stream(request)], dim=1)[0].numpy()
    assert np.array_equal(again, latents_of(folder_of(studio, take)))
    block = len(window.get(f"/api/takes/{take}").json()["segments"]) - 1
    branch = window.do(take, do="branch", block=block, prompt=OTHER, cut=True).json()["id"]
    window.ended(branch)
    assert [cue.cut for cue in read_record(folder_of(studio, branch)).request.cues][-1]


def test_another_policy_picks_from_the_next_block_on(studio, window):
    studio.room.set_pace(8)
    take = window.begin(9.0)
    window.block(7)
    refused = window.do(take, do="policy", name="no-such")
    assert (refused.status_code, "no-such" in refused.json()["error"]["message"]) == (422, True)
    second = window.do(take, do="policy", name="stratified").json()["takes_over_at"]
    window.do(take, do="pace", blocks_ahead=None)
    window.ended(take)
    detail = window.get(f"/api/takes/{take}").json()
    policies = {memory["policy"] for memory in detail["memory"] if memory["seconds"] >= second}
    earlier = {memory["policy"] for memory in detail["memory"] if memory["seconds"] < second}
    assert (policies, earlier) == ({"stratified"}, {"similar"})
    assert [(told["verb"], told["policy"]) for told in detail["steering"]] == [("policy", "stratified")]


def test_the_pace_follows_the_playhead(studio, window):
    studio.room.set_pace(2)
    take = window.begin(9.0)
    window.block(2)
    assert window.silent()
    window.say(type="playhead", take=take, seconds=1.5)  # in block 2
    window.block(4)
    assert window.silent()
    window.say(type="watch", take="another")  # nobody looks: it needs not wait
    assert window.ended(take)["blocks"] == 13


def test_the_pace_is_the_directors(studio, client, window):
    studio.room.set_pace(2)
    take = window.begin(9.0)
    window.block(2)
    with Window(client, studio.sessions.token) as other:
        other.say(type="watch", take=take)
        other.say(type="playhead", take=take, seconds=5.0)
        assert window.silent()
        window.say(type="watch", take="another")  # the director looks elsewhere: who watches is not kept waiting
        assert other.ended(take)["blocks"] == 13


def test_undo_keeps_what_was_made_and_waits(studio, window):
    studio.room.set_pace(4)
    take = window.begin(9.0)
    window.block(3)
    other = window.do(take, do="undo_to", block=2).json()["id"]
    facts = window.get(f"/api/takes/{other}").json()
    assert (facts["status"], facts["waiting"], facts["parent"], facts["parent_block"]) == ("live", True, take, 2)
    assert facts["parent_seconds"] == 21 / 16
    assert window.get(f"/api/takes/{take}").json()["status"] == "interrupted"
    window.do(other, do="pace", blocks_ahead=None)
    assert window.do(other, do="direct", prompt=OTHER).json()["takes_over_at"] == pytest.approx(21 / 16)
    window.ended(other)
    request = read_record(folder_of(studio, other)).request
    assert (request.seconds, [cue.prompt for cue in request.cues]) == (9.0, [OTHER])
    ours, theirs = latents_of(folder_of(studio, other)), latents_of(folder_of(studio, take))
    assert np.array_equal(ours[:6], theirs[:6])
    assert not np.array_equal(ours[6:9], theirs[6:9])


def test_stopped_resumed_extended_branched_and_its_twin(studio, window, pipe):
    studio.room.set_pace(2)
    take = window.begin(5.0)
    window.block(1)
    assert window.do(take, do="extend", seconds=1.0).status_code == 409
    window.do(take, do="stop")
    assert window.ended(take, "interrupted")["seconds"] == 5.0
    studio.room.set_pace(None)
    assert window.do(take, do="resume").json()["id"] == take
    window.ended(take)
    request = read_record(folder_of(studio, take)).request
    again = torch.cat([block.latents for block in pipe.stream(request)], dim=1)[0].numpy()
    assert np.array_equal(again, latents_of(folder_of(studio, take)))
    assert "already has its requested length" in window.do(take, do="resume").json()["error"]["message"]
    assert window.do(take, do="extend", seconds=2.0, prompt=OTHER).json()["id"] == take
    window.until("take", id=take, status="finished", made_seconds=7.0)
    blocks = window.get(f"/api/takes/{take}").json()["blocks"]
    for command in ({"do": "branch"}, {"do": "branch", "prompt": OTHER}, {"do": "undo_to"}):
        refused = window.do(take, block=blocks, **command)
        assert refused.status_code == 422
        assert "nothing of this take is left to make; choose an earlier block" in refused.json()["error"]["message"]
    branch = window.do(take, do="branch", block=3, seed=9).json()["id"]
    window.ended(branch)
    assert np.array_equal(latents_of(folder_of(studio, branch))[:9], latents_of(folder_of(studio, take))[:9])
    twin = window.do(take, do="native_twin").json()["id"]
    window.ended(twin)
    made, native = (read_record(folder_of(studio, each)).request for each in (take, twin))
    assert (native.memory.enabled, native.seed, native.cues) == (False, made.seed, made.cues)
    assert window.do(take, do="branch", block=99).json()["error"]["fields"][0]["field"] == "block"


def test_new_takes_say_what_is_wrong_at_their_fields(window):
    def fields(**message):
        answer = window.post("/api/takes", **{"prompt": PROMPT, "seconds": 4.0, **message})
        assert answer.status_code == 422, answer.text
        return [field["field"] for field in answer.json()["error"]["fields"]]

    assert fields(prompt=" ") == ["prompt"]
    assert fields(seconds=-1.0) == ["seconds"]
    assert fields(backbone="/etc") == ["backbone"]
    assert fields(settings={"memory_diversity": 3.0}) == ["diversity"]
    assert fields(settings={"context_window_frames": "many"}) == ["window_frames"]
    assert fields(settings={"memory_remember": ["/etc"]}) == ["memory_remember"]
    assert fields(start_image="nothing") == ["start_image"]
    assert fields(cues=[{"seconds": 9.0, "prompt": OTHER}]) == []  # a cue past the end: a sentence
    assert window.get("/api/takes").json()["takes"] == []
    bad = window.do("x", do="direct", prompt=3)
    assert bad.json()["error"]["fields"][0]["field"] == "prompt"
    assert window.do("x", do="dance").status_code == 422
    assert window.do("x", do="stop").status_code == 409


@pytest.mark.parametrize(
    ("given", "settings", "seconds"),
    [("2.5", {}, 2.5), ("0:02.5", {}, 2.5), ("00:00:02:08", {}, 2.5), ("00:00:02:06", {"output_fps": 12}, 2.5)],
)
def test_a_length_may_be_a_timecode(studio, window, given, settings, seconds):
    take = window.begin(given, settings=settings)
    assert window.ended(take)["seconds"] == seconds
    assert read_record(folder_of(studio, take)).request.seconds == seconds


def test_a_prompt_that_is_too_long_is_refused_at_its_field(window):
    answer = window.post("/api/takes", prompt="red " * 400, seconds=2.0)
    assert answer.status_code == 422
    (field,) = answer.json()["error"]["fields"]
    assert field["field"] == "prompt"
    assert "is too long: this backbone reads at most" in field["message"]
    assert answer.json()["error"]["message"] == field["message"]


def test_a_picture_and_another_takes_frames_begin_a_take(studio, window):
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 30, 30)).save(buffer, "PNG")
    upload = window.client.post("/api/uploads", content=buffer.getvalue(), headers=window.headers).json()
    assert (upload["width"], upload["height"]) == (96, 64)
    first = window.begin(6.0, start_image=upload["id"])
    window.ended(first)
    second = window.begin(3.0, remember=[{"take": first, "from": 0.5, "to": 2.0}])
    window.ended(second)
    memory = window.get(f"/api/takes/{second}").json()["memory"]
    assert {frame["take"] for block in memory for frame in block["remembered"]} == {first}
    assert str(studio.root) not in window.get(f"/api/takes/{second}").text


def test_out_of_memory_is_one_sentence_and_the_studio_lives(studio, window, monkeypatch):
    made = Rollout.next_block

    def give_out(self):
        block = made(self)
        if block.index == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return block

    monkeypatch.setattr(Rollout, "next_block", give_out)
    take = window.begin(6.0)
    error = window.until("error")
    assert error["take"] == take
    assert "out of memory" in error["message"]
    window.ended(take, "failed")
    monkeypatch.undo()
    window.ended(window.begin(2.0))
    assert window.do(take, do="resume").status_code == 200
    assert window.ended(take)["made_seconds"] == 6.0


def test_a_take_that_is_deleted_on_disk_is_gone(studio, window):
    take = window.begin(2.0)
    url = window.block(0)["segment"]["url"]
    window.ended(take)
    shutil.rmtree(folder_of(studio, take))
    for path in (f"/api/takes/{take}", url, f"/api/takes/{take}/frame/0.jpg"):
        assert window.get(path).status_code == 404
    assert window.do(take, do="resume").status_code == 404
    window.until("gone", take=take)
    assert window.get("/api/takes").json()["takes"] == []


def test_one_directs_and_others_watch(studio, client, window):
    studio.room.set_pace(2)
    take = window.begin(9.0)
    window.block(0)  # one that is stopped before it leaves nothing
    with Window(client, studio.sessions.token) as other:
        refused = other.do(take, do="stop")
        assert refused.status_code == 409
        assert "another window" in refused.json()["error"]["message"]
        assert other.get(f"/api/takes/{take}").status_code == 200
        assert window.do(take, do="pin", **{"from": 0.0, "to": 0.25}).status_code == 200
        assert [told["verb"] for told in other.until("steering", take=take)["steering"]] == ["pin"]
        assert other.do(take, do="take_over").json() == {"ok": True}
        assert window.do(take, do="direct", prompt=OTHER).status_code == 409
        other.do(take, do="stop")
        other.ended(take, "interrupted")


def test_exports_hold_no_path_of_this_machine(studio, window):
    take = window.begin(6.0)
    window.ended(take)
    for what in ("video", "stills", "cues", "sheet", "otio", "otio_branch", "rights"):
        answer = window.post(f"/api/takes/{take}/export", what=what)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"].startswith("attachment")
        assert str(studio.root.parent).encode() not in answer.content
    assert window.post(f"/api/takes/{take}/export", what="video", **{"from": 5.0, "to": 99.0}).status_code == 422
    drift = window.get(f"/api/takes/{take}/drift?embedder=pixels").json()
    assert (drift["embedder"], len(drift["seconds"])) == ("pixels", 6)
    for embedder in ("dino=/etc", "dino", "face", "tiny-world"):  # the last one reads takes of tiny-world only
        assert window.get(f"/api/takes/{take}/drift?embedder={embedder}").status_code == 422
    known = window.get("/api/studio").json()["embedders"]
    assert {"name": "pixels", "independent": True} in known
    assert {"name": "latent", "independent": False} in known or not HAS_TINY_WORLD
    found = window.get("/api/takes?search=circle").json()["takes"]
    assert [each["id"] for each in found] == [take]
    assert window.get("/api/takes?search=elephant").json()["takes"] == []


def test_a_pace_that_comes_as_the_take_ends_is_kept_for_the_next(studio, window):
    take = window.begin(4.0)
    window.ended(take)
    assert window.do(take, do="pace", blocks_ahead=1).json() == {"ok": True}
    assert studio.room.blocks_ahead == 1
    other = window.begin(8.0)
    window.block(1)
    assert studio.room.current.last_block == 1  # it waits for its viewer
    assert window.do("x", do="pace", blocks_ahead=None).status_code == 404
    assert studio.room.blocks_ahead == 1
    assert window.do(take, do="pace", blocks_ahead=None).status_code == 200
    window.ended(other)


def test_branches_are_exported_as_one_timeline(studio, window):
    first = window.begin(4.0)
    window.ended(first)
    branch = window.do(first, do="branch", block=2, prompt=OTHER).json()["id"]
    window.ended(branch)
    waits = window.do(first, do="undo_to", block=1).json()["id"]
    for take in (first, branch):
        timeline = window.post(f"/api/takes/{take}/export", what="otio_branch").json()
        tracks = timeline["tracks"]["children"]
        assert [track["name"] for track in tracks] == [folder_of(studio, each).name for each in (first, branch)]
        gap, clip = tracks[1]["children"]
        assert gap["source_range"]["duration"]["value"] == 21
        assert clip["media_reference"]["target_url"] == f"{folder_of(studio, branch).name}/video.mp4"
        assert [marker["comment"] for marker in clip["markers"]] == [OTHER]
        assert str(studio.root.parent) not in str(timeline)
    window.do(waits, do="stop")


def made(window, seconds=4.0, **message) -> str:
    take = window.begin(seconds, **message)
    window.ended(take)
    return take


def test_seeds_are_exact_in_javascript_too(studio, window):
    largest = 2**64 - 1
    take = window.begin(2.0, seed=str(largest))
    window.ended(take)
    assert window.get(f"/api/takes/{take}").json()["seed"] == str(largest)
    assert read_record(folder_of(studio, take)).request.seed == largest
    for seed in (str(largest + 1), largest + 1, "-1", "1.0", "1e3", "", "9" * 21):
        refused = window.post("/api/takes", prompt=PROMPT, seconds=2.0, seed=seed)
        assert (refused.status_code, refused.json()["error"]["fields"][0]["field"]) == (422, "seed"), seed


def test_moments_that_look_like_a_frame(studio, window):
    first, second = made(window), made(window, seed=1)
    plain = made(window, memory=False)
    hits = window.get(f"/api/takes/{first}/like?frame=20").json()["hits"]
    assert {hit["take"] for hit in hits} == {first, second}
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)
    for take in (first, second):
        moments = sorted(hit["seconds"] for hit in hits if hit["take"] == take)
        assert all(b - a >= 1 for a, b in pairwise(moments))
    assert all(abs(hit["seconds"] - 20 / 16) >= 1 for hit in hits if hit["take"] == first)
    assert all(hit["seconds"] == hit["frame"] / 16 for hit in hits)
    refused = window.get(f"/api/takes/{plain}/like?frame=20")
    assert (refused.status_code, "without memory" in refused.json()["error"]["message"]) == (422, True)
    for frame in (-1, 64, 10**30):
        assert window.get(f"/api/takes/{first}/like?frame={frame}").status_code in (404, 422)
    studio.room.set_pace(2)
    live = window.begin(9.0)
    window.block(1)
    assert {hit["take"] for hit in window.get(f"/api/takes/{live}/like?frame=20").json()["hits"]} >= {first, second}


def test_what_is_being_made_is_neither_exported_nor_measured(studio, window):
    studio.room.set_pace(2)
    take = window.begin(9.0)
    window.block(2)
    answers = [window.get(f"/api/takes/{take}/drift")]
    answers += [window.post(f"/api/takes/{take}/export", what=what) for what in ("video", "otio_branch", "rights")]
    for answer in answers:
        assert answer.status_code == 409
        assert "is being made" in answer.json()["error"]["message"]
    window.do(take, do="stop")
    window.ended(take, "interrupted")
    assert len(window.get(f"/api/takes/{take}/drift").json()["seconds"]) == 3  # as far as it goes
    assert window.post(f"/api/takes/{take}/export", what="video").status_code == 200


def test_threads_that_open_a_take_find_the_same_addresses(studio, window, monkeypatch):
    take = made(window)
    studio.takes._films.clear()  # as after a restart
    opened = DiskFilm.__init__

    def slowly(self, *args):
        time.sleep(0.1)
        opened(self, *args)

    monkeypatch.setattr(DiskFilm, "__init__", slowly)
    with ThreadPoolExecutor(4) as pool:
        stamps = list(pool.map(lambda _: studio.takes.film(take).stamps, range(4)))
    assert all(each == stamps[0] for each in stamps)
