"""What the studio's routes need: the library, its takes, and the take in progress."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from backbone.words import unknown_words_of
from longlive_rag.config import Steering
from longlive_rag.engines.engine import Engine, Order
from longlive_rag.presets.preset import DEFAULT_BACKBONE, Preset, load_preset
from longlive_rag.sessions.making import reason_of
from longlive_rag.studio import orders, schema
from longlive_rag.studio.events import Director, Hub
from longlive_rag.studio.exports import drift_of, write_export
from longlive_rag.studio.library import (
    Takes,
    UnknownTakeError,
    history_of,
    memory_of,
    other_frames,
    segments_of,
    stamp_of,
    steering_of,
    timeline_of,
)
from longlive_rag.studio.live import BusyError, Room, Stretch, live_facts
from longlive_rag.studio.pictures import Pictures
from longlive_rag.studio.security import Sessions, names_only
from longlive_rag.studio.segments import VP9_MIME, Film
from longlive_rag.studio.uploads import Uploads
from longlive_rag.takes.folder import RECORD, VIDEO
from longlive_rag.takes.record import TakeRecord


class RefusedError(Exception):
    """A refusal, as an error response.

    Args:
        status: HTTP status.
        message: one sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Studio:
    """What the routes share.

    Args:
        root: the folder of takes; it is made if it is missing.
        open_engine: opens the engine, given a folder for its state.
        backbones: names or folders; the first is the default.

    Raises:
        ValueError, OSError: if a backbone is missing, or the folder can't be made.
    """

    root: Path
    open_engine: Callable[[Path], Engine]
    backbones: Sequence[str] = (DEFAULT_BACKBONE,)
    sessions: Sessions = field(default_factory=Sessions)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.takes = Takes(self.root)
        self.takes.remove_set_aside()
        self.presets = {Path(name).name: load_preset(name) for name in self.backbones}
        self.hub, self.director, self.pictures = Hub(self.one_line), Director(), Pictures()
        self.uploads = Uploads(self.takes.root)
        self.temporary = Path(tempfile.mkdtemp(prefix="longlive-rag-studio-"))
        try:
            self.room = Room(self.takes, self.hub, self.director, self.open_engine(self.temporary / "engine"))
        except BaseException:
            shutil.rmtree(self.temporary, ignore_errors=True)
            raise
        self._drifts: dict[tuple[Any, ...], schema.DriftFacts] = {}
        self._unknown_words: dict[str, Callable[[str], list[str]]] = {}
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """End the take in progress; what was finished is kept."""
        self.room.close()
        self.uploads.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    # ---- takes ----

    def facts(self, take: str) -> schema.TakeFacts:
        """Facts about a take, live or on disk."""
        live = self._live(take)
        return live_facts(live, self.takes) if live is not None else self.takes.facts(take)

    def library(self, words: str) -> schema.TakeList:
        """The library, newest first; with `words`, the most similar takes first."""
        live = self.room.current
        ids = self.takes.search(words) if words.strip() else list(self.takes.scan())
        listed = self.listed([take for take in ids if live is None or take != live.id])
        found = {facts.id: facts for facts in listed.takes}
        if live is not None and (not words.strip() or live.id in ids):
            found[live.id] = live_facts(live, self.takes)
        if words.strip():
            return schema.TakeList(takes=[found[take] for take in ids if take in found])
        newest_first = sorted(found.values(), key=lambda facts: (facts.started, facts.name), reverse=True)
        return schema.TakeList(takes=newest_first, left_out=listed.left_out)

    def listed(self, takes: list[str]) -> schema.TakeList:
        """Facts about takes on disk, newest first, and why others can't be opened: as the user's shell would say it."""
        listed = self.takes.listed(takes)
        for each in listed.left_out:
            each.reason = self.one_line(each.reason.replace(str(self.takes.root), self.root.name))
        return listed

    def detail(self, take: str) -> schema.TakeDetail:
        """Everything about a take."""
        live = self._live(take)
        facts = self.facts(take)
        if live is not None:
            record = live.record.model_copy(update={"request": live.asked})
            cues, timeline, others, selections = live.cues(), live.timeline, live.others, live.selections
            admitted = live.admitted()
        else:
            record = self.takes.record(take)
            admitted = None if record.memory.admitted is None else list(record.memory.admitted)
            unknown = [word for cue in record.cues for word in self._unknown(facts.backbone, cue.prompt)]
            facts.unknown_words = list(dict.fromkeys([*facts.unknown_words, *unknown]))
            cues = [
                schema.CueFacts(
                    number=cue.cue,
                    seconds=cue.seconds,
                    prompt=cue.prompt,
                    cut=cue.cut,
                    reached=cue.reached,
                    planned_id=None,
                )
                for cue in record.cues
            ]
            timeline, others = timeline_of(record), other_frames(record)
            selections = self.takes.selections(take)
        film, preset = self._film(take), self.presets.get(facts.backbone)
        name, parent = self._shell_name(take), record.branched_from and Path(record.branched_from.take).name
        return schema.TakeDetail(
            **facts.model_dump(),
            mime=film.mime if film is not None else VP9_MIME,
            request=self._request_of(record),
            cues=cues,
            steering=steering_of(record.request.memory),
            segments=segments_of(take, film, facts.blocks) if film is not None else [],
            memory=[memory_of(each, record.request.memory, timeline, others, self.takes) for each in selections],
            admitted=admitted,
            history=history_of(record),
            command=orders.command_of(record, name, f"{self.root.name}/{parent}" if parent else None, preset),
            python=orders.python_of(record, name, preset),
        )

    def film(self, take: str) -> Film:
        """The segments of a take; UnknownTakeError if there are none."""
        film = self._film(take)
        if film is None:
            raise UnknownTakeError
        return film

    def segment(self, take: str, block: int, stamp: str) -> bytes:
        """The block at an address; UnknownTakeError if the address is void."""

        def found(film: Film) -> bytes:
            if not 0 <= block < len(film.stamps) or film.stamps[block] != stamp:
                raise UnknownTakeError
            return film.segment(block)

        return self._with_film(take, found)

    def frame(self, take: str, frame: int, width: int | None) -> bytes:
        """A frame as JPEG; UnknownTakeError if it isn't made yet, or the video is broken: there is nothing to show."""
        try:
            if not 0 <= frame < self._made_frames(take):
                raise UnknownTakeError
            return self._with_film(take, lambda film: self.pictures.jpeg(film, frame, width))
        except (ValueError, OSError) as error:
            raise RefusedError(404, f"this frame can't be read: {reason_of(error)}") from error

    def _with_film(self, take: str, read: Callable[[Film], bytes]) -> bytes:
        """Read from a take's segments, once more if its video was replaced meanwhile."""
        try:
            return read(self.film(take))
        except OSError:
            return read(self.film(take))

    def like(self, take: str, frame: int) -> schema.FrameHits:
        """Moments of all takes that look most like a frame; UnknownTakeError if that isn't made yet."""
        frames = self._made_frames(take)
        if not 0 <= frame < frames:
            raise UnknownTakeError
        hits = self.takes.like(self.takes.folder(take), self._record(take), frame, frames)
        return schema.FrameHits(hits=hits)

    def _made_frames(self, take: str) -> int:
        film = self.film(take)
        return film.timeline.pixel_frames if film.stamps else 0

    def export(self, take: str, message: schema.ExportMessage, target: Path) -> Path:
        """Write a part of a take into an empty folder; returns the file."""
        self._refuse_being_made(take)
        takes = [self.takes.folder(each) for each in self.takes.scan()]
        return write_export(self.takes.folder(take), message, target, takes, self.takes.root)

    def _refuse_being_made(self, take: str) -> None:
        facts = self.facts(take)
        if facts.status in ("live", "running"):
            raise RefusedError(409, f"{facts.name} is being made; stop it, or wait until it is finished")

    def drift(self, take: str, embedder: str | None) -> schema.DriftFacts:
        """Drift of a take that isn't being made, measured once."""
        self._refuse_being_made(take)
        folder = self.takes.folder(take)
        key = (take, embedder, stamp_of(folder / RECORD))
        with self._measuring:
            if key not in self._drifts:
                self._drifts[key] = drift_of(folder, self.takes.record(take), embedder)
            return self._drifts[key]

    def _live(self, take: str) -> Stretch | None:
        current = self.room.current
        return current if current is not None and current.id == take else None

    def _film(self, take: str) -> Film | None:
        if not (self.takes.folder(take) / VIDEO).is_file():
            return None
        return self.takes.film(take)

    def _record(self, take: str) -> TakeRecord:
        live = self._live(take)
        return live.record if live is not None else self.takes.record(take)

    def _shell_name(self, take: str) -> str:
        return (Path(self.root.name) / self.takes.folder(take).relative_to(self.takes.root)).as_posix()

    def _request_of(self, record: TakeRecord) -> dict[str, Any]:
        request: dict[str, Any] = record.model_dump(mode="json")["request"]
        remember = request["memory"].get("remember") or ()
        request["memory"]["remember"] = [Path(spec).name for spec in remember]
        if request["start_image"] is not None:
            request["start_image"] = Path(request["start_image"]).name
        return request

    # ---- requests ----

    def preset(self, name: str | None) -> Preset:
        """A backbone by name, None for the default; FieldError if there is no such backbone."""
        found = self.presets.get(next(iter(self.presets)) if name is None else name)
        if found is None:
            raise FieldError("backbone", name, f"it must be one of {', '.join(self.presets)}")
        return found

    def begin(self, message: schema.NewTakeMessage) -> str:
        """Begin a new take; returns its id."""
        preset = self.preset(message.backbone)
        picture = None
        if message.start_image is not None:
            picture = self.uploads.path(message.start_image)
            if picture is None:
                raise FieldError("start_image", message.start_image, "upload it first")
        order = orders.new_order(message, preset, self.takes, picture)
        return self._begin(lambda: order)

    def command(self, take: str, message: Any) -> schema.Message:
        """Carry out a command on a take."""
        match message:
            case schema.Direct():
                return self._direct(self.room.live(take), message)
            case schema.EditCue():
                return self._edit(self.room.live(take), message)
            case schema.WithdrawCue():
                stretch = self.room.live(take)
                self.room.withdraw(stretch, stretch.second_of(message.planned_id))
                return self._cues_changed(stretch, schema.Done())
            case schema.Steer():
                return self._steer(take, Steering(0.0, message.do, message.start, message.end))
            case schema.UsePolicy():
                return self._steer(take, Steering(0.0, "policy", policy=message.name))
            case schema.Pace():  # it applies to whatever is being made: this take may have ended meanwhile
                if self._live(take) is None:
                    self.takes.folder(take)
                self.room.set_pace(message.blocks_ahead)
                return schema.Done()
            case schema.Plain(do="stop"):
                self.room.stop(take)
                return schema.Done()
            case schema.Plain(do="take_over"):
                return schema.Done()
            case schema.Plain(do="delete"):
                return self._delete(take)
        return schema.TakeId(id=self._another(take, message))

    def _delete(self, take: str) -> schema.Message:
        name = self.takes.folder(take).name
        hidden = self.room.set_aside(take)
        self.hub.say(schema.GoneEvent(take=take, deleted=True))
        try:
            shutil.rmtree(hidden)
        except OSError as error:
            told = f"{name} is out of the library, but not all of it could be removed: {reason_of(error)}"
            raise RefusedError(500, told) from error
        return schema.Done()

    def _another(self, take: str, message: Any) -> str:
        """Carry out a command that begins another stretch; returns the id of the take that is made."""
        live = self._live(take)
        if isinstance(message, schema.Plain) and message.do == "resume" and live is not None:
            self.room.go_on(take)
            return take
        folder = self.takes.folder(take)
        going_on = orders.GoingOn(folder, self.takes.free_folder(folder.name), self._backbone_of(take))
        match message:
            case schema.UndoTo():
                seconds = live.asked.seconds if live is not None else None
                self._check_block(message.block, live)
                return self._begin(lambda: going_on.undone(message.block, seconds), take)
            case schema.BranchAt():
                self._check_block(message.block, live)
                return self._begin(lambda: going_on.branched(message), take)
            case schema.Extend():
                if live is not None:
                    raise RefusedError(409, f"{folder.name} is being made; stop it, then extend it")
                return self._begin(lambda: going_on.extended(message))
            case schema.Plain(do="resume"):
                return self._begin(going_on.resumed)
        record = self._record(take)
        twin = orders.twin_order(record, folder, self.preset_of(record), self.takes)
        return self._begin(lambda: twin)

    def _begin(self, order: Callable[[], Order], after: str | None = None) -> str:
        try:
            return self.room.begin(order, after)
        except BusyError as error:
            live = self.room.current
            name = live.folder.name if live is not None else "a take"
            raise RefusedError(409, f"{name} is being made; one take is made at a time: stop it first") from error

    def _check_block(self, block: int, live: Stretch | None) -> None:
        if live is not None and not 0 < block <= live.blocks:
            raise FieldError("block", block, f"it must be from 1 to {live.blocks}, as many blocks as are made")

    def preset_of(self, record: TakeRecord) -> Preset:
        """The backbone of a take, under the name that it has here."""
        return self.preset(Path(record.run.backbone).name)

    def _backbone_of(self, take: str) -> str | None:
        preset = self.presets.get(Path(self._record(take).run.backbone).name)
        return None if preset is None else preset.name

    def _direct(self, stretch: Stretch, message: schema.Direct) -> schema.Message:
        second = self.room.direct(stretch, message.prompt, message.at, message.cut)
        self._note_unknown_words(stretch, message.prompt)
        answer = schema.Directed(takes_over_at=second, planned_id=stretch.planned_id(second))
        self.room.go_on(stretch.id)
        return self._cues_changed(stretch, answer)

    def _edit(self, stretch: Stretch, message: schema.EditCue) -> schema.Message:
        before = stretch.second_of(message.planned_id)
        cut = stretch.is_cut(before) if message.cut is None else message.cut
        second = self.room.direct(stretch, message.prompt, before if message.at is None else message.at, cut)
        if second != before:
            self.room.withdraw(stretch, before)
        self._note_unknown_words(stretch, message.prompt)
        answer = schema.Directed(takes_over_at=second, planned_id=stretch.planned_id(second))
        return self._cues_changed(stretch, answer)

    def _steer(self, take: str, order: Steering) -> schema.Message:
        stretch = self.room.live(take)
        second = self.room.steer(stretch, order)
        self.hub.say(schema.SteeringEvent(take=take, steering=steering_of(stretch.asked.memory)))
        return schema.Directed(takes_over_at=second, planned_id=None)

    def _cues_changed(self, stretch: Stretch, answer: schema.Message) -> schema.Message:
        self.hub.say(schema.CuesEvent(take=stretch.id, cues=stretch.cues()))
        self.room.send_facts(stretch)
        return answer

    def _note_unknown_words(self, stretch: Stretch, prompt: str) -> None:
        unknown = self._unknown(Path(stretch.record.run.backbone).name, prompt)
        if unknown:
            stretch.unknown = list(dict.fromkeys([*stretch.unknown, *unknown]))
            message = f"{stretch.record.run.backbone} has never read {', '.join(unknown)}"
            self.hub.say(schema.NoteEvent(take=stretch.id, message=message))

    def words(self, backbone: str, prompt: str) -> list[str]:
        """Words of a prompt that a backbone has never read."""
        preset = self.preset(backbone)
        with self._lock:
            if backbone not in self._unknown_words:
                self._unknown_words[backbone] = unknown_words_of(preset.folder / "tokenizer")
        return self._unknown_words[backbone](prompt)

    def _unknown(self, backbone: str, prompt: str) -> list[str]:
        return self.words(backbone, prompt) if backbone in self.presets else []

    def one_line(self, message: str) -> str:
        """A message on one line, without paths of this machine."""
        return " ".join(self.without_paths(message).split())

    def without_paths(self, text: str) -> str:
        """Text in which each path of this machine is shortened to its last name."""
        places = [(self.temporary, "upload"), (self.uploads.folder, "upload")]
        places += [(root, self.root.name) for root in (self.takes.root, self.root.absolute())]
        places += [(preset.folder.absolute(), name) for name, preset in self.presets.items()]
        for folder, name in places:
            text = text.replace(f"{folder}/", "").replace(str(folder), name)
        return names_only(text)
