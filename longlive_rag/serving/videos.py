"""Videos: asked for, queued, made by an engine, kept by a ledger, and seen by those who may."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.config import CheckpointConfig, TakeRequest
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
from longlive_rag.media.start_image import decode_upload
from longlive_rag.presets.preset import Preset
from longlive_rag.serving import schema
from longlive_rag.serving.asking import (
    Limits,
    check_length,
    disk_bytes,
    request_of,
    size_of,
    under_another_prompt,
)
from longlive_rag.serving.keys import ApiKey
from longlive_rag.serving.ledger import (
    TRASH,
    USAGE,
    BranchWork,
    Entry,
    ExtendWork,
    Ledger,
    MakeWork,
    ResumeWork,
    Work,
    new_id,
)
from longlive_rag.serving.limits import Usage, check_quotas
from longlive_rag.sessions.opening import Labels, Opening
from longlive_rag.takes.folder import LATENTS, RECORD, START_IMAGE, VIDEO
from longlive_rag.takes.record import TakeRecord, read_record
from retrieval.store import block_numbers

PICTURE_PIXELS = 20_000_000
EPSILON_S = 1e-6
CLOSE_SECONDS = 7.0


class UnknownVideoError(Exception):
    """There is no such video, or the key may not see it."""


class NotReadyError(Exception):
    """The video is not in a state in which this could be done; the message says in which it is."""


@dataclass(frozen=True)
class Setup:
    """What the server decides for all videos.

    Attributes:
        presets: backbones by the name that clients know them by; the first is the default.
        opening, labels, checkpoints: as in `Make`.
        limits: see there.
    """

    presets: dict[str, Preset]
    opening: Opening = field(default_factory=Opening)
    labels: Labels = field(default_factory=Labels)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    limits: Limits = field(default_factory=Limits)

    def model(self, name: str | None) -> str:
        """The name of a backbone that is here; None asks for the default. FieldError if there is none."""
        if name is not None and name not in self.presets:
            raise FieldError("model", name, f"it must be one of {', '.join(self.presets)}")
        return next(iter(self.presets)) if name is None else name


OnFacts = Callable[[SessionFacts], None]


class Videos:
    """All videos of a folder of takes. Safe from any thread.

    Args:
        takes: the folder.
        engine: makes them.
        setup: see there.

    Raises:
        ValueError: if another server holds the folder, or what it wrote can't be read.
        OSError: if the folder can't be made.
    """

    def __init__(self, takes: Path, engine: Engine, setup: Setup) -> None:
        self.setup, self.engine = setup, engine
        self.ledger = Ledger(takes.resolve())
        self.usage = Usage(self.ledger.folder / USAGE)
        self._lock = threading.RLock()
        self._sessions: dict[str, str] = {}  # video: session
        self._videos: dict[str, str] = {}  # session: video
        self._waiting: list[str] = []  # videos that the engine's queue had no room for, at a start
        self._listeners: dict[str, list[OnFacts]] = {}
        self._asked_to_stop: set[str] = set()
        self._closing = False
        self._ending, self._ended_for_good = threading.Lock(), False
        self.is_ready = False
        self._changes: queue.SimpleQueue[SessionFacts | None] = queue.SimpleQueue()
        self.on_facts: OnFacts = lambda facts: None
        self.on_begin: Callable[[Entry], None] = lambda entry: None
        self.on_end: Callable[[Entry], None] = lambda entry: None
        self._unwatch = engine.watch(self._changes.put)
        self._settling = threading.Thread(target=self._settle, name="videos", daemon=True)
        self._settling.start()

    def go_on(self) -> None:
        """Queue what the last server left unfinished, oldest first, and remove what it left to be deleted."""
        with self._lock:
            for left in (self.ledger.folder / TRASH).iterdir():
                shutil.rmtree(left, ignore_errors=True)
            known = {facts.folder: facts for facts in self.engine.sessions()}
            for entry in [each for each in self.ledger.entries.values() if each.result is None]:
                facts = known.pop(self.ledger.take_folder(entry), None)
                if facts is None:
                    self._waiting.append(entry.id)
                else:
                    self._sessions[entry.id], self._videos[facts.id] = facts.id, entry.id
                    self._changes.put(facts)  # it may have ended
            for facts in known.values():  # of videos that were deleted, or never answered for
                self.engine.stop(facts.id)
            self._submit_waiting()
            self.is_ready = True

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Park what is being made; the next server goes on with it. Who calls it a second time waits for the first."""
        self._closing, self.is_ready = True, False
        with self._ending:
            if self._ended_for_good:
                return
            self._ended_for_good = True
            self.engine.close(seconds)
            self._unwatch()
            self._changes.put(None)
            self._settling.join()
            self.ledger.close()

    # ---- what is asked for ----

    def create(self, key: ApiKey, order: schema.TakeOrder, picture: bytes | None = None) -> schema.Video:
        """A new video.

        Args:
            picture: file that it begins with.

        Raises:
            ValueError: naming the field, the value and what would be right.
            OverQuotaError, QueueFullError: if there is no room for it.
        """
        model, video = self.setup.model(order.model), new_id()
        path = None
        if picture is not None:
            path = self.ledger.picture(video)
            decode_upload(picture, "input_reference", PICTURE_PIXELS).save(path)
        try:
            seen = [span.video for span in order.remember if self._sees(key, span.video)]
            folders = {each: self.folder(key, each) for each in seen}
            request = request_of(order, self.setup.presets[model], self.setup.limits, folders, path)
            return self._begin(key, self._made(key, video, model, request))
        except BaseException:
            self._drop_picture(video)
            raise

    def remix(self, key: ApiKey, video: str, order: schema.RemixOrder) -> schema.Video:
        """A video under another prompt; raises as `create`, and `UnknownVideoError`, `NotReadyError`."""
        source, new = self.entry(key, video), new_id()
        seconds = source.seconds if order.seconds is None else order.seconds
        check_length(seconds, self.setup.limits)
        if order.at > 0:
            if not order.at < seconds:
                raise FieldError("at", order.at, f"it must be in the new video, 0-{seconds:g} s")
            changes = {
                "id": new, "owner": key.name, "created_at": int(time.time()), "completed_at": None, "result": None,
                "prompt": order.prompt, "seconds": seconds, "seconds_before": order.at, "seconds_made": 0.0,
                "error": None, "bytes": round(source.bytes * seconds / source.seconds), "remixed_from": video,
                "work": BranchWork(source=video, at=order.at, prompt=order.prompt, seconds=seconds),
            }  # fmt: skip
            return self._begin(key, source.model_copy(update=changes))
        try:
            picture = self._copy_picture(source, new)
            request = under_another_prompt(self._request_of(source), order.prompt, seconds, picture)
            return self._begin(key, self._made(key, new, self.setup.model(source.model), request, video))
        except BaseException:
            self._drop_picture(new)
            raise

    def extend(self, key: ApiKey, video: str, order: schema.ExtendOrder) -> schema.Video:
        """A video that ended, longer; raises as `remix`."""
        with self._lock:
            entry = self._ended(key, video)
            if entry.result != "finished":
                raise NotReadyError(f"{video} was not made to its end; resume it, then extend it")
            seconds = entry.seconds + order.seconds
            check_length(seconds, self.setup.limits)
            work = ExtendWork(seconds=seconds, prompt=order.prompt, cut=order.cut)
            return self._again(key, entry, work, seconds)

    def resume(self, key: ApiKey, video: str) -> schema.Video:
        """The rest of a video that was cancelled, or failed; raises as `remix`."""
        with self._lock:
            entry = self._ended(key, video)
            if entry.result == "finished":
                raise NotReadyError(f"{video} is as long as was asked for; extend it")
            started = (self.ledger.take_folder(entry) / RECORD).is_file()
            return self._again(key, entry, ResumeWork() if started else entry.work, entry.seconds)

    def cancel(self, key: ApiKey, video: str) -> schema.Video:
        """End a video after the block that is being made; one that ended already stays as it is."""
        with self._lock:
            entry = self.entry(key, video)
            if entry.result is None:
                self._asked_to_stop.add(video)
                session = self._sessions.get(video)
                if session is None:
                    self._waiting.remove(video)
                    self._end(entry, SessionFacts("", self.ledger.take_folder(entry), "stopped"))
                else:
                    self.engine.stop(session)
            return self.shown(video)

    def delete(self, key: ApiKey, video: str) -> None:
        """Remove a video that ended, and its take.

        Raises:
            NotReadyError: if it is being made, or another one is being made of it.
        """
        with self._lock:
            entry = self._ended(key, video)
            using = [each.id for each in self.ledger.entries.values() if each.result is None and _source(each) == video]
            if using:
                raise NotReadyError(f"{using[0]} is being made of {video}; wait for it, or cancel it")
            folder, trash = self.ledger.take_folder(entry), self.ledger.folder / TRASH / video
            if folder.is_dir():
                folder.rename(trash)
            self.ledger.remove(entry)
        shutil.rmtree(trash, ignore_errors=True)

    # ---- what is said of them ----

    def entry(self, key: ApiKey, video: str) -> Entry:
        """What the ledger says of a video; UnknownVideoError if the key may not see it."""
        entry = self.ledger.entries.get(video)
        if entry is None or not ("admin" in key.scopes or entry.owner == key.name):
            raise UnknownVideoError
        return entry

    def get(self, key: ApiKey, video: str) -> schema.Video:
        """A video as of now."""
        self.entry(key, video)
        return self.shown(video)

    def page(self, key: ApiKey, after: str | None, limit: int, newest_first: bool) -> schema.VideoList:
        """Videos that a key sees, in their order, after one of them; UnknownVideoError if it doesn't see that."""
        entries = list(self.ledger.entries.values())
        seen = sorted((each for each in entries if self._sees(key, each.id)), key=lambda each: each.number)
        seen = seen[::-1] if newest_first else seen
        if after is not None:
            begin = next((place for place, each in enumerate(seen, 1) if each.id == after), None)
            if begin is None:
                raise UnknownVideoError
            seen = seen[begin:]
        data = [self.shown(each.id) for each in seen[:limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return schema.VideoList(data=data, first_id=first, last_id=last, has_more=len(seen) > limit)

    def folder(self, key: ApiKey, video: str) -> Path:
        """Of a video's take, which need not be there yet."""
        return self.ledger.take_folder(self.entry(key, video))

    def file(self, key: ApiKey, video: str) -> Path:
        """The video file of one that ended.

        Raises:
            NotReadyError: if it has not ended, or nothing of it was made.
        """
        entry = self._ended(key, video)
        path = self.ledger.take_folder(entry) / VIDEO
        if not path.is_file():
            raise NotReadyError(f"nothing of {video} was made")
        return path

    def shown(self, video: str) -> schema.Video:
        """A video as of now, whoever asks."""
        entry = self.ledger.entries.get(video)
        if entry is None:
            raise UnknownVideoError
        facts = self.facts(video) if entry.result is None else None
        if facts is None:  # it may have ended this moment
            entry = self.ledger.entries.get(video, entry)
        made = entry.seconds_made if facts is None else max(facts.seconds_made, entry.seconds_before)
        shown = schema.Video(
            id=entry.id,
            model=entry.model,
            status=_status(entry, facts),
            progress=100 if entry.result == "finished" else min(99, int(100 * made / entry.seconds)),
            created_at=entry.created_at,
            completed_at=entry.completed_at if entry.result == "finished" else None,
            seconds=f"{entry.seconds:g}",
            size=entry.size,
            prompt=entry.prompt,
            remixed_from_video_id=entry.remixed_from,
            seed=entry.seed,
            seconds_made=round(made, 3),
        )
        if facts is not None:
            shown.place, shown.restarts = facts.place, facts.restarts
        if entry.result == "stopped":
            shown.error = schema.VideoError(code="cancelled", message=f"cancelled after {made:g} s; it can be resumed")
        elif entry.result == "failed":
            shown.error = schema.VideoError(code="failed", message=entry.error or "it failed")
        return shown

    def facts(self, video: str) -> SessionFacts | None:
        """Of the session that makes a video; None if there is none now."""
        session = self._sessions.get(video)
        if session is None:
            return None
        try:
            return self.engine.facts(session)
        except UnknownSessionError:
            return None

    def session(self, key: ApiKey, video: str) -> str:
        """The session that makes a video; NotReadyError if none does."""
        self.entry(key, video)
        session = self._sessions.get(video)
        if session is None:
            raise NotReadyError(f"{video} is not being made")
        return session

    def listen(self, video: str, on_facts: OnFacts) -> Callable[[], None]:
        """Be told of every change of a video that is being made; returns what ends that."""
        with self._lock:
            self._listeners.setdefault(video, []).append(on_facts)

        def end() -> None:
            with self._lock, suppress(KeyError, ValueError):
                self._listeners[video].remove(on_facts)
                if not self._listeners[video]:
                    del self._listeners[video]

        return end

    def taken(self, key: ApiKey) -> tuple[int, int]:
        """Videos of a key that are queued or being made, and bytes of all that it has."""
        own = [entry for entry in list(self.ledger.entries.values()) if entry.owner == key.name]
        return sum(entry.result is None for entry in own), sum(entry.bytes for entry in own)

    def _sees(self, key: ApiKey, video: str) -> bool:
        with suppress(UnknownVideoError):
            return bool(self.entry(key, video))
        return False

    def _ended(self, key: ApiKey, video: str) -> Entry:
        entry = self.entry(key, video)
        if entry.result is None:
            raise NotReadyError(f"{video} is {_status(entry, self.facts(video)).replace('_', ' ')}; wait, or cancel it")
        return entry

    def _request_of(self, entry: Entry) -> TakeRequest:
        folder = self.ledger.take_folder(entry)
        if (folder / RECORD).is_file():
            return read_record(folder).request
        if isinstance(entry.work, MakeWork):
            return entry.work.request
        raise NotReadyError(f"{entry.id} has not begun yet; wait for it")

    # ---- queued and ended ----

    def _copy_picture(self, source: Entry, video: str) -> Path | None:
        """The picture that a video begins with, for another one; None where there is none."""
        start_image = self._request_of(source).start_image
        if start_image is None:
            return None
        places = (self.ledger.take_folder(source) / START_IMAGE, Path(start_image))
        there = [path for path in places if path.is_file()]
        if not there:
            raise NotReadyError(f"{source.id} began with a picture that is not there any more")
        return Path(shutil.copyfile(there[0], self.ledger.picture(video)))

    def _made(
        self, key: ApiKey, video: str, model: str, request: TakeRequest, remixed_from: str | None = None
    ) -> Entry:
        """A new take, as it is to be begun."""
        return Entry(
            id=video,
            number=0,
            owner=key.name,
            created_at=int(time.time()),
            model=model,
            prompt=request.prompt,
            size=size_of(request),
            seed=request.seed,
            seconds=request.seconds,
            remixed_from=remixed_from,
            work=MakeWork(request=request),
            bytes=disk_bytes(request, self.setup.presets[model], self.setup.opening, self.setup.checkpoints),
        )

    def _begin(self, key: ApiKey, entry: Entry) -> schema.Video:
        """Queue a new video: on the ledger first, so that it is in both or, where it is refused, in none."""
        with self._lock:
            check_quotas(key, *self.taken(key), entry.bytes)
            seconds = entry.seconds - entry.seconds_before
            self.usage.charge(key, seconds)
            try:
                entry = self.ledger.put(entry.model_copy(update={"number": self.ledger.next_number()}))
                self._submit(entry)
            except BaseException:
                self.usage.charge(key, -seconds)
                self.ledger.remove(entry)
                raise
            return self.shown(entry.id)

    def _again(self, key: ApiKey, entry: Entry, work: Work, seconds: float) -> schema.Video:
        """Queue a video that ended once more, to be of so many seconds; where that is refused, it is as it was."""
        grown = max(entry.bytes, round(entry.bytes * seconds / max(entry.seconds_made, 1.0)))
        check_quotas(key, *self.taken(key), grown - entry.bytes)
        begun = {"work": work, "seconds": seconds, "seconds_before": entry.seconds_made, "bytes": grown}
        changed = entry.model_copy(update=begun | {"result": None, "error": None, "completed_at": None})
        self.usage.charge(key, seconds - entry.seconds_made)
        self._asked_to_stop.discard(entry.id)
        try:
            self._submit(self.ledger.put(changed))
        except BaseException:
            self.usage.charge(key, entry.seconds_made - seconds)
            self.ledger.put(entry)
            raise
        return self.shown(entry.id)

    def _submit(self, entry: Entry) -> None:
        session = self.engine.submit(self._order(entry), entry.owner)
        self._sessions[entry.id], self._videos[session] = session, entry.id
        self.on_begin(entry)

    def _submit_waiting(self) -> None:
        while self._waiting and not self._closing:
            entry = self.ledger.entries[self._waiting[0]]
            try:
                if _is_whole(self.ledger.take_folder(entry), entry):
                    facts = SessionFacts("", self.ledger.take_folder(entry), "finished", seconds_made=entry.seconds)
                    self._end(entry, facts)
                else:
                    self._submit(entry)
            except QueueFullError:
                return
            except (ValueError, OSError, UnknownVideoError) as error:
                facts = SessionFacts("", self.ledger.take_folder(entry), "failed", error=str(error))
                self._end(entry, replace(facts, seconds_made=entry.seconds_before))
            self._waiting.pop(0)

    def _order(self, entry: Entry) -> Order:
        """What the engine is to do: the work, or, of work that was begun, the rest of it."""
        folder, work, setup = self.ledger.take_folder(entry), entry.work, self.setup
        begun = (folder / RECORD).is_file()
        if isinstance(work, ExtendWork):
            more = work.seconds - read_record(folder).request.seconds
            return Extend(folder, more, work.prompt, work.cut) if more > EPSILON_S else Resume(folder)
        if begun and (folder / LATENTS).is_dir() and block_numbers(folder / LATENTS):
            return Resume(folder)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed before its first block
        folder.parent.mkdir(exist_ok=True)
        if isinstance(work, BranchWork):
            source = self.ledger.entries.get(work.source)
            if source is None:
                raise UnknownVideoError(f"{work.source} is not there any more")
            return Branch(self.ledger.take_folder(source), folder, work.at, work.prompt, work.seconds)
        if isinstance(work, ResumeWork):
            raise NotReadyError(f"nothing of {entry.id} was made")
        backbone = setup.presets[setup.model(entry.model)].name
        return Make(backbone, work.request, folder, setup.opening, setup.labels, setup.checkpoints)

    def _settle(self) -> None:
        """In a thread of its own: the engine may hold its locks when it says what changed."""
        while (facts := self._changes.get()) is not None:
            self.on_facts(facts)
            with self._lock:
                video = self._videos.get(facts.id)
                entry = self.ledger.entries.get(video) if video is not None else None
                if video is None or entry is None:
                    continue
                listeners = list(self._listeners.get(video, ()))
                was_parked = facts.state == "stopped" and self._closing and video not in self._asked_to_stop
                if facts.state in ENDED and not was_parked:
                    self._end(entry, facts)
                    with suppress(UnknownSessionError):
                        self.engine.forget(facts.id)
                    self._submit_waiting()
            for listener in listeners:
                listener(facts)

    def _end(self, entry: Entry, facts: SessionFacts) -> None:
        """What is known of a video when it has ended; seconds that were not made are given back."""
        folder = self.ledger.take_folder(entry)
        made = max(facts.seconds_made, entry.seconds_before)
        seconds = entry.seconds if facts.state != "finished" else facts.seconds_made or entry.seconds
        ended = entry.model_copy(
            update={
                "result": facts.state,
                "error": facts.error if facts.state == "failed" else None,
                "completed_at": int(time.time()),
                "seconds": seconds,
                "seconds_made": made,
                "bytes": _bytes_in(folder),
            }
        )
        with suppress(OSError):  # a full disk: the next server finds out the same
            self.ledger.put(ended)
        self.ledger.entries[entry.id] = ended
        if facts.state == "finished":
            self._drop_picture(entry.id)  # the take has it
        elif entry.seconds > made:
            with suppress(OSError):
                self.usage.charge(ApiKey(name=entry.owner), made - entry.seconds)
        session = self._sessions.pop(entry.id, None)
        self._videos.pop(session or "", None)
        self.on_end(ended)

    def _drop_picture(self, video: str) -> None:
        self.ledger.picture(video).unlink(missing_ok=True)


def _status(entry: Entry, facts: SessionFacts | None) -> schema.Status:
    if entry.result is not None:
        return "completed" if entry.result == "finished" else "failed"
    is_made = facts is not None and facts.state not in ("queued", "parked")
    return "in_progress" if is_made else "queued"


def _source(entry: Entry) -> str | None:
    return entry.work.source if isinstance(entry.work, BranchWork) else None


def _is_whole(folder: Path, entry: Entry) -> bool:
    """Whether a take is there already, as long as its entry says: its server was killed before it could write that."""
    if not (folder / RECORD).is_file():
        return False
    record: TakeRecord = read_record(folder)
    return record.status == "finished" and record.request.seconds >= entry.seconds - EPSILON_S


def _bytes_in(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
