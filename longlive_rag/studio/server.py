"""The studio's server: routes of the protocol in docs/studio.md, over `sessions` and `takes`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute

from backbone.errors import FieldError
from backbone.words import unknown_words_of
from longlive_rag.config import Steering
from longlive_rag.engines.engine import Engine, Order, UnknownSessionError
from longlive_rag.environment import plugins
from longlive_rag.presets.preset import DEFAULT_BACKBONE, Preset, load_preset
from longlive_rag.rights.policy import LicenseError
from longlive_rag.sessions.making import reason_of
from longlive_rag.studio import orders, schema
from longlive_rag.studio.events import DirectedElsewhereError, Director, Hub, Window
from longlive_rag.studio.exports import drift_of, embedders, write_export
from longlive_rag.studio.library import (
    Takes,
    UnknownTakeError,
    history_of,
    memory_of,
    other_frames,
    segments_of,
    stamp_of,
    timeline_of,
)
from longlive_rag.studio.live import BusyError, NotLiveError, Room, Stretch, live_facts
from longlive_rag.studio.pictures import Pictures
from longlive_rag.studio.schema import COMMANDS, FROM_PAGE
from longlive_rag.studio.security import EVENTS, UPLOADS, Guard, Sessions, bearer, error_body, names_only
from longlive_rag.studio.segments import VP9_MIME, Film
from longlive_rag.studio.uploads import Uploads
from longlive_rag.takes.folder import RECORD, VIDEO
from longlive_rag.takes.record import TakeRecord
from longlive_rag.version import __version__

PAGE = Path(__file__).parent / "page"
NO_PAGE = "<!doctype html><title>longlive-rag studio</title><p>The page is not built; see docs/studio.md.</p>"
SCAN_SECONDS = 2.0
GONE = "there is no such take (any more)"
HELLO_SECONDS = 10.0
CLOSE_SECONDS = 5.0
MAX_EVENT_BYTES = 16 * 1024
IMMUTABLE = {"cache-control": "private, max-age=31536000, immutable"}


class RefusedError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Studio:
    """What the routes share.

    Args:
        root: the folder of takes; it is made.
        open_engine: opens what makes takes, given a folder that is its own.
        backbones: names or folders; the first is the default.

    Raises:
        ValueError, OSError: if a backbone isn't there, or the folder can't be made.
    """

    root: Path
    open_engine: Callable[[Path], Engine]
    backbones: Sequence[str] = (DEFAULT_BACKBONE,)
    sessions: Sessions = field(default_factory=Sessions)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.takes = Takes(self.root)
        self.presets = {Path(name).name: load_preset(name) for name in self.backbones}
        self.hub, self.director, self.pictures = Hub(self.said), Director(), Pictures()
        self.uploads = Uploads(self.takes.root)
        self.temporary = Path(tempfile.mkdtemp(prefix="longlive-rag-studio-"))
        try:
            self.room = Room(self.takes, self.hub, self.open_engine(self.temporary / "engine"))
        except BaseException:
            shutil.rmtree(self.temporary, ignore_errors=True)
            raise
        self._drifts: dict[tuple[Any, ...], schema.DriftFacts] = {}
        self._unknown_words: dict[str, Callable[[str], list[str]]] = {}
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """End what is being made; what was finished is kept."""
        self.room.close()
        self.uploads.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    # ---- takes ----

    def facts(self, take: str) -> schema.TakeFacts:
        """A take, live or on disk."""
        live = self._live(take)
        return live_facts(live, self.takes) if live is not None else self.takes.facts(take)

    def listed(self, words: str) -> list[schema.TakeFacts]:
        """The library, newest first; with words, what is most like them first."""
        live = self.room.current
        ids = self.takes.search(words) if words.strip() else list(self.takes.scan())
        here = [take for take in ids if live is None or take != live.id]
        found = {facts.id: facts for facts in self.takes.all_facts(here)}
        if live is not None and (not words.strip() or live.id in ids):
            found[live.id] = live_facts(live, self.takes)
        if words.strip():
            return [found[take] for take in ids if take in found]
        return sorted(found.values(), key=lambda facts: (facts.started, facts.name), reverse=True)

    def detail(self, take: str) -> schema.TakeDetail:
        """All of a take."""
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
            timeline, others = timeline_of(record), other_frames(record, None)
            selections = self.takes.selections(take)
        steering, preset = record.request.memory.steering, self.presets.get(facts.backbone)
        film = self._film(take)
        name, parent = self._shell_name(take), record.branched_from and Path(record.branched_from.take).name
        return schema.TakeDetail(
            **facts.model_dump(),
            mime=film.mime if film is not None else VP9_MIME,
            request=self._request_of(record),
            cues=cues,
            steering=[
                schema.SteeringFacts(
                    seconds=each.seconds, verb=each.verb, start=each.start, end=each.end, policy=each.policy or None
                )
                for each in steering
            ],
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
        """A block at its address; UnknownTakeError if that is void."""

        def found(film: Film) -> bytes:
            if not 0 <= block < len(film.stamps) or film.stamps[block] != stamp:
                raise UnknownTakeError
            return film.segment(block)

        return self._looked_up(take, found)

    def frame(self, take: str, frame: int, width: int | None) -> bytes:
        """A made frame as JPEG; UnknownTakeError if it isn't made."""
        if not 0 <= frame < self._made_frames(take):
            raise UnknownTakeError
        return self._looked_up(take, lambda film: self.pictures.jpeg(film, frame, width))

    def _looked_up(self, take: str, look: Callable[[Film], bytes]) -> bytes:
        """What is found in a take's segments, also where its video becomes another file meanwhile."""
        try:
            return look(self.film(take))
        except OSError:
            return look(self.film(take))

    def like(self, take: str, frame: int) -> schema.FrameHits:
        """Moments of all takes that look most like a made frame; UnknownTakeError if it isn't made."""
        live, frames = self._live(take), self._made_frames(take)
        if not 0 <= frame < frames:
            raise UnknownTakeError
        record = live.record if live is not None else self.takes.record(take)
        folder = live.folder if live is not None else self.takes.folder(take)
        return schema.FrameHits(hits=self.takes.like(folder, record, frame, frames))

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

    def _shell_name(self, take: str) -> str:
        live = self._live(take)
        folder = live.folder if live is not None else self.takes.folder(take)
        return (Path(self.root.name) / folder.relative_to(self.takes.root)).as_posix()

    def _request_of(self, record: TakeRecord) -> dict[str, Any]:
        request: dict[str, Any] = record.model_dump(mode="json")["request"]
        remember = request["memory"].get("remember") or ()
        request["memory"]["remember"] = [Path(spec).name for spec in remember]
        if request["start_image"] is not None:
            request["start_image"] = Path(request["start_image"]).name
        return request

    # ---- what is asked for ----

    def preset(self, name: str | None) -> Preset:
        """An installed backbone; FieldError if there is none of that name."""
        found = self.presets.get(next(iter(self.presets)) if name is None else name)
        if found is None:
            raise FieldError("backbone", name, f"it must be one of {', '.join(self.presets)}")
        return found

    def begin(self, message: schema.NewTakeMessage) -> str:
        """A new take."""
        preset = self.preset(message.backbone)
        picture = None
        if message.start_image is not None:
            picture = self.uploads.path(message.start_image)
            if picture is None:
                raise FieldError("start_image", message.start_image, "upload it first")
        order = orders.new_order(message, preset, self.takes, picture)
        return self._begin(lambda: order)

    def command(self, take: str, message: Any) -> schema.Message:
        """Do what is said of a take."""
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
            case schema.Pace():
                self.room.live(take)
                self.room.set_pace(message.blocks_ahead)
                return schema.Done()
            case schema.Plain(do="stop"):
                self.room.stop(take)
                return schema.Done()
            case schema.Plain(do="take_over"):
                return schema.Done()
        return schema.TakeId(id=self._another(take, message))

    def _another(self, take: str, message: Any) -> str:
        """Commands after which another stretch is made; returns the id of the take that goes on."""
        live = self._live(take)
        if isinstance(message, schema.Plain) and message.do == "resume" and live is not None:
            self.room.go_on(take)
            return take
        folder = live.folder if live is not None else self.takes.folder(take)
        going_on = orders.GoingOn(folder, self.takes.free_folder(folder.name), self._backbone_of(take, live))
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
        record = live.record if live is not None else self.takes.record(take)
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
        """The backbone of a take, under the name that it was installed by."""
        return self.preset(Path(record.run.backbone).name)

    def _backbone_of(self, take: str, live: Stretch | None) -> str | None:
        record = live.record if live is not None else self.takes.record(take)
        preset = self.presets.get(Path(record.run.backbone).name)
        return None if preset is None else preset.name

    def _direct(self, stretch: Stretch, message: schema.Direct) -> schema.Message:
        second = self.room.direct(stretch, message.prompt, message.at, message.cut)
        self._look_at_words(stretch, message.prompt)
        answer = schema.Directed(takes_over_at=second, planned_id=stretch.planned_id(second))
        self.room.go_on(stretch.id)
        return self._cues_changed(stretch, answer)

    def _edit(self, stretch: Stretch, message: schema.EditCue) -> schema.Message:
        before = stretch.second_of(message.planned_id)
        cut = stretch.is_cut(before) if message.cut is None else message.cut
        second = self.room.direct(stretch, message.prompt, before if message.at is None else message.at, cut)
        if second != before:
            self.room.withdraw(stretch, before)
        self._look_at_words(stretch, message.prompt)
        answer = schema.Directed(takes_over_at=second, planned_id=stretch.planned_id(second))
        return self._cues_changed(stretch, answer)

    def _steer(self, take: str, order: Steering) -> schema.Message:
        second = self.room.steer(self.room.live(take), order)
        return schema.Directed(takes_over_at=second, planned_id=None)

    def _cues_changed(self, stretch: Stretch, answer: schema.Message) -> schema.Message:
        self.hub.say(schema.CuesEvent(take=stretch.id, cues=stretch.cues()))
        self.room.say_facts(stretch)
        return answer

    def _look_at_words(self, stretch: Stretch, prompt: str) -> None:
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

    def said(self, message: str) -> str:
        """A message in one line, without paths of this machine."""
        return " ".join(self.without_paths(message).split())

    def without_paths(self, text: str) -> str:
        """A text in which only the last name of each path of this machine is left."""
        places = [(self.temporary, "upload"), (self.uploads.folder, "upload")]
        places += [(root, self.root.name) for root in (self.takes.root, self.root.absolute())]
        places += [(preset.folder.absolute(), name) for name, preset in self.presets.items()]
        for folder, name in places:
            text = text.replace(f"{folder}/", "").replace(str(folder), name)
        return names_only(text)


# ---- the app ----


def build_app(studio: Studio, port: int, hosts: tuple[str, ...], scheme: str = "http") -> Guard:
    """The server's application, behind its guard.

    Args:
        port: that it is served at.
        hosts, scheme: what browsers may call it, and what it speaks; see `Guard`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        studio.hub.start()
        watching = asyncio.create_task(_watch(studio))
        try:
            yield
        finally:
            watching.cancel()
            await run_in_threadpool(studio.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, title="longlive-rag studio")
    _add_errors(app, studio)
    _add_reading(app, studio)
    _add_doing(app, studio)
    app.router.routes.append(WebSocketRoute(EVENTS, partial(_events, studio)))
    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True, follow_symlink=False))
    else:
        app.add_api_route("/", lambda: HTMLResponse(NO_PAGE), response_class=HTMLResponse)
    return Guard(app, studio.sessions, port, hosts, scheme)


def _add_reading(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/studio")
    def facts() -> schema.StudioFacts:
        live = studio.room.current
        return schema.StudioFacts(
            version=__version__,
            takes_folder=studio.takes.root.name,
            backbones=[_backbone(name, preset, studio) for name, preset in studio.presets.items()],
            policies=sorted(plugins("policy")),
            embedders=list(embedders()),
            live=live.id if live else None,
        )

    @app.get("/api/takes")
    def takes(search: str = "") -> schema.TakeList:
        return schema.TakeList(takes=studio.listed(search[:1000]))

    @app.get("/api/takes/{take}")
    def detail(take: str) -> schema.TakeDetail:
        return studio.detail(take)

    @app.get("/api/takes/{take}/segments/{block}-{stamp}.mp4")
    def segment(take: str, block: int, stamp: str) -> Response:
        return Response(studio.segment(take, block, stamp), media_type="video/mp4", headers=IMMUTABLE)

    @app.get("/api/takes/{take}/frame/{number}.jpg")
    def frame(take: str, number: int, width: int | None = None) -> Response:
        if width is not None and not 1 <= width <= 4096:
            raise FieldError("width", width, "it must be from 1 to 4096")
        return Response(studio.frame(take, number, width), media_type="image/jpeg")

    @app.get("/api/takes/{take}/like")
    def like(take: str, frame: int) -> schema.FrameHits:
        return studio.like(take, frame)

    @app.get("/api/takes/{take}/drift")
    def drift(take: str, embedder: str | None = None) -> schema.DriftFacts:
        return studio.drift(take, embedder)


def _backbone(name: str, preset: Preset, studio: Studio) -> schema.BackboneFacts:
    output, block = preset.output, preset.context.frames_per_block * preset.temporal_factor
    return schema.BackboneFacts(
        name=name,
        default=name == next(iter(studio.presets)),
        width=output.width * output.upscale,
        height=output.height * output.upscale,
        fps=output.fps,
        seconds_a_block=block / output.fps,
        settings=orders.knob_facts(preset),
    )


def _add_doing(app: FastAPI, studio: Studio) -> None:
    def claim(request: Request, by_force: bool = False) -> None:
        studio.director.claim(bearer(request.headers.getlist("authorization")) or "", by_force)

    @app.post("/api/session")
    def session(message: schema.TokenMessage) -> schema.Secret:
        secret = studio.sessions.begin(message.token)
        if secret is None:
            raise RefusedError(401, "this is not the token of the address that the studio printed")
        return schema.Secret(secret=secret)

    @app.post(UPLOADS)
    async def upload(request: Request) -> schema.UploadFacts:
        data = await request.body()
        return await run_in_threadpool(studio.uploads.add, data)

    @app.post("/api/takes")
    def begin(message: schema.NewTakeMessage, request: Request) -> schema.TakeId:
        claim(request)
        return schema.TakeId(id=studio.begin(message))

    @app.post("/api/takes/{take}/commands")
    async def command(take: str, request: Request) -> Response:
        message = COMMANDS.validate_json(await request.body())
        claim(request, isinstance(message, schema.Plain) and message.do == "take_over")
        answer = await run_in_threadpool(studio.command, take, message)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/api/backbones/{name}/words")
    def words(name: str, message: schema.PromptMessage) -> schema.UnknownWords:
        return schema.UnknownWords(unknown_words=studio.words(name, message.prompt))

    @app.post("/api/takes/{take}/export")
    def export(take: str, message: schema.ExportMessage) -> Response:
        target = Path(tempfile.mkdtemp(dir=studio.temporary))
        try:
            file = studio.export(take, message, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        done = BackgroundTask(shutil.rmtree, target, ignore_errors=True)
        return FileResponse(file, filename=file.name, background=done)


def _add_errors(app: FastAPI, studio: Studio) -> None:
    def answer(status: int, message: str, fields: Sequence[Mapping[str, Any]] = ()) -> Response:
        return Response(
            error_body(studio.said(message), [dict(each) for each in fields]), status, None, "application/json"
        )

    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return answer(error.status, error.message)

    def bad_value(_: Request, error: Exception) -> Response:
        fields = []
        if isinstance(error, FieldError):
            value = error.value if isinstance(error.value, str | int | float | bool) else None
            value = studio.without_paths(value) if isinstance(value, str) else value
            said = studio.said(str(error))
            wanted = studio.said(error.wanted)
            fields = [{"field": name, "value": value, "wanted": wanted, "message": said} for name in error.fields]
        return answer(422, str(error), fields)

    def bad_message(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError | ValidationError)
        fields: list[dict[str, Any]] = []
        skipped = 1 if isinstance(error, ValidationError) else 0  # which kind of command it is
        for each in error.errors():
            parts = each["loc"][skipped:] if len(each["loc"]) > 1 else each["loc"]
            place = [str(part) for part in parts if part not in ("body", "query", "path")]
            name = ".".join(place) or "it"
            wanted = each["msg"].replace("Input should be", "it should be")
            fields.append({"field": name, "value": None, "wanted": wanted, "message": f"{name}: {wanted}"})
        return answer(422, fields[0]["message"] if fields else "this is not understood", fields)

    constant: dict[type[Exception], tuple[int, str]] = {
        UnknownTakeError: (404, GONE),
        FileNotFoundError: (404, GONE),  # it was deleted meanwhile
        NotLiveError: (409, "this take is not being made now"),
        UnknownSessionError: (409, "this take is not being made any more"),
        DirectedElsewhereError: (
            409,
            "the studio is directed from another window; take over, or wait until it is closed",
        ),
    }
    for kind, (status, message) in constant.items():
        app.add_exception_handler(kind, _saying(answer, status, message))
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, bad_message)
    app.add_exception_handler(ValidationError, bad_message)
    app.add_exception_handler(LicenseError, lambda _, error: answer(422, str(error)))
    app.add_exception_handler(ValueError, bad_value)
    app.add_exception_handler(OSError, lambda _, error: answer(500, reason_of(error)))
    app.add_exception_handler(HTTPException, lambda _, error: answer(error.status_code, str(error.detail)))  # type: ignore[attr-defined]
    app.add_exception_handler(Exception, lambda _, error: answer(500, "the studio failed here; its terminal says why"))


def _saying(answer: Callable[..., Response], status: int, message: str) -> Callable[[Request, Exception], Response]:
    return lambda _, error: answer(status, message)


# ---- events ----


async def _events(studio: Studio, socket: WebSocket) -> None:
    """A window: its first message has its session's secret, then it is told what happens."""
    await socket.accept()
    secret = await _secret_of(socket)
    window = studio.hub.join(secret) if secret is not None and studio.sessions.knows(secret) else None
    if window is None or secret is None:
        await socket.close(1008)
        return
    studio.director.joined(secret)
    _keep_pace(studio)
    live = studio.room.current
    window.events.put_nowait(schema.Hello(live=live.id if live else None).model_dump_json())
    work = [_send(socket, window.events), _listen(studio, window, socket), window.let_go.wait()]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        studio.hub.leave(window)
        studio.director.left(secret)
        _keep_pace(studio)
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        await asyncio.wait_for(socket.close(1013), CLOSE_SECONDS)


def _keep_pace(studio: Studio) -> None:
    """Another one looks at what is made, or one less; nobody waits for what comes of it."""
    asyncio.get_running_loop().run_in_executor(None, studio.room.keep_pace)


async def _secret_of(socket: WebSocket) -> str | None:
    with suppress(asyncio.TimeoutError, WebSocketDisconnect, ValueError, KeyError):
        text = await asyncio.wait_for(socket.receive_text(), HELLO_SECONDS)
        return schema.Secret.model_validate_json(text[:MAX_EVENT_BYTES]).secret
    return None


async def _send(socket: WebSocket, events: asyncio.Queue[str]) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.send_text(await events.get())


async def _listen(studio: Studio, window: Window, socket: WebSocket) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, KeyError):
        while True:
            text = await socket.receive_text()
            if len(text) <= MAX_EVENT_BYTES:
                await _hear(studio, window, text)


async def _hear(studio: Studio, window: Window, text: str) -> None:
    try:
        message = FROM_PAGE.validate_json(text)
    except ValidationError:
        return
    if window.watches != message.take:
        window.watches = message.take
        _keep_pace(studio)
    if isinstance(message, schema.Playhead):
        if not studio.director.is_other(window.secret):
            await run_in_threadpool(studio.room.playhead, message.take, message.seconds)
    elif message.type == "direct_lock":
        with suppress(DirectedElsewhereError):
            studio.director.claim(window.secret)


async def _watch(studio: Studio) -> None:
    """Says what changes in the folder of takes, whoever changes it."""
    seen, gone = await run_in_threadpool(studio.takes.scan), set[str]()
    while True:
        await asyncio.sleep(SCAN_SECONDS)
        now = await run_in_threadpool(studio.takes.scan)
        live = studio.room.current
        for take in now:
            if seen.get(take) != now[take] and (live is None or live.id != take):
                for facts in await run_in_threadpool(studio.takes.all_facts, [take]):
                    studio.hub.say(schema.TakeEvent(take=facts))
        gone -= now.keys()
        for take in studio.takes.ids - now.keys() - gone - ({live.id} if live is not None else set()):
            studio.hub.say(schema.GoneEvent(take=take))
            gone.add(take)
        seen = now
