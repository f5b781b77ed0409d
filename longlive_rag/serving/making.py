"""Moves videos from the ledger to an engine's queue, and records how they ended."""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig
from longlive_rag.engines.engine import (
    ENDED,
    Branch,
    Engine,
    Extend,
    Make,
    Order,
    QueueFullError,
    Resume,
    SessionFacts,
    UnknownSessionError,
)
from longlive_rag.presets.preset import Preset
from longlive_rag.serving.asking import Limits
from longlive_rag.serving.ledger import BranchWork, Entry, ExtendWork, Ledger
from longlive_rag.serving.limits import Usage
from longlive_rag.sessions.opening import Labels, Opening
from longlive_rag.takes.folder import LATENTS, RECORD
from longlive_rag.takes.record import TakeRecord, read_record
from retrieval.store import block_numbers

log = logging.getLogger(__name__)
EPSILON_S = 1e-6
CLOSE_SECONDS = 6.0


class UnknownVideoError(Exception):
    """There is no such video, or the key may not see it."""


class NotReadyError(Exception):
    """The video's state doesn't allow this; the message names the state."""


@dataclass(frozen=True)
class Setup:
    """Settings of the server that hold for all videos.

    Attributes:
        presets: backbones by the names that clients use; the first is the default.
        opening, labels, checkpoints: as in `Make`.
        limits: see `Limits`.
    """

    presets: dict[str, Preset]
    opening: Opening = field(default_factory=Opening)
    labels: Labels = field(default_factory=Labels)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    limits: Limits = field(default_factory=Limits)

    def model(self, name: str | None) -> str:
        """The name of an available backbone; None asks for the default. FieldError if there is no such backbone."""
        if name is not None and name not in self.presets:
            raise FieldError("model", name, f"it must be one of {', '.join(self.presets)}")
        return next(iter(self.presets)) if name is None else name


OnFacts = Callable[[SessionFacts], None]
OnEntry = Callable[[Entry], None]


class Making:
    """Queues the videos of a ledger with an engine, and records how they ended. Thread-safe.

    Args:
        ledger, usage, engine, setup: see their classes.

    Attributes:
        lock: held while a video is put on the ledger, ends or is changed; not while the engine checks its order,
            which takes seconds for a take of an hour.
        on_begin, on_end: called with every video that is queued, or has ended.
        on_facts: called with every change of a session, from one thread.
    """

    def __init__(self, ledger: Ledger, usage: Usage, engine: Engine, setup: Setup) -> None:
        self._ledger, self._usage, self._engine, self._setup = ledger, usage, engine, setup
        self.lock = threading.RLock()
        self._submitting: set[str] = set()  # videos on the ledger whose order the engine is checking
        self._submitted = threading.Condition(self.lock)
        self._sessions: dict[str, str] = {}  # video: session
        self._videos: dict[str, str] = {}  # session: video
        self._waiting: list[str] = []  # videos that the last server left and that aren't queued yet, oldest first
        self._has_room = False  # whether to try to queue the first of them
        self._was_full = False  # whether the engine's queue had no room for one of them
        self._listeners: dict[str, list[OnFacts]] = {}
        self._changes: queue.SimpleQueue[SessionFacts | None] = queue.SimpleQueue()
        self._begun_again = self._closing = self._closed = False
        self._ending = threading.Lock()
        self.on_facts: OnFacts = lambda facts: None
        self.on_begin: OnEntry = lambda entry: None
        self.on_end: OnEntry = lambda entry: None
        self._unwatch = engine.watch(self._changes.put)
        self._settling = threading.Thread(target=self._settle, name="videos", daemon=True)
        self._settling.start()
        self._queuing = threading.Thread(target=self._queue_waiting, name="waiting videos", daemon=True)
        self._queuing.start()

    @property
    def is_ready(self) -> bool:
        """Whether what the last server left is queued, as far as there was room, and this one isn't ending."""
        return self._begun_again and not self._closing and (self._was_full or not self._waiting)

    def go_on(self) -> None:
        """Begin to queue what the last server left unfinished, oldest first, and finish its deletions."""
        with self.lock:
            self._ledger.remove_leftovers()
            known = {facts.folder: facts for facts in self._engine.sessions()}
            for entry in [each for each in self._ledger.entries.values() if each.result is None]:
                facts = known.pop(self._ledger.take_folder(entry), None)
                if facts is None:
                    self._waiting.append(entry.id)
                else:
                    self._sessions[entry.id], self._videos[facts.id] = facts.id, entry.id
                    self._changes.put(facts)  # it may have ended
            for facts in known.values():  # of videos that no client knows of
                self._engine.stop(facts.id)
                self._changes.put(facts)
            self._begun_again = self._has_room = True
            self._submitted.notify_all()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Park what is being made, so that the next server continues it. A second call waits for the first."""
        with self.lock:
            self._closing = True
            self._submitted.notify_all()
        with self._ending:
            if self._closed:
                return
            self._closed = True
            self._engine.close(seconds)
            self._unwatch()
            self._changes.put(None)
            self._settling.join()
            with self.lock:
                self._submitted.wait_for(lambda: not self._submitting)
            self._queuing.join()
            self._ledger.close()

    def expect(self, entry: Entry) -> None:
        """Make others wait for a video until it is submitted; call it with the lock held, before `submit`."""
        self._submitting.add(entry.id)

    def submit(self, entry: Entry, refused: Callable[[], None]) -> None:
        """Queue a video from the ledger, after `expect`; raises as `Engine.submit`. Call it without the lock.

        Args:
            refused: called with the lock held if it can't be queued, to take it off the ledger.
        """
        try:
            session = self._engine.submit(self._order(entry), entry.owner)
        except BaseException:
            with self.lock:
                refused()
                self._end_waiting(entry)
            raise
        with self.lock:
            self._begun(entry, session)
            self._end_waiting(entry)

    def stop(self, video: str) -> None:
        """End a video after the block in progress; nothing happens if it has ended or doesn't exist."""
        with self.lock:
            self._submitted.wait_for(lambda: video not in self._submitting)
            session, entry = self._sessions.get(video), self._ledger.entries.get(video)
            if session is not None:
                self._engine.stop(session)
            elif entry is not None and video in self._waiting:
                self._waiting.remove(video)
                self._end(entry, SessionFacts("", self._ledger.take_folder(entry), "stopped"))

    def session(self, video: str) -> str | None:
        """The session that is making a video, or None."""
        return self._sessions.get(video)

    def facts(self, video: str) -> SessionFacts | None:
        """Facts of the session that is making a video, or None."""
        session = self._sessions.get(video)
        if session is None:
            return None
        try:
            return self._engine.facts(session)
        except UnknownSessionError:
            return None

    def listen(self, video: str, on_facts: OnFacts) -> Callable[[], None]:
        """Call `on_facts` with every change of a video that is being made; returns a function that ends that."""
        with self.lock:
            self._listeners.setdefault(video, []).append(on_facts)

        def end() -> None:
            with self.lock, suppress(KeyError, ValueError):
                self._listeners[video].remove(on_facts)
                if not self._listeners[video]:
                    del self._listeners[video]

        return end

    # ---- with the lock held ----

    def _begun(self, entry: Entry, session: str) -> None:
        self._sessions[entry.id], self._videos[session] = session, entry.id
        self.on_begin(entry)

    def _end_waiting(self, entry: Entry) -> None:
        self._submitting.discard(entry.id)
        self._submitted.notify_all()

    def _end_queuing(self, entry: Entry, found: str | SessionFacts | None) -> None:
        """Record what became of a waiting video; see `_queued`."""
        if found is None:
            self._was_full = True
        else:
            self._waiting.remove(entry.id)
            self._has_room = True
        if isinstance(found, SessionFacts):
            self._end(entry, found)
        elif found is not None:
            self._begun(entry, found)
        self._end_waiting(entry)

    def _end(self, entry: Entry, facts: SessionFacts) -> None:
        """Record how a video ended; seconds that were not made are refunded."""
        folder = self._ledger.take_folder(entry)
        made = max(facts.seconds_made, entry.seconds_before)
        seconds = entry.seconds if facts.state != "finished" else facts.seconds_made or entry.seconds
        ended = entry.model_copy(
            update={
                "result": facts.state,
                "error": facts.error if facts.state == "failed" else None,
                "completed_at": int(time.time()),
                "seconds": seconds,
                "seconds_made": made,
                "bytes": _bytes_in(folder) + len(entry.model_dump_json()),  # an order is up to a mebibyte, and is kept
            }
        )
        with suppress(OSError):  # a full disk: the next server will find the same
            self._ledger.put(ended)
        self._ledger.entries[entry.id] = ended
        if facts.state == "finished":
            self._ledger.picture(entry.id).unlink(missing_ok=True)  # the take has it
        elif entry.seconds > made:
            self._usage.give_back(entry.payer or entry.owner, entry.seconds - made)
        session = self._sessions.pop(entry.id, None)
        self._videos.pop(session or "", None)
        self.on_end(ended)

    # ---- in threads of their own, without the lock ----

    def _queue_waiting(self) -> None:
        """Queue what waits whenever the engine may have room."""
        while (entry := self._next_waiting()) is not None:
            found = self._queued(entry)
            with self.lock:
                self._end_queuing(entry, found)

    def _next_waiting(self) -> Entry | None:
        """Wait until a video may be queued, and make others wait for it; None if the server is ending."""
        with self.lock:
            self._submitted.wait_for(lambda: self._closing or (self._has_room and self._waiting))
            if self._closing:
                return None
            self._has_room = False  # until it was queued or, if it couldn't be, a session ends
            entry = self._ledger.entries[self._waiting[0]]
            self.expect(entry)
            return entry

    def _queued(self, entry: Entry) -> str | SessionFacts | None:
        """Queue a waiting video: its session, or how it ended; None if the engine's queue is full."""
        folder = self._ledger.take_folder(entry)
        failed = SessionFacts("", folder, "failed", seconds_made=entry.seconds_before)
        try:
            if _is_whole(folder, entry):
                return SessionFacts("", folder, "finished", seconds_made=entry.seconds)
            return self._engine.submit(self._order(entry), entry.owner)
        except QueueFullError:
            return None
        except (ValueError, OSError, UnknownVideoError, NotReadyError) as error:
            return replace(failed, error=str(error))
        except Exception:  # the other videos must go on
            log.exception("video %s can't be queued", entry.id)
            return replace(failed, error="it can't be queued")

    def _order(self, entry: Entry) -> Order:
        """The order for the engine: all of the work, or the rest if it was begun."""
        folder, work, setup = self._ledger.take_folder(entry), entry.work, self._setup
        begun = (folder / RECORD).is_file()
        if isinstance(work, ExtendWork):
            more = work.seconds - read_record(folder).request.seconds
            return Extend(folder, more, work.prompt, work.cut) if more > EPSILON_S else Resume(folder)
        if begun and (folder / LATENTS).is_dir() and block_numbers(folder / LATENTS):
            return Resume(folder)
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed before its first block
        folder.parent.mkdir(exist_ok=True)
        if isinstance(work, BranchWork):
            source = self._ledger.entries.get(work.source)
            if source is None:
                raise UnknownVideoError(f"{work.source} no longer exists")
            return Branch(self._ledger.take_folder(source), folder, work.at, work.prompt, work.seconds)
        backbone = setup.presets[setup.model(entry.model)].name
        return Make(backbone, work.request, folder, setup.opening, setup.labels, setup.checkpoints)

    def _settle(self) -> None:
        """Handle changes in a separate thread: the engine may hold its locks while it reports them."""
        while (facts := self._changes.get()) is not None:
            try:
                self._settle_one(facts)
            except Exception:  # the other videos must go on
                log.exception("session %s can't be settled", facts.id)

    def _settle_one(self, facts: SessionFacts) -> None:
        self.on_facts(facts)
        with self.lock:
            self._submitted.wait_for(lambda: facts.id in self._videos or facts.folder.name not in self._submitting)
            video = self._videos.get(facts.id, "")
            entry, listeners = self._ledger.entries.get(video), list(self._listeners.get(video, ()))
            if facts.state in ENDED:
                if entry is not None:
                    self._end(entry, facts)
                with suppress(UnknownSessionError):
                    self._engine.forget(facts.id)
                self._has_room = True
                self._submitted.notify_all()
        for listener in listeners:
            with suppress(RuntimeError):  # its loop is closed
                listener(facts)


def _is_whole(folder: Path, entry: Entry) -> bool:
    """Whether a take is complete already: its server was killed before it could record that."""
    if not (folder / RECORD).is_file():
        return False
    record: TakeRecord = read_record(folder)
    return record.status == "finished" and record.request.seconds >= entry.seconds - EPSILON_S


def _bytes_in(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
