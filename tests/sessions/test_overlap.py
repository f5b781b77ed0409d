"""Blocks are stored, decoded and written behind the one being denoised: the same takes, as safe, and nothing waits."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import fill_disk

from longlive_rag.config import CheckpointConfig, Cue, MemoryConfig, OutputConfig, TakeRequest
from longlive_rag.generation.behind import AHEAD, LIVE_AHEAD
from longlive_rag.generation.block import Block, NotFiniteError
from longlive_rag.generation.rollout import Rollout
from longlive_rag.media.video import read_frames
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.sessions.live import LiveTake
from longlive_rag.sessions.making import TakeFailed, TakeJob, TakeStopped, exhaust
from longlive_rag.takes import tensor_files
from longlive_rag.takes.folder import CHECKPOINTS, CONTACT_SHEET, LATENTS, MEMORY_MAP, VIDEO
from longlive_rag.takes.record import TakeRecord, read_record
from longlive_rag.takes.writer import TakeWriter
from retrieval.store import LatentStore, LatentWriter

PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in the snow"
PATIENCE_S = 120


@pytest.fixture(scope="module")
def opened(pipeline_folder: Path) -> LongLiveRAGPipeline:
    return LongLiveRAGPipeline.from_pretrained(pipeline_folder)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("longlive-rag")]


def ask(pipe: LongLiveRAGPipeline, seconds: float = 6.0, **settings: object) -> TakeRequest:
    return pipe.request(PROMPT, seconds=seconds, seed=3, **settings)


def writer_of(pipe: LongLiveRAGPipeline, request: TakeRequest, folder: Path, **settings) -> TakeWriter:
    return TakeWriter(folder, request, pipe.timeline(request), pipe.take_run(), **settings)


def make(pipe, request, folder: Path, ahead: int = AHEAD, on_block=lambda block, take: None, **settings) -> TakeRecord:
    return TakeJob(pipe, request, writer_of(pipe, request, folder, **settings)).run(on_block, ahead)


def frames_of(take: Path) -> np.ndarray:
    return np.stack(list(read_frames(take / VIDEO)))


def checkpoints_of(take: Path) -> dict[str, object]:
    """What checkpoints hold but times."""
    held = {}
    for path in sorted((take / CHECKPOINTS).glob("*")):
        tensors, facts = tensor_files.read_tensors(path, "checkpoint")
        if facts["pages"]:
            facts["pages"]["counters"]["seconds_waited"] = 0
        held[path.name] = ({name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, facts)
    return held


def assert_same(take: Path, other: Path) -> None:
    for name in (VIDEO, CONTACT_SHEET, MEMORY_MAP):
        assert (take / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = LatentStore(take / LATENTS), LatentStore(other / LATENTS)
    assert ours.blocks == theirs.blocks
    for block in range(ours.blocks):
        a, b = (replace(store.record(block), seconds={}) for store in (ours, theirs))
        assert np.array_equal(a.latents, b.latents), block
        assert a.embeddings is None if b.embeddings is None else np.array_equal(a.embeddings, b.embeddings)
        assert replace(a, latents=None, embeddings=None) == replace(b, latents=None, embeddings=None)
    ours, theirs = read_record(take), read_record(other)
    for fact in ("status", "request", "video", "cues", "selections"):
        assert getattr(ours, fact) == getattr(theirs, fact)
    assert ours.timings.by_stage.keys() == theirs.timings.by_stage.keys()


CASES = {
    "cues": {"cues": [(2.0, OTHER), (4.0, PROMPT)]},
    "nothing kept in memory": {"cues": [(3.0, OTHER)], "memory": MemoryConfig(host_gib=0, prompt_weight=0.3)},
    "shots": {
        "cues": [Cue(2.0, OTHER, cut=True), Cue(4.0, PROMPT, cut=True)],
        "memory": MemoryConfig(host_gib=0, establish=0.5, new_view=0.9995),
    },
    "checkpoints after every block": {"output": OutputConfig(32, 48, fps=4)},
    "native": {"memory": MemoryConfig(enabled=False)},
}


@pytest.mark.parametrize("case", CASES)
def test_the_take_is_the_same(opened: LongLiveRAGPipeline, tmp_path: Path, case: str) -> None:
    request = ask(opened, **CASES[case])
    if case == "checkpoints after every block":
        request = replace(request, seconds=24.0)
    for ahead in (0, LIVE_AHEAD, AHEAD):
        make(opened, request, tmp_path / str(ahead), ahead)
    for ahead in (LIVE_AHEAD, AHEAD):
        assert_same(tmp_path / str(ahead), tmp_path / "0")
        assert checkpoints_of(tmp_path / str(ahead)) == checkpoints_of(tmp_path / "0") != {}


class Log:
    """What began and ended, in the order in which it did; threads can be held until something else has been."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.entries: list[tuple[str, int]] = []

    def say(self, what: str, block: int) -> None:
        with self._changed:
            self.entries.append((what, block))
            self._changed.notify_all()

    def wait(self, what: str, block: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (what, block) in self.entries, PATIENCE_S), (what, block)

    def place(self, what: str, block: int) -> int:
        return self.entries.index((what, block))

    def before(self, what: str, block: int) -> set[tuple[str, int]]:
        return set(self.entries[: self.place(what, block)])


class Watched:
    """A stream whose steps are written down; `hold(step, block)` is called within each."""

    STEPS = ("store", "decode", "write")

    def __init__(self, pipe: LongLiveRAGPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = Log()
        self.hold: Callable[[str, int], None] = lambda step, block: None
        self._decoded = 0
        next_block, decode, append = Rollout.next_block, pipe._decode, LatentWriter.append

        def watched_next(rollout: Rollout):
            index = rollout._blocks_done
            self.log.say("denoise", index)
            finished = next_block(rollout)
            self.log.say("denoised", index)
            return finished

        def watched_decode(*args):
            with self.step("decode", self._decoded):
                self._decoded += 1
                return decode(*args)

        def watched_append(store, record):
            with self.step("store", record.block):
                append(store, record)

        monkeypatch.setattr(Rollout, "next_block", watched_next)
        monkeypatch.setattr(pipe, "_decode", watched_decode)
        monkeypatch.setattr(LatentWriter, "append", watched_append)

    def step(self, name: str, block: int):
        watched = self

        class Step:
            def __enter__(self) -> None:
                watched.log.say(name, block)
                watched.hold(name, block)

            def __exit__(self, *error: object) -> None:
                watched.log.say(f"{name} done", block)

        return Step()

    def write(self, block: Block) -> None:
        with self.step("write", block.index):
            pass


@pytest.fixture
def watched(opened: LongLiveRAGPipeline, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(opened, monkeypatch)


@pytest.mark.parametrize("held", Watched.STEPS)
def test_denoising_goes_on_while_another_stage_is_held(opened, watched, tmp_path, held: str) -> None:
    """And the other stages with it, as far as they can; no further than `ahead` blocks."""

    def hold(step: str, block: int) -> None:
        if (step, block) == (held, 0):
            watched.log.wait("denoised", AHEAD)
            for earlier in Watched.STEPS[: Watched.STEPS.index(held)]:
                watched.log.wait(f"{earlier} done", AHEAD)

    watched.hold = hold
    with LatentWriter(tmp_path) as store:
        exhaust(opened.stream(ask(opened), stores=[store], then=watched.write, ahead=AHEAD))
    assert ("denoise", AHEAD + 1) not in watched.log.before("write done", 0)
    counted = Counter(step for step, _ in watched.log.entries if step in Watched.STEPS)
    assert counted == dict.fromkeys(Watched.STEPS, opened.timeline(ask(opened)).blocks)


def test_each_stage_keeps_the_order_and_nothing_is_shown_before_it_is_stored(opened, watched, tmp_path) -> None:
    request = ask(opened)
    with LatentWriter(tmp_path) as store:
        for block in opened.stream(request, stores=[store], then=watched.write, ahead=AHEAD):
            watched.log.say("yield", block.index)
    log, blocks = watched.log, opened.timeline(request).blocks
    for block in range(blocks):
        way = ["denoised", "store", "store done", "decode", "decode done", "write", "write done", "yield"]
        places = [log.place(step, block) for step in way]
        assert places == sorted(places)
    for step in (*Watched.STEPS, "yield"):
        assert [block for name, block in log.entries if name == step] == list(range(blocks))


def test_a_slow_stage_makes_no_other_stage_wait_for_it_twice(opened, watched, tmp_path) -> None:
    """While the writer has block n, blocks n + 1 to n + AHEAD are denoised: the writer alone sets the pace."""
    blocks = opened.timeline(ask(opened)).blocks

    def slow(step: str, block: int) -> None:
        if step == "write":
            watched.log.wait("denoised", min(block + AHEAD, blocks - 1))

    watched.hold = slow
    with LatentWriter(tmp_path) as store:
        exhaust(opened.stream(ask(opened), stores=[store], then=watched.write, ahead=AHEAD))
    assert watched.log.entries[-1] == ("write done", blocks - 1)


def test_what_is_not_stored_yet_is_read_all_the_same(opened, watched, tmp_path) -> None:
    """Memory brings back frames of blocks whose storing is held until later ones are denoised."""
    request = ask(opened, **CASES["shots"])
    blocks = opened.timeline(request).blocks
    plain = list(opened.stream(request))
    watched.log.entries.clear()

    def late(step: str, block: int) -> None:
        if step == "store":
            watched.log.wait("denoised", min(block + AHEAD, blocks - 1))

    watched.hold = late
    with LatentWriter(tmp_path) as store:
        made = list(opened.stream(request, stores=[store], ahead=AHEAD))
    chosen = [(each.block, frame // 3) for block in made for each in block.selections for frame in each.frames]
    assert any(of >= block - AHEAD for block, of in chosen)
    for ours, theirs in zip(made, plain, strict=True):
        assert ours.selections == theirs.selections
        assert torch.equal(ours.latents, theirs.latents)


# ---- how it ends ----


def resumed(pipe: LongLiveRAGPipeline, folder: Path) -> TakeRecord:
    request = read_record(folder).request
    return make(pipe, request, folder, event="resumed")


def test_a_disk_that_is_full_for_latents_ends_the_take_well(opened, tmp_path, monkeypatch) -> None:
    request = ask(opened, 5.0)
    make(opened, request, tmp_path / "whole")
    append = LatentWriter.append

    def full(store: LatentWriter, record) -> None:
        if record.block == 4:
            raise OSError(28, "No space left on device")
        append(store, record)

    with monkeypatch.context() as patched:
        patched.setattr(LatentWriter, "append", full)
        with pytest.raises(TakeFailed, match="No space left on device") as failed:
            make(opened, request, tmp_path / "take")
    record = failed.value.record
    assert (record.status, record.latents.blocks, record.video.blocks) == ("failed", 4, 4)
    assert record.video.frames == 45
    assert "in full" in record.error.traceback
    resumed(opened, tmp_path / "take")
    assert np.array_equal(frames_of(tmp_path / "take"), frames_of(tmp_path / "whole"))


def test_a_disk_that_is_full_for_the_video_ends_the_take(opened, tmp_path) -> None:
    """What is denoised by then is stored, and the take can be resumed."""
    request = ask(opened, 5.0)
    make(opened, request, tmp_path / "whole")

    def fill(block: Block, take: TakeWriter) -> None:
        if block.index == 1:
            fill_disk(take._video, 0)

    with pytest.raises(TakeFailed, match="No space left on device") as failed:
        make(opened, request, tmp_path / "take", on_block=fill)
    record = failed.value.record
    assert record.status == "failed"
    assert 0 < record.video.frames <= 21
    assert record.latents.blocks >= 3
    resumed(opened, tmp_path / "take")
    assert np.array_equal(frames_of(tmp_path / "take"), frames_of(tmp_path / "whole"))


def test_ctrl_c_keeps_every_block_that_was_denoised(opened, tmp_path, monkeypatch) -> None:
    request = ask(opened, 5.0, cues=[(3.0, OTHER)])
    make(opened, request, tmp_path / "whole")
    next_block, seen = Rollout.next_block, []

    def interrupted(rollout: Rollout):
        if rollout._blocks_done == 5:
            raise KeyboardInterrupt
        return next_block(rollout)

    with monkeypatch.context() as patched:
        patched.setattr(Rollout, "next_block", interrupted)
        with pytest.raises(TakeStopped) as stopped:
            make(opened, request, tmp_path / "take", on_block=lambda block, take: seen.append(block.index))
    record = stopped.value.record
    assert (record.status, record.latents.blocks, record.video.blocks) == ("interrupted", 5, 5)
    assert seen == [0, 1, 2, 3, 4]
    resumed(opened, tmp_path / "take")
    assert_same_but_history(tmp_path / "take", tmp_path / "whole")


def assert_same_but_history(take: Path, other: Path) -> None:
    for name in (VIDEO, CONTACT_SHEET, MEMORY_MAP):
        assert (take / name).read_bytes() == (other / name).read_bytes(), name


def test_ctrl_c_from_who_is_shown_a_block_stops_the_take(opened, tmp_path) -> None:
    def stop(block: Block, take: TakeWriter) -> None:
        if block.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(TakeStopped) as stopped:
        make(opened, ask(opened, 5.0), tmp_path / "take", on_block=stop)
    assert stopped.value.record.video.blocks == 3
    assert stopped.value.record.latents.blocks >= 3


def test_a_decoder_that_breaks_is_told_with_its_traceback(opened, tmp_path, monkeypatch) -> None:
    decode, count = opened._decode, []

    def breaks(*args):
        count.append(1)
        if len(count) == 3:
            raise RuntimeError("the decoder broke")
        return decode(*args)

    monkeypatch.setattr(opened, "_decode", breaks)
    with pytest.raises(RuntimeError, match="the decoder broke"):
        make(opened, ask(opened, 5.0), tmp_path / "take")
    record = read_record(tmp_path / "take")
    assert (record.status, record.video.blocks) == ("failed", 2)
    assert "in breaks" in record.error.traceback


def test_what_is_not_a_number_is_told_though_the_next_block_failed_of_it(opened, tmp_path, monkeypatch) -> None:
    next_block = Rollout.next_block

    def broken(rollout: Rollout):
        if rollout._blocks_done == 3:
            raise ArithmeticError("what comes of it")
        finished = next_block(rollout)
        if finished.index == 2:
            finished.latents[0, 0, 0, 0, 0] = float("inf")
        return finished

    monkeypatch.setattr(Rollout, "next_block", broken)
    with LatentWriter(tmp_path) as store:
        with pytest.raises(NotFiniteError, match="block 2 holds values"):
            exhaust(opened.stream(ask(opened), stores=[store], ahead=AHEAD))
        assert store.blocks == 2


@pytest.mark.parametrize("ahead", [0, LIVE_AHEAD, AHEAD])
def test_a_stream_that_is_closed_early_has_handed_on_all_that_it_stored(opened, tmp_path, ahead: int) -> None:
    handed: list[int] = []
    with LatentWriter(tmp_path) as store:
        stream = opened.stream(ask(opened), stores=[store], then=lambda block: handed.append(block.index), ahead=ahead)
        assert next(stream).index == 0
        stream.close()
        assert handed == list(range(store.blocks)) == list(range(ahead + 1))


def test_a_stream_that_never_began_has_no_thread(opened) -> None:
    stream = opened.stream(ask(opened), ahead=AHEAD)
    del stream


# ---- where nothing may run ahead ----


def test_who_chooses_has_seen_the_block_before(opened) -> None:
    seen: list[int] = []

    def choose(take: int, block: int, candidates) -> list[int]:
        assert seen == list(range(block))
        return list(candidates[:1])

    for block in opened.stream(ask(opened), choose=choose, ahead=AHEAD):
        seen.append(block.index)
    assert seen


def test_parts_that_are_moved_in_turn_are_used_in_turn(opened, monkeypatch) -> None:
    class Hook:
        def pre_forward(self, vae: object) -> None:
            assert threading.current_thread() is threading.main_thread()

    opened.vae._hf_hook = Hook()
    try:
        assert len(list(opened.stream(ask(opened, 2.0), ahead=AHEAD))) == 3
    finally:
        del opened.vae._hf_hook


# ---- directed takes ----


def test_a_direction_waits_for_one_block_more_at_most(opened, watched, tmp_path) -> None:
    """The block before the last one has been seen when it is asked what changes."""
    request = ask(opened)
    live = LiveTake(opened, request, None, ahead=LIVE_AHEAD, on_block=watched.write)
    asked, directions = [], live._directions

    def logged(block: int):
        watched.log.say("asked", block)
        asked.append(block)
        return directions(block)

    live._directions = logged
    exhaust(iter(live))
    assert asked == list(range(opened.timeline(request).blocks))
    for block in asked[2:]:
        assert ("write done", block - 2) in watched.log.before("asked", block)


def test_what_is_directed_is_made_again(opened, tmp_path) -> None:
    request = ask(opened, 8.0)
    writer = writer_of(opened, request, tmp_path / "take")
    shown: list[int] = []
    live = LiveTake(opened, request, writer, ahead=LIVE_AHEAD, on_block=lambda block: shown.append(block.index))
    blocks = []
    for block in live:
        blocks.append(block)
        assert block.index in shown
        if block.index == 2:
            starts = opened.timeline(request).starts_at
            assert live.blocks_begun == 4
            assert live.direct(OTHER) == starts(4)
        if block.index == 6:
            live.pin((0.6, 1.2))
    record = writer.finish("finished")
    assert live.waited_seconds.keys() == {1}
    assert [cue.block for cue in record.cues] == [4]
    again = list(opened.stream(live.request))
    assert [block.cue for block in again] == [block.cue for block in blocks]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(again, blocks, strict=True))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(again, blocks, strict=True))


def test_a_take_that_is_cancelled_hands_out_what_was_begun(opened, tmp_path) -> None:
    request = ask(opened, 30.0)
    writer = writer_of(opened, request, tmp_path / "take")
    live = LiveTake(opened, request, writer, ahead=LIVE_AHEAD)
    blocks = []
    for block in live:
        blocks.append(block.index)
        if block.index == 2:
            live.cancel()
    record = writer.finish("finished")
    assert blocks == [0, 1, 2, 3]
    assert record.request.seconds == record.video.seconds == 45 / 16
    assert record.latents.blocks == 4


def test_a_directed_take_whose_video_fails_is_as_long_as_what_is_stored(opened, tmp_path) -> None:
    request = ask(opened, 30.0)
    writer = writer_of(opened, request, tmp_path / "take")

    def fill(block: Block) -> None:
        if block.index == 1:
            fill_disk(writer._video, 0)

    live = LiveTake(opened, request, writer, ahead=LIVE_AHEAD, on_block=fill)
    with pytest.raises(OSError, match="No space") as full:
        exhaust(iter(live))
    with suppress(OSError):
        writer.finish("failed", full.value)
    record = read_record(tmp_path / "take")
    stored = LatentStore(tmp_path / "take" / LATENTS).blocks
    assert opened.timeline(record.request).blocks == stored >= 3
    assert resumed(opened, tmp_path / "take").video.blocks == stored


def test_light_takes_are_the_same(opened, tmp_path) -> None:
    request = ask(opened, 3.0)
    for ahead in (0, AHEAD):
        make(opened, request, tmp_path / str(ahead), ahead, checkpoint=CheckpointConfig("light"))
    assert_same(tmp_path / str(AHEAD), tmp_path / "0")
