"""Who waits, who is next, and what becomes of a session whose worker is lost; workers that make nothing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from backbone.errors import FieldError
from longlive_rag.config import Cue, Steering
from longlive_rag.documents import read_document
from longlive_rag.engines import supervisor
from longlive_rag.engines.engine import (
    BlockFacts,
    Branch,
    Engine,
    Extend,
    QueueFullError,
    Resume,
    Undo,
    UnknownSessionError,
)
from longlive_rag.engines.messages import (
    Answer,
    Begin,
    BlockMade,
    Direct,
    End,
    Ended,
    FromWorker,
    Leave,
    Opened,
    Pace,
    Ready,
    Steer,
    ToWorker,
    Withdrawn,
)
from longlive_rag.engines.state import SUFFIX, KeptSession, StateFolder
from longlive_rag.engines.supervisor import Limits, Supervisor
from tests.engines.making import OTHER, PROMPT, make_order

PATIENCE_S = 60.0


class ScriptedLink:
    """A worker that does what a test says."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.says: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self.killed = threading.Event()

    def tell(self, message: ToWorker) -> None:
        self.told.put(message)
        if isinstance(message, Leave):
            self.says.put(Ended(message.session, "parked" if message.parked else "stopped"))
        if isinstance(message, End):
            self.killed.set()

    def messages(self) -> Iterator[FromWorker | None]:
        while not self.killed.is_set():
            try:
                yield self.says.get(timeout=0.01)
            except queue.Empty:
                yield None

    def kill(self) -> None:
        self.killed.set()

    def heard(self, kind: type) -> ToWorker:
        """The next message that it was told, of this kind."""
        message = self.told.get(timeout=PATIENCE_S)
        assert isinstance(message, kind), message
        return message


class Scripted:
    """A kind of such workers."""

    kind = "scripted"

    def __init__(self, count: int = 1, idle_s: float | None = None, broken: int = 0) -> None:
        self.count, self.idle_s, self.broken = count, idle_s, broken
        self.started: queue.SimpleQueue[ScriptedLink] = queue.SimpleQueue()
        self.starts = 0

    def start(self, number: int) -> ScriptedLink:
        self.starts += 1
        if self.starts <= self.broken:
            raise OSError("no process can be started")
        link = ScriptedLink()
        link.says.put(Ready(f"place {number}", 1000 + number))
        self.started.put(link)
        return link

    def next(self) -> ScriptedLink:
        """The worker that was started next."""
        return self.started.get(timeout=PATIENCE_S)

    def close(self) -> None:
        pass


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    """Starts an engine over scripted workers, which has ended when the test has."""
    made: list[Supervisor] = []

    def begin(workers: Scripted, **settings) -> Supervisor:
        made.append(Supervisor(workers, tmp_path / "state", **settings))
        return made[-1]

    yield begin
    for engine in made:
        engine.close(0)


@pytest.fixture
def submit(pipeline_folder: Path, tmp_path: Path) -> Callable[..., str]:
    return lambda engine, name, owner="": engine.submit(make_order(pipeline_folder, tmp_path / name, 0), owner)


def made(session: str, blocks: int, decode_s: float = 0.0, memory_bytes: int = 0) -> BlockMade:
    """What a worker says after so many blocks of 0.75 s."""
    block = BlockFacts(blocks - 1, 12 * blocks - 3, None, (), PROMPT, None, 0, memory_bytes, 16.0)
    return BlockMade(session, blocks, 0.75 * blocks, {"decode": decode_s}, blocks, block)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def in_state(engine: Engine, session: str, state: str) -> None:
    until(lambda: engine.facts(session).state == state)


def test_owners_take_turns_and_more_than_may_wait_are_refused(begin, submit) -> None:
    workers = Scripted()
    engine: Engine = begin(workers, limits=Limits(waiting=4))
    link = workers.next()
    names = {submit(engine, name, name[0]): name for name in ("a1",)}
    assert isinstance(link.heard(Begin), Begin)
    names |= {submit(engine, name, name[0]): name for name in ("a2", "a3", "b1", "b2")}
    places = {names[each.id]: each.place for each in engine.sessions()}
    assert places == {"a1": None, "b1": 0, "a2": 1, "b2": 2, "a3": 3}
    with pytest.raises(QueueFullError, match="4 sessions wait already"):
        submit(engine, "c1", "c")
    order = ["a1"]
    while any(each.state in ("queued", "running") for each in engine.sessions()):
        running = next(each for each in engine.sessions() if each.state == "running")
        link.says.put(Ended(running.id, "finished"))
        in_state(engine, running.id, "finished")
        order += [names[link.heard(Begin).session]] if len(order) < 5 else []
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_a_session_that_waits_is_parked_woken_and_stopped(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    link = workers.next()
    first, second, third = (submit(engine, name) for name in ("a", "b", "c"))
    engine.park(second)
    assert engine.facts(second).state == "parked"
    assert engine.facts(third).place == 0
    engine.wake(second)
    assert (engine.facts(third).place, engine.facts(second).place) == (0, 1)
    engine.stop(third)
    assert engine.facts(third).state == "stopped"
    with pytest.raises(ValueError, match=f"session {second} is queued; stop it first"):
        engine.forget(second)
    link.heard(Begin)
    link.says.put(Ended(first, "finished"))
    assert link.heard(Begin).session == second
    engine.stop(first)
    assert engine.facts(first).state == "finished"
    for method in (engine.facts, engine.stop, engine.park, engine.wake, engine.forget):
        with pytest.raises(UnknownSessionError):
            method("no-such")


def test_of_those_that_ended_the_newest_are_remembered(begin, submit, tmp_path: Path) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(ended=2))
    link, sessions = workers.next(), []
    parked = submit(engine, "parked")
    link.heard(Begin)
    engine.park(parked)
    for name in "abcd":
        sessions.append(submit(engine, name))
        until(lambda: any(each.state == "running" for each in engine.sessions()))
        engine.stop(sessions[-1])
        in_state(engine, sessions[-1], "stopped")
    submit(engine, "e")
    assert [each.id for each in engine.sessions()][:3] == [parked, *sessions[-2:]]
    kept = {path.name.removesuffix(SUFFIX) for path in (tmp_path / "state").glob(f"*{SUFFIX}")}
    assert kept == {each.id for each in engine.sessions()}
    with pytest.raises(UnknownSessionError):
        engine.facts(sessions[0])


def test_a_session_is_given_up_after_deaths_without_a_block(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(deaths=2))
    session, other = submit(engine, "a"), submit(engine, "b")
    link = workers.next()
    assert not link.heard(Begin).begun
    link.says.put(Opened(session, 0, 9, 0.0, 7.0, ("a note",)))
    link.says.put(made(session, 1, memory_bytes=5))
    until(lambda: engine.facts(session).blocks == 1)
    assert engine.workers()[0].memory_bytes == 5
    for deaths in (1, 2):
        link.kill()
        link = workers.next()
        begun = link.heard(Begin)
        if deaths == 1:  # before the other one
            assert (begun.session, begun.begun) == (session, True)
            link.says.put(Opened(session, 1, 9, 0.75, 7.0, ("a note",)))
            in_state(engine, session, "running")
    assert begun.session == other
    facts = engine.facts(session)
    assert (facts.state, facts.restarts, facts.notes) == ("failed", 2, ("a note",))
    assert facts.error == "its worker was lost 2 times without another block; is there enough memory for it?"


def test_an_answer_that_comes_when_the_session_has_its_worker_again_is_passed_over(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    link, session = workers.next(), submit(engine, "a")
    link.heard(Begin)
    with ThreadPoolExecutor() as clients:
        asked = clients.submit(engine.direct, session, OTHER)
        call = link.heard(Direct).call
        engine.park(session)
        link.heard(Leave)
        with pytest.raises(ValueError, match="takes no more directions now"):
            asked.result(PATIENCE_S)
    in_state(engine, session, "parked")
    engine.wake(session)
    link.heard(Begin)
    link.says.put(Answer(session, call, 1.5))
    link.says.put(made(session, 1))
    until(lambda: engine.facts(session).blocks == 1)
    assert not link.killed.is_set()
    assert engine.facts(session).restarts == 0


def test_a_worker_that_is_being_started_does_not_hold_up_the_end(begin) -> None:
    is_starting, go_on = threading.Event(), threading.Event()

    class Slow(Scripted):
        def start(self, number: int) -> ScriptedLink:
            is_starting.set()
            go_on.wait(PATIENCE_S)
            return super().start(number)

    workers = Slow()
    engine = begin(workers)
    assert is_starting.wait(PATIENCE_S)
    with ThreadPoolExecutor() as closing:
        ended = closing.submit(engine.close, 10 * PATIENCE_S)
        until(lambda: engine._closed)
        go_on.set()
        try:
            ended.result(PATIENCE_S)
        finally:
            workers.next().kill()


def test_blocks_that_are_shown_once_more_are_no_progress(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(deaths=2))
    session = submit(engine, "a")
    for held in (5, 6):
        link = workers.next()
        link.heard(Begin)
        link.says.put(Opened(session, 2, 9, 1.5, 7.0))
        link.says.put(made(session, 2, memory_bytes=held))
        until(lambda held=held: engine.workers()[0].memory_bytes == held)
        link.kill()
    in_state(engine, session, "failed")


def test_pace_holds_for_whichever_worker_makes_it(begin, submit, pipeline_folder: Path, tmp_path: Path) -> None:
    workers = Scripted()
    engine = begin(workers)
    session = engine.submit(make_order(pipeline_folder, tmp_path / "a", 0), last_block=3)
    link = workers.next()
    assert link.heard(Begin).last_block == 3
    engine.pace(session, 7)
    assert link.heard(Pace) == Pace(session, 7)
    link.kill()
    link = workers.next()
    assert link.heard(Begin).last_block == 7
    engine.pace(session, None)
    assert link.heard(Pace) == Pace(session, None)
    link.says.put(Ended(session, "failed", "seconds is 1", refused=FieldError("seconds", 1, "more")))
    in_state(engine, session, "failed")
    assert engine.facts(session).refused.field == "seconds"
    engine.pace(session, 3)  # nobody is told


def held_and_parked(engine: Supervisor, link: ScriptedLink, pipeline_folder: Path, folder: Path) -> str:
    """A session that its pace holds after two blocks, until it is parked for that."""
    session = engine.submit(make_order(pipeline_folder, folder, 0), last_block=1)
    link.heard(Begin)
    link.says.put(Opened(session, 0, 9, 0.0, 7.0))
    link.says.put(made(session, 1))
    link.says.put(made(session, 2))
    link.heard(Leave)
    in_state(engine, session, "parked")
    return session


def test_a_session_that_is_held_for_long_leaves_its_worker_to_others_and_wakes(
    begin, submit, pipeline_folder: Path, tmp_path: Path
) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(held_s=0.1))
    link = workers.next()
    session = held_and_parked(engine, link, pipeline_folder, tmp_path / "held")
    other = submit(engine, "other")
    assert link.heard(Begin).session == other
    engine.pace(session, 1)  # no further
    assert engine.facts(session).state == "parked"
    engine.pace(session, 4)
    assert engine.facts(session).state == "queued"
    link.says.put(Ended(other, "finished"))
    again = link.heard(Begin)
    assert (again.session, again.begun, again.last_block) == (session, True, 4)
    link.says.put(Opened(session, 2, 9, 1.5, 7.0))
    engine.pace(session, None)
    assert link.heard(Pace) == Pace(session, None)
    time.sleep(0.3)  # what isn't held is left alone, however quiet it is
    assert engine.facts(session).state == "running"


def test_what_is_asked_of_a_session_that_sleeps_wakes_it(begin, submit, pipeline_folder: Path, tmp_path: Path) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(held_s=0.0))
    link = workers.next()
    session = held_and_parked(engine, link, pipeline_folder, tmp_path / "held")

    def answer() -> None:
        assert link.heard(Begin).last_block == 1
        link.says.put(Opened(session, 2, 9, 1.5, 7.0))
        asked = link.heard(Direct)
        link.says.put(Answer(session, asked.call, 1.5))

    threading.Thread(target=answer).start()
    assert engine.direct(session, OTHER) == 1.5
    link.heard(Leave)  # it is held as before, but was not while it was to be directed
    in_state(engine, session, "parked")
    engine.stop(session)
    assert engine.facts(session).state == "stopped"
    with pytest.raises(ValueError, match="is stopped; it takes directions while it runs"):
        engine.direct(session, OTHER)


@pytest.mark.parametrize("end", ["stop", "park", "close"])
def test_what_is_asked_of_a_session_that_waits_to_be_woken_ends_with_it(
    begin, submit, pipeline_folder: Path, tmp_path: Path, end: str
) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(held_s=0.1))
    link = workers.next()
    session = held_and_parked(engine, link, pipeline_folder, tmp_path / "held")
    submit(engine, "other")
    link.heard(Begin)  # nobody is left to wake it
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(engine.direct, session, OTHER)
        in_state(engine, session, "queued")
        state = {"stop": "stopped", "park": "parked", "close": "queued"}[end]
        getattr(engine, end)(*([0] if end == "close" else [session]))
        with pytest.raises(ValueError, match=f"is {state}; it takes directions while it runs"):
            asked.result(supervisor.ANSWER_S / 6)


def test_a_session_that_sleeps_goes_on_in_the_next_engine(begin, submit, pipeline_folder: Path, tmp_path: Path) -> None:
    engine = begin(workers := Scripted(), limits=Limits(held_s=0.1))
    link = workers.next()
    session = held_and_parked(engine, link, pipeline_folder, tmp_path / "held")
    stopped = held_and_parked(engine, link, pipeline_folder, tmp_path / "stopped")
    engine.stop(stopped)
    engine.close(0)
    engine = begin(workers := Scripted())
    again = workers.next().heard(Begin)
    assert (again.session, again.begun, again.last_block) == (session, True, None)
    assert engine.facts(stopped).state == "stopped"


def test_a_session_that_is_parked_by_hand_stays_so_whatever_its_pace(
    begin, submit, pipeline_folder: Path, tmp_path: Path
) -> None:
    workers = Scripted()
    engine = begin(workers, limits=Limits(held_s=0.1))
    session = held_and_parked(engine, workers.next(), pipeline_folder, tmp_path / "held")
    engine.park(session)
    engine.pace(session, None)
    assert engine.facts(session).state == "parked"
    engine.wake(session)
    in_state(engine, session, "running")


def test_parking_is_kept_by_one_write(begin, submit, monkeypatch, pipeline_folder: Path, tmp_path: Path) -> None:
    written: list[KeptSession] = []
    write = StateFolder.write
    monkeypatch.setattr(StateFolder, "write", lambda *args: (write(*args), written.append(args[1])))

    def by_parking(session: str) -> list[tuple[str, str | None, bool]]:
        written.clear()
        engine.park(session)
        in_state(engine, session, "parked")
        return [(kept.state, kept.leave, kept.sleeps) for kept in written if kept.id == session]

    engine = begin(workers := Scripted(), limits=Limits(held_s=0.1))
    link = workers.next()
    sleeping = held_and_parked(engine, link, pipeline_folder, tmp_path / "held")
    running, waiting = submit(engine, "a"), submit(engine, "b")
    link.heard(Begin)
    assert by_parking(sleeping) == [("parked", None, False)]
    assert by_parking(waiting) == [("parked", None, False)]
    assert by_parking(running) == [("running", "parked", False), ("parked", None, False)]  # when it is asked, and done
    assert by_parking(running) == []


def test_orders_and_directions_are_kept_as_they_are(tmp_path: Path, pipeline_folder: Path) -> None:
    folder, take = StateFolder(tmp_path / "state"), tmp_path / "take"
    make = make_order(pipeline_folder, take, 0)
    orders = [make, Resume(take), Resume(take, "tiny-world"), Extend(take, 2.0), Extend(take, 2.0, OTHER, True, "x")]
    orders += [Branch(take, take, 1.0), Branch(take, take, 1.0, OTHER, 8.0, 3, True, "x"), Undo(take, take, 3, 8.0)]
    given = (Cue(1.0, OTHER), Withdrawn(1.0), Steering(2.0, "pin", 0.5, 1.0), Steering(2.0, "policy", policy="recent"))
    kept = [KeptSession(id=f"s{n}", number=n, turn=n, order=order, given=given) for n, order in enumerate(orders)]
    for session in kept:
        folder.write(session)
    assert folder.read() == kept
    assert [type(session.order) for session in folder.read()] == [type(order) for order in orders]
    folder.close()


def test_one_session_a_folder(begin, submit, monkeypatch) -> None:
    engine = begin(Scripted())
    looking, go_on = threading.Event(), threading.Event()

    def slowly(order, policy):
        looking.set()
        assert go_on.wait(PATIENCE_S)
        return order

    monkeypatch.setattr(supervisor, "checked", slowly)
    first = threading.Thread(target=submit, args=(engine, "a"))
    first.start()
    assert looking.wait(PATIENCE_S)
    with pytest.raises(FieldError, match="another session is being queued for it"):
        submit(engine, "a")
    go_on.set()
    first.join()
    monkeypatch.setattr(supervisor, "checked", lambda *_: pytest.fail("the other one's folder is touched"))
    with pytest.raises(FieldError, match="is making it; wait for its end"):
        submit(engine, "a")


def test_time_is_added_up_over_workers(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    session = submit(engine, "a")
    for blocks in (1, 2):
        link = workers.next()
        link.heard(Begin)
        link.says.put(Opened(session, blocks - 1, 9, 0.0, 7.0))
        link.says.put(made(session, blocks, decode_s=2.0))
        until(lambda at=blocks: engine.facts(session).blocks == at)
        link.kill()
    assert engine.facts(session).stage_seconds == {"decode": 4.0}


def test_what_was_asked_of_a_lost_worker_holds(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    parked, stopped = submit(engine, "a"), submit(engine, "b")
    for session, ask, state in ((parked, engine.park, "parked"), (stopped, engine.stop, "stopped")):
        link = workers.next()
        assert link.heard(Begin).session == session
        link.tell = link.told.put  # type: ignore[method-assign]  # it does not leave
        ask(session)
        link.heard(Leave)
        link.kill()
        in_state(engine, session, state)


def test_directions_are_kept_until_they_are_on_record(begin, submit, tmp_path: Path) -> None:
    workers = Scripted()
    engine = begin(workers)
    session = submit(engine, "a")
    link = workers.next()
    link.heard(Begin)

    def answer(second: float) -> None:
        asked = link.told.get(timeout=PATIENCE_S)
        assert isinstance(asked, Direct | Steer)
        link.says.put(Answer(session, asked.call, second))

    for give, second in (
        (lambda: engine.direct(session, OTHER, cut=True), 1.5),
        (lambda: engine.steer(session, Steering(0.0, "pin", 0.5, 1.0)), 2.25),
    ):
        threading.Thread(target=answer, args=(second,)).start()
        assert give() == second
    said = (Cue(1.5, OTHER, cut=True), Steering(2.25, "pin", 0.5, 1.0))
    assert read_document(tmp_path / "state" / f"{session}{SUFFIX}", KeptSession).given == said
    link.kill()
    link = workers.next()
    assert link.heard(Begin).given == said
    link.says.put(made(session, 3))
    until(lambda: engine.facts(session).blocks == 3)
    link.kill()
    assert workers.next().heard(Begin).given == said[1:]


def test_a_direction_that_a_dying_worker_does_not_answer_is_refused(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    session = submit(engine, "a")
    link = workers.next()
    link.heard(Begin)
    threading.Timer(0.05, link.kill).start()
    with pytest.raises(ValueError, match="takes no more directions now"):
        engine.direct(session, OTHER)
    assert workers.next().heard(Begin).given == ()


def test_the_next_engine_knows_what_the_last_one_did(begin, submit, tmp_path: Path) -> None:
    workers = Scripted()
    engine = begin(workers)
    link = workers.next()
    running, waiting, parked, done = (submit(engine, name, "her") for name in "abcd")
    engine.park(parked)
    link.heard(Begin)
    link.says.put(Opened(running, 0, 9, 0.0, 7.0))
    in_state(engine, running, "running")
    engine.stop(done)
    engine.close()
    assert engine.facts(running).state == "queued"
    with pytest.raises(QueueFullError, match="shutting down"):
        submit(engine, "e")
    again = Scripted()
    engine = begin(again)
    link = again.next()
    assert (link.heard(Begin).session, engine.facts(running).total_blocks) == (running, 9)
    assert [each.state for each in engine.sessions()] == ["running", "queued", "parked", "stopped"]
    assert engine.facts(waiting).owner == "her"
    engine.forget(done)
    assert submit(engine, "e", "her") != running
    assert engine.sessions()[-1].place == 1


@pytest.mark.parametrize(("leave", "state"), [(None, "queued"), ("parked", "parked"), ("stopped", "stopped")])
def test_sessions_of_a_killed_engine_are_where_they_were_to_be(
    begin, submit, tmp_path: Path, pipeline_folder: Path, leave: str | None, state: str
) -> None:
    folder = StateFolder(tmp_path / "state")
    order = make_order(pipeline_folder, tmp_path / "a", 0)
    folder.write(KeptSession(id="one", number=0, turn=0, order=order))
    folder.write(KeptSession(id="two", number=1, turn=1, order=order, state="running", leave=leave, begun=True))  # type: ignore[arg-type]
    folder.close()
    engine = begin(Scripted(broken=1000))
    assert engine.facts("two").state == state
    assert engine.facts("one").place == (1 if leave is None else 0)  # what ran goes first


def test_a_state_file_that_is_not_one_is_named(begin, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x.session.json").write_text('{"id": "x", "nummer": 1}')
    with pytest.raises(ValueError, match=r"x\.session\.json: nummer is not known; did you mean 'number'"):
        begin(Scripted())
    (tmp_path / "state" / "x.session.json").unlink()
    begin(Scripted())  # nobody holds the folder


def test_workers_come_when_they_are_needed_and_go_when_idle(begin, submit) -> None:
    workers = Scripted(count=2, idle_s=0.05)
    engine = begin(workers)
    time.sleep(0.1)
    assert [each.state for each in engine.workers()] == ["waiting", "waiting"]
    session = submit(engine, "a")
    link = workers.next()
    link.heard(Begin)
    assert workers.starts == 1
    link.says.put(Ended(session, "finished"))
    link.heard(End)
    assert link.killed.wait(PATIENCE_S)
    until(lambda: all(each.state == "waiting" for each in engine.workers()))
    submit(engine, "b")
    workers.next().heard(Begin)


def test_a_worker_that_cannot_be_started_is_tried_again(begin, submit) -> None:
    workers = Scripted(broken=1)
    engine = begin(workers)
    session = submit(engine, "a")
    assert workers.next().heard(Begin).session == session
    assert engine.facts(session).restarts == 0


def test_a_worker_in_an_unknown_state_gets_no_other_session(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    first, second = submit(engine, "a"), submit(engine, "b")
    link = workers.next()
    link.heard(Begin)
    link.says.put(Ended(first, "failed", "a kernel went wrong", is_last=True))
    in_state(engine, first, "failed")
    assert engine.facts(second).state == "queued"
    link.kill()
    assert workers.next().heard(Begin).session == second


def test_the_worker_that_has_the_backbone_is_taken(begin, pipeline_folder: Path, tmp_path: Path) -> None:
    workers = Scripted(count=2)
    engine = begin(workers)
    until(lambda: all(each.state == "idle" for each in engine.workers()))

    def make(backbone: Path | str, name: str) -> str:
        return engine.submit(replace(make_order(pipeline_folder, tmp_path / name, 0), backbone=str(backbone)))

    def worker_of(session: str) -> str | None:
        in_state(engine, session, "running")
        return engine.facts(session).worker

    one, two = make(pipeline_folder, "a"), make("tiny-world", "b")
    places = {session: worker_of(session) for session in (one, two)}
    for link in (workers.next(), workers.next()):
        for session in (one, two):
            link.says.put(Ended(session, "finished"))  # a worker is heard of its own session alone
    for session in (one, two):
        in_state(engine, session, "finished")
    assert worker_of(make("tiny-world", "c")) == places[two]
    assert worker_of(make(pipeline_folder, "d")) == places[one]


def test_watchers_hear_every_change_in_order_and_harm_nobody(begin, submit) -> None:
    workers = Scripted()
    engine = begin(workers)
    heard: list[tuple[str, int]] = []

    def broken(_) -> None:
        raise RuntimeError("of its own")

    engine.watch(broken)
    end = engine.watch(lambda facts: heard.append((facts.state, facts.blocks)))
    session = submit(engine, "a")
    link = workers.next()
    link.heard(Begin)
    link.says.put(Opened(session, 0, 2, 0.0, 1.0))
    for blocks in (1, 2):
        link.says.put(made(session, blocks))
    link.says.put(Ended(session, "finished"))
    until(lambda: bool(heard) and heard[-1] == ("finished", 2))
    assert heard == [("queued", 0), ("running", 0), ("running", 0), ("running", 1), ("running", 2), ("finished", 2)]
    end()
    submit(engine, "b")
    link.heard(Begin)
    assert len(heard) == 6
