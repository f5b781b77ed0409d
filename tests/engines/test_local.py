"""Takes by two worker processes: equal to those made without an engine, directed, parked, killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig, Cue, Steering
from longlive_rag.engines.engine import Branch, Extend, Resume, Undo, UnknownSessionError
from longlive_rag.engines.local import devices_of
from longlive_rag.engines.supervisor import Limits
from longlive_rag.sessions.opening import Opening
from longlive_rag.studio.library import Takes
from longlive_rag.takes.record import read_record
from tests.engines.making import (
    OTHER,
    PATIENCE_S,
    PROMPT,
    ended,
    engine_at,
    has_blocks,
    kill_worker_of,
    make_order,
    request_of,
    unlike_undisturbed,
    wait_for,
)

ROOT = Path(__file__).parents[2]


def test_takes_are_those_that_generate_makes(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    heard = []
    end = engine.watch(heard.append)
    sessions = [
        engine.submit(make_order(pipeline_folder, tmp_path / f"take{seed}", seed, 2.0 + seed)) for seed in range(4)
    ]
    facts = [ended(engine, session) for session in sessions]
    end()
    assert [each.state for each in facts] == ["finished"] * 4
    assert {each.worker for each in heard if each.worker} == {"local-0 (cpu)", "local-1 (cpu)"}
    for seed, (session, last) in enumerate(zip(sessions, facts, strict=True)):
        own = [each for each in heard if each.id == session]
        assert [each.state for each in own][:2] == ["queued", "running"]
        made = [each.blocks for each in own if each.state == "running" and each.total_blocks]
        assert made == list(range(last.total_blocks + 1))
        assert (last.seconds_made, last.seconds_asked, last.restarts) == (2.0 + seed, 2.0 + seed, 0)
        assert last.stage_seconds["decode"] > 0
        assert own[-2].blocks_per_second > 0 == last.blocks_per_second
        assert read_record(tmp_path / f"take{seed}").request == request_of(pipeline_folder, seed, 2.0 + seed)
        assert unlike_undisturbed(pipeline_folder, tmp_path / f"take{seed}", tmp_path / f"whole{seed}") == []
    assert [each.id for each in engine.sessions() if each.id in sessions] == sessions
    engine.forget(sessions[0])
    with pytest.raises(UnknownSessionError):
        engine.facts(sessions[0])


def test_directed_steered_and_killed_at_once_nothing_that_was_said_is_lost(
    engine, pipeline_folder: Path, tmp_path: Path
) -> None:
    session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 3, 14.0))
    wait_for(engine, session, has_blocks(2))
    second = engine.direct(session, OTHER)
    assert kill_worker_of(engine, session)
    with pytest.raises(ValueError, match=r"is queued|no blocks yet|no more directions"):
        engine.direct(session, OTHER)
    wait_for(engine, session, lambda facts: facts.state == "running" and facts.blocks >= 5)
    later = engine.direct(session, PROMPT, at=12.0, cut=True)
    pinned = engine.steer(session, Steering(0.0, "pin", 0.5, 1.5))
    released = engine.steer(session, Steering(0.0, "unpin", 0.5, 1.5))
    assert kill_worker_of(engine, session)
    facts = ended(engine, session)
    assert (facts.state, facts.restarts) == ("finished", 2)
    request = read_record(tmp_path / "take").request
    assert request.cues == (Cue(second, OTHER), Cue(later, PROMPT, cut=True))
    assert [(each.seconds, each.verb) for each in request.memory.steering] == [(pinned, "pin"), (released, "unpin")]
    assert unlike_undisturbed(pipeline_folder, tmp_path / "take", tmp_path / "whole") == []


def settled(count: Callable[[], int]) -> int:
    """A count as soon as it stays: a thread that was joined is listed for a moment longer."""
    before, now = -1, count()
    while now != before:
        time.sleep(0.1)
        before, now = now, count()
    return now


def test_a_worker_keeps_nothing_of_the_takes_it_made(pipeline_folder: Path, tmp_path: Path) -> None:
    with closing(engine_at(tmp_path / "state", 1)) as engine:
        threads = []
        for seed in range(4):
            session = engine.submit(make_order(pipeline_folder, tmp_path / f"take{seed}", seed, 2.0))
            assert ended(engine, session).state == "finished"
            threads.append(settled(psutil.Process(engine.workers()[0].pid).num_threads))
    assert threads == [threads[0]] * 4  # an encoder has threads of its own for as long as its take is remembered


def test_held_where_it_was_said_with_all_that_was_made_to_be_seen(
    engine, pipeline_folder: Path, tmp_path: Path
) -> None:
    heard = []
    end = engine.watch(heard.append)
    session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 6, 12.0), last_block=4)
    wait_for(engine, session, has_blocks(5))
    takes = Takes(tmp_path)
    assert len(takes.film(takes.id_of(tmp_path / "take")).stamps) == 5  # and the next one is not begun
    first = engine.facts(session).take
    timeline = first.timeline
    second, later, gone = (engine.direct(session, OTHER, at) for at in (None, 8.0, 10.0))
    assert second == timeline.starts_at(5)
    engine.withdraw(session, gone)
    with pytest.raises(FieldError, match="no direction takes over there"):
        engine.withdraw(session, gone)
    assert [cue.seconds for cue in engine.facts(session).asked.cues] == [second, later]
    assert kill_worker_of(engine, session)
    wait_for(
        engine, session, lambda facts: facts.take is not first and facts.block is not None and facts.block.index == 4
    )
    assert engine.direct(session, PROMPT, later) == later  # in place of the other one
    engine.withdraw(session, later)
    engine.pace(session, 5)
    wait_for(engine, session, has_blocks(6))
    assert engine.facts(session).blocks_begun == 6
    assert kill_worker_of(engine, session)
    engine.pace(session, None)
    assert ended(engine, session).restarts == 2
    end()
    assert read_record(tmp_path / "take").request.cues == (Cue(second, OTHER),)
    assert unlike_undisturbed(pipeline_folder, tmp_path / "take", tmp_path / "whole") == []
    opened = [[]]
    for before, facts in pairwise(each for each in heard if each.id == session):
        if facts.take is not before.take:
            opened.append([facts.take.blocks_shown])
        if facts.block is not None and facts.block is not before.block:
            opened[-1].append(facts.block.index)
    assert len(opened) == 4
    for shown, *blocks in opened[1:]:
        assert blocks == list(range(shown, blocks[-1] + 1))
    last = heard[-1].block
    assert (last.index, last.stop_frame, last.prompt) == (timeline.blocks - 1, timeline.pixel_frames, OTHER)
    record = read_record(tmp_path / "take")
    chosen = {each.block.selection for each in heard if each.id == session and each.block is not None}
    assert chosen - {None} == set(record.selections)


def test_undone_and_branched_with_other_noise(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    take = tmp_path / "take"
    ended(engine, engine.submit(make_order(pipeline_folder, take, 5, 6.0, cues=(Cue(1.0, OTHER), Cue(4.0, PROMPT)))))
    undone = engine.submit(Undo(take, tmp_path / "undone", 3, 8.0, str(pipeline_folder)))
    branch = engine.submit(Branch(take, tmp_path / "branch", 2.0, OTHER, seed=9, cut=True))
    assert [ended(engine, each).seconds_made for each in (undone, branch)] == [8.0, 6.0]
    request = read_record(tmp_path / "undone").request
    assert [cue.prompt for cue in request.cues] == [OTHER]
    assert unlike_undisturbed(pipeline_folder, tmp_path / "undone", tmp_path / "whole") == []
    record = read_record(tmp_path / "branch")
    assert [each.seed for each in record.request.reseeds] == [9]
    assert [cue.cut for cue in record.request.cues] == [False, True]
    for blocks in (0, 99):
        with pytest.raises(FieldError, match=f"block is {blocks}"):
            engine.submit(Undo(take, tmp_path / "other", blocks, 8.0))


def test_refused_directions_say_why(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 3, 10.0))
    wait_for(engine, session, has_blocks(2))
    with pytest.raises(FieldError, match="at is 0 s, but the take is already at") as refused:
        engine.direct(session, OTHER, at=0.0)
    assert refused.value.field == "at"
    with pytest.raises(ValueError, match="not made yet"):
        engine.steer(session, Steering(0.0, "pin", 8.0, 9.0))
    engine.stop(session)
    assert ended(engine, session).state == "stopped"
    assert not read_record(tmp_path / "take").request.cues
    with pytest.raises(ValueError, match="is stopped; it takes directions while it runs"):
        engine.direct(session, OTHER)


def test_parked_with_a_checkpoint_where_it_stopped_and_woken(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 4, 10.0))
    wait_for(engine, session, has_blocks(4))
    engine.park(session)
    facts = wait_for(engine, session, lambda each: each.state == "parked")
    assert (tmp_path / "take" / "checkpoints" / f"{facts.blocks:06d}.safetensors").exists()
    assert facts.worker is None
    assert facts.blocks < facts.total_blocks
    assert read_record(tmp_path / "take").status == "interrupted"
    engine.wake(session)
    with pytest.raises(ValueError, match="only a parked one can be woken"):
        engine.wake(session)
    assert ended(engine, session).restarts == 0
    assert unlike_undisturbed(pipeline_folder, tmp_path / "take", tmp_path / "whole") == []
    with pytest.raises(ValueError, match="has ended: it is finished"):
        engine.park(session)


def test_held_for_long_it_is_parked_and_goes_on_when_it_is_directed_bit_for_bit(
    pipeline_folder: Path, tmp_path: Path
) -> None:
    with closing(engine_at(tmp_path / "state", 1, Limits(held_s=0.5))) as engine:
        session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 4, 8.0), last_block=2)
        facts = wait_for(engine, session, lambda each: each.state == "parked")
        assert (facts.blocks, facts.worker) == (3, None)  # none was begun to leave it
        other = engine.submit(make_order(pipeline_folder, tmp_path / "other", 5, 2.0))
        assert ended(engine, other).state == "finished"
        second = engine.direct(session, OTHER)
        assert second == facts.take.timeline.starts_at(3)
        wait_for(engine, session, lambda each: each.state == "parked")
        engine.pace(session, None)
        assert ended(engine, session).restarts == 0
    assert read_record(tmp_path / "take").request.cues == (Cue(second, OTHER),)
    assert unlike_undisturbed(pipeline_folder, tmp_path / "take", tmp_path / "whole") == []


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_light_take_that_is_parked_stores_no_checkpoint_and_goes_on_bit_for_bit(
    pipeline_folder: Path, tmp_path: Path, by_hand: bool
) -> None:
    take = tmp_path / "take"
    order = replace(make_order(pipeline_folder, take, 4, 10.0), checkpoints=CheckpointConfig("light"))
    with closing(engine_at(tmp_path / "state", 1, Limits(held_s=60.0 if by_hand else 0.3))) as engine:
        session = engine.submit(order, last_block=10)  # more than light runs again by itself
        wait_for(engine, session, has_blocks(11))
        if by_hand:
            engine.park(session)
        assert wait_for(engine, session, lambda each: each.state == "parked").blocks == 11
        engine.pace(session, None)
        if by_hand:
            engine.wake(session)
        assert ended(engine, session).state == "finished"
    assert read_record(take).checkpoints.mode == "light"
    assert not (take / "checkpoints").exists()
    assert unlike_undisturbed(pipeline_folder, take, tmp_path / "whole") == []


def test_stopped_resumed_extended_and_branched(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    take = tmp_path / "take"
    first = engine.submit(make_order(pipeline_folder, take, 5, 6.0))
    wait_for(engine, first, has_blocks(2))
    engine.stop(first)
    assert ended(engine, first).state == "stopped"
    assert ended(engine, engine.submit(Resume(take))).seconds_made == 6.0
    longer = engine.submit(Extend(take, 4.0, OTHER))
    other = engine.submit(Branch(take, tmp_path / "branch", 2.0, OTHER, 9.0))
    wait_for(engine, longer, has_blocks(10))  # one of them is new, so that the record says how long it is to be
    assert kill_worker_of(engine, longer)
    assert [ended(engine, each).seconds_made for each in (longer, other)] == [10.0, 9.0]
    assert [cue.prompt for cue in read_record(take).request.cues] == [OTHER]
    assert unlike_undisturbed(pipeline_folder, take, tmp_path / "whole") == []
    assert unlike_undisturbed(pipeline_folder, tmp_path / "branch", tmp_path / "other") == []


def test_bad_orders_are_refused_before_they_are_queued(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    good = make_order(pipeline_folder, tmp_path / "take", 0)
    (tmp_path / "file").write_text("")
    output = replace(good.request.output, width=50)
    bad = {
        "backbone": replace(good, backbone="no-such"),
        "width is 50": replace(good, request=replace(good.request, output=output)),
        "cue 1 is at": replace(good, request=replace(good.request, cues=(Cue(3.9, OTHER),))),
        "file is a file": replace(good, folder=tmp_path / "file"),
        "policy": replace(good, request=replace(good.request, memory=replace(good.request.memory, policy="no-such"))),
        "device is 'cpu'": replace(good, opening=Opening(device="cpu")),
        "license policy 'commercial'": replace(good, labels=replace(good.labels, license_policy="commercial")),
        "is not a take": Resume(tmp_path),
        "no-such is not a take: it does not exist": Extend(tmp_path / "no-such", 3.0),
    }
    before = len(engine.sessions())
    for words, order in bad.items():
        with pytest.raises(ValueError, match=words):
            engine.submit(order)
    assert len(engine.sessions()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
    session = engine.submit(good)
    with pytest.raises(FieldError, match=f"session {session} is making it"):
        engine.submit(replace(good, request=replace(good.request, seed=9)))
    ended(engine, session)
    with pytest.raises(ValueError, match="already holds a take"):
        engine.submit(good)
    for words, order in {
        "already has its requested length": Resume(good.folder),
        "seconds is -1": Extend(good.folder, -1.0),
        "at is 99 s": Branch(good.folder, tmp_path / "branch", 99.0),
    }.items():
        with pytest.raises(FieldError, match=words):
            engine.submit(order)


def test_what_only_the_backbone_can_tell_fails_the_session_alone(engine, pipeline_folder: Path, tmp_path: Path) -> None:
    session = engine.submit(make_order(pipeline_folder, tmp_path / "take", 0, prompt="word " * 500))
    while engine.facts(session).state in ("queued", "running"):
        time.sleep(0.01)
    assert engine.facts(session).state == "failed"
    assert "tokens" in (engine.facts(session).error or "")
    assert not (tmp_path / "take").exists()


def kill_at_random(backbone: Path, folder: Path, kills: int, seed: int) -> list[str]:
    """Kill workers of two takes at random moments; what is not as without."""
    chance = random.Random(seed)
    engine = engine_at(folder / "state", limits=Limits(deaths=kills + 1))
    orders = {f"take{seed}": make_order(backbone, folder / f"take{seed}", seed, 16.0) for seed in (0, 1)}
    sessions = {name: engine.submit(order) for name, order in orders.items()}
    done = 0
    while done < kills:
        time.sleep(chance.uniform(0, 0.5))
        running = [each.id for each in engine.sessions() if each.state == "running"]
        if not running:
            assert any(each.state == "queued" for each in engine.sessions()), f"all have ended after {done} kills"
            continue
        done += kill_worker_of(engine, chance.choice(running))
    found = []
    for name, session in sessions.items():
        assert ended(engine, session).state == "finished"
        found += unlike_undisturbed(backbone, folder / name, folder / f"whole-{name}")
    assert sum(each.restarts for each in engine.sessions()) == kills
    engine.close(0)
    return found


def test_takes_whose_workers_are_killed_are_as_if_nothing_had_happened(pipeline_folder: Path, tmp_path: Path) -> None:
    assert kill_at_random(pipeline_folder, tmp_path, 3, seed=1) == []


@pytest.mark.slow
def test_ten_random_moments(pipeline_folder: Path, tmp_path: Path) -> None:
    assert kill_at_random(pipeline_folder, tmp_path, 10, seed=2) == []


def test_a_graceful_end_parks_what_runs_and_the_next_engine_goes_on(pipeline_folder: Path, tmp_path: Path) -> None:
    first = engine_at(tmp_path / "state", workers=1)
    names = ("a", "b", "c")
    sessions = [first.submit(make_order(pipeline_folder, tmp_path / name, 1, 8.0)) for name in names]
    first.park(sessions[2])
    wait_for(first, sessions[0], has_blocks(3))
    second_said = first.direct(sessions[0], OTHER)
    for number in (signal.SIGTERM, signal.SIGINT):  # as a service that is stopped, or Ctrl-C, sends to all processes
        os.kill(first.workers()[0].pid, number)
    with pytest.raises(ValueError, match="being written by another process"):
        engine_at(tmp_path / "state")
    begin_s = time.monotonic()
    first.close(10.0)
    assert time.monotonic() - begin_s < 10
    assert read_record(tmp_path / "a").status == "interrupted"
    assert not (tmp_path / "b").exists()
    second = engine_at(tmp_path / "state", workers=1)
    assert [each.id for each in second.sessions()] == sessions
    assert second.facts(sessions[2]).state == "parked"
    second.wake(sessions[2])
    assert [ended(second, each).restarts for each in sessions] == [0, 0, 0]
    second.close()
    assert read_record(tmp_path / "a").request.cues == (Cue(second_said, OTHER),)
    for name in names:
        assert unlike_undisturbed(pipeline_folder, tmp_path / name, tmp_path / f"whole-{name}") == []


SERVER = """
import os, signal, sys
from pathlib import Path
from tests.engines.making import engine_at, has_blocks, make_order, wait_for
backbone, folder = map(Path, sys.argv[1:])
engine = engine_at(folder / "state", workers=1)
one, two = (engine.submit(make_order(backbone, folder / name, 2, 12.0)) for name in ("a", "b"))
wait_for(engine, one, has_blocks(3))
print(engine.direct(one, "a blue square jumps in a desert"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_server_loses_no_session(pipeline_folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SERVER, str(pipeline_folder), str(tmp_path)]
    server = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.returncode == -signal.SIGKILL
    said = float(server.stdout)
    engine = engine_at(tmp_path / "state", workers=1)
    one, two = (each.id for each in engine.sessions())
    assert [ended(engine, each).state for each in (one, two)] == ["finished", "finished"]
    engine.close()
    assert read_record(tmp_path / "a").request.cues == (Cue(said, OTHER),)
    for name in ("a", "b"):
        assert unlike_undisturbed(pipeline_folder, tmp_path / name, tmp_path / f"whole-{name}") == []


WITHOUT_TORCH = """
import sys, time
from pathlib import Path
from longlive_rag.engines.engine import Extend, Make
from longlive_rag.engines.local import local_engine
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions.asking import build_request

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    request = build_request(load_preset("tiny-world"), Schedule("a red circle walks in a meadow", (), 1.0), 0, {})
    engine = local_engine(folder / "state", workers=1, device="cpu")
    for order in (Make("tiny-world", request, folder / "take"), Extend(folder / "take", 1.0)):
        session = engine.submit(order)
        while engine.facts(session).state in ("queued", "running"):
            time.sleep(0.05)
    print(engine.facts(session).state, "torch" in sys.modules)
"""


def test_the_server_never_imports_torch_and_ends_though_nobody_closes_it(tmp_path: Path) -> None:
    script = tmp_path / "server.py"  # a file: its workers are spawned
    script.write_text(WITHOUT_TORCH)
    words, place = [sys.executable, str(script), str(tmp_path)], {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, env=place)
    assert ran.stdout.split() == ["finished", "False"]


def test_devices_are_checked() -> None:
    assert devices_of("cpu", None) == ["cpu"]
    assert devices_of("cpu", 3) == ["cpu"] * 3
    for device, workers, words in (("tpu", None, "device is 'tpu'"), ("cpu", 0, "workers is 0")):
        with pytest.raises(FieldError, match=words):
            devices_of(device, workers)
