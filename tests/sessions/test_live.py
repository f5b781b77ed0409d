"""Live takes: directions from other threads, and what was said made again bit for bit."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from backbone.config import ContextConfig, SamplerConfig
from longlive_rag.config import Cue, MemoryConfig, Steering
from longlive_rag.generation.cues import directed_at
from longlive_rag.generation.rollout import Rollout
from longlive_rag.sessions.live import LiveTake
from longlive_rag.takes.cue_files import read_cues
from longlive_rag.takes.record import TakeRun, read_record
from longlive_rag.takes.writer import TakeWriter
from retrieval.selection import selection_of
from retrieval.store import LatentStore

PROMPT, OTHER = "a red circle walks in a meadow", "a blue square jumps in a desert"


def request_of(pipe, seconds=9.0, **settings):
    return pipe.request(PROMPT, seconds=seconds, seed=3, **settings)


def writer_of(pipe, request, folder, **settings):
    run = TakeRun("random", folder, "cpu", "float32", 1, "philox4x64/numpy")
    return TakeWriter(folder, request, pipe.timeline(request), run, **settings)


def latents_of(blocks):
    return torch.cat([block.latents for block in blocks], dim=1)


def same(pipe, request, blocks):
    """Whether a stream of `request` makes these blocks, to the bit."""
    again = list(pipe.stream(request))
    assert [block.cue for block in again] == [block.cue for block in blocks]
    assert [block.selections for block in again] == [block.selections for block in blocks]
    assert torch.equal(latents_of(again), latents_of(blocks))
    assert [block.entered for block in again] == [block.entered for block in blocks]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(again, blocks, strict=True))


def test_what_memory_admits_is_directed_live_and_made_again(pipe):
    live = LiveTake(pipe, request_of(pipe, memory=MemoryConfig(establish=0.5, new_view=0.9995)))
    blocks = []
    for block in live:
        blocks.append(block)
        if block.index == 5:
            live.pin((3.1, 3.5))  # kept out until then
        if block.index == 7:
            live.establish(0)
        if block.index == 9:
            assert live.establish(1, 0.999) == live.seconds
    entered = [frame for block in blocks for frame in block.entered[0]]
    assert 0 < len(entered) < 3 * len(blocks)
    assert set(blocks[6].entered[0]) & set(range(13, 15))
    assert all(block.entered[0] == tuple(block.frames) for block in blocks[8:10])
    starts = pipe.timeline(live.request).starts_at
    assert live.request.memory.steering[1:] == (
        Steering(starts(8), "establish"),
        Steering(starts(10), "establish", establish=1, new_view=0.999),
    )
    same(pipe, live.request, blocks)
    with pytest.raises(ValueError, match="establish is -1"):
        LiveTake(pipe, request_of(pipe)).establish(-1)


def test_what_is_said_of_memory_before_the_first_block_applies_from_there(pipe):
    request = request_of(pipe, memory=MemoryConfig(establish=8, new_view=0.9))
    live = LiveTake(pipe, request, hold=lambda block: block or live.establish(0.5))
    blocks = list(live)
    assert live.request.memory.steering == (Steering(0.0, "establish", establish=0.5),)
    entered = [[frame for block in made for frame in block.entered[0]] for made in (blocks, pipe.stream(request))]
    assert entered == [[1, 2], list(range(1, 33))]
    same(pipe, live.request, blocks)


def test_steps_take_the_place_of_a_number(pipe):
    def entered(memory):
        return [block.entered for block in pipe.stream(request_of(pipe, memory=memory))]

    number = MemoryConfig(establish=0.5, new_view=0.9995)
    told = Steering(3.0, "establish", establish=0.5, new_view="steps")
    assert entered(replace(number, new_view="steps")) == entered(replace(number, new_view=None)) != entered(number)
    steered, timeline = replace(number, steering=(told,)), pipe.timeline(request_of(pipe))
    assert [directed_at(steered, timeline, block).new_view for block in (4, 5)] == [0.9995, "steps"]
    assert entered(steered) != entered(number)


def test_another_policy_picks_from_the_next_block_on(pipe):
    live = LiveTake(pipe, request_of(pipe))
    blocks = []
    for block in live:
        blocks.append(block)
        if block.index == 8:
            assert live.use_policy("stratified") == live.seconds
            with pytest.raises(ValueError, match="no-such"):
                live.use_policy("no-such")
        if block.index == 10:
            assert live.steer(Steering(0, "policy", policy="similar")) == live.seconds
    assert directed_at(live.request.memory, pipe.timeline(live.request), 9).policy == "stratified"
    same(pipe, live.request, blocks)
    plain = list(pipe.stream(replace(live.request, memory=MemoryConfig())))
    stratified = list(pipe.stream(replace(live.request, memory=MemoryConfig(policy="stratified"))))
    chosen, searched, evenly = ([set(b.selections[0].frames) for b in each[9:]] for each in (blocks, plain, stratified))
    assert chosen[0] != searched[0]
    assert chosen[:2] == evenly[:2]
    assert chosen[2] != evenly[2]
    with pytest.raises(ValueError, match="no-such"):
        pipe.check(replace(live.request, memory=MemoryConfig(steering=(Steering(1, "policy", policy="no-such"),))))


def test_takes_of_a_batch_with_different_pasts_are_gated_as_if_alone(pipe):
    memory = MemoryConfig(establish=0.5, new_view=0.9995)
    requests = [replace(request_of(pipe, memory=memory), seed=seed) for seed in (3, 4)]
    together = list(pipe.stream(requests))
    entered = [[block.entered[take] for block in together] for take in (0, 1)]
    assert entered[0] != entered[1]
    for take, request in enumerate(requests):
        alone = list(pipe.stream(request))
        assert [block.entered[0] for block in alone] == entered[take]
        chosen = [[selection_of(b.selections, t) for b in blocks] for blocks, t in ((alone, 0), (together, take))]
        assert [s and s.frames for s in chosen[0]] == [s and s.frames for s in chosen[1]]
        torch.testing.assert_close(latents_of(together)[take], latents_of(alone)[0])
    counts = [{len(selection.frames) for selection in block.selections} for block in together]
    assert any(len(each) > 1 for each in counts)  # where one take remembers fewer frames, attention leaves places out


def test_what_was_said_makes_the_same_take_again(pipe, tmp_path):
    request = request_of(pipe)
    live = LiveTake(pipe, request, writer := writer_of(pipe, request, tmp_path / "take"))
    blocks = []
    for block in live:
        blocks.append(block)
        if block.index == 3:
            live.direct("nobody reads this")
            live.direct(OTHER)  # she has changed her mind
        if block.index == 6:
            assert live.pin((0.6, 1.2)) == live.seconds
        if block.index == 7:
            live.exclude((2.0, 2.4))
            live.direct("a green triangle sleeps", at=7.6)
    record = writer.finish("finished")
    starts = pipe.timeline(request).starts_at
    made = live.request
    assert made.cues == (Cue(starts(4), OTHER), Cue(starts(11), "a green triangle sleeps"))
    assert made.memory.steering == (Steering(starts(7), "pin", 0.6, 1.2), Steering(starts(8), "exclude", 2.0, 2.4))
    assert made.seconds == request.seconds
    same(pipe, made, blocks)
    # and from the record, as `generate --cues` reads it
    schedule = read_cues(tmp_path / "take", 16).schedule()
    assert (schedule.cues, schedule.steering, schedule.seconds) == (made.cues, made.memory.steering, 9.0)
    assert [cue.block for cue in record.cues] == [4, 11]
    assert live.waited_seconds.keys() == {1, 2}
    assert not torch.equal(latents_of(blocks), latents_of(pipe.stream(request)))


def test_the_first_prompt_can_be_replaced_but_not_taken_back(pipe):
    live = LiveTake(pipe, request_of(pipe))
    assert live.direct(OTHER) == 0.0
    with pytest.raises(ValueError, match="the first prompt can only be replaced"):
        live.withdraw(0.0)
    assert live.request.prompt == OTHER


def test_directions_and_steering_are_taken_back(pipe, tmp_path):
    request = request_of(pipe, cues=[(4.0, "never seen")])
    live = LiveTake(pipe, request, writer_of(pipe, request, tmp_path / "take"))
    starts, blocks = pipe.timeline(request).starts_at, []
    for block in live:
        blocks.append(block)
        if block.index == 1:
            second = live.direct(OTHER, at=6.0)
            live.withdraw(4.0)
            with pytest.raises(ValueError, match="no direction takes over there"):
                live.withdraw(4.0)
        if block.index == 2:  # what is planned is on the record before it takes over
            record = read_record(tmp_path / "take").request
            assert (record.seconds, record.cues) == (9.0, (Cue(second, OTHER),))
        if block.index == 3:
            live.pin((0.6, 1.2))
            live.exclude((1.4, 1.6))
        if block.index == 6:
            assert live.unpin((0.6, 1.2)) == starts(7)
            live.unexclude((1.4, 1.6))
            live.exclude((0.6, 1.2))  # which would not go while it is pinned
            with pytest.raises(ValueError, match=r"0\.6-1\.2 s is not pinned; pinned so far: nothing"):
                live.unpin((0.6, 1.2))
    assert live.request.cues == (Cue(second, OTHER),)
    memory = live.request.memory
    assert [steer.verb for steer in memory.steering] == ["pin", "exclude", "unpin", "unexclude", "exclude"]
    assert memory.with_steering(memory.steering).exclude == ((0.6, 1.2),)
    same(pipe, live.request, blocks)


def test_a_take_that_ends_early_can_stay_as_it_was_asked_for(pipe, tmp_path):
    request = request_of(pipe)
    for keeps in (False, True):
        writer = writer_of(pipe, request, tmp_path / f"{keeps}")
        live = LiveTake(pipe, request, writer, keeps_length=keeps)
        for block in live:
            if block.index == 2:
                live.cancel()
        assert (writer.finish("interrupted").request.seconds == 9.0) is keeps


def test_a_direction_from_another_thread_takes_over_at_the_next_block(pipe):
    live = LiveTake(pipe, request_of(pipe, 6.0))
    begun, said = threading.Event(), []

    def director():
        begun.wait()
        said.append(live.direct(OTHER))

    thread = threading.Thread(target=director)
    thread.start()
    blocks = []
    for block in live:
        blocks.append(block)
        if block.index == 1:
            begun.set()
            thread.join()
    assert said == [pipe.timeline(live.request).starts_at(2)]
    assert [block.index for block in blocks if block.cue] == [2]
    same(pipe, live.request, blocks)


@pytest.mark.parametrize("steps", [(1000, 500), (1000,)], ids=["two steps", "one step"])
def test_what_is_said_is_seen_a_quarter_of_a_second_later_where_a_block_is_one_frame(pipe, steps):
    context = ContextConfig(window_frames=6, sink_frames=1, memory_frames=3, recency_guard_frames=2, frames_per_block=1)
    request = request_of(pipe, 3.5, context=context, sampler=SamplerConfig(steps))
    live, blocks = LiveTake(pipe, request), []
    for block in live:
        blocks.append(block)
        if block.index == 10:
            made_s = block.pixel_frames.stop / 16
            assert live.direct(OTHER) == live.seconds == made_s
        if block.index == 11:
            assert live.pin((0.1, 0.4)) == live.seconds == made_s + 0.25
    plain = list(pipe.stream(request))
    assert torch.equal(latents_of(plain[:11]), latents_of(blocks[:11]))
    assert not torch.allclose(plain[11].latents, blocks[11].latents)
    assert [block.index for block in blocks if block.cue] == [11]
    assert all({1, 2} & set(block.selections[0].frames) for block in blocks[12:])
    same(pipe, live.request, blocks)


def test_cancelled_between_blocks(pipe, tmp_path):
    request = request_of(pipe, 60.0, cues=[(30.0, OTHER)])
    request = replace(request, memory=replace(request.memory, pin=((20.0, 21.0),)))
    writer = writer_of(pipe, request, tmp_path / "take")
    live, blocks = LiveTake(pipe, request, writer), []
    for block in live:
        blocks.append(block)
        if block.index == 2:
            assert live.direct(OTHER, at=50.0) > 49
            live.cancel()
            with pytest.raises(ValueError, match="the take has ended"):
                live.direct(OTHER)
    record = writer.finish("finished")
    assert [block.index for block in blocks] == [0, 1, 2]
    assert record.request.seconds == record.video.seconds == 33 / 16
    assert (record.status, record.request.cues, record.request.memory.pin) == ("finished", (), ())
    assert LatentStore(tmp_path / "take" / "latents").blocks == 3
    same(pipe, live.request, blocks)


def test_it_is_on_the_record_while_it_runs(pipe, tmp_path):
    request = request_of(pipe, 6.0)
    live = LiveTake(pipe, request, writer_of(pipe, request, tmp_path / "take"))
    for block in live:
        if block.index == 0:
            live.direct(OTHER)
            live.direct("later", at=5.0)
        if block.index == 1:
            record = read_record(tmp_path / "take")
            assert record.status == "running"
            assert [cue.prompt for cue in record.cues] == [OTHER, "later"]
            assert record.request.seconds == 6.0
            break


def test_a_take_is_gone_on_with(pipe, tmp_path):
    whole = request_of(pipe, 6.0, cues=[(1.0, OTHER)])
    whole = replace(whole, memory=replace(whole.memory, steering=(Steering(1.2, "exclude", 0.2, 0.5),)))
    uninterrupted = list(pipe.stream(replace(whole, cues=(*whole.cues, Cue(5.0, PROMPT)))))
    first = replace(whole, seconds=33 / 16)
    writer = writer_of(pipe, first, tmp_path / "take")
    for block in pipe.stream(first, stores=[writer]):
        writer.add(block)
    writer.finish("finished")
    going_on = writer_of(pipe, whole, tmp_path / "take", event="extended")
    live = LiveTake(pipe, whole, going_on)
    assert live.seconds == pipe.timeline(whole).starts_at(3)
    with pytest.raises(ValueError, match="the take is already at 2"):
        live.direct(PROMPT, at=1.0)
    live.direct(PROMPT, at=5.0)
    new = []
    for block in live:
        new += [block] if block.index >= 3 else []
        if block.index == 4:
            going_on.update(live.request, pipe.timeline(live.request))
            assert read_record(tmp_path / "take").video.frames == 33  # what a kill would leave, and no less
    record = going_on.finish("finished")
    assert torch.equal(latents_of(new), latents_of(uninterrupted[3:]))
    frames = {frame for block in new for selection in block.selections for frame in selection.frames}
    assert frames
    assert not frames & set(pipe.timeline(whole).latents_between(0.2, 0.5))
    assert [cue.prompt for cue in record.cues] == [OTHER, PROMPT]
    assert record.video.frames == 96


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (lambda live: live.direct(" "), "the prompt is empty"),
        (lambda live: live.direct("red " * 4000), "too long"),
        (lambda live: live.direct("red", at=0.1), "at is 0.1 s, but the take is already at"),
        (lambda live: live.direct("red", at=float("nan")), "at is nan"),
        (lambda live: live.direct("red", at=5.9), "at is 5.9 s; the take ends at 6 s"),
        (lambda live: live.pin((4.0, 5.0)), "not made yet"),
        (lambda live: live.pin((1.0, 0.5)), "end after it begins"),
        (lambda live: live.exclude((0.1, 0.4)), "0-0.5 s, but 0.1-0.4 s is excluded"),
    ],
)
def test_what_can_not_be(pipe, say, message):
    live = LiveTake(pipe, request_of(pipe, 6.0))
    for block in live:
        if block.index == 1:
            live.pin((0.0, 0.5))
            with pytest.raises(ValueError, match=message):
                say(live)
            live.cancel()
    assert len(live.request.memory.steering) <= 1


def test_the_first_prompt_may_still_be_changed_before_the_first_block(pipe):
    live = LiveTake(pipe, request_of(pipe, 1.0))
    assert live.direct(OTHER) == 0.0
    blocks = list(live)
    assert (live.request.prompt, live.request.cues, blocks[0].prompt) == (OTHER, (), OTHER)
    with pytest.raises(ValueError, match="the take has ended"):
        live.direct(PROMPT)


def test_a_cut_is_directed_live_and_made_again(pipe, tmp_path):
    request = request_of(pipe)
    live = LiveTake(pipe, request, writer_of(pipe, request, tmp_path / "take"))
    with pytest.raises(ValueError, match="a cut must come after it"):
        live.direct(OTHER, cut=True)
    blocks = []
    for block in live:
        blocks.append(block)
        if block.index == 2:
            first = live.direct(OTHER, cut=True)
            gone, changed = (live.direct(OTHER, at=first + later, cut=True) for later in (2, 4))
        if block.index == 4:
            live.withdraw(gone)
            live.direct(PROMPT, at=gone)
            live.direct(PROMPT, at=changed, cut=True)
            live.direct(OTHER, at=changed)
    cues = live.request.cues
    assert [(cue.prompt, cue.cut) for cue in cues] == [(OTHER, True), (PROMPT, False), (OTHER, False)]
    same(pipe, live.request, blocks)
    assert read_record(tmp_path / "take").request == live.request


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_take_that_is_parked_ends_with_a_checkpoint_whatever_runs_behind(pipe, tmp_path, ahead):
    request = request_of(pipe)
    writer = writer_of(pipe, request, tmp_path / "take")
    live = LiveTake(pipe, request, writer, keeps_length=True, ahead=ahead)
    whole = []
    for block in live:
        whole.append(block)
        if block.index == 1:
            live.park()
    writer.finish("interrupted")
    assert writer.checkpoints.numbers()[-1] == len(whole) == writer.blocks < 2 + 1 + ahead + 2
    rest = list(LiveTake(pipe, request, writer_of(pipe, request, tmp_path / "take", event="resumed")))
    same(pipe, request, [*whole, *(block for block in rest if block.index >= len(whole))])


def test_what_comes_after_the_last_block_has_begun_is_refused_as_a_cue_is(pipe):
    live, said = LiveTake(pipe, request_of(pipe)), []
    orders = (
        lambda: live.direct("a blue square jumps"), lambda: live.pin((0, 1)), lambda: live.exclude((0, 1)),
        lambda: live.unpin((0, 1)), lambda: live.establish(2.0), lambda: live.use_policy("stratified"),
    )  # fmt: skip
    for block in live:
        if block.pixel_frames.stop == live.asked.pixel_frames:
            for order in orders:
                with pytest.raises(ValueError, match="has ended") as refused:
                    order()
                said.append(str(refused.value))
    assert said == ["the take has ended and takes no more directions"] * len(orders)
    assert live.request.memory.steering == ()


def test_a_parked_take_has_a_checkpoint_where_it_ends_and_resuming_runs_no_block_again(pipe, tmp_path, monkeypatch):
    request = request_of(pipe)
    live = LiveTake(pipe, request, writer := writer_of(pipe, request, tmp_path / "take"), keeps_length=True)
    whole = []
    decode = pipe._decode

    def parked_meanwhile(decoder, latents, cut):
        if writer.blocks == 5:
            live.park()
        return decode(decoder, latents, cut)

    monkeypatch.setattr(pipe, "_decode", parked_meanwhile)
    whole += live
    assert [block.index for block in whole] == [0, 1, 2, 3, 4, 5]  # the fifth was past the point already
    with pytest.raises(ValueError, match="takes no more directions"):
        live.direct(OTHER)
    writer.finish("interrupted")
    assert writer.checkpoints.numbers()[-1] == 6
    monkeypatch.undo()
    ran = []
    monkeypatch.setattr(Rollout, "replay", lambda *_: ran.append("a block"))
    again = writer_of(pipe, request, tmp_path / "take", event="resumed")
    live = LiveTake(pipe, request, again, keeps_length=True)
    live.park()  # nothing is new: it ends with what is there
    assert all(block.index < 6 for block in live)
    again.finish("interrupted")
    rest = list(LiveTake(pipe, request, writer_of(pipe, request, tmp_path / "take", event="resumed")))
    whole += [block for block in rest if block.index >= 6]
    assert ran == []
    same(pipe, request, whole)


def test_a_take_that_is_parked_too_late_for_a_block_makes_another_one(pipe, tmp_path):
    request = request_of(pipe)
    live = LiveTake(pipe, request, writer := writer_of(pipe, request, tmp_path / "take"), keeps_length=True)
    for block in live:
        if block.index == 3:
            live.park()
    assert block.index == 4
    assert 5 in writer.checkpoints.numbers()
