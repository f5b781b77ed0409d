"""Videos: the requests that keys may make, and the answers."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.config import TakeRequest
from longlive_rag.engines.engine import Engine, SessionFacts
from longlive_rag.media.start_image import decode_upload
from longlive_rag.serving import schema
from longlive_rag.serving.asking import (
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
    Work,
    new_id,
)
from longlive_rag.serving.limits import Usage, check_quotas
from longlive_rag.serving.making import Making, NotReadyError, Setup, UnknownVideoError
from longlive_rag.studio.security import names_only
from longlive_rag.takes.folder import RECORD, START_IMAGE, VIDEO
from longlive_rag.takes.record import read_record

PICTURE_PIXELS = 20_000_000


class Videos:
    """All videos in a folder of takes. Thread-safe.

    Args:
        takes: the folder.
        engine: makes the videos.
        setup: see `Setup`.

    Raises:
        ValueError: if another server holds the folder, or what it wrote can't be read.
        OSError: if the folder can't be made.
    """

    def __init__(self, takes: Path, engine: Engine, setup: Setup) -> None:
        self.setup, self.engine = setup, engine
        self.ledger = Ledger(takes.resolve())
        self.usage = Usage(self.ledger.folder / USAGE)
        self.making = Making(self.ledger, self.usage, engine, setup)
        self._lock = self.making.lock

    # ---- requests ----

    def create(self, key: ApiKey, order: schema.TakeOrder, picture: bytes | None = None) -> schema.Video:
        """Queue a new video.

        Args:
            picture: contents of the picture file that it begins with.

        Raises:
            ValueError: naming the field, the value and what would be right.
            OverQuotaError, QueueFullError: if there is no room for it.
        """
        model, video = self.setup.model(order.model), new_id()
        path = None
        try:
            if picture is not None:
                path = self.ledger.picture(video)
                decode_upload(picture, "input_reference", PICTURE_PIXELS).save(path)
            seen = [span.video for span in order.remember if self._sees(key, span.video)]
            folders = {each: self.folder(key, each) for each in seen}
            request = request_of(order, self.setup.presets[model], self.setup.limits, folders, path)
            return self._begin(key, self._new_entry(key, video, model, request))
        except BaseException:
            self._drop_picture(video)
            raise

    def remix(self, key: ApiKey, video: str, order: schema.RemixOrder) -> schema.Video:
        """Queue a video again under another prompt; raises as `create`, and `UnknownVideoError`, `NotReadyError`."""
        source, new = self.entry(key, video), new_id()
        seconds = source.seconds if order.seconds is None else order.seconds
        check_length(seconds, self.setup.limits)
        if order.at > 0:
            if not order.at < seconds:
                raise FieldError("at", order.at, f"it must be in the new video, 0-{seconds:g} s")
            changes = {
                "id": new, "owner": key.name, "payer": None, "created_at": int(time.time()), "completed_at": None,
                "prompt": order.prompt, "seconds": seconds, "seconds_before": order.at, "seconds_made": 0.0,
                "result": None, "error": None, "bytes": round(source.bytes * seconds / source.seconds),
                "remixed_from": video,
                "work": BranchWork(source=video, at=order.at, prompt=order.prompt, seconds=seconds),
            }  # fmt: skip
            return self._begin(key, source.model_copy(update=changes))
        try:
            picture = self._copy_picture(source, new)
            request = under_another_prompt(self._request_of(source), order.prompt, seconds, picture)
            return self._begin(key, self._new_entry(key, new, self.setup.model(source.model), request, video))
        except BaseException:
            self._drop_picture(new)
            raise

    def extend(self, key: ApiKey, video: str, order: schema.ExtendOrder) -> schema.Video:
        """Queue more of a finished video; raises as `remix`."""
        with self._lock:
            entry = self._ended(key, video)
            if entry.result != "finished":
                raise NotReadyError(f"{video} is not complete; resume it, then extend it")
            seconds = entry.seconds + order.seconds
            check_length(seconds, self.setup.limits)
            work = ExtendWork(seconds=seconds, prompt=order.prompt, cut=order.cut)
            queued = self._again(key, entry, work, seconds)
        return self._submitted(queued)

    def resume(self, key: ApiKey, video: str) -> schema.Video:
        """Queue the rest of a video that was cancelled or failed; raises as `remix`."""
        with self._lock:
            entry = self._ended(key, video)
            if entry.result == "finished":
                raise NotReadyError(f"{video} already has its requested length; extend it")
            queued = self._again(key, entry, entry.work, entry.seconds)
        return self._submitted(queued)

    def cancel(self, key: ApiKey, video: str) -> schema.Video:
        """End a video after the block in progress; one that has ended stays as it is."""
        self.entry(key, video)
        self.making.stop(video)
        return self.shown(video)

    def delete(self, key: ApiKey, video: str) -> None:
        """Remove a video that has ended, and its take.

        Raises:
            NotReadyError: if it is being made, or another one is being made from it.
        """
        with self._lock:
            entry = self._ended(key, video)
            under_way = [each for each in self.ledger.entries.values() if each.result is None]
            using = [each.id for each in under_way if self._is_made_of(each, entry)]
            if using:
                raise NotReadyError(f"{using[0]} is being made from {video}; wait for it, or cancel it")
            folder, trash = self.ledger.take_folder(entry), self.ledger.folder / TRASH / video
            if folder.is_dir():
                folder.rename(trash)
            self.ledger.remove(entry)
        shutil.rmtree(trash, ignore_errors=True)

    # ---- answers ----

    def entry(self, key: ApiKey, video: str) -> Entry:
        """The ledger's entry of a video; UnknownVideoError if the key may not see it."""
        entry = self.ledger.entries.get(video)
        if entry is None or not ("admin" in key.scopes or entry.owner == key.name):
            raise UnknownVideoError
        return entry

    def get(self, key: ApiKey, video: str) -> schema.Video:
        """A video as of now."""
        self.entry(key, video)
        return self.shown(video)

    def page(self, key: ApiKey, after: str | None, limit: int, newest_first: bool) -> schema.VideoList:
        """A page of the videos that a key sees; UnknownVideoError if it doesn't see `after`."""
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
        """The folder of a video's take, which need not exist yet."""
        return self.ledger.take_folder(self.entry(key, video))

    def file(self, key: ApiKey, video: str) -> Path:
        """The file of a video that has ended.

        Raises:
            NotReadyError: if it has not ended, or ended before its first block.
        """
        entry = self._ended(key, video)
        path = self.ledger.take_folder(entry) / VIDEO
        if not path.is_file():
            raise NotReadyError(f"{video} ended before its first block")
        return path

    def shown(self, video: str) -> schema.Video:
        """A video as of now, without checking a key."""
        entry = self.ledger.entries.get(video)
        if entry is None:
            raise UnknownVideoError
        facts = self.making.facts(video) if entry.result is None else None
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
            shown.error = schema.VideoError(code="failed", message=names_only(entry.error or "it failed"))
        return shown

    def session(self, key: ApiKey, video: str) -> str:
        """The session that is making a video; NotReadyError if there is none."""
        self.entry(key, video)
        session = self.making.session(video)
        if session is None:
            raise NotReadyError(f"{video} is not being made")
        return session

    def taken(self, key: ApiKey) -> tuple[int, int]:
        """Number of a key's videos that are queued or being made, and bytes of all its videos."""
        own = [entry for entry in list(self.ledger.entries.values()) if entry.owner == key.name]
        return sum(entry.result is None for entry in own), sum(entry.bytes for entry in own)

    def _sees(self, key: ApiKey, video: str) -> bool:
        with suppress(UnknownVideoError):
            return bool(self.entry(key, video))
        return False

    def _ended(self, key: ApiKey, video: str) -> Entry:
        entry = self.entry(key, video)
        if entry.result is None:
            raise NotReadyError(
                f"{video} is {_status(entry, self.making.facts(video)).replace('_', ' ')}; wait, or cancel it"
            )
        return entry

    def _is_made_of(self, entry: Entry, source: Entry) -> bool:
        """Whether a video still needs another one's take: it branches from it, or is to remember it."""
        match entry.work:
            case BranchWork():
                return entry.work.source == source.id
            case MakeWork():
                place = f"{self.ledger.take_folder(source)}@"
                return any(spec.startswith(place) for spec in entry.work.request.memory.remember)
        return False

    def _request_of(self, entry: Entry) -> TakeRequest:
        folder = self.ledger.take_folder(entry)
        if (folder / RECORD).is_file():
            return read_record(folder).request
        if isinstance(entry.work, MakeWork):
            return entry.work.request
        raise NotReadyError(f"{entry.id} has not begun yet; wait for it")

    # ---- queued and ended ----

    def _copy_picture(self, source: Entry, video: str) -> Path | None:
        """Copy the picture that a video begins with, for another video; None if there is none."""
        start_image = self._request_of(source).start_image
        if start_image is None:
            return None
        places = (self.ledger.take_folder(source) / START_IMAGE, Path(start_image))
        there = [path for path in places if path.is_file()]
        if not there:
            raise NotReadyError(f"{source.id} began with a picture that no longer exists")
        return Path(shutil.copyfile(there[0], self.ledger.picture(video)))

    def _new_entry(
        self, key: ApiKey, video: str, model: str, request: TakeRequest, remixed_from: str | None = None
    ) -> Entry:
        """The ledger entry of a new take."""
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
        """Queue a new video."""
        with self._lock:
            check_quotas(key, *self.taken(key), entry.bytes)
            entry = entry.model_copy(update={"number": self.ledger.next_number()})
            queued = self._put(key, entry, None, entry.seconds - entry.seconds_before)
        return self._submitted(queued)

    def _again(self, key: ApiKey, entry: Entry, work: Work, seconds: float) -> _Queued:
        """Put a video that has ended on the ledger again, to become `seconds` long."""
        grown = max(entry.bytes, round(entry.bytes * seconds / max(entry.seconds_made, 1.0)))
        check_quotas(key, *self.taken(key), grown - entry.bytes)
        begun = {"work": work, "seconds": seconds, "seconds_before": entry.seconds_made, "bytes": grown}
        payer = None if key.name == entry.owner else key.name
        changed = entry.model_copy(update=begun | {"payer": payer, "result": None, "error": None, "completed_at": None})
        return self._put(key, changed, entry, seconds - entry.seconds_made)

    def _put(self, key: ApiKey, entry: Entry, before: Entry | None, seconds: float) -> _Queued:
        """Put a video on the ledger before it is queued, so that it is in both or, if refused, in neither."""
        queued = _Queued(entry, before, key, seconds)
        self.usage.charge(key, seconds)
        try:
            queued = replace(queued, entry=self.ledger.put(entry))
        except BaseException:
            self._take_back(queued)
            raise
        self.making.expect(queued.entry)
        return queued

    def _submitted(self, queued: _Queued) -> schema.Video:
        self.making.submit(queued.entry, partial(self._take_back, queued))
        return self.shown(queued.entry.id)

    def _take_back(self, queued: _Queued) -> None:
        if queued.before is None:
            self.ledger.remove(queued.entry)
        else:
            self.ledger.restore(queued.before)
        self.usage.give_back(queued.key.name, queued.seconds)

    def _drop_picture(self, video: str) -> None:
        self.ledger.picture(video).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Queued:
    """A video on the ledger that the engine has not accepted yet.

    Attributes:
        before: its earlier entry; None if it is new.
        key: the key that was charged.
        seconds: that were charged.
    """

    entry: Entry
    before: Entry | None
    key: ApiKey
    seconds: float


def _status(entry: Entry, facts: SessionFacts | None) -> schema.Status:
    if entry.result is not None:
        return "completed" if entry.result == "finished" else "failed"
    is_made = facts is not None and facts.state not in ("queued", "parked")
    return "in_progress" if is_made else "queued"
