"""Undo: at every moment there is a take that can be made whole, and nothing of the user's is lost."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from longlive_rag.config import CheckpointConfig, Reseed, Steering
from longlive_rag.media.video import count_frames
from longlive_rag.rights.provenance import Provenance
from longlive_rag.sessions.directed_take import DirectedTake
from longlive_rag.sessions.directing import LiveSession
from longlive_rag.sessions.making import TakeStopped
from longlive_rag.sessions.resuming import OpenTake, undone
from longlive_rag.takes import branch
from longlive_rag.takes.inspection import check_video, intact_frames
from longlive_rag.takes.record import TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter
from retrieval.store import LatentStore


@pytest.fixture
def made(pipe, tmp_path):
    """(take, what was asked for): a take of 5 blocks, a cue at the fourth, and a note of the user's in its folder."""
    return make(pipe, tmp_path / "live", cued_from=3)


def make(pipe, folder, cued_from):
    at = (9 + 12 * (cued_from - 1)) / 16
    request = pipe.request("a red circle walks", seconds=57 / 16, seed=3, cues=[(at, "a blue square jumps")])
    run = TakeRun("random", folder, "cpu", "float32", 1, "philox4x64/numpy")
    writer = TakeWriter(folder, request, pipe.timeline(request), run)
    for block in pipe.stream(request, stores=[writer]):
        writer.add(block)
    writer.finish("finished")
    (folder / "notes.txt").write_text("hers")
    asked = replace(request, seconds=9.0)
    return DirectedTake(pipe, run, Provenance(), folder, asked, "generated", CheckpointConfig(), None), request


def test_undo_takes_the_cue_and_its_blocks_back(made):
    take, request = made
    following = take.undone(request)
    following.claim.release()
    assert following.request.cues == read_record(take.folder).request.cues == ()
    assert LatentStore(take.folder / "latents").blocks == 3
    assert count_frames(take.folder / "video.mp4") == 33
    assert (take.folder / "notes.txt").read_text() == "hers"
    assert [path.name for path in take.folder.parent.iterdir()] == ["live"]


def test_ctrl_c_after_an_undo_leaves_all_of_the_video_that_was_kept(pipe, tmp_path, monkeypatch):
    take, request = make(pipe, tmp_path / "live", cued_from=4)  # segments have 3 blocks: this is not the end of one
    session = LiveSession(SimpleNamespace(say=lambda sentence: None, show=lambda block, live: None))
    monkeypatch.setattr(session, "_heard", SimpleNamespace(clear=lambda: None, wait=interrupt))
    with pytest.raises(TakeStopped) as stopped:
        session.run(take.undone(request))
    record = read_record(take.folder)
    assert (record.status, record.video.frames, record.video.blocks) == ("interrupted", 45, 4)
    assert stopped.value.record.video == record.video
    assert count_frames(take.folder / "video.mp4") == 45
    assert record.timings.new_frames == 0
    check_video(take.folder, record)
    assert intact_frames(take.folder, record) == 45


def interrupt() -> None:
    raise KeyboardInterrupt


def test_undo_keeps_the_changes_to_memory_of_the_blocks_that_stay(made):
    take, request = made
    first, second, with_cue = (Steering(at, "establish", establish=1 + at) for at in (0.0, 1.0, 2.05))  # 2.05: waits
    request = replace(request, memory=replace(request.memory, steering=(first, second, with_cue)))
    for kept_blocks, kept in ((1, (first,)), (2, (first,)), (3, (first, second)), (5, (first, second, with_cue))):
        whole = OpenTake(take.folder, read_record(take.folder), request, take.pipe.timeline(request), None, 5)
        assert undone(whole, kept_blocks, 9.0).memory.steering == kept
    following = take.undone(request)  # of the cue at the fourth block
    following.claim.release()
    assert following.request.memory.steering == (first, second)


def test_undo_keeps_the_seeds_of_the_blocks_that_stay(made):
    """A branch's seed that begins with the removed cue or later goes with it, however it is undone."""
    take, request = made
    first, with_cue, later = (Reseed(at, round(4 * at)) for at in (1.0, request.cues[0].seconds, 2.5))
    request = replace(request, reseeds=(first, with_cue, later))
    for kept_blocks, kept in ((1, ()), (3, (first,)), (4, (first, with_cue)), (5, (first, with_cue, later))):
        whole = OpenTake(take.folder, read_record(take.folder), request, take.pipe.timeline(request), None, 5)
        assert undone(whole, kept_blocks, 9.0).reseeds == kept
    following = take.undone(request)
    following.claim.release()
    assert following.request.reseeds == (first,)
    assert following.request.seconds == take.request.seconds


def test_a_disk_that_refuses_leaves_a_take_that_is_made_again(made, monkeypatch):
    take, request = made
    monkeypatch.setattr(branch, "write_record", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        take.undone(request)
    assert read_record(take.folder).request.cues == request.cues
    monkeypatch.undo()
    again = TakeWriter(take.folder, request, take.pipe.timeline(request), take.run, event="resumed")
    for block in take.pipe.stream(request, stores=[again]):
        again.add(block)
    assert again.finish("finished").video.frames == 57
    take.undone(request).claim.release()
    assert LatentStore(take.folder / "latents").blocks == 3


def refuse(*_: object) -> None:
    raise OSError("Input/output error")
