"""A take's folder: what is in it, and what is never half in it."""

from __future__ import annotations

import errno
import json
import os
import signal
import time

import numpy as np
import pytest
from fakes import SIZE, blocks_of, fill_disk, make_request, timeline_of
from PIL import Image

from backbone.config import ContextConfig
from longlive_rag.config import Cue
from longlive_rag.media.sums import sums_of
from longlive_rag.media.video import count_frames
from longlive_rag.takes import drawing
from longlive_rag.takes import writer as take_module
from longlive_rag.takes.folder import (
    CONTACT_SHEET,
    FILES,
    LATENTS,
    MEMORY_MAP,
    RECORD,
    VIDEO,
    check_take_folder,
)
from longlive_rag.takes.inspection import describe
from longlive_rag.takes.interrupts import uninterrupted
from longlive_rag.takes.record import CueFacts, LatentsFacts, MemoryFacts, TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter
from retrieval import files
from retrieval.files import write_json
from retrieval.selection import Selection
from retrieval.store import BlockRecord, LatentStore


def make_run(folder, **settings):
    return TakeRun("fake", folder, "cpu", "float32", 2, "philox", **settings)


def make_writer(folder, request, **settings):
    return TakeWriter(folder, request, timeline_of(request), make_run(folder), **settings)


def write_take(folder, request=None, blocks=None, status="finished", **settings):
    request = request or make_request()
    writer = make_writer(folder, request, **settings)
    for block in list(blocks_of(request, batch=2))[:blocks]:
        writer.add(block)
    return writer.finish(status)


def test_a_finished_take_holds_everything(tmp_path):
    request = make_request(8.0, cues=[(4.0, "the red circle jumps")], seed=7)
    folder = tmp_path / "takes" / "one"
    record = write_take(folder, request)
    assert read_record(folder) == record
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert count_frames(folder / VIDEO) == 128 == record.video.frames
    assert record.status == "finished"
    assert record.request.seed == 7
    assert record.request.context.window_frames == 12
    assert record.run.noise == "philox"
    assert {"python", "torch", "diffusers", "transformers", "longlive-rag", "faiss-cpu"} <= set(record.versions)
    video = record.video
    assert (video.width, video.height, video.fps, video.encoder) == (2 * SIZE, 2 * SIZE, 16, "libvpx-vp9")
    assert set(record.timings.by_stage) == {"denoise", "decode", "write"}
    facts = {"cue": 1, "asked_seconds": 4.0, "seconds": 4.3125, "block": 6, "reached": True}
    assert record.cues == (CueFacts(prompt="the red circle jumps", **facts),)
    first = record.selections[0]
    assert first == Selection(block=6, query_frame=17, candidates=1, frames=(1,), similarities=(0.9,))
    assert record.memory.frames_retrieved == sum(len(s.frames) for s in record.selections)
    for name in (CONTACT_SHEET, MEMORY_MAP):
        assert Image.open(folder / name).width == 1280


def test_an_interrupted_take_is_whole_as_far_as_it_goes(tmp_path):
    request = make_request(8.0, cues=[(6.0, "the red circle jumps")])
    record = write_take(tmp_path / "take", request, blocks=3, status="interrupted")
    assert (record.status, record.video.frames) == ("interrupted", 33)
    assert record.cues[0].reached is False
    assert count_frames(tmp_path / "take" / VIDEO) == 33
    assert sorted(path.name for path in (tmp_path / "take").iterdir()) == sorted(FILES)


def test_nothing_is_written_before_the_first_block(tmp_path):
    writer = make_writer(tmp_path / "take", make_request())
    record = writer.finish("interrupted")
    assert record.video.frames == 0
    assert not (tmp_path / "take").exists()


def test_the_record_says_running_meanwhile(tmp_path):
    request = make_request()
    writer = make_writer(tmp_path / "take", request)
    blocks = blocks_of(request)
    writer.add(next(blocks))
    assert json.loads((tmp_path / "take" / RECORD).read_text())["status"] == "running"
    writer.add(next(blocks))
    told = describe(tmp_path / "take")["frames"]
    assert 0 < told <= count_frames(tmp_path / "take" / VIDEO)
    writer.finish("finished")


def test_takes_of_a_batch(tmp_path):
    request = make_request(1.0)
    write_take(tmp_path / "second", request, item=1)
    assert count_frames(tmp_path / "second" / VIDEO) == 16


def test_without_memory(tmp_path):
    record = write_take(tmp_path / "take", make_request(context=ContextConfig(memory_frames=0)))
    assert record.memory == MemoryFacts(frames_retrieved=0, blocks_with_memory=0)


def test_a_take_is_not_replaced_by_mistake(tmp_path):
    request = make_request(1.0)
    write_take(tmp_path / "take", request)
    with pytest.raises(ValueError, match=r"already holds a take .*--overwrite"):
        check_take_folder(tmp_path / "take", request)
    check_take_folder(tmp_path / "take", request, overwrite=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "take").iterdir()}
    writer = make_writer(tmp_path / "take", make_request(2.0))
    writer.finish("failed")  # the model gave out before the first block
    assert {path.name: path.read_bytes() for path in (tmp_path / "take").iterdir()} == before
    write_take(tmp_path / "take", make_request(2.0, seed=5))
    record = read_record(tmp_path / "take")
    assert (record.video.frames, record.request.seed) == (32, 5)


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_take_folder(tmp_path, make_request(1.0))
    write_take(tmp_path, make_request(1.0))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, message in (
        (tmp_path / "file", "is a file; a take is a folder"),
        (tmp_path / "file" / "take", "can't be written: Not a directory"),
        (tmp_path / ("x" * 300), "can't be written: File name too long"),
    ):
        with pytest.raises(ValueError, match=message):
            check_take_folder(folder, make_request(1.0))
    check_take_folder(tmp_path / "a" / "b" / "c", make_request(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write to")
def test_an_unwritable_folder():
    with pytest.raises(ValueError, match=r"^/proc/self/take can't be written: "):
        check_take_folder(take_module.Path("/proc/self/take"), make_request(1.0))


def test_no_space_left(tmp_path, monkeypatch):
    usage = take_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(take_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"no space left for .*: the take needs about 2\.\d MB, 1\.0 kB are free"):
        check_take_folder(tmp_path / "take", make_request(1.0))
    assert not list(tmp_path.iterdir())


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_too_full_for_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "save_picture", no_space)
    record = write_take(tmp_path / "take")
    assert (record.status, record.video.frames) == ("failed", 128)
    assert "No space left on device" in record.error.message
    assert read_record(tmp_path / "take") == record
    assert sorted(path.name for path in (tmp_path / "take").iterdir()) == [RECORD, VIDEO]


@pytest.mark.parametrize("full", ["the folder", "the record", "the video"])
def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch, full):
    request = make_request(1.0)
    if full == "the folder":
        monkeypatch.setattr(take_module.Path, "write_bytes", no_space)
    if full == "the record":
        monkeypatch.setattr(take_module, "write_record", no_space)
    if full == "the video":
        monkeypatch.setattr(take_module, "VideoWriter", no_space)
    writer = make_writer(tmp_path / "take", request)
    with pytest.raises(OSError, match="No space left"):
        writer.add(next(blocks_of(request)))
    record = writer.finish("failed", OSError(errno.ENOSPC, "No space left on device"))
    assert record.video.frames == 0
    assert not list(tmp_path.iterdir())


def test_a_disk_too_full_for_the_video(tmp_path):
    request = make_request()
    writer = make_writer(tmp_path / "take", request)
    *blocks, last = list(blocks_of(request))[:5]
    for block in blocks:
        writer.add(block)
    fill_disk(writer._video, room_bytes=300)
    with pytest.raises(OSError, match="No space left"):
        writer.add(last)
    record = writer.finish("failed", OSError(errno.ENOSPC, "No space left on device"))
    assert 44 <= record.video.frames <= 57
    assert count_frames(tmp_path / "take" / VIDEO) == record.video.frames
    assert Image.open(tmp_path / "take" / CONTACT_SHEET).width == 1280


def test_json_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"prompt": "ein roter Kreis läuft"})

    def crash(_fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="Input/output error"):
        write_json(path, {"prompt": "other"})
    assert json.loads(path.read_text()) == {"prompt": "ein roter Kreis läuft"}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_ctrl_c_waits_for_the_end_of_a_write():
    reached = []

    def press(let_through):
        with uninterrupted(let_through):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        press(let_through=True)
    press(let_through=False)
    assert reached == ["end", "end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_cues_are_shown_where_they_took_over(tmp_path, monkeypatch):
    shown, contact_sheet = [], drawing.contact_sheet
    monkeypatch.setattr(drawing, "contact_sheet", lambda *given: shown.append(given[-1]) or contact_sheet(*given))
    writer = make_writer(tmp_path, make_request(8.0, cues=(Cue(2.0, "a"), Cue(5.0, "b"))))
    for block in list(blocks_of(make_request(8.0)))[:6]:
        writer.add(block)
    writer.finish("interrupted")
    assert [[mark.prompt for mark in marks] for marks in shown] == [["a"]]


# ---- latents ----


def record_of(block, prompt="a red circle"):
    rng = np.random.default_rng(block)
    latents, embeddings = rng.standard_normal((3, 4, 2, 2)), rng.standard_normal((3, 5))
    return BlockRecord(
        block, latents.astype(np.float32), embeddings.astype(np.float32), None, prompt, None, {"denoise": 0.1}
    )


def write_with_latents(folder, blocks, request=None):
    request = request or make_request()
    writer = make_writer(folder, request)
    for block in list(blocks_of(request))[:blocks]:
        writer.append(record_of(block.index))
        writer.add(block)
    return writer


def test_latents_are_stored_before_the_video_has_them(tmp_path):
    request = make_request()
    writer = make_writer(tmp_path / "take", request)
    writer.append(record_of(0))
    assert LatentStore(tmp_path / "take" / LATENTS).blocks == 1
    assert json.loads((tmp_path / "take" / RECORD).read_text())["status"] == "running"
    assert not (tmp_path / "take" / VIDEO).exists()
    assert np.array_equal(writer.latents([2])[0], record_of(0).latents[2])
    writer.finish("interrupted")
    assert not (tmp_path / "take").exists()  # no frame of video was kept


def test_a_take_keeps_its_latents(tmp_path):
    record = write_with_latents(tmp_path, 4).finish("interrupted")
    assert record.latents == LatentsFacts(folder=LATENTS, blocks=4)
    store = LatentStore(tmp_path / LATENTS)
    assert np.array_equal(store.record(3).embeddings, record_of(3).embeddings)


def test_a_replaced_take_loses_its_latents_too(tmp_path):
    write_with_latents(tmp_path, 4).finish("finished")
    write_with_latents(tmp_path, 2).finish("finished")
    assert LatentStore(tmp_path / LATENTS).blocks == 2
    write_take(tmp_path, blocks=2)  # and one that stores none leaves none
    assert not (tmp_path / LATENTS).exists()


def test_a_take_that_is_killed_before_its_first_frame_has_none_of_the_one_that_it_replaces(tmp_path):
    request, folder = make_request(8.0), tmp_path / "a"
    killed = make_writer(folder, request)
    for block in blocks_of(request):
        killed.append(record_of(block.index))
        killed.add(block)
    killed._claim.store.close()  # as after a kill: the video is not finished, and its hashes are there
    assert sums_of(folder / VIDEO).is_file()
    other = make_request(8.0, prompt="a blue circle")
    new = make_writer(folder, other)
    for block in range(6):  # stored, but none is decoded yet
        new.append(record_of(block, other.prompt))
    new._claim.store.close()
    resumed = TakeWriter(folder, other, timeline_of(other), make_run(folder), event="resumed")
    assert (resumed.blocks, resumed.blocks_shown, resumed.frames_before) == (6, 0, 0)
    resumed.finish("interrupted")


def test_a_take_that_is_being_written_is_refused(tmp_path):
    writer = write_with_latents(tmp_path, 1)
    with pytest.raises(ValueError, match="being written by another process"):
        check_take_folder(tmp_path, make_request(), overwrite=True)
    writer.finish("finished")
    check_take_folder(tmp_path, make_request(), overwrite=True)


def test_latents_count_towards_the_room_that_is_needed(tmp_path):
    with pytest.raises(ValueError, match="no space left"):
        check_take_folder(tmp_path / "take", make_request(), latents_bytes=10**18)
