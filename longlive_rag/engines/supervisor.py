"""Gives sessions to workers of any kind, and keeps every session when a worker or the engine is lost."""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from backbone.errors import FieldError
from longlive_rag.config import Steering
from longlive_rag.engines.engine import (
    ENDED,
    OnChange,
    Order,
    QueueFullError,
    SessionFacts,
    UnknownSessionError,
    WorkerFacts,
)
from longlive_rag.engines.messages import (
    Answer,
    Asked,
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
    Withdraw,
)
from longlive_rag.engines.orders import checked, seconds_before
from longlive_rag.engines.sessions import Session, Slot
from longlive_rag.engines.state import KeptSession, StateFolder
from longlive_rag.engines.turns import in_turns
from longlive_rag.engines.workers import WorkerLink, Workers
from longlive_rag.rights.policy import pick_policy

log = logging.getLogger(__name__)

ANSWER_S = 60.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Limits:
    """Limits of an engine.

    Attributes:
        waiting: maximum number of waiting sessions.
        ended: maximum number of ended sessions that are remembered.
        deaths: number of workers that a session may lose in a row without a new block; then it has failed.
        held_s: seconds for which a session that is held by its pace keeps its worker; then it is parked.
    """

    waiting: int = 1000
    ended: int = 100
    deaths: int = 3
    held_s: float = 300.0


class Supervisor:
    """An `Engine` over one kind of workers.

    Args:
        workers: make the takes.
        state: folder in which sessions are kept across a restart; only one engine at a time can use it.
        limits: see `Limits`.
        license_policy: for orders that name none; None is the one in force.

    Raises:
        ValueError: if another engine has the folder, a file in it can't be read, or there is no such policy.
    """

    def __init__(
        self, workers: Workers, state: Path, limits: Limits | None = None, license_policy: str | None = None
    ) -> None:
        self._workers, self._limits = workers, limits or Limits()
        self._policy = pick_policy(license_policy)  # a worker's machine may have another one
        self._state = StateFolder(state)
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._watching: list[OnChange] = []
        self._news: queue.SimpleQueue[SessionFacts | None] = queue.SimpleQueue()
        self._calls = itertools.count()
        self._submitting: set[Path] = set()  # folders of orders that are being submitted
        try:
            self._sessions = {kept.id: self._restored(kept) for kept in self._state.read()}
        except BaseException:
            self._state.close()
            raise
        self._number = 1 + max((each.kept.number for each in self._sessions.values()), default=-1)
        self._turn = 1 + max((each.kept.turn for each in self._sessions.values()), default=-1)
        self._served: dict[str, int] = {}  # owner: `_begun` at their last turn
        self._begun = 0
        self._slots = [Slot(number, self._no_worker(number)) for number in range(workers.count)]
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots]
        self._threads.append(threading.Thread(target=self._tell_watchers, daemon=True))
        for thread in self._threads:
            thread.start()

    def _restored(self, kept: KeptSession) -> Session:
        """A session of an earlier engine, however that ended; its pace is not kept."""
        if kept.state in ENDED or (kept.state != "running" and not kept.sleeps):
            return Session(kept)
        leave = None if kept.sleeps and kept.leave == "parked" else kept.leave
        kept = kept.model_copy(update={"state": leave or "queued", "leave": None, "sleeps": False})
        self._state.write(kept)
        return Session(kept, goes_first=True)

    # ---- as in `Engine`, from any thread ----

    def submit(self, order: Order, owner: str = "", last_block: int | None = None) -> str:
        """Queue a session; see `Engine`."""
        with self._reserved(order.folder.absolute()):
            order = checked(order, self._policy)
            with self._changed:
                if self._closed:
                    raise QueueFullError("the engine is shutting down")
                if len(self._queue()) >= self._limits.waiting:
                    raise QueueFullError(f"{self._limits.waiting} sessions wait already; try again later")
                kept = KeptSession(
                    id=secrets.token_hex(12), number=self._number, turn=self._turn, owner=owner, order=order
                )
                self._state.write(kept)
                self._number, self._turn = self._number + 1, self._turn + 1
                self._forget_oldest()
                self._sessions[kept.id] = Session(kept, last_block=last_block)
                self._say(self._sessions[kept.id])
                self._dispatch()
                return kept.id

    @contextmanager
    def _reserved(self, folder: Path) -> Iterator[None]:
        """Keep out other orders for a folder while one is checked: the check creates the folder for a moment.

        Raises:
            FieldError: if a session for it has not ended, or another order for it is being checked.
        """
        with self._changed:
            for other in self._sessions.values():
                if other.kept.order.folder == folder and other.kept.state not in ENDED:
                    raise FieldError("folder", str(folder), f"session {other.kept.id} is making it; wait for its end")
            if folder in self._submitting:
                raise FieldError("folder", str(folder), "another session is being queued for it; wait for its end")
            self._submitting.add(folder)
        try:
            yield
        finally:
            with self._changed:
                self._submitting.discard(folder)

    def facts(self, session: str) -> SessionFacts:
        """A session as of now; see `Engine`."""
        with self._changed:
            return self._facts(self._find(session), self._places())

    def sessions(self) -> list[SessionFacts]:
        """All sessions, oldest first."""
        with self._changed:
            places = self._places()
            return [self._facts(session, places) for session in self._sessions.values()]

    def workers(self) -> list[WorkerFacts]:
        """All workers."""
        with self._changed:
            return [slot.worker for slot in self._slots]

    def watch(self, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` with every change; see `Engine`."""
        with self._changed:
            self._watching = [*self._watching, on_change]

        def end() -> None:
            with self._changed:
                self._watching = [each for each in self._watching if each is not on_change]

        return end

    def direct(self, session: str, prompt: str, at: float | None = None, cut: bool = False) -> float:
        """Let another prompt take over; see `Engine`."""
        return self._ask(session, lambda call: Direct(session, call, prompt, at, cut))

    def steer(self, session: str, order: Steering) -> float:
        """Steer memory; see `Engine`."""
        return self._ask(session, lambda call: Steer(session, call, order))

    def withdraw(self, session: str, at: float) -> None:
        """Withdraw a direction; see `Engine`."""
        self._ask(session, lambda call: Withdraw(session, call, at))

    def pace(self, session: str, last_block: int | None) -> None:
        """Begin no block after `last_block`; see `Engine`."""
        with self._changed:
            found = self._find(session)
            found.last_block = last_block
            slot = self._slot_of(found)
            if slot is not None and slot.link is not None:
                slot.link.tell(Pace(session, last_block))
            self._wake_if_free(found)

    def stop(self, session: str) -> None:
        """End a session; see `Engine`."""
        self._leave(session, "stopped")

    def park(self, session: str) -> None:
        """Park a session; see `Engine`."""
        with self._changed:
            found = self._find(session)
            if found.kept.state in ENDED:
                raise ValueError(f"session {session} has ended: it is {found.kept.state}")
            self._leave(session, "parked")

    def wake(self, session: str) -> None:
        """Queue a parked session again; see `Engine`."""
        with self._changed:
            found = self._find(session)
            if found.kept.state != "parked":
                raise ValueError(f"session {session} is {found.kept.state}; only a parked one can be woken")
            self._wake(found)

    def forget(self, session: str) -> None:
        """Drop a session that has ended; see `Engine`."""
        with self._changed:
            found = self._find(session)
            if found.kept.state not in ENDED:
                raise ValueError(f"session {session} is {found.kept.state}; stop it first")
            self._forget(session)

    def close(self, seconds: float = 10.0) -> None:
        """Park the running sessions and end the workers; see `Engine`. Safe to call twice."""
        deadline = time.monotonic() + seconds
        with self._changed:
            if self._closed:
                return
            self._closed = True
            for slot in self._slots:
                if slot.worker.session is not None and slot.link is not None:
                    slot.link.tell(Leave(slot.worker.session, parked=True))
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(slot.worker.session is None for slot in self._slots), seconds)
            for slot in self._slots:
                if slot.link is not None:
                    slot.link.tell(End())
        self._end_workers(deadline)
        self._news.put(None)
        self._workers.close()
        self._state.close()

    def _end_workers(self, deadline: float) -> None:
        for thread in self._threads[:-1]:
            thread.join(max(0.5, deadline - time.monotonic()))
        for slot in self._slots:
            if slot.link is not None:
                slot.link.kill()
        for thread in self._threads[:-1]:
            thread.join()

    # ---- with the lock held ----

    def _find(self, session: str) -> Session:
        found = self._sessions.get(session)
        if found is None:
            raise UnknownSessionError(session)
        return found

    def _forget(self, session: str) -> None:
        self._state.remove(session)
        del self._sessions[session]

    def _forget_oldest(self) -> None:
        """Forget the oldest sessions that have ended, down to the limit."""
        ended = [each.kept.id for each in self._sessions.values() if each.kept.state in ENDED]
        for session in ended[: max(0, len(ended) - self._limits.ended)]:
            with suppress(OSError):  # then it stays
                self._forget(session)

    def _queue(self) -> list[Session]:
        """Waiting sessions, the next one first."""
        every = sorted(self._sessions.values(), key=lambda each: each.kept.turn)
        waiting = [each for each in every if each.kept.state == "queued"]
        first = [each for each in waiting if each.goes_first]
        running = Counter(each.kept.owner for each in every if each.kept.state == "running" or each.goes_first)
        rest = [each for each in waiting if not each.goes_first]
        return [*first, *(rest[place] for place in in_turns([each.kept.owner for each in rest], running, self._served))]

    def _places(self) -> dict[str, int]:
        """Place in the queue of each waiting session, by id."""
        return {session.kept.id: place for place, session in enumerate(self._queue())}

    def _facts(self, session: Session, places: Mapping[str, int]) -> SessionFacts:
        return session.facts(places.get(session.kept.id), self._slot_of(session))

    def _no_worker(self, number: int) -> WorkerFacts:
        """Facts for a slot without a worker."""
        return WorkerFacts(f"{self._workers.kind}-{number}", "waiting")

    def _slot_of(self, session: Session) -> Slot | None:
        return next((slot for slot in self._slots if slot.worker.session == session.kept.id), None)

    def _change(self, session: Session, **changes: Any) -> None:
        """Change what is kept of a session, and tell watchers."""
        session.change(**changes)
        self._keep(session)
        self._say(session)

    def _keep(self, session: Session) -> None:
        """Write what is kept of a session; if that fails, the session still goes on."""
        try:
            self._state.write(session.kept)
        except OSError as error:
            log.error("session %s can't be kept as it is now: %s", session.kept.id, error)

    def _say(self, session: Session) -> None:
        if self._watching:
            self._news.put(self._facts(session, self._places()))

    def _leave(self, session: str, how: Literal["stopped", "parked"], sleeps: bool = False) -> None:
        with self._changed:
            found = self._find(session)
            if found.kept.state == "running":
                found.change(leave=how, sleeps=sleeps)
                self._keep(found)
                slot = self._slot_of(found)
                if slot is not None and slot.link is not None:
                    slot.link.tell(Leave(session, how == "parked"))
            elif found.kept.state not in ENDED and (found.kept.state, found.kept.sleeps) != (how, sleeps):
                self._change(found, state=how, sleeps=sleeps)
            self._changed.notify_all()  # `_awaken` may wait for this

    def _wake(self, session: Session) -> None:
        self._change(session, state="queued", turn=self._turn, deaths=0)
        self._turn += 1
        self._dispatch()

    def _wake_if_free(self, session: Session) -> None:
        """Let a sleeping session go on if its pace allows it."""
        if session.kept.sleeps and session.kept.state == "parked" and not session.is_held:
            self._wake(session)

    def _park_if_held(self, session: Session) -> None:
        """Park a session that its pace has held for long, unless somebody is about to direct it."""
        is_quiet = time.monotonic() - session.quiet_since > self._limits.held_s
        is_wanted = session.awaited or session.calls or session.kept.leave is not None
        if session.is_held and is_quiet and not is_wanted:
            self._leave(session.kept.id, "parked", sleeps=True)

    def _dispatch(self) -> None:
        """Give waiting sessions to idle workers, preferring a worker that has the session's backbone."""
        for session in self._queue():
            idle = [slot for slot in self._slots if slot.worker.state == "idle" and slot.link is not None]
            if not idle or self._closed:
                break
            wanted = session.kept.order.backbone
            slot = min(idle, key=lambda each: each.backbone != wanted)
            self._begin(session, slot, wanted)
        self._changed.notify_all()

    def _begin(self, session: Session, slot: Slot, backbone: str | None) -> None:
        kept = session.kept
        before = kept.seconds_before
        if not kept.begun:
            try:
                before = seconds_before(kept.order)
            except (ValueError, OSError) as error:
                self._change(session, state="failed", error=str(error))
                return
        slot.change(state="busy", session=kept.id)
        slot.backbone = backbone
        self._begun += 1
        self._served[kept.owner] = self._begun
        session.begin()
        assert slot.link is not None
        begin = Begin(kept.id, kept.order, kept.begun, before, kept.given, self._policy, session.last_block)
        self._change(session, state="running", begun=True, seconds_before=before)
        slot.link.tell(begin)

    def _ask(self, session: str, message: Callable[[int], Asked]) -> float:
        answer: Future[float] = Future()
        with self._changed:
            found = self._find(session)
            found.awaited += 1  # so that it isn't parked again before it gets the message
            try:
                self._awaken(found)
            finally:
                found.awaited -= 1
            slot = self._slot_of(found)
            if found.kept.state != "running" or slot is None or slot.link is None:
                raise ValueError(f"session {session} is {found.kept.state}; it takes directions while it runs")
            call = next(self._calls)
            asked = message(call)
            found.calls[call] = (asked, answer)
            slot.link.tell(asked)
        try:
            return answer.result(ANSWER_S)
        except TimeoutError as error:
            raise ValueError(f"the worker of session {session} does not answer") from error

    def _awaken(self, session: Session) -> None:
        """Wait until a sleeping session has been opened by a worker again, or won't be."""
        if not session.kept.sleeps:
            return
        self._changed.wait_for(lambda: session.kept.leave != "parked", ANSWER_S)  # it is being parked
        if session.kept.state == "parked":
            self._wake(session)
        self._changed.wait_for(lambda: not session.kept.sleeps or session.kept.state in ENDED or self._closed, ANSWER_S)

    # ---- in the thread of each worker ----

    def _serve(self, slot: Slot) -> None:
        """Start a worker whenever one is needed here, and listen to it until it is lost."""
        pause_s = 0.0
        while self._wait_until_needed(slot, pause_s):
            try:
                link = self._workers.start(slot.number)
            except OSError as error:
                log.error("%s can't be started: %s", slot.worker.name, error)
            else:
                with self._changed:
                    slot.link = link
                    if self._closed:  # in the meantime, so nobody has told this worker to end
                        link.kill()
                self._listen(slot, link)
            with self._changed:
                never_ready = slot.worker.state == "starting"
                self._lost(slot)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s + 1) if never_ready else 0.0

    def _listen(self, slot: Slot, link: WorkerLink) -> None:
        """Handle a worker's messages until it is lost; a message that can't be handled counts as a loss."""
        try:
            for message in link.messages():
                with self._changed:
                    self._heard(slot, message)
        except Exception:
            log.exception("a message from %s can't be handled", slot.worker.name)

    def _wait_until_needed(self, slot: Slot, pause_s: float) -> bool:
        """Wait until a worker is needed here; False if the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause_s)
            self._changed.wait_for(lambda: self._closed or self._is_needed())
            if not self._closed:
                slot.change(state="starting")
            return not self._closed

    def _is_needed(self) -> bool:
        coming = sum(slot.worker.state in ("starting", "idle") for slot in self._slots)
        return self._workers.idle_s is None or len(self._queue()) > coming

    def _heard(self, slot: Slot, message: FromWorker | None) -> None:
        if message is None:
            self._give_back_if_idle(slot)
            if slot.worker.session is not None:
                self._park_if_held(self._sessions[slot.worker.session])
        elif isinstance(message, Ready):
            slot.change(name=f"{slot.worker.name} ({message.place})", state="idle", pid=message.pid)
            slot.idle_since = time.monotonic()
            self._dispatch()
        elif message.session == slot.worker.session:
            self._heard_of(self._sessions[message.session], slot, message)

    def _heard_of(self, session: Session, slot: Slot, message: Opened | BlockMade | Answer | Ended) -> None:
        match message:
            case Opened():
                session.opened(message)
                self._keep(session)
                self._say(session)
                self._changed.notify_all()
            case BlockMade():
                slot.change(memory_bytes=message.block.memory_bytes)
                session.block_made(message)
                self._say(session)
            case Answer():
                self._heard_answer(session, message)
            case Ended():
                self._free(session, slot, message.is_last)
                session.live = replace(session.live, refused=message.refused)
                leave = session.kept.leave or "queued"  # parked without a request, because the engine is closing
                state = leave if message.state == "parked" else message.state
                self._change(session, state=state, error=message.error, leave=None)
                self._wake_if_free(session)
                self._dispatch()

    def _heard_answer(self, session: Session, answer: Answer) -> None:
        if answer.call not in session.calls:  # refused already: the session left this worker, and came back
            return
        asked, future = session.calls.pop(answer.call)
        if answer.error is not None:
            future.set_exception(answer.error)
            return
        session.answered(answer, asked)
        self._keep(session)
        future.set_result(answer.second)

    def _free(self, session: Session, slot: Slot, is_lost: bool) -> None:
        """Take the session from the worker."""
        slot.change(session=None, state="starting" if is_lost else "idle")
        slot.idle_since = time.monotonic()
        session.refuse_calls()

    def _lost(self, slot: Slot) -> None:
        """Handle the loss of a worker: its session goes on with another one."""
        if slot.link is not None:
            slot.link.kill()
        session = self._sessions[slot.worker.session] if slot.worker.session is not None else None
        if session is not None:
            log.warning("%s is lost; session %s goes on with another worker", slot.worker.name, session.kept.id)
            self._free(session, slot, is_lost=True)
        slot.worker, slot.link, slot.backbone = self._no_worker(slot.number), None, None
        if session is not None:
            self._go_on_without(session)
        self._dispatch()

    def _go_on_without(self, session: Session) -> None:
        kept = session.kept
        changes: dict[str, Any] = {"state": kept.leave or "queued", "leave": None}
        if not self._closed:
            changes |= {"restarts": kept.restarts + 1, "deaths": kept.deaths + 1}
        if kept.leave is None and changes.get("deaths", 0) >= self._limits.deaths:
            died = f"its worker was lost {self._limits.deaths} times without another block"
            changes |= {"state": "failed", "error": f"{died}; is there enough memory for it?"}
        session.goes_first = True
        self._change(session, **changes)

    def _give_back_if_idle(self, slot: Slot) -> None:
        idle_s, waits = self._workers.idle_s, bool(self._queue())
        if idle_s is None or waits or slot.link is None:
            return
        is_over = slot.worker.state == "idle" and time.monotonic() - slot.idle_since > idle_s
        if is_over or slot.worker.state == "starting":
            slot.change(state="waiting")
            slot.link.tell(End())
            slot.link.kill()

    # ---- in the thread that tells watchers ----

    def _tell_watchers(self) -> None:
        while (facts := self._news.get()) is not None:
            for on_change in self._watching:
                try:
                    on_change(facts)
                except Exception:
                    log.exception("a watcher of session %s has failed", facts.id)
